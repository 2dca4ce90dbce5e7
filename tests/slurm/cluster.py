"""A real SLURM on this machine, for tests: virtual nodes with declared GPUs, loopback only.

Needs Debian's slurmctld, slurmd, slurm-client and munge; no root, systemd, cgroups or database.
Everything lies in one folder, and every process ends with the caller, however that ends.
"""

import ctypes
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

SEARCH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"])  # of the daemons
PROGRAMS = ["munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol"]

# Process groups tell what belongs to a job: cgroups need root. A requeued job may start again after
# cred_expire, by default two minutes. Without NoInAddrAny the daemons listen on all addresses.
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthInfo=socket={folder}/munge.socket,cred_expire=10
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n.spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
ProctrackType=proctrack/pgid
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,bf_interval=2,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
DefMemPerCPU=500
MinJobAge=300
SlurmdTimeout=10
KillWait=2
PartitionName=gpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
NODE = """NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} \
CoresPerSocket={cpus} RealMemory={memory} Gres=gpu:{gpus}
"""
_processes: dict[tuple[str, str], subprocess.Popen] = {}  # (folder, name) → daemon
_prctl = ctypes.CDLL(None).prctl


def missing() -> list[str]:
    """Programs that a cluster needs and this machine lacks."""
    return [name for name in PROGRAMS if not shutil.which(name, path=SEARCH)]


def start(nodes=2, gpus=2, cpus=4, memory=64_000, more="") -> dict[str, str]:
    """Start a cluster; returns the environment in which sbatch and its like speak to it.

    Args:
        nodes: n1, n2, … gpus, cpus, memory (MB): of each node, declared whatever the machine has.
        more: further lines of slurm.conf.
    """
    folder = Path(tempfile.mkdtemp(prefix="slurm"))  # short: a socket's path has 107 characters
    folder.chmod(0o755)  # munged refuses a socket that others could not reach
    env = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    env |= {"SLURM_CONF": f"{folder}/slurm.conf", "PATH": f"{folder}/bin{os.pathsep}{SEARCH}"}
    try:
        names = [f"n{i + 1}" for i in range(nodes)]
        _configure(folder, names, gpus, cpus, memory, more)
        munged = ["munged", "--foreground", f"--socket={folder}/munge.socket"]
        munged += [f"--{what}-file={folder}/munge.{what}" for what in ("key", "pid", "seed")]
        _start(env, "munged", munged)
        wait(env, lambda: (folder / "munge.socket").exists(), "munged")
        start_controller(env)
        for name in names:
            start_node(env, name)
        wait(env, lambda: all(state(env, name) == "idle" for name in names), "the nodes")
    except BaseException:
        stop(env)
        raise
    return env


def stop(env: dict) -> None:
    """End every process of a cluster, its jobs too, and remove its folder."""
    folder = Path(env["SLURM_CONF"]).parent
    for name in [name for where, name in reversed(_processes) if where == str(folder)]:
        _stop(env, name, signal.SIGTERM)  # the nodes first, munged last
    shutil.rmtree(folder, ignore_errors=True)


def start_controller(env: dict) -> None:
    """Start slurmctld, which finds its jobs where it left them."""
    _start(env, "slurmctld", ["slurmctld", "-D", "-f", env["SLURM_CONF"]])
    wait(env, lambda: "UP" in ask(env, "scontrol", "ping"), "slurmctld")


def start_node(env: dict, name: str) -> None:
    """Start a node."""
    slurmd = ["slurmd", "-D", "-f", env["SLURM_CONF"], "-N", name]
    _start(env, name, [sys.executable, __file__, *slurmd])


def kill(env: dict, name: str) -> None:
    """A crash: of a node with everything that runs on it, or of slurmctld alone."""
    _stop(env, name, signal.SIGKILL if name == "slurmctld" else signal.SIGTERM)


def ask(env: dict, *command: str) -> str:
    """What a command such as squeue prints."""
    return subprocess.run(command, env=env, capture_output=True, text=True).stdout


def state(env: dict, name: str) -> str:
    """A node's state: idle, mixed, allocated, down …; a * after it: it does not answer."""
    return ask(env, "sinfo", "-h", "-n", name, "-o", "%T").strip()


def wait(env: dict, condition, what: str, seconds: float = 30) -> None:
    """Wait until condition() holds; RuntimeError with the end of the logs if it never does."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            logs = Path(env["SLURM_CONF"]).parent.glob("*.log")
            said = [f"\n{log.name}: {log.read_text()[-1500:]}" for log in logs]
            raise RuntimeError(f"waited {seconds} s in vain for {what}" + "".join(said))
        time.sleep(0.05)


def _configure(folder: Path, names: list[str], gpus: int, cpus: int, memory: int, more: str):
    for name in ("bin", "state", "dev", *(f"{name}.spool" for name in names)):
        (folder / name).mkdir()
    (folder / "munge.key").touch(mode=0o600)
    (folder / "munge.key").write_bytes(os.urandom(1024))
    free = [socket.create_server(("127.0.0.1", 0)) for _ in ("controller", *names)]
    port, *ports = [one.getsockname()[1] for one in free]
    [one.close() for one in free]
    host = socket.gethostname().split(".")[0]
    conf = CONF.format(folder=folder, host=host, user=getpass.getuser(), port=port)
    gres, declared = "AutoDetect=off\n", {"host": host, "cpus": cpus, "memory": memory}
    for name, port in zip(names, ports, strict=True):
        conf += NODE.format(name=name, port=port, gpus=gpus, **declared)
        for i in range(gpus):  # a GPU is a file; slurmd does not look what kind of
            device = folder / f"dev/{name}-gpu{i}"
            device.symlink_to("/dev/null")
            gres += f"NodeName={name} Name=gpu File={device}\n"
    (folder / "slurm.conf").write_text(conf + more)
    (folder / "gres.conf").write_text(gres)
    # The plugin's jobs call srun without SLURM_CONF, and there is none in the default place.
    srun, real = folder / "bin/srun", shutil.which("srun", path=SEARCH)
    srun.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {real} "$@"\n')
    srun.chmod(0o755)


def _start(env: dict, name: str, command: list[str]) -> None:
    folder = Path(env["SLURM_CONF"]).parent
    with open(folder / f"{name}.log", "ab") as log:
        _processes[str(folder), name] = subprocess.Popen(
            command,
            env=env,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for pytest, which then stops the cluster
            preexec_fn=lambda: _prctl(1, signal.SIGTERM),  # PR_SET_PDEATHSIG
        )


def _stop(env: dict, name: str, number: int) -> None:
    process = _processes.pop((str(Path(env["SLURM_CONF"]).parent), name), None)
    if process:
        process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()


def _keep(command: list[str]) -> None:
    """Be a node: slurmd, as the parent of whatever starts below it, step daemons too, which
    otherwise outlive it; SIGTERM kills them all."""

    def reap(option):
        with suppress(ChildProcessError):
            while os.waitpid(-1, option)[0]:
                pass

    def crash(*_):
        while below := _below(os.getpid()):
            for pid in below:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            reap(os.WNOHANG)
        os._exit(0)

    signal.signal(signal.SIGTERM, crash)
    _prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
    subprocess.Popen(command)
    reap(0)


def _below(top: int) -> list[int]:
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # gone meanwhile
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    children = [child for child, parent in parents.items() if parent == top]
    return children + [pid for child in children for pid in _below(child)]


if __name__ == "__main__":
    _keep(sys.argv[1:])
