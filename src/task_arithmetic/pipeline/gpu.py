"""The device of one command: a GPU for itself, or the CPU; and the precision on it.

Each process that learns or evaluates takes a lock on one GPU before torch is imported, and sees
that GPU only. The kernel frees the lock when the process ends, however it ends. Importing this
module does not import torch.
"""

import glob
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

from ..core.precision import out_of_memory
from ..errors import UserError
from .locks import try_lock

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

_lease: dict = {}  # this process's claim: device, gpu, fd


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
    if "fd" in _lease:
        return _lease["gpu"]
    _lease["device"] = device
    gpus = choices(device)
    if not gpus:
        if device == "cuda":
            raise UserError(
                f"The configuration asks for `device: cuda`, but {_why_none()}: run it where there "
                "is a GPU, or set `device: auto`."
            )
        if device == "auto":
            _say(f"{_why_none()}: this command runs on the CPU.")
        os.environ[VISIBLE] = ""
        return None
    gpu, _lease["fd"] = _take_one(gpus)
    _lease["gpu"] = os.environ[VISIBLE] = gpu
    return gpu


def choices(device: str = "auto") -> list[str]:
    """The GPUs that `claim` would choose from; none where it would take the CPU."""
    gpus = [] if device == "cpu" else [_identity(entry) for entry in pool()]
    return [] if gpus and _nvidia_smi() is None and not _has_driver() else gpus


def pool() -> list[str]:
    """The GPUs that this process may choose from.

    Those of CUDA_VISIBLE_DEVICES, if it is set, as they are written there: indices, UUIDs or their
    beginnings, MIG devices. As for CUDA, an entry that names nothing ends the list, and an index is
    nvidia-smi's. Otherwise all that the driver shows: UUIDs or, without nvidia-smi, indices.
    """
    listed = _nvidia_smi()
    given = os.environ.get(VISIBLE)
    if given is None:
        if listed is not None:
            return [part for names in listed.values() for part in names[1:] or names]
        return [str(index) for index in range(_count())]
    entries = []
    for entry in map(str.strip, given.split(",")):
        if not re.fullmatch(r"[0-9]+|(GPU|MIG)-[^\s,]+", entry):
            break
        if listed is not None and not entry.startswith("MIG-") and not _found(entry, listed):
            break
        entries.append(entry)
    return list(dict.fromkeys(entries))


def _identity(entry: str) -> str:
    """An entry of the pool as the UUID of its GPU if nvidia-smi tells it, so that an index and a
    UUID of one GPU meet; otherwise the entry itself."""
    return _found(entry, _nvidia_smi() or {}) or entry


def _lock_name(gpu: str) -> str:
    """The name of a GPU's lock file. A bare index belongs to its SLURM job, since two jobs on one
    node may each see their own GPU as the first."""
    job = os.environ.get("SLURM_JOB_ID")
    key = f"{job}-{gpu}" if job and gpu.isdecimal() else gpu
    return re.sub(r"[^\w.-]", "_", key) + ".lock"


def _found(entry: str, listed: dict[int, list[str]]) -> str | None:
    """The UUID that `entry` stands for among nvidia-smi's GPUs; of one that is split into MIG
    devices, the first of them, as for CUDA."""
    if entry.startswith("MIG-"):
        found = [part for names in listed.values() for part in names[1:] if part.startswith(entry)]
    elif entry.isdecimal():
        found = listed.get(int(entry), [])[:2][-1:]
    else:
        found = [names[:2][-1] for names in listed.values() if names[0].startswith(entry)]
    return found[0] if len(found) == 1 else None


@cache
def _nvidia_smi() -> dict[int, list[str]] | None:
    """Index of each GPU → its UUID, followed by those of the MIG devices that it is split into.
    None if nvidia-smi is missing or says nothing of use."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "-L"], stdin=subprocess.DEVNULL, capture_output=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    text = (done.stdout + done.stderr).decode(errors="replace")
    listed: dict[int, list[str]] = {}
    for line in text.splitlines():
        if match := re.match(r"GPU ([0-9]+): .*\(UUID: (GPU-[^)\s]+)\)", line):
            listed[int(match[1])] = [match[2]]
        elif (match := re.match(r"\s+MIG .*\(UUID: (MIG-[^)\s]+)\)", line)) and listed:
            listed[max(listed)].append(match[1])
    return listed if listed or "No devices" in text else None


def _has_driver() -> bool:
    """config.has_gpu, imported late: it takes longer than all the rest here."""
    pass

    return has_gpu()


def _count() -> int:
    """GPUs that the driver shows without nvidia-smi."""
    patterns = "/dev/nvidia[0-9]*", "/proc/driver/nvidia/gpus/*"
    counts = [len(glob.glob(pattern)) for pattern in patterns]
    return (counts[0] or counts[1] or 1) if _has_driver() else 0


def _why_none() -> str:
    """Why there is no GPU to choose."""
    given = os.environ.get(VISIBLE)
    if given is not None and not given.strip():
        return f"{VISIBLE} is empty"
    if given is not None and not pool():
        return f"{VISIBLE} is {given!r}, which names no GPU of this machine"
    if _nvidia_smi() is None:
        return "there is no NVIDIA driver here"
    return "nvidia-smi finds no GPU"


def _take_one(gpus: list[str]) -> tuple[str, int]:
    """Lock the first free GPU, waiting for one if need be; returns it and its lock's descriptor."""
    folder = _lock_folder()
    waiting = False
    while True:
        for gpu in gpus:
            try:
                fd = try_lock(folder / _lock_name(gpu))
            except OSError as error:
                raise UserError(_no_locks(error)) from None
            if fd is not None:
                return gpu, fd
        if not waiting:
            waiting = True
            _say(
                f"waiting for a free GPU: other commands hold {', '.join(gpus)} (locks in "
                f"{folder})."
            )
        time.sleep(random.Random().uniform(*POLL))


def _lock_folder() -> Path:
    """The folder of this user's lock files, made if need be."""
    try:
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
    except OSError as error:
        raise UserError(_no_locks(error)) from None
    return folder


def _no_locks(error: OSError) -> str:
    return (
        f"The locks of the GPUs cannot be kept ({error}): set TMPDIR to a folder of this machine "
        "that you can write to."
    )


def _forget() -> None:
    """Close this process's copy of the lock, which frees it if there is no other."""
    if "fd" in _lease:
        os.close(_lease.pop("fd"))
        _lease.pop("gpu")


# A program that is started gets no copy of the descriptor (PEP 446); a forked worker does, and
# would hold the GPU when this process is gone.
os.register_at_fork(after_in_child=_forget)


def in_use() -> dict:
    """The device of this process so far: its name, the GPU that it holds, and the most memory that
    it has taken there, in bytes; all from what torch has started already."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if not getattr(cuda, "is_initialized", bool)():
        return {"gpu_memory_bytes": 0}
    return {
        "device": cuda.get_device_name(),
        "gpu": _lease.get("gpu"),
        "gpu_memory_bytes": cuda.max_memory_reserved(),
    }


def _say(sentence: str) -> None:
    print(f"task-arithmetic: {sentence}", file=sys.stderr, flush=True)


# --- What torch does on it -----------------------------------------------------------------------


@cache
def torch_device():
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
            raise UserError(
                f"The GPU {_lease.get('gpu', '')} cannot be used ({_first_sentence(error)}): look "
                "at it with nvidia-smi and run again, or set `device: cpu`."
            ) from error
        return torch.device("cuda")
    if "fd" in _lease:
        built = torch.version.cuda
        why = (
            f"torch {torch.__version__} cannot use the GPU {_lease['gpu']} "
            f"({f'built for CUDA {built}: is the driver too old?' if built else 'built for CPUs'})"
        )
        if _lease["device"] == "cuda":
            raise UserError(
                f"The configuration asks for `device: cuda`, but {why}: install a torch that fits "
                "the driver, or set `device: auto`."
            )
        _say(f"{why}: this command runs on the CPU.")
        _forget()
    return torch.device("cpu")


def _first_sentence(error: BaseException) -> str:
    return re.split(r"\n|\. ", str(error))[0] or type(error).__name__


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


def has_gpu() -> bool:
    """Whether this machine shows an NVIDIA GPU to its jobs: asks the driver, not torch."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return not hidden and any(
        glob.glob(pattern) for pattern in ("/proc/driver/nvidia/gpus/*", "/dev/nvidia[0-9]*")
    )
