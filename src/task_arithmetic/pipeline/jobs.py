"""One job: what a stage's command does around the stage's function.

A job holds a lock on its output, so that nothing is computed twice at once; takes what was already
computed from the store; keeps a record of itself beside its log, which `status` and the report
read; writes the hashes of its outputs; and ends within seconds of SIGTERM or SIGINT, whatever it is
doing, after what training has to save.
"""

import errno
import os
import pwd
import select
import shlex
import signal
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage

from ..errors import UserError, is_disk_full, no_space
from ..files.hashes import canonical, read_sha256, sha256_of, sha256_of_file, versions, write_sha256
from ..files.paths import place_of_log, read_json, remove_partial, remove_temporaries
from ..stages.declared import HASHED, ON_DEVICE, STORED
from . import gpu, store
from .locks import locked, node
from .rerun import planned_code, stage_code, variant_of

HEARTBEAT = 3.0  # seconds between two writings of the record
ATTEMPTS = 20  # kept in the record
# Options that name files; all others but KNOBS say what is to be computed.
INPUTS = (
    "encoder_dir data_dir data_dirs head heads vector vectors finetuned single_task pretrained "
    "control_head control_data_dir inputs metrics reference download tables_dir figures_dir"
).split()
OUTPUTS = ["output", "log", "output_dir"]
KNOBS = ["threads", "run_dir", "config_text"]

_job: dict = {}  # this process's job: path and content of its record, the running attempt …
_writing = threading.RLock()  # of the record
_saves: list = []  # what a signal to stop calls first
_done: list = []  # what is called when the outputs are complete


def run(command: str, find, arguments: dict, log=None, code: str | None = None) -> None:
    """Call a stage's function with `arguments` as a job.

    Args:
        command: the stage's command, such as `finetune`.
        find: find() imports and returns the function.
        log: the job's log file; its record is written beside it, and the store lies below the
            results that it belongs to. None: a command by hand, with neither.
        code: the label of the stage's code that Snakemake planned with (rerun.stage_code).
    Raises:
        UserError: as the function; the code is no longer what was planned with; an input changed
            while the job waited or ran.
    """
    files = [Path(arguments[key]) for key in ("output", "log") if arguments.get(key)]
    target = files[0] if files else Path(arguments["output_dir"]) / arguments["name"]
    with _stoppable(command), locked(target.with_name(f".{target.name}.lock"), str(target)):
        remove_partial(target)
        _begin(command, log)
        try:
            _make(command, find, arguments, files, log, code)
            _finish(0)
        except BaseException as error:
            status, sentence = outcome(error)
            _finish(status, sentence or f"{type(error).__name__}: {error}")
            raise
        finally:
            _job.clear()
            _done.clear()


def _make(command: str, find, arguments: dict, files: list[Path], log, planned) -> None:
    """Take the outputs from the store, or compute them and put them there."""
    code = _job["code"] = planned_code(command, arguments, planned)
    inputs = identities(arguments)
    fingerprint = fingerprint_of(command, arguments, code, inputs)
    folder, limit = _store(log, command)
    taken = limit > 0 and store.take(folder, command, fingerprint, files)
    if taken:
        print(f"Taken from the store, where it is kept as {fingerprint[:16]}.", file=sys.stderr)
    else:
        tokenizes = (command, variant_of(command, arguments)) == ("head", "language")
        if command in ON_DEVICE and not tokenizes:
            gpu.claim(_device())
        function = find()  # after the wait for a GPU, in which the code may have changed
        planned_code(command, arguments, planned)
        _check_unchanged(inputs, arguments)
        function(**arguments)
        _check_unchanged(inputs, arguments)
    if command in HASHED:
        write_sha256(files)
    if limit > 0 and not taken:
        store.put(folder, command, fingerprint, files, limit)
    for action in _done:
        action()
    _job["attempt"]["from_store"] = taken
    if "path" in _job:
        _job["record"]["made"] = {
            "code": code,
            "fingerprint": fingerprint,
            "arguments": settings_of(arguments),
            "inputs": inputs,
            "outputs": _output_hashes(arguments, files),
            "versions": versions(),
            "accepted": [],
        }


def _check_unchanged(inputs: dict[str, str], arguments: dict) -> None:
    """The inputs are those that the job began with; another run may share some of them."""
    now = identities(arguments)
    for path, value in inputs.items():
        if now[path] != value:
            raise UserError(
                f"{path} changed while this job waited or ran: run the same snakemake command "
                "again, which takes it as it is now."
            )


def outcome(error: BaseException) -> tuple[int, str | None]:
    """The exit status of a command that ended in `error`, and what to say; None: it is a defect of
    ours, whose traceback is shown."""
    if isinstance(error, UserError):
        return 1, str(error)
    if isinstance(error, KeyboardInterrupt):
        return 130, "Stopped before it was done; run the same command again."
    if is_disk_full(error):
        return 1, f"{no_space(error, getattr(error, 'filename', None))}."
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return 1, not_allowed(error)
    if gpu.lost_gpu(error):
        return 1, (
            f"The GPU failed or disappeared ({str(error).strip().splitlines()[0]}): look at "
            "nvidia-smi and run the same command again; training resumes where it was saved."
        )
    return 1, None


def not_allowed(error: OSError) -> str:
    """The sentence for a file that this user may not read or write: whom to ask for it."""
    path = str(error.filename)
    if error.errno == errno.EROFS:
        return f"{path} cannot be written, because its file system is mounted read-only."
    place = next((each for each in (Path(path), *Path(path).parents) if each.exists()), Path("."))
    try:
        owner = pwd.getpwuid(place.stat().st_uid).pw_name
    except (OSError, KeyError):  # of another machine's users
        owner = "its owner"
    return (
        f"{path} cannot be read or written ({error.strerror}): ask {owner}, to whom {place} "
        f"belongs, for the right to (`chmod g+rwX {shlex.quote(str(place))}`)."
    )


# --- What a result depends on --------------------------------------------------------------------


def identities(arguments: dict) -> dict[str, str]:
    """Input path → what identifies its content: its recorded SHA-256, else that of its bytes."""
    return {path: _identity(Path(path)) for key in INPUTS for path in _paths(arguments, key)}


def _paths(arguments: dict, key: str) -> list[str]:
    """The paths that an option gives."""
    value = arguments.get(key) or []
    return [str(path) for path in (value if isinstance(value, list) else [value])]


def _identity(path: Path) -> str:
    if (path / "manifest.json").is_file():
        about = read_json(path / "manifest.json")
        return sha256_of([about.get(key) for key in ("task", "classes", "files")])
    if (path / "encoder.json").is_file():
        about = read_json(path / "encoder.json")
        return sha256_of({key: value for key, value in about.items() if key != "seal"})
    recorded = read_sha256(path).get(path.name)
    return recorded or (sha256_of_file(path) if path.is_file() else "")


def fingerprint_of(command: str, arguments: dict, code: str, inputs: dict[str, str]) -> str:
    """A hash of all that a stage's outputs depend on: code, settings and inputs, not places; and
    the packages and the kind of device, which Snakemake does not see change."""
    found = {key: [inputs[path] for path in _paths(arguments, key)] for key in INPUTS}
    kind = "cuda" if gpu.choices(_device()) else "cpu"
    versions = packages(variant_of(command, arguments))
    return sha256_of([command, code, settings_of(arguments), found, versions, kind])


def packages(modality: str | None = None) -> dict[str, str]:
    """Versions of what learning stages compute with, in this process."""
    names = ["python", "torch", "open_clip_torch", "numpy", "safetensors"]
    names += ["tokenizers"] * (modality == "language")
    return {name: versions()[name] for name in names}


def _device() -> str:
    """The configuration's `device`."""
    return os.environ.get("TASK_ARITHMETIC_DEVICE", "auto")


def settings_of(arguments: dict) -> dict:
    """The arguments that say what is computed: neither paths nor machine knobs."""
    return {k: v for k, v in arguments.items() if k not in (*INPUTS, *OUTPUTS, *KNOBS)}


def current_code(command: str, variant: str | None = None) -> str:
    """The label of the code that computes: this job's or, without a job, that of the sources (see
    rerun.stage_code)."""
    return _job["code"] if "code" in _job else stage_code(command, variant)


def _store(log, command: str) -> tuple[Path | None, float]:
    """The store's folder and its limit in bytes; 0 where nothing is stored."""
    place = place_of_log(log) if log else None
    limit = float(os.environ.get("TASK_ARITHMETIC_STORE_GB", 0)) * 1e9
    if command not in STORED or place is None or limit <= 0:
        return None, 0.0
    return place[0] / store.FOLDER, limit


# --- The record ----------------------------------------------------------------------------------


def progress(done: int, total: int, unit: str, **figures) -> None:
    """Say how far the job is: in its record, from its next heartbeat on. What was done at the first
    call, as `first`, was done by earlier attempts; `since` is the time of that call.

    Args:
        figures: such as loss and images_per_second.
    """
    if "attempt" in _job:
        before = _job["attempt"]["progress"] or {"first": done, "since": time.time()}
        _job["attempt"]["progress"] = {
            "first": before["first"],
            "since": before["since"],
            "done": done,
            "total": total,
            "unit": unit,
            **figures,
        }


def _begin(command: str, log) -> None:
    """Start this attempt's entry in the job's record."""
    slurm = os.environ.get("SLURM_JOB_ID")
    attempt = {
        "command": shlex.join(["task-arithmetic", *sys.argv[1:]]),
        "started": time.time(),
        "node": node(),
        "pid": os.getpid(),
        "slurm_job": slurm,
        "device": "cpu",
        "gpu": os.environ.get("CUDA_VISIBLE_DEVICES") or None if slurm else None,
        "exit": None,
        "error": None,
        "from_store": False,
        "progress": None,
    }
    _job["attempt"] = attempt
    if log is None:
        return
    path, before = Path(log).with_suffix(".json"), {}
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(UserError):
        before = read_json(path)
    remove_partial(path)
    place = place_of_log(log)
    name = place[1] if place else path.stem
    attempts = [*before.get("attempts", []), attempt][-ATTEMPTS:]
    record = {**before, "stage": command, "job": name, "attempts": attempts}
    _job.update(path=path, record=record)
    _write()


def _write() -> None:
    """Measure, and rewrite the record; what cannot be written is let be: a record is no result."""
    with _writing, suppress(OSError):
        if "path" not in _job:
            return
        attempt = _job["attempt"]
        attempt["updated"] = time.time()
        attempt["seconds"] = attempt["updated"] - attempt["started"]
        kib = max(getrusage(who).ru_maxrss for who in (RUSAGE_SELF, RUSAGE_CHILDREN))
        attempt["peak_memory_bytes"] = kib * 1024
        attempt |= gpu.in_use()
        path = _job["path"]
        temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            temporary.write_text(canonical(_job["record"]) + "\n", "utf-8")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def _output_hashes(arguments: dict, files: list[Path]) -> dict[str, str]:
    """Path → SHA-256 of what was written; of a folder, of the file with the hashes in it."""
    if "output_dir" in arguments:
        files = sorted(Path(arguments["output_dir"]).glob(f"{arguments['name']}.*"))
    elif files[0].is_dir():
        files = [files[0] / name for name in ("manifest.json", "encoder.json")]
        files.append(Path(arguments["output"]).with_suffix(".sha256"))
    hashes = read_sha256(files[0]) if files else {}
    return {str(p): hashes.get(p.name) or sha256_of_file(p) for p in files if p.is_file()}


def _finish(status: int, error: str | None = None) -> None:
    """Close this attempt's entry in the record."""
    _job["attempt"] |= {"exit": status, "error": error}
    if "path" in _job:
        with _writing:
            _write()
            del _job["path"]


def when_done(action) -> None:
    """Call `action()` once the job's outputs are complete and stored; at once if this is no job."""
    if _job:
        _done.append(action)
    else:
        action()


# --- Signals to stop -----------------------------------------------------------------------------


@contextmanager
def saving(save):
    """Within the block, SIGTERM and SIGINT call save() before they end the job.

    It is called in another thread, while the block goes on, and returns a sentence.
    """
    _saves.append(save)
    try:
        yield
    finally:
        _saves.remove(save)


@contextmanager
def _stoppable(command: str):
    """Within the block, SIGTERM and SIGINT end this process from a thread of their own, because the
    main one may be within a long call that nothing interrupts. The same thread keeps the record."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    read, write = os.pipe()
    os.set_blocking(write, False)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        signal.signal(number, lambda *_: None)  # what counts is the number in the pipe
    descriptor = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    watch = threading.Thread(target=_watch, args=(read, command), daemon=True)
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


def _watch(read: int, command: str) -> None:
    while True:
        ready, _, _ = select.select([read], [], [], HEARTBEAT)
        number = os.read(read, 1)[0] if ready else None
        if number == 0:
            return
        if number in (signal.SIGTERM, signal.SIGINT):
            _stop(number, command)
        if "path" in _job:
            _write()


def _stop(number: int, command: str) -> None:
    """Save, say so, and end the process."""
    notes = [f"Stopped by {signal.Signals(number).name}."]
    try:
        notes += [save() for save in list(_saves)]
    except Exception as error:  # a full disk: the process ends all the same
        notes.append(f"The state could not be saved ({error}).")
    sentence = " ".join([*notes, "Run the same command again."])
    with suppress(OSError):
        print(f"task-arithmetic {command}: {sentence}", file=sys.stderr, flush=True)
    remove_temporaries()
    if "attempt" in _job:
        _finish(128 + number, sentence)
    os._exit(128 + number)
