"""The paper's tasks as defined in config/tasks: counts, class names in label order, templates.

The anchors are written down from the datasets' own cards and from the CLIP benchmark's prompts,
independently of the definitions.
"""

import importlib.util
import json
from itertools import product

import pytest

from task_arithmetic.config.reading import ROOT, load_definition, read_yaml
from task_arithmetic.config.summary import SCHEMAS, schema, schema_text

# task → train, validation and test images, classes, templates, the hub's dataset
PROTOCOL = {
    "cars": (7330, 814, 8041, 196, 8, "tanganke/stanford_cars"),
    "dtd": (3384, 376, 1880, 47, 8, "tanganke/dtd"),
    "eurosat": (18900, 2700, 2700, 10, 3, "tanganke/eurosat"),
    "gtsrb": (23976, 2664, 12630, 43, 3, "tanganke/gtsrb"),
    "mnist": (55000, 5000, 10000, 10, 1, "ylecun/mnist"),
    "resisc45": (17010, 1890, 6300, 45, 18, "tanganke/resisc45"),
    "sun397": (17865, 1985, 19850, 397, 2, "tanganke/sun397"),
    "svhn": (68257, 5000, 26032, 10, 1, "ufldl-stanford/svhn"),
}
ANCHORS = {  # task → label → name
    "cars": {
        0: "AM General Hummer SUV 2000", 5: "Acura Integra Type R 2001", 33: "BMW M3 Coupe 2012",
        38: "Bentley Continental Supersports Conv. Convertible 2012",
        44: "Bugatti Veyron 16.4 Convertible 2009", 194: "Volvo XC90 SUV 2007",
        195: "smart fortwo Convertible 2012",
    },
    "dtd": {0: "banded", 5: "chequered", 30: "polka-dotted", 33: "scaly", 46: "zigzagged"},
    "eurosat": {
        0: "annual crop land", 2: "brushland or shrubland", 3: "highway or road",
        6: "permanent crop land", 7: "residential buildings or homes or apartments",
        9: "lake or sea",
    },
    "gtsrb": {  # the numbers are the ClassIds of the benchmark
        0: "red and white circle 20 kph speed limit", 1: "red and white circle 30 kph speed limit",
        12: "white and yellow diamond priority road", 14: "stop",
        17: "red circle with white horizonal stripe no entry",
        25: "red and white triangle with person digging / construction / road work warning",
        33: "blue circle with white right turn arrow mandatory",
        38: "blue circle with white keep right arrow mandatory",
        42: "white circle with gray strike bar indicating no passing for trucks has ended",
    },
    "resisc45": {0: "airplane", 6: "chaparral", 24: "mobile home park", 35: "sea ice",
                 37: "snowberg", 44: "wetland"},
    "sun397": {0: "abbey", 1: "airplane cabin", 24: "badlands", 34: "bar", 36: "barndoor",
               396: "youth hostel"},
}  # fmt: skip


@pytest.fixture(params=list(PROTOCOL))
def task(request):
    return request.param


def define(task):
    return load_definition("tasks", task, "tasks")


def test_counts_are_those_of_the_protocol(task):
    definition = define(task)
    train, validation, test, classes, templates, hub = PROTOCOL[task]
    expected = {"train": train, "validation": validation, "test": test, "classes": classes}
    assert definition.expected.given() == expected
    assert (len(definition.classes), len(definition.templates)) == (classes, templates)
    assert definition.hub == hub
    held = definition.validation or min((train + validation) // 10, 5000)
    assert held == validation  # so that what is left is what is expected


def test_only_svhn_names_a_config_of_its_dataset(task):
    assert define(task).config == ("cropped_digits" if task == "svhn" else None)


def test_class_names_are_distinct_words_for_a_text_tower(task):
    classes = define(task).classes
    assert len({name.lower() for name in classes}) == len(classes)
    for name in classes:
        assert isinstance(name, str) and " ".join(name.split()) == name and "_" not in name


@pytest.mark.parametrize("task", ANCHORS)
def test_class_names_stand_in_label_order(task):
    classes = define(task).classes
    assert {label: classes[label] for label in ANCHORS[task]} == ANCHORS[task]


@pytest.mark.parametrize("task", ["dtd", "resisc45", "sun397"])
def test_labels_of_folders_are_in_the_folders_order(task):
    folders = [name.replace(" ", "_") for name in define(task).classes]
    assert folders == sorted(folders)


@pytest.mark.parametrize("task", ["mnist", "svhn"])
def test_digits_are_their_own_names(task):
    definition = define(task)
    assert definition.classes == list("0123456789")
    assert definition.templates == ['a photo of the number: "{}".']


def test_cars_are_named_with_their_year():
    assert all(1990 < int(name.split()[-1]) < 2013 for name in define("cars").classes)


def test_templates_are_those_of_the_clip_benchmark():
    satellite = product(["", "a ", "the "], ["imagery", "photo", "view"], ["satellite", "aerial"])
    wanted = {
        "cars": ["a photo of a {}.", "a photo of the {}.", "a photo of my {}.", "i love my {}!"]
        + [f"a photo of my {kind} {{}}." for kind in ("dirty", "clean", "new", "old")],
        "dtd": [
            f"a photo of {article} {{}} {thing}."
            for article, thing in product(["a", "the"], ["texture", "pattern", "thing", "object"])
        ],
        "eurosat": [f"a centered satellite photo of {word}{{}}." for word in ("", "a ", "the ")],
        "gtsrb": [
            f'a {view} photo of a "{{}}" traffic sign.'
            for view in ("zoomed in", "centered", "close up")
        ],
        "resisc45": [f"{kind} {what} of {article}{{}}." for article, what, kind in satellite],
        "sun397": ["a photo of a {}.", "a photo of the {}."],
    }
    for task, templates in wanted.items():
        assert define(task).templates == templates, task


def test_imagenet_is_evaluated_only_under_the_names_and_templates_of_open_clip():
    definition = define("imagenet")
    assert (definition.hub, definition.test) == ("ILSVRC/imagenet-1k", "validation")
    assert definition.train is None and definition.validation == 5000
    assert definition.expected.given() == {
        "train": 0, "validation": 5000, "test": 45000, "classes": 1000
    }  # fmt: skip
    assert definition.classes == definition.templates == "open_clip"
    assert definition.source_classes == "any"  # WordNet's names, in the same order
    package = importlib.util.find_spec("open_clip").submodule_search_locations[0]
    spec = importlib.util.spec_from_file_location("names", f"{package}/zero_shot_metadata.py")
    names = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(names)  # not the package, which takes seconds to import
    assert (len(names.IMAGENET_CLASSNAMES), len(names.OPENAI_IMAGENET_TEMPLATES)) == (1000, 80)
    anchors = {0: "tench", 1: "goldfish", 207: "Golden Retriever", 999: "toilet paper"}
    assert {i: names.IMAGENET_CLASSNAMES[i] for i in anchors} == anchors


# --- Schemas for editors -------------------------------------------------------------------------


@pytest.mark.parametrize("of", SCHEMAS)
def test_the_kept_schema_is_what_the_command_prints(of, capsys):
    schema(None if of == "configuration" else of)
    assert capsys.readouterr().out == (ROOT / f"config/schemas/{of}.json").read_text()


@pytest.mark.parametrize("of", SCHEMAS)
def test_shipped_files_name_a_schema_that_they_fit(of):
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(json.loads(schema_text(of)))
    files = (ROOT / "config").glob("*.yaml" if of == "configuration" else f"{of}/*.yaml")
    for path in [*files, *([ROOT / "config.yaml"] if of == "configuration" else [])]:
        first = path.read_text().splitlines()[0]
        assert (path.parent / first.partition("$schema=")[2]).resolve() == (
            ROOT / f"config/schemas/{of}.json"
        )
        validator.validate(read_yaml(path))


def test_every_key_has_a_description():
    """But the titles of its sections, which stand at their definitions."""
    for of in SCHEMAS:
        content = json.loads(schema_text(of))
        for form in [content, *content.get("$defs", {}).values()]:
            for name, known in form.get("properties", {}).items():
                assert known["description"], (of, name)
