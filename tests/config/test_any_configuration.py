"""A configuration that is approved runs to its end: whatever it leaves out, plan, workflow, tables,
figures, findings and report agree on what there is."""

import itertools
import json
import random
from pathlib import Path

import pandas as pd
import pytest
import views
import yaml
from PIL import Image
from runs import ROOT, Nano, copy_project

from task_arithmetic.config.available import ANALYSES, MERGING, figure_names, left_out, table_names
from task_arithmetic.config.experiment import Experiment
from task_arithmetic.config.published import TASKS, paper_beside
from task_arithmetic.config.reading import merge, read_config, read_yaml, validate_config
from task_arithmetic.config.settings import as_yaml, report_settings, view_settings
from task_arithmetic.config.summary import check
from task_arithmetic.config.view import view_of
from task_arithmetic.errors import UserError
from task_arithmetic.planning.requests import requests
from task_arithmetic.planning.work import by_stage, jobs
from task_arithmetic.report import figures, page, tables
from task_arithmetic.report.captions import table_caption
from task_arithmetic.report.cells import load_metrics
from task_arithmetic.report.claims import claims
from task_arithmetic.report.printing import has_paper, to_csv

DRAWN, DRAWN_FIGURES, PLANNED = 40, 6, 5
OWN_MODES = {  # besides those that come with the code
    "layernorm": "{label: Layer norms, train: ['*.ln_1.*', '*.ln_2.*'], linearized: false}",
    "norm_ntk": "{label: Layer norms linearized, train: ['*.ln_1.*'], linearized: true}",
}
MODES = ["nonlinear", "ntk", "attention", *OWN_MODES]
IMAGES = ["handwritten", "textures", "numbers", "landcover", "shapes"]
TEXTS = ["acceptability", "sentiment", "similarity", "questions"]
NO_PAIRS = {"disentanglement": None}
RULES = ["finetune", "vector", "pretrained", "single_task", "kernel", "addition", "posthoc"]
RULES += ["negation", "disentanglement", "cosine", "efficiency", "metrics", "report"]
RULES += ["layers", "spectra", "alignment"]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The project with two modes more."""
    folder = copy_project(tmp_path_factory.mktemp("any") / "project")
    for name, text in OWN_MODES.items():
        (folder / f"config/modes/{name}.yaml").write_text(text)
    return folder


def drawn(seed: int) -> dict:
    """A random small overlay over config/nano.yaml."""
    chance = random.Random(seed)

    def some(names, least, most):
        return chance.sample(names, chance.randint(least, min(most, len(names))))

    tasks = some(IMAGES, 1, 3)
    modes = some(MODES, 1, 4)
    encoders = some(["embedded-small", "embedded-base"], 1, 2)
    pairs: dict = {"fig6": None, "fig8": None}
    names = ["fig6", "fig8", "mine", "zwei-drei", "画"] if len(tasks) > 1 else []
    for name in some(names, 0, 2):
        pair = chance.sample(tasks, 2)
        if pair not in pairs.values():
            pairs[name] = pair
    config = {
        "run": "any",
        "suite": chance.choice(["embedded", "paper", "my own"]),
        "tasks": tasks,
        "encoders": encoders,
        "focus": chance.choice(encoders),
        "modes": modes,
        "ablations": some([m for m in [*MODES, "attention_bias"] if m not in modes], 0, 2),
        "seeds": some([0, 1, 7], 1, 2),
        "negation": chance.choice([None, {"control": None}, {"control": "pictures"}]),
        "disentanglement": chance.choice(
            [None, {"pairs": None}, {"pairs": pairs}, {"pairs": pairs}]
        ),
    }
    texts = {
        "tasks": some(TEXTS, 1, 3),
        "encoders": ["embedded-t5"],
        "modes": some(["nonlinear", "ntk", "attention"], 1, 3),
    }
    kind = chance.choice(["images", "images", "both", "texts"])
    if kind != "images":
        recipe = {"steps": 2, "batch_size": 4, "learning_rate": 1e-3, "warmup_steps": 0}
        recipe |= {"weight_decay": 0.0, "gradient_clip": None, "checkpoint_steps": 1}
        config["language"] = {**texts, "finetune": recipe}
    if kind == "texts":
        config |= {"tasks": [], "encoders": []}
    off = chance.choice([[], ["layers"], ["spectra", "alignment"], None])
    config["analyses"] = off if off is None else dict.fromkeys(off)
    return config


def over_nano(project, name: str, overlay: dict) -> None:
    """Write config/NAME.yaml: an overlay over config/nano.yaml, as one file."""
    content = merge(read_yaml(project / "config/nano.yaml"), overlay)
    text = yaml.safe_dump(content, allow_unicode=True)
    (project / f"config/{name}.yaml").write_text(text, encoding="utf-8")


def outputs(config: Experiment) -> dict[str, list[str]]:
    """Stage → an output of each of its jobs."""
    return {stage: [job.output for job in own] for stage, own in by_stage(jobs(config)).items()}


def read(project, overlay: dict) -> Experiment:
    """The experiment of an overlay over config.yaml and config/nano.yaml."""
    config = merge(read_yaml(project / "config.yaml"), read_yaml(project / "config/nano.yaml"))
    return validate_config(merge(config, json.loads(json.dumps(overlay))), project)


@pytest.mark.parametrize("seed", range(DRAWN))
def test_what_is_planned_is_shown_and_no_more(project, tmp_path, monkeypatch, seed):
    monkeypatch.chdir(project)
    config = read(project, drawn(seed))
    settings = json.loads(view_settings(config))
    view = view_of(settings)
    planned = outputs(config)
    assert any(job.work for job in jobs(config))
    ask = requests(config, project)
    for part in config.parts.values():
        for encoder, mode in part.main:
            assert ask("addition", encoder=encoder, mode=mode).memory_mb > 0
    assert [Path(path).stem for path in planned["tables"]] == table_names(view)
    assert [Path(path).stem for path in planned["figures"]] == figure_names(view)
    metrics = views.write_metrics(tmp_path / "metrics.csv", views.make_rows(settings, 3, 3))
    for name in table_names(view):
        source = "targets" if name == "targets" else "merging" if name in MERGING else "paper"
        reference = project / f"workflow/reference/{source}.csv"
        tables.write(name, metrics, reference, settings, tmp_path / "tables")
    for name in figure_names(view):
        if seed < DRAWN_FIGURES:
            figures.write(name, metrics, settings, tmp_path / "figures")
        else:
            views.write_pictures(tmp_path / "figures", [name])
    own, reference = view_of(json.loads(report_settings(config))), project / "workflow/reference"
    published = tables.read_reference(reference / "paper.csv")
    published = published, tables.read_targets(reference / "targets.csv")
    measured, text = load_metrics(metrics), as_yaml(config)
    merging = tables.read_merging(reference / "merging.csv")
    shown = page.page(measured, *published, tmp_path / "figures", own, text, [], merging)
    assert all(line.split(":")[0] in shown for line in left_out(view))
    assert all(shown.count(f'<h3 id="{name}">') == 1 for name in table_names(view))
    assert all(shown.count(f'<figure id="figure-{name}">') == 1 for name in figure_names(view))
    assert '<section id="q-more">' not in shown  # each has a question
    assert ("embedded suite" in shown) == (config.suite == "embedded")
    assert "Paper:" not in shown or settings["paper_beside"] or "table4" in shown
    again = merge(read_yaml("config.yaml"), yaml.safe_load(as_yaml(config)))
    assert outputs(validate_config(again, project)) == planned  # what the report shows is the run


@pytest.mark.parametrize("seed", range(100, 100 + PLANNED))
def test_the_workflow_plans_what_plan_says(project, monkeypatch, seed):
    monkeypatch.chdir(project)
    overlay = drawn(seed)
    over_nano(project, "any", overlay)
    said = {stage: len(paths) for stage, paths in outputs(read(project, overlay)).items()}
    planned = Nano(project, "any", "any").planned()
    assert {rule: planned.get(rule, 0) for rule in RULES} == {rule: said[rule] for rule in RULES}
    assert sum(planned.values()) == sum(said.values())


SMALL = {"finetune": {"steps": 1, "warmup_steps": 0, "checkpoint_steps": 1, "batch_size": 4}}
SMALL |= {"limit": {"train": 16, "validation": 16, "test": 16}, "efficiency": {"steps": 1}}
RUNS = {
    "without its usual parts": {
        "tasks": ["shapes"], "encoders": ["embedded-small"], "modes": ["norm_ntk"],
        "ablations": [], "negation": None, "disentanglement": None, "suite": "my own",
    },
    "with a mode of its own": {
        "tasks": ["shapes", "landcover"], "encoders": ["embedded-small"],
        "modes": ["nonlinear", "layernorm"], "ablations": [], "negation": {"control": None},
        "disentanglement": {"pairs": {"fig6": None, "fig8": None, "mine": ["shapes", "landcover"]}},
    },
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_run_reaches_its_report(project, name):
    over_nano(project, "small", RUNS[name] | SMALL | {"run": "small"})
    run = Nano(project, "small", "small")
    done = run.run()
    assert done.returncode == 0, done.stdout[-4000:]
    page = (run.results / "report.html").read_text(encoding="utf-8")
    shown = {path.stem for path in (run.results / "figures").glob("*.png")} - {"timeline"}
    if name == "with a mode of its own":
        paper = {"fig3", "fig5", "mine", "fig7", "fig9", "fig10", "merging", "plane_mine"}
        assert shown == paper | {*ANALYSES} - {"retention"}  # which needs a control task
        assert "Table 5: needs the mode attention or an ablation." in page
    else:
        assert shown == {"fig7", "fig9", "robustness", "spectra", "linearity"}
        assert "Figure 3: needs a mode that is not linear" in page
        assert "embedded suite" not in page and "Paper:" not in page


def test_the_check_says_what_is_left_out(project, capsys, monkeypatch):
    monkeypatch.chdir(project)
    (project / "mine.yaml").write_text(yaml.safe_dump(RUNS["without its usual parts"]))
    check("config/nano.yaml", "mine.yaml", basedir=project)
    text = capsys.readouterr().out
    assert (
        "left out\n" in text
        and "  Table negation: needs a control task (negation.control).\n" in text
    )


@pytest.mark.parametrize(
    "overlay, says",
    [
        ({"disentanglement": {"pairs": {"fig9": ["textures", "landcover"]}}}, "another figure"),
        ({"disentanglement": {"pairs": {"x_language": ["textures", "landcover"]}}}, "another fig"),
        ({"disentanglement": {"pairs": {"a b": ["textures", "landcover"]}}}, "must be a name"),
        ({"tasks": ["numbers"], "disentanglement": {}}, "set fig6 to null"),
        ({"modes": []}, "modes .* must have at least 1"),
    ],
)
def test_what_cannot_be_is_one_sentence(project, monkeypatch, overlay, says):
    monkeypatch.chdir(project)
    with pytest.raises(UserError, match=says):
        read(project, overlay)


def test_the_papers_numbers_stand_beside_its_own_eight_tasks_alone():
    base = views.make_settings(suite="paper")
    for tasks, suite, beside in (
        (TASKS, "paper", True), (TASKS[:7], "paper", False), (TASKS, "mine", False),
    ):  # fmt: skip
        own = {"tasks": tasks, "paper_beside": paper_beside(suite, tasks), "suite": suite}
        view = view_of(base | own)
        assert view.paper_beside == beside
        assert has_paper("table2", view) == beside
        assert has_paper("table4", view) == (suite == "paper")


NAMED = ["data", "report", "metrics", "all", "embedded", "a.b", "größe"]  # some are rules' names


def test_a_pair_may_have_the_name_of_a_rule_or_of_a_stage(project):
    tasks = ["textures", "landcover", "shapes", "numbers", "letters"]
    pairs = dict(zip(NAMED, map(list, itertools.permutations(tasks, 2)), strict=False))
    pairs = {"disentanglement": {"pairs": {"fig6": None, "fig8": None, **pairs}}}
    over_nano(project, "named", {"run": "named", "tasks": tasks, "ablations": [], **pairs})
    planned = Nano(project, "named", "named").planned()
    assert planned["disentanglement"] == 3 * len(NAMED)
    assert sum(count for rule, count in planned.items() if rule.startswith("heatmap")) == len(NAMED)


def test_empty_pairs_are_no_pairs_for_check_and_workflow(project, monkeypatch):
    (project / "none.yaml").write_text("{run: none, disentanglement: {pairs: {}}}")
    monkeypatch.chdir(project)
    config = read_config("config/nano.yaml", "none.yaml", basedir=project)
    assert outputs(config)["disentanglement"] == []
    option = "disentanglement={pairs: {}}"
    assert "disentanglement" not in Nano(project).planned("--config", option)


def test_own_tasks_are_not_called_the_embedded_suite(project, monkeypatch):
    """As in the README's example, over config/mini.yaml."""
    folder = project / "own" / "train"
    for label in ("a", "b"):
        (folder / label).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / label / f"{number}.png")
    text = "{path: own, test: 0.3, validation: 1, templates: ['a {}.']}"
    (project / "config/tasks/balls.yaml").write_text(text)
    monkeypatch.chdir(project)
    own = read(project, {"tasks": ["shapes", "balls"], **NO_PAIRS})
    view = view_of(json.loads(view_settings(own)))
    assert not view.paper_beside
    for name in table_names(view):
        assert "embedded suite" not in table_caption(name, view)
        assert "paper" not in table_caption(name, view) or name == "negation"
    about = str(page.about(view))
    assert "embedded suite" not in about and "the paper's" not in about
    view = view_of(json.loads(view_settings(read(project, {"tasks": ["shapes"], **NO_PAIRS}))))
    assert "embedded suite" in table_caption("table2", view)


def test_the_papers_numbers_are_not_said_to_be_nan(tmp_path):
    settings = views.make_settings(tasks=2, encoders=1, suite="mine", paper_beside=False)
    metrics = views.write_metrics(tmp_path / "metrics.csv", views.make_rows(settings, 3, 3))
    paper = tables.read_reference(ROOT / "workflow/reference/paper.csv")
    metrics, view = load_metrics(metrics), view_of(settings)
    table4 = tables.make_table("table4", metrics, paper, view)
    assert table4["paper_held_parameters"].isna().all()
    rows = claims(metrics, view, table4)
    texts = [text for claim, _, text, _ in rows if claim.startswith("Efficiency")]
    assert texts and not any("paper" in text or "nan" in text for text in texts)


@pytest.mark.parametrize("task", ["average", "mode", "paper_cola", "cola_std"])
def test_a_task_of_texts_cannot_take_another_column_of_table_3(project, monkeypatch, task):
    monkeypatch.chdir(project)
    definition = (project / "config/tasks/sentiment.yaml").read_text()
    (project / f"config/tasks/{task}.yaml").write_text(
        "\n".join(line for line in definition.splitlines() if "paper_task" not in line)
    )
    overlay = drawn(next(seed for seed in range(99) if "language" in drawn(seed)))
    overlay["language"]["tasks"] = ["acceptability", task]
    with pytest.raises(UserError, match=f"{task} cannot stand in Table 3"):
        read(project, overlay)


def test_a_task_of_texts_may_be_called_as_a_column_of_other_tables():
    table = pd.DataFrame({"mode": ["ntk"], "alpha": [71.4286], "flag": [50.0], "average": [60.7]})
    assert to_csv(table, "table3").splitlines()[1] == "ntk,71.43,50.00,60.70"


def test_negation_has_the_alpha_that_always_keeps_the_control_task(project, monkeypatch):
    monkeypatch.chdir(project)
    overlay = {"alphas": {"start": 0.5}}
    with pytest.raises(UserError, match=r"alphas.start is 0.5, but negation needs 0"):
        read(project, overlay)
    assert read(project, {**overlay, "negation": None})
