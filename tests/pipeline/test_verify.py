"""Holding a run's files to what was recorded of them."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from task_arithmetic.errors import UserError
from task_arithmetic.files import hashes, tensors
from task_arithmetic.files.hashes import sealed, write_sha256
from task_arithmetic.files.manifest import Manifest
from task_arithmetic.files.paths import write_json
from task_arithmetic.files.tensors import write_tensors
from task_arithmetic.pipeline.identity import identities
from task_arithmetic.pipeline.jobs import output_hashes
from task_arithmetic.pipeline.verify import verify
from task_arithmetic.stages.catalogue import STAGES

DRAWN = "results/shared/embedded/one"
DATA = "results/shared/data/one"
ENCODER = "results/shared/encoders/tiny"
MOVED = "results/mini/finetuned/tiny/0.safetensors"
VECTOR = "results/mini/vectors/tiny/0.safetensors"
TABLE = "results/mini/tables/table1.csv"


@pytest.fixture(autouse=True)
def run(tmp_path, monkeypatch):
    """A run of six jobs, in the current folder."""
    monkeypatch.chdir(tmp_path)
    known = []

    def finish(stage, arguments, outputs):
        log = f"results/mini/logs/{stage}/0.log"
        inputs = identities(STAGES[stage], arguments)
        files = [Path(path) for path in outputs]
        if STAGES[stage].hashed:
            write_sha256(files[:1] if stage == "embedded" else files)
        made = {"inputs": inputs, "outputs": output_hashes(arguments, files)}
        write_json(Path(log).with_suffix(".json"), {"stage": stage, "attempts": [], "made": made})
        known.append({"stage": stage, "log": log, "outputs": outputs, "needed": True})

    Path(DRAWN).mkdir(parents=True)
    Path(f"{DRAWN}/data.arrow").write_text("images")
    finish("embedded", {"output": DRAWN}, [DRAWN, f"{DRAWN}.sha256"])
    for name in ("train_images", "test_labels"):
        Path(DATA).mkdir(parents=True, exist_ok=True)
        np.save(f"{DATA}/{name}.npy", np.arange(9))
    files = {path.name: hashes.sha256_of_file(path) for path in Path(DATA).iterdir()}
    Manifest("one", ["a", "b"], files, "d").write(Path(DATA))
    finish("data", {"output": DATA}, [f"{DATA}/manifest.json", f"{DATA}/train_images.npy"])
    about = {"theta0": "image_tower.safetensors"}
    for tower in ("image", "text"):
        path = f"{ENCODER}/{tower}_tower.safetensors"
        write_tensors(path, {"w": torch.ones(3)}, {})
        key = {"image": "theta0", "text": "text_tower"}[tower]
        about[f"{key}_sha256"] = hashes.sha256_of_file(path)
    write_json(f"{ENCODER}/encoder.json", sealed(about))
    finish("encoder", {"output": ENCODER}, [f"{ENCODER}/encoder.json", path])
    write_tensors(MOVED, {"w": torch.ones(3)}, {"seed": 0})
    log = Path(MOVED).with_suffix(".csv")
    log.write_text("step,loss\n")
    finish("finetune", {"encoder_dir": ENCODER, "data_dir": DATA}, [MOVED, str(log)])
    write_tensors(VECTOR, {"w": torch.ones(3)}, {})
    finish("vector", {"encoder_dir": ENCODER, "finetuned": MOVED}, [VECTOR])
    Path(TABLE).parent.mkdir(parents=True)
    Path(TABLE).write_text("a,b\n")
    finish("table", {"output_dir": str(Path(TABLE).parent), "name": "table1"}, [TABLE])
    write_json("results/mini/run.json", {"started": 0.0, "pid": 1, "node": "n", "jobs": known})


def problems(capsys, lines=1, fine=11, of=6) -> str:
    """What is said, besides what the summary and the error say."""
    with pytest.raises(UserError, match=rf"/mini is not as it was made \(lines.*: {lines}\)"):
        verify()
    *said, summary = capsys.readouterr().out.splitlines()
    assert summary.startswith(f"{fine} files of {of} jobs are as they were made (")
    assert len(said) == lines
    return "\n".join(said)


def record(stage, files):
    """Let a job's record say that these files are what it made."""
    path = Path(f"results/mini/logs/{stage}/0.json")
    content = json.loads(path.read_text())
    content["made"]["outputs"] = output_hashes({"output": files[0]}, files)
    path.write_text(json.dumps(content))


def test_an_untouched_run_is_as_it_was_made(capsys):
    for path in Path("results").rglob("*"):
        path.touch()
    verify("mini")
    assert capsys.readouterr().out.startswith("12 files of 6 jobs are as they were made (")
    with pytest.raises(UserError, match="There is no run other in results"):
        verify("other")


@pytest.mark.parametrize(
    "path",
    [
        MOVED,
        TABLE,
        f"{DRAWN}/data.arrow",
        f"{DATA}/test_labels.npy",
        f"{ENCODER}/text_tower.safetensors",
    ],
)
def test_a_flipped_bit_is_found(capsys, path):
    content = bytearray(Path(path).read_bytes())
    content[-1] ^= 1
    Path(path).write_bytes(content)
    assert f"{path} is damaged" in problems(capsys)


@pytest.mark.parametrize("path", [VECTOR, TABLE, f"{DATA}/train_images.npy"])
def test_a_missing_file_is_found(capsys, path):
    os.remove(path)
    assert problems(capsys) == (
        f"{path} does not exist: make it again with `snakemake {path}` and the run's other options."
    )


def test_hashes_that_are_not_those_of_the_record_are_found(capsys):
    beside = Path(VECTOR).with_suffix(".sha256")
    beside.write_text(beside.read_text().replace("0", "1"))
    assert f"{beside} is damaged" in problems(capsys)
    beside.unlink()
    assert f"{beside} does not exist" in problems(capsys, fine=12)


def test_what_no_record_tells_of_is_found(capsys):
    os.remove("results/mini/logs/finetune/0.json")
    said = problems(capsys, fine=10, of=5)
    assert said.startswith(f"{MOVED} has no record of how it was made, results/mini/logs/finetune")
    Path("results/mini/logs/finetune/0.json").write_text("{")
    assert "0.json is damaged (not JSON)" in problems(capsys, fine=10, of=5)


def test_other_versions_files_are_found(capsys, monkeypatch):
    write_json(f"{DATA}/manifest.json", sealed({"format": 1, "files": {}, "data_sha256": "d"}))
    record("data", [Path(DATA)])
    assert "made by another version (format 1, not" in problems(capsys, lines=2, fine=9)
    monkeypatch.setattr(tensors, "FORMAT", "task_arithmetic/9")
    said = problems(capsys, lines=6, fine=5)
    assert f"{MOVED} was made by another version (task_arithmetic/2, not task_arithm" in said


def test_what_was_made_from_something_else_is_found(capsys):
    write_tensors(MOVED, {"w": torch.zeros(3)}, {"seed": 0})
    write_sha256(files := [Path(MOVED), Path(MOVED).with_suffix(".csv")])
    record("finetune", files)
    said = f"{VECTOR} was made from another {MOVED} than is there now: delete it with `rm {VECTOR}`"
    assert problems(capsys, fine=12).startswith(said)
