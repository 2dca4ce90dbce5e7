"""Language through the hub's real clients, against a local hub: GLUE in its own schema, and a T5 in
transformers' form, each recorded, kept, and read without a connection."""

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
from hub_server import GLUE, GLUE_ROWS, Fault, Hub, glue_files, glue_rows, glue_splits, t5_files
from safetensors.numpy import load, load_file
from test_hub import UNKNOWN, User

from task_arithmetic.config.reading import load_definition
from task_arithmetic.files.hashes import read_sealed
from task_arithmetic.files.manifest import SPLITS, read_manifest
from task_arithmetic.files.paths import read_json
from task_arithmetic.files.source import hold_out
from task_arithmetic.language.tokens import read_tokens

T5 = "google-t5/t5-base"
OFFLINE = {"HF_HUB_OFFLINE": "1"}
KEPT = {  # what is downloaded of the T5's repository
    "config": ["config.json", "generation_config.json"],
    "tokenizer": ["tokenizer.json", "tokenizer_config.json", "spiece.model"],
    "weights": ["model.safetensors"],
}


class Reader(User):
    """A user who keeps a record of each download; of a command, the sentence in which it failed."""

    def says(self, stage: str, settings: dict, output, **options) -> str | None:
        words = ["stage", stage, "--settings", json.dumps(settings), "--output", output]
        for name, value in options.items():
            words += [f"--{name.replace('_', '-')}", value]
        done = self.run(words)
        if done.returncode:
            assert "Traceback" not in done.stderr, done.stderr
            return done.stderr.strip().splitlines()[-1].removeprefix(f"task-arithmetic {stage}: ")
        return None

    def get(self, task: str, **changes) -> str | None:
        """Download one of GLUE's tasks, as its definition says."""
        keys = ("hub", "config", "train", "test")
        settings = {key: value for key, value in define(task).items() if key in keys}
        settings = {"kind": "task", "name": task, **settings, **changes}
        return self.says("download", settings, self.at(task))

    def get_model(self, **changes) -> str | None:
        settings = {"kind": "encoder", "name": "t5", "hub": T5, **changes}
        return self.says("download", settings, self.at(settings["name"]))

    def make_data(self, task: str, output, **changes) -> str | None:
        settings = define(task) | changes
        settings = {k: v for k, v in settings.items() if k not in ("prompts", "max_tokens")}
        settings["modality"] = "language"
        return self.says("data", settings, output, task=task, download=self.at(task))

    def make_encoder(self, name: str, repo: str, output) -> str | None:
        settings = {"modality": "language", "hub": repo}
        return self.says("encoder", settings, output, encoder=name, download=self.at(name))

    def make_head(self, task: str, folder) -> str | None:
        definition = define(task)
        settings = {"modality": "language", "prompt": definition["prompts"]["peta"]}
        settings |= {"metric": definition["metric"], "max_tokens": {"target": 20}}
        made = {"encoder_dir": folder / "encoder", "data_dir": folder / "data" / task}
        return self.says("head", settings, folder / f"heads/{task}.safetensors", **made)

    def at(self, name: str):
        """Where a download is recorded."""
        return self.weights.with_name(f"{name}.json")


def define(config: str) -> dict:
    """A task's definition, but the counts, which are those of the whole."""
    definition = load_definition("tasks", config, "language.tasks", modality="language").given()
    del definition["expected"]
    return definition


@pytest.fixture(scope="module")
def glue():
    return glue_files()


@pytest.fixture(scope="module")
def model():
    texts = [text for config in GLUE for text in glue_rows(config, "train")[GLUE[config][0][0]]]
    words = [word for _, names in GLUE.values() for word in names]
    return t5_files(texts + 5 * words)


@pytest.fixture
def hub(glue, model):
    with Hub() as server:
        server.commit("dataset", "nyu-mll/glue", glue)
        server.commit("model", T5, model)
        yield server


@pytest.fixture
def user(tmp_path, hub, root):
    return Reader(tmp_path, hub, root)


@pytest.fixture(scope="module")
def made(tmp_path_factory, glue, model, root):
    """A user's folder with data/<task>, what was downloaded for each task, and the records; then,
    without the hub: again/mnli, encoder, sharded and heads/<task>.safetensors."""
    folder = tmp_path_factory.mktemp("language")
    with Hub() as hub:
        hub.commit("dataset", "nyu-mll/glue", glue)
        hub.commit("model", T5, model)
        hub.commit("model", "me/sharded", t5_files(["a b c"] * 9, shard="8KB"))
        user, fetched = Reader(folder, hub, root), {}
        with user.session():
            for config in GLUE:
                hub.requests.clear()
                assert user.get(config) is None
                fetched[config] = hub.fetched()
                assert user.make_data(config, folder / "data" / config) is None
            assert user.get_model() is None
            assert user.get_model(name="sharded", hub="me/sharded") is None
        records = {path.name: path.read_bytes() for path in user.weights.parent.iterdir()}
        hub.stop()
        for path in user.weights.parent.iterdir():
            path.unlink()
        with user.session(OFFLINE):
            assert user.get("mnli") is None and user.get_model() is None
            assert user.get_model(name="sharded", hub="me/sharded") is None
            again = {path.name: path.read_bytes() for path in user.weights.parent.iterdir()}
            assert len(again) == 3 and again == {name: records[name] for name in again}
            assert user.make_data("mnli", folder / "again") is None
            assert user.make_encoder("t5", T5, folder / "encoder") is None
            assert user.make_encoder("sharded", "me/sharded", folder / "sharded") is None
            for config in GLUE:
                assert user.make_head(config, folder) is None
    return folder, fetched, {name: json.loads(text) for name, text in records.items()}


# --- The local GLUE itself -----------------------------------------------------------------------


def test_the_local_glue_has_the_real_ones_configs_splits_and_features(user):
    """Without our code: what `datasets` tells of it, by its name."""
    asked = """
import datasets
for name in datasets.get_dataset_config_names("nyu-mll/glue"):
    data = datasets.load_dataset("nyu-mll/glue", name)
    features = data["train"].features
    label = features["label"]
    names = getattr(label, "names", [label.dtype])
    print(name, *data, *features, *names, data[list(data)[-1]][0]["label"])
"""
    done = subprocess.run(
        [sys.executable, "-c", asked], env=user.env, capture_output=True, text=True
    )
    plain = "train validation test"
    assert done.stdout.splitlines() == [
        f"cola {plain} sentence label idx unacceptable acceptable -1",
        "mnli train validation_matched validation_mismatched test_matched test_mismatched "
        "premise hypothesis label idx entailment neutral contradiction -1",
        f"mrpc {plain} sentence1 sentence2 label idx not_equivalent equivalent -1",
        f"qqp {plain} question1 question2 label idx not_duplicate duplicate -1",
        f"rte {plain} sentence1 sentence2 label idx entailment not_entailment -1",
        f"sst2 {plain} sentence label idx negative positive -1",
        f"stsb {plain} sentence1 sentence2 label idx float32 -1.0",
    ], done.stderr


# --- Tasks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", GLUE)
def test_a_task_has_the_rows_of_its_config_and_nothing_else_is_downloaded(made, config):
    folder, fetched, records = made
    (columns, names), test = (
        GLUE[config],
        "validation_matched" if config == "mnli" else "validation",
    )
    wanted = {f"{config}/{split}-00000-of-00001.parquet" for split in ("train", test)}
    assert fetched[config] - {"README.md"} == wanted  # the README, once
    assert set(records[f"{config}.json"]["files"]) == {"train", test}
    lines = {
        split: (folder / f"data/{config}/{split}.jsonl").read_text().splitlines()
        for split in SPLITS
    }
    kept, held = hold_out(GLUE_ROWS["train"])
    for split, source, chosen in (
        ("train", "train", kept),
        ("validation", "train", held),
        ("test", test, range(GLUE_ROWS["validation"])),
    ):
        rows = glue_rows(config, source)
        expected = [{column: rows[column][i] for column in [*columns, "label"]} for i in chosen]
        assert [json.loads(line) for line in lines[split]] == expected
    manifest = read_manifest(folder / "data" / config)
    assert manifest.classes == names and manifest.source_classes == (names or None)
    assert manifest.source["repo"] == "nyu-mll/glue"
    assert manifest.counts == {"train": 36, "validation": 4, "test": 12}
    assert not list((folder / "data").glob(".*"))  # nor what `datasets` prepared for itself


def test_without_the_hub_data_are_the_same(made):
    folder, _, _ = made
    names = sorted(path.name for path in (folder / "data/mnli").iterdir())
    assert names == ["manifest.json", "test.jsonl", "train.jsonl", "validation.jsonl"]
    for name in names:
        first, again = (folder / where / name for where in ("data/mnli", "again"))
        assert first.read_bytes() == again.read_bytes()


def test_what_the_hub_does_not_give_is_one_sentence(user, hub):
    with user.session():
        said = user.get("cola", config="colla")
        assert said.startswith("Task cola: nyu-mll/glue on the hub has no config 'colla'")
        assert user.get("cola", test="test") is None
        said = user.make_data("cola", user.data, test="test")
        assert "row 0 of the test texts has label -1: its labels are hidden; set `test`" in said
        assert user.get("stsb", test="test") is None
        said = user.make_data("stsb", user.data, test="test")
        assert "has label -1.0: its labels are hidden; set `test`" in said
        assert not user.data.exists()


# --- Models --------------------------------------------------------------------------------------


def test_a_models_files_are_recorded_with_their_hashes(made, model):
    _, _, records = made
    record = records["t5.json"]
    assert (record["kind"], record["repo"]) == ("encoder", T5)
    assert {key: [f["path"] for f in files] for key, files in record["files"].items()} == KEPT
    for file in (file for files in record["files"].values() for file in files):
        content = model[file["path"]]
        assert file["sha256"] == hashlib.sha256(content).hexdigest()
        assert file["size"] == len(content)


def test_of_a_model_only_what_is_read_is_downloaded(user, hub):
    with user.session():
        assert user.get_model() is None
    assert hub.fetched() == {path for paths in KEPT.values() for path in paths}


def test_a_pinned_model_is_that_commit_and_never_another(user, hub, model):
    (old,) = hub.repositories["model", T5]
    new = hub.commit("model", T5, {**model, "config.json": model["config.json"] + b"\n"})
    with user.session():
        for revision, commit in ((None, new), (old.sha, old.sha)):
            assert user.get_model(revision=revision) is None
            assert read_json(user.at("t5"))["commit"] == commit
        user.at("t5").unlink()
        assert f"{T5} has no revision '{UNKNOWN}'" in user.get_model(revision=UNKNOWN)
        assert not user.at("t5").exists()


def test_weights_in_shards_come_with_their_index(made):
    folder, _, records = made
    index, *shards = (file["path"] for file in records["sharded.json"]["files"]["weights"])
    assert index == "model.safetensors.index.json" and len(shards) > 2
    assert shards == [
        f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))
    ]
    assert (folder / "sharded/model.safetensors").is_file()


def test_a_shard_that_lacks_is_one_sentence(user, hub):
    files = t5_files(["a b c"] * 9, shard="8KB")
    shard = max(name for name in files if name.startswith("model-"))
    hub.commit("model", T5, {name: file for name, file in files.items() if name != shard})
    with user.session():
        assert f"{shard} of {T5} is not on the hub" in user.get_model()


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_model_without_what_is_needed_is_one_sentence(user, hub, model, missing):
    hub.commit("model", T5, {name: file for name, file in model.items() if name != missing})
    with user.session():
        said = user.get_model()
    assert said.startswith(f"Encoder t5: {T5} has no {missing} on the hub; choose a model that has")
    assert not user.at("t5").exists() and "model.safetensors" not in hub.fetched()


@pytest.mark.parametrize(
    "fault",
    [
        Fault("*.safetensors", corrupt=True),
        Fault("*.safetensors", status=500, method="GET"),
        Fault("tokenizer.json", corrupt=True),
        Fault("*", refuse=True),
    ],
    ids=["wrong bytes", "GET 500", "another tokenizer", "refused"],
)
def test_a_fault_is_one_sentence_and_the_next_run_heals(user, hub, model, fault):
    with user.session():
        hub.faults = [fault]
        said = user.get_model()
        assert said.startswith("Encoder t5: ") and T5 in said and "run again" in said
        assert not user.at("t5").exists()
        hub.faults = []
        assert user.get_model() is None
    files = [file for files in read_json(user.at("t5"))["files"].values() for file in files]
    assert all(f["sha256"] == hashlib.sha256(model[f["path"]]).hexdigest() for f in files)


def test_offline_nothing_is_made_of_half_a_model(user, hub):
    hub.faults = [Fault("*.safetensors", status=500, method="GET")]
    (commit,) = hub.repositories["model", T5]
    with user.session():
        assert user.get_model() is not None
    with user.session(OFFLINE):
        for revision in (None, commit.sha):
            assert f"{T5} " in user.get_model(revision=revision)
            assert not user.at("t5").exists()


# --- What is made of them ------------------------------------------------------------------------


def test_the_encoder_has_the_hubs_weights_and_tokenizer(made, model):
    folder, _, records = made
    about = read_sealed(folder / "encoder/encoder.json")
    assert about["source"]["commit"] == records["t5.json"]["commit"]
    tensors, theirs = (
        load_file(folder / "encoder/model.safetensors"),
        load(model["model.safetensors"]),
    )
    assert set(theirs) == set(tensors)
    assert all(np.array_equal(tensors[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("config", GLUE)
def test_the_encoder_reads_the_prompts_of_the_rows(made, config):
    """Every token, back to text through the downloaded tokenizer."""
    from tokenizers import Tokenizer

    folder, _, _ = made
    decode = Tokenizer.from_file(str(folder / "encoder/tokenizer.json")).decode
    about = read_sealed(folder / "encoder/encoder.json")
    texts = read_tokens(
        folder / f"heads/{config}.safetensors",
        read_manifest(folder / "data" / config),
        about["name"],
        about["tokenizer_sha256"],
        "test",
    )
    rows = glue_rows(config, glue_splits(config)[1])
    columns, names = GLUE[config]
    order = ["hypothesis", "premise"] if config == "mnli" else columns
    for i in range(GLUE_ROWS["validation"]):
        prompt = " ".join([config, *(f"{column}: {rows[column][i]}" for column in order)])
        ids = texts.tokens[texts.starts[i] : texts.ends[i]]
        assert decode(ids.tolist()) == prompt and ids[-1] == about["geometry"]["eos"]
        label = rows["label"][i]
        answer = names[label] if names else f"{label:.1f}"
        assert texts.texts[texts.target[i]] == answer
        assert decode(texts.words[texts.target[i]].tolist()) == answer
