"""Memory and time of what a stage measures of itself."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

EVERY = 0.002  # seconds between two looks at the memory


def wait(device: torch.device) -> None:
    """Until all that was asked of a device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def start_memory(device: torch.device) -> int:
    """Reset the peak; bytes in use now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    with open("/proc/self/clear_refs", "w", encoding="utf-8") as file:
        file.write("5")  # Linux: resets VmHWM, the peak resident size
    return _status("RssAnon")


def peak_memory(device: torch.device) -> int:
    """The most bytes in use since; on a CPU without libraries and images, mapped from files."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _status("VmHWM") - _status("RssFile")


@contextmanager
def measured(device: torch.device) -> Iterator[dict[str, float]]:
    """Measure a block: `seconds`, and `bytes`, the most in use above those before it; on a CPU what
    is mapped from files does not count, and memory is looked at every 2 ms."""
    found: dict[str, float] = {}
    ended, most = threading.Event(), [0]

    def watch() -> None:
        while not ended.wait(EVERY):
            most[0] = max(most[0], _status("RssAnon"))

    watching = threading.Thread(target=watch, daemon=True)
    before, began = start_memory(device), time.perf_counter()
    if device.type != "cuda":
        watching.start()
    try:
        yield found
        wait(device)
        found["seconds"] = time.perf_counter() - began
    finally:
        ended.set()
    if device.type == "cuda":
        found["bytes"] = torch.cuda.max_memory_allocated(device) - before
    else:
        watching.join()
        found["bytes"] = max(0, most[0] - before)


def _status(field: str) -> int:
    """A field of /proc/self/status, in bytes."""
    with open("/proc/self/status", encoding="utf-8") as file:
        for line in file:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")
