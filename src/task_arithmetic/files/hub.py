"""Downloads from a model hub: only the files that are needed, of one commit, each held to its
hash."""

import hashlib
import itertools
import re
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import huggingface_hub as hf  # of which each name is imported when it is first used
from huggingface_hub import constants

from ..errors import UserError, is_disk_full
from .download import EVERYTHING, REPOSITORIES, Download, HubFile
from .hashes import sha256_of_file
from .local import Definition, wanted_splits
from .paths import atomic_path, read_json

WEIGHTS = "open_clip_model.safetensors"  # as open_clip names them in a hub's repository
MODEL_FILES = {  # of a model in transformers' form; the first of each must be there
    "config": ["config.json", "generation_config.json"],
    "tokenizer": [
        *("tokenizer.json", "tokenizer_config.json"),
        *("special_tokens_map.json", "spiece.model"),
    ],
    "weights": ["model.safetensors"],  # or WEIGHTS_INDEX and the files that this lists
}
WEIGHTS_INDEX = "model.safetensors.index.json"
SPLIT_WORDS = {  # words that stand for a split in names of files and folders
    "train": "train|training",
    "validation": "validation|valid|dev|val",
    "test": "test|testing|eval|evaluation",
}
ATTEMPTS, FIRST_WAIT = 3, 2.0  # of each request, and seconds before the second attempt

Patterns = dict[str, list[str]]  # split → patterns of file names
T = TypeVar("T")


class Commit(NamedTuple):
    """A repository at one commit, and the names of its files. `what`: whose it is, in sentences."""

    what: str
    repo: str
    kind: str  # dataset or model
    sha: str
    names: list[str]


def download(
    kind: str,
    name: str,
    repo: str,
    revision: str | None,
    choose: Callable[[Commit], dict[str, list[str]]],
) -> Download:
    """Get files of a repository into the client's cache.

    Args:
        kind, name, repo, revision: as in Download.
        choose: which files; `dataset_files`, `open_clip_files` or `model_files`.
    Raises:
        UserError: the hub cannot be reached, has no such repository, revision, config or split, or
            does not give access; a file arrived damaged; offline and not everything is cached.
    """
    at = _commit(f"{kind.title()} {name}", repo, REPOSITORIES[kind], revision)
    files = {key: _fetch(at, paths) for key, paths in choose(at).items()}
    _remember(at, revision or "main")
    return Download(kind, name, repo, revision, at.sha, files)


# --- Which repository, commit and files -----------------------------------------------------------


def _commit(what: str, repo: str, kind: str, revision: str | None) -> Commit:
    """The commit of a revision (default: main).

    The hub answers; without it, a commit that is named by its whole hash, or anything in offline
    mode, is looked for in the cache. Never another commit than the one that was asked for.
    """
    offline = constants.HF_HUB_OFFLINE
    error = None
    if not offline:
        try:
            info: Any = _patiently(
                lambda: hf.HfApi().repo_info(repo, repo_type=kind, revision=revision, timeout=30)
            )
            return Commit(what, repo, kind, info.sha, [file.rfilename for file in info.siblings])
        except Exception as raised:
            error = raised
    pinned = re.fullmatch("[0-9a-f]{40}", revision or "") is not None
    if offline or (pinned and _unreachable(error)):
        folder, commit = _cache(repo, kind), revision or "main"
        if (reference := folder / "refs" / commit).is_file():
            commit = reference.read_text("utf-8").strip()
        snapshot = folder / "snapshots" / commit
        names = sorted(str(p.relative_to(snapshot)) for p in snapshot.rglob("*") if p.is_file())
        if names:
            return Commit(what, repo, kind, commit, names)
    raise _sentence(what, repo, revision, error) from error


def _remember(at: Commit, revision: str) -> None:
    """Note in the cache which commit a branch or tag is, as the hub's client does where it is asked
    for a branch: offline, the branch is found by it. Only once all its files are there."""
    if revision != at.sha:
        with atomic_path(_cache(at.repo, at.kind) / "refs" / revision) as temporary:
            temporary.write_text(at.sha, "utf-8")


def _cache(repo: str, kind: str) -> Path:
    """The client's folder of a repository."""
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type=kind)


def dataset_files(at: Commit, definition: Definition) -> dict[str, list[str]]:
    """Split → its parquet files; or all files of the repository if it is of another form.

    Args:
        definition: optional config; train, validation and test (names of the source's splits;
            None: not needed).
    """
    patterns = None
    if "README.md" in at.names:
        metadata = hf.metadata_load(_fetched(at, "README.md")) or {}
        config = definition.get("config")
        patterns = split_patterns(at.what, at.repo, metadata.get("configs"), config)
    known = patterns or {}
    parquet = sorted(name for name in at.names if name.endswith(".parquet"))
    listed = [pattern for found in known.values() for pattern in found]
    if not parquet and (
        not listed or any(fnmatchcase(name, pattern) for name in at.names for pattern in listed)
    ):
        return {EVERYTHING: _everything(at)}
    chosen = {}
    for split in wanted_splits(definition):
        chosen[split] = [name for name in parquet if of_split(name, split, patterns, definition)]
        if not chosen[split] and split in known:
            raise UserError(
                f"{at.what}: the files of {at.repo}'s split {split!r} are not there "
                f"({', '.join(known[split])}); run again with a connection to the hub."
            )
        if not chosen[split]:
            has = ", ".join(sorted(known) or parquet[:4])
            raise UserError(
                f"{at.what}: {at.repo} on the hub has no split {split!r} (it has {has}); set "
                "`config`, `train` and `test` in its definition."
            )
        _check_complete(at, chosen[split])
    for one, other in itertools.combinations(chosen, 2):
        if twice := set(chosen[one]) & set(chosen[other]):
            raise UserError(
                f"{at.what}: {min(twice)} of {at.repo} may be of its split {one!r} or {other!r}, "
                "by its name; download the repository and give its files as `path`."
            )
    return chosen


def split_patterns(what: str, repo: str, configs: Any, config: str | None) -> Patterns | None:
    """Split → patterns of file names, as the README's `configs` list them; None if it has none."""
    if not configs:
        return None
    by_name = {entry["config_name"]: entry for entry in configs}
    default = [name for name, entry in by_name.items() if entry.get("default")]
    if config is None:
        choice = [*default, *({"default"} & set(by_name)), *(by_name if len(by_name) == 1 else [])]
        config = choice[0] if choice else None
    if config not in by_name:
        asked = "needs `config`" if config is None else f"has no config {config!r}"
        raise UserError(
            f"{what}: {repo} on the hub {asked} (it has {', '.join(by_name)}); set `config` in its "
            "definition."
        )
    found: Patterns = {}
    for entry in by_name[config].get("data_files") or []:
        if isinstance(entry, dict):
            paths = entry["path"] if isinstance(entry["path"], list) else [entry["path"]]
            found.setdefault(entry["split"], []).extend(paths)
    return found or None


def of_split(name: str, split: str, patterns: Patterns | None, definition: Definition) -> bool:
    """Whether a file belongs to a split: by the README's patterns, else by words in its name."""
    if patterns is not None:
        return any(fnmatchcase(name, pattern) for pattern in patterns.get(split, []))
    if definition.get("config") and definition["config"] not in Path(name).parts[:-1]:
        return False
    words = SPLIT_WORDS.get(split, re.escape(split))
    return re.search(rf"(^|[^a-z])({words})([^a-z]|$)", name.lower()) is not None


def _everything(at: Commit) -> list[str]:
    """All files of a commit. Their names do not tell how many there should be: offline, only the
    list that the client keeps of a commit's files tells whether one lacks."""
    options: dict[str, Any] = {"repo_type": at.kind, "revision": at.sha}
    _asked(at, None, lambda: hf.snapshot_download(at.repo, ignore_patterns=".git*", **options))
    return sorted(name for name in at.names if not name.startswith(".git"))


def _check_complete(at: Commit, names: list[str]) -> None:
    """No shard of `…-00000-of-00005…` may lack, as it can in a cache."""
    shards = [match for name in names if (match := re.search(r"\d{5}-of-(\d{5})", name))]
    if len(shards) == len(names) != int(shards[0][1]):
        raise UserError(
            f"{at.what}: only {len(names)} of the {int(shards[0][1])} files of {at.repo}'s split "
            f"are there ({names[0]}, …); run again with a connection to the hub."
        )


def open_clip_files(at: Commit) -> dict[str, list[str]]:
    """The weights of a model in open_clip's form; it knows their geometry itself."""
    if WEIGHTS not in at.names:
        raise UserError(
            f"{at.what}: {at.repo} on the hub has no {WEIGHTS}; choose other pretrained weights, "
            "or give a local checkpoint as `path`."
        )
    return {"weights": [WEIGHTS]}


def model_files(at: Commit) -> dict[str, list[str]]:
    """The files of a model in transformers' form. Its weights come last: where they are in a cache,
    the others are too."""
    chosen = {key: [name for name in of if name in at.names] for key, of in MODEL_FILES.items()}
    if not chosen["weights"] and WEIGHTS_INDEX in at.names:
        listed = read_json(_fetched(at, WEIGHTS_INDEX)).get("weight_map", {})
        chosen["weights"] = [WEIGHTS_INDEX, *sorted(set(listed.values()))]
    for key, (needed, *_) in MODEL_FILES.items():
        if chosen[key][:1] not in ([needed], [WEIGHTS_INDEX]):
            here = "in the hub's cache" if constants.HF_HUB_OFFLINE else "on the hub"
            raise UserError(
                f"{at.what}: {at.repo} has no {needed} {here}; choose a model that has "
                "config.json, tokenizer.json and model.safetensors, or save it so with "
                "transformers and give that folder as `path`."
            )
    return chosen


# --- Getting files --------------------------------------------------------------------------------


def _fetch(at: Commit, paths: list[str]) -> list[HubFile]:
    """Download files of one commit."""
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(lambda path: _fetch_one(at, path), paths))


def _fetched(at: Commit, name: str) -> str:
    """A file that tells of others, downloaded: its path in the cache."""
    _fetch_one(at, name)
    return hf.hf_hub_download(
        at.repo, name, repo_type=at.kind, revision=at.sha, local_files_only=True
    )


def _fetch_one(at: Commit, name: str) -> HubFile:
    options: dict[str, Any] = {"repo_type": at.kind, "revision": at.sha}
    path = Path(_asked(at, name, lambda: hf.hf_hub_download(at.repo, name, **options)))
    blob = path.resolve()
    sha256, intact = sha256_of_file(blob), True
    # The hub names a file by its SHA-256, a small one by its hash in git; so does the cache.
    if re.fullmatch("[0-9a-f]{64}", blob.name):
        intact = blob.name == sha256
    elif re.fullmatch("[0-9a-f]{40}", blob.name):
        content = blob.read_bytes()
        intact = blob.name == hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    if not intact:
        blob.unlink()
        path.unlink(missing_ok=True)
        raise UserError(
            f"{at.what}: {name} of {at.repo} is damaged (its hash is not the hub's) and was "
            "removed from the cache; run again to download it anew."
        )
    return HubFile(name, blob.stat().st_size, sha256)


def _asked(at: Commit, name: str | None, request: Callable[[], T]) -> T:
    """request(), patiently, with the client's errors as sentences on a file, or on all of them."""
    try:
        return _patiently(request)
    except Exception as error:
        if is_disk_full(error):
            raise
        raise _sentence(at.what, at.repo, at.sha, error, name) from error


def _patiently(request: Callable[[], T]) -> T:
    """request(), again after a pause if the hub fails in a way that may pass."""
    for attempt in range(1, ATTEMPTS):
        try:
            return request()
        except Exception as error:
            if not _passing(error):
                raise
            wait = FIRST_WAIT * 2 ** (attempt - 1)
            print(f"{_reason(error)}; trying again in {wait:.0f} s", file=sys.stderr)
        time.sleep(wait)
    return request()


def _status(error: BaseException | None) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _passing(error: Exception) -> bool:
    """Whether another attempt may succeed: server errors and broken connections."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    status = _status(error)
    if status is not None:
        return status >= 500 or status == 429
    if isinstance(error, OfflineModeIsEnabled | UserError):
        return False
    kinds = {kind.__name__ for kind in type(error).__mro__}  # the client's own are no OSErrors
    return isinstance(error, OSError) or "TransportError" in kinds


def _unreachable(error: Exception | None) -> bool:
    status = _status(error)
    return status is None or status >= 500


def _reason(error: Exception | None) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _sentence(
    what: str, repo: str, revision: str | None, error: Exception | None, file: str | None = None
) -> UserError:
    """The hub client's errors as one sentence, of a repository or of a file in it."""
    from huggingface_hub import errors

    wanted = repo if file is None else f"{file} of {repo}"
    if isinstance(error, errors.GatedRepoError):
        says = (
            f"{repo} is gated: accept its terms on its page of the hub with your account, "
            "log in with `hf auth login`, and run again"
        )
    elif isinstance(error, errors.RevisionNotFoundError):
        says = (
            f"{repo} has no revision {revision!r} on the hub; correct `revision` in its definition"
        )
    elif isinstance(error, errors.RepositoryNotFoundError):
        says = (
            f"there is no {repo} on the hub, or it is private; correct its definition, or log in "
            "with `hf auth login`"
        )
    elif isinstance(error, errors.RemoteEntryNotFoundError):
        says = f"{wanted} is not on the hub at {revision}; correct its definition"
    elif constants.HF_HUB_OFFLINE:
        says = (
            f"{wanted} is not in the hub's cache, and HF_HUB_OFFLINE is set; unset it, or "
            "download once where there is a connection"
        )
    else:
        says = (
            f"the hub does not give {wanted} ({_reason(error)}); check the connection, and run "
            "again: what is there already is kept"
        )
    return UserError(f"{what}: {says}.")
