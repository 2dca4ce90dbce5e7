"""A hub on the loopback that serves repositories from memory, for tests of the hub's real clients.

It speaks as much of the Hugging Face hub's protocol as huggingface_hub, datasets and open_clip use
to read datasets and models, over plain HTTP; as on the real hub, large files live on another host,
which answers to `localhost`. What goes wrong between a hub and its clients is set by `faults`.
"""

import hashlib
import io
import json
import re
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import inf
from urllib.parse import parse_qs, unquote, urlsplit

LFS = (".parquet", ".safetensors", ".bin", ".gz", ".zip")  # kept outside git, whatever their size
API = re.compile(r"/api/(model|dataset)s/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+)/?(.*))?")
FILE = re.compile(r"(/cdn)?(?:/(dataset)s)?/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
KEEP_ALIVE = 30  # seconds until the connection of a client that asks no more is closed


# --- What is served ------------------------------------------------------------------------------


class Commit:
    """One version of a repository: `files` (path → bytes), `sha`, and each file's `entries`."""

    def __init__(self, files: dict[str, bytes], parent: str = ""):
        self.files = dict(sorted(files.items()))
        self.entries = {path: _entry(path, content) for path, content in self.files.items()}
        tree = "".join(f"{entry['oid']} {path}\n" for path, entry in self.entries.items())
        self.sha = hashlib.sha1(f"{parent}\n{tree}".encode()).hexdigest()

    def etag(self, path: str) -> str:
        """The hash that names a file: SHA-256 of a large one, git's SHA-1 of any other."""
        return self.entries[path].get("lfs", self.entries[path])["oid"]


def _entry(path: str, content: bytes) -> dict:
    """A file as the hub's tree lists it; git itself holds only a pointer to a large one."""
    entry = {"type": "file", "path": path, "size": len(content)}
    if not path.endswith(LFS):
        return {**entry, "oid": _git_hash(content)}
    sha256 = hashlib.sha256(content).hexdigest()
    pointer = "version https://git-lfs.github.com/spec/v1\n"
    pointer += f"oid sha256:{sha256}\nsize {len(content)}\n"
    lfs = {"oid": sha256, "size": len(content), "pointerSize": len(pointer)}
    return {**entry, "oid": _git_hash(pointer.encode()), "lfs": lfs}


def _git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Fault:
    """What goes wrong with the requests that match it.

    Args:
        path: pattern over a file's path in its repository, or over an address below /api.
        status: answer with this status, such as 500 or 429.
        truncate: nothing after the file's first n bytes comes through; then the connection breaks.
        corrupt: other bytes than the file's, as many.
        refuse: the connection is closed without an answer.
        method: HEAD, GET, or * for any; what changes the content happens to GET alone.
        times: so often, then never again.
    """

    path: str
    status: int = 0
    truncate: int | None = None
    corrupt: bool = False
    refuse: bool = False
    method: str = "*"
    times: float = inf

    def __post_init__(self):
        if self.corrupt or self.truncate is not None:
            self.method = "GET"


@dataclass
class Request:
    """A request as it arrived: `path` is the file's in its repository, or an address below /api."""

    method: str
    path: str
    revision: str
    range: str | None
    token: str | None


class Hub:
    """The server; `with Hub() as hub` starts and stops it.

    Attributes:
        url: what HF_ENDPOINT must be.
        repositories: (kind, "owner/name") → commits, the last one is `main`; kind is "dataset" or
            "model".
        gated: (kind, "owner/name") → the tokens that have access to its files.
        faults, requests: what shall go wrong, and what was asked.
        connections: of clients, now open.
    """

    def __init__(self):
        self.repositories: dict[tuple[str, str], list[Commit]] = {}
        self.gated: dict[tuple[str, str], set[str]] = {}
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.hub = self
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def commit(self, kind: str, name: str, files: dict[str, bytes]) -> str:
        """Make `files` the repository's new main; returns the commit's hash."""
        commits = self.repositories.setdefault((kind, name), [])
        commits.append(Commit(files, commits[-1].sha if commits else ""))
        return commits[-1].sha

    def fetched(self) -> set[str]:
        """Paths of the files of which content was asked."""
        files = (r.path for r in self.requests if r.method == "GET")
        return {path for path in files if not path.startswith("/api/")}

    def seen(self, request: Request) -> Fault | None:
        """Log a request; returns what goes wrong with it."""
        with self._lock:
            self.requests.append(request)
            for fault in self.faults:
                if fault.times > 0 and fault.method in ("*", request.method):
                    if fnmatchcase(request.path, fault.path):
                        fault.times -= 1
                        return fault
        return None

    def stop(self) -> None:
        """From now on, connections are refused; those that are open break."""
        self._server.shutdown()
        self._server.server_close()
        for connection in list(self.connections):
            with suppress(OSError):  # the client closed it already
                connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.stop()


# --- How it answers -------------------------------------------------------------------------------


class _Server(ThreadingHTTPServer):
    hub: Hub

    def handle_error(self, request, client_address):
        """A client that leaves early is no news here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = KEEP_ALIVE
    server: _Server

    def setup(self):
        super().setup()
        self.server.hub.connections.add(self.connection)

    def finish(self):
        self.server.hub.connections.discard(self.connection)
        super().finish()

    def log_message(self, *_):
        pass

    def do_GET(self):
        address = urlsplit(self.path).path
        api, file = API.fullmatch(address), FILE.fullmatch(address)
        kind, name, revision, path = None, None, "", unquote(address)
        if api:
            kind, name, what, revision, folder = (unquote(group or "") for group in api.groups())
        elif file:
            cdn, kind, name, revision, path = (unquote(group or "") for group in file.groups())
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        wanted = self.headers.get("Range")
        fault = self.server.hub.seen(Request(self.command, path, revision, wanted, token))
        if fault and fault.refuse:
            self.close_connection = True
        elif fault and fault.status:
            self._answer(fault.status, b"{}", {"Retry-After": "0"} if fault.status == 429 else {})
        elif not (api or file):
            self._error(404, "EntryNotFound")
        elif commit := self._commit(kind or "model", name, revision or "main", token, file):
            if api:
                self._api(commit, kind, name, what, folder)
            else:
                self._file(commit, path, bool(cdn), fault)

    do_HEAD = do_GET

    def _commit(self, kind: str, name: str, revision: str, token, file) -> Commit | None:
        """The commit that a request is about; None if the request was answered by an error."""
        commits = self.server.hub.repositories.get((kind, name))
        access = self.server.hub.gated.get((kind, name))
        if commits is None:
            self._error(404 if token else 401, "RepoNotFound")
        # Its description is open to all; the other host trusts the hub, which sends clients there.
        elif file and not file[1] and access is not None and token not in access:
            self._error(403 if token else 401, "GatedRepo")
        else:
            for commit in reversed(commits):
                if revision in ("main", commit.sha):
                    return commit
            self._error(404, "RevisionNotFound")
        return None

    def _api(self, commit: Commit, kind: str, name: str, what: str, folder: str):
        query = parse_qs(urlsplit(self.path).query)
        if what == "tree":
            inside = f"{folder.rstrip('/')}/" if folder else ""
            below = {p: entry for p, entry in commit.entries.items() if p.startswith(inside)}
            if folder and not below:
                return self._error(404, "EntryNotFound", commit)
            for part in {p[: slash.start()] for p in below for slash in re.finditer("/", p)}:
                if part.startswith(inside):
                    below[part] = {"type": "directory", "path": part, "oid": "", "size": 0}
            deep = query.get("recursive") == ["true"]
            paths = [p for p in sorted(below) if deep or "/" not in p.removeprefix(inside)]
            return self._json([below[p] for p in paths])
        siblings = [_sibling(entry, "blobs" in query) for entry in commit.entries.values()]
        gated = "manual" if (kind, name) in self.server.hub.gated else False
        about = {"id": name, "sha": commit.sha, "private": False, "disabled": False, "gated": gated}
        self._json({**about, "tags": [], "downloads": 0, "likes": 0, "siblings": siblings})

    def _file(self, commit: Commit, path: str, cdn: bool, fault: Fault | None):
        if path not in commit.files:
            return self._error(404, "EntryNotFound", commit)
        content, etag = commit.files[path], f'"{commit.etag(path)}"'
        headers = {"X-Repo-Commit": commit.sha, "Accept-Ranges": "bytes"}
        if not cdn and path.endswith(LFS):
            headers |= {"X-Linked-ETag": etag, "X-Linked-Size": str(len(content))}
            headers["Location"] = f"http://localhost:{self.server.hub.port}/cdn{self.path}"
            return self._answer(302, b"", headers)
        status, start, stop = 200, 0, len(content)
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            start = int(wanted[1])
            stop = min(stop, int(wanted[2]) + 1) if wanted[2] else stop
            if start >= len(content):
                headers["Content-Range"] = f"bytes */{len(content)}"
                return self._answer(416, b"", headers)
            status = 206
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
        body = memoryview(content)[start:stop]
        if fault and fault.corrupt:
            body = bytes(body).translate(bytes(range(255, -1, -1)))
        limit = None if fault is None or fault.truncate is None else max(0, fault.truncate - start)
        self._answer(status, body, {**headers, "ETag": etag}, limit)

    def _json(self, content):
        self._answer(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, code: str, commit: Commit | None = None) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": code}
        self._answer(status, b"{}", headers | ({"X-Repo-Commit": commit.sha} if commit else {}))

    def _answer(self, status: int, body, headers: dict, limit: int | None = None):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:limit])
        if limit is not None:
            self.close_connection = True


def _sibling(entry: dict, blobs: bool) -> dict:
    """A file as the description of a repository lists it."""
    sibling = {"rfilename": entry["path"]}
    if blobs:
        sibling |= {"blobId": entry["oid"], "size": entry["size"]}
        if lfs := entry.get("lfs"):
            sibling["lfs"] = {**lfs, "sha256": lfs["oid"]}
    return sibling


# --- What to serve -------------------------------------------------------------------------------


def dataset_files(
    splits: dict,
    names: list[str],
    shards: int = 2,
    config: str = "default",
    told: dict[str, int] | None = None,
) -> dict[str, bytes]:
    """The files of a labelled dataset as `push_to_hub` of `datasets` makes them.

    Args:
        splits: split → (images, labels).
        names: class names in label order.
        shards: files of each split.
        config: "default" lies in the folder data, any other in one of its own name.
        told: number of rows that the README tells of a split, where it is wrong.
    """
    import datasets

    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=names)}
    )
    rows = {
        split: datasets.Dataset.from_dict({"image": images, "label": labels}, features)
        for split, (images, labels) in splits.items()
    }
    return repository_files({config: rows}, shards, told)


def repository_files(configs: dict, shards: int = 1, told=None) -> dict[str, bytes]:
    """The files of a repository of several datasets, as `push_to_hub` of `datasets` makes them.

    Args:
        configs: config → split → rows, a datasets.Dataset.
        shards, told: as in dataset_files.
    """
    import datasets
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCardData

    files, abouts, places = {}, {}, {}
    for config, splits in configs.items():
        folder, infos = "data" if config == "default" else config, []
        for split, rows in splits.items():
            for index in range(shards):
                shard = io.BytesIO()
                rows.shard(shards, index, contiguous=True).to_parquet(shard)
                files[f"{folder}/{split}-{index:05d}-of-{shards:05d}.parquet"] = shard.getvalue()
            count = (told or {}).get(split, len(rows))
            infos.append(datasets.SplitInfo(split, num_bytes=rows.data.nbytes, num_examples=count))
        abouts[config] = datasets.DatasetInfo(config_name=config, features=rows.features)
        abouts[config].splits = datasets.SplitDict.from_split_dict([vars(info) for info in infos])
        patterns = [{"split": split, "path": f"{folder}/{split}-*"} for split in splits]
        places[config] = {"data_files": patterns}
    card = DatasetCardData()
    datasets.info.DatasetInfosDict(abouts).to_dataset_card_data(card)
    MetadataConfigs(places).to_dataset_card_data(card)
    return {"README.md": f"---\n{card}\n---\n".encode(), ".gitattributes": b"", **files}


GLUE = {  # config of nyu-mll/glue → its text columns, its label names (none: scores from 0 to 5)
    "cola": (["sentence"], ["unacceptable", "acceptable"]),
    "mnli": (["premise", "hypothesis"], ["entailment", "neutral", "contradiction"]),
    "mrpc": (["sentence1", "sentence2"], ["not_equivalent", "equivalent"]),
    "qqp": (["question1", "question2"], ["not_duplicate", "duplicate"]),
    "rte": (["sentence1", "sentence2"], ["entailment", "not_entailment"]),
    "sst2": (["sentence"], ["negative", "positive"]),
    "stsb": (["sentence1", "sentence2"], []),
}
GLUE_ROWS = {"train": 40, "validation": 12, "test": 9}
WORDS = 'the a cat dog house old red big sees likes near and under not it\'s "so" 10%, {x}'.split()


def glue_rows(config: str, split: str) -> dict[str, list]:
    """Column → values of a split of the miniature GLUE; the test split's labels are hidden."""
    import numpy as np

    columns, names = GLUE[config]
    generator = np.random.default_rng([*f"{config} {split}".encode()])
    count = GLUE_ROWS[split.partition("_")[0]]
    rows: dict[str, list] = {
        column: [
            " ".join([*generator.choice(WORDS, generator.integers(3, 9)), f"{split}{i}."])
            for i in range(count)
        ]
        for column in columns
    }
    if split.startswith("test"):
        rows["label"] = [-1] * count
    else:
        scores = np.round(generator.uniform(0, 5, count), 3).astype(np.float32)
        rows["label"] = [i % len(names) for i in range(count)] if names else scores.tolist()
    return {**rows, "idx": list(range(count))}


def glue_splits(config: str) -> list[str]:
    """The splits of one of GLUE's tasks."""
    parts = ["_matched", "_mismatched"] if config == "mnli" else [""]
    return ["train", *(f"{split}{part}" for split in ("validation", "test") for part in parts)]


def glue_files() -> dict[str, bytes]:
    """The files of a miniature nyu-mll/glue, in the real one's schema."""
    from datasets import ClassLabel, Dataset, Features, Value

    configs = {}
    for config, (columns, names) in GLUE.items():
        label = ClassLabel(names=names) if names else Value("float32")
        texts = {column: Value("string") for column in columns}
        features = Features({**texts, "label": label, "idx": Value("int32")})
        configs[config] = {
            split: Dataset.from_dict(glue_rows(config, split), features)
            for split in glue_splits(config)
        }
    return repository_files(configs)


def t5_files(texts: list[str], shard: str = "1GB", **changes) -> dict[str, bytes]:
    """The files of a random T5 as `save_pretrained` of `transformers` makes them, with a tokenizer
    trained on texts, and what else lies in such repositories.

    Args:
        shard: of the weights, at most.
        changes: of the architecture.
    """
    import string
    import tempfile
    from pathlib import Path

    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import T5Config, T5ForConditionalGeneration, T5Tokenizer

    trained = Tokenizer(models.Unigram())
    trained.pre_tokenizer, trained.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trained.train_from_iterator(
        [*texts, " ".join(string.printable)],  # no character is unknown
        trainers.UnigramTrainer(
            vocab_size=200, special_tokens=special, unk_token="<unk>", show_progress=False
        ),
    )
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_heads": 2, "num_layers": 2}
    sizes |= {"num_decoder_layers": 2, "vocab_size": 256, "tie_word_embeddings": True}
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(T5Config(**{**sizes, **changes}, decoder_start_token_id=0))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, max_shard_size=shard)
        T5Tokenizer(tokenizer_object=trained, extra_ids=0).save_pretrained(folder)
        files = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    others = ("README.md", "pytorch_model.bin", "tf_model.h5", "spiece.model")
    return {**dict.fromkeys(others, b"other"), **files}


def checkpoint_files(model: dict, dtype: str = "float16") -> tuple[dict[str, bytes], dict]:
    """The files of a random CLIP in open_clip's form, and its tensors (numpy, name → array).

    Args:
        model: open_clip's description: embed_dim, quick_gelu, vision_cfg, text_cfg.
        dtype: of the stored weights; OpenAI's are float16.
    """
    import numpy as np
    from safetensors.numpy import save

    from task_arithmetic.vision.geometry import TextTower, ViT

    vision, text, embed_dim = model["vision_cfg"], model["text_cfg"], model["embed_dim"]
    sizes = {k: vision[k] for k in ("layers", "width", "patch_size", "image_size")}
    rest = {"heads": 1, "embed_dim": embed_dim, "activation": "gelu"}
    image = ViT(**sizes, mlp_width=4 * vision["width"], **rest)
    sizes = {k: text[k] for k in ("layers", "width", "context_length", "vocab_size")}
    words = TextTower(**sizes, mlp_width=4 * text["width"], **rest)
    shapes = {f"visual.{name}": shape for name, shape in image.shapes().items()}
    shapes |= {**words.shapes(), "logit_scale": ()}
    generator = np.random.default_rng(0)
    tensors = {
        name: np.asarray(0.03 * generator.standard_normal(shape, np.float32), dtype)
        for name, shape in shapes.items()
    }
    about = {"model_cfg": model, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    config = {"open_clip_config.json": json.dumps(about).encode()}
    return {**config, "open_clip_model.safetensors": save(tensors)}, tensors
