"""The fenced blocks of a Markdown page, and running them in order in a folder of the page's own.
YAML and Python whose first line is a comment with a path are written there, and not run."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import interpreter
import jsonschema
import yaml
from runs import ROOT

LANGUAGES = {"python", "console", "yaml", "text", "bibtex"}
SECONDS = 400  # more than this a block may not take, however busy the machine
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>.*)$")
SKIP = re.compile(r"^\s*<!-- skip: next: *(?P<reason>.*?) *-->\s*$")
OUTPUT = re.compile(r"^\s*<!-- output -->\s*$")


@dataclass(frozen=True)
class Block:
    """A fenced block: where it is, what it holds, and what a comment on the line before says."""

    page: Path
    line: int  # of the fence
    language: str
    text: str
    skip: str | None = None  # the reason
    output: bool = False  # a text that is the output of the block before

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


class Wrong(Exception):
    """What is wrong with a block, for the page's author."""


def blocks_of(page: Path) -> list[Block]:
    """The blocks of a page, in order. Raises Wrong if one is not closed."""
    found, opened, above, lines = [], None, "", []
    for number, line in enumerate(page.read_text().splitlines(), 1):
        fence = FENCE.match(line)
        if opened:
            if fence and not fence["language"]:
                skip = SKIP.match(above)
                form = (opened[1]["language"], "\n".join(lines) + "\n")
                reason = skip["reason"] if skip else None
                found.append(Block(page, opened[0], *form, reason, bool(OUTPUT.match(above))))
                opened, above = None, ""
            else:
                lines.append(line.removeprefix(opened[1]["indent"]))
        elif fence:
            opened, lines = (number, fence), []
        elif line.strip():
            above = line
    if opened:
        raise Wrong(f"{page}:{opened[0]}: a block that is not closed.")
    return found


def prose_of(page: Path) -> Iterator[tuple[int, str]]:
    """The lines of a page outside of its blocks, with their numbers."""
    inside = False
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if FENCE.match(line):
            inside = not inside
        elif not inside:
            yield number, line


def matches(expected: str, actual: str) -> bool:
    """Whether a command put out what a page says: `...` is anything in a line, and as a line of its
    own any lines. Spaces at ends of lines and empty lines around do not count."""
    parts = []
    for line in expected.strip("\n").splitlines():
        if line.strip() == "...":
            parts.append(r"(?:.*\n)*?")
        else:
            words = (re.escape(part) for part in line.rstrip().split("..."))
            parts.append(".*".join(words) + r"\n")
    lines = [line.rstrip() for line in actual.strip("\n").splitlines()]
    return re.fullmatch("".join(parts), "\n".join(lines) + "\n") is not None


def commands_of(text: str) -> list[tuple[str, str]]:
    """The commands of a console block, each with the output that is expected of it ("": any)."""
    found: list[tuple[str, str]] = []
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith("$ "):
            command = line[2:]
            while command.endswith("\\"):
                command = command[:-1] + next(lines).removeprefix("> ").lstrip()
            found.append((command, ""))
        elif not found:
            raise Wrong("A console block begins with a line `$ command`.")
        else:
            command, output = found[-1]
            found[-1] = command, output + line + "\n"
    return found


def hold_to_schema(text: str) -> str | None:
    """Hold a YAML block to its schema; the path that its first line names, if any. What is no part
    of a configuration, a file for `merge --from`, is held to nothing: the command reads it."""
    content = yaml.safe_load(text)
    named = re.match(r"# (\S+\.yaml)\s*\n", text)
    path = named[1] if named else None
    folder = path.split("/")[-2] if path and path.startswith("config/") else ""
    of = folder if folder in ("tasks", "encoders", "modes") else "configuration"
    if not isinstance(content, dict):
        raise Wrong("A YAML block holds `key: value` lines.")
    if "merge_method" not in content:
        schema = json.loads((ROOT / f"config/schemas/{of}.json").read_text())
        try:
            jsonschema.validate(content, schema)
        except jsonschema.ValidationError as error:
            where = ".".join(str(key) for key in error.absolute_path)
            raise Wrong(f"Not of config/schemas/{of}.json: {where}: {error.message}") from None
    return path


class Page:
    """A page whose blocks are run in a copy of a finished run of config/nano.yaml. What is
    prepared once, such as the embedded suite's images, pages share in `cache`."""

    def __init__(self, path: Path, nano: Path, folder: Path, cache: Path):
        self.blocks, self.folder = blocks_of(path), folder / "project"
        self.done: dict[Block, str | Exception] = {}  # what each put out, or what was wrong
        self.broken: Block | None = None
        self.python: BaseProcess | None = None
        self.asked: Connection
        folder.mkdir(parents=True)
        subprocess.run(["cp", "-a", "--reflink=auto", nano, self.folder], check=True)
        (folder / "home").mkdir()
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        own = {"PYTHONPATH": str(self.folder / "src"), "PATH": programs, "MPLBACKEND": "Agg"}
        own |= {"HOME": str(folder / "home"), "TASK_ARITHMETIC_CACHE": str(cache)}
        own |= {
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "COLUMNS": "100",
            "LC_ALL": "C.UTF-8",
        }
        dropped = ("PYTEST_", "SNAKEMAKE_", "TASK_ARITHMETIC_", "XDG_")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
        self.env = kept | own

    def run(self, block: Block) -> None:
        """Run a block, and before it those above it that have not been run. Raises Wrong if it is
        not as the page says; what is below a wrong block is not run."""
        for above in self.blocks:
            if above not in self.done and not self.broken:
                try:
                    self.done[above] = "" if above.skip else self._run(above)
                except (Wrong, subprocess.TimeoutExpired, yaml.YAMLError) as error:
                    self.done[above], self.broken = error, above
            if above == block:
                break
        if isinstance(error := self.done.get(block), Exception):
            raise Wrong(f"{block}: {error}")

    def close(self) -> None:
        if self.python:
            self.python.kill()
            self.python.join()

    def _run(self, block: Block) -> str:
        if block.output:
            above = self.blocks[self.blocks.index(block) - 1]
            _hold(f"the output of {above}", block.text, str(self.done[above]))
        elif block.language == "yaml":
            if path := hold_to_schema(block.text):
                (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
                (self.folder / path).write_text(block.text)
        elif named := re.match(r"# (\S+/\S+\.py)\n", block.text):
            (self.folder / named[1]).write_text(block.text)
        elif block.language == "python":
            return self._python(block)
        elif block.language == "console":
            for command, expected in commands_of(block.text):
                self._bash(command, expected)
        return ""

    def _bash(self, command: str, expected: str) -> None:
        status = 1 if re.search(r"# exit status 1$", command) else 0
        process = subprocess.Popen(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        if process.returncode != status:
            ended = f"`{command}` ended with {process.returncode}, not {status}:"
            raise Wrong(f"{ended}\n{output[-4000:]}")
        if expected:
            _hold(f"`{command}`", expected, output)

    def _python(self, block: Block) -> str:
        if self.python is None:
            self.python, self.asked = interpreter.start(self.folder, self.env)
        self.asked.send((block.text, str(block.page), block.line, SECONDS))
        try:
            printed, error = self.asked.recv()
        except EOFError:
            raise Wrong(f"Python ended, or took more than {SECONDS} s.") from None
        if error:
            raise Wrong(f"\n{printed[-2000:]}{error}")
        return printed


def _hold(what: str, expected: str, actual: str) -> None:
    if not matches(expected, actual):
        raise Wrong(f"{what}\n--- the page says\n{expected}--- it is\n{actual[-6000:]}")
