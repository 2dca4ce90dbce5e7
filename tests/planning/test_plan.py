"""What a run takes, said before it runs: jobs, bytes, downloads, hours."""

import http.server
import json
import os
import re
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from task_arithmetic.config.definitions import Architecture, Task
from task_arithmetic.config.definitions import Encoder as Definition
from task_arithmetic.config.experiment import Disentanglement, Experiment
from task_arithmetic.config.geometries import geometries_of, read_geometry
from task_arithmetic.config.reading import (
    ROOT,
    load_definition,
    merge,
    read_config,
    read_yaml,
    validate_config,
)
from task_arithmetic.core.disentanglement import Sample, disentanglement_errors
from task_arithmetic.core.encoder import Encoder
from task_arithmetic.core.linearity import linearity_errors
from task_arithmetic.core.pairs import pair_errors
from task_arithmetic.core.vectors import TaskVector, moved_names
from task_arithmetic.errors import UserError
from task_arithmetic.files.paths import write_json
from task_arithmetic.language.geometry import t5_geometry
from task_arithmetic.planning import disk, probe
from task_arithmetic.planning import plan as planning
from task_arithmetic.planning.devices import named_device, rated
from task_arithmetic.planning.operations import Moved, flops
from task_arithmetic.planning.plan import plan
from task_arithmetic.planning.work import (
    LEARNING,
    SAMPLED,
    Key,
    Work,
    by_stage,
    jobs,
    models_evaluated,
)
from task_arithmetic.stages.finetune import TrainingSettings, start
from task_arithmetic.vision.clip import encode, encode_linearized
from task_arithmetic.vision.geometry import ViT, parameters
from task_arithmetic.vision.modality import Images, Vision
from task_arithmetic.vision.parts import parts_of

NANO, MINI = ROOT / "config/nano.yaml", ROOT / "config/mini.yaml"
REAL = ["ViT-B-32", "ViT-B-16", "ViT-L-14"]
SEVERAL = {  # each list has another length, so that no two factors can be mistaken
    "tasks": ["textures", "landcover", "signs", "letters"],
    "encoders": ["embedded-small", "embedded-base"],
    "modes": ["nonlinear", "ntk", "attention"],
    "ablations": ["attention_mlp"],
    "seeds": [0, 1, 5, 6, 7],
}
PIXELS = 32 * 32 * 3  # bytes of an image of the embedded suite
TEXTS = {  # likewise
    "language": {
        "tasks": ["cola", "mrpc", "rte", "stsb", "sst2"],
        "encoders": ["t5-base", "flan-t5-base"],
        "modes": ["nonlinear", "ntk", "attention"],
        "finetune": {
            "steps": 10,
            "batch_size": 8,
            "learning_rate": 1e-4,
            "warmup_steps": 1,
            "weight_decay": 0.1,
            "gradient_clip": 1.0,
            "checkpoint_steps": 5,
        },
    }
}
NO_IMAGES = {"tasks": [], "encoders": []}
TINY_T5 = {"d_model": 32, "d_ff": 64, "d_kv": 8, "num_heads": 4, "num_layers": 2, "vocab_size": 50}


def resolved(*overlays) -> Experiment:
    """config.yaml with files or dictionaries over it, validated."""
    config = read_yaml(ROOT / "config.yaml")
    for overlay in overlays:
        config = merge(config, overlay if isinstance(overlay, dict) else read_yaml(overlay))
    return validate_config(config)


def outputs(config: Experiment) -> dict[str, list[str]]:
    """Stage → an output of each of its jobs."""
    return {stage: [job.output for job in own] for stage, own in by_stage(jobs(config)).items()}


def sizes(config: Experiment) -> dict[str, list]:
    """Stage → the bytes that each of its jobs writes."""
    return {stage: [job.size for job in own] for stage, own in by_stage(jobs(config)).items()}


def work(config: Experiment, auto: str) -> list[Work]:
    """What all jobs compute."""
    return [each for job in jobs(config, auto) for each in job.work]


def real_geometry(encoder: str) -> ViT:
    return read_geometry(encoder, load_definition("encoders", encoder, "encoders"))


def mode(name: str, modality="vision") -> Moved:
    definition = load_definition("modes", name, "modes")
    return Moved(definition.patterns(modality), definition.linearized)


@pytest.fixture(autouse=True)
def no_hub(monkeypatch, tmp_path):
    """Nothing is asked of a real hub, and results/ is that of an empty folder."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.chdir(tmp_path)


# --- Jobs ----------------------------------------------------------------------------------------


def stage_of(rule: str) -> str:
    """The plan's stage of one of Snakemake's rules."""
    if rule.startswith("table"):
        return "tables"
    if rule.startswith("fig"):
        return "figures"
    return rule.removeprefix("text_")


@pytest.mark.parametrize(
    "overlays",
    [[], [MINI], [NANO], [NANO, SEVERAL, TEXTS], [NANO, TEXTS, NO_IMAGES, {"seeds": [0, 1, 2]}]],
)
def test_every_stage_has_the_jobs_that_snakemake_plans(snakemake, tmp_path, overlays):
    options = []
    if overlays:
        content = {}
        for overlay in overlays:
            content = merge(content, overlay if isinstance(overlay, dict) else read_yaml(overlay))
        (tmp_path / "overlay.yaml").write_text(yaml.safe_dump(content))
        options = ["--configfile", tmp_path / "overlay.yaml"]
    run = snakemake("-n", "--cores", "1", *options)
    assert run.returncode == 0, run.stdout
    table = run.stdout.split("Job stats:")[1].split("\n\n")[0]
    expected: dict[str, int] = {}
    for rule, count in re.findall(r"^(\w+) +(\d+)$", table, re.M):
        expected[stage_of(rule)] = expected.get(stage_of(rule), 0) + int(count)
    total = expected.pop("total")
    assert expected.pop("all") == 1
    jobs = {stage: len(paths) for stage, paths in outputs(resolved(*overlays)).items() if paths}
    assert jobs == expected
    assert sum(jobs.values()) + 1 == total
    # and the paths are those of the rules, so that what is done already is found
    first = {path for paths in outputs(resolved(*overlays)).values() for path in paths}
    assert first <= set(re.findall(r"results/[\w./-]+", run.stdout))


def test_done_counts_the_outputs_that_are_there(capsys, tmp_path):
    for seed in ("textures/0", "landcover/0"):
        path = Path(f"results/nano/vectors/embedded-small/ntk/{seed}.safetensors")
        path.parent.mkdir(parents=True)
        path.touch()
    plan(NANO, device="h100")
    printed = capsys.readouterr().out
    assert re.search(r"^vector +8 +2 ", printed, re.M)
    assert re.search(r"^finetune +8 +0 ", printed, re.M)


# --- Geometry, arithmetic ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "encoder, count, attention, billions",
    [
        ("ViT-B-32", 87_849_216, 28_311_552, 8.82),
        ("ViT-B-16", 86_192_640, 28_311_552, 35.13),
        ("ViT-L-14", 303_966_208, 100_663_296, 162.03),
    ],
)
def test_the_real_geometries_have_the_published_sizes(encoder, count, attention, billions):
    geometry = real_geometry(encoder)
    shapes = geometry.shapes()
    assert parameters(shapes.values()) == count
    names = moved_names(shapes, mode("attention").patterns)
    assert parameters(shapes[name] for name in names) == attention
    forward = flops("image", geometry, None)
    assert forward / 1e9 == pytest.approx(billions, abs=0.005)
    assert geometry.activation == "quick_gelu"
    # nonlinear: forward, and both sides of each product backward; ntk: a tangent more
    assert flops("step", geometry, mode("nonlinear")) / forward == pytest.approx(3, abs=0.03)
    assert flops("step", geometry, mode("ntk")) / forward == pytest.approx(5, abs=0.06)
    assert flops("linearized", geometry, mode("ntk")) / forward == pytest.approx(3, abs=0.03)
    assert flops("step", geometry, mode("attention")) / forward == pytest.approx(2.33, abs=0.05)


def test_the_text_tower_has_the_parameters_of_the_checkpoint():
    from safetensors import safe_open

    folder = ROOT / "src/task_arithmetic/embedded/encoders/embedded-small"
    with safe_open(folder / "open_clip_model.safetensors", "np") as file:
        counts = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    words = [s for n, s in counts.items() if not n.startswith(("visual.", "logit_scale"))]
    images = [s for n, s in counts.items() if n.startswith("visual.")]
    geometry = read_geometry("e", Definition(path=str(folder)))
    assert parameters(geometry.text.shapes().values()) == parameters(words)
    assert parameters(geometry.shapes().values()) == parameters(images)


def training_settings(moved: Moved, recipe: dict) -> TrainingSettings:
    moves = {"train": moved.patterns, "linearized": moved.linearized}
    return TrainingSettings.of({"mode": moves, "finetune": recipe})


@pytest.mark.parametrize("name", ["nonlinear", "ntk", "attention", "attention_mlp_bias"])
def test_the_arithmetic_of_a_step_is_what_torch_counts(name):
    """But for the last block, of which the encoder computes only the class token's part."""
    geometry = ViT(12, 64, 32, 64, 256, 2, 32, "quick_gelu")
    generator = torch.Generator().manual_seed(0)
    shapes = geometry.shapes()
    theta0 = {n: 0.02 * torch.randn(s, generator=generator) for n, s in shapes.items()}
    recipe = {"steps": 1, "weight_decay": 0.1, "gradient_clip": 1.0}
    head = torch.randn(3, 32, generator=generator)
    settings = training_settings(mode(name), recipe)
    encoder = Encoder("tiny", theta0, Vision(geometry, (0.5,) * 3, (0.25,) * 3), "", "")
    run = start(encoder, Images(None, None, head), settings, name)
    batch = torch.randn(4, 3, 64, 64, generator=generator), torch.zeros(4, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        run.step(*batch, 1e-5)
    ours = 4 * flops("step", geometry, mode(name))
    assert 0.85 * ours < counter.get_total_flops() < ours


@pytest.mark.parametrize("name", ["nonlinear", "attention", "attention_mlp_bias"])
def test_the_arithmetic_of_linearity_is_what_torch_counts(name):
    """But for the last block, as above, and passes back, which have other kernels in float64."""
    geometry = ViT(12, 64, 32, 64, 256, 2, 32, "quick_gelu")
    generator = torch.Generator().manual_seed(0)
    shapes = geometry.shapes()
    theta0 = {n: 0.02 * torch.randn(s, generator=generator) for n, s in shapes.items()}
    encoder = Encoder("tiny", theta0, Vision(geometry, (0.5,) * 3, (0.25,) * 3), "", "")
    moved = mode(name)
    tau = TaskVector({n: 0.1 * theta0[n] for n in moved_names(shapes, moved.patterns)})
    images = torch.zeros(4, 64, 64, 3, dtype=torch.uint8).numpy()
    with FlopCounterMode(display=False) as counter:
        linearity_errors(encoder, tau, images, *parts_of(tau.keys()))
    ours = 4 * flops("linearity", geometry, moved)
    assert 0.85 * ours < counter.get_total_flops() < 1.02 * ours


@pytest.mark.parametrize("linearized", [False, True])
def test_pairs_pass_no_more_images_than_planned(linearized):
    geometry = ViT(2, 32, 32, 64, 128, 2, 16, "quick_gelu")
    generator = torch.Generator().manual_seed(0)
    theta0 = {n: 0.1 * torch.randn(s, generator=generator) for n, s in geometry.shapes().items()}
    encoder = Encoder("tiny", theta0, Vision(geometry, (0.5,) * 3, (0.25,) * 3), "", "")
    tau = TaskVector({n: 0.1 * t.flip(0) for n, t in theta0.items()})
    sample = Images(np.zeros((5, 64, 64, 3), np.uint8), np.zeros(5), torch.zeros(3, 16))
    pixels = torch.zeros(5, 3, 64, 64)
    with FlopCounterMode(display=False) as once, torch.inference_mode():
        if linearized:
            encode_linearized(theta0, tau.tensors, pixels, geometry)
        else:
            encode(theta0, pixels, geometry)
    with FlopCounterMode(display=False) as counter:
        pair_errors(encoder, [lambda: tau] * 4, [lambda: sample] * 4, 0.5, linearized)
    ratio = counter.get_total_flops() / once.get_total_flops()
    assert ratio == pytest.approx(4 * 4, rel=0.15)  # and products with the heads


def test_an_unknown_model_of_open_clip_is_one_sentence():
    with pytest.raises(UserError, match=r"no model 'ViT-B-33' \(did you mean 'ViT-B-3"):
        read_geometry("mine", Definition(model="ViT-B-33", pretrained="openai"))
    with pytest.raises(UserError, match="no plain CLIP ViT"):
        read_geometry("mine", Definition(model="RN50", pretrained="openai"))


# --- Disk ----------------------------------------------------------------------------------------


def test_vectors_take_four_bytes_for_each_parameter_that_moves():
    config = resolved(NANO)
    d, layers, tasks = 64, 3, 2
    # patches 3·8², class token, 4² + 1 positions, two norms before and after, projection to 64
    outside = d * (3 * 8 * 8 + 1 + 17 + 4 + 64)
    everything = outside + layers * (12 * d * d + 13 * d)
    attention = layers * 4 * d * d
    per_task = 2 * everything + attention + (attention + layers * 4 * d)  # the four modes
    written = sizes(config)
    assert sum(written["vector"]) == sum(written["finetune"]) == 4 * tasks * per_task


def test_vectors_of_several_seeds_and_encoders_have_one_size_for_each_job():
    config = resolved(NANO, SEVERAL)
    written, d, layers = sizes(config)["vector"], 64, 3
    assert len(written) == 5 * 4 * (2 * 3 + 1)
    assert written.count(4 * layers * 4 * d * d) == 5 * 4  # attention of embedded-small


def test_arrays_of_small_square_images_are_counted_exactly():
    config = resolved(NANO)
    per_task = (2500 + 400 + 1000) * (
        PIXELS + 8 + 16
    ) + 2500 * 8  # labels, digests, sizes 2 × int32
    assert sizes(config)["data"] == [per_task] * 3
    mnist = {"train": 55000, "validation": 5000, "test": 10000}
    bytes_ = disk.data_bytes(Task(hub="ylecun/mnist", templates=["{}"]), mnist)
    assert bytes_ == 70000 * (28 * 28 * 3 + 8 + 16) + 55000 * 8


def test_the_arrays_of_the_eight_tasks_and_the_control_stay_below_60_gigabytes():
    config = resolved({"language": None})
    assert 25e9 < sum(sizes(config)["data"]) < 60e9


def test_a_t5_takes_the_papers_bytes_and_texts_the_assumed_ones():
    config = resolved(TEXTS, NO_IMAGES, {"language": {"encoders": ["t5-base"]}})
    assert list(geometries_of(config)) == ["t5-base"]
    written = sizes(config)
    assert written["encoder"] == [891_614_208]
    one = {"nonlinear": 222_903_552, "ntk": 222_903_552, "attention": 63_700_992}
    assert (
        written["vector"] == written["finetune"] == [4 * n for n in one.values() for _ in range(5)]
    )
    rows = [8551 + 1043, 3668 + 408, 2490 + 277, 5749 + 1500, 67349 + 872]  # GLUE's, with labels
    assert written["data"] == [disk.LINE * n for n in rows]
    assert written["head"] == [(4 * disk.SOURCE + 12) * n for n in rows]


def test_counts_that_nobody_knows_are_called_unknown(project, capsys):
    (project / "pictures").mkdir()
    own = {"path": "pictures", "templates": ["a {}."]}
    (project / "config/tasks/own.yaml").write_text(yaml.safe_dump(own))
    (project / "overlay.yaml").write_text("tasks: [own, textures, landcover]")
    plan(project / "config/nano.yaml", project / "overlay.yaml", device="a100", basedir=project)
    printed = capsys.readouterr().out
    assert re.search(r"^data +4 +0 +– +– +≥ 36.3 MB +60 +–$", printed, re.M)
    assert re.search(r"^single_task .*≥ [\d.]+$", printed, re.M)
    assert re.search(r"^finetune .* [\d.]+$", printed, re.M) and "≥" not in line(
        printed, "finetune"
    )
    # once the data stage has counted them they are known
    write_json(
        "results/shared/data/own/manifest.json",
        {"counts": {"train": 10, "validation": 2, "test": 3}, "classes": ["a", "b"]},
    )
    plan(project / "config/nano.yaml", project / "overlay.yaml", device="a100", basedir=project)
    assert "≥" not in capsys.readouterr().out


def folder_of_images(root: Path, counts: dict, size) -> None:
    """Two classes in each split, and one file that is no image."""
    for split, count in counts.items():
        for i in range(count):
            place = root / split / "ab"[i % 2]
            place.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", size).save(place / f"{i}.png")
        (root / split / "a/broken.png").write_text("no image")


@pytest.mark.parametrize("size, side", [((24, 24), 24), ((600, 300), 224)])
def test_a_folder_that_was_not_read_yet_is_known_by_a_sample(project, size, side):
    folder_of_images(project / "pictures", {"train": 60, "test": 20}, size)
    own = {"path": "pictures", "templates": ["a {}."], "validation": 11}
    (project / "config/tasks/own.yaml").write_text(yaml.safe_dump(own))
    (project / "overlay.yaml").write_text("tasks: [own, textures, landcover]")
    config = read_config(project / "config/nano.yaml", project / "overlay.yaml", basedir=project)
    own = config.definitions.tasks["own"]
    counts, classes = disk.counts_of("own", own)
    assert counts == {"train": 61 - 11, "validation": 11, "test": 21}  # with the broken one
    assert classes == 2
    area = size[0] * size[1] if side == 24 else 512 * 256
    found = disk.data_bytes(own, counts)
    assert found == 3 * (50 * area + 32 * side**2) + 24 * 82 + 8 * 50
    assert disk.how_sized("own", own) == "sample"


def test_a_saved_dataset_that_was_not_read_yet_is_known_by_a_sample(tmp_path):
    import datasets

    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["a"]))
    splits = {
        split: datasets.Dataset.from_dict(
            {"image": [Image.new("RGB", (20, 20))] * count, "label": [0] * count}, features
        )
        for split, count in {"train": 30, "test": 10}.items()
    }
    datasets.DatasetDict(splits).save_to_disk(
        tmp_path / "saved", num_shards={"train": 3, "test": 1}
    )
    definition = Task(path=str(tmp_path / "saved"), templates=["{}"])
    counts = disk._counted(definition)
    assert counts == {"train": 27, "validation": 3, "test": 10}
    assert disk.data_bytes(definition, counts) == 40 * (20 * 20 * 3 + 8 + 16) + 27 * 8


def test_a_large_folder_is_looked_at_in_less_than_a_second(tmp_path):
    folder_of_images(tmp_path, {"train": 2, "test": 2}, (300, 300))
    for split, count in {"train": 45_000, "test": 5_000}.items():
        for i in range(count):
            os.link(tmp_path / split / "a/0.png", tmp_path / split / f"b/{i:06d}.png")
    began = time.perf_counter()
    task = Task(path=str(tmp_path), templates=["{}"])
    counts = disk._counted(task)
    assert sum(counts.values()) == 50_006 and disk.data_bytes(task, counts)
    assert time.perf_counter() - began < 1


def test_what_is_there_is_not_needed_again(project, capsys):
    def row(stage):
        plan(project / "config/nano.yaml", device="a100", basedir=project)
        return line(capsys.readouterr().out, stage).split("  ")

    before = [cell.strip() for cell in row("data") if cell]
    folder = Path("results/shared/data/textures")
    folder.mkdir(parents=True)
    (folder / "train_images.npy").write_bytes(bytes(2_000_000))
    (folder / "manifest.json").write_text("{}")
    after = [cell.strip() for cell in row("data") if cell]
    assert before == ["data", "3", "0", "–", "–", "36.3 MB", "45", "–"]
    assert after == ["data", "3", "1", "–", "2.00 MB", "24.2 MB", "30", "–"]


def test_too_little_room_is_said(project, monkeypatch, capsys):
    monkeypatch.setattr(planning, "free_files", lambda folder: 100)
    monkeypatch.setattr(planning.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))
    plan(project / "config/nano.yaml", device="a100", basedir=project)
    printed = " ".join(capsys.readouterr().out.split())
    assert re.search(r"[\d.]+ MB are added, and only 1.00 MB are free in /", printed)
    assert re.search(r"\d+ files are added, and only 100 files are free in /", printed)


def line(printed: str, stage: str) -> str:
    return next(line for line in printed.splitlines() if line.startswith(f"{stage} "))


# --- Downloads -----------------------------------------------------------------------------------


def test_without_a_hub_the_plan_says_so_and_writes_nothing(tmp_path):
    code = "from task_arithmetic.planning.plan import plan; plan(device='h100')"
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={
            **os.environ,
            "HF_ENDPOINT": "http://127.0.0.1:9",
            "HF_HOME": str(tmp_path / "cache"),
            "PYTHONPATH": str(ROOT / "src"),
        },
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert run.returncode == 0, run.stderr
    assert re.search(r"^download +20 +0 +unknown +– +unknown +80 +–$", run.stdout, re.M)
    assert "hub not reachable" in run.stdout
    assert re.search(r"^total .* ≥ \d+ GB +[\d,]+ +[\d.]+$", run.stdout, re.M)
    assert not list(tmp_path.iterdir())


class Hub(http.server.BaseHTTPRequestHandler):
    """The part of a hub's API that lists a repository's files."""

    repositories = {
        "/api/datasets/ylecun/mnist": {
            "README.md": 1,
            "mnist/train-00000-of-00002.parquet": 10,
            "mnist/train-00001-of-00002.parquet": 20,
            "mnist/test-00000-of-00001.parquet": 300,
            "mnist/extra-00000-of-00001.parquet": 100_000,
        },
        "/api/models/timm/vit_base_patch32_clip_224.openai": {
            "open_clip_model.safetensors": 4000,
            "open_clip_pytorch_model.bin": 5000,
        },
        "/api/datasets/nyu-mll/glue": {
            "cola/train-00000-of-00001.parquet": 1,
            "cola/validation-00000-of-00001.parquet": 20,
            "cola/test-00000-of-00001.parquet": 300,
            "mnli/train-00000-of-00001.parquet": 4000,
            "mnli/validation_matched-00000-of-00001.parquet": 50_000,
            "mnli/validation_mismatched-00000-of-00001.parquet": 600_000,
        },
        "/api/models/google-t5/t5-base": {
            "config.json": 1,
            "tokenizer.json": 20,
            "spiece.model": 300,
            "model.safetensors": 4000,
            "pytorch_model.bin": 50_000,
        },
        "/api/models/google/flan-t5-base": {
            "config.json": 1,
            "tokenizer.json": 20,
            "model.safetensors.index.json": 300,
            "model-00001-of-00002.safetensors": 4000,
            "model-00002-of-00002.safetensors": 50_000,
            "pytorch_model-00001-of-00001.bin": 600_000,
        },
    }

    def do_GET(self):  # noqa: N802
        path = self.path.split("?")[0].split("/revision/")[0]
        if path not in self.repositories:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()
            return
        files = self.repositories[path].items()
        siblings = [{"rfilename": name, "size": size} for name, size in files]
        body = json.dumps({"id": path.split("/", 3)[3], "sha": "a" * 40, "siblings": siblings})
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass


def test_with_a_hub_the_files_of_the_splits_and_the_weights_are_added_up(monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        endpoint = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
        images = {"tasks": ["mnist", "dtd", "svhn"], "encoders": ["ViT-B-32"]}
        config = resolved(images, PAIRS, TEXTS, {"language": {"tasks": ["cola", "mnli"]}})
        record = {"files": {"train": [{"size": 50}, {"size": 7}], "test": [{"size": 1}]}}
        write_json("results/shared/downloads/tasks/svhn.json", record)
        fetched, notes = disk.downloads(config)
    finally:
        server.shutdown()
        server.server_close()
    # mnist, dtd, svhn, imagenet; cola, mnli; ViT-B-32; t5-base, flan-t5-base
    assert fetched == [330, None, 58, None, 21, 54_000, 4000, 4321, 54_321]
    assert len(notes) == 2 and "dtd is unknown" in notes[0] and "imagenet" in notes[1]


PAIRS = {"disentanglement": {"pairs": {"fig6": ["mnist", "dtd"], "fig8": ["dtd", "svhn"]}}}


# --- Work ----------------------------------------------------------------------------------------


def amounts(config: Experiment, stage: str) -> dict:
    found: dict = {}
    for job in by_stage(jobs(config, "float32"))[stage]:
        for (encoder, kind, name, *_), amount in job.work:
            found[encoder, kind, name] = found.get((encoder, kind, name), 0) + amount
    return found


def test_work_is_counted_as_the_stages_do_it():
    config = resolved(NANO, {"alphas": {"step": 0.1}})
    e, v, t, alphas = "embedded-small", 64, 64, 11  # limit: images of each split of a task
    steps = {(e, "step", mode): 2 * 4 for mode in config.modes + config.ablations}
    assert amounts(config, "finetune") == steps
    assert amounts(config, "pretrained") == {(e, "image", None): 3 * 128, (e, "read", None): 384}
    # nonlinear, attention and the ablation through f, ntk through f_lin
    own = {(e, "image", None): 3 * 2 * 128, (e, "read", None): 3 * 2 * 128}
    assert amounts(config, "single_task") == {**own, (e, "linearized", "ntk"): 2 * 128}
    assert amounts(config, "kernel") == {
        (e, "linearized", "nonlinear"): 2 * 128,
        (e, "linearized", "attention"): 2 * 128,
    }
    assert amounts(config, "addition") == {
        (e, "image", None): 3 * 2 * (alphas * v + t),
        (e, "read", None): 3 * 2 * (v + t),
        (e, "linearized", "ntk"): 2 * (v + t),
    }
    assert amounts(config, "posthoc") == {(e, "linearized", "nonlinear"): 2 * (v + t)}
    # each of two vectors: on its own task and on the control task
    assert amounts(config, "negation") == {
        (e, "image", None): 2 * 2 * 2 * (alphas * v + t),
        (e, "read", None): 2 * 2 * 2 * (v + t),
        (e, "linearized", "ntk"): 2 * 2 * (v + t),
    }
    # two pairs of two tasks, 32 samples, a grid of 3 × 3
    assert amounts(config, "disentanglement") == {
        (e, "image", None): 2 * 2 * 2 * 32 * 9,
        (e, "read", None): 2 * 2 * 2 * 32,
        (e, "linearized", "ntk"): 2 * 2 * 2 * 32,
    }
    assert amounts(config, "efficiency") == {(e, "step", mode): 3 + 2 for mode in config.modes}
    # each of two vectors on 16 samples of each of two tasks; `interference` also without a vector
    passed = {(e, "image", None): 2 * 4 * 16, (e, "read", None): 2 * 4 * 16}
    passed |= {(e, "linearized", "ntk"): 4 * 16}
    assert amounts(config, "pairs") == passed
    assert amounts(config, "interference") == {**passed, (e, "image", None): 2 * (4 + 2) * 16}
    assert amounts(config, "linearity") == {(e, "linearity", m): 2 * 8 for m in config.modes}
    several = resolved(NANO, {"seeds": [3, 4, 9]})
    for stage in ("finetune", "addition", "posthoc", "negation", "disentanglement", *SAMPLED):
        once = amounts(resolved(NANO), stage)
        assert amounts(several, stage) == {key: 3 * amount for key, amount in once.items()}


@pytest.mark.parametrize("name", SAMPLED)
def test_an_analysis_that_is_off_is_not_planned(name):
    off = outputs(resolved(NANO, {"analyses": {name: None}}))
    assert not off[name] and f"results/nano/figures/{name}.png" not in off["figures"]
    on = outputs(resolved(NANO))
    assert len(on[name]) == 3 and f"results/nano/figures/{name}.png" in on["figures"]


def test_work_on_texts_is_counted_as_the_stages_do_it():
    limit = {"train": 9, "validation": 30, "test": 7}
    config = resolved(NANO, TEXTS, {"alphas": {"step": 0.1}, "seeds": [3, 4, 9], "limit": limit})
    alphas, seeds, v, t = 11, 3, 5 * 30, 5 * 7
    for e in config.language.encoders:

        def of_texts(stage, e=e):
            return {key[1:]: n for key, n in amounts(config, stage).items() if key[0] == e}

        modes = config.language.modes
        assert of_texts("finetune") == {("step", mode): seeds * 5 * 10 for mode in modes}
        assert of_texts("efficiency") == {("step", mode): 3 + 2 for mode in modes}
        assert of_texts("pretrained") == {("text", None): v + t}
        # nonlinear and attention through f, ntk through f_lin
        assert of_texts("single_task") == {
            ("text", None): 2 * seeds * (v + t),
            ("linearized", "ntk"): seeds * (v + t),
        }
        assert of_texts("addition") == {
            ("text", None): 2 * seeds * (alphas * v + t),
            ("linearized", "ntk"): seeds * (v + t),
        }
        for stage in ("head", "kernel", "posthoc", "negation", "disentanglement", *SAMPLED):
            assert not of_texts(stage)
    # the published code's grid is of test; ours of validation is walked beside it
    texts = replace(config.parts["language"], reference_selection=True)
    config = config.model_copy(update={"parts": {**config.parts, "language": texts}})
    assert amounts(config, "addition")["t5-base", "text", None] == 2 * seeds * (
        alphas * (v + t) + t
    )
    assert amounts(config, "addition")["t5-base", "linearized", "ntk"] == seeds * (v + t + t)
    # and what is done with images is the same beside texts and without
    config = config.model_copy(update={"parts": {"vision": config.parts["vision"]}})
    assert work(config, "bf16") == work(
        resolved(NANO, {"alphas": {"step": 0.1}, "seeds": [3, 4, 9], "limit": limit}), "bf16"
    )


@pytest.mark.parametrize("linearized", [False, True])
def test_the_grids_pass_no_more_images_than_planned(linearized):
    """Held to what the stages' own functions compute, as torch counts it."""
    geometry = ViT(2, 32, 32, 64, 128, 2, 16, "quick_gelu")
    generator = torch.Generator().manual_seed(0)
    shapes = geometry.shapes().items()
    theta0 = {n: 0.1 * torch.randn(s, generator=generator) for n, s in shapes}
    encoder = Encoder("tiny", theta0, Vision(geometry, (0.5,) * 3, (0.25,) * 3), "", "")
    taus = [TaskVector({n: 0.1 * t.flip(0) for n, t in theta0.items()})] * 2
    head = torch.zeros(3, 16)  # classes cost nothing
    images = torch.zeros(5, 64, 64, 3, dtype=torch.uint8).numpy()
    labels = torch.zeros(5, dtype=torch.int64).numpy()

    def counted(action) -> int:
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            action()
        return counter.get_total_flops()

    pixels = torch.zeros(5, 3, 64, 64)
    once = counted(lambda: encode(theta0, pixels, geometry))
    if linearized:
        once = counted(lambda: encode_linearized(theta0, taus[0].tensors, pixels, geometry))
    parts = [Sample(images, labels + 0.2, labels, head)] * 2
    for grid in ([-1.0, 0.0, 1.0], [-1.0, 1.0]):
        passes = models_evaluated(
            Disentanglement(pairs={}, low=-1.0, high=1.0, points=len(grid), samples=1)
        )
        assert passes == {3: 9, 2: 6}[len(grid)]
        of = encoder, taus, parts, grid, linearized
        heatmap = counted(lambda of=of: disentanglement_errors(*of))
        assert 0.8 < heatmap / (2 * (2 if linearized else passes) * once) < 1.1  # of both tasks
    grid = [-1.0, 0.0, 1.0]
    of = theta0, taus[0], grid, {"task": Images(images, labels, head)}, linearized
    alphas = counted(lambda: encoder.modality.accuracies(*of))
    assert alphas / ((1 if linearized else 3) * once) == pytest.approx(1, abs=0.1)
    alphas = counted(lambda: encoder.modality.accuracies(*of, "float32", taus[1]))
    assert alphas / ((2 if linearized else 3) * once) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("tasks", [8, 14, 20])
def test_the_suites_are_planned_wherever_one_is(tasks, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # where no such file is: the shipped one is taken
    plan(f"config/suites/clip{tasks}.yaml", device="h100")
    printed = capsys.readouterr().out
    assert line(printed, "data").split()[1] == str(tasks + 1)  # and the control task
    assert line(printed, "finetune").split()[1] == str(tasks * (3 * 3 + 3))
    assert "≥" not in line(printed, "data")


def test_sides_are_known_of_datasets_that_shipped_tasks_name():
    tasks = (read_yaml(path) for path in (ROOT / "config/tasks").glob("*.yaml"))
    assert {*disk.SIDES} <= {task.get("hub") for task in tasks}


# --- Speed ---------------------------------------------------------------------------------------


def test_an_unknown_device_is_one_sentence_that_names_the_known_ones():
    with pytest.raises(UserError, match=r"no device 'h10'.*did you mean.*rtx3090, .*h100.*cpu for"):
        plan(NANO, device="h10")


def test_a_named_device_is_called_an_estimate_and_gives_the_published_throughputs(capsys):
    plan(device="rtx3090")
    printed = " ".join(capsys.readouterr().out.split())
    assert "an estimate, not measured" in printed and "timm" in printed
    device = named_device("rtx3090", ROOT)
    config = resolved()
    for encoder, published in zip(REAL, (1704, 391, 85), strict=True):
        key = Key(encoder, "step", "nonlinear", "bf16", 128)
        (seconds,) = rated([key], config, geometries_of(config), device).values()
        assert 128 / seconds == pytest.approx(published, rel=0.1)


def test_hours_are_work_times_speed_and_starting_each_job(monkeypatch, capsys):
    monkeypatch.setattr(planning, "rated", lambda keys, *_: dict.fromkeys(keys, 0.5))
    monkeypatch.setattr(planning, "START_SECONDS", 30.0)
    plan(NANO, device="h100")
    printed = capsys.readouterr().out
    # 8 jobs of 4 steps; 6 of half a second for each image and each that is read
    assert line(printed, "finetune").split()[-1] == "0.07"  # hours: 8 · 30 s + 32 · 0.5 s
    config = resolved(NANO)
    learning = [job for job in jobs(config) if job.stage in LEARNING]
    units = sum(each.amount for job in learning for each in job.work)
    starts = len(learning) * 30
    assert line(printed, "total").split()[-1] == f"{(units * 0.5 + starts) / 3600:.2f}"


def test_a_probe_measures_every_kind_of_work_on_this_machine(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(probe, "SECONDS", {"cpu": 0.1})
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        plan(NANO, device="cpu")
        assert torch.get_num_threads() == 2  # while probing it is one, as for the jobs
    finally:
        torch.set_num_threads(threads)
    printed = capsys.readouterr().out
    assert "measured now" in printed and "CPU-" in printed
    rows = re.findall(r"^embedded-small +(.*?) +float\d+ +([\d,.]+) +([\d.]+) ", printed, re.M)
    assert [what for what, _, _ in rows] == [
        "train nonlinear of 8 at a time",  # by adamerging
        "train nonlinear of 16 at a time",
        "train ntk of 8 at a time",
        "train ntk of 16 at a time",
        "train attention of 8 at a time",
        "train attention of 16 at a time",
        "train attention_bias",
        "evaluate",
        "evaluate f_lin of nonlinear",
        "evaluate f_lin of ntk",
        "evaluate f_lin of attention",
        "linearity per block of nonlinear",
        "linearity per block of ntk",
        "linearity per block of attention",
        "head, prompts",
    ]
    assert all(float(rate.replace(",", "")) > 1 for _, rate, _ in rows)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["nonlinear", "ntk", "attention"])
def test_a_probe_of_texts_computes_what_is_counted(name):
    geometry = t5_geometry("tiny", TINY_T5)
    definition = mode(name, "language")
    made = probe.RandomTexts(geometry, torch.device("cpu"))
    theta0 = made.encoder.theta0
    moved = moved_names(theta0, definition.patterns)
    tau = TaskVector({name: 0.01 * theta0[name] for name in moved})
    recipe = {"steps": 1, "weight_decay": 0.1, "gradient_clip": 1.0}
    run = start(made.encoder, made.examples(1), training_settings(definition, recipe), name)
    actions = {
        "text": lambda: made.evaluate(made.examples(5), tau, [1.0], False, "float32"),
        "linearized": lambda: made.evaluate(made.examples(5), tau, [1.0], True, "float32"),
        "step": lambda: run.step(*made.batch(5), 1e-5),
    }
    for kind, action in actions.items():
        with FlopCounterMode(display=False) as counter:
            action()
        ratio = counter.get_total_flops() / (5 * flops(kind, geometry, definition))
        assert 0.8 < ratio < 1.1, (kind, ratio)


def test_texts_are_probed_on_this_machine(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(probe, "SECONDS", {"cpu": 0.1})
    alone = {"language": {"encoders": ["t5-base"]}, "merging": None}
    config = resolved(NANO, TEXTS, NO_IMAGES, alone)
    encoders = config.definitions.encoders
    tiny = Architecture.model_construct(**TINY_T5)
    encoders["t5-base"] = encoders["t5-base"].model_copy(update={"architecture": tiny})
    monkeypatch.setattr(planning, "read_config", lambda *_, **__: config)
    monkeypatch.setattr(probe, "starting_seconds", lambda kind: 1.0)
    plan(device="cpu")
    printed = " ".join(capsys.readouterr().out.split())
    rows = re.findall(r" t5-base ([\w ]+?) float32 ([\d,.]+) ", printed)
    assert [what for what, _ in rows] == [
        "train nonlinear",
        "train ntk",
        "train attention",
        "evaluate",
        "evaluate f_lin of ntk",
    ]
    assert all(float(rate.replace(",", "")) > 1 for _, rate in rows)
    assert re.search(r"t5-base: .*steps of [\d and]+ texts", printed)
    assert "tokens of four characters" in printed
    assert "images" not in printed.split("measured now")[1]
    assert not list(tmp_path.iterdir())


def test_a_t5_is_not_scaled_from_an_encoder_of_images(monkeypatch):
    monkeypatch.setattr(probe, "SECONDS", {"cpu": 0.1})
    config = resolved(NANO, TEXTS)
    keys = [Key("embedded-small", "image", None, "float32")]
    keys.append(Key("t5-base", "text", None, "float32"))
    monkeypatch.setattr(probe, "_free_memory", lambda: 8e6)  # bytes: enough for the images'
    with pytest.raises(UserError, match=r"Probing t5-base needs 7.13 GB .*--device"):
        probe.probed(keys, config, geometries_of(config), "cpu")


def test_a_large_batch_is_extrapolated_with_the_optimizers_part_counted_once(monkeypatch):
    seconds = {2: 7.0, 6: 11.0}  # 5 s for each step and 1 s for each image
    monkeypatch.setattr(probe, "_median", lambda action, *_: seconds[action()])
    run = SimpleNamespace(step=lambda images, labels, rate: len(images))
    found = probe._step_seconds(run, lambda n: ([0] * n, None), 128, 2, torch.device("cpu"))
    assert found == pytest.approx(5 + 128)


def test_an_encoder_that_is_too_slow_here_is_scaled_from_the_one_before(monkeypatch):
    monkeypatch.setattr(probe, "SECONDS", {"cpu": 0.1})
    config = resolved(NANO, {"encoders": ["embedded-small", "embedded-base"]})
    keys = sorted({i.key for i in work(config, "float32")}, key=planning._place(config))
    of_small = [key for key in keys if key.encoder == "embedded-small"]
    shapes = geometries_of(config)
    small, _ = probe.probed(of_small, config, shapes, "cpu")
    monkeypatch.setattr(probe, "_free_memory", lambda: 8e6)  # bytes: enough for the small one
    with pytest.raises(UserError, match="--device"):
        probe.probed([k for k in keys if k not in of_small], config, shapes, "cpu")
    speeds, how = probe.probed(keys, config, shapes, "cpu")
    assert "scaled" in how[2] and set(speeds) == set(keys)
    key = Key("embedded-base", "step", "ntk", "float32", 16)
    ratio = speeds[key] / speeds[key._replace(encoder="embedded-small")]
    arithmetic = [flops("step", shapes[e], mode("ntk")) for e in config.encoders]
    assert ratio == pytest.approx(arithmetic[1] / arithmetic[0])
