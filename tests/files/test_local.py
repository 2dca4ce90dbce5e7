"""What is read of a task's `path`: exactly what the definition names, and a word for all else."""

import csv
import json
import os
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from task_arithmetic.errors import UserError, first
from task_arithmetic.files.definition import Definition
from task_arithmetic.files.labels import alike, class_names, out_of_order
from task_arithmetic.files.local import find, listing, outline, read_list
from task_arithmetic.files.manifest import read_manifest
from task_arithmetic.files.source import hold_out
from task_arithmetic.files.walk import walk
from task_arithmetic.vision.images import read_split
from task_arithmetic.vision.prepare import write_task

NAMES = ["cat", "dog", "hen"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """`datasets` keeps its cache within the test."""
    for name in ("HF_DATASETS_CACHE", "HF_CACHE_HOME"):
        monkeypatch.setattr(datasets.config, name, tmp_path / "cache")


def picture(seed, size=(8, 8)):
    generator = np.random.default_rng(seed)
    return Image.fromarray(generator.integers(0, 256, (*size, 3), np.uint8))


def folders(root, names=NAMES, counts=None, start=0):
    """root/<split>/<class>/<n>.png, all different; returns root."""
    for number, (split, count) in enumerate((counts or {"train": 8, "test": 4}).items()):
        for label, name in enumerate(names):
            place = root / split / name
            place.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                picture(start + 10_000 * number + 100 * label + i).save(place / f"{i}.png")
    return root


def made(tmp_path, root, **definition):
    """The manifest of a task whose data lie at root."""
    write_task("mine", {"path": str(root), **definition}, tmp_path / "data")
    return read_manifest(tmp_path / "data")


def counted(manifest):
    return manifest.classes, *(manifest.counts[k] for k in ("train", "validation", "test"))


WORDS = ["train", "test", "dev", "eval", "bullet train", "train_interior", "validation", "val"]
ODD = ["__pycache__", ".hidden", "[a]", "a*b", "a b", "été", "100%", "x::y", "http:x"]


# --- Folders of images ---------------------------------------------------------------------------


@pytest.mark.parametrize("names", [WORDS, ODD], ids=["split words", "odd names"])
def test_every_class_is_itself_whatever_its_name(tmp_path, names):
    folders(tmp_path / "images", names, {"train": 10, "test": 3})
    manifest = made(tmp_path, tmp_path / "images")
    n = len(names)
    assert counted(manifest) == (sorted(names), 9 * n, n, 3 * n)
    assert set(manifest.shared_between_splits.values()) == {0} and not manifest.notes


def test_splits_beside_the_named_ones_are_not_read_and_are_named(tmp_path):
    root = folders(tmp_path / "images", counts={"train": 10, "test": 3, "train_old": 2, "val": 2})
    folders(root / "test-2", counts={"a": 1}, start=50_000)
    manifest = made(tmp_path, root)
    assert counted(manifest) == (NAMES, 27, 3, 9)
    (note,) = manifest.notes
    assert "3 files and folders are not read: test-2/, train_old/, val/" in note
    assert "set `validation: val`" in note


def test_a_task_may_have_its_own_validation_split(tmp_path):
    root = folders(tmp_path / "images", counts={"train": 10, "test": 3, "val": 2})
    assert counted(made(tmp_path, root, validation="val")) == (NAMES, 30, 6, 9)
    images, labels = read_split(tmp_path / "data", "validation")
    assert np.array_equal(images[0], picture(20_000)) and labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_links_are_followed_and_files_of_any_depth_and_extension_are_images(tmp_path):
    root = folders(tmp_path / "images")
    away = folders(tmp_path / "away", ["emu"], start=70_000)
    for split in ("train", "test"):
        (root / split / "emu").symlink_to(away / split / "emu")
        (root / split / "dog" / "deep" / "er").mkdir(parents=True)
        for i, name in enumerate(["noext", "odd.blob", "up.PNG", "real.jpeg"]):
            seed = 90_000 + 10 * i + (split == "test")
            picture(seed).save(root / split / "dog" / "deep" / "er" / name, "PNG")
    classes, train, validation, test = counted(made(tmp_path, root))
    assert classes == ["cat", "dog", "emu", "hen"]
    assert (train + validation, test) == (4 * 8 + 4, 4 * 4 + 4)


def test_what_is_no_image_is_counted_and_named(tmp_path):
    root = folders(tmp_path / "images")
    picture(1).save(root / "train" / "stray.png")
    (root / "train" / "cat" / "metadata.csv").write_text("a,b\n")
    (root / "test" / "dog" / "all.zip").write_bytes(b"PK\x03\x04")
    (root / "test" / "dog" / "._0.png").write_bytes(b"\0\5\x16\7")
    (root / "README.md").write_text("mine")
    note = made(tmp_path, root).notes[0]
    assert "5 files and folders are not read" in note
    for name in ("train/stray.png", "metadata.csv", "all.zip", "._0.png", "README.md"):
        assert name in note


@pytest.mark.parametrize("parts", [["im [1] {x}"], ["a b", "c*d?"], ["$HOME;x"], ["été 画"]])
def test_any_path_will_do(tmp_path, parts):
    root = folders(tmp_path.joinpath(*parts))
    assert counted(made(tmp_path, root))[0] == NAMES


def no_class(root):
    return "one class alone, 'cat'", folders(root, ["cat"])


def other_case(root):
    return "no split 'train' .it has Test/, Train/", folders(root, counts={"Train": 5, "Test": 2})


def flat(root):
    folders(root.with_name("x"))
    (root.with_name("x") / "train").rename(root)
    return "no split 'train' .it has cat/, dog/, hen/.*`test` to the share", root


def dangling_class(root):
    (folders(root) / "train" / "pig").symlink_to(root / "nowhere")
    return "pig .a link to .*nowhere, which is not there", root


def dangling_image(root):
    (folders(root) / "train" / "cat" / "x.png").symlink_to(root / "nowhere.png")
    return "one of its 37 images cannot be read: .*cat/x.png", root


def loop(root):
    (folders(root) / "train" / "cat" / "again").symlink_to(root / "train")
    return "again/cat .a link to a folder that it lies in", root


def pipe(root):
    os.mkfifo(folders(root) / "train" / "cat" / "pipe")
    return "pipe .no regular file", root


def class_of_train_alone(root):
    folders(root, [*NAMES, "pig"], {"train": 8})
    return "hide the class 'pig' .no test image", folders(root, counts={"test": 4}, start=50_000)


def class_of_test_alone(root):
    folders(root, counts={"train": 8})
    return "hide the class 'pig' .no train image", folders(root, [*NAMES, "pig"], {"test": 4})


def alike_classes(root):
    return "'Cat' and 'cat' are the same", folders(root, ["cat", "Cat", "dog"])


def twice(root):
    (folders(root) / "train.csv").write_text("image,label\nx.png,cat\n")
    return "'train' is in .* twice, as train and train.csv.*train/ is the folder", root


REFUSED = [
    no_class, other_case, flat, dangling_class, dangling_image, loop, pipe, class_of_train_alone,
    class_of_test_alone, alike_classes, twice,
]  # fmt: skip


@pytest.mark.parametrize("make", REFUSED, ids=lambda make: make.__name__)
def test_what_cannot_be_read_as_it_stands_is_one_sentence(tmp_path, make):
    says, root = make(tmp_path / "images")
    with pytest.raises(UserError, match=says) as caught:
        made(tmp_path, root)
    assert "mine" in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "data").exists()


def test_all_bad_images_are_named_at_once_and_may_be_skipped(tmp_path):
    root = folders(tmp_path / "images")
    for i, name in enumerate(NAMES):
        path = root / "train" / name / f"{i}.png"
        path.write_bytes(path.read_bytes()[: 60 * i])
    with pytest.raises(UserError, match="3 of its 36 .*cat/0.png.*dog/1.png.*hen/2.png.*bad_im"):
        made(tmp_path, root)
    manifest = made(tmp_path, root, bad_images="skip")
    assert sum(manifest.counts.values()) == 33
    assert "3 of 36 images were skipped" in manifest.notes[0]
    images, labels = read_split(tmp_path / "data", "train")
    assert len(images) == len(labels) == manifest.counts["train"]


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path):
    """As root may read all, in a process without its rights."""
    root = folders(tmp_path / "images")
    (root / "train" / "cat").chmod(0)
    for folder in (tmp_path, *(p for p in tmp_path.parents if p.name[:2] in ("py", "po"))):
        folder.chmod(folder.stat().st_mode | 0o755)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            if os.getuid() == 0:
                os.setuid(65534)
            find(Definition("mine", path=str(root)))
        except UserError as error:
            status = 0 if "Permission denied" in str(error) else 2
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    (root / "train" / "cat").chmod(0o755)


def test_the_listing_sees_what_links_lead_to_and_outlives_lost_ones(tmp_path):
    root, away = folders(tmp_path / "images"), folders(tmp_path / "away", ["emu"])
    (root / "train" / "emu").symlink_to(away / "train" / "emu")
    (root / "lost").symlink_to(tmp_path / "nowhere")
    (root / "train" / "loop").symlink_to(root)
    before = listing(Definition(path=str(root)))
    assert listing(Definition(path=str(root))) == before
    picture(5, (9, 9)).save(away / "train" / "emu" / "0.png")
    assert listing(Definition(path=str(root))) != before
    assert {f.problem for f in walk(root)} >= {None, "a link to a folder that it lies in"}


def test_the_listing_sees_images_that_a_list_names_elsewhere(tmp_path):
    (tmp_path / "lists").mkdir()
    picture(1).save(tmp_path / "x.png")
    for split in ("train", "test"):
        (tmp_path / "lists" / f"{split}.csv").write_text("file,label\n../x.png,a\n")
    definition = Definition(path=str(tmp_path / "lists"), image="file")
    before = listing(definition)
    picture(2, (9, 9)).save(tmp_path / "x.png")
    assert listing(definition) != before


def test_a_line_says_what_is_read(tmp_path):
    root = folders(tmp_path / "images")
    (root / "more").mkdir()
    says = "train 24 images of 3 classes, test 12 images of 3 classes; not read: more/"
    assert outline(find(Definition("mine", path=str(root)))) == says
    assert first(["a", "b", "c"], 2) == "a, b and 1 more"


# --- Tables --------------------------------------------------------------------------------------


def rows(count, seed=0, names=NAMES):
    """Images and labels in words."""
    return [picture(seed + i) for i in range(count)], [names[i % len(names)] for i in range(count)]


def dataset(count, seed=0, names=NAMES, feature=None):
    pictures, words = rows(count, seed)
    labels = words if feature else [names.index(word) for word in words]
    kinds = {"image": datasets.Image(), "label": feature or datasets.ClassLabel(names=names)}
    values = {"image": pictures, "label": labels}
    return datasets.Dataset.from_dict(values, features=datasets.Features(kinds))


def parquet_shards(root):
    (root / "data").mkdir(parents=True)
    for i in range(2):
        dataset(15, 100 * i).to_parquet(root / "data" / f"train-0000{i}-of-00002.parquet")
    dataset(9, 900).to_parquet(root / "data" / "test-00000-of-00001.parquet")
    return {"path": str(root)}


def parquet_folders(root):
    for split, count, seed in (("train", 30, 0), ("test", 9, 900)):
        (root / split).mkdir(parents=True)
        dataset(count, seed).to_parquet(root / split / "part 0 [a].parquet")
    return {"path": str(root)}


def saved_apart(root):
    dataset(30).save_to_disk(root / "train")
    dataset(9, 900).save_to_disk(root / "test")
    return {"path": str(root)}


def saved_whole(root):
    dataset(39).save_to_disk(root)
    return {"path": str(root), "test": 9 / 39}


def parquet_whole(root):
    root.mkdir()
    dataset(39, feature=datasets.Value("string")).to_parquet(root / "all.parquet")
    return {"path": str(root / "all.parquet"), "test": 9 / 39}


def lists(root, suffix=".csv", column="image"):
    for split, count, seed in (("train", 30, 0), ("test", 9, 900)):
        pictures, words = rows(count, seed)
        (root / "im [1]").mkdir(parents=True, exist_ok=True)
        paths = [f"im [1]/{split}, {i}.png" for i in range(count)]
        for path, each in zip(paths, pictures, strict=True):
            each.save(root / path)
        with open(root / f"{split}{suffix}", "w", encoding="utf-8-sig", newline="") as file:
            if suffix == ".jsonl":
                for path, word in zip(paths, words, strict=True):
                    file.write(json.dumps({column: path, "label": word}) + "\n")
            else:
                writer = csv.writer(file, delimiter="\t" if suffix == ".tsv" else ",")
                writer.writerows([(column, "label"), *zip(paths, words, strict=True)])
    return {"path": str(root), "image": column}


def json_lines(root):
    return lists(root, ".jsonl", "file_name")


def tabbed(root):
    return lists(root, ".tsv", "path")


def one_list(root):
    definition = lists(root)
    lines = [
        (Path(root, f"{s}.csv").read_text("utf-8-sig").splitlines(), s) for s in ("train", "test")
    ]
    every = [f"{line},{split}" for body, split in lines for line in body[1:]]
    Path(root, "all.csv").write_text("\n".join(["image,label,fold", *every]))
    return definition | {"path": str(root / "all.csv"), "split": "fold"}


def saved_without_test(root):
    datasets.DatasetDict(train=dataset(39), other=dataset(3, 500)).save_to_disk(root)
    return {"path": str(root), "test": 9 / 39}


def folder_without_test(root):
    folders(root, counts={"train": 13, "val": 2})
    return {"path": str(root), "test": 9 / 39}


TABLES = [
    saved_without_test, folder_without_test,
    parquet_shards, parquet_folders, saved_apart, saved_whole, parquet_whole, lists, json_lines,
    tabbed, one_list,
]  # fmt: skip


@pytest.mark.parametrize("make", TABLES, ids=lambda make: make.__name__)
def test_rows_may_lie_in_tables_and_lists(tmp_path, make):
    manifest = made(tmp_path, **{"root": "", **make(tmp_path / "source")})
    assert counted(manifest) == (NAMES, 27, 3, 9)
    _, labels = read_split(tmp_path / "data", "validation")
    assert sorted(labels) == [0, 1, 2]  # drawn of each class


def made_of(tmp_path, make):
    return made(tmp_path, **{"root": "", **make(tmp_path / "source")})


def test_labels_in_words_are_classes_in_order_and_said_so(tmp_path):
    (note,) = made_of(tmp_path, lambda root: lists(root) | {"train": "train.csv"}).notes
    assert "its 3 classes are cat, dog, hen, in this order" in note


def saved_apart_without_a_class(root):
    dataset(30).save_to_disk(root / "train")
    dataset(8, 900, ["dog", "hen", "cat"]).save_to_disk(root / "test")
    return "test split names its classes otherwise than its train split: label 0 is 'dog', not 'c"


def parquet_in_reverse(root):
    root.mkdir()
    dataset(30).to_parquet(root / "train.parquet")
    dataset(9, 900, NAMES[::-1]).to_parquet(root / "test.parquet")
    return "names its classes otherwise"


def shards_that_differ(root):
    root.mkdir()
    dataset(30).to_parquet(root / "train-00000-of-00002.parquet")
    dataset(30, 50, NAMES[::-1]).to_parquet(root / "train-00001-of-00002.parquet")
    dataset(9, 900).to_parquet(root / "test.parquet")
    return "train-00001-of-00002.parquet names its classes otherwise than .*: label 0 is 'hen'"


def names_in_one_split(root):
    root.mkdir()
    dataset(30).to_parquet(root / "train.parquet")
    numbers = dataset(9, 900).cast_column("label", datasets.Value("int64"))
    numbers.to_parquet(root / "test.parquet")
    return "3 names and none"


def numbers_for_images(root):
    both = dataset(30).add_column("size", list(range(30))).rename_columns({"image": "photo"})
    both = both.rename_columns({"size": "image"})
    datasets.DatasetDict(train=both, test=both).save_to_disk(root)
    return "'image' of its dataset holds int64 instead of images.*images may be in photo"


def whole_with_a_validation_split(root):
    dataset(30).save_to_disk(root)
    return "not cut into splits, of which `validation` names one", {"test": 0.2, "validation": "v"}


def column_of_splits_that_are_there(root):
    folders(root)
    return "is cut into splits, so that none can be named by a column", {"split": "fold"}


def damaged_splits(root):
    datasets.DatasetDict(train=dataset(30), test=dataset(9, 900)).save_to_disk(root)
    (root / "dataset_dict.json").write_text("{")
    return "source/dataset_dict.json is damaged .not JSON.: put a whole one in its place"


def whole_and_nothing_said(root):
    dataset(30).save_to_disk(root)
    return "not cut into splits; set `test` to the share .* or `split`"


def ragged_list(root):
    (lists(root), Path(root, "train.csv").open("a").write("x.png,cat,more\n"))
    return "train.csv cannot be read as a list of rows"


def damaged_parquet(root):
    root.mkdir()
    (root / "train.parquet").write_bytes(b"PAR1 not really")
    dataset(9).to_parquet(root / "test.parquet")
    return "cannot be read as a dataset .Arrow.*"


@pytest.mark.parametrize(
    "make",
    [
        saved_apart_without_a_class, parquet_in_reverse, shards_that_differ, names_in_one_split,
        numbers_for_images, whole_and_nothing_said, whole_with_a_validation_split,
        column_of_splits_that_are_there, damaged_splits, ragged_list, damaged_parquet,
    ],
    ids=lambda make: make.__name__,
)  # fmt: skip
def test_tables_that_would_give_wrong_numbers_are_one_sentence(tmp_path, make):
    found = make(tmp_path / "source")
    says, more = (found, {}) if isinstance(found, str) else found
    with pytest.raises(UserError, match=says) as caught:
        made(tmp_path, tmp_path / "source", **more)
    assert "\n" not in str(caught.value) and not (tmp_path / "data").exists()


def test_a_list_of_numbers_is_one_and_names_of_digits_stay_names(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("label,word\n1,1\n0,\n")
    assert read_list(str(path), "label") == {"label": [1, 0], "word": ["1", None]}
    path.write_text("label\n007\n010\n")
    assert read_list(str(path), "label") == {"label": ["007", "010"]}


# --- Classes and draws ---------------------------------------------------------------------------


def test_names_that_read_the_same_are_found():
    assert alike(["a b", "A  b"]) == ("a b", "A  b")
    assert alike(["e\u0301te\u0301", "été"]) == ("e\u0301te\u0301", "été")
    assert alike(["ab", "a b", "a-b"]) is None


def test_words_of_labels_that_are_other_labels_names_are_found():
    assert out_of_order(["bad", "good"], ["good", "bad"]) == (0, "bad")
    assert out_of_order(["no", "yes"], ["not_entailment", "entailment"]) is None
    assert out_of_order(["Not Relevant", "relevant"], ["not_relevant", "relevant"]) is None


@pytest.mark.parametrize("seed", range(20))
def test_a_stratified_draw_takes_of_each_class_its_share(seed):
    generator = np.random.default_rng(seed)
    strata = generator.integers(0, generator.integers(2, 9), generator.integers(20, 400))
    size = int(generator.integers(1, len(strata)))
    kept, held = hold_out(len(strata), size, strata)
    assert len(held) == size and sorted([*kept, *held]) == list(range(len(strata)))
    of, drawn = np.bincount(strata), np.bincount(strata[held], minlength=strata.max() + 1)
    assert (np.abs(drawn - of * size / len(strata)) <= 1 + 1e-9).all()
    if size < len(strata) - np.count_nonzero(of):
        assert (drawn < of)[of > 1].all()


def test_a_stratified_draw_is_fixed_and_takes_any_of_a_class():
    strata = np.repeat([0, 1], 500)
    assert np.array_equal(hold_out(1000, 100, strata)[1], hold_out(1000, 100, strata)[1])
    held = hold_out(1000, 100, strata)[1]
    assert 150 < held[:50].mean() < 350 and not np.array_equal(held[:50], held[50:] - 500)


def test_classes_without_validation_rows_are_named(tmp_path):
    root = folders(tmp_path / "images", counts={"train": 3, "test": 2})
    (note,) = made(tmp_path, root, validation=1).notes
    assert note.startswith("2 classes have no validation image: ")


def test_classes_of_one_side_may_be_allowed_and_are_named(tmp_path):
    _, root = class_of_train_alone(tmp_path / "images")
    notes = made(tmp_path, root, missing_classes="allow").notes
    assert "one class has no test image: 'pig'" in notes


# --- What would give wrong numbers in silence ----------------------------------------------------


def test_numbers_written_as_texts_are_numbers(tmp_path):
    """Sorted by characters, 10 would be label 2."""
    words = [str(i % 11) for i in range(44)]
    pictures, kinds = [picture(i) for i in range(44)], datasets.Value("string")
    features = datasets.Features({"image": datasets.Image(), "label": kinds})
    rows = datasets.Dataset.from_dict({"image": pictures, "label": words}, features=features)
    rows.save_to_disk(tmp_path / "source")
    definition = {"path": str(tmp_path / "source"), "test": 0.25, "validation": 11}
    with pytest.raises(UserError, match="its labels have no names; list them"):
        write_task("mine", definition, tmp_path / "data")
    names = [f"number {i}" for i in range(11)]
    write_task("mine", definition | {"classes": names}, tmp_path / "data")
    images, labels = read_split(tmp_path / "data", "test")
    expected = {np.asarray(p).tobytes(): int(word) for p, word in zip(pictures, words, strict=True)}
    assert [expected[image.tobytes()] for image in images] == labels.tolist()


def test_paths_in_a_table_are_refused_since_nothing_tells_that_their_files_changed(tmp_path):
    picture(1).save(tmp_path / "x.png")
    rows = {"image": [str(tmp_path / "x.png")] * 20, "label": ["a", "b"] * 10}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(UserError, match="holds string instead of images.*give a list"):
        made(tmp_path, tmp_path / "rows.parquet", test=0.2)


def test_a_folder_without_images_is_no_class_and_is_named(tmp_path):
    root = folders(tmp_path / "images")
    for split in ("train", "test"):
        (root / split / ".ipynb_checkpoints" / "deeper").mkdir(parents=True)
    manifest = made(tmp_path, root)
    assert manifest.classes == NAMES and "test/.ipynb_checkpoints/" in manifest.notes[0]


def test_rows_of_a_split_that_nobody_names_are_named(tmp_path):
    definition = one_list(tmp_path / "source")
    path = Path(definition["path"])
    path.write_text(path.read_text().replace(",train", ",val", 4))
    notes = made(tmp_path, **{"root": "", **definition}).notes
    assert any("not read: val (4 rows); set `validation: val`" in note for note in notes)


def test_data_that_changed_since_they_were_planned_are_refused(tmp_path):
    root = folders(tmp_path / "images")
    planned = listing(Definition(path=str(root)))
    made(tmp_path, root, files=planned)
    picture(99).save(root / "train" / "cat" / "new.png")
    with pytest.raises(UserError, match="changed since this run was planned"):
        made(tmp_path, root, files=planned)


def test_images_with_two_labels_are_counted_even_where_some_may_be_shared(tmp_path, capsys):
    root = folders(tmp_path / "images")
    for i in range(3):
        picture(i).save(root / "test" / "dog" / f"cat {i}.png")  # those of train/cat
    with pytest.raises(UserError, match="in common"):
        made(tmp_path, root)
    assert "3 images with more than one label" in capsys.readouterr().err
    assert "3 images with more than one label" in made(tmp_path, root, shared_images=1).notes


def test_a_saved_validation_split_that_is_not_read_is_named(tmp_path):
    parts = {"train": dataset(30), "test": dataset(9, 900), "validation": dataset(6, 950)}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "source")
    (note,) = made(tmp_path, tmp_path / "source").notes
    assert "is not read: validation/; set `validation: validation`" in note


def test_a_last_block_of_bad_images_alone_is_skipped(tmp_path, monkeypatch):
    monkeypatch.setattr("task_arithmetic.vision.prepare.BLOCK", 4)
    root = folders(tmp_path / "images", counts={"train": 8, "test": 3})
    (root / "test" / "hen" / "2.png").write_bytes(b"")
    assert made(tmp_path, root, bad_images="skip").counts["test"] == 8


@pytest.mark.parametrize(
    "own, meant",
    [(["का", "कि"], ["कि", "का"]), (["C#", "C++"], ["C++", "C#"]), (["🙂", "🙁"], ["🙁", "🙂"])],
)
def test_names_of_signs_are_compared_sign_by_sign(own, meant):
    assert class_names(Definition("mine", classes=own), own) == own
    with pytest.raises(UserError, match="label 0 is"):
        class_names(Definition("mine", classes=meant), own)
    assert out_of_order(own, own) is None and out_of_order(meant, own) == (0, meant[0])


def test_a_draw_takes_no_class_whole_while_others_can_give():
    strata = np.array([0] * 90 + list(range(1, 41)))
    kept, held = hold_out(len(strata), None, strata)
    assert len(np.unique(held)) == len(held) == 13 and set(strata[kept]) == set(strata)


@pytest.mark.parametrize("seed", range(30))
def test_draws_of_rare_and_missing_classes_are_whole(seed):
    generator = np.random.default_rng(seed)
    strata = generator.choice([0, 2, 3, 5, 9, 40], generator.integers(3, 60), p=[0.6, *[0.08] * 5])
    size = int(generator.integers(1, len(strata)))
    kept, held = hold_out(len(strata), size, strata)
    assert sorted([*kept, *held]) == list(range(len(strata))) and len(held) == size
    of, drawn = (np.bincount(each, minlength=41) for each in (strata, strata[held]))
    assert (drawn < of)[of > 0].all() or size > len(strata) - np.count_nonzero(of)
