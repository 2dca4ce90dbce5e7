"""`python -m task_arithmetic` is the command `task-arithmetic`."""

import gc
import sys

from .cli import main
from .stages.declared import ON_DEVICE

# Training and evaluation make no reference cycles: looking for some while torch is imported and
# when the process ends is a fifth of a short job.
if ON_DEVICE & set(sys.argv[1:2]):
    gc.disable()
status = main()
if "triton" not in sys.modules:  # it would call what is not collected leaked, in thirty lines
    gc.freeze()
sys.exit(status)
