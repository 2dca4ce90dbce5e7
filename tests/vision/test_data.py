"""The data stage: what it keeps, where it draws the line between splits, what it refuses."""

import json
import shutil
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import datasets
import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from torchvision import transforms

from task_arithmetic.errors import UserError
from task_arithmetic.files.definition import Definition
from task_arithmetic.files.hashes import sha256_of
from task_arithmetic.files.labels import class_names
from task_arithmetic.files.manifest import read_manifest, sample_indices
from task_arithmetic.files.paths import read_json
from task_arithmetic.files.source import hold_out
from task_arithmetic.vision import prepare as module
from task_arithmetic.vision.images import RESOLUTION, TRAIN_SIDE, read_split
from task_arithmetic.vision.prepare import write_task

CLASSES = ["circle", "square", "star"]
COUNTS = {"train": 40, "test": 12}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """`datasets` keeps its cache within the test."""
    for name in ("HF_DATASETS_CACHE", "HF_CACHE_HOME"):
        monkeypatch.setattr(datasets.config, name, tmp_path / "cache")


def pictures(count, seed, size=(8, 8)):
    generator = np.random.default_rng(seed)
    width, height = size
    return [
        Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for _ in range(count)
    ]


def labels(count):
    return [i % len(CLASSES) for i in range(count)]


def split(images, marks, image="image", label="label", names=CLASSES):
    """A labelled dataset as a hub gives it."""
    feature = datasets.ClassLabel(names=names) if names else datasets.Value("int64")
    features = datasets.Features({image: datasets.Image(), label: feature})
    return datasets.Dataset.from_dict({image: images, label: marks}, features=features)


def source(folder, counts=COUNTS, **columns):
    """A saved dataset of noise, one split for each of `counts`."""
    splits = {
        name: split(pictures(count, seed), labels(count), **columns)
        for seed, (name, count) in enumerate(counts.items())
    }
    datasets.DatasetDict(splits).save_to_disk(folder)
    return str(folder)


def images_of(folder, split, limit=None):
    """Images (N, H, W, 3) and labels of a split whose images are of one size."""
    images, marks = read_split(folder, split, limit)
    return images.take(np.arange(len(images)))[0] if split == "train" else images, marks


def written(tmp_path, **definition):
    write_task("mine", definition, tmp_path / "data")
    return tmp_path / "data"


# --- What the stage keeps ------------------------------------------------------------------------


def test_every_image_is_in_exactly_one_split_with_its_label(tmp_path):
    folder = written(tmp_path, path=source(tmp_path / "source"), validation=7)
    parts = {name: images_of(folder, name) for name in ("train", "validation", "test")}
    assert {k: len(v[0]) for k, v in parts.items()} == {"train": 33, "validation": 7, "test": 12}
    expected = {
        np.asarray(p).tobytes(): y for p, y in zip(pictures(40, 0), labels(40), strict=True)
    }
    kept = [
        (image.tobytes(), label)
        for name in ("train", "validation")
        for image, label in zip(*parts[name], strict=True)
    ]
    assert len(kept) == 40 and dict(kept) == expected
    assert np.array_equal(parts["test"][0], np.stack([np.asarray(p) for p in pictures(12, 1)]))
    assert parts["test"][1].tolist() == labels(12)
    assert parts["train"][0].dtype == np.uint8 and parts["train"][1].dtype == np.int64


def test_the_validation_images_are_those_of_the_recorded_draw(tmp_path):
    folder = written(tmp_path, path=source(tmp_path / "source"), validation=7)
    kept, held = hold_out(40, 7, labels(40))
    images = np.stack([np.asarray(p) for p in pictures(40, 0)])
    assert np.array_equal(read_split(folder, "validation")[0], images[held])
    assert np.array_equal(images_of(folder, "train")[0], images[kept])
    manifest = read_manifest(folder)
    assert manifest.validation_indices_sha256 == sha256_of(held.tolist())


def test_the_manifest_says_what_the_task_is(tmp_path):
    path = source(tmp_path / "source")
    manifest = read_manifest(written(tmp_path, path=path))
    assert manifest.task == "mine" and manifest.classes == CLASSES
    assert manifest.definition == {"path": path}
    assert manifest.counts == {"train": 36, "validation": 4, "test": 12}
    assert manifest.repeated_within_split == {"train": 0, "validation": 0, "test": 0}
    assert set(manifest.shared_between_splits.values()) == {0}


def test_making_a_task_again_gives_the_same_files(tmp_path):
    path = source(tmp_path / "source")
    for name in ("one", "two"):
        write_task("mine", {"path": path}, tmp_path / name)
    names = sorted(p.name for p in (tmp_path / "one").iterdir())
    assert len(names) == 11
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize("what", ["a pixel", "a label", "a class name"])
def test_the_data_hash_changes_with_any_part_of_the_data(tmp_path, what):
    images, marks, names = pictures(40, 0), labels(40), list(CLASSES)
    if what == "a pixel":
        images[3].putpixel((2, 1), (0, 0, 0))
    elif what == "a label":
        marks[3] = (marks[3] + 1) % 3
    else:
        names[1] = "rectangle"
    hashes = []
    for i, train in enumerate(
        [split(pictures(40, 0), labels(40)), split(images, marks, names=names)]
    ):
        test = split(pictures(12, 1), labels(12), names=names if i else CLASSES)
        datasets.DatasetDict(train=train, test=test).save_to_disk(tmp_path / f"source{i}")
        write_task("mine", {"path": str(tmp_path / f"source{i}")}, tmp_path / f"data{i}")
        hashes.append(read_manifest(tmp_path / f"data{i}").data_sha256)
    assert hashes[0] != hashes[1]


def test_other_column_and_split_names_are_configuration(tmp_path):
    counts = {"training": 20, "valid": 8, "held_out": 12}
    path = source(tmp_path / "source", counts, image="picture", label="species")
    definition = {"image": "picture", "label": "species", "train": "training", "test": "held_out"}
    manifest = read_manifest(written(tmp_path, path=path, **definition))
    assert manifest.counts == {"train": 18, "validation": 2, "test": 12}


def test_classes_of_the_definition_replace_the_datasets(tmp_path):
    path = source(tmp_path / "source")
    names = ["a round thing", "a box", "a sun"]
    definition = {"path": path, "classes": names, "source_classes": CLASSES}
    manifest = read_manifest(written(tmp_path, **definition))
    assert manifest.classes == names and manifest.source_classes == CLASSES
    write_task(
        "plain", {"path": source(tmp_path / "b", names=None), "classes": names}, tmp_path / "c"
    )
    assert read_manifest(tmp_path / "c").classes == names


def test_imagenets_classes_are_open_clips_thousand(tmp_path):
    from open_clip import IMAGENET_CLASSNAMES

    path = source(tmp_path / "source", names=None)
    manifest = read_manifest(
        written(tmp_path, path=path, classes="open_clip", alike_classes="allow")
    )
    assert manifest.classes == list(IMAGENET_CLASSNAMES) and len(manifest.classes) == 1000


def test_a_task_without_training_images_draws_validation_from_test(tmp_path):
    """As the control task ImageNet, of which only one split is read."""
    path = source(tmp_path / "source", {"validation": 30})
    folder = written(tmp_path, path=path, train=None, test="validation", validation=6)
    manifest = read_manifest(folder)
    assert manifest.counts == {"train": 0, "validation": 6, "test": 24}
    images = np.stack([np.asarray(p) for p in pictures(30, 0)])
    kept, held = hold_out(30, 6, labels(30))
    assert np.array_equal(read_split(folder, "validation")[0], images[held])
    assert np.array_equal(read_split(folder, "test")[0], images[kept])
    with pytest.raises(UserError, match="has no labelled train images"):
        read_split(folder, "train")


def image_folder(root, kind="png"):
    for seed, (name, count) in enumerate(COUNTS.items()):
        marks = labels(count)
        for i, picture in enumerate(pictures(count, seed)):
            path = root / name / CLASSES[marks[i]] / f"{i:03}.{kind}"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
    return root


def test_a_folder_of_images_is_a_task(tmp_path):
    folder = written(tmp_path, path=str(image_folder(tmp_path / "images")))
    manifest = read_manifest(folder)
    assert manifest.classes == CLASSES
    assert manifest.counts == {"train": 36, "validation": 4, "test": 12}
    images, marks = read_split(folder, "test")
    by_content = {
        np.asarray(p).tobytes(): y for p, y in zip(pictures(12, 1), labels(12), strict=True)
    }
    assert {i.tobytes(): y for i, y in zip(images, marks, strict=True)} == by_content


# --- The split rule ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "count, held",  # protocol, section 2: the reference's own counts
    [(8144, 814), (3760, 376), (60_000, 5000), (18_900, 1890), (26_640, 2664), (73_257, 5000)],
)
def test_validation_is_a_tenth_of_train_and_at_most_5000(count, held):
    kept, chosen = hold_out(count)
    assert len(chosen) == held and len(kept) == count - held


@pytest.mark.parametrize("count, size", [(11, None), (1000, None), (24_300, 2700), (10, 9), (2, 1)])
def test_validation_and_train_are_disjoint_and_cover_everything(count, size):
    kept, held = hold_out(count, size)
    assert sorted([*kept, *held]) == list(range(count))
    assert (np.diff(kept) > 0).all() and (np.diff(held) > 0).all()


def test_the_split_has_the_sizes_of_the_references_and_is_drawn_otherwise():
    """The published code draws with torch's own permutation: of 60,000 images with seed 0 its train
    part starts at index 36044. Ours has as many, drawn by another generator."""
    generator = torch.Generator().manual_seed(0)
    theirs, held = torch.utils.data.random_split(range(60_000), [55_000, 5000], generator)
    assert theirs.indices[0] == 36044
    kept, chosen = hold_out(60_000)
    assert (len(kept), len(chosen)) == (len(theirs), len(held))
    permutation = np.random.Generator(np.random.PCG64(0)).permutation(60_000)
    assert set(chosen) == set(permutation[-5000:].tolist()) != set(held.indices)


def test_the_draw_of_validation_is_fixed():
    assert np.array_equal(hold_out(1000)[1], hold_out(1000)[1])
    assert not np.array_equal(hold_out(1000, seed=1)[1], hold_out(1000)[1])
    held = hold_out(10_000)[1]
    assert 4500 < held.mean() < 5500 and held.std() > 2500  # spread over the whole of train


@pytest.mark.parametrize("count, size", [(9, None), (10, 10), (10, 11), (10, 0), (10, -1)])
def test_a_validation_split_that_leaves_nothing_is_refused(count, size):
    with pytest.raises(UserError, match=f"of {count} rows"):
        hold_out(count, size)


# --- Images --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [8, 32, 64])
def test_small_square_images_are_stored_as_they_are(tmp_path, size):
    train, test = pictures(20, 0, (size, size)), pictures(3, 1, (size, size))
    dataset = datasets.DatasetDict(train=split(train, labels(20)), test=split(test, labels(3)))
    dataset.save_to_disk(tmp_path / "source")
    images, _ = read_split(written(tmp_path, path=str(tmp_path / "source")), "test")
    assert np.array_equal(images, np.stack([np.asarray(p) for p in test]))


CLIPS = transforms.Compose(
    [
        transforms.Resize(224, transforms.InterpolationMode.BICUBIC),
        transforms.CenterCrop(224),
    ]
)


@pytest.mark.parametrize(
    "sizes",
    [
        [(300, 240), (225, 224), (224, 500), (231, 347)],
        [(100, 301), (20, 20), (65, 64)],
        [(224, 224)] * 2,
        [(65, 65)] * 2,
        [(40, 32)] * 2,
    ],
    ids=["large", "mixed", "exact", "just large", "oblong"],
)
def test_other_images_are_resized_and_cropped_as_clip_does(tmp_path, sizes):
    test = [pictures(1, i, size)[0] for i, size in enumerate(sizes)]
    train = pictures(20, 99)
    dataset = datasets.DatasetDict(
        train=split(train, labels(20)), test=split(test, labels(len(test)))
    )
    dataset.save_to_disk(tmp_path / "source")
    definition = {"path": str(tmp_path / "source"), "missing_classes": "allow"}
    images, _ = read_split(written(tmp_path, **definition), "test")
    assert images.shape == (len(test), RESOLUTION, RESOLUTION, 3)
    for ours, picture in zip(images, test, strict=True):
        assert np.array_equal(ours, np.asarray(CLIPS(picture)))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_images_of_every_kind_become_rgb(tmp_path, mode):
    test = [p.convert(mode) for p in pictures(3, 1)]
    dataset = datasets.DatasetDict(
        train=split(pictures(20, 0), labels(20)), test=split(test, labels(3))
    )
    dataset.save_to_disk(tmp_path / "source")
    images, _ = read_split(written(tmp_path, path=str(tmp_path / "source")), "test")
    assert np.array_equal(images, np.stack([np.asarray(p.convert("RGB")) for p in test]))


# --- Bad input -----------------------------------------------------------------------------------


def no_split(folder):
    return {"path": source(folder, {"train": 20, "valid": 5})}, "no split 'test' .*train, valid"


def no_train_split(folder):
    return {"path": source(folder), "train": "training"}, "no split 'training'"


def no_image_column(folder):
    return {"path": source(folder, image="picture")}, "no column 'image' .*picture, label.*`image`"


def no_label_column(folder):
    return {"path": source(folder), "label": "species"}, "no column 'species' .*set `label`"


def empty_split(folder):
    return {"path": source(folder, {"train": 20, "test": 0})}, "split 'test' is empty"


def no_folder(folder):
    return {"path": str(folder)}, "there is nothing at .*source, its `path`"


def folder_without_images(folder):
    folder.mkdir()
    return {"path": str(folder)}, "no split 'train' .it is empty"


def damaged_dataset(folder):
    path = source(folder)
    for file in (folder / "train").glob("*.arrow"):
        file.write_bytes(file.read_bytes()[:500])
    return {"path": path}, "cannot be read"


def no_class_names(folder):
    return {"path": source(folder, names=None)}, "its labels have no names; list them as `classes`"


def too_few_classes(folder):
    return {"path": source(folder), "classes": ["a", "b"]}, "lists 2 classes, its dataset has 3"


def label_outside(folder):
    return {"path": source(folder, names=None), "classes": ["a", "b"]}, "label 2, outside its 2 cl"


def negative_label(folder):
    marks = [-1, *labels(11)]  # as hubs mark a test split whose labels are secret
    test = split(pictures(12, 1), marks)
    train = split(pictures(40, 0), labels(40))
    datasets.DatasetDict(train=train, test=test).save_to_disk(folder)
    return {"path": str(folder)}, "row 0 of the test images has label -1"


def fractional_label(folder):
    marks = [0.5, *map(float, labels(11))]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("float32")})
    rows = {"image": pictures(12, 1), "label": marks}
    test = datasets.Dataset.from_dict(rows, features=features)
    rows = {"image": pictures(40, 0), "label": [float(i) for i in labels(40)]}
    train = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict(train=train, test=test).save_to_disk(folder)
    return {"path": str(folder), "classes": CLASSES}, "not a label of whole numbers"


def missing_label(folder):
    test = split(pictures(12, 1), [None, *labels(11)])
    train = split(pictures(40, 0), labels(40))
    datasets.DatasetDict(train=train, test=test).save_to_disk(folder)
    return {"path": str(folder)}, "label"


def words_and_numbers(folder):
    numbers = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    words = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    rows = {"image": pictures(40, 0), "label": [CLASSES[i] for i in labels(40)]}
    train = datasets.Dataset.from_dict(rows, features=words)
    rows = {"image": pictures(12, 1), "label": labels(12)}
    test = datasets.Dataset.from_dict(rows, features=numbers)
    datasets.DatasetDict(train=train, test=test).save_to_disk(folder)
    return {"path": str(folder)}, "words in its train split and numbers in its test split"


def unreadable_image(folder):
    root = image_folder(folder)
    (root / "test" / "star" / "002.png").write_bytes(b"not a picture")
    return {"path": str(root)}, "one of its 52 images cannot be read: .*star/002.png of test"


def truncated_image(folder):
    root = image_folder(folder)
    path = root / "train" / "circle" / "000.png"
    path.write_bytes(path.read_bytes()[:-60])
    return {"path": str(root)}, "one of its 52 images cannot be read: .*circle/000.png of train"


def missing_image(folder):
    train = split([None, *pictures(39, 0)], labels(40))
    test = split(pictures(12, 1), labels(12))
    datasets.DatasetDict(train=train, test=test).save_to_disk(folder)
    return {"path": str(folder)}, "one of its 52 images cannot be read: row 0 of train .*empty"


def image_in_train_and_test(folder):
    train, test = pictures(40, 0), pictures(12, 1)
    test[5] = train[hold_out(40, None, labels(40))[0][9]]
    dataset = datasets.DatasetDict(train=split(train, labels(40)), test=split(test, labels(12)))
    dataset.save_to_disk(folder)
    return (
        {"path": str(folder)},
        "1 image in common.*shared_im.*row .* of train is .*row 5.* of test",
    )


def image_in_train_and_validation(folder):
    train = pictures(40, 0)
    kept, held = hold_out(40, None, labels(40))
    train[held[0]] = train[kept[0]]
    dataset = datasets.DatasetDict(
        train=split(train, labels(40)), test=split(pictures(12, 1), labels(12))
    )
    dataset.save_to_disk(folder)
    return {"path": str(folder)}, "train and validation have 1 image in common"


def other_counts(folder):
    expected = {"train": 36, "validation": 4, "test": 13}
    return {"path": source(folder), "expected": expected}, "12 test instead of the expected 13"


def other_class_count(folder):
    return {"path": source(folder), "expected": {"classes": 4}}, "3 classes instead of the expect"


def too_few_images(folder):
    return {"path": source(folder, {"train": 9, "test": 5})}, "of 9 rows for validation"


def too_large_validation(folder):
    return {"path": source(folder), "validation": 40}, "hold out 40 of 40 rows"


BAD = [
    no_split, no_train_split, no_image_column, no_label_column, empty_split, no_folder,
    folder_without_images, damaged_dataset, no_class_names, too_few_classes, label_outside,
    negative_label, fractional_label, missing_label, words_and_numbers, unreadable_image,
    truncated_image,
    missing_image, image_in_train_and_test, image_in_train_and_validation, other_counts,
    other_class_count, too_few_images, too_large_validation,
]  # fmt: skip


@pytest.mark.parametrize("bad", BAD, ids=lambda make: make.__name__.replace("_", " "))
def test_a_bad_dataset_is_one_sentence_that_names_the_task_and_leaves_nothing(tmp_path, bad):
    definition, says = bad(tmp_path / "source")
    with pytest.raises(UserError, match=says) as caught:
        write_task("mine", definition, tmp_path / "data")
    sentence = str(caught.value)
    assert "Task mine" in sentence and "\n" not in sentence
    assert not {p.name for p in tmp_path.iterdir()} - {"source", "cache"}


def test_shared_images_can_be_allowed_and_are_counted(tmp_path):
    definition, _ = image_in_train_and_test(tmp_path / "source")
    manifest = read_manifest(written(tmp_path, **definition, shared_images=0.3))
    assert manifest.shared_between_splits["train-test"] == 1
    with pytest.raises(UserError, match="train and test have 1 image in common"):
        written(tmp_path, **definition, shared_images=0.08)  # 1 of 12 is 0.083


def test_images_repeated_within_a_split_are_counted(tmp_path):
    test = pictures(12, 1)
    test[3] = test[7] = test[0]
    dataset = datasets.DatasetDict(
        train=split(pictures(40, 0), labels(40)), test=split(test, labels(12))
    )
    dataset.save_to_disk(tmp_path / "source")
    manifest = read_manifest(written(tmp_path, path=str(tmp_path / "source")))
    assert manifest.repeated_within_split["test"] == 2


def test_bad_data_does_not_replace_the_good_data_of_an_earlier_run(tmp_path):
    folder = written(tmp_path, path=source(tmp_path / "source"))
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(UserError):
        written(tmp_path, path=str(tmp_path / "source"), expected={"test": 1})
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


# --- Reading back --------------------------------------------------------------------------------


@pytest.fixture
def stored(tmp_path):
    return written(tmp_path, path=source(tmp_path / "source"))


def test_a_limit_draws_that_many_images_of_a_split_at_random(stored):
    """Not the first: saved datasets are often in the order of their classes."""
    images, marks = images_of(stored, "train")
    limit = {"test": 5, "train": 9}
    some, some_marks = images_of(stored, "train", limit)
    by_content = {image.tobytes(): i for i, image in enumerate(images)}
    chosen = [by_content[image.tobytes()] for image in some]
    assert len(set(chosen)) == 9 and chosen != list(range(9))
    assert np.array_equal(some_marks, marks[chosen])
    assert np.array_equal(images_of(stored, "train", limit)[0], some)
    assert len(images_of(stored, "validation", limit)[0]) == 4
    assert np.array_equal(images_of(stored, "train", {"train": 500})[0], images)


def test_a_sample_is_random_without_replacement_and_fixed():
    chosen = sample_indices(19_850, 2048)
    assert len(set(chosen.tolist())) == 2048 and (np.diff(chosen) > 0).all()
    assert np.array_equal(chosen, sample_indices(19_850, 2048))
    assert 9000 < chosen.mean() < 10_900


@pytest.mark.parametrize("count", [1880, 2048])
def test_a_sample_of_no_more_images_is_all_of_them(count):
    """As dtd, of which 1,880 test images stand for 2,048."""
    assert sample_indices(count, 2048).tolist() == list(range(count))


def test_images_are_mapped_from_disk(stored):
    assert isinstance(read_split(stored, "train")[0].pixels, np.memmap)
    assert isinstance(read_split(stored, "test")[0], np.memmap)


@pytest.mark.parametrize("file", ["test_images.npy", "test_labels.npy", "manifest.json"])
@pytest.mark.parametrize("damage", ["missing", "cut", "empty"])
def test_damaged_arrays_are_one_sentence(stored, file, damage):
    path = Path(shutil.copytree(stored, stored.with_name("copy"))) / file
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-5] if damage == "cut" else b"")
    says = f"{file} (does not exist|is damaged)"
    with pytest.raises(UserError, match=says) as caught:
        read_manifest(path.parent)
        read_split(path.parent, "test")
    assert "\n" not in str(caught.value)


def test_images_without_labels_are_refused(stored):
    np.save(stored / "test_labels.npy", np.zeros(3, np.int64))
    tiny.reseal(stored)
    with pytest.raises(UserError, match="has no labelled test images"):
        read_split(stored, "test")


def test_the_stored_manifest_is_json_that_a_person_can_read(stored):
    assert (stored / "manifest.json").read_text().count("\n") > 20
    told = read_json(stored / "manifest.json")
    assert told.keys() == {*asdict(read_manifest(stored)), "format", "seal"}
    assert told.items() >= asdict(read_manifest(stored)).items()


# --- The names of classes ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "own, classes",
    [
        (["a/Art_Gallery", "b/bar", "c/cafe-bar"], ["art gallery", "bar", "cafe bar"]),
        (["Crop Land!", "FOREST", "river"], ["crop land", "forest", "River"]),
        (["0", "1", "2"], ["stop", "yield", "no entry"]),  # numbers say nothing of the order
    ],
)
def test_the_datasets_own_names_may_be_spelled_otherwise(own, classes):
    assert class_names(Definition("mine", classes=classes), own) == classes


@pytest.mark.parametrize(
    "own",
    [["square", "circle", "star"], ["circle", "square", "star shape"], ["circle", "square", "1"]],
    ids=["another order", "another name", "a number among names"],
)
def test_other_names_in_the_dataset_are_one_sentence(own):
    says = r"Task mine: label \d is .* in its dataset and .*`source_classes`"
    with pytest.raises(UserError, match=says):
        class_names(Definition("mine", classes=CLASSES), own)
    for meant in (own, "any"):
        definition = Definition("mine", classes=CLASSES, source_classes=meant)
        assert class_names(definition, own) == CLASSES


# --- Train images keep their form ----------------------------------------------------------------

SIZES = [(300, 240), (20, 33), (225, 700), (256, 256), (257, 900), (64, 64)]


@pytest.fixture
def uneven(tmp_path):
    """A saved dataset whose train images differ in size, and its pictures."""
    train = [pictures(1, i, SIZES[i % len(SIZES)])[0] for i in range(24)]
    test = pictures(5, 99, (70, 90))
    splits = {"train": split(train, labels(24)), "test": split(test, labels(5))}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "source")
    return {"path": str(tmp_path / "source")}, train


def test_train_images_are_kept_whole_their_shortest_side_at_most_256(tmp_path, uneven):
    definition, train = uneven
    images, _ = read_split(written(tmp_path, **definition), "train")
    kept, _ = hold_out(24)
    assert len(images) == len(kept)
    resize = transforms.Resize(TRAIN_SIDE, transforms.InterpolationMode.BICUBIC)
    for number, index in enumerate(kept):
        picture = train[index]
        expected = np.asarray(resize(picture) if min(picture.size) > TRAIN_SIDE else picture)
        batch, sizes = images.take([number])
        assert np.array_equal(batch[0], expected)
        assert sizes.tolist() == [list(expected.shape[:2])]


def test_images_of_a_batch_stand_in_the_corner_before_zeros(tmp_path, uneven):
    images, _ = read_split(written(tmp_path, **uneven[0]), "train")
    chosen = np.array([7, 2, 2, 11])
    batch, sizes = images.take(chosen)
    assert batch.shape == (4, *sizes.max(axis=0), 3) and batch.dtype == np.uint8
    boxes = np.array([[0, 0, 5, 9], [3, 2, 8, 1], [10, 4, 6, 6], [1, 1, 2, 20]])
    pieces, shapes = images.take(chosen, boxes)
    assert pieces.shape == (4, 8, 20, 3) and np.array_equal(shapes, boxes[:, 2:])
    for piece, number, (top, left, h, w) in zip(pieces, chosen, boxes, strict=True):
        whole = images.take([number])[0][0]
        assert np.array_equal(piece[:h, :w], whole[top : top + h, left : left + w])
        assert not piece[h:].any() and not piece[:, w:].any()
    for image, (height, width), number in zip(batch, sizes, chosen, strict=True):
        assert np.array_equal(image[:height, :width], images.take([number])[0][0])
        assert not image[height:].any() and not image[:, width:].any()


def test_a_limit_of_train_images_of_many_sizes_draws_whole_images(tmp_path, uneven):
    folder = written(tmp_path, **uneven[0])
    images, marks = read_split(folder, "train")
    some, some_marks = read_split(folder, "train", {"train": 5})
    chosen = sample_indices(len(images), 5)
    assert len(some) == 5 and np.array_equal(some_marks, marks[chosen])
    for number, index in enumerate(chosen):
        assert np.array_equal(some.take([number])[0], images.take([index])[0])


def test_small_images_among_larger_ones_are_evaluated_at_the_same_size(tmp_path):
    """As traffic signs of 15 to 250 pixels, some of them small squares."""
    test = [pictures(1, i, size)[0] for i, size in enumerate([(32, 32), (30, 40), (250, 222)])]
    splits = {"train": split(pictures(20, 9), labels(20)), "test": split(test, labels(3))}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "source")
    images, _ = read_split(written(tmp_path, path=str(tmp_path / "source")), "test")
    for ours, picture in zip(images, test, strict=True):
        assert np.array_equal(ours, np.asarray(CLIPS(picture)))


# --- Many processes, interruptions ---------------------------------------------------------------


def test_processes_side_by_side_give_the_same_files(tmp_path, uneven, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 4)
    for threads in (1, 3):
        write_task("mine", uneven[0], tmp_path / f"{threads}", threads=threads)
    for path in (tmp_path / "1").iterdir():
        assert path.read_bytes() == (tmp_path / "3" / path.name).read_bytes()


def test_a_bad_image_in_another_process_is_the_same_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 4)
    definition, says = truncated_image(tmp_path / "source")
    with pytest.raises(UserError, match=says):
        write_task("mine", definition, tmp_path / "data", threads=3)
    assert not {p.name for p in tmp_path.iterdir()} - {"source", "cache"}


def test_an_interrupted_stage_goes_on_where_it_stopped(tmp_path, uneven, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 4)
    write_task("mine", uneven[0], tmp_path / "whole")
    original, decoded = module._decode_block, []

    def stop_at(limit):
        def decode(number):
            if len(decoded) == limit:
                raise KeyboardInterrupt
            decoded.append(number)
            return original(number)

        monkeypatch.setattr(module, "_decode_block", decode)

    stop_at(3)
    with pytest.raises(KeyboardInterrupt):
        written(tmp_path, **uneven[0])
    assert not (tmp_path / "data").exists() and len(decoded) == 3
    decoded.clear()
    stop_at(100)
    folder = written(tmp_path, **uneven[0])
    assert len(decoded) == 6 + 1 + 2 - 3  # 22, 2 and 5 images in blocks of 4
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (folder / path.name).read_bytes()
    assert not (tmp_path / ".data.building").exists()


def test_a_killed_stage_leaves_no_process_behind_and_goes_on(tmp_path, uneven):
    """SIGKILL in the middle; then the same command gives the files of an undisturbed one."""
    code = (
        "import sys, time, json\n"
        "from task_arithmetic.vision import prepare as data\n"
        "data.BLOCK, original = 2, data._decode_block\n"
        "def slow(number):\n"
        "    time.sleep(0.1)\n"
        "    return original(number)\n"
        "data._decode_block = slow\n"
        "data.write_task('mine', json.loads(sys.argv[1]), sys.argv[2], threads=2)\n"
    )
    target = tmp_path / "data"
    command = [sys.executable, "-c", code, json.dumps(uneven[0]), str(target)]
    child = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    blocks = tmp_path / ".data.building"
    while len(list(blocks.rglob("*.npz"))) < 3:
        assert child.poll() is None
        time.sleep(0.02)
    child.kill()
    child.wait()
    deadline = time.monotonic() + 20
    while alive := [p for p in Path("/proc").glob("[0-9]*") if session_of(p) == child.pid]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.05)
    assert not target.exists()
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    write_task("mine", uneven[0], tmp_path / "whole")
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (target / path.name).read_bytes()


def session_of(process: Path) -> int:
    """The session of a process that has not ended, by its folder in /proc."""
    try:
        fields = (process / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return -1
    return -1 if fields[0] == "Z" else int(fields[3])


def test_folders_of_another_format_are_named_as_such(stored):
    tiny.reseal(stored, format=2)
    with pytest.raises(UserError, match="made by another version"):
        read_split(stored, "test")


@pytest.mark.parametrize("cut", ["a size", "a pixel"])
def test_train_images_that_do_not_fit_their_sizes_are_refused(stored, cut):
    name = "train_sizes.npy" if cut == "a size" else "train_images.npy"
    np.save(stored / name, np.load(stored / name)[:-1])
    with pytest.raises(UserError, match=f"{name} is damaged"):
        read_split(stored, "train")
    tiny.reseal(stored)
    with pytest.raises(UserError, match="has no labelled train images"):
        read_split(stored, "train")
