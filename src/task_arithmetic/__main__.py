"""`python -m task_arithmetic` is the command `task-arithmetic`."""

import ctypes
import gc
import os
import sys

from .pipeline import warm

MEASURED = ("efficiency", "merge", "merge-on-data")  # stages that say how much memory they use
# glibc's numbers of the options M_TRIM_THRESHOLD and M_MMAP_THRESHOLD, and their largest values.
KEEP_FREED = {-1: 2**31 - 1, -3: 2**25}


def run(words: list[str]) -> int:
    """Run a command, a stage's in a process that is warm where there is one; returns the exit
    status."""
    if words[:1] == [warm.WARM] and len(words) == 2:
        import_stages()
        asked = warm.serve(words[1])
        if asked is None:
            return 0
        words = asked
        set_threads()
    elif words[:1] == ["stage"] and (status := warm.ask(words)) is not None:
        return status
    from .cli import main
    from .stages.catalogue import STAGES

    sys.argv[1:] = words
    name = words[1] if words[:1] == ["stage"] and len(words) > 1 else ""
    computes = name in STAGES and STAGES[name].on_device
    # Training and evaluation make no reference cycles: looking for some while torch is imported is
    # a tenth of a short job.
    (gc.disable if computes else gc.enable)()
    # Memory that is given back after each layer comes again page by page, each filled with zeros: a
    # fifth of an evaluation on the CPU.
    if computes and name not in MEASURED and hasattr(library := ctypes.CDLL(None), "mallopt"):
        for option, value in KEEP_FREED.items():
            library.mallopt(option, value)
    status = main(words)
    if computes:  # all is written; to take torch down is another tenth of a short job
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def import_stages() -> None:
    """Import what stages need, but pandas: it has a thread, which a fork would not have."""
    from .stages.catalogue import STAGES
    from .stages.declaration import named

    gc.disable()
    codes = ["cli.main", "vision.modality.read_encoder", "language.modality.read_encoder"]
    for stage in STAGES.values():
        codes += stage.code.values() if isinstance(stage.code, dict) else [stage.code]
    for code in codes:
        if not code.startswith("report."):
            named(code)
    gc.freeze()


def set_threads() -> None:
    """Let torch take the threads that it would take if it started in this environment."""
    import torch

    if (asked := os.environ.get("OMP_NUM_THREADS", "")).isdecimal():
        torch.set_num_threads(int(asked))


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
