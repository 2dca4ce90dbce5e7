"""A Python that runs the blocks which it is given as lines of JSON, all in one namespace, and
answers what each printed and how it failed. Line numbers in a traceback are those of the page."""

import contextlib
import io
import json
import os
import signal
import sys
import traceback
import types

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what does not go through sys.stdout
main = sys.modules["__main__"] = types.ModuleType("__main__")
sys.path[0] = os.getcwd()  # as in a notebook
for line in sys.stdin:
    block = json.loads(line)
    error, printed = "", io.StringIO()
    signal.alarm(block["seconds"])
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            text = "\n" * block["line"] + block["text"]
            exec(compile(text, block["page"], "exec"), main.__dict__)
        except BaseException:
            error = traceback.format_exc()
    signal.alarm(0)
    print(json.dumps({"output": printed.getvalue(), "error": error}), file=answers, flush=True)
