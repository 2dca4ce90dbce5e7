"""The command line: every stage as a rule calls it, and mistakes in one sentence."""

import errno
import json
import os
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import datasets
import pytest
import tiny
from test_data import COUNTS, source

import task_arithmetic
from task_arithmetic import cli
from task_arithmetic.errors import UserError
from task_arithmetic.files.tensors import read_tensors
from task_arithmetic.stages import vector as module
from task_arithmetic.stages.command import HELP

SRC = str(Path(task_arithmetic.__file__).parents[1])


def run(*words):
    """One command in this process."""
    return cli.main([str(word) for word in words])


def stage(*words):
    return run("stage", *words)


def spawn(*words, code=None, **environment):
    """One command in its own process, without a hub."""
    start = ["-c", code] if code else ["-m", "task_arithmetic"]
    return subprocess.run(
        [sys.executable, *start, *(str(word) for word in words)],
        env={**os.environ, "PYTHONPATH": SRC, "HF_HUB_OFFLINE": "1", **environment},
        capture_output=True,
        text=True,
    )


def one_sentence(said, command):
    """`said` is one line: the command, what is wrong, what to do."""
    assert said.startswith(f"task-arithmetic {command}: ") and said.endswith(".\n")
    assert said.count("\n") == 1 and "Traceback" not in said
    return True


# --- Every stage, end to end ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """data → encoder → head → finetune → vector of two tasks and a control, through commands."""
    root = tmp_path_factory.mktemp("work")
    cache = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = root / "cache"
    tiny.checkpoint(root / "checkpoint")
    J = json.dumps
    encoder = root / "encoder"
    assert not stage("encoder", "--encoder", "tiny", "--settings",
                   J({"path": str(root / "checkpoint")}), "--output", encoder)  # fmt: skip
    for seed, task in enumerate(("one", "two", "three")):
        counts = {name: count + seed for name, count in COUNTS.items()}
        path = source(root / "source" / task, {"skip": 1 + seed, **counts})
        assert not stage("data", "--task", task, "--settings", J({"path": path}),
                       "--output", root / "data" / task)  # fmt: skip
        assert not stage("head", "--encoder-dir", encoder, "--data-dir", root / "data" / task,
                       "--settings", J({"templates": ["a {}.", "{}"]}),
                       "--output", encoder / "heads" / f"{task}.safetensors")  # fmt: skip
        for mode in tiny.MODES:
            moved = root / "finetuned" / mode / f"{task}.safetensors"
            settings = {**tiny.settings(mode), "micro_batch": 4}
            assert not stage("finetune", "--encoder-dir", encoder,
                           "--head", encoder / "heads" / f"{task}.safetensors",
                           "--data-dir", root / "data" / task, "--encoder", "tiny", "--mode", mode,
                           "--task", task, "--seed", 0, "--settings", J(settings),
                           "--output", moved, "--log", moved.with_suffix(".csv"))  # fmt: skip
            assert not stage("vector", "--encoder-dir", encoder, "--finetuned", moved,
                           "--output", root / "vectors" / mode / f"{task}.safetensors")  # fmt: skip
    datasets.config.HF_DATASETS_CACHE = cache
    return root


def shared(work, tasks, mode):
    """The words that evaluations of several tasks share."""
    encoder = work / "encoder"
    words = ["--encoder-dir", encoder, "--encoder", "tiny", "--tasks", *tasks]
    words += ["--heads", *(encoder / "heads" / f"{t}.safetensors" for t in tasks)]
    words += ["--data-dirs", *(work / "data" / t for t in tasks)]
    words += ["--mode", mode, "--seed", 0]
    return [*words, "--vectors", *(work / "vectors" / mode / f"{t}.safetensors" for t in tasks)]


def one(work, task, mode=None):
    """The words that evaluations of one task share."""
    encoder = work / "encoder"
    words = ["--encoder-dir", encoder, "--encoder", "tiny", "--task", task]
    words += ["--head", encoder / "heads" / f"{task}.safetensors"]
    words += ["--data-dir", work / "data" / task]
    if mode:
        words += ["--mode", mode, "--seed", 0]
        words += ["--vector", work / "vectors" / mode / f"{task}.safetensors"]
    return words


def test_every_evaluation_runs_as_its_rule_calls_it(work, tmp_path):
    tasks, J, out = ("one", "two"), json.dumps, tmp_path
    alphas = {"start": 0.0, "stop": 1.0, "step": 0.5}
    for task in (*tasks, "three"):
        assert not stage("pretrained", *one(work, task), "--settings", J({"limit": None}),
                       "--output", out / f"pretrained-{task}.csv")  # fmt: skip
    for mode, definition in tiny.MODES.items():
        same, own = shared(work, tasks, mode), [out / f"single-{mode}-{t}.csv" for t in tasks]
        plain = {"linearized": definition["linearized"], "limit": None}
        for task, path in zip(tasks, own, strict=True):
            assert not stage("single-task", *one(work, task, mode), "--settings", J(plain),
                           "--output", path)  # fmt: skip
        assert not stage("addition", *same, "--settings", J({**plain, "alphas": alphas}),
                       "--single-task", *own, "--output", out / f"addition-{mode}.csv")  # fmt: skip
        vectors = [work / "vectors" / mode / f"{t}.safetensors" for t in tasks]
        named = ["--encoder", "tiny", "--mode", mode, "--seed", 0]
        grams = [out / f"grams-{mode}-{task}.safetensors" for task in tasks]
        for task, path in zip(tasks, grams, strict=True):
            assert not stage("statistics", *one(work, task, mode), "--settings",
                           J({**plain, "images": 4}), "--output", path)  # fmt: skip
        of = {"ties": [], "regmean": ["--statistics", *grams]}
        learnt = {"per_task": {"sweeps": 1}, "adamerging": {"steps": 1, "batch": 2}}
        for method in (*of, *learnt):
            path, log = out / f"{method}-{mode}.safetensors", out / f"{method}-{mode}-log.csv"
            to = ["--output", path, "--log", log, "--method", method]
            if method in of:
                settings = {"method": method, "layer_scaled": method == "ties"}
                assert not stage("merge", *named, "--tasks", *tasks, "--vectors", *vectors,
                               *of[method], "--settings", J(settings), *to)  # fmt: skip
            else:
                settings = {"method": method, "options": learnt[method]}
                assert not stage("merge-on-data", *same, "--single-task", *own,
                               "--settings", J(settings), *to)  # fmt: skip
            i = same.index("--vectors")
            merged = [*same[: i + 1], path, *same[i + 1 + len(tasks) :]]
            assert not stage("addition", *merged, "--settings", J({**plain, "alphas": alphas}),
                           "--single-task", *own, "--method", method,
                           "--output", out / f"{method}-{mode}.csv")  # fmt: skip
        for task in tasks:
            assert not stage("negation", *one(work, task, mode), "--settings",
                           J({**plain, "alphas": alphas, "keep": 0.95}),
                           "--pretrained", out / "pretrained-three.csv", "--control", "three",
                           "--control-head", work / "encoder/heads/three.safetensors",
                           "--control-data-dir", work / "data/three",
                           "--output", out / f"negation-{mode}-{task}.csv")  # fmt: skip
        grid = {"low": -2.0, "high": 2.0, "points": 3, "samples": 8}
        assert not stage("disentanglement", *same, "--settings", J({**plain, **grid}),
                       "--output", out / f"disentanglement-{mode}.csv")  # fmt: skip
        assert not stage("cosine", "--encoder", "tiny", "--mode", mode, "--seed", 0, "--tasks",
                       *tasks, "--vectors", *vectors, "--output", out / f"cos-{mode}.csv"
                       )  # fmt: skip
        settings = {**tiny.settings(mode), "micro_batch": None, "efficiency": {"steps": 2}}
        assert not stage("efficiency", "--encoder-dir", work / "encoder",
                       "--head", work / "encoder/heads/one.safetensors",
                       "--data-dir", work / "data/one", "--encoder", "tiny", "--mode", mode,
                       "--settings", J(settings), "--output", out / f"eff-{mode}.csv")  # fmt: skip
        if mode == "nonlinear":
            assert not stage("kernel", *one(work, "one", mode), "--settings", J({"limit": None}),
                           "--output", out / "kernel.csv")  # fmt: skip
    inputs = sorted(out.glob("*.csv"))
    assert not stage("metrics", "--inputs", *inputs, "--output", out / "metrics.csv")
    frame = tiny.frame_of(out / "metrics.csv")
    assert set(frame["metric"]) == {
        "pretrained_accuracy", "single_task_accuracy", "posthoc_accuracy", "unified_accuracy",
        "normalized_accuracy", "negated_accuracy", "control_accuracy",
        "representation_disentanglement", "classification_disentanglement", "cosine_similarity",
        "step_seconds", "peak_memory_bytes", "trained_parameters", "held_parameters",
        "training_seconds", "vector_norm", "merge_seconds", "merge_peak_memory_bytes",
        "step_seconds_low", "step_seconds_high", "plane_accuracy", "plane_loss",
    }  # fmt: skip
    keys = [c for c in frame.columns if c != "value"]
    assert not frame.duplicated(keys).any()
    assert frame["value"].notna().all()


def test_a_limit_of_the_training_images_reaches_the_run(work, tmp_path):
    settings = {**tiny.settings("attention"), "micro_batch": None, "limit": {"train": 3}}
    words = ["stage", "finetune", "--encoder-dir", work / "encoder",
             "--head", work / "encoder/heads/one.safetensors", "--data-dir", work / "data/one",
             "--encoder", "tiny", "--mode", "attention", "--task", "one", "--seed", 0,
             "--output", tmp_path / "a", "--log", tmp_path / "l"]  # fmt: skip
    assert not run(*words, "--settings", json.dumps(settings))
    limited = read_tensors(tmp_path / "a", framework="np")
    whole = read_tensors(work / "finetuned/attention/one.safetensors", framework="np")
    assert any((limited[name] != whole[name]).any() for name in whole)


# --- Help and mistakes ---------------------------------------------------------------------------


PEOPLES = {(command,): known for command, known in cli.FOR_PEOPLE.items()}
COMMANDS = {**PEOPLES, **{("stage", name): stage for name, stage in cli.STAGES.items()}}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_every_option(command, capsys):
    with pytest.raises(SystemExit) as caught:
        run(*command, "--help")
    assert caught.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    assert COMMANDS[command].text in said
    for option in COMMANDS[command].options:
        own = cli.option_of(*command, option) if command in PEOPLES else {"help": HELP[option]}
        assert (option if "place" in own else f"--{option.replace('_', '-')}") in said
        text = own["help"]
        assert " ".join(text.split()) in said


def test_the_list_of_commands_is_the_help(capsys):
    with pytest.raises(SystemExit):
        run("--help")
    people = capsys.readouterr().out
    with pytest.raises(SystemExit):
        run("stage", "--help")
    stages = capsys.readouterr().out
    for command, known in COMMANDS.items():
        said = people if command in PEOPLES else stages
        assert f"\n    {command[-1]}" in said and " ".join(known.text.split()[:2]) in said


def test_the_version_is_the_packages(capsys):
    with pytest.raises(SystemExit) as caught:
        run("--version")
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"task-arithmetic {metadata.version('task-arithmetic')}\n"


@pytest.mark.parametrize("command", cli.FOR_PEOPLE)
def test_the_example_of_a_command_is_one(command):
    words = shlex.split(cli.FOR_PEOPLE[command].example)
    assert cli.parser().parse_args([command, *words]).command == command


@pytest.mark.parametrize("error, status", [(UserError, 1), (None, 0)])
def test_the_exit_status_says_whether_it_worked(error, status, monkeypatch, capsys, tmp_path):
    def vector(**arguments):
        if error:
            raise error("The sea is dry: bring water.")
        Path(arguments["output"]).write_text("τ")

    monkeypatch.setattr(module, "write_vector", vector)
    words = [
        "stage",
        "vector",
        "--encoder-dir",
        "e",
        "--finetuned",
        "f",
        "--output",
        tmp_path / "o",
    ]
    assert run(*words) == status
    said = capsys.readouterr()
    expected = "task-arithmetic vector: The sea is dry: bring water.\n" if error else ""
    assert said.err == expected and said.out == ""


@pytest.mark.parametrize(
    "error, status",
    [
        (KeyboardInterrupt(), 130),
        (OSError(errno.ENOSPC, "No space left on device"), 1),
        (OSError("100000 requested and 7152 written"), 1),
        (RuntimeError("CUDA error: unspecified launch failure\nCompile with ..."), 1),
    ],
    ids=["Ctrl-C", "full disk", "full disk, by numpy", "lost GPU"],
)
def test_interruptions_and_a_full_disk_end_in_one_sentence(error, status, monkeypatch, capsys):
    def vector(**arguments):
        raise error

    monkeypatch.setattr(module, "write_vector", vector)
    assert (
        run("stage", "vector", "--encoder-dir", "e", "--finetuned", "f", "--output", "o") == status
    )
    assert one_sentence(capsys.readouterr().err, "vector")


def test_a_programming_error_is_not_hidden(monkeypatch):
    def vector(**arguments):
        raise ZeroDivisionError

    monkeypatch.setattr(module, "write_vector", vector)
    with pytest.raises(ZeroDivisionError):
        run("stage", "vector", "--encoder-dir", "e", "--finetuned", "f", "--output", "o")


@pytest.mark.parametrize(
    "words, says",
    [
        (
            ["stage", "encoder", "--encoder", "e", "--settings", "{'path': 1}", "--output", "o"],
            "not JSON",
        ),
        (["stage", "encoder", "--encoder", "e", "--settings", "", "--output", "o"], "not JSON"),
        (["stage", "encoder", "--encoder", "e", "--output", "o"], "required: --settings"),
        (["stage", "cosine", "--seed", "first"], "invalid int value: 'first'"),
        (["fine-tune"], "invalid choice: 'fine-tune'"),
        ([], "required: COMMAND"),
    ],
    ids=["bad JSON", "empty JSON", "missing option", "no number", "unknown command", "nothing"],
)
def test_wrong_words_are_refused_with_their_reason(words, says, capsys):
    with pytest.raises(SystemExit) as caught:
        run(*words)
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert says in said and "Traceback" not in said


def test_options_cannot_be_shortened_by_accident(capsys):
    """`--encoder` must never be taken for `--encoder-dir`, nor `--head` for `--heads`."""
    for command, known in COMMANDS.items():
        if "heads" in known.options and "head" not in known.options:
            with pytest.raises(SystemExit):
                run(*command, "--head", "x")
            assert "--head" in capsys.readouterr().err


# --- Real processes ------------------------------------------------------------------------------


NO_TORCH = """
import sys
from importlib import metadata
from task_arithmetic.cli import main
status = main()
heavy = {"torch", "open_clip", "torchvision", "matplotlib", "pandas"} & set(sys.modules)
assert not (heavy - set(ALLOWED)), heavy
sys.exit(status)
"""


def test_vector_needs_no_torch(tmp_path):
    """And is one sentence if its input is bad."""
    words = ["stage", "vector", "--encoder-dir", tiny.shared_suite()["encoder_dir"], "--output"]
    code = NO_TORCH.replace("ALLOWED", "[]")
    moved = tiny.shared_finetuned("attention", "one")
    done = spawn(*words, tmp_path / "tau", "--finetuned", moved, code=code)
    assert (done.returncode, done.stderr) == (0, "")
    assert read_tensors(tmp_path / "tau").keys() == read_tensors(moved).keys()
    done = spawn(*words, tmp_path / "tau2", "--finetuned", tmp_path / "none", code=code)
    assert done.returncode == 1 and one_sentence(done.stderr, "vector")
    assert "none does not exist" in done.stderr and not (tmp_path / "tau2").exists()


def test_data_needs_no_torch(tmp_path):
    """`datasets` brings pandas."""
    path = source(tmp_path / "source")
    words = ["--settings", json.dumps({"path": path}), "--output", tmp_path / "data"]
    code, cache = NO_TORCH.replace("ALLOWED", "['pandas']"), str(tmp_path / "cache")
    done = spawn("stage", "data", "--task", "mine", *words, code=code, HF_HOME=cache)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "data" / "manifest.json").exists()


def test_a_dataset_that_is_not_there_offline_is_one_sentence_and_status_1(tmp_path):
    settings = '{"kind":"task","name":"mine","hub":"nobody/nothing"}'
    words = ["--settings", settings, "--output", tmp_path / "record.json"]
    done = spawn("stage", "download", *words, HF_HOME=str(tmp_path / "cache"), HF_HUB_OFFLINE="1")
    assert done.returncode == 1 and one_sentence(done.stderr, "download")
    assert "Task mine: nobody/nothing is not in the hub's cache" in done.stderr
    assert not (tmp_path / "record.json").exists()
