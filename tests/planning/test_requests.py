"""What jobs ask a cluster for, and that every rule asks for it."""

import csv
import json
import subprocess
import sys

import pytest

from task_arithmetic.config.definitions import Task
from task_arithmetic.config.experiment import Experiment
from task_arithmetic.config.geometries import read_geometry
from task_arithmetic.config.reading import ROOT, merge, read_yaml, validate_config
from task_arithmetic.planning import requests as resources
from task_arithmetic.planning.disk import counts_of, data_bytes
from task_arithmetic.planning.requests import requests
from task_arithmetic.planning.work import LEARNING, jobs, work_of
from task_arithmetic.vision.geometry import parameters

NANO, MINI = ROOT / "config/nano.yaml", ROOT / "config/mini.yaml"
SEVERAL = {  # each list has another length, so that no two factors can be mistaken
    "tasks": ["textures", "landcover", "signs", "letters"],
    "encoders": ["embedded-small", "embedded-base"],
    "modes": ["nonlinear", "ntk", "attention"],
    "ablations": ["attention_mlp"],
    "seeds": [0, 1, 5, 6, 7],
}
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
REFERENCE = {"language": {"reference_selection": True}}
NO_IMAGES = {"tasks": [], "encoders": []}


@pytest.fixture(autouse=True)
def nothing_made_yet(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def resolved(*overlays) -> Experiment:
    config = read_yaml(ROOT / "config.yaml")
    for overlay in overlays:
        config = merge(config, overlay if isinstance(overlay, dict) else read_yaml(overlay))
    return validate_config(config)


# --- The numbers ---------------------------------------------------------------------------------


def test_a_request_is_of_the_work_of_its_job(monkeypatch):
    """Of a stage of pairs, of the larger pair."""
    config = resolved(NANO, {"disentanglement": {"samples": 300}, "limit": None})
    asked: list = []
    monkeypatch.setattr(
        resources, "work_of", lambda _, known, job: asked.append(job) or work_of(config, known, job)
    )
    request = requests(config)
    for job in jobs(config):
        of = request(job.stage, job.encoder, job.mode, job.task, job.method)
        if job.stage in LEARNING:
            own = asked[-1] if job.pair is None else [each.pair for each in asked[-2:]]
            same = job._replace(output="", seed=None, work=(), size=0)
            assert own == (same if job.pair is None else ["fig6", "fig8"])
            assert of.seconds > resources.STARTING


def test_larger_encoders_and_linearized_modes_ask_for_more():
    request = requests(resolved())
    asked = [
        request("finetune", encoder, mode, "cars")
        for encoder in ("ViT-B-32", "ViT-B-16", "ViT-L-14")
        for mode in ("nonlinear", "ntk")
    ]
    assert [one.seconds for one in asked] == sorted(one.seconds for one in asked)
    assert asked[-1].memory_mb > asked[0].memory_mb and asked[-1].minutes > asked[0].minutes


def test_a_request_holds_the_tensors_and_cuda_but_not_the_arrays():
    config = resolved()
    request = requests(config)
    geometry = read_geometry("ViT-L-14", config.definitions.encoders["ViT-L-14"])
    weights = 4 * parameters(geometry.shapes().values()) / 1e6
    saved = 3 * weights  # θ and AdamW's two moments
    memory = request("finetune", "ViT-L-14", "nonlinear", "sun397").memory_mb
    assert resources.LEAST + resources.CUDA + weights + saved < memory < 20_000
    arrays = [
        data_bytes(task, counts_of(name, task).splits)
        for name, task in config.definitions.tasks.items()
        if name in config.tasks
    ]
    assert sum(arrays) / 1e6 > 20_000
    assert request("addition", "ViT-B-32", "nonlinear").memory_mb < 10_000


def test_the_embedded_suite_asks_for_little():
    config = resolved(MINI, {"device": "cpu"})
    request = requests(config)
    for job in jobs(config):
        if job.stage in LEARNING and job.stage != "head":
            of = job.stage, job.encoder, job.mode, job.task, job.method
            memory, minutes, cores, _ = request(*of)
            assert 1_500 <= memory <= 4_000 and 10 <= minutes <= 30 and cores == 1
    assert request("data", task="letters").cores == 1


def test_linear_algebra_asks_for_its_matrices_and_not_for_images():
    few, many = (requests(resolved(more)) for more in ({"merging": None}, {}))
    for stage in ("spectra", "alignment"):
        of = stage, "ViT-B-32"
        assert few(*of, "nonlinear").seconds < many(*of, "nonlinear").seconds < 1_200
        assert many(*of, "attention").seconds < many(*of, "nonlinear").seconds
        held = many(*of, "nonlinear").memory_mb - resources.LEAST - resources.CUDA
        assert 8 * 4 * 3072 * 768 / 1e6 < held < 2 * 350  # a matrix of each task, no two models
    alike = requests(resolved({"tasks": ["mnist", "svhn"], "disentanglement": None}))
    assert alike("layers", "ViT-B-32", "nonlinear").memory_mb == resources.LEAST


def test_a_t5_asks_for_its_tensors_and_the_rows_of_its_texts():
    request = requests(resolved(TEXTS, {"language": {"tasks": ["cola", "qqp"]}}))
    weights = 4 * 222_903_552 / 1e6
    for mode in ("nonlinear", "ntk", "attention"):
        memory, _, cores, _ = request("finetune", "t5-base", mode, "qqp")
        assert resources.LEAST + resources.CUDA + 4 * weights < memory < 20_000 and cores == 4
        assert request("vector", "t5-base", mode, "qqp").memory_mb > 4 * weights
        assert 4 * weights < request("addition", "t5-base", mode).memory_mb < 15_000
    slow, fast = (request("finetune", "t5-base", m, "cola").seconds for m in ("ntk", "attention"))
    assert slow > fast
    few, many = (request("data", task=task) for task in ("cola", "qqp"))
    assert few.cores == many.cores == 1
    assert few.memory_mb < many.memory_mb < 6_000 and few.minutes <= many.minutes <= 30
    few, many = (request("head", "t5-base", None, task) for task in ("cola", "qqp"))
    assert few.memory_mb < many.memory_mb < 10_000
    assert request("encoder", "t5-base").memory_mb > 2 * weights


def test_without_images_texts_ask_for_the_same():
    both, texts = (requests(resolved(NANO, TEXTS, more)) for more in ({}, NO_IMAGES))
    for stage in ("encoder", "head", "finetune", "pretrained", "addition", "efficiency"):
        task = "rte" if stage in ("head", "finetune", "pretrained") else None
        assert both(stage, "t5-base", "ntk", task) == texts(stage, "t5-base", "ntk", task)


def test_nothing_asks_for_less_than_python_needs_or_longer_than_queues_allow():
    for device in ("auto", "cpu"):
        request = requests(resolved({"device": device}))
        images = ("embedded", "cosine", "vector", "encoder", "finetune", "negation")
        texts = ("cosine", "vector", "encoder", "finetune", "pretrained", "addition")
        for encoder, stage in [("ViT-L-14", s) for s in images] + [("t5-base", s) for s in texts]:
            memory, minutes, _, _ = request(stage, encoder, "ntk", None)
            assert memory >= 1_500 and memory % 500 == 0
            assert 10 <= minutes <= 2_880 and minutes % 10 == 0


def test_an_unknown_number_of_images_is_taken_to_be_large(tmp_path):
    (tmp_path / "mine").mkdir()
    config = resolved(NANO)
    own = Task(path=str(tmp_path / "mine"), templates=["{}"])
    config.definitions.tasks["textures"] = own
    request = requests(config)
    assert request("data", task="textures").minutes >= 30
    assert request("head", "embedded-small", None, "textures").memory_mb >= 1_500


def test_without_open_clip_an_encoder_is_taken_to_be_large(monkeypatch):
    config = resolved()
    known = requests(config)("finetune", "ViT-L-14", "ntk", "cars")

    def missing(*_):
        raise resources.PackageNotFoundError

    monkeypatch.setattr(resources, "read_geometry", missing)
    assert requests(config)("finetune", "ViT-B-32", "ntk", "cars") == known


def test_ten_thousand_jobs_are_asked_about_in_no_time():
    script = (
        "import sys, time\nfrom task_arithmetic.config import reading as config\n"
        "from task_arithmetic.planning import requests as resources\n"
        "request = resources.requests(config.read_config())\n"
        "began = time.perf_counter()\n"
        "for _ in range(10_000): request('negation', 'ViT-L-14', 'ntk', None)\n"
        "print(time.perf_counter() - began, 'torch' in sys.modules)"
    )
    seconds, torch = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    assert float(seconds) < 1 and torch == "False"


def test_the_slow_gpu_is_the_slowest_that_is_listed():
    with open(ROOT / "workflow/reference/devices.csv", newline="") as file:
        rates = {
            row["device"]: float(row["bf16_tflops"]) * float(row["share"])
            for row in csv.DictReader(file)
        }
    assert min(rates, key=rates.get) == resources.DEVICE


# --- The rules -----------------------------------------------------------------------------------

JOBS = """
import json, sys
from snakemake.cli import main
from snakemake.jobs import Job

def log_info(self, *arguments, **more):
    rule, workflow = self.rule, self.dag.workflow
    local = rule.norun or rule.name in workflow._localrules
    asked = {name: self.resources.get(name) for name in ("gpu", "mem_mb", "runtime", "nodes")}
    encoder = dict(self.wildcards.items()).get("encoder")
    print("JOB", json.dumps({"rule": rule.name, "local": local, "encoder": encoder, **asked}))

Job.log_info = log_info
sys.exit(main())
"""
LOCAL = {
    "download",
    "metrics",
    "intervals",
    "config",
    "timings",
    "report",
    "all",
}  # and tables and figures


@pytest.mark.parametrize("overlay", [NANO, None], ids=["nano", "paper"])
def test_with_the_profile_every_job_asks_for_memory_and_time_and_learning_ones_for_a_gpu(
    tmp_path, overlay
):
    options = ["-n", "-s", ROOT / "Snakefile", "--profile", ROOT / "profiles/slurm"]
    options += ["--configfile", overlay] if overlay else []
    done = subprocess.run(
        [sys.executable, "-c", JOBS, *map(str, options)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = [json.loads(line[4:]) for line in done.stdout.splitlines() if line.startswith("JOB ")]
    texts = set() if overlay else {"text_data", "text_encoder"}
    assert {"finetune", "data", "vector"} | texts <= {job["rule"] for job in jobs}
    for job in jobs:
        rule = job["rule"]
        assert job["local"] == (rule in LOCAL or rule.startswith(("table", "fig"))), rule
        if not job["local"]:
            tokenizes = rule == "head" and job["encoder"] == "t5-base"
            assert (job["gpu"] or 0) == int(rule in LEARNING and not tokenizes), rule
            assert job["mem_mb"] >= 1_500 and job["runtime"] >= 10 and job["nodes"] == 1
            assert (job["mem_mb"], job["runtime"]) != (2_000, 30), f"{rule} has only the defaults"
