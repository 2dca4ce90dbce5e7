"""Downloads from a model hub: only the files that are needed, of one commit, each held to its hash.

Files lie in the hub client's own cache, where its other users find them. A download is recorded as
JSON: repository, commit, and the path, size and SHA-256 of each file. Whoever reads the files later
gets exactly these, with or without a connection.
"""

import hashlib
import itertools
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path

from ..errors import UserError, is_disk_full
from ..vision.geometry import weights_repository
from .hashes import sha256_of_file
from .local import wanted_splits
from .paths import atomic_path, read_json, write_json

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
EVERYTHING = "*"  # the key of a dataset's files if they cannot be told apart by split
SPLIT_WORDS = {  # words that stand for a split in names of files and folders
    "train": "train|training",
    "validation": "validation|valid|dev|val",
    "test": "test|testing|eval|evaluation",
}
ATTEMPTS, FIRST_WAIT = 3, 2.0  # of each request, and seconds before the second attempt


def download(settings: dict, output) -> None:
    """Download a task's data or an encoder's weights and record what was got.

    Args:
        settings: kind "task": name, hub (owner/name), optional config and revision, train and test
            (names of the source's splits; None: not needed); kind "encoder": name, and model and
            pretrained (open_clip's names), or hub and optional revision: a repository in
            transformers' form.
        output: JSON: kind, name, repo, revision (as asked), commit, files: split, or "weights",
            "config" and "tokenizer" → list of path, size (bytes), sha256.
    Raises:
        UserError: the hub cannot be reached, has no such repository, revision, config or split, or
            does not give access; a file arrived damaged; offline and not everything is cached.
    """
    repo, revision = settings.get("hub"), settings.get("revision")
    if settings["kind"] == "task":
        where = f"Task {settings['name']}", repo, "dataset"
        choose = _dataset_files
    elif repo is not None:
        where, choose = (f"Encoder {settings['name']}", repo, "model"), _model_files
    else:
        repo = weights_repository(settings["name"], settings)
        where, choose = (f"Encoder {settings['name']}", repo, "model"), _open_clip_files
    commit, names = _repository(*where, revision)
    chosen = choose(where, commit, names, settings)
    files = {key: _fetch(where, commit, paths) for key, paths in chosen.items()}
    _remember(where[1], where[2], revision or "main", commit)
    record = {"repo": where[1], "revision": revision, "commit": commit, "files": files}
    write_json(output, {"kind": settings["kind"], "name": settings["name"], **record})


def located(record: dict) -> dict[str, list[Path]]:
    """Split, or "weights" and the like → a record's files, in the hub client's cache.

    Raises:
        UserError: a file is gone from the cache or has another size.
    """
    from huggingface_hub import try_to_load_from_cache

    kind = {"task": "dataset", "encoder": "model"}[record["kind"]]
    found: dict[str, list[Path]] = {}
    for key, files in record["files"].items():
        for file in files:
            path = try_to_load_from_cache(
                record["repo"], file["path"], revision=record["commit"], repo_type=kind
            )
            if not isinstance(path, str) or Path(path).stat().st_size != file["size"]:
                raise UserError(
                    f"{record['kind'].title()} {record['name']}: {file['path']} of "
                    f"{record['repo']} is no longer in the hub's cache as it was downloaded; "
                    f"delete results/shared/downloads/{record['kind']}s/{record['name']}.json and "
                    "run again."
                )
            found.setdefault(key, []).append(Path(path))
    return found


def snapshot_dir(record: dict, files: dict[str, list[Path]]) -> Path:
    """The folder of the cache that holds a record's repository at its commit."""
    first = next(path for paths in files.values() for path in paths)
    return next(parent for parent in first.parents if parent.name == record["commit"])


# --- Which repository, commit and files -----------------------------------------------------------


def _repository(what: str, repo: str, kind: str, revision: str | None) -> tuple[str, list[str]]:
    """The commit of a revision (default: main) and the names of its files.

    The hub answers; without it, a commit that is named by its whole hash, or anything in offline
    mode, is looked for in the cache. Never another commit than the one that was asked for.
    """
    from huggingface_hub import HfApi, constants

    offline = constants.HF_HUB_OFFLINE
    error = None
    if not offline:
        try:
            info = _patiently(
                lambda: HfApi().repo_info(repo, repo_type=kind, revision=revision, timeout=30)
            )
            return info.sha, [sibling.rfilename for sibling in info.siblings]
        except Exception as raised:
            error = raised
    pinned = re.fullmatch("[0-9a-f]{40}", revision or "") is not None
    if offline or (pinned and _unreachable(error)):
        cached = _cached(repo, kind, revision or "main")
        if cached is not None:
            return cached
    raise _sentence(what, repo, revision, error) from error


def _cached(repo: str, kind: str, revision: str) -> tuple[str, list[str]] | None:
    """Commit and file names of a cached revision; None if there is none."""
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type=kind)
    reference = folder / "refs" / revision
    commit = reference.read_text("utf-8").strip() if reference.is_file() else revision
    snapshot = folder / "snapshots" / commit
    names = sorted(str(p.relative_to(snapshot)) for p in snapshot.rglob("*") if p.is_file())
    return (commit, names) if names else None


def _remember(repo: str, kind: str, revision: str, commit: str) -> None:
    """Note in the cache which commit a branch or tag is, as the hub's client does where it is asked
    for a branch: offline, the branch is found by it. Only once all its files are there."""
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    if revision != commit:
        folder = Path(HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type=kind)
        with atomic_path(folder / "refs" / revision) as temporary:
            temporary.write_text(commit, "utf-8")


def _dataset_files(where, commit: str, names: list[str], settings: dict) -> dict[str, list[str]]:
    """Split → its parquet files; or all files of the repository if it is of another form."""
    what, repo, kind = where
    patterns = None
    if "README.md" in names:
        from huggingface_hub import metadata_load

        (readme,) = _fetch(where, commit, ["README.md"])
        metadata = metadata_load(_cache_path(repo, kind, commit, readme["path"])) or {}
        patterns = split_patterns(what, repo, metadata.get("configs"), settings.get("config"))
    parquet = sorted(name for name in names if name.endswith(".parquet"))
    listed = [pattern for found in (patterns or {}).values() for pattern in found]
    if not parquet and (
        not listed or any(fnmatchcase(name, pattern) for name in names for pattern in listed)
    ):
        return {EVERYTHING: _everything(where, commit, names)}
    chosen = {}
    for split in wanted_splits(settings):
        chosen[split] = [name for name in parquet if of_split(name, split, patterns, settings)]
        if not chosen[split] and split in (patterns or {}):
            raise UserError(
                f"{what}: the files of {repo}'s split {split!r} are not there "
                f"({', '.join(patterns[split])}); run again with a connection to the hub."
            )
        if not chosen[split]:
            known = sorted(patterns) if patterns else parquet[:4]
            raise UserError(
                f"{what}: {repo} on the hub has no split {split!r} (it has {', '.join(known)}); "
                "set `config`, `train` and `test` in its definition."
            )
        _check_complete(what, repo, chosen[split])
    for one, other in itertools.combinations(chosen, 2):
        if twice := set(chosen[one]) & set(chosen[other]):
            raise UserError(
                f"{what}: {min(twice)} of {repo} may be of its split {one!r} or {other!r}, by its "
                "name; download the repository and give its files as `path`."
            )
    return chosen


def split_patterns(what: str, repo: str, configs, config: str | None) -> dict | None:
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
    found: dict[str, list[str]] = {}
    for entry in by_name[config].get("data_files") or []:
        if isinstance(entry, dict):
            paths = entry["path"] if isinstance(entry["path"], list) else [entry["path"]]
            found.setdefault(entry["split"], []).extend(paths)
    return found or None


def of_split(name: str, split: str, patterns: dict | None, settings: dict) -> bool:
    """Whether a file belongs to a split: by the README's patterns, else by words in its name."""
    if patterns is not None:
        return any(fnmatchcase(name, pattern) for pattern in patterns.get(split, []))
    if settings.get("config") and settings["config"] not in Path(name).parts[:-1]:
        return False
    words = SPLIT_WORDS.get(split, re.escape(split))
    return re.search(rf"(^|[^a-z])({words})([^a-z]|$)", name.lower()) is not None


def _everything(where, commit: str, names: list[str]) -> list[str]:
    """All files of a commit. Their names do not tell how many there should be: offline, only the
    list that the client keeps of a commit's files tells whether one lacks."""
    from huggingface_hub import snapshot_download

    what, repo, kind = where
    options = {"repo_type": kind, "revision": commit, "ignore_patterns": ".git*"}
    try:
        _patiently(lambda: snapshot_download(repo, **options))
    except Exception as error:
        if is_disk_full(error):
            raise
        raise _sentence(what, repo, commit, error) from error
    return sorted(name for name in names if not name.startswith(".git"))


def _check_complete(what: str, repo: str, names: list[str]) -> None:
    """No shard of `…-00000-of-00005…` may lack, as it can in a cache."""
    numbered = [re.search(r"(\d{5})-of-(\d{5})", name) for name in names]
    if all(numbered) and len(numbered) != int(numbered[0][2]):
        raise UserError(
            f"{what}: only {len(names)} of the {int(numbered[0][2])} files of {repo}'s split are "
            f"there ({names[0]}, …); run again with a connection to the hub."
        )


def _open_clip_files(where, commit: str, names: list[str], settings: dict) -> dict[str, list[str]]:
    if WEIGHTS not in names:
        raise UserError(
            f"{where[0]}: {where[1]} on the hub has no {WEIGHTS}; choose other pretrained weights, "
            "or give a local checkpoint as `path`."
        )
    return {"weights": [WEIGHTS]}


def _model_files(where, commit: str, names: list[str], settings: dict) -> dict[str, list[str]]:
    """The files of a model in transformers' form. Its weights come last: where they are in a cache,
    the others are too."""
    from huggingface_hub import constants

    what, repo, kind = where
    chosen = {key: [name for name in some if name in names] for key, some in MODEL_FILES.items()}
    if not chosen["weights"] and WEIGHTS_INDEX in names:
        _fetch(where, commit, [WEIGHTS_INDEX])
        listed = read_json(_cache_path(repo, kind, commit, WEIGHTS_INDEX)).get("weight_map", {})
        chosen["weights"] = [WEIGHTS_INDEX, *sorted(set(listed.values()))]
    for key, (needed, *_) in MODEL_FILES.items():
        if chosen[key][:1] not in ([needed], [WEIGHTS_INDEX]):
            here = "in the hub's cache" if constants.HF_HUB_OFFLINE else "on the hub"
            raise UserError(
                f"{what}: {repo} has no {needed} {here}; choose a model that has config.json, "
                "tokenizer.json and model.safetensors, or save it so with transformers and give "
                "that folder as `path`."
            )
    return chosen


# --- Getting files --------------------------------------------------------------------------------


def _fetch(where, commit: str, paths: list[str]) -> list[dict]:
    """Download files of one commit; returns path, size and SHA-256 of each, in the same order."""
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(lambda path: _fetch_one(where, commit, path), paths))


def _fetch_one(where, commit: str, name: str) -> dict:
    from huggingface_hub import hf_hub_download

    what, repo, kind = where
    try:
        path = Path(
            _patiently(lambda: hf_hub_download(repo, name, repo_type=kind, revision=commit))
        )
    except Exception as error:
        if is_disk_full(error):
            raise
        raise _sentence(what, repo, commit, error, name) from error
    blob = path.resolve()
    sha256 = sha256_of_file(blob)
    # The hub names a file by its SHA-256, a small one by its hash in git; so does the cache.
    if re.fullmatch("[0-9a-f]{64}", blob.name):
        intact = blob.name == sha256
    elif re.fullmatch("[0-9a-f]{40}", blob.name):
        content = blob.read_bytes()
        intact = blob.name == hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    else:
        intact = True
    if not intact:
        blob.unlink()
        path.unlink(missing_ok=True)
        raise UserError(
            f"{what}: {name} of {repo} is damaged (its hash is not the hub's) and was removed from "
            "the cache; run again to download it anew."
        )
    return {"path": name, "size": blob.stat().st_size, "sha256": sha256}


def _cache_path(repo: str, kind: str, commit: str, name: str) -> str:
    from huggingface_hub import hf_hub_download

    return hf_hub_download(repo, name, repo_type=kind, revision=commit, local_files_only=True)


def _patiently(request):
    """request(), again after a pause if the hub fails in a way that may pass."""
    wait = FIRST_WAIT
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return request()
        except Exception as error:
            if attempt == ATTEMPTS or not _passing(error):
                raise
            print(f"{_reason(error)}; trying again in {wait:.0f} s", file=sys.stderr)
        time.sleep(wait)
        wait *= 2


def _status(error) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _passing(error) -> bool:
    """Whether another attempt may succeed: server errors and broken connections."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    status = _status(error)
    if status is not None:
        return status >= 500 or status == 429
    if isinstance(error, OfflineModeIsEnabled | UserError):
        return False
    kinds = {kind.__name__ for kind in type(error).__mro__}  # the client's own are no OSErrors
    return isinstance(error, OSError) or "TransportError" in kinds


def _unreachable(error) -> bool:
    status = _status(error)
    return status is None or status >= 500


def _reason(error) -> str:
    text = str(error).strip()
    first = text.splitlines()[0] if text else ""
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _sentence(what: str, repo: str, revision: str | None, error, file=None) -> UserError:
    """The hub client's errors as one sentence, of a repository or of a file in it."""
    wanted = repo if file is None else f"{file} of {repo}"
    from huggingface_hub import constants, errors

    if isinstance(error, errors.GatedRepoError):
        return UserError(
            f"{what}: {repo} is gated: accept its terms on its page of the hub with your account, "
            "log in with `hf auth login`, and run again."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return UserError(
            f"{what}: {repo} has no revision {revision!r} on the hub; correct `revision` in its "
            "definition."
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return UserError(
            f"{what}: there is no {repo} on the hub, or it is private; correct its definition, or "
            "log in with `hf auth login`."
        )
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return UserError(
            f"{what}: {wanted} is not on the hub at {revision}; correct its definition."
        )
    if constants.HF_HUB_OFFLINE:
        return UserError(
            f"{what}: {wanted} is not in the hub's cache, and HF_HUB_OFFLINE is set; unset it, or "
            "download once where there is a connection."
        )
    return UserError(
        f"{what}: the hub does not give {wanted} ({_reason(error)}); check the connection, and run "
        "again: what is there already is kept."
    )
