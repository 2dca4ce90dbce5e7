"""Why a file would be made again: Snakemake's own plan, told from what the jobs recorded."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from importlib import metadata
from pathlib import Path

import pytest
from test_rerun import forget
from test_workflow import planned

from task_arithmetic.config import settings
from task_arithmetic.config.reading import read_config, validate_config
from task_arithmetic.errors import UserError
from task_arithmetic.pipeline import code, rerun, why

ROOT = Path(__file__).resolve().parents[2]
MODEL = "embedded-small/attention"
VECTOR = f"results/nano/vectors/{MODEL}/textures/0.safetensors"
FINETUNED = f"results/nano/finetuned/{MODEL}/textures/0.sha256"
SINGLE_TASK = f"results/nano/metrics/single_task/{MODEL}/textures/0.csv"
ADDITION = f"results/nano/metrics/addition/{MODEL}/0.csv"
HEAD = "results/shared/encoders/embedded-small/heads/textures.safetensors"
ENCODER = "results/shared/encoders/embedded-small/encoder.json"

# Stages that write a few bytes instead of computing; all around them is real.
STUB = """
import sys
from pathlib import Path

from task_arithmetic import cli

ARRAYS = ("images", "labels", "digests")
SPLITS = [f"{s}_{w}.npy" for s in ("train", "validation", "test") for w in ARRAYS]
TOWERS = ["image_tower.safetensors", "text_tower.safetensors"]
FOLDERS = {"embedded": ["dataset.arrow"], "encoder": ["encoder.json", *TOWERS]}
FOLDERS |= {"data": [*SPLITS, "train_sizes.npy", "manifest.json"]}


def stub(command, arguments):
    def write(output, log=None, **given):
        files = [Path(output) / name for name in FOLDERS.get(command, [])]
        for file in files or [Path(output), *([Path(log)] if log else [])]:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("{}")

    return write


cli._function = stub
sys.exit(cli.main())
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a project, whose stages are stubs, and what it has made: ADDITION."""
    base = tmp_path_factory.mktemp("made")
    for part in ("config", "envs", "workflow", "src", "Snakefile", "config.yaml"):
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, base / "project" / part)
    (base / "project/src/task_arithmetic/__main__.py").write_text(STUB)
    config = (ROOT / "config/nano.yaml").read_text() + "\ndevice: cpu\nstore_gb: 1\n"
    (base / "nano.yaml").write_text(config)
    (base / "work").mkdir()
    done = snakemake(base, ADDITION, VECTOR, "--cores", "2")
    assert done.returncode == 0, done.stderr
    return base


def snakemake(base, *options):
    command = [sys.executable, "-m", "snakemake", *options, "-s", base / "project/Snakefile"]
    command += ["-d", base / "work", "--configfile", base / "nano.yaml"]
    env = {**os.environ, "PYTHONPATH": str(base / "project/src")}
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, env=env)


def use_code_of(base, patch):
    """Let this process take the project's sources for the package's."""
    for function in (code.code_hash, code.code_parts, code.package_versions):
        patch.setitem(function.__kwdefaults__, "package_dir", base / "project/src/task_arithmetic")
    forget()


@pytest.fixture
def base(made, tmp_path, monkeypatch):
    """A copy of that folder, for a test to change; its work is the current folder."""
    base = shutil.copytree(made, tmp_path / "copy")
    monkeypatch.chdir(base / "work")
    monkeypatch.setattr(why, "ROOT", base / "project")
    use_code_of(base, monkeypatch)
    yield base
    forget()


@pytest.fixture
def ask(base, capsys):
    """ask(target, overlay) → the sentence."""

    def ask(target, overlay=""):
        (base / "overlay.yaml").write_text(overlay or "{}")
        why.why(base / "nano.yaml", base / "overlay.yaml", target=target)
        out, err = capsys.readouterr()
        assert out.count("\n") == 1 and not err
        return out.strip()

    return ask


def edit(path: Path, before: str, after: str):
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))
    forget()


def test_what_is_finished_is_up_to_date(ask):
    assert ask(ADDITION) == f"{ADDITION} is up to date."
    assert ask(f"./{VECTOR}") == f"{VECTOR} is up to date."


def test_the_plan_is_that_of_a_dry_run(base):
    edit(base / "nano.yaml", "learning_rate: 3.0e-4", "learning_rate: 1.0e-4")
    os.remove(VECTOR)
    dag = why.plan(ADDITION, [base / "nano.yaml"])
    counts = Counter(job.rule.name for job in filter(dag.needrun, dag.jobs))
    assert counts == planned(snakemake(base, ADDITION, "--dry-run").stdout)


def test_a_setting_is_named_with_both_values(ask):
    overlay = "finetune: {learning_rate: 1.0e-5}"
    cause = "`finetune.learning_rate` was 0.0003 and is 1e-05."
    assert ask(FINETUNED, overlay) == f"{FINETUNED} would be made again: {cause}"
    assert (
        ask(VECTOR, overlay) == f"{VECTOR} would be made again because {FINETUNED} would: {cause}"
    )
    both = FINETUNED.replace("textures", "landcover")
    expected = f"{ADDITION} would be made again because {both} and 1 more would: {cause}"
    assert ask(ADDITION, overlay) == expected
    overlay = "finetune: {learning_rate: 1.0e-5, batch_size: 8, weight_decay: 0.0}"
    said = "`finetune.batch_size` was 16 and is 8, `finetune.learning_rate` was 0.0003 and is 1e-05"
    assert ask(FINETUNED, overlay).endswith(f": {said} and 1 more.")


def test_other_causes_upstream_are_counted(ask):
    said = ask(ADDITION, "{precision: float32, finetune: {steps: 5}}")
    assert 'made again: `precision` was "auto" and is "float32"' in said
    assert said.endswith("; further reasons upstream: 1.")


def test_a_new_task_is_named(ask):
    overlay = "tasks: [textures, landcover, letters]"
    said = f"{ADDITION} would be made again: `tasks` now has letters"
    assert ask(ADDITION, overlay).startswith(said)
    assert ask(SINGLE_TASK, overlay) == f"{SINGLE_TASK} is up to date."


def test_without_a_record_snakemakes_own_values_tell(ask):
    os.remove(f"results/nano/logs/finetune/{MODEL}/textures/0.json")
    cause = "`finetune.learning_rate` was 0.0003 and is 1e-05."
    assert cause in ask(FINETUNED, "finetune: {learning_rate: 1.0e-5}")
    assert why._mappings({repr("run: nano\n"), "3", repr("text")}) == [{"run": "nano"}]


def test_the_module_that_changed_is_named_until_it_is_accepted(ask, base, capsys):
    source = base / "project/src/task_arithmetic/core/training.py"
    head = "    def step(self, inputs: Tensor, targets: Tensor, learning_rate: float) -> float:\n"
    edit(source, head, f"    # It starts low.\n{head}")
    assert ask(FINETUNED) == f"{FINETUNED} is up to date."
    edit(source, head, f"{head}        learning_rate += 0\n")
    cause = "core/training.py changed"
    assert ask(FINETUNED) == f"{FINETUNED} would be made again: {cause}."
    shutil.rmtree("results/shared/code")
    forget()
    assert ask(FINETUNED) == f"{FINETUNED} would be made again: the code changed."
    rerun.accept("finetune", "adds 0")
    assert "2 results of finetune: adds 0 (the code changed)." in capsys.readouterr().out
    assert ask(ADDITION) == f"{ADDITION} is up to date."


def test_the_package_that_changed_is_named(ask, monkeypatch):
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda x: "99.0" if x == "torch" else real(x))
    forget()
    cause = f"torch was {real('torch')} and is 99.0"
    assert ask(FINETUNED) == f"{FINETUNED} would be made again: {cause}."


def test_the_input_that_changed_is_named(ask):
    Path(ENCODER).touch()
    assert ask(HEAD) == f"{HEAD} is up to date."
    Path(ENCODER).write_text('{"theta0_sha256": 1}')
    cause = f"its input {ENCODER} changed."
    assert ask(HEAD) == f"{HEAD} would be made again: {cause}"
    assert ask(VECTOR) == f"{VECTOR} would be made again because {HEAD} would: {cause}"


def test_a_changed_rule_is_named(ask, base):
    rule = 'call("finetune", '
    edit(
        base / "project/workflow/rules/learning.smk", rule, f'{rule}seed=" {{wildcards.seed:q}}", '
    )
    assert "made again: the command of its rule, finetune, changed" in ask(FINETUNED)


def test_what_is_missing_may_be_in_the_store_or_was_never_made(ask):
    os.remove(FINETUNED)
    said = f"{FINETUNED} would be made again: it does not exist"
    kept = "; the finished result is in the store and will be taken from there."
    assert ask(FINETUNED) == said + kept
    assert ask(FINETUNED, "store_gb: 0") == f"{said}."
    assert ask(VECTOR) == f"{VECTOR} is up to date."  # as Snakemake sees it
    os.remove(HEAD)
    assert ask(FINETUNED) == f"{said}."  # what is stored may be of another head
    other = FINETUNED.replace("attention", "ntk")
    assert ask(other) == f"{other} would be made for the first time."


@pytest.mark.parametrize(
    "attempt, cause",
    [
        ({"exit": 143}, "the last attempt was stopped by SIGTERM"),
        ({"exit": 1, "error": "The disk is full."}, "the last attempt failed (The disk is full)"),
        ({"exit": None, "updated": 0.0}, "the last attempt ended without notice"),
        ({"exit": None, "updated": 9e9}, "process 7 on elsewhere is making it now"),
        ({"exit": 0}, "Snakemake did not see its last attempt end"),
    ],
)
def test_an_attempt_that_came_to_nothing(ask, base, attempt, cause):
    record = Path(f"results/nano/logs/finetune/{MODEL}/textures/0.json")
    content = json.loads(record.read_text())
    content["attempts"].append({"started": 0.0, "pid": 7, "node": "elsewhere", **attempt})
    record.write_text(json.dumps(content))
    dag = why.plan(FINETUNED, [base / "nano.yaml"])
    dag.workflow.persistence.started(next(iter(dag.targetjobs)))  # as Snakemake notes a start
    assert ask(FINETUNED).startswith(f"{FINETUNED} would be made again: {cause}")
    assert f"because {FINETUNED} would: {cause}" in ask(VECTOR)


def test_every_planned_command_is_understood(base):
    dag = why.plan("all", [base / "nano.yaml"])
    calls = {job: why._planned(job) for job in dag.jobs if job.shellcmd}
    stages = {call.stage.command for call in calls.values()}
    assert {"embedded", "single-task", "disentanglement", "figure", "report"} <= stages
    for job, call in calls.items():
        assert call.code == job.params.code and "job" not in call.arguments


@pytest.mark.parametrize("target", [SINGLE_TASK, HEAD])
def test_without_a_configuration_it_is_that_of_the_runs_last_start(base, capsys, target):
    why.why(target=target)
    out, err = capsys.readouterr()
    assert out == f"{target} is up to date.\n"
    assert err.startswith("as its run was configured when it was last started (results/nano/run.js")
    why.why(target=target, as_json=True)
    reason = out.rstrip()
    told = {
        "target": target,
        "again": False,
        "reason": reason,
        "configured": "results/nano/run.json",
    }
    assert json.loads(capsys.readouterr().out) == told


def test_what_the_report_says_of_a_run_will_do_and_the_newer_counts(base, capsys):
    config = read_config(base / "nano.yaml", basedir=base / "project")
    changed = validate_config(config.given() | {"precision": "float32"}, base / "project")
    Path("results/nano/config.yaml").write_text(settings.as_yaml(changed))
    cause = '`precision` was "auto" and is "float32"'
    why.why(target=SINGLE_TASK)
    assert cause in capsys.readouterr().out
    os.utime("results/nano/config.yaml", (0, 0))
    why.why(target=SINGLE_TASK)
    assert "is up to date" in capsys.readouterr().out
    os.remove("results/nano/run.json")
    why.why(target=str(Path(SINGLE_TASK).absolute()))
    out, err = capsys.readouterr()
    assert cause in out and "results/nano/config.yaml" in err


@pytest.mark.parametrize("name", ["nano", "mini", "glue"])
def test_a_resolved_configuration_resolves_to_itself(tmp_path, name):
    text = settings.as_yaml(read_config(ROOT / f"config/{name}.yaml"))
    (tmp_path / "config.yaml").write_text(text, "utf-8")
    again = read_config(tmp_path / "config.yaml")
    assert settings.as_yaml(again) == text
    assert again == read_config(ROOT / f"config/{name}.yaml")


LETTERS = [chr(i) * 9 for i in range(97, 117)]


@pytest.mark.parametrize(
    "old, new, says",
    [
        (LETTERS, LETTERS[1:], [f"`x` no longer has {LETTERS[0]}"]),
        (LETTERS, LETTERS[::-1], ["`x` has its entries in another order"]),
        ([1, 2], [1, 2, [3, 4]], ["`x` now has [3, 4]"]),
        (LETTERS, None, ["`x` was a list of 20 entries and is null"]),
        (None, LETTERS[:4], [f"`x` was null and is {json.dumps(LETTERS[:4])}"]),
        ({"a": LETTERS}, "é", ['`x` was a mapping of 1 keys and is "é"']),
    ],
)
def test_lists_are_never_cut_in_their_middle(old, new, says):
    assert why.differences(old, new, "x") == says


def test_of_long_texts_the_place_where_they_differ_is_told():
    old = "word " * 40
    (said,) = why.differences(old, old + "and more", "x")
    before, after = said.removeprefix("`x` was ").split(" and is ")
    assert "and more" in after and "and more" not in before and len(said) < 250


def test_mistakes_end_in_one_sentence(ask, base, capsys):
    with pytest.raises(UserError, match="No rule of run nano makes results/other/x.csv: correct"):
        ask("results/other/x.csv")
    with pytest.raises(UserError, match="No rule of run paper makes results/other"):
        why.why(target="results/other/x.csv")
    with pytest.raises(SystemExit, match="Unknown key 'stepz' under finetune"):
        ask(VECTOR, "finetune: {stepz: 3}")
    assert capsys.readouterr() == ("", "")
