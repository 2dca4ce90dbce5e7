"""`python -m task_arithmetic` is the command `task-arithmetic`."""

import gc
import os
import sys
from importlib import import_module

from .pipeline import warm


def run(words: list[str]) -> int:
    """Run a command, a stage's where it can in a process that is warm; returns the exit status."""
    if words[:1] == [warm.WARM]:
        return serve(words[1])
    if words[:1] == ["stage"] and (status := warm.ask(words)) is not None:
        return status
    from .cli import main

    collect(words)
    status = main()
    if "triton" not in sys.modules:  # it would call what is not collected leaked, in thirty lines
        gc.freeze()
    return status


def collect(words: list[str]) -> None:
    """Look for cycles, or not: training and evaluation make none, and looking for some while torch
    is imported and when the process ends is a fifth of a short job."""
    from .stages.catalogue import STAGES

    named = [STAGES[word] for word in words[1:2] if words[0] == "stage" and word in STAGES]
    (gc.disable if any(stage.on_device for stage in named) else gc.enable)()


def serve(address: str) -> int:
    """Import what stages need, and become those that are asked for."""
    from .cli import main
    from .stages.catalogue import STAGES

    gc.disable()
    for stage in STAGES.values():
        for code in stage.code.values() if isinstance(stage.code, dict) else [stage.code]:
            if not code.startswith("report."):  # pandas has a thread, which no fork would have
                import_module(f"task_arithmetic.{code.rpartition('.')[0]}")
    for room in ("vision", "language"):
        import_module(f"task_arithmetic.{room}.modality")
    gc.freeze()
    import torch

    def job(words: list[str]) -> int:
        collect(words)
        sys.argv = ["task-arithmetic", *words]
        # As where torch starts with this environment.
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
        return main(words)

    warm.serve(address, job)
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
