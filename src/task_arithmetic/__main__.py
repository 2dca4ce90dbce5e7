"""`python -m task_arithmetic` is the command `task-arithmetic`."""

import ctypes
import gc
import os
import sys

from .cli import main
from .stages.catalogue import STAGES

MEASURED = ("efficiency", "merge")  # stages that say how much memory they use
# glibc's numbers of the options M_TRIM_THRESHOLD and M_MMAP_THRESHOLD, and their largest values.
KEEP_FREED = {-1: 2**31 - 1, -3: 2**25}

word = sys.argv[2] if sys.argv[1:2] == ["stage"] and len(sys.argv) > 2 else ""
if word in STAGES and STAGES[word].on_device:
    # Training and evaluation make no reference cycles: looking for some while torch is imported is
    # a tenth of a short job.
    gc.disable()
    # Memory that is given back after each layer comes again page by page, each filled with zeros: a
    # fifth of an evaluation on the CPU.
    if word not in MEASURED and hasattr(library := ctypes.CDLL(None), "mallopt"):
        for option, value in KEEP_FREED.items():
            library.mallopt(option, value)
status = main()
sys.stdout.flush()
sys.stderr.flush()
os._exit(status)  # all is written; to take torch down is another tenth of a short job
