"""What a configuration may say, what each mistake is answered with, and what each stage sees."""

import json
from dataclasses import FrozenInstanceError
from itertools import product

import pytest
import yaml
from pydantic import ValidationError

from task_arithmetic.config.definitions import Task
from task_arithmetic.config.reading import (
    ROOT,
    load_definition,
    merge,
    read_yaml,
    typed,
    validate_config,
)
from task_arithmetic.config.settings import (
    addition_settings,
    as_yaml,
    data_settings,
    encoder_settings,
    finetune_settings,
    head_settings,
    negation_settings,
    view_settings,
)
from task_arithmetic.config.summary import check
from task_arithmetic.core.alpha import alpha_grid
from task_arithmetic.errors import UserError


def configuration(text: str = "") -> dict:
    """config.yaml with a YAML overlay over it."""
    return merge(read_yaml(ROOT / "config.yaml"), yaml.safe_load(text) or {})


def complaint(text: str, **arguments) -> str:
    """The sentence that an overlay over config.yaml is refused with."""
    with pytest.raises(UserError) as caught:
        validate_config(configuration(text), **arguments)
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith("."), sentence
    return sentence


# ---------------------------------------------------------------- the shipped files


@pytest.mark.parametrize("files", [[], ["mini"], ["nano"], ["mini", "nano"]])
def test_shipped_configurations_are_valid(files, capsys):
    check(*(ROOT / f"config/{file}.yaml" for file in files))
    assert f"results/{['paper', *files][-1]}/" in capsys.readouterr().out


def test_the_summary_counts_the_fine_tunings(capsys):
    check()
    # 8 tasks x (3 encoders x 3 modes + 3 ablations)
    said = capsys.readouterr().out
    assert "96 runs (1 seed) of 2000 steps of 128 examples" in said
    assert "21 runs (1 seed) of 2000 steps of 16 examples" in said  # 7 tasks x 3 modes


@pytest.mark.parametrize("kind", ["tasks", "encoders", "modes"])
def test_every_shipped_definition_is_valid(kind):
    for path in (ROOT / "config" / kind).glob("*.yaml"):
        text = path.read_text()
        of_texts = "prompts:" in text or ("language:" in text and "vision:" not in text)
        modality = "language" if of_texts else "vision"
        load_definition(kind, path.stem, "here", modality=modality)


TEMPLATES = {"cars": 8, "dtd": 8, "eurosat": 3, "gtsrb": 3, "mnist": 1, "resisc45": 18}
CLASSES = {"cars": 196, "dtd": 47, "eurosat": 10, "gtsrb": 43, "mnist": 10, "resisc45": 45}


def test_the_eight_tasks_have_the_benchmarks_templates_and_classes():
    tasks = validate_config(configuration()).definitions.tasks
    images = {k: v for k, v in tasks.items() if isinstance(v, Task) and k != "imagenet"}
    assert {k: len(v.templates) for k, v in images.items()} == {
        **TEMPLATES,
        "sun397": 2,
        "svhn": 1,
    }
    for task, count in {**CLASSES, "sun397": 397, "svhn": 10}.items():
        names = tasks[task].classes
        assert len(names) == len(set(names)) == count == tasks[task].expected.classes


def test_open_clip_ships_the_lists_that_imagenet_is_defined_by():
    from open_clip import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES

    imagenet = load_definition("tasks", "imagenet", "here")
    assert imagenet.classes == imagenet.templates == "open_clip"
    assert len(IMAGENET_CLASSNAMES) == imagenet.expected.classes == 1000
    assert len(OPENAI_IMAGENET_TEMPLATES) == 80


# ---------------------------------------------------------------- mistakes in a configuration


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("finetune: {stepz: 3}", "Unknown key 'stepz' under finetune"),
        ("finetune: {stepz: 3}", "did you mean 'steps'?"),
        ("task: [mnist]", "Unknown key 'task' in the configuration (did you mean 'tasks'?)"),
        ("zzz: 1", "Unknown key 'zzz' in the configuration; known: run, suite"),
        ("disentanglement: {pairs: {fig7: [dtd, cars]}}", "fig7 has the name of another figure"),
        ("finetune: {steps: many}", "finetune.steps in the configuration must be a whole number"),
        ("finetune: {steps: many}", "found the text 'many'"),
        ("finetune: {steps: 2.5}", "must be a whole number; found 2.5"),
        ("finetune: {steps: true}", "must be a whole number; found true"),
        ("finetune: {steps: 0}", "must be at least 1; found 0"),
        ("finetune: {learning_rate: 1e-5}", "decimal point: write 1.0e-5)"),
        ("finetune: {learning_rate: 1.0e5}", "with its sign: write 1.0e+5)"),
        ('finetune: {learning_rate: "0.1"}', "(write 0.1 without quotes)"),
        ("finetune: {learning_rate: .inf}", "must be a finite number"),
        ("finetune: {learning_rate: .nan}", "must be a finite number"),
        ("finetune: 3", "finetune in the configuration must be a mapping"),
        ("finetune: null", "must be a mapping (`key: value` lines); found nothing (null)"),
        ("finetune: {warmup_steps: 3000}", "must be at most finetune.steps (2000)"),
        ("finetune: {crop_scale: [1.0, 0.9]}", "must be [smallest, largest]"),
        ("finetune: {crop_scale: [0.9]}", "must have exactly 2 entries; found 1"),
        (
            "finetune: {crop_scale: [0.9, 1.5]}",
            "crop_scale[1] in the configuration must be at most 1",
        ),
        ("tasks: mnist", "tasks in the configuration must be a list; found the text 'mnist'"),
        ("tasks: []", "tasks in the configuration must have at least 1 entry; found none"),
        ("tasks: [mnist]", "name two of them, or set fig6 to null for no such heatmap"),
        ("tasks: [mnist, mnist]", "has 'mnist' twice"),
        ("tasks: [7, mnist]", "tasks[0] in the configuration must be a text; found 7"),
        ("seeds: [0, 0]", "has 0 twice"),
        ("seeds: []", "must have at least 1 entries"),
        ("seeds: [-1]", "seeds[0] in the configuration must be at least 0"),
        ("run: a/b", "run in the configuration must be a name of letters, digits"),
        ("run: shared", "cannot be 'shared'"),
        (
            "suite: [paper]",
            "suite in the configuration must be a text; found a list",
        ),
        ("device: gpu", "must be auto, cpu or cuda"),
        ("limit: {train: 5}", "limit.validation is missing"),
        # names that do not exist
        ("tasks: [minst, dtd, sun397, cars, resisc45]", "There is no task 'minst'"),
        ("tasks: [minst, dtd, sun397, cars, resisc45]", "did you mean 'mnist'?"),
        ("encoders: [ViT-B-31, ViT-B-32]", "There is no encoder 'ViT-B-31'"),
        ("modes: [nonlinear, attentoin]", "There is no mode 'attentoin'"),
        ("modes: [nonlinear, attentoin]", "did you mean 'attention'?"),
        ("ablations: [attention_mpl]", "did you mean 'attention_mlp'?"),
        (
            "tasks: [../tasks/mnist, dtd, sun397, cars, resisc45]",
            "found '../tasks/mnist'",
        ),
        ("tasks: [MNIST, dtd, sun397, cars, resisc45]", "There is no task 'MNIST'"),
        ("negation: {control: imagnet}", "did you mean 'imagenet'?"),
        # names that do not fit each other
        ("disentanglement: {pairs: {fig6: [dtd, sun]}}", "did you mean 'sun397'?"),
        ("disentanglement: {pairs: {fig6: [dtd, dtd]}}", "must be two different tasks"),
        ("disentanglement: {pairs: {fig8: [dtd, sun397]}}", "repeats an earlier pair"),
        ("disentanglement: {pairs: {fig8: [dtd, cars, mnist]}}", "must have exactly 2 entries"),
        ("disentanglement: {pairs: {fig8: []}}", "must have exactly 2 entries"),
        ("disentanglement: {low: 2.0}", "disentanglement.low (2.0) must be below"),
        ("focus: ViT-B-33", "focus is 'ViT-B-33', which is not among encoders"),
        ("ablations: [attention]", "'attention' is in modes and in ablations"),
        # negation cannot be switched off
        ("negation: none", "negation in the configuration must be a mapping"),
        ("negation: {control: 1}", "negation.control in the configuration must be a text"),
        ("negation: {control: mnist}", "negation.control is 'mnist', which is among tasks"),
        ("negation: {keep: 1.1}", "negation.keep in the configuration must be at most 1"),
        ("negation: {keep: 0}", "negation.keep in the configuration must be above 0"),
        ("disentanglement: {pairs: {1: [dtd, cars]}}", "pairs in the configuration must be a text"),
        ("7: 3", "Unknown key '7' in the configuration; known: run"),
        # the alpha grid
        ("alphas: {start: -0.5}", "0 <= start < stop <= 2"),
        ("alphas: {stop: 2.5}", "0 <= start < stop <= 2"),
        ("alphas: {start: 1.0}", "0 <= start < stop <= 2"),
        ("alphas: {step: 0.3}", "must divide the way from 0.0 to 1.0 into whole steps"),
        ("alphas: {step: 0}", "alphas.step must be above 0"),
        ("alphas: {step: 1.5}", "must divide the way"),
        ("alphas: {step: 0.001}", "at most 201 are allowed"),
        # images and texts
        ("language: {tasks: []}", "language.tasks in the configuration must have at least 1"),
        ("language: {tasks: [cola, textures]}", "is of texts: name it in tasks"),
        ("negation: {control: qqp}\nlanguage: null", "is a definition for texts, but negation.co"),
        ("language: {tasks: [cola, col]}", "no task 'col' (language.tasks in the configuration)"),
        ("language: {encoders: [embedded-small]}", "name it in encoders"),
        ("language: {encoders: [t5-bas]}", "did you mean 't5-base'?"),
        ("language: {focus: t5}", "language.focus is 't5', which is not among language.encoders"),
        ("language: {modes: [attention_bias]}", "'*.attn.in_proj_weight' matches no tensor"),
        ("modes: [nonlinear, attention_qkvo]", "has no patterns for vision"),
        ("language: {finetune: {warmup_steps: 3000}}", "language.finetune.warmup_steps (3000)"),
        ("language: {finetune: {crop_scale: [1, 1]}}", "Unknown key 'crop_scale' under language"),
        ("language: {alphas: {}}", "Unknown key 'alphas' under language"),
        ("encoders: []", "names tasks but no encoder for them"),
        ("{encoders: [], tasks: [], language: null}", "The configuration names no encoder"),
    ],
)
def test_a_mistake_gets_one_clear_sentence(text, sentence):
    assert sentence in complaint(text)


@pytest.mark.parametrize(
    "key", ["run", "tasks", "finetune", "negation", "disentanglement", "alphas"]
)
def test_a_missing_key_is_named(key):
    config = configuration()
    del config[key]
    with pytest.raises(UserError, match=f"^{key} is missing in the configuration; add it.$"):
        validate_config(config)


def test_defaults_are_filled_in():
    config = configuration()
    for key in ("ablations", "seeds", "limit", "device"):
        del config[key]
    config = validate_config(config)
    assert (config.ablations, config.seeds, config.limit) == ([], [0], None)
    assert config.device == "auto"


def test_values_from_the_command_line_are_read_as_in_a_file():
    given = {"alphas": {"start": "0.0", "step": "0.1"}, "seeds": ["0", "1"], "limit": "null"}
    assert typed(given) == {"alphas": {"start": 0.0, "step": 0.1}, "seeds": [0, 1], "limit": None}
    assert typed({"run": "mine", "tasks": ["mnist", "a: b"]}) == {
        "run": "mine",
        "tasks": ["mnist", "a: b"],
    }


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("run: a\nseeds: [1]\nrun: b\n", "has `run` twice, in line 1 and in line 3"),
        ("x:\n- y:\n    z: 1\n    'z': 2\n", "has `z` twice, in line 3 and in line 4"),
        ("limit: {train: 1, train: 1}", "has `train` twice, in line 1"),
        ("1: a\n1.0: b", "has `1.0` twice, in line 1 and in line 2"),
        ("yes: a\ntrue: b", "has `true` twice"),
        ("a: {? [x] : 1}", "is not valid YAML (line 1: found unhashable key)"),
    ],
)
def test_a_key_that_is_written_twice_is_a_mistake_at_any_depth(text, sentence, tmp_path):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        read_yaml(tmp_path / "a.yaml")
    assert sentence in str(caught.value) and str(tmp_path / "a.yaml") in str(caught.value)


def test_a_key_may_replace_that_of_a_merged_mapping(tmp_path):
    (tmp_path / "a.yaml").write_text("a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  x: 3\n")
    assert read_yaml(tmp_path / "a.yaml")["b"] == {"x": 3, "y": 2}


NAMES = ["a", "Blätter_2.0-x", "задача", "画像", "हिन्दी", "_x", "٣", "x" * 100, "é" * 50]
NO_NAMES = ["", "my task", "A&B", "tsk$HOME", "x;id", "a{b}", "..", ".a", "-a", "a/b", "a\n"]
NO_NAMES += ["x" * 101, "é" * 51, "a'b", 'a"b', "a\\b", "a*", "a|b", "~", "#a", "a:b", "½"]
NO_NAMES += ["\u0301a", "a\u200bb"]


@pytest.mark.parametrize("name", NAMES)
def test_names_have_letters_of_any_alphabet_digits_and_a_few_signs(name, project):
    """Of runs and, where there is such a definition, of tasks, encoders and modes."""
    for kind, like in (("tasks", "mnist"), ("encoders", "ViT-B-32"), ("modes", "attention")):
        content = (project / f"config/{kind}/{like}.yaml").read_text(encoding="utf-8")
        (project / f"config/{kind}/{name}.yaml").write_text(content, encoding="utf-8")
    overlay = {"run": name, "focus": name, "encoders": [name], "modes": ["nonlinear", name]}
    overlay |= {"tasks": ["dtd", "sun397", "cars", "resisc45", name], "language": None}
    config = merge(read_yaml(project / "config.yaml"), overlay)
    assert validate_config(config, project).focus == name


@pytest.mark.parametrize("name", NO_NAMES)
def test_other_names_are_refused_before_anything_is_looked_up(name):
    for key in ("run", "tasks", "encoders", "modes", "ablations", "control", "language"):
        value = name if key == "run" else [name]
        overlay = {key: value}
        if key == "control":
            overlay = {"negation": {"control": name}}
        if key == "language":
            overlay = {"language": {"tasks": [name]}}
        with pytest.raises(UserError, match="must be a name of letters, digits"):
            validate_config(merge(read_yaml(ROOT / "config.yaml"), overlay))


def test_a_name_is_the_same_however_its_accents_are_stored(project):
    """macOS takes them apart in names of files; `scratch` is no name but a path."""
    apart, whole = "bla\u0308tter", "bl\u00e4tter"
    content = (project / "config/tasks/mnist.yaml").read_text()
    (project / f"config/tasks/{apart}.yaml").write_text(content)
    for name in (apart, whole):
        overlay = {"tasks": ["dtd", "sun397", "cars", "resisc45", name], "scratch": apart}
        config = validate_config(merge(read_yaml(project / "config.yaml"), overlay), project)
        assert config.tasks[-1] == whole and whole in config.definitions.tasks
        assert config.scratch == apart


def test_a_file_that_is_missing_or_no_yaml_gets_one_clear_sentence(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        check(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("tasks: [mnist\nseeds: 3")
    with pytest.raises(UserError, match=r"broken.yaml is not valid YAML \(line 2"):
        check(broken)
    broken.write_text("- a list")
    with pytest.raises(UserError, match="must hold `key: value` lines; it holds a list"):
        check(broken)


# ---------------------------------------------------------------- mistakes in a definition


@pytest.mark.parametrize(
    "path, text, sentence",
    [
        ("tasks/mnist", "hub: a/b", "templates is missing in config/tasks/mnist.yaml"),
        ("tasks/mnist", "templates: ['{}']", "exactly one of hub, path and embedded; found none"),
        ("tasks/mnist", "{hub: a/b, embedded: c, templates: ['{}']}", "found hub and embedded"),
        (
            "tasks/mnist",
            "{hub: ab, templates: ['{}']}",
            "hub in config/tasks/mnist.yaml must be owner/name",
        ),
        ("tasks/mnist", "{hub: a/b, templates: []}", "must have at least 1 entries"),
        ("tasks/mnist", "{hub: a/b, templates: [a photo]}", "must have exactly one {}"),
        ("tasks/mnist", "{hub: a/b, templates: ['{} {}']}", "must have exactly one {}"),
        ("tasks/mnist", "{hub: a/b, templates: openclip}", "the word open_clip"),
        ("tasks/mnist", "{hub: a/b, template: ['{}']}", "did you mean 'templates'?"),
        (
            "tasks/mnist",
            "{hub: a/b, templates: ['{}'], classes: [a, a]}",
            "'a' and 'a' are the same",
        ),
        ("tasks/mnist", "{hub: a/b, templates: ['{}'], classes: [1, 2]}", "classes[0] in config"),
        ("encoders/ViT-B-32", "path: 'my {encoder}'", "has a brace"),
        ("tasks/mnist", "{path: a, templates: ['{}'], test: 1.5}", "must be below 1; found 1.5."),
        ("tasks/mnist", "{path: '', templates: ['{}']}", "must not be empty; give a text."),
        ("tasks/mnist", "{path: null, templates: ['{}']}", "a text; found nothing (null)."),
        (
            "tasks/mnist",
            "{hub: a/b, templates: ['{}'], levels: [0]}",
            "exactly 2 entries; found 1.",
        ),
        ("tasks/mnist", "{hub: a/b, templates: 3}", "must be a list or a text; found 3."),
        ("tasks/mnist", "{hub: a/b, templates: ['{}'], source_classes: all}", "or the word any; f"),
        (
            "tasks/cola",
            "{hub: a/b, texts: ['{a}'], metric: spearman, prompts: {}}",
            "have no brace",
        ),
        ("tasks/mnist", "{path: nowhere, templates: ['{}']}", "where nothing is"),
        (
            "tasks/mnist",
            "{embedded: a, config: b, templates: ['{}']}",
            "belongs to a hub's dataset",
        ),
        ("encoders/ViT-B-32", "model: ViT-B-32", "either path, or both model and pretrained"),
        ("encoders/ViT-B-32", "paper_encoder: ViT-B-32", "found neither"),
        ("encoders/ViT-B-32", "path: nowhere", "nowhere, which is not a folder"),
        ("encoders/ViT-B-32", "path: config", "holds no open_clip_config.json"),
        ("modes/attention", "{label: a, train: [], linearized: false}", "at least 1 entries"),
        ("modes/attention", "{label: a, train: '*', linearized: false}", "must be a list"),
        (
            "modes/attention",
            "{label: a, train: ['*'], linearized: 0}",
            "must be true or false; found 0",
        ),
        ("modes/attention", "{train: ['*'], linearized: false}", "label is missing"),
    ],
)
def test_a_mistake_in_a_definition_gets_one_clear_sentence(project, path, text, sentence):
    (project / f"config/{path}.yaml").write_text(text)
    assert sentence in complaint("", basedir=project)


def test_a_mode_cannot_take_the_name_of_another_row(project):
    definition = "{label: a, train: ['*'], linearized: false}"
    (project / "config/modes/posthoc.yaml").write_text(definition)
    assert "cannot be called 'posthoc'" in complaint("ablations: [posthoc]", basedir=project)


def test_a_mode_that_would_train_nothing_is_refused_before_anything_runs(project):
    """The published code trains nothing in its own mode, silently."""
    definition = "{label: a, train: ['*.attn.in_proj_weigth'], linearized: false}"
    (project / "config/modes/typo.yaml").write_text(definition)
    sentence = complaint("ablations: [typo]", basedir=project)
    assert "Mode typo: the pattern '*.attn.in_proj_weigth' matches no tensor" in sentence


def test_an_encoder_of_more_pixels_than_are_stored_is_refused(project):
    text = "{model: ViT-L-14-336-quickgelu, pretrained: openai}"
    (project / "config/encoders/large.yaml").write_text(text)
    sentence = complaint("encoders: [ViT-B-32, large]", basedir=project)
    assert "Encoder large reads images of 336 pixels, but they are stored at 224" in sentence


def test_an_encoder_that_open_clip_does_not_know_is_refused_before_anything_runs(project):
    (project / "config/encoders/odd.yaml").write_text("{model: ViT-B-33, pretrained: openai}")
    sentence = complaint("encoders: [ViT-B-32, odd]", basedir=project)
    assert "open_clip has no model 'ViT-B-33' (did you mean 'ViT-B-32'" in sentence


# ---------------------------------------------------------------- alpha grid and slices


def test_the_alpha_grid_is_written_as_people_write_it():
    grid = alpha_grid(0.0, 1.0, 0.05)
    assert grid == [float(f"{i / 20:.2f}") for i in range(21)]
    assert 0.15 in grid and 0.3 in grid and 0.7 in grid
    assert alpha_grid(0.1, 0.3, 0.1) == [0.1, 0.2, 0.3]
    assert alpha_grid(0, 1, 1) == [0.0, 1.0]
    assert len(alpha_grid(0, 2, 0.01)) == 201


SLICES = {
    "data": lambda config: data_settings(config.definitions.tasks["mnist"]),
    "head": lambda config: head_settings(config.definitions.tasks["mnist"], None),
    "finetune": lambda config: finetune_settings(config, "attention", "ViT-B-32", "dtd"),
    "addition": lambda config: addition_settings(config, "attention", "ViT-B-32"),
    "negation": lambda config: negation_settings(config, "attention", "ViT-B-32"),
    "views": view_settings,
}


@pytest.mark.parametrize(
    "text, changed",
    [
        ("finetune: {steps: 3000}", {"finetune"}),
        ("alphas: {step: 0.1}", {"addition", "negation"}),
        ("negation: {keep: 0.9}", {"negation", "views"}),
        ("limit: {train: 5, validation: 5, test: 5}", {"finetune", "addition", "negation"}),
        ("seeds: [0, 1]", {"views"}),
        ("run: other", {"views"}),
        ("device: cpu", set()),
        ("efficiency: {steps: 3}", set()),
    ],
)
def test_a_stage_sees_only_what_its_result_depends_on(text, changed):
    before, after = validate_config(configuration()), validate_config(configuration(text))
    assert {
        name for name, slice_of in SLICES.items() if slice_of(before) != slice_of(after)
    } == changed


def test_templates_change_the_head_and_not_the_data(project):
    before = validate_config(configuration(), project)
    path = project / "config/tasks/mnist.yaml"
    path.write_text(path.read_text().replace("a photo of", "a picture of"))
    after = validate_config(configuration(), project)
    assert {name for name, slice_of in SLICES.items() if slice_of(before) != slice_of(after)} == {
        "head"
    }


def test_slices_are_canonical_json():
    config = validate_config(configuration())
    text = finetune_settings(config, "ntk", "ViT-L-14", "dtd")
    content = json.loads(text)
    assert text == json.dumps(content, sort_keys=True, separators=(",", ":"))
    assert content["mode"] == {"train": ["*"], "linearized": True}
    assert content["micro_batch"] == 64 and content["finetune"]["learning_rate"] == 1e-5


def test_numbers_are_in_the_slices_as_they_are_written():
    config = validate_config(configuration("alphas: {start: 0, step: 0.5}\nnegation: {keep: 1}"))
    text = negation_settings(config, "ntk", "ViT-B-32")
    assert '"alphas":{"start":0,"step":0.5,"stop":1.0}' in text and '"keep":1,' in text


def test_an_experiment_is_frozen():
    config = validate_config(configuration("language: null"))
    for what, name in ((config, "run"), (config.alphas, "step"), (config.part("vision"), "tasks")):
        with pytest.raises((ValidationError, FrozenInstanceError)):
            setattr(what, name, None)
    assert config.part("language").models == [] and config.part("language").unit == "text"


def test_views_keep_the_order_of_the_configuration():
    config = validate_config(configuration())
    assert list(json.loads(view_settings(config))["encoders"]) == config.encoders


def test_the_shown_configuration_reads_back_as_the_same():
    config = validate_config(configuration())
    assert yaml.safe_load(as_yaml(config)) == config.given() == configuration()


@pytest.mark.parametrize("change", ["a file more", "a file less", "other content", "a new class"])
def test_what_changes_deep_in_a_users_folder_changes_the_data_stage(project, tmp_path, change):
    folder = tmp_path / "balls"
    for split in ("train", "test"):
        (folder / split / "red").mkdir(parents=True)
        (folder / split / "red/1.png").write_text("a picture")
    text = f"{{path: {folder}, templates: ['a {{}}.']}}"
    (project / "config/tasks/balls.yaml").write_text(text)
    config = configuration("tasks: [cars, dtd, sun397, resisc45, balls]")

    def found():
        experiment = validate_config(config, basedir=project)
        return data_settings(experiment.definitions.tasks["balls"])

    before = found()
    assert before == found()
    if change == "a file more":
        (folder / "train/red/2.png").write_text("another")
    elif change == "a file less":
        (folder / "test/red/1.png").unlink()
    elif change == "other content":
        (folder / "train/red/1.png").write_text("a pictur")
    else:
        (folder / "train/blue").mkdir()
        (folder / "train/blue/1.png").write_text("blue")
    assert found() != before


def test_the_check_says_what_local_folders_hold_and_which_are_the_same(project, capsys):
    for task in ("one", "two"):
        text = "path: mine\ntemplates: ['a {}.']\n"
        (project / f"config/tasks/{task}.yaml").write_text(text)
    pairs = "{fig6: [one, two], fig8: [two, one]}"
    overlay = f"tasks: [mnist, one, two]\nlanguage: null\ndisentanglement: {{pairs: {pairs}}}\n"
    (project / "mine.yaml").write_text(overlay)
    (project / "mine").mkdir()
    with pytest.raises(UserError, match="has no split 'train' .it is empty"):
        check(project / "mine.yaml", basedir=project)
    for split, name in product(("train", "test"), ("a", "b")):
        path = project / "mine" / split / name / "1.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"")
    (project / "mine" / "val").mkdir()
    check(project / "mine.yaml", basedir=project)
    text = capsys.readouterr().out
    says = "train 2 images of 2 classes, test 2 images of 2 classes; not read: val/"
    assert f"one: {says}\n" in text and "one and two read the same data\n" in text


def test_weights_for_another_activation_are_named_by_the_check(project):
    (project / "config/encoders/plain.yaml").write_text("{model: ViT-B-32, pretrained: openai}")
    (project / "mine.yaml").write_text("{encoders: [plain], focus: plain, ablations: []}")
    with pytest.raises(UserError, match="use model: ViT-B-32-quickgelu"):
        check(project / "mine.yaml", basedir=project)


# --- Texts ---------------------------------------------------------------------------------------


def test_a_run_may_be_of_images_of_texts_or_of_both():
    both = validate_config(configuration())
    assert list(both.parts) == ["vision", "language"]
    assert list(validate_config(configuration("language: null")).parts) == ["vision"]
    texts = validate_config(configuration("{tasks: [], encoders: []}"))
    assert list(texts.parts) == ["language"] and set(texts.definitions.tasks) == GLUE
    assert texts.parts["language"].focus == "t5-base"


GLUE = {"cola", "mnli", "mrpc", "qqp", "rte", "sst2", "stsb"}


def test_a_mode_has_the_patterns_of_each_modality():
    config = validate_config(configuration())
    assert config.patterns("attention", "t5-base") == ["*Attention.[qkv].weight"]
    assert config.patterns("attention", "ViT-B-32")[0] == "*.attn.in_proj_weight"
    assert config.patterns("ntk", "t5-base") == ["*"]


OF_TEXTS = {
    "data": lambda config: data_settings(config.definitions.tasks["cola"]),
    "encoder": lambda config: encoder_settings(config.definitions.encoders["t5-base"]),
    "head": lambda config: head_settings(config.definitions.tasks["cola"], "peta"),
    "finetune": lambda config: finetune_settings(config, "attention", "t5-base", "cola"),
    "addition": lambda config: addition_settings(config, "attention", "t5-base"),
    "views": view_settings,
}


@pytest.mark.parametrize(
    "text, changed",
    [
        ("language: {finetune: {steps: 30}}", {"finetune"}),
        ("finetune: {steps: 3000}", set()),  # of images
        ("language: {reference_selection: true}", {"addition", "views"}),
        ("alphas: {step: 0.1}", {"addition"}),
        ("limit: {train: 5, validation: 5, test: 5}", {"finetune", "addition"}),
        ("negation: {keep: 0.9}", {"views"}),
    ],
)
def test_a_stage_on_texts_sees_only_what_its_result_depends_on(text, changed):
    before, after = validate_config(configuration()), validate_config(configuration(text))
    assert {k for k, slice_of in OF_TEXTS.items() if slice_of(before) != slice_of(after)} == changed
    if "language" in text:
        assert all(slice_of(before) == slice_of(after) for slice_of in NOT_VIEWS)


NOT_VIEWS = [slice_of for name, slice_of in SLICES.items() if name != "views"]


@pytest.mark.parametrize(
    "old, new, changed",
    [
        ("cola sentence:", "cola:", {"head"}),
        ("labels: [unacceptable, acceptable]", "labels: [bad, good]", {"head"}),
        ("input: 512", "input: 99", {"head"}),
        ("test: validation", "test: dev", {"data"}),
    ],
)
def test_a_prompt_changes_the_tokens_and_not_the_data(project, old, new, changed):
    before = validate_config(configuration(), project)
    path = project / "config/tasks/cola.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    after = validate_config(configuration(), project)
    assert {k for k, slice_of in OF_TEXTS.items() if slice_of(before) != slice_of(after)} == changed


def test_a_prompt_set_that_a_task_has_not_is_one_sentence(project):
    path = project / "config/encoders/t5-base.yaml"
    path.write_text(path.read_text().replace("prompts: peta", "prompts: petta"))
    with pytest.raises(UserError, match="no prompt set 'petta', which encoder t5-base asks for"):
        validate_config(configuration(), project)


def test_two_tasks_in_one_column_of_table_3_are_refused(project):
    text = (project / "config/tasks/mrpc.yaml").read_text()
    (project / "config/tasks/mrpc2.yaml").write_text(text)
    with pytest.raises(UserError, match="stand in the column mrpc of Table 3"):
        validate_config(configuration("language: {tasks: [mrpc, mrpc2]}"), project)
