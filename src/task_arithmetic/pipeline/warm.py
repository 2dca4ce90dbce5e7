"""Jobs that need not start Python and torch first.

A small run is hundreds of short jobs, each a process of its own, and importing torch is most of
many. While Snakemake works on this machine, one process that has imported what jobs need waits at a
socket, and each job is a fork of it: with the words, the folder, the environment, the standard
streams and the exit status that it would have had. That process computes nothing itself, so that it
has neither threads nor CUDA to hand on. Where nobody answers, a job starts as any command does.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what a job that asks need not import
    import subprocess

ADDRESS = "TASK_ARITHMETIC_WARM"  # the socket, in the environment of jobs
WARM = "warm"  # the word that starts the warm process, see __main__
FORWARDED = (signal.SIGINT, signal.SIGTERM)
_started: list[subprocess.Popen[bytes]] = []  # by this process, whose end they notice

# --- The job's own process: it asks, hands signals on, and waits ---------------------------------


def ask(words: list[str]) -> int | None:
    """Let a warm process do a command.

    Args:
        words: those after `task-arithmetic`.
    Returns:
        its exit status; None: nobody answers, and nothing was done.
    """
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(os.environ[ADDRESS])
    except (KeyError, OSError):
        return None
    for number in FORWARDED:
        signal.signal(number, lambda number, _: connection.send(bytes([number])))
    answer = b""
    with suppress(OSError):  # it was killed
        request = json.dumps([words, os.getcwd(), dict(os.environ)]).encode() + b"\n"
        sent = socket.send_fds(connection, [request], [0, 1, 2])
        connection.sendall(request[sent:])
        answer = connection.recv(1)  # goes on after a signal
    return answer[0] if answer else 128 + signal.SIGKILL


# --- The warm process ----------------------------------------------------------------------------


def start() -> None:
    """Start the warm process, for as long as this one lives, and name it to the jobs that this one
    starts."""
    import subprocess
    import tempfile
    from pathlib import Path

    folder = tempfile.mkdtemp(prefix="task-arithmetic-")  # for this user alone
    os.environ[ADDRESS] = os.path.join(folder, "warm")
    source = str(Path(__file__).absolute().parents[2])
    path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        [sys.executable, "-m", "task_arithmetic", WARM, os.environ[ADDRESS]],
        env={**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"},  # no threads to fork
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C reaches it by its jobs
    )
    _started.append(process)


def serve(address: str) -> list[str] | None:
    """Fork a process for each that asks, until standard input ends and the last of them is done.

    Returns:
        in each of the forked processes, which is now as who asked, the words of its command; in
        this one, at its end, None.
    """
    listener, jobs = socket.socket(socket.AF_UNIX), dict[int, socket.socket]()
    listener.bind(address)
    listener.listen(64)
    wake, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker)
    asked: list[socket.socket | int] = [listener, 0]
    while asked or jobs:
        there = {pid: who for pid, who in jobs.items() if who.fileno() >= 0}
        ready, _, _ = select.select([*asked, wake, *there.values()], [], [])
        if 0 in ready:
            asked = []
            listener.close()
            os.unlink(address)
            os.rmdir(os.path.dirname(address))
        elif listener in ready:
            who, _ = listener.accept()
            request, streams = _request(who)
            if request.endswith(b"\n"):
                pid = os.fork()
                if pid == 0:
                    for inherited in (listener, who, *there.values()):
                        inherited.close()
                    return _become(request, streams)
                jobs[pid] = who
            for stream in streams:
                os.close(stream)
        for pid, who in there.items():
            if who in ready:  # a signal reached it; or it is gone
                number = who.recv(1)
                os.kill(pid, number[0] if number else signal.SIGTERM)
                if not number:
                    who.close()
        if wake in ready:
            os.read(wake, 64)
            _report(jobs)
    return None


def _report(jobs: dict[int, socket.socket]) -> None:
    """Tell those whose processes have ended their exit status."""
    for pid in list(jobs):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            with jobs.pop(pid) as who, suppress(OSError):
                who.send(bytes([code if code >= 0 else 128 - code]))


def _request(connection: socket.socket) -> tuple[bytes, list[int]]:
    """What is asked, a line, and the standard streams of who asks; less, if it is gone."""
    request, streams, _, _ = socket.recv_fds(connection, 2**16, 3)
    while request and not request.endswith(b"\n") and (more := connection.recv(2**16)):
        request += more
    return request, streams


def _become(request: bytes, streams: list[int]) -> list[str]:
    """Make this process as who asked, and say what it is to do."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for own, stream in enumerate(streams):
        os.dup2(stream, own)
        os.close(stream)
    encoding = sys.stdout.encoding
    sys.stdin = open(0, encoding=encoding, closefd=False)
    sys.stdout = open(1, "w", encoding=encoding, closefd=False)
    sys.stderr = open(2, "w", 1, encoding=encoding, errors="backslashreplace", closefd=False)
    words, folder, environment = json.loads(request)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    return list(words)
