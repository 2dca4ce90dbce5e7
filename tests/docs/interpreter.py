"""A Python that runs the blocks which it is given, all in one namespace, and answers what each
printed and how it failed. Line numbers in a traceback are those of the page.

Importing torch takes longer than most pages, so that each of these is a fork of one process that
has imported it; of `task_arithmetic` it has imported nothing, which a page may change."""

import contextlib
import io
import os
import signal
import sys
import traceback
import types
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

# Of these none starts a thread or reads the environment, which the page sets.
context = get_context("forkserver")
context.set_forkserver_preload(["torch", "torchvision.transforms", "numpy", "PIL.Image"])


def start(folder: Path, environment: dict[str, str]):
    """A new interpreter in a folder: its process, and the connection on which it is given
    (text, page, line of the page, seconds), and answers (what was printed, error or "")."""
    ours, its = context.Pipe()
    process = context.Process(target=_run, args=(its, folder, environment))
    process.start()
    its.close()
    return process, ours


def _run(asked: Connection, folder: Path, environment: dict[str, str]) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    sys.path[:0] = [str(folder), *environment["PYTHONPATH"].split(os.pathsep)]  # as in a notebook
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    os.dup2(2, 1)  # what does not go through sys.stdout
    while True:
        try:
            text, page, line, seconds = asked.recv()
        except EOFError:
            return
        error, printed = "", io.StringIO()
        signal.alarm(seconds)
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            try:
                exec(compile("\n" * line + text, page, "exec"), main.__dict__)
            except BaseException:
                error = traceback.format_exc()
        signal.alarm(0)
        asked.send((printed.getvalue(), error))
