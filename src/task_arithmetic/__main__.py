"""`python -m task_arithmetic` is the command `task-arithmetic`."""

import gc
import sys

from .cli import main
from .stages.catalogue import STAGES

# Training and evaluation make no reference cycles: looking for some while torch is imported and
# when the process ends is a fifth of a short job.
if any(STAGES[word].on_device for word in sys.argv[1:2] if word in STAGES):
    gc.disable()
status = main()
if "triton" not in sys.modules:  # it would call what is not collected leaked, in thirty lines
    gc.freeze()
sys.exit(status)
