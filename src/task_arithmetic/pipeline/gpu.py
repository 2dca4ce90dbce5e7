"""The device of one command: a GPU for itself, or the CPU.

Each process that learns or evaluates takes a lock on one GPU before torch is imported, and sees
that GPU only. The kernel frees the lock when the process ends, however it ends. Importing this
module does not import torch.
"""

import os
import random
import re
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..core.precision import out_of_memory
from ..errors import UserError
from .locks import say, try_lock

if TYPE_CHECKING:
    import torch

VISIBLE = "CUDA_VISIBLE_DEVICES"
POLL = (0.2, 0.6)  # seconds between two looks for a free GPU, drawn at random from this range
LOST = re.compile(
    "CUDA error|CUDA driver error|CUDA unknown error|cudaError|CUDA-capable device|"
    "No CUDA GPUs are available|Found no NVIDIA driver|uncorrectable ECC|device-side|"
    "GPU is lost|illegal memory access|unspecified launch failure|CUDNN_STATUS_|CUBLAS_STATUS_"
)
NOT_LOST = re.compile(  # the program asks for something that cannot be
    "no kernel image|invalid argument|invalid configuration|NOT_SUPPORTED|INVALID_VALUE|BAD_PARAM"
)


@dataclass
class Lease:
    """This process's claim: the configuration's `device`, its GPU and the lock's descriptor."""

    device: str = "auto"
    gpu: str | None = None
    fd: int | None = None


class Listed(NamedTuple):
    """A GPU of nvidia-smi; parts: the MIG devices that it is split into, or itself."""

    number: str
    uuid: str
    parts: list[str]


_lease = Lease()


# --- One GPU for this process --------------------------------------------------------------------


def claim(device: str = "auto") -> str | None:
    """Take one GPU for the rest of this process's life, waiting until one is free.

    Sets CUDA_VISIBLE_DEVICES to that GPU, or to nothing where the process is to use the CPU, and so
    has to come before torch starts CUDA. A second call returns the first one's GPU.

    Args:
        device: the configuration's `device`: auto, cpu or cuda.
    Returns:
        the GPU as in CUDA_VISIBLE_DEVICES: its UUID if nvidia-smi tells it; None for the CPU.
    Raises:
        UserError: `device` is cuda and there is no GPU, or the locks cannot be kept.
    """
    if _lease.gpu:
        return _lease.gpu
    _lease.device = device
    if gpus := choices(device):
        try:
            _lease.gpu, _lease.fd = _take_one(gpus)
        except OSError as error:
            raise UserError(
                f"The locks of the GPUs cannot be kept ({error}): set TMPDIR to a folder of this "
                "machine that you can write to."
            ) from None
    elif device == "cuda":
        raise UserError(
            f"The configuration asks for `device: cuda`, but {_why_none()}: run it where there is "
            "a GPU, or set `device: auto`."
        )
    elif device == "auto":
        say(f"{_why_none()}: this command runs on the CPU.")
    os.environ[VISIBLE] = _lease.gpu or ""
    return _lease.gpu


def choices(device: str = "auto") -> list[str]:
    """The GPUs that `claim` would choose from; none where it would take the CPU.

    Those of CUDA_VISIBLE_DEVICES, if it is set: indices, UUIDs or their beginnings, MIG devices. As
    for CUDA, an entry that names nothing ends the list, and an index is nvidia-smi's. Otherwise all
    that the driver shows. Each is told as its UUID if nvidia-smi knows it, so that an index and a
    UUID of one GPU meet; else as it is written, or as an index.
    """
    listed, given = _nvidia_smi(), os.environ.get(VISIBLE)
    if device == "cpu" or (listed is None and not _devices()):
        return []
    if given is None and listed is not None:
        return [part for gpu in listed for part in gpu.parts]
    if given is None:
        return [str(index) for index in range(len(_devices()))]
    entries = []
    for entry in map(str.strip, given.split(",")):
        found = _found(entry, listed or [])
        unknown = listed is not None and not found and not entry.startswith("MIG-")
        if unknown or not re.fullmatch(r"[0-9]+|(GPU|MIG)-[^\s,]+", entry):
            break
        entries.append(found or entry)
    return list(dict.fromkeys(entries))


def has_gpu() -> bool:
    """Whether this machine shows an NVIDIA GPU to its jobs: asks the driver, not torch."""
    return os.environ.get(VISIBLE) not in ("", "-1") and bool(_devices())


def _devices() -> list[str]:
    """What the driver shows of each GPU."""
    return glob("/dev/nvidia[0-9]*") or glob("/proc/driver/nvidia/gpus/*")


def _found(entry: str, listed: list[Listed]) -> str | None:
    """The UUID that `entry` stands for among nvidia-smi's GPUs; of one that is split into MIG
    devices, the first of them, as for CUDA."""
    if entry.startswith("MIG-"):
        found = [part for gpu in listed for part in gpu.parts if part.startswith(entry)]
    elif entry.isdecimal():
        found = [gpu.parts[0] for gpu in listed if gpu.number == str(int(entry))]
    else:
        found = [gpu.parts[0] for gpu in listed if gpu.uuid.startswith(entry)]
    return found[0] if len(found) == 1 else None


@cache
def _nvidia_smi() -> list[Listed] | None:
    """The GPUs that nvidia-smi lists; None if it is missing or says nothing of use."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "-L"], stdin=subprocess.DEVNULL, capture_output=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    text = (done.stdout + done.stderr).decode(errors="replace")
    listed = []
    for gpu in re.split(r"^(?=GPU [0-9]+: )", text, flags=re.M):
        if match := re.match(r"GPU ([0-9]+): .*\(UUID: (GPU-[^)\s]+)\)", gpu):
            parts = re.findall(r"^\s+MIG .*\(UUID: (MIG-[^)\s]+)\)", gpu, re.M)
            listed.append(Listed(match[1], match[2], parts or [match[2]]))
    return listed if listed or "No devices" in text else None


def _why_none() -> str:
    """Why there is no GPU to choose."""
    given = os.environ.get(VISIBLE)
    if _nvidia_smi() is None and not _devices():
        return "there is no NVIDIA driver here"
    if given is None:
        return "nvidia-smi finds no GPU"
    named = f"{given!r}, which names no GPU of this machine" if given.strip() else "empty"
    return f"{VISIBLE} is {named}"


def _take_one(gpus: list[str]) -> tuple[str, int]:
    """Lock the first free GPU, waiting for one if need be; returns it and its lock's descriptor.
    Raises OSError: there can be no locks."""
    folder, waiting, job = _lock_folder(), False, os.environ.get("SLURM_JOB_ID")
    while True:
        for gpu in gpus:
            # Two jobs of SLURM on one node may each see their own GPU as the first.
            key = f"{job}-{gpu}" if job and gpu.isdecimal() else gpu
            fd = try_lock(folder / (re.sub(r"[^\w.-]", "_", key) + ".lock"))
            if fd is not None:
                return gpu, fd
        if not waiting:
            waiting, held = True, ", ".join(gpus)
            say(f"waiting for a free GPU: other commands hold {held} (locks in {folder}).")
        time.sleep(random.Random().uniform(*POLL))


def _lock_folder() -> Path:
    """The folder of this user's lock files, made if need be."""
    default = Path(tempfile.gettempdir()) / f"task_arithmetic-{os.getuid()}"
    folder = Path(os.environ.get("TASK_ARITHMETIC_LOCKS") or default)
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    # Anyone can make a folder of this name in /tmp.
    if folder.is_symlink() or not folder.is_dir() or folder.stat().st_uid != os.getuid():
        raise UserError(
            f"{folder} must be a folder of your own, because it keeps the locks of the GPUs: "
            "remove it, or set TMPDIR to another folder of this machine."
        )
    folder.chmod(0o700)
    return folder


def _forget() -> None:
    """Close this process's copy of the lock, which frees it if there is no other."""
    if _lease.fd is not None:
        os.close(_lease.fd)
        _lease.gpu = _lease.fd = None


# A program that is started gets no copy of the descriptor (PEP 446); a forked worker does, and
# would hold the GPU when this process is gone.
os.register_at_fork(after_in_child=_forget)


def in_use() -> tuple[str, str | None, int] | None:
    """The name of this process's GPU, as what it was claimed, and the most memory taken there, in
    bytes; None as long as torch has not started it."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if cuda is None or not getattr(cuda, "is_initialized", bool)():  # within torch's import
        return None
    return cuda.get_device_name(), _lease.gpu, cuda.max_memory_reserved()


# --- What torch does on it -----------------------------------------------------------------------


@cache
def torch_device() -> "torch.device":
    """The torch.device to compute on: the GPU if there is one that works, else the CPU.

    Raises:
        UserError: the claimed GPU fails at its first use, or `device: cuda` was claimed and torch
            finds no GPU.
    """
    import torch

    if torch.cuda.is_available():
        try:
            torch.ones(1, device="cuda").sum().item()
        except RuntimeError as error:
            what = re.split(r"\n|\. ", str(error))[0] or type(error).__name__
            raise UserError(
                f"The GPU {_lease.gpu or ''} cannot be used ({what}): look at it with nvidia-smi "
                "and run again, or set `device: cpu`."
            ) from error
        return torch.device("cuda")
    if _lease.gpu:
        built = torch.version.cuda
        why = (
            f"torch {torch.__version__} cannot use the GPU {_lease.gpu} "
            f"({f'built for CUDA {built}: is the driver too old?' if built else 'built for CPUs'})"
        )
        if _lease.device == "cuda":
            raise UserError(
                f"The configuration asks for `device: cuda`, but {why}: install a torch that fits "
                "the driver, or set `device: auto`."
            )
        say(f"{why}: this command runs on the CPU.")
        _forget()
    return torch.device("cpu")


def lost_gpu(error: BaseException) -> bool:
    """Whether `error`, or what caused it, says that the GPU has disappeared or failed; neither
    running out of its memory nor a call that it does not know is such a failure."""
    seen: BaseException | None = error
    while seen is not None:
        if out_of_memory(seen) or NOT_LOST.search(str(seen)):
            return False
        names = {kind.__name__ for kind in type(seen).__mro__}
        if "AcceleratorError" in names or LOST.search(str(seen)):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
