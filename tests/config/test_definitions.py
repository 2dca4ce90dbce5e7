"""The tasks of the published suites as defined in config/tasks: counts, class names in label order,
templates.

The anchors are written down from the datasets' own cards and from the CLIP benchmark's prompts,
independently of the definitions.
"""

import importlib.util
import json
from itertools import product

import pytest
import torchvision.datasets as torchvision_datasets

from task_arithmetic.config.published import SUITES
from task_arithmetic.config.reading import ROOT, load_definition, read_config, read_yaml
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
    "stl10": (4500, 500, 8000, 10, 2, "tanganke/stl10"),
    "oxford_pets": (3312, 368, 3669, 37, 1, "timm/oxford-iiit-pet"),
    "flowers102": (1020, 1020, 6149, 102, 1, "dpdl-benchmark/oxford_flowers102"),
    "cifar100": (45000, 5000, 10000, 100, 18, "tanganke/cifar100"),
    "pcam": (262144, 32768, 32768, 2, 1, "1aurent/PatchCamelyon"),
    "fer2013": (25839, 2870, 7178, 7, 6, "clip-benchmark/wds_fer2013"),
    "cifar10": (45000, 5000, 10000, 10, 18, "tanganke/cifar10"),
    "food101": (70750, 5000, 25250, 101, 1, "ethz/food101"),
    "fashion_mnist": (55000, 5000, 10000, 10, 2, "zalando-datasets/fashion_mnist"),
    "rendered_sst2": (6920, 872, 1821, 2, 1, "nateraw/rendered-sst2"),
    "emnist_digits": (235000, 5000, 40000, 10, 1, "ernestchu/emnist-digits"),
    "emnist_letters": (119800, 5000, 20800, 26, 1, "tanganke/emnist_letters"),
    "kmnist": (55000, 5000, 10000, 10, 1, "tanganke/kmnist"),
}
OWN_VALIDATION = {"flowers102": "validation", "pcam": "valid", "rendered_sst2": "validation"}
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
    "oxford_pets": {0: "Abyssinian", 1: "American Bulldog", 12: "English Cocker Spaniel",
                    27: "Russian Blue", 36: "Yorkshire Terrier"},
    "flowers102": {0: "pink primrose", 11: "colt's foot", 46: "marigold", 73: "rose",
                   77: "lotus", 101: "blackberry lily"},
    "cifar100": {0: "apple", 26: "crab", 52: "oak tree", 71: "sea", 99: "worm"},
    "cifar10": {1: "automobile", 6: "frog", 9: "truck"},
    "stl10": {1: "bird", 2: "car", 7: "monkey"},
    "fer2013": {0: "angry", 4: "neutral", 6: "surprised"},
    "food101": {0: "apple pie", 29: "cup cakes", 55: "hot dog", 100: "waffles"},
    "fashion_mnist": {0: "T-shirt/top", 6: "Shirt", 7: "Sneaker", 9: "Ankle boot"},
    "kmnist": {0: "o", 3: "tsu", 9: "wo"},
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
    if task in OWN_VALIDATION:
        assert definition.validation == OWN_VALIDATION[task]
        return
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


ALPHABETICAL = ["dtd", "resisc45", "sun397", "cifar100", "oxford_pets", "fer2013"]


@pytest.mark.parametrize("task", ALPHABETICAL)
def test_labels_of_folders_are_in_the_folders_order(task):
    folders = [name.replace(" ", "_").lower() for name in define(task).classes]
    assert folders == sorted(folders)


@pytest.mark.parametrize("task", ["mnist", "svhn", "emnist_digits"])
def test_digits_are_their_own_names(task):
    definition, of_emnist = define(task), task == "emnist_digits"
    assert definition.classes == list("0123456789")
    noun = "digit character" if of_emnist else "number"
    assert definition.templates == [f'a photo of the {noun}: "{{}}".']


def test_names_that_torchvision_knows_are_its_own():
    """Labels are the same there; where the text tower reads another name, the dataset's own is its
    source."""
    for task, known in (("fashion_mnist", "FashionMNIST"), ("kmnist", "KMNIST")):
        assert define(task).classes == getattr(torchvision_datasets, known).classes
    flowers = define("flowers102")
    assert flowers.source_classes == torchvision_datasets.Flowers102.classes
    pairs = zip(flowers.classes, flowers.source_classes, strict=True)
    assert {ours: theirs for ours, theirs in pairs if ours != theirs} == {
        "globe flower": "globe-flower", "pink and yellow dahlia": "pink-yellow dahlia?",
        "air plant": "ball moss",
    }  # fmt: skip
    cifar = define("cifar100")
    assert {*zip(cifar.classes, cifar.source_classes, strict=True)} - {
        (name, name) for name in cifar.classes
    } == {("crab", "cra")}


def test_a_suite_is_config_yaml_with_other_tasks():
    for name, suite in (("clip8", "paper"), ("clip14", "clip14"), ("clip20", "clip20")):
        overlay = read_yaml(ROOT / f"config/suites/{name}.yaml")
        assert {*overlay} - {"suite"} == {"run", "tasks", "language"}
        experiment = read_config(ROOT / f"config/suites/{name}.yaml")
        assert (experiment.run, experiment.suite) == (name, suite)
        assert experiment.tasks == SUITES[suite] and list(experiment.parts) == ["vision"]
        assert len(experiment.tasks) == int(name.removeprefix("clip"))


def test_cars_are_named_with_their_year():
    assert all(1990 < int(name.split()[-1]) < 2013 for name in define("cars").classes)


QUALITIES = ["blurry", "black and white", "low contrast", "high contrast", "bad", "good"]
TWO = ["a photo of a {}.", "a photo of the {}."]


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
        **dict.fromkeys(["sun397", "stl10", "fashion_mnist"], TWO),
        **dict.fromkeys(["cifar10", "cifar100"], [
            f"a {kind}photo of {article} {size}{{}}."
            for article in ("a", "the")
            for kind, size in [("", ""), *((f"{each} ", "") for each in QUALITIES),
                               ("", "small "), ("", "big ")]
        ]),
        "oxford_pets": ["a photo of a {}, a type of pet."],
        "flowers102": ["a photo of a {}, a type of flower."],
        "food101": ["a photo of {}, a type of food."],
        "pcam": ["this is a photo of {}"],
        "rendered_sst2": ["a {} review of a movie."],
        "kmnist": ["a photo of the character {}."],
        "emnist_letters": ['a photo of the digit character: "{}".'],
    }  # fmt: skip
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
    files = [*(ROOT / "config").glob("*.yaml" if of == "configuration" else f"{of}/*.yaml")]
    if of == "configuration":
        files += [ROOT / "config.yaml", *(ROOT / "config/suites").glob("*.yaml")]
    for path in files:
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
