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
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import huggingface_hub as hf  # of which each name is imported when it is first used
from huggingface_hub import constants

from ..errors import UserError, is_disk_full, root_cause
from .checkpoint import FORMS, shards
from .definition import SPLIT_WORDS, Definition
from .download import EVERYTHING, REPOSITORIES, Download, HubFile
from .hashes import sha256_of_file
from .paths import atomic_path

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
ATTEMPTS, FIRST_WAIT = 3, 2.0  # of each request, and seconds before the second attempt

Files = dict[str, list[str]]  # split, or "weights" and the like → names of files, or patterns
T = TypeVar("T")


class Commit(NamedTuple):
    """A repository at one commit, and the names of its files. `what`: whose it is, in sentences."""

    what: str
    repo: str
    kind: str  # dataset or model
    sha: str
    names: list[str]

    def error(self, sentence: str) -> UserError:
        """What is wrong with it."""
        return UserError(f"{self.what}: {sentence}")


def download(
    kind: str, name: str, repo: str, revision: str | None, choose: Callable[[Commit], Files]
) -> Download:
    """Get files of a repository into the client's cache.

    Args:
        kind, name, repo, revision: as in Download.
        choose: which files; `dataset_files`, `open_clip_files` … of here.
    Raises:
        UserError: the hub cannot be reached, has no such repository, revision, config or split, or
            does not give access; a file arrived damaged; offline and not everything is cached.
    """
    at = _commit(f"{kind.title()} {name}", repo, REPOSITORIES[kind], revision)
    with ThreadPoolExecutor(4) as pool:
        files = {
            key: [file for _, file in pool.map(partial(_fetch, at), names)]
            for key, names in choose(at).items()
        }
    if revision != at.sha:
        # As the hub's client does where it is asked for a branch: offline, the branch is found by
        # it. Only once all its files are there.
        with atomic_path(_cache(repo, at.kind) / "refs" / (revision or "main")) as temporary:
            temporary.write_text(at.sha, "utf-8")
    return Download(kind, name, repo, revision, at.sha, files)


# --- Which repository, commit and files -----------------------------------------------------------


def _commit(what: str, repo: str, kind: str, revision: str | None) -> Commit:
    """The commit of a revision (default: main).

    The hub answers; without it, a commit that is named by its whole hash, or anything in offline
    mode, is looked for in the cache. Never another commit than the one that was asked for.
    """
    ask = partial(hf.HfApi().repo_info, repo, repo_type=kind, revision=revision, timeout=30)
    try:
        info: Any = _patiently(ask)
        return Commit(what, repo, kind, info.sha, [file.rfilename for file in info.siblings])
    except Exception as raised:
        error = raised  # offline: OfflineModeIsEnabled
    pinned = re.fullmatch("[0-9a-f]{40}", revision or "") is not None
    if constants.HF_HUB_OFFLINE or (pinned and _unreachable(error)):
        folder, commit = _cache(repo, kind), revision or "main"
        if (reference := folder / "refs" / commit).is_file():
            commit = reference.read_text("utf-8").strip()
        snapshot = folder / "snapshots" / commit
        names = sorted(str(p.relative_to(snapshot)) for p in snapshot.rglob("*") if p.is_file())
        if names:
            return Commit(what, repo, kind, commit, names)
    raise UserError(f"{what}: {_sentence(repo, repo, revision, error)}.") from error


def _cache(repo: str, kind: str) -> Path:
    """The client's folder of a repository."""
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type=kind)


def dataset_files(at: Commit, definition: Definition) -> Files:
    """Split → its parquet files; or all files of the repository if it is of another form."""
    patterns = None
    if "README.md" in at.names:
        readme, _ = _fetch(at, "README.md")
        listed = (hf.metadata_load(readme) or {}).get("configs")
        patterns = split_patterns(at.what, at.repo, listed, definition.config)
    known = patterns or {}
    parquet = sorted(name for name in at.names if name.endswith(".parquet"))
    every = [pattern for found in known.values() for pattern in found]
    if not parquet and (not every or any(_matches(name, every) for name in at.names)):
        return {EVERYTHING: _everything(at)}
    chosen = {}
    for split in definition.roles.values():
        chosen[split] = [x for x in parquet if of_split(x, split, patterns, definition.config)]
        if not chosen[split] and split not in known:
            has = ", ".join(sorted(known) or parquet[:4])
            raise at.error(
                f"{at.repo} on the hub has no split {split!r} (it has {has}); set `config`, "
                "`train` and `test` in its definition."
            )
        # No shard of `…-00000-of-00005…` may lack, as it can in a cache.
        shards = [found for x in chosen[split] if (found := re.search(r"\d{5}-of-(\d{5})", x))]
        if len(shards) == len(chosen[split]) != (int(shards[0][1]) if shards else 1):
            raise at.error(
                f"only {len(shards)} of the files of {at.repo}'s split {split!r} are there; run "
                "again with a connection to the hub."
            )
    for one, other in itertools.combinations(chosen, 2):
        if twice := set(chosen[one]) & set(chosen[other]):
            raise at.error(
                f"{min(twice)} of {at.repo} may be of its split {one!r} or {other!r}, by its name; "
                "download the repository and give its files as `path`."
            )
    return chosen


def split_patterns(what: str, repo: str, configs: Any, config: str | None) -> Files | None:
    """Split → patterns of file names, as the README's `configs` list them; None if it has none."""
    if not configs:
        return None
    by_name = {entry["config_name"]: entry for entry in configs}
    if config is None:
        default = [name for name, entry in by_name.items() if entry.get("default")]
        choice = [*default, *({"default"} & set(by_name)), *(by_name if len(by_name) == 1 else [])]
        config = choice[0] if choice else None
    if config not in by_name:
        asked = "needs `config`" if config is None else f"has no config {config!r}"
        raise UserError(
            f"{what}: {repo} on the hub {asked} (it has {', '.join(by_name)}); set `config` in its "
            "definition."
        )
    found: Files = {}
    for entry in by_name[config].get("data_files") or []:
        if isinstance(entry, dict):
            paths = entry["path"] if isinstance(entry["path"], list) else [entry["path"]]
            found.setdefault(entry["split"], []).extend(paths)
    return found or None


def of_split(name: str, split: str, patterns: Files | None, config: str | None) -> bool:
    """Whether a file belongs to a split: by the README's patterns, else by words in its name."""
    if patterns is not None:
        return _matches(name, patterns.get(split, []))
    if config and config not in Path(name).parts[:-1]:
        return False
    words = "|".join(map(re.escape, SPLIT_WORDS.get(split, [split])))
    return re.search(rf"(^|[^a-z])({words})([^a-z]|$)", name.lower()) is not None


def _matches(name: str, patterns: list[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _everything(at: Commit) -> list[str]:
    """All files of a commit. Their names do not tell how many there should be: offline, only the
    list that the client keeps of a commit's files tells whether one lacks."""
    ask = partial(hf.snapshot_download, at.repo, repo_type=at.kind, revision=at.sha)
    _asked(at, at.repo, partial(ask, ignore_patterns=".git*"))
    return sorted(name for name in at.names if not name.startswith(".git"))


def open_clip_files(at: Commit) -> Files:
    """The weights of a model in open_clip's form; it knows their geometry itself."""
    if WEIGHTS not in at.names:
        raise at.error(
            f"{at.repo} on the hub has no {WEIGHTS}; choose other pretrained weights, or give a "
            "local checkpoint as `path`."
        )
    return {"weights": [WEIGHTS]}


def model_files(at: Commit) -> Files:
    """The files of a model in transformers' form. Its weights come last: where they are in a cache,
    the others are too."""
    chosen = {key: [name for name in of if name in at.names] for key, of in MODEL_FILES.items()}
    chosen["weights"] = chosen["weights"] or _listed(at)
    for key, (needed, *_) in MODEL_FILES.items():
        if chosen[key][:1] not in ([needed], [WEIGHTS_INDEX]):
            here = "in the hub's cache" if constants.HF_HUB_OFFLINE else "on the hub"
            raise at.error(
                f"{at.repo} has no {needed} {here}; choose a model that has config.json, "
                "tokenizer.json and model.safetensors, or save it so with transformers and give "
                "that folder as `path`."
            )
    return chosen


def _listed(at: Commit) -> list[str]:
    """The list of shards, and those that it names; none if the weights are in no shards."""
    if WEIGHTS_INDEX not in at.names:
        return []
    return [WEIGHTS_INDEX, *shards(_fetch(at, WEIGHTS_INDEX)[0])]


def checkpoint_files(at: Commit) -> Files:
    """The files of fine-tuned weights, in transformers' form or open_clip's; no tokenizer."""
    for config, names in FORMS.items():
        if config in at.names:
            own = next((name for name in names if name in at.names), None)
            weights = _listed(at) if own == WEIGHTS_INDEX else [own] if own else []
            if weights:
                return {"config": [config], "weights": weights}
    raise at.error(
        f"{at.repo} on the hub has neither config.json with model.safetensors nor "
        "open_clip_config.json with open_clip_model.safetensors: download its weights and name "
        "their path."
    )


# --- Getting files --------------------------------------------------------------------------------


def _fetch(at: Commit, name: str) -> tuple[Path, HubFile]:
    """Download a file of one commit, and hold it to its hash; its path in the cache."""
    ask = partial(hf.hf_hub_download, at.repo, name, repo_type=at.kind, revision=at.sha)
    path = Path(_asked(at, f"{name} of {at.repo}", ask))
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
        raise at.error(
            f"{name} of {at.repo} is damaged (its hash is not the hub's) and was removed from the "
            "cache; run again to download it anew."
        )
    return path, HubFile(name, blob.stat().st_size, sha256)


def _asked(at: Commit, wanted: str, request: Callable[[], T]) -> T:
    """request(), patiently, with the client's errors as sentences on what was wanted."""
    try:
        return _patiently(request)
    except Exception as error:
        if is_disk_full(error):
            raise
        raise at.error(f"{_sentence(at.repo, wanted, at.sha, error)}.") from error


def _patiently(request: Callable[[], T]) -> T:
    """request(), again after a pause if the hub fails in a way that may pass."""
    for attempt in range(1, ATTEMPTS):
        try:
            return request()
        except Exception as error:
            if constants.HF_HUB_OFFLINE or not _unreachable(error):
                raise
            wait = FIRST_WAIT * 2 ** (attempt - 1)
            print(f"{root_cause(error)}; trying again in {wait:.0f} s", file=sys.stderr)
        time.sleep(wait)
    return request()


def _unreachable(error: Exception) -> bool:
    """Whether the hub is not to be reached now: server errors and broken connections."""
    status: int | None = getattr(getattr(error, "response", None), "status_code", None)
    return status is None or status >= 500 or status == 429


def _sentence(repo: str, wanted: str, revision: str | None, error: Exception) -> str:
    """The hub client's errors in our words, of a repository or of a file in it."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return (
            f"{repo} is gated: accept its terms on its page of the hub with your account, log in "
            "with `hf auth login`, and run again"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return (
            f"{repo} has no revision {revision!r} on the hub; correct `revision` in its definition"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"there is no {repo} on the hub, or it is private; correct its definition, or log in "
            "with `hf auth login`"
        )
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return f"{wanted} is not on the hub at {revision}; correct its definition"
    if constants.HF_HUB_OFFLINE:
        return (
            f"{wanted} is not in the hub's cache, and HF_HUB_OFFLINE is set; unset it, or download "
            "once where there is a connection"
        )
    return (
        f"the hub does not give {wanted} ({root_cause(error)}); check the connection, and run "
        "again: what is there already is kept"
    )
