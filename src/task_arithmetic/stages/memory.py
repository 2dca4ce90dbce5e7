"""Memory and time of what a stage measures of itself."""

import torch


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


def _status(field: str) -> int:
    """A field of /proc/self/status, in bytes."""
    with open("/proc/self/status", encoding="utf-8") as file:
        for line in file:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")
