"""`python -m task_arithmetic` is the command `task-arithmetic`."""

import gc
import sys

from .cli import main
from .stages.catalogue import STAGES

# Training and evaluation make no reference cycles: looking for some while torch is imported and
# when the process ends is a fifth of a short job.
if sys.argv[1:2] == ["stage"] and any(STAGES[x].on_device for x in sys.argv[2:3] if x in STAGES):
    gc.disable()
status = main()
if "triton" not in sys.modules:  # it would call what is not collected leaked, in thirty lines
    gc.freeze()
sys.exit(status)
