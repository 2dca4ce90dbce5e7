"""A real SLURM on this machine, for tests: virtual nodes with declared GPUs, loopback only.

Needs Debian's slurmctld, slurmd, slurm-client and munge; no root, systemd, cgroups or database.
Everything lies in one folder, and every process is a child of the caller's or below one: they end
with the caller, however it ends.

    env = start(); kill_node(env, "n1"); start_node(env, "n1"); stop(env)
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

# Debian keeps the daemons out of a user's PATH.
SEARCH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
PROGRAMS = ["munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol"]

# The reasons of what is not obvious:
# - cgroups need root: process groups tell what belongs to a job; memory is looked at each second
# - a requeued job may start again after cred_expire; by default that is two minutes
# - without NoInAddrAny the daemons listen on every address of the machine
# - MinJobAge: how long squeue shows what has ended; the plugin asks for three polls' time
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=10
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
MailProg=/bin/true
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n.spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=2,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
DefMemPerCPU=500
MinJobAge=300
SlurmdTimeout=10
SlurmctldTimeout=10
InactiveLimit=0
KillWait=2
CompleteWait=0
MessageTimeout=10
TCPTimeout=2
PartitionName=gpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""
NODE = (
    "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} Boards=1 "
    "SocketsPerBoard=1 CoresPerSocket={cpus} ThreadsPerCore=1 RealMemory={memory} Gres=gpu:{gpus}\n"
)
_processes: dict[tuple[str, str], subprocess.Popen] = {}  # (folder, name) → daemon


def missing() -> list[str]:
    """Programs that a cluster needs and this machine lacks."""
    return [name for name in PROGRAMS if not shutil.which(name, path=SEARCH)]


def start(nodes: int = 2, gpus: int = 2, cpus: int = 8, memory: int = 64_000) -> dict[str, str]:
    """Start a cluster.

    Args:
        nodes: n1, n2, … gpus, cpus, memory (MB): of each node, declared whatever the machine has.
    Returns:
        The environment in which sbatch and its like speak to it; `stop` takes it again.
    Raises:
        RuntimeError: it does not come up, with the end of its logs.
    """
    folder = Path(tempfile.mkdtemp(prefix="slurm"))  # short: a socket's path has 107 characters
    folder.chmod(0o755)  # munged refuses a socket that others could not reach
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    path = f"{folder}/bin{os.pathsep}{SEARCH}"
    env = {**kept, "SLURM_CONF": f"{folder}/slurm.conf", "PATH": path}
    try:
        names = [f"n{i + 1}" for i in range(nodes)]
        _write_configuration(folder, names, gpus, cpus, memory)
        munge = ["munged", "--foreground", f"--key-file={folder}/munge.key"]
        munge += [f"--{what}-file={folder}/munge.{what}" for what in ("pid", "log", "seed")]
        _start(env, "munged", [*munge, f"--socket={folder}/munge.socket"])
        _wait(env, lambda: (folder / "munge.socket").exists(), "munged")
        start_controller(env)
        for name in names:
            start_node(env, name)
        _wait(env, lambda: all(state(env, name) == "idle" for name in names), "the nodes")
    except BaseException:
        stop(env)
        raise
    return env


def stop(env: dict[str, str]) -> None:
    """End every process of a cluster, its jobs too, and remove its folder."""
    folder = Path(env["SLURM_CONF"]).parent
    own = [name for where, name in _processes if where == str(folder)]
    for name in reversed(own):  # nodes first, munged last
        _stop(env, name, signal.SIGTERM)
    shutil.rmtree(folder, ignore_errors=True)


def start_controller(env: dict[str, str]) -> None:
    """Start slurmctld (again), which finds its jobs where it left them."""
    _start(env, "slurmctld", ["slurmctld", "-D", "-f", env["SLURM_CONF"]])
    _wait(env, lambda: _asked(env, "scontrol", "ping").returncode == 0, "slurmctld")


def kill_controller(env: dict[str, str]) -> None:
    """slurmctld crashes; nodes and jobs go on."""
    _stop(env, "slurmctld", signal.SIGKILL)


def start_node(env: dict[str, str], name: str) -> None:
    """Start a node (again)."""
    keeper = [sys.executable, __file__, "slurmd", "-D", "-f", env["SLURM_CONF"], "-N", name]
    _start(env, name, keeper)


def kill_node(env: dict[str, str], name: str) -> None:
    """A node crashes: slurmd and everything that runs on it, at once."""
    _stop(env, name, signal.SIGTERM)


def state(env: dict[str, str], name: str) -> str:
    """A node's state: idle, mixed, allocated, down …; a * after it: it does not answer."""
    return _asked(env, "sinfo", "-h", "-n", name, "-o", "%T").stdout.strip()


# --- Behind it -----------------------------------------------------------------------------------


def _write_configuration(folder: Path, names: list[str], gpus: int, cpus: int, memory: int):
    for name in ("bin", "state", "dev", *(f"{name}.spool" for name in names)):
        (folder / name).mkdir()
    (folder / "munge.key").touch(mode=0o600)
    (folder / "munge.key").write_bytes(os.urandom(1024))
    port, *ports = _free_ports(1 + len(names))
    host = socket.gethostname().split(".")[0]
    conf = CONF.format(folder=folder, host=host, user=getpass.getuser(), port=port)
    gres = "AutoDetect=off\n"
    for i, (name, port) in enumerate(zip(names, ports, strict=True)):
        conf += NODE.format(name=name, host=host, port=port, cpus=cpus, memory=memory, gpus=gpus)
        # A GPU is a file; slurmd does not look what kind of.
        devices = [folder / f"dev/gpu{number}" for number in range(i * gpus, (i + 1) * gpus)]
        for device in devices:
            device.symlink_to("/dev/null")
            gres += f"NodeName={name} Name=gpu File={device}\n"
    (folder / "slurm.conf").write_text(conf)
    (folder / "gres.conf").write_text(gres)
    # The plugin's jobs call srun without SLURM_CONF, which here no default path replaces.
    srun = folder / "bin/srun"
    real = shutil.which("srun", path=SEARCH)
    srun.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {real} "$@"\n')
    srun.chmod(0o755)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _start(env: dict[str, str], name: str, command: list[str]) -> None:
    folder = Path(env["SLURM_CONF"]).parent
    with open(folder / f"{name}.out", "ab") as out:
        _processes[str(folder), name] = subprocess.Popen(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,  # Ctrl-C is for pytest, which then stops the cluster
            preexec_fn=lambda: _prctl(1, signal.SIGTERM),  # PR_SET_PDEATHSIG
        )


def _stop(env: dict[str, str], name: str, number: int) -> None:
    process = _processes.pop((str(Path(env["SLURM_CONF"]).parent), name), None)
    if process is None:
        return
    process.send_signal(number)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait(env: dict[str, str], condition, what: str, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            logs = sorted(Path(env["SLURM_CONF"]).parent.glob("*.[lo][ou][gt]"))
            said = "\n".join(f"{log.name}: {log.read_text()[-1500:]}" for log in logs)
            raise RuntimeError(f"{what} did not start in {seconds} s\n{said}")
        time.sleep(0.05)


def _asked(env: dict[str, str], *command: str) -> subprocess.CompletedProcess:
    return subprocess.run(command, env=env, capture_output=True, text=True)


_prctl = ctypes.CDLL(None).prctl


def _below(top: int) -> list[int]:
    """What lives below a process, zombies left out."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            kind, parent = path.read_text().rpartition(")")[2].split()[:2]
        except OSError:  # gone meanwhile
            continue
        if kind != "Z":
            parents[int(path.parent.name)] = int(parent)
    found = [top]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found[1:]


def _keep(command: list[str]) -> None:
    """Run a node's slurmd as the parent of all that starts below it, step daemons too, which
    otherwise outlive it; SIGTERM kills them all."""

    def crash(*_):
        while below := _below(os.getpid()):
            for pid in below:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            reap(os.WNOHANG)
        reap(0)
        os._exit(0)

    def reap(option):
        with suppress(ChildProcessError):
            while os.waitpid(-1, option)[0]:
                pass

    signal.signal(signal.SIGTERM, crash)
    _prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
    subprocess.Popen(command)
    reap(0)


if __name__ == "__main__":
    _keep(sys.argv[1:])
