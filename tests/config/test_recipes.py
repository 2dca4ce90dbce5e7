"""Recipes that are special to encoders, modes and tasks."""

import json
from itertools import product

import pytest
import test_report
import views
from test_config import complaint, configuration

from task_arithmetic.config.experiment import Experiment
from task_arithmetic.config.reading import validate_config
from task_arithmetic.config.recipes import recipes_of
from task_arithmetic.config.settings import (
    efficiency_settings,
    finetune_settings,
    report_settings,
    view_settings,
)
from task_arithmetic.config.summary import check
from task_arithmetic.planning import requests
from task_arithmetic.planning.work import jobs

SPECIAL = """
finetune:
  by_encoder: {ViT-B-16: {learning_rate: 2.0e-5, batch_size: 64}}
  by_mode: {ntk: {learning_rate: 1.0e-3, steps: 500}, attention_bias: {weight_decay: 0.0}}
  by_task: {cars: {learning_rate: 3.0e-5, warmup_steps: 10}}
language:
  finetune:
    by_mode: {ntk: {steps: 70}}
"""


def resolved(text: str = "") -> Experiment:
    return validate_config(configuration(text))


def slices(config) -> dict:
    """(encoder, mode, task) → the settings of its fine-tuning."""
    return {
        (encoder, mode, task): finetune_settings(config, mode, encoder, task)
        for part in config.parts.values()
        for encoder, mode in part.models
        for task in part.tasks
    }


def test_the_task_wins_over_the_mode_and_the_mode_over_the_encoder_key_by_key():
    base, config = resolved(), resolved(SPECIAL)
    for (encoder, mode, task), text in slices(config).items():
        expected = base.part_of(encoder).finetune.given()
        if encoder == "ViT-B-16":
            expected |= {"learning_rate": 2e-5, "batch_size": 64}
        if mode == "ntk" and encoder != "t5-base":
            expected |= {"learning_rate": 1e-3, "steps": 500}
        if mode == "ntk" and encoder == "t5-base":
            expected |= {"steps": 70}
        if mode == "attention_bias":
            expected |= {"weight_decay": 0.0}
        if task == "cars":
            expected |= {"learning_rate": 3e-5, "warmup_steps": 10}
        assert json.loads(text)["finetune"] == expected


def test_without_special_recipes_the_slices_are_what_they_were():
    config = resolved()
    for (encoder, _, _), text in slices(config).items():
        assert json.loads(text)["finetune"] == config.part_of(encoder).finetune.given()
    empty = resolved("finetune: {by_mode: {}, by_task: {cars: {}}}")
    assert slices(empty) == slices(config)


@pytest.mark.parametrize(
    "overlay, touched",
    [
        ("by_mode: {ntk: {learning_rate: 1.0e-3}}", lambda encoder, mode, task: mode == "ntk"),
        ("by_task: {dtd: {steps: 300}}", lambda encoder, mode, task: task == "dtd"),
        ("by_encoder: {ViT-L-14: {batch_size: 64}}", lambda e, mode, task: e == "ViT-L-14"),
    ],
)
def test_a_special_recipe_trains_again_what_it_is_for_and_nothing_else(overlay, touched):
    before, after = slices(resolved()), slices(resolved(f"finetune: {{{overlay}}}"))
    changed = {key for key in before if before[key] != after[key]}
    assert changed == {key for key in before if key[0] != "t5-base" and touched(*key)}


def test_efficiency_measures_the_first_tasks_recipe():
    config = resolved(SPECIAL)  # whose first task is cars
    for mode, steps in (("ntk", 500), ("attention", 2000)):
        own = json.loads(efficiency_settings(config, mode, "ViT-B-16"))
        assert own["finetune"]["learning_rate"] == 3e-5
        assert (own["finetune"]["batch_size"], own["finetune"]["steps"]) == (64, steps)


@pytest.mark.parametrize(
    "text, sentence",
    [
        (
            "finetune: {by_mode: {attentoin: {steps: 3}}}",
            "finetune.by_mode has 'attentoin', which is not among modes (did you mean 'attention'",
        ),
        ("finetune: {by_task: {imagenet: {steps: 3}}}", "'imagenet', which is not among tasks"),
        ("finetune: {by_task: {7: {steps: 3}}}", "finetune.by_task has '7', which is not among"),
        ("finetune: {by_encoder: {t5-base: {steps: 3}}}", "'t5-base', which is not among encoders"),
        (
            "language: {finetune: {by_task: {cars: {steps: 3}}}}",
            "language.finetune.by_task has 'cars', which is not among language.tasks",
        ),
        (  # of a part that is left out, too
            "{tasks: [], encoders: [], finetune: {by_task: {cola: {steps: 3}}}}",
            "finetune.by_task has 'cola', which is not among tasks; correct or remove it.",
        ),
        (
            "finetune: {by_mode: {ntk: {stepz: 3}}}",
            "Unknown key 'stepz' under finetune.by_mode.ntk",
        ),
        (
            "finetune: {by_mode: {ntk: {by_task: {}}}}",
            "Unknown key 'by_task' under finetune.by_mode",
        ),
        ("finetune: {by_modes: {}}", "did you mean 'by_mode'?"),
        ("finetune: {by_mode: [ntk]}", "finetune.by_mode in the configuration must be a mapping"),
        (
            "finetune: {by_mode: {ntk: 3}}",
            "finetune.by_mode.ntk in the configuration must be a map",
        ),
        ("finetune: {by_mode: {ntk: {learning_rate: 1e-3}}}", "decimal point: write 1.0e-3)"),
        (
            "language: {finetune: {by_mode: {ntk: {crop_scale: [0.9, 1.0]}}}}",
            "Unknown key 'crop_scale' under language.finetune.by_mode.ntk",
        ),
        (
            "finetune: {by_mode: {ntk: {warmup_steps: 2001}}}",
            "warmup_steps (2001) must be at most finetune.steps (2000), as for ntk.",
        ),
        (  # each key is in order by itself
            "finetune: {by_mode: {ntk: {steps: 300}}, by_task: {dtd: {warmup_steps: 400}}}",
            "warmup_steps (400) must be at most finetune.steps (300), as for ntk; dtd.",
        ),
        (
            "finetune: {by_task: {dtd: {crop_scale: [0.9, 0.8]}}}",
            "crop_scale must be [smallest, largest]; found [0.9, 0.8], as for dtd.",
        ),
    ],
)
def test_a_mistake_in_a_special_recipe_is_one_sentence(text, sentence):
    assert sentence in complaint(text)


def test_every_fine_tuning_has_one_recipe_in_the_list():
    config = resolved(SPECIAL)
    for modality, part in config.parts.items():
        every = {"encoders": part.encoders, "tasks": part.tasks}
        every["modes"] = [*part.modes, *part.ablations]
        found = []
        for row in recipes_of(part, config.trained(part)):
            named = {k: getattr(row, k) for k in ("encoders", "modes", "tasks")}
            axes = (every[k] if names == "all" else names for k, names in named.items())
            for job in product(*axes):
                if job[:2] in part.models:  # ablations are of the focus encoder alone
                    found.append(job)
                    assert part.recipe(*job) == row.recipe
        assert (
            len(found)
            == len(set(found))
            == sum(key[0] in every["encoders"] for key in slices(config))
        ), modality


def test_one_recipe_is_one_row_and_the_same_values_are_one_recipe():
    config = resolved()
    part = config.parts["vision"]
    (row,) = recipes_of(part, config.trained(part))
    assert row[:3] == ("all", "all", "all")
    assert row.recipe.given() == part.finetune.given()
    same = resolved("finetune: {by_mode: {ntk: {steps: 2000}}}")
    assert recipes_of(same.parts["vision"], same.trained(part)) == [row]


def test_check_says_each_recipe_by_what_differs(tmp_path, capsys):
    (tmp_path / "special.yaml").write_text("finetune: {by_mode: {ntk: {learning_rate: 1.0e-3}}}")
    check(tmp_path / "special.yaml")
    said = capsys.readouterr().out
    assert "  fine-tune  96 runs (1 seed)\n" in said
    others = "nonlinear, attention, attention_bias, attention_mlp, attention_mlp_bias"
    assert f"  recipe     {others}: learning_rate 1e-05\n" in said
    assert "  recipe     ntk: learning_rate 0.001\n" in said
    assert "21 runs (1 seed) of 2000 steps of 16 examples" in said


def test_work_and_requests_are_those_of_each_jobs_recipe():
    config = resolved("finetune: {by_task: {dtd: {steps: 8000, batch_size: 256}}}")
    own = [job for job in jobs(config) if (job.encoder, job.mode) == ("ViT-B-32", "ntk")]
    tasks = {job.task: job.work for job in own if job.stage == "finetune"}
    steps = {task: (each.key.batch, each.amount) for task, (each,) in tasks.items()}
    assert steps == {**dict.fromkeys(config.tasks, (128, 2000)), "dtd": (256, 8000)}
    (timed,) = next(job.work for job in own if job.stage == "efficiency")  # the first task's
    assert (timed.key.batch, timed.amount) == (128, 3 + 20)
    request = requests.requests(config)
    asked = [request("finetune", "ViT-B-32", "ntk", task) for task in ("dtd", "cars")]
    assert asked[0].seconds > 2 * asked[1].seconds
    on_cpu = requests.requests(config.model_copy(update={"device": "cpu"}))
    asked = [on_cpu("finetune", "ViT-B-32", "ntk", task) for task in ("dtd", "cars")]
    assert asked[0].memory_mb > asked[1].memory_mb


def test_the_report_alone_depends_on_the_recipes():
    base, config = resolved(), resolved(SPECIAL)
    assert view_settings(config) == view_settings(base)
    assert report_settings(config) != report_settings(base)


def test_the_report_shows_each_recipe_that_was_used(tmp_path):
    config = resolved("finetune: {by_mode: {ntk: {learning_rate: 1.0e-3, gradient_clip: null}}}")
    settings = views.make_settings(tasks=3, encoders=1)
    folder = test_report.make_run(tmp_path, settings, points=3, alphas=3)
    settings |= {"recipes": json.loads(report_settings(config))["recipes"]}
    text = test_report.write(folder, settings)
    section = text.split("Recipes, images")[1].split("Recipes, texts")[0]
    rows = [[cell.split("<")[0] for cell in row.split(">")[1:] if cell.split("<")[0].strip()]
            for row in section.split("<tr>")[1:]]  # fmt: skip
    assert rows[0][:4] == ["Encoders", "Modes", "Tasks", "steps"]
    shared = ["2000", "128"]
    assert [row[3:8] for row in rows[1:]] == [
        [*shared, "1e-05", "200", "cosine"],
        [*shared, "0.001", "200", "cosine"],
    ]
    assert rows[2][:3] == ["all", "NTK linearization", "all"] and "none" in rows[2]
    assert "Non-linear fine-tuning, Attention modules only, " in rows[1][1]
    texts = text.split("Recipes, texts")[1].split("</table>")[0]
    assert texts.count("<tr>") == 2 and "constant" in texts  # headings, and one for all
