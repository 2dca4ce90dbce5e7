"""The hub through its real clients, each command in a process of its own, against a local hub:
what is downloaded, what is kept, and that no fault ends in other data than was asked for."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from fnmatch import fnmatch
from itertools import product

import datasets
import numpy as np
import pytest
import tiny
from hub_server import Fault, Hub, checkpoint_files, dataset_files, repository_files
from PIL import Image
from safetensors.numpy import load_file, save

from task_arithmetic.config.reading import load_definition

CLASSES = ["circle", "square", "star"]
SPLITS = ("train", "validation", "test")
COUNTS = {"train": 12, "test": 6, "extra": 4}
SPLIT = "data/{}-0000{}-of-00002.parquet".format
NEEDED = {"README.md", *(SPLIT(split, shard) for split in ("train", "test") for shard in (0, 1))}
OPENAI = "timm/vit_base_patch32_clip_224.openai"  # where open_clip finds ViT-B-32's weights
ENCODER = {"model": "ViT-B-32-quickgelu", "pretrained": "openai"}
UNKNOWN = "f" * 40

# The clients wait up to half a minute before they try again; in these tests they do not.
IMPATIENCE = (
    "import time\nwait = time.sleep\ntime.sleep = lambda seconds: wait(min(seconds, 0.01))\n"
)
# Several commands in one process: a line of JSON each in, [status, stderr] out.
SESSION = """
import contextlib, io, json, sys, traceback
from task_arithmetic.cli import main
for line in sys.stdin:
    with contextlib.redirect_stderr(io.StringIO()) as stderr:
        try:
            status = main(json.loads(line))
        except Exception:
            traceback.print_exc()
            status = 1
    print(json.dumps([status, stderr.getvalue()]), flush=True)
"""


# --- The hub and its user ------------------------------------------------------------------------


def pictures(split: str, seed=0) -> np.ndarray:
    """The images of a split; another seed gives others."""
    generator = np.random.default_rng([seed, *split.encode()])
    return generator.integers(0, 256, (COUNTS[split], 8, 8, 3), dtype=np.uint8)


def digits(seed=0, **options) -> dict[str, bytes]:
    """The files of a dataset's repository."""
    splits = {
        split: ([Image.fromarray(p) for p in pictures(split, seed)], [i % 3 for i in range(count)])
        for split, count in COUNTS.items()
    }
    return dataset_files(splits, CLASSES, **options)


def image_files() -> dict[str, bytes]:
    """The same dataset as a repository of image files."""
    files = {}
    for split in ("train", "test"):
        for i, picture in enumerate(pictures(split)):
            content = io.BytesIO()
            Image.fromarray(picture).save(content, "png")
            files[f"{split}/{CLASSES[i % 3]}/{i:03}.png"] = content.getvalue()
    return files


def archives() -> dict[str, bytes]:
    """The same dataset as archives of WebDataset, as the repository of FER2013 has them: without a
    README, with texts beside the archives. What is called .jpg is PNG, which loses nothing."""
    files = {"classnames.txt": b"circle\nsquare\nstar\n", "templates.txt": b"a photo of a {c}.\n"}
    for split, shard in product(("train", "test"), (0, 1)):
        stream, half = io.BytesIO(), COUNTS[split] // 2
        with tarfile.open(fileobj=stream, mode="w") as archive:
            for i in range(shard * half, (shard + 1) * half):
                content = io.BytesIO()
                Image.fromarray(pictures(split)[i]).save(content, "png")
                for kind, data in (("cls", str(i % 3).encode()), ("jpg", content.getvalue())):
                    about = tarfile.TarInfo(f"s{i:07}.{kind}")
                    about.size = len(data)
                    archive.addfile(about, io.BytesIO(data))
        files |= {f"{split}/{shard}.tar": stream.getvalue(), f"{split}/nshards.txt": b"2"}
    return files


@pytest.fixture(scope="module")
def versions():
    """Two versions of a dataset's files; they differ in every image."""
    return digits(0), digits(1)


@pytest.fixture
def hub(versions):
    """A running hub with one dataset, me/digits, of one commit."""
    with Hub() as server:
        server.commit("dataset", "me/digits", versions[0])
        yield server


class User:
    """A user's machine: a folder, an own cache of the hub, and commands that see only this hub."""

    def __init__(self, folder, hub: Hub, root):
        self.cache = folder / "hf/hub"
        self.record, self.data = folder / "downloads/digits.json", folder / "data/digits"
        self.weights, self.encoder = folder / "downloads/clip.json", folder / "encoders/clip"
        self.process = None
        (folder / "site").mkdir()
        (folder / "site/sitecustomize.py").write_text(IMPATIENCE)
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))} | {
            "PYTHONPATH": f"{folder}/site:{root}/src",
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(folder / "hf"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_ETAG_TIMEOUT": "10",
            "HF_HUB_DOWNLOAD_TIMEOUT": "10",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }

    def download(self, env=(), **settings):
        """Run `download` for me/digits."""
        task = {"name": "digits", "hub": "me/digits", "train": "train", "test": "test"}
        words = [
            "stage",
            "download",
            "--settings",
            json.dumps({"kind": "task", **task, **settings}),
        ]
        return self.run([*words, "--output", self.record], env)

    def make_data(self, env=(), output=None, **definition):
        """Run `data` on what was downloaded."""
        definition = {"hub": "me/digits", "classes": CLASSES, "validation": 3, **definition}
        words = ["stage", "data", "--task", "digits", "--settings", json.dumps(definition)]
        return self.run([*words, "--download", self.record, "--output", output or self.data], env)

    def download_weights(self, env=(), **settings):
        """Run `download` for OpenAI's ViT-B-32."""
        settings = {"kind": "encoder", "name": "clip", **ENCODER, **settings}
        words = ["stage", "download", "--settings", json.dumps(settings), "--output", self.weights]
        return self.run(words, env)

    def make_encoder(self, *options):
        """Run `encoder` on what was downloaded."""
        words = ["stage", "encoder", "--encoder", "clip", "--settings", json.dumps(ENCODER)]
        return self.run([*words, *options, "--output", self.encoder])

    def run(self, words, env=()):
        """Run a command in a process of its own, or in the open session."""
        words = [str(word) for word in words]
        if self.process is None:
            command = [sys.executable, "-m", "task_arithmetic", *words]
            streams = {"capture_output": True, "text": True}
            return subprocess.run(command, env={**self.env, **dict(env)}, timeout=300, **streams)
        print(json.dumps(words), file=self.process.stdin, flush=True)
        status, stderr = json.loads(self.process.stdout.readline())
        return subprocess.CompletedProcess(words, status, "", stderr)

    @contextmanager
    def session(self, env=(), code=SESSION):
        """One process for all commands of the block: most of their time goes into imports."""
        command, pipe = [sys.executable, "-c", code], subprocess.PIPE
        env = {**self.env, **dict(env)}
        with subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe, text=True) as process:
            self.process = process
            try:
                yield
            finally:
                self.process = None
                process.stdin.close()

    def got(self) -> dict:
        return json.loads(self.record.read_text())


@pytest.fixture
def user(tmp_path, hub, root):
    return User(tmp_path, hub, root)


def succeeds(done) -> None:
    assert done.returncode == 0, done.stderr


def refuses(done, output, *words) -> None:
    """A failure as a user meets it: one sentence that holds `words`, and nothing at `output`."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert [line for line in lines if line.startswith("task-arithmetic")] == lines[-1:], done.stderr
    assert lines[-1].endswith("."), lines[-1]
    assert all(word in lines[-1] for word in words), lines[-1]
    assert not output.exists()
    assert not list(output.parent.glob(".*.partial"))


def intact(record: dict, files: dict[str, bytes]) -> bool:
    """Whether a record names exactly the needed splits of `files`, with their hashes."""
    found = {file["path"]: file for listed in record["files"].values() for file in listed}
    return set(record["files"]) == {"train", "test"} and found == {
        path: {"path": path, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for path, content in files.items()
        if fnmatch(path, "*/train-*") or fnmatch(path, "*/test-*")
    }


def holds(data, seed=0) -> bool:
    """Whether a data folder holds exactly the images of a version, with their labels."""
    parts = {split: np.load(data / f"{split}_images.npy") for split in SPLITS}
    parts["train"] = parts["train"].reshape(-1, 8, 8, 3)
    found = {
        split: {p.tobytes(): y for p, y in zip(parts[split], labels, strict=True)}
        for split, labels in ((split, np.load(data / f"{split}_labels.npy")) for split in SPLITS)
    }
    return {"train": found["train"] | found["validation"], "test": found["test"]} == {
        split: {p.tobytes(): i % 3 for i, p in enumerate(pictures(split, seed))}
        for split in ("train", "test")
    }


# --- The local hub itself ------------------------------------------------------------------------


def test_the_local_hub_is_one_to_the_clients_that_know_the_real_one(user, hub):
    """Without our code: whole repositories, metadata, and a dataset by its name and commit."""
    asked = """
import datasets, huggingface_hub
info = huggingface_hub.HfApi().dataset_info("me/digits", files_metadata=True)
folder = huggingface_hub.snapshot_download("me/digits", repo_type="dataset")
data = datasets.load_dataset("me/digits", revision=info.sha)
names = data["train"].features["label"].names
print(info.sha, {k: len(v) for k, v in data.items()}, names, info.siblings[2].lfs.sha256)
"""
    done = subprocess.run(
        [sys.executable, "-c", asked], env=user.env, capture_output=True, text=True
    )
    (commit,) = hub.repositories["dataset", "me/digits"]
    sha256 = commit.etag(list(commit.files)[2])
    assert done.stdout.split("\n")[0] == f"{commit.sha} {COUNTS} {CLASSES} {sha256}", done.stderr


# --- What is downloaded --------------------------------------------------------------------------


def test_a_task_comes_from_the_hub_and_again_without_it(user, hub, versions):
    with user.session():
        succeeds(user.download())
        succeeds(user.make_data())
    record = user.got()
    (commit,) = hub.repositories["dataset", "me/digits"]
    named = {key: record[key] for key in ("kind", "name", "repo", "commit")}
    assert named == {"kind": "task", "name": "digits", "repo": "me/digits", "commit": commit.sha}
    assert intact(record, versions[0]) and holds(user.data)
    manifest = json.loads((user.data / "manifest.json").read_text())
    assert manifest["counts"] == {"train": 9, "validation": 3, "test": 6}
    assert manifest["classes"] == manifest["source_classes"] == CLASSES
    assert manifest["source"]["repo"] == "me/digits" and manifest["source"]["commit"] == commit.sha

    hub.stop()
    made = {path.name: path.read_bytes() for path in user.data.iterdir()}
    for path in [user.record, *user.data.iterdir()]:
        path.unlink()
    with user.session({"HF_HUB_OFFLINE": "1"}):
        succeeds(user.download())
        succeeds(user.make_data())
    assert user.got() == record
    assert {path.name: path.read_bytes() for path in user.data.iterdir()} == made


def test_only_the_splits_that_are_needed_are_downloaded(user, hub):
    succeeds(user.download())
    assert hub.fetched() == NEEDED


def test_a_task_that_is_only_evaluated_needs_one_split(user, hub):
    succeeds(user.download(train=None, test="extra"))
    assert hub.fetched() == {"README.md", SPLIT("extra", 0), SPLIT("extra", 1)}
    assert set(user.got()["files"]) == {"extra"}


def test_a_config_is_a_folder_of_its_own(user, hub):
    files = digits(0, config="cropped") | {
        path: content for path, content in digits(1, config="full").items() if path != "README.md"
    }
    head, _ = files["README.md"].decode().rsplit("---\n", 1)
    entry = "- config_name: full\n  data_files:\n  - split: train\n    path: full/train-*\n"
    hub.commit("dataset", "me/digits", {**files, "README.md": f"{head}{entry}---\n".encode()})
    succeeds(user.download(config="cropped"))
    assert hub.fetched() == {path.replace("data/", "cropped/") for path in NEEDED}
    user.record.unlink()
    refuses(user.download(), user.record, "me/digits", "config", "cropped", "full")


def test_a_folder_of_images_comes_whole_or_not_at_all(user, hub):
    commit = hub.commit("dataset", "me/pictures", image_files())
    hub.faults = [Fault("test/star/*", status=500)]
    refuses(user.download(hub="me/pictures"), user.record, "me/pictures", "run again")
    offline = {"HF_HUB_OFFLINE": "1"}
    refuses(user.download(offline, hub="me/pictures", revision=commit), user.record, "me/pictures")
    hub.faults = []
    with user.session():
        succeeds(user.download(hub="me/pictures"))
        succeeds(user.make_data(hub="me/pictures"))
    assert holds(user.data)
    record = user.got()
    succeeds(user.download(offline, hub="me/pictures"))
    assert user.got() == record


def test_archives_of_webdataset_are_read_as_fer2013_is_defined(user, hub, root):
    fer2013 = load_definition("tasks", "fer2013", "tasks", root)
    assert (fer2013.image, fer2013.label) == ("jpg", "cls")
    hub.commit("dataset", "me/archives", archives())
    columns = {"image": fer2013.image, "label": fer2013.label}
    with user.session():
        succeeds(user.download(hub="me/archives"))
        succeeds(user.make_data(hub="me/archives", **columns))
    assert holds(user.data)
    assert json.loads((user.data / "manifest.json").read_text())["source_classes"] is None
    with user.session({"HF_HUB_OFFLINE": "1"}):
        user.record.unlink()
        succeeds(user.download(hub="me/archives"))
        other = user.data.with_name("other")  # without saying which columns
        refuses(user.make_data(hub="me/archives", output=other), other, "'label'", "cls")


def test_labels_that_are_true_or_false_and_a_split_called_valid_as_pcam_has_them(user, hub, root):
    pcam = load_definition("tasks", "pcam", "tasks", root)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("bool")})
    splits = {
        split: datasets.Dataset.from_dict(
            {"image": [Image.fromarray(p) for p in pictures(of)],
             "label": [i % 2 == 1 for i in range(COUNTS[of])]},
            features,
        )
        for split, of in (("train", "train"), ("valid", "extra"), ("test", "test"))
    }  # fmt: skip
    hub.commit("dataset", "me/slides", repository_files({"default": splits}))
    own = {"hub": "me/slides", "validation": pcam.validation}
    with user.session():
        succeeds(user.download(**own))
        succeeds(user.make_data(**own, classes=pcam.classes))
    labels = [i % 2 for i in range(COUNTS["extra"])]
    assert np.load(user.data / "validation_labels.npy").tolist() == labels


def test_a_gated_task_comes_with_a_token_that_has_access(user, hub, versions):
    hub.gated["dataset", "me/digits"] = {"hf_mine"}
    refuses(user.download(), user.record, "Task digits", "me/digits", "gated", "log in")
    refuses(user.download({"HF_TOKEN": "hf_other"}), user.record, "me/digits", "gated")
    succeeds(user.download({"HF_TOKEN": "hf_mine"}))
    assert intact(user.got(), versions[0])


# --- Faults that pass ----------------------------------------------------------------------------


def test_faults_that_pass_leave_no_trace(user, hub, versions):
    hub.faults = [
        Fault("/api/*", status=500, times=1),
        Fault("README.md", status=500, method="HEAD", times=1),
        Fault(SPLIT("train", 0), status=500, method="GET", times=1),
        Fault(SPLIT("train", 1), truncate=1000, times=1),
        Fault(SPLIT("test", 0), status=429, method="GET", times=1),
        Fault(SPLIT("test", 1), refuse=True, times=1),
    ]
    succeeds(user.download())
    assert [fault.times for fault in hub.faults] == [0] * 6
    assert intact(user.got(), versions[0])


# --- Faults that stay ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        Fault("/api/*", status=500),
        Fault("*", refuse=True),
        Fault("README.md", status=500, method="HEAD"),
        Fault(SPLIT("train", 1), status=500, method="GET"),
        Fault(SPLIT("train", 1), status=429, method="GET"),
        Fault(SPLIT("train", 1), truncate=1000),
        Fault(SPLIT("train", 1), corrupt=True),
        Fault("README.md", corrupt=True),
    ],
    ids=["api 500", "refused", "HEAD 500", "GET 500", "429", "truncated", "wrong bytes", "README"],
)
def test_a_fault_that_stays_is_one_sentence_and_the_next_run_heals(user, hub, versions, fault):
    with user.session():
        hub.faults = [fault]
        refuses(user.download(), user.record, "Task digits", "me/digits", "run again")
        for blob in user.cache.glob("*/blobs/*"):  # under its final name, a file is what it says
            if len(blob.name) == 64:
                assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
        hub.faults = []
        succeeds(user.download())
    assert intact(user.got(), versions[0])


WRONG = {
    "repository": ({"hub": "me/nothing"}, ["me/nothing"]),
    "revision": ({"revision": "v9"}, ["me/digits", "'v9'", "revision"]),
    "commit": ({"revision": UNKNOWN}, ["me/digits", UNKNOWN, "revision"]),
    "split": ({"test": "holdout"}, ["me/digits", "'holdout'", "train", "extra"]),
    "config": ({"config": "cropped"}, ["me/digits", "'cropped'", "default"]),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_the_hub_does_not_have_is_named(user, what):
    settings, words = WRONG[what]
    refuses(user.download(**settings), user.record, "Task digits", *words)


def test_without_a_hub_there_is_one_sentence(user, hub):
    hub.stop()
    refuses(user.download(), user.record, "me/digits", "connection")
    refuses(user.download({"HF_HUB_OFFLINE": "1"}), user.record, "me/digits", "HF_HUB_OFFLINE")


@pytest.mark.parametrize("lost", ["*/*.parquet", SPLIT("test", 1), "*/test-*"])
def test_a_cache_that_lacks_files_is_not_taken_for_the_dataset(user, hub, lost):
    hub.faults = [Fault(lost, status=500, method="GET")]
    refuses(user.download(), user.record)
    offline = {"HF_HUB_OFFLINE": "1"}
    refuses(user.download(offline), user.record, "me/digits")
    (commit,) = hub.repositories["dataset", "me/digits"]
    refuses(user.download(offline, revision=commit.sha), user.record, "me/digits")


# --- Never another commit's rows -----------------------------------------------------------------


def test_rows_are_those_of_the_recorded_commit_whatever_happens_upstream(user, hub, versions):
    with user.session():
        succeeds(user.download())
        old = user.got()["commit"]
        new = hub.commit("dataset", "me/digits", versions[1])
        succeeds(user.make_data())
        assert holds(user.data, seed=0)
        succeeds(user.download())  # not pinned: main is another commit now
        assert user.got()["commit"] == new and intact(user.got(), versions[1])
        succeeds(user.make_data())
        assert holds(user.data, seed=1)
        succeeds(user.download(revision=old))
        assert user.got()["commit"] == old and intact(user.got(), versions[0])
        succeeds(user.make_data())
        assert holds(user.data, seed=0)


@pytest.mark.parametrize("how", ["missing", "api 500", "files 500", "refused", "offline", "gated"])
def test_a_pinned_commit_is_never_replaced_by_a_cached_one(user, hub, versions, how):
    env = {"HF_HUB_OFFLINE": "1"} if how == "offline" else {}
    with nullcontext() if env else user.session():
        succeeds(user.download())
        pinned = UNKNOWN if how == "missing" else hub.commit("dataset", "me/digits", versions[1])
        if how in ("api 500", "files 500"):
            hub.faults = [Fault("/api/*" if how == "api 500" else "*.parquet", status=500)]
        elif how == "refused":
            hub.stop()
        elif how == "gated":
            hub.gated["dataset", "me/digits"] = set()
        user.record.unlink()
        refuses(user.download(env, revision=pinned), user.record, "me/digits")


@pytest.mark.parametrize("how", ["api 500", "refused", "gone"])
def test_an_old_main_is_not_taken_for_the_new_one_while_the_hub_is_away(user, hub, how):
    with user.session():
        succeeds(user.download())
        commit = user.got()["commit"]
        user.record.unlink()
        if how == "gone":
            hub.stop()
        else:
            hub.faults = [Fault("*", status=500) if how == "api 500" else Fault("*", refuse=True)]
        refuses(user.download(), user.record, "me/digits")
        succeeds(user.download(revision=commit))  # a whole hash says which one is meant
    assert user.got()["commit"] == commit


# --- What is in the files ------------------------------------------------------------------------

MISFITS = {  # what the definition says → what the sentence names
    "column": ({"image": "picture"}, ["'picture'", "image, label"]),
    "label column": ({"label": "kind"}, ["'kind'", "image, label"]),
    "order of classes": ({"classes": CLASSES[::-1]}, ["'circle'", "'star'"]),
    "names of classes": ({"source_classes": ["a", "b", "c"]}, ["'circle'", "'a'"]),
    "number of classes": ({"classes": CLASSES[:2]}, ["2 classes", "3"]),
    "expected": ({"expected": {"test": 60}}, ["6 test", "60"]),
    "not downloaded": ({"test": "extra"}, ["'extra'", "train"]),
}


@pytest.fixture(scope="module")
def misfits(tmp_path_factory, versions, root):
    """What `data` said to each misfit and of lost files: name → (finished command, output)."""
    folder = tmp_path_factory.mktemp("misfits")
    with Hub() as hub:
        hub.commit("dataset", "me/digits", versions[0])
        user = User(folder, hub, root)
        with user.session():
            succeeds(user.download())
            said = {}
            for what, (definition, _) in MISFITS.items():
                output = folder / what
                said[what] = user.make_data(output=output, **definition), output
            blob = next(user.cache.glob(f"*/snapshots/*/{SPLIT('train', 1)}")).resolve()
            blob.write_bytes(blob.read_bytes()[:-1])
            said["cut"] = user.make_data(), user.data
            blob.unlink()
            said["lost"] = user.make_data(), user.data
    return said


@pytest.mark.parametrize("what", MISFITS)
def test_a_dataset_that_is_not_as_its_definition_says_is_refused(misfits, what):
    refuses(*misfits[what], "Task digits", *MISFITS[what][1])


@pytest.mark.parametrize("what", ["cut", "lost"])
def test_a_file_that_left_the_cache_is_named(misfits, what):
    refuses(*misfits[what], SPLIT("train", 1), "me/digits", "run again")


def test_rows_count_not_what_the_readme_tells_of_them(user, hub):
    """`datasets` stops where a README is out of date; the `expected` counts are what binds."""
    hub.commit("dataset", "me/digits", digits(told={"train": 120, "test": 60}))
    with user.session():
        succeeds(user.download())
        succeeds(user.make_data(expected={"train": 9, "validation": 3, "test": 6, "classes": 3}))
    assert holds(user.data)


# --- Encoders ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoders(tmp_path_factory, root):
    """What was said of weights that do not come, or do not fit: name → (command, output)."""
    small = {**tiny.MODEL, "vision_cfg": {**tiny.MODEL["vision_cfg"], "width": 48}}
    files, _ = checkpoint_files(small)
    said = {}
    with Hub() as hub:
        user = User(tmp_path_factory.mktemp("encoders"), hub, root)
        record, output, given = user.weights, user.encoder, ("--download", user.weights)
        with user.session():
            said["missing"] = user.download_weights(), record
            hub.commit("model", OPENAI, {"open_clip_config.json": b"{}"})
            said["no weights"] = user.download_weights(), record
            hub.commit("model", OPENAI, files)
            said["unknown tag"] = user.download_weights(pretrained="mine"), record
            for method in ("HEAD", "GET"):
                hub.faults = [Fault("*.safetensors", status=500, method=method)]
                said[f"{method} 500"] = user.download_weights(), record
            hub.faults = []
            said["not downloaded"] = user.make_encoder(), output
            said["no record"] = user.make_encoder(*given), output
            assert not record.exists()
            succeeds(user.download_weights())
            said["geometry"] = user.make_encoder(*given), output
            (found,) = json.loads(record.read_text())["files"]["weights"]
            content = files["open_clip_model.safetensors"]
            assert found["sha256"] == hashlib.sha256(content).hexdigest()
            record.unlink()
    return said


REFUSED = {
    "missing": ["Encoder clip", OPENAI],
    "no weights": ["Encoder clip", OPENAI, "open_clip_model.safetensors"],
    "unknown tag": ["Encoder clip", "'mine'", "openai"],
    "HEAD 500": ["Encoder clip", OPENAI, "run again"],
    "GET 500": ["Encoder clip", OPENAI, "run again"],
    "not downloaded": ["Encoder clip", "download"],
    "no record": ["downloads/clip.json"],
    "geometry": ["shape"],
}


@pytest.mark.parametrize("what", REFUSED)
def test_without_the_right_weights_there_is_no_encoder(encoders, what):
    refuses(*encoders[what], *REFUSED[what])


@pytest.mark.slow
def test_an_encoder_has_the_weights_of_the_hub_and_again_without_it(user, hub):
    geometry = asdict(tiny.real_geometry("ViT-B-32"))
    del geometry["text"]
    text = {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12}
    model = {"embed_dim": 512, "quick_gelu": True, "vision_cfg": geometry, "text_cfg": text}
    files, tensors = checkpoint_files(model)
    commit = hub.commit("model", OPENAI, files)
    hub.faults = [Fault("*.safetensors", truncate=25 << 20, times=1)]
    with user.session():
        succeeds(user.download_weights())
        assert hub.fetched() == {"open_clip_model.safetensors"}
        assert len([r for r in hub.requests if r.range]) == 1  # what had arrived was kept
        succeeds(user.make_encoder("--download", user.weights))
    image = load_file(user.encoder / "image_tower.safetensors")
    towers = {f"visual.{name}": tensor for name, tensor in image.items()}
    towers |= load_file(user.encoder / "text_tower.safetensors")
    assert set(towers) == set(tensors) - {"logit_scale"}
    for name, tensor in towers.items():
        assert np.array_equal(tensor, tensors[name].astype(np.float32)), name
    about = json.loads((user.encoder / "encoder.json").read_text())
    assert about["source"]["repo"] == OPENAI and about["source"]["commit"] == commit
    assert about["geometry"] == geometry

    hub.stop()
    record = user.weights.read_bytes()
    user.weights.unlink()
    succeeds(user.download_weights({"HF_HUB_OFFLINE": "1"}))
    assert user.weights.read_bytes() == record


# --- The pipeline --------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_pipeline_takes_tasks_from_the_hub_and_again_without_it(
    hub, user, project, snakemake, root
):
    """Downloads, arrays and heads of three tasks through Snakemake, once there is access to all;
    what is lost is made again from the cache, without the hub; the doctor finds nothing wrong."""
    hub.commit("dataset", "me/forms", digits(1))
    hub.commit("dataset", "me/control", digits(2))
    hub.gated["dataset", "me/control"] = {"hf_secret"}
    expected = {"train": 9, "validation": 3, "test": 6, "classes": 3}
    for name in ("digits", "forms", "control"):
        task = {"hub": f"me/{name}", "validation": 3, "templates": ["a {}."], "expected": expected}
        (project / f"config/tasks/{name}.yaml").write_text(json.dumps({**task, "classes": CLASSES}))
    overlay = {
        "run": "hub",
        "tasks": ["digits", "forms"],
        "encoders": ["embedded-small"],
        "focus": "embedded-small",
        "language": None,
        "negation": {"control": "control", "keep": 0.95},
        "disentanglement": {"pairs": {"fig6": ["digits", "forms"], "fig8": ["forms", "digits"]}},
    }
    (project / "hub.yaml").write_text(json.dumps(overlay))
    env = {key: value for key, value in user.env.items() if key.startswith(("HF_", "NO_P", "no_p"))}
    command = "--cores", "2", "--configfile", project / "hub.yaml", "--until", "head"

    def run(**more):
        options = {"directory": project, "snakefile": project / "Snakefile"}
        return snakemake(*command, **options, env={**env, "HF_TOKEN": "", **more})

    refused = run(HF_TOKEN="")
    assert refused.returncode != 0
    assert "Task control: me/control is gated: accept its terms" in refused.stdout
    done = run(HF_TOKEN="hf_secret")
    assert done.returncode == 0, done.stdout[-3000:]
    manifest = json.loads((project / "results/shared/data/forms/manifest.json").read_text())
    assert manifest["source"]["repo"] == "me/forms" and manifest["counts"]["test"] == 6
    hub.stop()
    lost = project / "results/shared/data/forms/test_images.npy"
    before = lost.read_bytes()
    (project / "results/shared/downloads/tasks/forms.json").unlink()
    (project / "results/shared/encoders/embedded-small/heads/forms.safetensors").unlink()
    shutil.rmtree(lost.parent)
    done = run(HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stdout[-3000:]
    assert lost.read_bytes() == before
    doctor = subprocess.run(
        [sys.executable, "-c", DOCTOR, project, project / "hub.yaml"],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(root / "src")},
        capture_output=True,
        text=True,
    )
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr
    assert doctor.stdout.count("6/6") == 3


DOCTOR = """
import sys
from task_arithmetic.planning.doctor import doctor
doctor(sys.argv[2], basedir=sys.argv[1])
"""


# --- Fine-tuned checkpoints -----------------------------------------------------------------------


def get_checkpoint(user, **settings):
    """Download me/tuned, as fine-tuned weights."""
    settings = {"kind": "checkpoint", "name": "me--tuned", "hub": "me/tuned", **settings}
    words = ["stage", "download", "--settings", json.dumps(settings), "--output", user.weights]
    return user.run(words)


@pytest.mark.parametrize(
    "files, kept",
    [
        (["config.json", "model.safetensors", "README.md"], ["config.json", "model.safetensors"]),
        (["config.json", "pytorch_model.bin"], ["config.json", "pytorch_model.bin"]),
        (
            ["open_clip_config.json", "open_clip_model.safetensors", "open_clip_pytorch_model.bin"],
            ["open_clip_config.json", "open_clip_model.safetensors"],
        ),
    ],
)
def test_a_checkpoint_is_its_configuration_and_weights_alone(files, kept, user, hub):
    hub.commit("model", "me/tuned", {name: name.encode() for name in files})
    succeeds(get_checkpoint(user))
    record = json.loads(user.weights.read_text())
    assert [file["path"] for of in record["files"].values() for file in of] == kept
    assert hub.fetched() == set(kept)


def test_a_checkpoint_in_shards_is_all_of_them(user, hub):
    shards = {f"model-0000{i}-of-00002.safetensors": bytes([i]) for i in (1, 2)}
    index = json.dumps({"weight_map": dict(zip("ab", shards, strict=True))}).encode()
    files = {"config.json": b"{}", "model.safetensors.index.json": index, **shards}
    hub.commit("model", "me/tuned", files)
    succeeds(get_checkpoint(user))
    assert hub.fetched() == set(files)


def test_a_repository_without_weights_is_refused(user, hub):
    hub.commit("model", "me/tuned", {"config.json": b"{}", "open_clip_pytorch_model.bin": b""})
    refuses(get_checkpoint(user), user.weights, "me/tuned", "config.json with model.safetensors")
    refuses(get_checkpoint(user, revision=UNKNOWN), user.weights, UNKNOWN)


def test_the_vector_of_a_hubs_checkpoint(user, hub, tmp_path):
    """Of main, and of a commit that main has left behind."""
    encoder = tiny.shared_suite()["encoder_dir"]
    theta0 = load_file(encoder / "image_tower.safetensors")
    shas, made = [], []
    for task in ("one", "two"):
        theta = theta0 | load_file(tiny.shared_finetuned("attention", task))
        weights = save({f"visual.{name}": tensor for name, tensor in theta.items()})
        config = {"model_cfg": tiny.MODEL, "preprocess_cfg": tiny.PREPROCESS}
        files = {"open_clip_config.json": json.dumps(config).encode()}
        shas.append(
            hub.commit("model", "me/tuned", {**files, "open_clip_model.safetensors": weights})
        )
        made.append(load_file(tiny.shared_vector("attention", task)))
    env = {"TASK_ARITHMETIC_CACHE": str(tmp_path / "cache")}
    words = ["vector", "--from", "me/tuned", "--base", encoder, "--task", "any", "--out"]
    for name, options, expected in (
        ("new", [], made[1]),
        ("old", ["--revision", shas[0]], made[0]),
    ):
        output = tmp_path / f"{name}.safetensors"
        succeeds(user.run([*words, output, *options], env))
        found = load_file(output)
        assert found.keys() == expected.keys()
        assert all((found[key] == expected[key]).all() for key in expected)
    output = tmp_path / "none.safetensors"
    refuses(user.run([*words, output, "--revision", UNKNOWN], env), output, UNKNOWN)
    words[2] = "me/none"
    refuses(user.run([*words, output], env), output, "there is no me/none on the hub")
