"""What the workflow would run, that planning needs nothing heavy, and what mistakes look like."""

import itertools
import json
import re
import shutil
import textwrap
from types import SimpleNamespace

import pytest
import yaml
from PIL import Image
from runs import copy_project


def planned(output: str) -> dict[str, int]:
    """Rule → number of jobs, from a dry run's statistics."""
    table = output.split("Job stats:")[1].split("\n\n")[0]
    counts = {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", table, re.M)}
    assert counts.pop("total") == sum(counts.values())
    return counts


VIEWS = {"table1", "table2", "table4", "table5", "table_negation", "table_tasks"}
VIEWS |= {"fig3", "fig5", "fig6", "fig7", "fig8", "fig9", "fig10"}
VIEWS |= {"table_merging", "figure_merging", "figure_plane_fig6", "figure_plane_fig8"}
# A job for each mode and seed of the focus encoder.
ANALYSES = ["layers", "spectra", "alignment", "interference", "pairs", "linearity"]
VIEWS |= {f"figure_{name}" for name in [*ANALYSES, "robustness", "number_of_tasks", "retention"]}
ONCE = {"metrics", "intervals", "report", "all"}


PAPER, MINI, NANO = (11, 2), (10, 1), (2, 1)  # methods that need no examples now, and that learn


def expected(
    encoders, tasks, seeds=1, modes=3, ablations=3, kernel_modes=2, embedded=0, methods=PAPER
) -> dict:
    """Rule → number of jobs, as the design counts them."""
    models = encoders * modes * seeds  # one of each: encoder, mode, seed
    ablated = ablations * seeds  # on the focus encoder only
    counts = {
        "embedded": embedded,
        "download": 0 if embedded else tasks + 1 + encoders,
        "table_targets": 0 if embedded else 1,  # accuracies published for the real tasks
        "data": tasks + 1,  # and the control task
        "encoder": encoders,
        "head": encoders * (tasks + 1),
        "finetune": (models + ablated) * tasks,
        "vector": (models + ablated) * tasks,
        "pretrained": encoders * (tasks + 1),
        "single_task": (models + ablated) * tasks,
        "kernel": encoders * kernel_modes * seeds * tasks,
        "addition": models + ablated,
        "posthoc": encoders * seeds,
        "negation": models * tasks,
        "disentanglement": modes * seeds * 2,  # two pairs, on the focus encoder
        "cosine": models,
        "efficiency": encoders * modes,
    }
    counts |= crossed(tasks, modes, seeds, methods)
    counts = {rule: count for rule, count in counts.items() if count}
    return {**counts, **dict.fromkeys(VIEWS | ONCE, 1)}


def crossed(tasks, modes, seeds, methods):
    """Of the focus encoder: the merges, and the statistics of regmean."""
    merge, learn = (modes * seeds * count for count in methods)
    statistics = tasks * modes * seeds
    counts = {"merge": merge, "merge_on_data": learn, "merged": merge + learn}
    counts |= dict.fromkeys(ANALYSES, modes * seeds)
    counts["number_of_tasks"] = 2 * modes * seeds  # the sum and another method
    counts["retention"] = modes * seeds * (1 + sum(methods))
    return {**counts, "statistics": statistics}


OF_TEXTS = {"table3", "table_tasks_language", "fig7_language", "fig9_language", "fig10_language"}
OF_TEXTS |= {"table_merging_language", "figure_merging_language"}
OF_TEXTS |= {f"figure_{name}_language" for name in [*ANALYSES[:3], "robustness"]}


def with_texts(counts, tasks=7, encoders=1, modes=3, seeds=1, methods=PAPER) -> dict:
    """The same, and what is done on texts; those of the embedded suite are drawn like images."""
    source = "embedded" if "embedded" in counts else "download"
    models = encoders * modes * seeds
    more = {
        source: tasks + (encoders if source == "download" else 0),
        "text_data": tasks,
        "text_encoder": encoders,
        "head": encoders * tasks,
        "finetune": models * tasks,
        "vector": models * tasks,
        "pretrained": encoders * tasks,
        "single_task": models * tasks,
        "addition": models,
        "cosine": models,
        "efficiency": encoders * modes,
        **dict.fromkeys(OF_TEXTS, 1),
    }
    of_texts = crossed(tasks, modes, seeds, methods)
    for name in (*ANALYSES[3:], "number_of_tasks", "retention"):  # of images alone
        del of_texts[name]
    more |= of_texts
    return {rule: counts.get(rule, 0) + more.get(rule, 0) for rule in counts | more}


BLOCKER = """
import socket, sys

HEAVY = {"torch", "torchvision", "open_clip", "datasets", "huggingface_hub", "matplotlib"}

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in HEAVY:
            raise RuntimeError(f"planning imports {name}")

def refuse(*arguments):
    raise RuntimeError("planning opens a connection")

sys.meta_path.insert(0, Blocker())
socket.socket.connect = refuse
"""


@pytest.mark.parametrize(
    "options, counts",
    [
        ([], with_texts(expected(encoders=3, tasks=8))),
        (
            ["--configfile", "config/mini.yaml"],
            with_texts(expected(encoders=2, tasks=8, embedded=9, methods=MINI), methods=MINI),
        ),
        (
            ["--configfile", "config/nano.yaml"],
            expected(encoders=1, tasks=2, ablations=1, embedded=3, methods=NANO),
        ),
        *(
            (["--configfile", f"config/suites/clip{tasks}.yaml"], expected(encoders=3, tasks=tasks))
            for tasks in (8, 14, 20)
        ),
    ],
    ids=["paper", "mini", "nano", "clip8", "clip14", "clip20"],
)
def test_a_dry_run_plans_every_job_and_needs_no_torch_no_hub(
    snakemake, root, tmp_path, options, counts
):
    (tmp_path / "sitecustomize.py").write_text(BLOCKER)
    done = snakemake(
        "--dry-run",
        *[root / option if option.endswith(".yaml") else option for option in options],
        env={"PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 0, done.stdout
    assert planned(done.stdout) == counts


def overlay(path, text):
    path.write_text(textwrap.dedent(text))
    return path


def test_several_seeds_and_few_of_everything_else_are_planned(snakemake, tmp_path):
    file = overlay(
        tmp_path / "few.yaml",
        """
        run: few
        language: null
        tasks: [mnist, svhn]
        encoders: [ViT-B-32]
        modes: [nonlinear]
        ablations: []
        seeds: [3, 5, 7]
        disentanglement: {pairs: {fig6: [mnist, svhn], fig8: [svhn, mnist]}}
        """,
    )
    done = snakemake("--dry-run", "--configfile", file)
    assert done.returncode == 0, done.stdout
    counts = expected(encoders=1, tasks=2, seeds=3, modes=1, ablations=0, kernel_modes=1)
    del counts["fig5"], counts["table5"]  # which compare modes
    assert planned(done.stdout) == counts


def test_the_command_line_can_change_single_values(snakemake):
    values = ["run=two", "seeds=[0, 1]", "alphas={step: 0.1}", "finetune={learning_rate: 3.0e-5}"]
    done = snakemake("--dry-run", "--config", *values)
    assert done.returncode == 0, done.stdout
    assert planned(done.stdout) == with_texts(expected(encoders=3, tasks=8, seeds=2), seeds=2)


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("finetune: {stepz: 3}", "Unknown key 'stepz' under finetune"),
        ("finetune: {learning_rate: 1e-5}", "write 1.0e-5"),
        ("tasks: [minst, dtd, sun397, cars, resisc45]", "did you mean 'mnist'?"),
    ],
)
def test_a_mistake_in_the_configuration_ends_in_one_sentence(snakemake, tmp_path, text, sentence):
    done = snakemake("--dry-run", "--configfile", overlay(tmp_path / "mine.yaml", text))
    assert done.returncode == 1
    assert sentence in done.stdout
    assert "Traceback" not in done.stdout
    said = [line for line in done.stdout.splitlines() if line.strip()]
    assert sentence in said[-1]  # the last thing on the screen


@pytest.fixture
def finetune_asks(root, tmp_path, monkeypatch):
    """finetune_asks(device, gpu_here, local) → GPUs and CPU threads that a fine-tuning asks for."""
    from snakemake.api import SnakemakeApi
    from snakemake.settings.types import ConfigSettings, ResourceSettings

    from task_arithmetic.pipeline import gpu

    def ask(device="auto", gpu_here=False, local=True):
        monkeypatch.setattr(gpu, "has_gpu", lambda: gpu_here)
        with SnakemakeApi() as api:
            workflow = api.workflow(
                ResourceSettings(cores=8),
                ConfigSettings(config={"device": device}),
                snakefile=root / "Snakefile",
                workdir=tmp_path,
            )._workflow
            executor = SimpleNamespace(common_settings=SimpleNamespace(local_exec=local))
            workflow._executor_plugin = executor
            return workflow.globals["gpus"](), workflow.globals["cores"]()

    return ask


def test_jobs_take_turns_on_a_gpu_and_run_side_by_side_on_a_cpu(finetune_asks):
    assert finetune_asks(gpu_here=False) == (0, 1)
    assert finetune_asks(gpu_here=True) == (1, 4)


def test_the_configuration_can_settle_the_device(finetune_asks):
    assert finetune_asks("cuda", gpu_here=False) == (1, 4)
    assert finetune_asks("cpu", gpu_here=True) == (0, 1)


def test_submitted_jobs_ask_for_a_gpu_wherever_they_are_submitted_from(finetune_asks):
    assert finetune_asks(gpu_here=False, local=False) == (1, 4)
    assert finetune_asks("cpu", gpu_here=False, local=False) == (0, 1)


def test_everything_that_reaches_a_shell_is_quoted(root):
    """But for the number of threads."""
    for path in sorted((root / "workflow/rules").glob("*.smk")):
        text = path.read_text(encoding="utf-8")
        shells = re.findall(r"shell:\n((?:\s+\S.*\n)+?)(?:\n|\Z)", text)
        shells += re.findall(r"^OPTIONS = .*?^}|^def call.*?^    return.*?\n", text, re.M | re.S)
        assert shells or path.stem == "common"
        quoted = re.findall(
            r"\{+(?:wildcards|params|input|output|log|threads)[^{}]*(?:\{[^{}]*\})?[^{}]*\}+",
            "".join(shells),
        )
        for placeholder in quoted:
            placeholder = re.sub(r"\}+$", "}", placeholder)
            assert placeholder.endswith(":q}") or placeholder == "{threads}", (path, placeholder)


def test_paths_may_have_any_letters_and_names_those_of_any_alphabet(tmp_path, snakemake):
    """Those of the project, of a task's folder and of `scratch`; run from elsewhere."""
    project, odd = copy_project(tmp_path / "a project's"), "my 'data' $x;y {task} {0} ü"
    for split, label in itertools.product(("train", "test"), ("0 $x", "ö")):
        folder = project / odd / split / label
        folder.mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (8, 8), (number, len(label), len(split))).save(
                folder / f"{number}.png"
            )
    definition = {"path": odd, "validation": 2, "templates": ["a {}."]}
    (project / "config/tasks/Blätter.yaml").write_text(
        yaml.safe_dump(definition, allow_unicode=True), encoding="utf-8"
    )
    shutil.copy(project / "config/tasks/textures.yaml", project / "config/tasks/v1.5.yaml")
    mine = {"run": "größe", "tasks": ["v1.5", "Blätter"], "scratch": "$TMPDIR/a b; touch bad"}
    mine["disentanglement"] = {"pairs": {"fig6": mine["tasks"], "fig8": mine["tasks"][::-1]}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(mine, allow_unicode=True), encoding="utf-8")
    target, here = "results/shared/data/Blätter/manifest.json", tmp_path / "elsewhere"
    files = ["--configfile", project / "config/nano.yaml", tmp_path / "mine.yaml"]
    for what in (["--dry-run"], ["--cores", "1", target]):
        done = snakemake(*files, *what, directory=here, snakefile=project / "Snakefile")
        assert done.returncode == 0, done.stdout
    manifest = json.loads((here / target).read_text(encoding="utf-8"))
    assert manifest["classes"] == ["0 $x", "ö"]
    assert not list(here.rglob("bad*"))
