"""What was downloaded from a model hub.

Files lie in the hub client's own cache, where its other users find them. A download is recorded as
JSON: repository, commit, and the path, size and SHA-256 of each file. Whoever reads the files later
gets exactly these, with or without a connection.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from .paths import PathLike, read_json, write_json

REPOSITORIES = {
    "task": "dataset",
    "encoder": "model",
    "checkpoint": "model",
}  # the hub's kind of each of ours
EVERYTHING = "*"  # the key of a dataset's files if they cannot be told apart by split


@dataclass(frozen=True)
class HubFile:
    """A file of a repository: its path there, its size in bytes and its hash."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Download:
    """What was got for a task, an encoder or a fine-tuned checkpoint, and can be found again.

    Attributes:
        kind: task, encoder or checkpoint. name: its own.
        repo: owner/name. revision: as asked; None: main. commit: what that was.
        files: split, or "weights", "config" and "tokenizer" → its files.
    """

    kind: str
    name: str
    repo: str
    revision: str | None
    commit: str
    files: dict[str, list[HubFile]]

    def write(self, path: PathLike) -> None:
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: PathLike) -> "Download":
        """Raises UserError if the record is missing or damaged."""
        record = read_json(path)
        files = {key: [HubFile(**file) for file in of] for key, of in record.pop("files").items()}
        return cls(**record, files=files)

    def source(self, *keys: str) -> dict[str, Any]:
        """Some of it as JSON, for what is made from it."""
        return {key: value for key, value in asdict(self).items() if key in keys}

    def paths(self) -> dict[str, list[Path]]:
        """Split, or "weights" and the like → its files, in the hub client's cache.

        Raises:
            UserError: a file is gone from the cache or has another size.
        """
        return {key: [self._path(file) for file in files] for key, files in self.files.items()}

    def folder(self) -> Path:
        """The folder of the cache that holds the repository at its commit."""
        first = next(path for paths in self.paths().values() for path in paths)
        return next(parent for parent in first.parents if parent.name == self.commit)

    def _path(self, file: HubFile) -> Path:
        import huggingface_hub as hf  # which a dry run does not need

        kind = REPOSITORIES[self.kind]
        path = hf.try_to_load_from_cache(self.repo, file.path, revision=self.commit, repo_type=kind)
        if not isinstance(path, str) or Path(path).stat().st_size != file.size:
            raise UserError(
                f"{self.kind.title()} {self.name}: {file.path} of {self.repo} is no longer in the "
                "hub's cache as it was downloaded; delete "
                f"results/shared/downloads/{self.kind}s/{self.name}.json and run again."
            )
        return Path(path)
