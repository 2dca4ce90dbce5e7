"""A run of weights that somebody else published: here those that another run fine-tuned, in
transformers' form, one on a hub and one in a folder. It is the same run from the vectors on."""

import json
import shutil
import subprocess
import sys

import pandas as pd
import pytest
import yaml
from hub_server import Hub
from runs import Nano
from safetensors.torch import save

from task_arithmetic.files.hashes import read_sealed
from task_arithmetic.files.tensors import read_made_by, read_tensors
from task_arithmetic.vision.names import to_transformers

pytestmark = pytest.mark.slow

ENCODER, TASKS = "embedded-small", ["textures", "landcover"]
NONLINEAR = f"{ENCODER}/nonlinear"
KEYS = {  # of a geometry → transformers'
    "layers": "num_hidden_layers",
    "width": "hidden_size",
    "patch_size": "patch_size",
    "image_size": "image_size",
    "mlp_width": "intermediate_size",
    "heads": "num_attention_heads",
    "embed_dim": "projection_dim",
    "activation": "hidden_act",
}


def of_transformers(project: Nano, task: str) -> dict[str, bytes]:
    """The files of a fine-tuned model in transformers' form."""
    encoder = project.folder / "results/shared/encoders" / ENCODER
    theta = read_tensors(encoder / "image_tower.safetensors")
    theta |= read_tensors(project.results / f"finetuned/{NONLINEAR}/{task}/0.safetensors")
    geometry = read_sealed(encoder / "encoder.json")["geometry"]
    config = {theirs: geometry[ours] for ours, theirs in KEYS.items()}
    config["model_type"] = "clip_vision_model"
    return {
        "config.json": json.dumps(config).encode(),
        "model.safetensors": save(to_transformers(theta)),
    }


@pytest.fixture(scope="module")
def published(nano, tmp_path_factory):
    """A finished run of published weights, in a copy of the run that they are from."""
    folder = tmp_path_factory.mktemp("published") / "project"
    shutil.copytree(nano.folder, folder)
    for name, content in of_transformers(nano, "landcover").items():
        (folder / "landcover").mkdir(exist_ok=True)
        (folder / "landcover" / name).write_bytes(content)
    of_tasks = {"textures": "me/textures", "landcover": {"path": "landcover"}}
    overlay = {
        "run": "published",
        "modes": ["nonlinear"],
        "ablations": [],
        "merging": None,
        "published": {ENCODER: {"nonlinear": of_tasks}},
    }
    (folder / "config/mine.yaml").write_text(yaml.safe_dump(overlay))
    run = Published(folder, run="published")
    with Hub() as hub:
        hub.commit("model", "me/textures", of_transformers(nano, "textures"))
        run.env = {
            "HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost",
        }  # fmt: skip
        done = run.run()
        assert hub.fetched() == {"config.json", "model.safetensors"}
    assert done.returncode == 0, done.stdout[-6000:]
    return run


class Published(Nano):
    """The run's folder, and its user's hub."""

    env = {"HF_HUB_OFFLINE": "1"}

    def run(self, *options, env=None):
        return super().run("config/mine.yaml", *options, env={**self.env, **(env or {})})


def test_nothing_is_trained_and_a_second_run_does_nothing(published):
    assert not (published.results / "finetuned").exists()
    trace = pd.read_csv(published.results / "trace.csv")
    jobs = trace.stage.value_counts()
    assert jobs["published"] == 2 and jobs["download"] == 1
    assert not {"finetune", "vector"} & set(jobs.index)
    assert published.planned() == {}


@pytest.mark.parametrize("task", TASKS)
def test_vectors_are_those_of_the_run_that_trained_bit_for_bit(task, published, nano):
    path = f"vectors/{NONLINEAR}/{task}/0.safetensors"
    ours, theirs = read_tensors(published.results / path), read_tensors(nano.results / path)
    assert ours.keys() == theirs.keys()
    assert all(ours[name].numpy().tobytes() == theirs[name].numpy().tobytes() for name in theirs)
    source = read_made_by(published.results / path)["source"]
    assert source.get("repo") == ("me/textures" if task == "textures" else None)
    assert len(source["files"]) == 1 + (task == "textures" and 1)


def test_numbers_are_those_of_the_run_that_trained(published, nano):
    """Of tables, digit by digit; of metrics, in every one that is measured on vectors."""
    tables = [pd.read_csv(x.results / "tables/table2.csv", dtype=str) for x in (published, nano)]
    ours, theirs = (table.set_index(["encoder", "mode"]) for table in tables)
    assert len(ours) == 3  # pre-trained, nonlinear, post-hoc
    pd.testing.assert_frame_equal(ours, theirs.loc[ours.index])
    metrics = [pd.read_csv(x.results / "metrics.csv") for x in (published, nano)]
    timed = "step_seconds|training_seconds|memory_bytes|merge_seconds"
    ours, theirs = (m[~m.metric.str.contains(timed) & m.method.isna()] for m in metrics)
    ours, theirs = (m.drop(columns="method") for m in (ours, theirs))
    theirs = theirs[theirs["mode"].isin(ours["mode"].unique())]
    ours, theirs = (m.sort_values(list(m.columns)).reset_index(drop=True) for m in (ours, theirs))
    pd.testing.assert_frame_equal(ours, theirs)


@pytest.mark.parametrize(
    "words, said",
    [
        (["verify", "--run", "published"], "vectors"),
        (["status", "--run", "published"], "published"),
        (["why", f"results/published/vectors/{NONLINEAR}/textures/0.safetensors"], ""),
    ],
)
def test_commands_know_published_vectors(words, said, published):
    configs = ["--config", published.config, "config/mine.yaml"] if words[0] == "why" else []
    done = subprocess.run(
        [sys.executable, "-m", "task_arithmetic", *words, *configs],
        cwd=published.folder, capture_output=True, text=True,
        env={**__import__("os").environ, "PYTHONPATH": str(published.folder / "src")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and (said in done.stdout or words[0] == "verify")


def test_other_weights_are_another_vector_and_null_fine_tunes(published):
    weights = published.folder / "landcover/model.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(kept[:-4] + b"\0\0\0\0")
    planned = published.planned()
    weights.write_bytes(kept)
    assert planned["published"] == 1 and planned["single_task"] == 1
    null = f"published={{{ENCODER}: {{nonlinear: {{landcover: null}}}}}}"
    planned = published.planned("--config", null)
    assert planned["finetune"] == planned["vector"] == 1 and "published" not in planned
