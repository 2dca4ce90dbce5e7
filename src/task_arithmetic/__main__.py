"""`python -m task_arithmetic` is the command `task-arithmetic`."""

import sys

from .cli import main

sys.exit(main())
