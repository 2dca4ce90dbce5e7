"""The device of one command: who gets which GPU, and when; the precision on it.

No test needs a GPU: nvidia-smi is a script of the test's own, first in PATH, and the commands that
meet are small child processes without torch.
"""

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack

import pytest
import torch

from task_arithmetic.config import reading
from task_arithmetic.core import precision
from task_arithmetic.errors import UserError
from task_arithmetic.pipeline import gpu

A, B, C = (f"GPU-{letter * 8}-0000-0000-0000-000000000000" for letter in "abc")
MIG = [f"MIG-{digit * 8}-0000-0000-0000-000000000000" for digit in "12"]
THREE = [f"GPU {i}: NVIDIA Test (UUID: {uuid})" for i, uuid in enumerate((A, B, C))]
SPLIT = [
    THREE[0],
    *(f"  MIG 1g.10gb     Device  {i}: (UUID: {uuid})" for i, uuid in enumerate(MIG)),
    THREE[1],
]
BROKEN = ["NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver."]
NONE_FOUND = ["No devices were found"]


@pytest.fixture
def locks(tmp_path):
    """The folder of the locks."""
    return tmp_path / "locks"


@pytest.fixture
def environment(tmp_path, locks):
    """environment(lines, visible) → variables of a machine whose nvidia-smi prints `lines` (None:
    there is no nvidia-smi) and where CUDA_VISIBLE_DEVICES is `visible` (None: it is not set)."""
    made = iter(range(100))

    def make(lines, visible=None, **more):
        folder = tmp_path / f"bin{next(made)}"
        folder.mkdir()
        if lines is not None:
            script = folder / "nvidia-smi"
            script.write_text("#!/bin/sh\n" + "".join(f"echo '{x}'\n" for x in lines))
            script.chmod(0o755)
        variables = {"PATH": str(folder), "TASK_ARITHMETIC_LOCKS": str(locks), **more}
        return variables if visible is None else {**variables, gpu.VISIBLE: visible}

    return make


def reset():
    gpu._forget()
    gpu._lease.device = "auto"
    for cached in (gpu._nvidia_smi, precision._gpu_has_bf16, gpu.torch_device):
        cached.cache_clear()


@pytest.fixture
def machine(environment, monkeypatch):
    """machine(lines, visible, driver) puts this process on such a machine."""

    def enter(lines, visible=None, driver=True):
        monkeypatch.setenv(gpu.VISIBLE, "")  # so that it is restored whatever claim() sets
        monkeypatch.delenv(gpu.VISIBLE)
        monkeypatch.delenv("SLURM_JOB_ID", raising=False)
        for name, value in environment(lines, visible).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(gpu, "glob", lambda pattern: ["/dev/nvidia0"] if driver else [])

    reset()
    yield enter
    reset()


def is_free(path) -> bool:
    """Whether nobody holds the lock."""
    with open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


# --- Choices --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, [A, B, C]),
        ("", []),
        ("2,0", [C, A]),
        (" 1 , 2", [B, C]),
        ("0,2,-1,1", [A, C]),
        ("0,7,1", [A]),
        ("-1", []),
        ("NoDevFiles", []),
        ("1,,2", [B]),
        ("1,1", [B]),
        (f"{C},{A}", [C, A]),
        ("GPU-bbbb,0,1", [B, A]),
        ("0,GPU-dddd,1", [A]),
        ("0,GPU-,1", [A]),
    ],
)
def test_choices_are_what_cuda_would_see(machine, visible, expected):
    machine(THREE, visible)
    assert gpu.choices() == expected


@pytest.mark.parametrize("lines", [None, BROKEN])
@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("3,1", ["3", "1"]),
        ("3,-1,1", ["3"]),
        (f"{A},{MIG[0]}", [A, MIG[0]]),
        ("MIG-GPU-aaaa/1/0", ["MIG-GPU-aaaa/1/0"]),
    ],
)
def test_entries_are_taken_as_they_are_where_nvidia_smi_is_silent(
    machine, lines, visible, expected
):
    machine(lines, visible)
    assert gpu.choices() == expected


@pytest.mark.parametrize(
    ("shown", "driver", "expected"),
    [
        (["/dev/nvidia0", "/dev/nvidia1"], True, ["0", "1"]),
        (["/proc/driver/nvidia/gpus/0000:01:00.0"], True, ["0"]),
        ([], False, []),
    ],
)
def test_without_nvidia_smi_it_counts_what_the_driver_shows(
    machine, monkeypatch, shown, driver, expected
):
    machine(None, driver=driver)
    monkeypatch.setattr(
        gpu,
        "glob",
        lambda pattern: [path for path in shown if path.startswith(pattern.split("[")[0][:-2])],
    )
    assert gpu.choices() == expected


def test_a_gpu_split_by_mig_counts_as_its_parts(machine):
    machine(SPLIT)
    assert gpu.choices() == [*MIG, B]


@pytest.mark.parametrize(
    ("visible", "expected"),
    [("0", MIG[0]), (A, MIG[0]), (MIG[1], MIG[1]), ("MIG-2222", MIG[1]), ("1", B)],
)
def test_an_entry_of_a_split_gpu_is_the_part_that_cuda_would_use(machine, visible, expected):
    machine(SPLIT, visible)
    assert gpu.claim() == expected


def test_a_gpu_that_nvidia_smi_cannot_reach_is_left_out(machine):
    lost = "Unable to determine the device handle for GPU1: 0000:3B:00.0: GPU is lost."
    machine([THREE[0], lost, THREE[2]])
    assert gpu.choices() == [A, C]
    os.environ[gpu.VISIBLE] = "2,1,0"
    assert gpu.choices() == [C]
    assert gpu.claim() == C  # an index is the one that nvidia-smi prints


# --- Claims in one process ------------------------------------------------------------------------


def test_a_claim_leaves_one_gpu_visible_and_keeps_its_lock(machine, locks):
    machine(THREE, "1,2")
    assert gpu.claim() == B == os.environ[gpu.VISIBLE]
    (lock,) = locks.iterdir()
    assert not is_free(lock)
    assert lock.read_text().startswith(f"process {os.getpid()} on ")
    assert locks.stat().st_mode & 0o777 == 0o700


def test_a_second_claim_is_the_first(machine, monkeypatch, locks):
    machine(THREE)
    monkeypatch.setattr(gpu, "POLL", None)  # to wait for itself is an error, not for ever
    assert gpu.claim() == gpu.claim("cuda") == A
    assert len(list(locks.iterdir())) == 1


def test_cpu_hides_every_gpu_and_takes_no_lock(machine, locks, capsys):
    machine(THREE)
    assert gpu.claim("cpu") is None
    assert os.environ[gpu.VISIBLE] == ""
    assert not locks.exists() and capsys.readouterr().err == ""


WITHOUT = pytest.mark.parametrize(
    ("lines", "visible", "driver", "why"),
    [
        (None, None, False, "there is no NVIDIA driver here"),
        (None, "0", False, "there is no NVIDIA driver here"),
        (BROKEN, None, False, "there is no NVIDIA driver here"),
        (NONE_FOUND, None, True, "nvidia-smi finds no GPU"),
        (NONE_FOUND, "0", True, "CUDA_VISIBLE_DEVICES is '0', which names no GPU"),
        (THREE, "", True, "CUDA_VISIBLE_DEVICES is empty"),
        (THREE, "-1", True, "CUDA_VISIBLE_DEVICES is '-1', which names no GPU"),
        (None, "NoDevFiles", True, "CUDA_VISIBLE_DEVICES is 'NoDevFiles', which names no GPU"),
    ],
)


@WITHOUT
def test_auto_without_a_gpu_says_why_in_one_line(machine, capsys, lines, visible, driver, why):
    machine(lines, visible, driver)
    assert gpu.claim("auto") is None
    said = capsys.readouterr().err
    assert why in said and "runs on the CPU" in said and said.count("\n") == 1
    assert os.environ[gpu.VISIBLE] == ""


@WITHOUT
def test_cuda_without_a_gpu_is_an_error(machine, lines, visible, driver, why):
    machine(lines, visible, driver)
    with pytest.raises(UserError, match="`device: cuda`") as caught:
        gpu.claim("cuda")
    assert why in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("how", ["a file", "a link", "a missing parent", "a file as parent"])
def test_a_folder_that_cannot_keep_locks_is_an_error(machine, locks, tmp_path, how):
    machine(THREE)
    if how == "a file":
        locks.touch()
    elif how == "a link":
        locks.symlink_to(tmp_path)
    else:
        parent = tmp_path / "parent"
        os.environ["TASK_ARITHMETIC_LOCKS"] = str(parent / "locks")
        if how == "a file as parent":
            parent.touch()
    with pytest.raises(UserError, match="TMPDIR") as caught:
        gpu.claim()
    assert "\n" not in str(caught.value)


def test_another_users_folder_keeps_no_locks(machine, monkeypatch, locks):
    machine(THREE)
    monkeypatch.setattr(gpu.os, "getuid", lambda: os.geteuid() + 1)
    with pytest.raises(UserError, match="a folder of your own"):
        gpu.claim()


def test_a_file_system_without_locks_is_an_error(machine, monkeypatch):
    machine(THREE)

    def flock(fd, how):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(UserError, match="No locks available.*TMPDIR"):
        gpu.claim()


def test_locks_of_each_user_are_in_the_temporary_folder(machine, monkeypatch, tmp_path):
    machine(THREE)
    monkeypatch.delenv("TASK_ARITHMETIC_LOCKS")
    monkeypatch.setattr(gpu.tempfile, "gettempdir", lambda: str(tmp_path))
    gpu.claim()
    assert len(list((tmp_path / f"task_arithmetic-{os.getuid()}").iterdir())) == 1


# --- Claims of several processes ------------------------------------------------------------------

HOLD = """
import signal, sys
from task_arithmetic.pipeline import gpu as device

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job may ignore it
device.POLL = (0.01, 0.03)
device.glob = lambda pattern: ["/dev/nvidia0"]
print("claimed", device.claim(), flush=True)
{then}
sys.stdin.read()
"""


class Job:
    """A child process that claims a GPU, and holds it until its input is closed."""

    def __init__(self, variables, then="", script=HOLD):
        path = os.pathsep.join(p for p in [str(reading.ROOT / "src"), *sys.path] if p)
        self.process = subprocess.Popen(
            [sys.executable, "-c", script.replace("{then}", then)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={"PYTHONPATH": path, **variables},
        )

    def says(self) -> list[str]:
        return self.process.stdout.readline().split()

    def waits(self) -> bool:
        return "waiting for a free GPU" in self.process.stderr.readline()

    def ends(self) -> int:
        self.process.stdin.close()
        return self.process.wait()


@pytest.fixture
def job():
    """job(...) starts a Job; all are killed in the end, or after a time in which a test that hangs
    has to end."""
    with ExitStack() as stack:
        jobs = []

        def kill():
            for started in jobs:
                started.process.kill()

        def start(*arguments, **options):
            jobs.append(Job(*arguments, **options))
            for stream in (jobs[-1].process.stdout, jobs[-1].process.stderr):
                stack.callback(stream.close)
            stack.callback(jobs[-1].process.wait)
            return jobs[-1]

        watchdog = threading.Timer(30, kill)
        watchdog.start()
        try:
            yield start
        finally:
            watchdog.cancel()
            kill()


def test_nine_jobs_on_three_gpus_never_meet(environment, job):
    then = """
import time
began = time.monotonic()
time.sleep(0.15)
print(began, time.monotonic(), flush=True)
"""
    variables = environment(THREE, "0,1,2")
    jobs = [job(variables, then) for _ in range(9)]
    held: dict = {}
    for started in jobs:
        started.process.stdin.close()
    for started in jobs:
        _, gpu = started.says()
        held.setdefault(gpu, []).append([float(moment) for moment in started.says()])
        assert started.process.wait() == 0
    assert set(held) == {A, B, C} and sum(map(len, held.values())) == 9
    for intervals in held.values():
        intervals.sort()
        for (_, end), (begin, _) in zip(intervals, intervals[1:], strict=False):
            assert end <= begin


def test_each_job_takes_the_first_free_gpu(environment, job):
    jobs = []
    for each in (A, B, C):
        jobs.append(job(environment(THREE)))
        assert jobs[-1].says() == ["claimed", each]
    assert jobs[1].ends() == 0
    assert job(environment(THREE)).says() == ["claimed", B]


def test_a_waiting_job_says_so_once_and_gets_the_gpu_that_is_freed(environment, job):
    holder = job(environment(THREE[:1]))
    assert holder.says() == ["claimed", A]
    waiting = job(environment(THREE[:1]))
    assert waiting.waits()
    time.sleep(0.2)  # several looks
    assert holder.ends() == 0
    assert waiting.says() == ["claimed", A]
    assert waiting.ends() == 0
    assert waiting.process.stderr.read() == ""


def test_a_killed_job_frees_its_gpu(environment, job):
    holder, variables = job(environment(THREE[:1])), environment(THREE[:1])
    assert holder.says() == ["claimed", A]
    waiting = job(variables)
    assert waiting.waits()
    holder.process.send_signal(signal.SIGKILL)
    assert waiting.says() == ["claimed", A]


@pytest.mark.parametrize(
    "start",
    [
        "import subprocess; child = subprocess.Popen(['/bin/sleep', '60'], close_fds=False).pid",
        "import os, time; child = os.fork() or time.sleep(60)",
        "import multiprocessing as m, time; p = m.get_context('fork').Process(\n"
        "    target=time.sleep, args=(60,)); p.start(); child = p.pid",
    ],
    ids=["a program", "a fork", "a worker"],
)
def test_a_child_of_a_killed_job_does_not_keep_its_gpu(environment, job, start):
    holder = job(environment(THREE[:1]), f"{start}\nprint(child, flush=True)")
    assert holder.says() == ["claimed", A]
    child = int(holder.says()[0])
    try:
        waiting = job(environment(THREE[:1]))
        assert waiting.waits()  # the child that lives has not freed it either
        holder.process.send_signal(signal.SIGKILL)
        assert waiting.says() == ["claimed", A]
    finally:
        os.kill(child, signal.SIGKILL)  # it is still there, or this fails


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_waiting_job_ends_when_it_is_told_to(environment, job, number):
    holder = job(environment(THREE[:1]))
    assert holder.says() == ["claimed", A]
    waiting = job(environment(THREE[:1]))
    assert waiting.waits()
    waiting.process.send_signal(number)
    assert waiting.process.wait() == -number
    assert job(environment(THREE[:1])).waits()  # the holder's lock is as it was


@pytest.mark.parametrize("other", [A, "GPU-aaaa", None])
def test_an_index_and_a_uuid_of_one_gpu_meet(environment, job, other):
    assert job(environment(THREE[:1], "0")).says() == ["claimed", A]
    assert job(environment(THREE[:1], other)).waits()


@pytest.mark.parametrize("lines", [None, THREE[:1]], ids=["without nvidia-smi", "with it"])
def test_two_commands_of_one_slurm_job_meet(environment, job, lines):
    assert job(environment(lines, "0", SLURM_JOB_ID="7")).says()[0] == "claimed"
    assert job(environment(lines, "0", SLURM_JOB_ID="7")).waits()


def test_two_slurm_jobs_that_each_see_their_gpu_as_the_first_do_not_meet(environment, job):
    for number, uuid in (("7", A), ("8", B)):
        shown = [f"GPU 0: NVIDIA Test (UUID: {uuid})"]
        assert job(environment(shown, "0", SLURM_JOB_ID=number)).says() == ["claimed", uuid]
    for number in ("7", "8"):
        assert job(environment(None, "0", SLURM_JOB_ID=number)).says() == ["claimed", "0"]


def test_a_uuid_is_one_gpu_in_every_slurm_job(environment, job):
    assert job(environment(None, A, SLURM_JOB_ID="7")).says() == ["claimed", A]
    assert job(environment(THREE, "0", SLURM_JOB_ID="8")).waits()


def test_claiming_imports_no_torch(environment, job):
    then = "print(*{'torch', 'numpy', 'yaml'} & set(sys.modules), 'end', flush=True)"
    started = job(environment(THREE), then)
    assert [started.says(), started.says()] == [["claimed", A], ["end"]]


# --- What torch does ------------------------------------------------------------------------------


def without_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_torch_device_is_the_cpu_without_a_gpu(machine, monkeypatch, capsys):
    machine(None, driver=False)
    without_cuda(monkeypatch)
    assert gpu.torch_device() == torch.device("cpu")
    assert capsys.readouterr().err == ""


def test_a_torch_that_cannot_use_the_gpu_says_so_and_frees_it(machine, monkeypatch, capsys, locks):
    machine(THREE)
    without_cuda(monkeypatch)
    gpu.claim("auto")
    assert [gpu.torch_device().type, gpu.torch_device().type] == ["cpu", "cpu"]
    said = capsys.readouterr().err
    assert A in said and "runs on the CPU" in said and said.count("\n") == 1
    assert is_free(*locks.iterdir())


def test_a_torch_that_cannot_use_the_gpu_is_an_error_where_cuda_is_asked(machine, monkeypatch):
    machine(THREE)
    without_cuda(monkeypatch)
    gpu.claim("cuda")
    with pytest.raises(UserError, match="`device: cuda`.*cannot use the GPU GPU-aaaa"):
        gpu.torch_device()


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("CUDA error: no kernel image is available\nCUDA kernel errors might", "is available)"),
        ("CUDA out of memory. Tried to allocate 2 MiB. GPU 0", "(CUDA out of memory)"),
        ("", "(RuntimeError)"),
    ],
)
def test_a_gpu_that_fails_at_its_first_use_is_an_error(machine, monkeypatch, message, shown):
    machine(THREE)
    gpu.claim()

    def fails(*_, **__):
        raise RuntimeError(message)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "ones", fails)
    with pytest.raises(UserError) as caught:
        gpu.torch_device()
    assert f"{shown}:" in str(caught.value) and "\n" not in str(caught.value)
    assert A in str(caught.value)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [("auto", torch.float32), ("float32", torch.float32), ("bf16", torch.bfloat16)],
)
def test_precision_of_forward_passes_on_the_cpu(wanted, expected):
    layer, pixels = torch.nn.Linear(4, 2), torch.randn(3, 4)
    with precision.autocast(wanted, torch.device("cpu")):
        features = layer(pixels)
    assert features.dtype == expected
    features.float().sum().backward()
    assert layer.weight.dtype == layer.weight.grad.dtype == torch.float32
    assert layer(pixels).dtype == torch.float32  # only within the block


def test_float32_holds_within_another_autocast():
    layer, pixels = torch.nn.Linear(4, 2), torch.randn(3, 4)
    with precision.autocast("bf16", "cpu"), precision.autocast("float32", "cpu"):
        assert layer(pixels).dtype == torch.float32


@pytest.mark.parametrize("supported", [True, False])
def test_auto_precision_on_cuda_is_what_the_gpu_computes_in(
    machine, monkeypatch, capsys, supported
):
    machine(THREE)

    def is_supported(including_emulation=True):
        return supported or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_supported)
    assert [precision.uses_bf16("auto", torch.device("cuda", 0)) for _ in range(2)] == [
        supported
    ] * 2
    assert capsys.readouterr().err.count("float32") == (not supported)
    assert precision.uses_bf16("bf16", "cuda") and not precision.uses_bf16("float32", "cuda")


def test_an_unknown_precision_is_an_error():
    with pytest.raises(UserError, match="auto, bf16 or float32; found 'fp16'"):
        precision.autocast("fp16", "cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_bf16_on_a_gpu(machine):
    kind = gpu.torch_device()
    assert kind.type == "cuda"
    layer, pixels = torch.nn.Linear(4, 2, device=kind), torch.randn(3, 4, device=kind)
    with precision.autocast("auto", kind):
        features = layer(pixels)
    assert (features.dtype == torch.bfloat16) == torch.cuda.is_bf16_supported(False)


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: unspecified launch failure\nCUDA kernel errors might be asynchronous",
        "CUDA error: device-side assert triggered",
        "CUDA error: uncorrectable ECC error encountered",
        "CUDA error: the launch timed out and was terminated",
        "CUDA error: no CUDA-capable device is detected",
        "cudaErrorNoDevice",
        "No CUDA GPUs are available",
        "Unable to determine the device handle for GPU 0000:3B:00.0: GPU is lost.",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(handle)`",
    ],
)
def test_errors_of_a_gpu_that_is_gone_are_known(message):
    assert gpu.lost_gpu(RuntimeError(message))
    wrapped = RuntimeError("the data loader stopped")
    wrapped.__cause__ = RuntimeError(message)
    assert gpu.lost_gpu(wrapped)


def test_torchs_own_error_of_an_accelerator_is_known():
    assert gpu.lost_gpu(torch.AcceleratorError("anything"))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: no kernel image is available for execution on the device"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x2)"),
        RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
        ValueError("ECC"),
    ],
)
def test_other_errors_are_not_taken_for_a_lost_gpu(error):
    assert not gpu.lost_gpu(error)
