"""One job: what a stage's command does around the stage's function.

A job holds a lock on its output, so that nothing is computed twice at once; takes what was already
computed from the store; keeps a record of itself beside its log, which `status` and the report
read; writes the hashes of its outputs; and ends within seconds of SIGTERM or SIGINT, whatever it is
doing, after what training has to save.
"""

import inspect
import os
import select
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
from typing import Any

from ..errors import UserError
from ..files.hashes import canonical, read_sha256, sha256_of_file, versions, write_sha256
from ..files.paths import node, place_of_log, remove_partial, remove_temporaries
from ..files.records import Attempt, Made, Record, Steps, as_json, name_of, read_record
from ..progress import Progress
from ..stages.declaration import Declared, Output
from . import gpu, store
from .identity import device, fingerprint_of, identities, packages
from .locks import locked
from .outcome import outcome
from .rerun import planned_code

HEARTBEAT = 3.0  # seconds between two writings of the record
ATTEMPTS = 20  # kept in the record
STOPS = (signal.SIGTERM, signal.SIGINT)


def run(
    stage: Declared, arguments: dict[str, Any], log: str | None = None, code: str | None = None
) -> None:
    """Call a stage's function with `arguments` as a job.

    Args:
        log: the job's log file; its record is written beside it, and the store lies below the
            results that it belongs to. None: a command by hand, with neither.
        code: the label of the stage's code that Snakemake planned with (rerun.stage_code).
    Raises:
        UserError: as the function; the code is no longer what was planned with; an input changed
            while the job waited or ran.
    """
    stage.check(arguments)
    job = Job(stage, arguments, log)
    target = job.files[0] if job.files else Path(arguments["output_dir"]) / arguments["name"]
    with job.stoppable(), locked(target.with_name(f".{target.name}.lock"), str(target)):
        remove_partial(target)
        job.begin()
        try:
            job.finish(0, from_store=job.make(code))
        except BaseException as error:
            status, sentence = outcome(error)
            job.finish(status, sentence or f"{type(error).__name__}: {error}")
            raise


class Job(Progress):
    """A stage's call with its record; what the stage tells of its progress goes there."""

    def __init__(self, stage: Declared, arguments: dict[str, Any], log: str | None) -> None:
        self.stage, self.arguments = stage, arguments
        self.path = Path(log).with_suffix(".json") if log else None  # of the record
        self.files = [
            Path(arguments[key])
            for key in stage.of_kind(Output)
            if arguments.get(key) and key != "output_dir"
        ]
        self.record: Record | None = None  # with earlier attempts, while its file is kept
        self.attempt = Attempt()
        self.steps: Steps | None = None
        self.saves: list[Callable[[], str]] = []  # what a signal to stop calls first
        self.done: list[Callable[[], object]] = []  # what is called when outputs are complete
        self.writing = threading.RLock()  # of the record

    def make(self, planned: str | None) -> bool:
        """Take the outputs from the store, or compute them and put them there; whether they were
        taken."""
        stage, arguments = self.stage, self.arguments
        code = planned_code(stage, arguments, planned)
        inputs = identities(stage, arguments)
        fingerprint = fingerprint_of(stage, arguments, code, inputs)
        folder, limit = self._store()
        taken = limit > 0 and store.take(folder, stage.command, fingerprint, self.files)
        if taken:
            print(f"Taken from the store, where it is kept as {fingerprint[:16]}.", file=sys.stderr)
        else:
            used = packages(stage.modality(arguments))
            self.provenance = {"code": code, "packages": used}
            self._call(inputs, planned)
        if stage.hashed:
            write_sha256(self.files)
        if limit > 0 and not taken:
            store.put(folder, stage.command, fingerprint, self.files, limit)
        for action in self.done:
            action()
        if self.record is not None:
            outputs, computed = output_hashes(arguments, self.files), stage.computed(arguments)
            made = Made(code, fingerprint, computed, inputs, outputs, versions())
            self.record = replace(self.record, made=made)
        return taken

    def _call(self, inputs: dict[str, str], planned: str | None) -> None:
        on_device = (self.stage.modality(self.arguments) or "vision") in self.stage.on_device
        if on_device:
            gpu.claim(device())
        function = self.stage.function(self.arguments)
        # After the wait for a GPU, and with the code imported: either may have changed meanwhile.
        planned_code(self.stage, self.arguments, planned)
        self._check_unchanged(inputs)
        more: dict[str, Any] = {"device": gpu.torch_device()} if on_device else {}
        if "progress" in inspect.signature(function).parameters:
            more["progress"] = self
        function(**self.arguments, **more)
        self._check_unchanged(inputs)

    def _check_unchanged(self, inputs: dict[str, str]) -> None:
        """The inputs are those that the job began with; another run may share some of them."""
        for path, value in identities(self.stage, self.arguments).items():
            if inputs[path] != value:
                raise UserError(
                    f"{path} changed while this job waited or ran: run the same snakemake command "
                    "again, which takes it as it is now."
                )

    def _store(self) -> tuple[Path, float]:
        """The store's folder and its limit in bytes; 0 where nothing is stored."""
        place = place_of_log(self.path) if self.path and self.stage.stored else None
        limit = float(os.environ.get("TASK_ARITHMETIC_STORE_GB", 0)) * 1e9
        return (place[0] / store.FOLDER, limit) if place else (Path(), 0.0)

    # --- What the stage tells --------------------------------------------------------------------

    def at(self, done: int, total: int, unit: str, **figures: float) -> None:
        """Keep it in the record, from its next heartbeat on. What was done at the first call was
        done by earlier attempts."""
        first = self.steps or Steps(done, done, total, unit, time.time())
        self.steps = replace(first, done=done, total=total, unit=unit, figures=figures)

    @contextmanager
    def saving(self, save: Callable[[], str]) -> Iterator[None]:
        """Within the block, SIGTERM and SIGINT call save() before they end the job, in a thread of
        their own."""
        self.saves.append(save)
        try:
            yield
        finally:
            self.saves.remove(save)

    def when_done(self, action: Callable[[], object]) -> None:
        self.done.append(action)

    # --- The record ------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start this attempt's entry in the job's record."""
        slurm = os.environ.get("SLURM_JOB_ID")
        self.attempt = Attempt(
            command=shlex.join(["task-arithmetic", *sys.argv[1:]]),
            started=time.time(),
            node=node(),
            pid=os.getpid(),
            slurm_job=slurm,
            device="cpu",
            gpu=os.environ.get(gpu.VISIBLE) or None if slurm else None,
        )
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        before = Record()
        with suppress(UserError):
            before = read_record(self.path)
        remove_partial(self.path)
        earlier = before.attempts[1 - ATTEMPTS :]
        self.record = Record(self.stage.command, name_of(self.path), earlier, before.made)
        self.write()

    def write(self) -> None:
        """Measure, and rewrite the record; what cannot be written is let be: a record is no
        result."""
        with self.writing, suppress(OSError):
            if self.record is None or self.path is None:
                return
            now, before = time.time(), self.attempt
            kib = max(getrusage(who).ru_maxrss for who in (RUSAGE_SELF, RUSAGE_CHILDREN))
            kind, held, memory = gpu.in_use() or (before.device, before.gpu, 0)
            self.attempt = replace(
                before,
                progress=self.steps,
                updated=now,
                seconds=now - before.started,
                peak_memory_bytes=kib * 1024,
                device=kind,
                gpu=held,
                gpu_memory_bytes=memory,
            )
            record = replace(self.record, attempts=[*self.record.attempts, self.attempt])
            temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
            try:
                temporary.write_text(canonical(as_json(record)) + "\n", "utf-8")
                os.replace(temporary, self.path)
            finally:
                temporary.unlink(missing_ok=True)

    def finish(self, status: int, error: str | None = None, from_store: bool = False) -> None:
        """Close this attempt's entry in the record."""
        with self.writing:
            self.attempt = replace(self.attempt, exit=status, error=error, from_store=from_store)
            self.write()
            self.record = None

    # --- Signals to stop -------------------------------------------------------------------------

    @contextmanager
    def stoppable(self) -> Iterator[None]:
        """Within the block, SIGTERM and SIGINT end this process from a thread of their own, because
        the main one may be within a long call that nothing interrupts. The same thread keeps the
        record."""
        read, write = os.pipe()
        os.set_blocking(write, False)
        # What counts is the number in the pipe.
        before = {number: signal.signal(number, lambda *_: None) for number in STOPS}
        descriptor = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        watch = threading.Thread(target=self._watch, args=(read,), daemon=True)
        watch.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(descriptor)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.write(write, b"\0")
            watch.join()
            os.close(read)
            os.close(write)

    def _watch(self, read: int) -> None:
        while True:
            ready, _, _ = select.select([read], [], [], HEARTBEAT)
            number = os.read(read, 1)[0] if ready else None
            if number == 0:
                return
            if number in STOPS:
                self._stop(number)
            self.write()

    def _stop(self, number: int) -> None:
        """Save, say so, and end the process."""
        notes = [f"Stopped by {signal.Signals(number).name}."]
        try:
            notes += [save() for save in list(self.saves)]
        except Exception as error:  # a full disk: the process ends all the same
            notes.append(f"The state could not be saved ({error}).")
        sentence = " ".join([*notes, "Run the same command again."])
        with suppress(OSError):
            print(f"task-arithmetic {self.stage.command}: {sentence}", file=sys.stderr, flush=True)
        remove_temporaries()
        self.finish(128 + number, sentence)
        os._exit(128 + number)


def output_hashes(arguments: dict[str, Any], files: list[Path]) -> dict[str, str]:
    """Path → SHA-256 of what was written; of a folder, of the file with the hashes in it."""
    if "output_dir" in arguments:
        files = sorted(Path(arguments["output_dir"]).glob(f"{arguments['name']}.*"))
    elif files[0].is_dir():
        files = [files[0] / name for name in ("manifest.json", "encoder.json")]
        files.append(Path(arguments["output"]).with_suffix(".sha256"))
    hashes = read_sha256(files[0]) if files else {}
    return {str(p): hashes.get(p.name) or sha256_of_file(p) for p in files if p.is_file()}
