"""`doctor`: one table of what is on disk, a sentence for each thing that is wrong with it; and
`audit`: what stands twice in it."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors.numpy import save_file

from task_arithmetic.config.reading import ROOT, load_definition, merge, read_yaml, validate_config
from task_arithmetic.config.settings import data_settings
from task_arithmetic.errors import UserError
from task_arithmetic.files.definition import Definition
from task_arithmetic.files.hashes import sealed
from task_arithmetic.files.paths import read_json, write_json
from task_arithmetic.files.source import hold_out
from task_arithmetic.files.tensors import header
from task_arithmetic.language.prepare import write_texts
from task_arithmetic.planning.audit import audit
from task_arithmetic.planning.doctor import doctor, own_names
from task_arithmetic.vision.prepare import write_task

TASKS = ["boats", "cats", "maps"]  # maps is the control task, which has no train images
OVERLAY = """
suite: embedded
tasks: [boats, cats]
encoders: [embedded-small]
focus: embedded-small
modes: [nonlinear]
ablations: []
negation: {control: maps}
disentanglement: {pairs: {fig6: [boats, cats], fig8: [cats, boats]}}
language: null
"""
WITH_TEXTS = """
language: {tasks: [notes, grades], encoders: [t5-base], focus: t5-base, modes: [nonlinear]}
"""


def draw_images(folder, counts, size, seed):
    """folder/<split>/<class>/<n>.png of noise, all different."""
    generator = np.random.default_rng(seed)
    for split, count in counts.items():
        for number in range(count):
            path = folder / split / ("left" if number % 2 else "right") / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (*size, 3), np.uint8)).save(path)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project with three tasks, whose data the data stage has made."""
    root = tmp_path_factory.mktemp("made")
    for part in ("config", "workflow"):
        shutil.copytree(ROOT / part, root / part)
    shutil.copy(ROOT / "config.yaml", root)
    (root / "src").symlink_to(ROOT / "src")
    for seed, (task, size) in enumerate(zip(TASKS, [(8, 8), (90, 70), (8, 8)], strict=True)):
        counts = {"train": 0 if task == "maps" else 10, "test": 8}
        draw_images(root / "images" / task, counts, size, seed)
        text = (
            f"path: images/{task}\nvalidation: 3\ntemplates: ['a {{}}.']\nclasses: [Left, right]\n"
        )
        expected = "{train: 7, validation: 3, test: 8, classes: 2}"
        if task == "maps":
            text, expected = text + "train: null\n", "{train: 0, validation: 3, test: 5}"
        (root / f"config/tasks/{task}.yaml").write_text(f"{text}expected: {expected}\n")
    (root / "overlay.yaml").write_text(OVERLAY)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        config = validate_config(merge(read_yaml("config.yaml"), read_yaml("overlay.yaml")), root)
        for task in TASKS:
            definition = json.loads(data_settings(config.definitions.tasks[task]))
            write_task(task, definition, root / "results/shared/data" / task)
    return root


@pytest.fixture
def project(made, tmp_path, monkeypatch):
    """A copy of it that a test may harm."""
    shutil.copytree(made, tmp_path / "project", symlinks=True)
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def change(project, task, **changes):
    """Alter entries of a task's manifest."""
    path = project / "results/shared/data" / task / "manifest.json"
    content = {key: value for key, value in read_json(path).items() if key != "seal"}
    write_json(path, sealed(content | changes))


def redefine(project, task, again=True, **changes):
    """Alter entries of a task's definition; `again`: as if its data had been made with it."""
    path = project / f"config/tasks/{task}.yaml"
    definition = yaml.safe_load(path.read_text()) | changes
    path.write_text(yaml.safe_dump(definition))
    if again:
        config = validate_config(
            merge(read_yaml("config.yaml"), read_yaml("overlay.yaml")), project
        )
        change(project, task, definition=json.loads(data_settings(config.definitions.tasks[task])))


def table(text):
    """task → column → text, of what doctor printed."""
    lines = text.splitlines()[: len(TASKS) + 1]
    headings, *rows = [re.split("  +", line) for line in lines]
    return {row[0]: dict(zip(headings, row, strict=True)) for row in rows}


def complaint(project, capsys):
    """The one problem that doctor names; it fails."""
    with pytest.raises(UserError, match="one problem"):
        doctor("overlay.yaml", basedir=project)
    (problem,) = [line[2:] for line in capsys.readouterr().out.splitlines() if line[:2] == "- "]
    assert problem.endswith(".")
    return problem


def test_data_as_expected_are_one_table_without_a_problem(project, capsys):
    change(project, "boats", source={"repo": "my/boats", "commit": "0123456789abcdef"})
    doctor("overlay.yaml", basedir=project)
    text = capsys.readouterr().out
    found = table(text)
    assert list(found) == TASKS
    assert found["boats"] == {
        "task": "boats", "commit": "0123456", "train": "7/7", "validation": "3/3", "test": "8/8",
        "classes": "2/2", "own names": "same", "shared": "0", "repeated": "0", "stored": "8×8",
        "disk": found["boats"]["disk"],
    }  # fmt: skip
    assert found["maps"]["train"] == "0/0" and found["maps"]["classes"] == "2/–"
    assert found["cats"]["stored"] == "224×224" and found["cats"]["commit"] == "local"
    heading, *rows = text.splitlines()[:4]  # aligned: each number ends where its heading does
    assert all(row[: heading.index("train") + 5].endswith(("7/7", "0/0")) for row in rows)
    assert "- " not in text


def test_test_images_of_one_task_in_another_ones_train_are_counted(project, capsys):
    boats, cats = (np.load(f"results/shared/data/{task}/train_digests.npy") for task in TASKS[:2])
    path = "results/shared/data/cats/test_digests.npy"
    np.save(path, np.concatenate([boats[:3], boats[:1], np.load(path)[4:]]))
    doctor("overlay.yaml", basedir=project)
    text = capsys.readouterr().out
    assert "Rows of cats's test that are in boats's train: 3\n" in text
    assert "Rows of boats" not in text and len(cats) == 7


def test_what_the_data_stage_had_to_say_is_repeated(project, capsys):
    change(project, "boats", notes=["one image was skipped"])
    doctor("overlay.yaml", basedir=project)
    assert "Task boats: one image was skipped.\n" in capsys.readouterr().out


def test_disk_is_that_of_the_folders_files(project, capsys):
    folder = project / "results/shared/data/boats"
    (folder / "more.bin").write_bytes(b"0" * 5_000_000)
    doctor("overlay.yaml", basedir=project)
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert table(capsys.readouterr().out)["boats"]["disk"] == f"{size / 1e6:.1f} MB"


def test_a_task_that_is_not_made_yet_is_no_problem(project, capsys):
    shutil.rmtree(project / "results/shared/data/cats")
    doctor("overlay.yaml", basedir=project)
    text = capsys.readouterr().out
    assert (
        re.search("cats +not made", text)
        and "Not made yet: cats. To make" in text
        and "data/cats/manifest.json" in text
    )


@pytest.mark.parametrize("what", ["train", "validation", "test", "classes"])
def test_a_count_other_than_expected_is_a_problem(what, project, capsys):
    expected = {"train": 7, "validation": 3, "test": 8, "classes": 2}
    redefine(project, "boats", expected=expected | {what: 9})
    noun = "classes" if what == "classes" else f"{what} images"
    assert f"{expected[what]} {noun} instead of the expected 9" in complaint(project, capsys)


def test_own_class_names_in_another_order_are_a_problem(project, capsys):
    change(project, "boats", source_classes=["right", "left"])
    assert "label 0 is 'right' in its dataset and 'Left'" in complaint(project, capsys)


def test_how_own_class_names_compare():
    classes = ["annual crop land", "art gallery", "lake or sea"]
    assert own_names(Definition("t"), classes, None) == ("none", None)
    assert own_names(Definition("t"), classes, ["0", "1", "2"]) == ("none", None)
    assert own_names(Definition("t"), ["0", "1"], ["0", "1"]) == ("same", None)
    alike = ["Annual-crop_land", "a/art_gallery", "lake or sea"]
    assert own_names(Definition("t"), classes, alike) == ("same", None)
    other = ["AnnualCrop", "Gallery", "SeaLake"]
    assert own_names(Definition("t"), classes, other)[0] == "differ"
    assert "label 0" in own_names(Definition("t"), classes, other)[1]
    assert own_names(Definition("t", source_classes=other), classes, other) == ("differ", None)
    moved = other[::-1]
    assert "label 0" in own_names(Definition("t", source_classes=other), classes, moved)[1]


def test_names_that_are_not_compared_must_have_words_in_common():
    classes, anything = ["tench", "great white shark", "cock"], {"source_classes": "any"}
    own = ["tench, Tinca tinca", "great white shark, man-eater", "rooster"]
    assert own_names(Definition.of("t", anything), classes, own) == ("differ", None)
    moved = [own[1], own[2], own[0]]
    assert "only 0 of its 3 classes" in own_names(Definition.of("t", anything), classes, moved)[1]


def test_images_in_two_splits_are_a_problem_unless_allowed(project, capsys):
    change(project, "cats", shared_between_splits={"train-test": 4})
    assert "train and test have 4 images in common" in complaint(project, capsys)
    redefine(project, "cats", shared_images=1)
    doctor("overlay.yaml", basedir=project)
    assert table(capsys.readouterr().out)["cats"]["shared"] == "4"


def test_repeated_images_are_counted_but_no_problem(project, capsys):
    change(project, "cats", repeated_within_split={"train": 2, "validation": 0, "test": 3})
    doctor("overlay.yaml", basedir=project)
    assert table(capsys.readouterr().out)["cats"]["repeated"] == "5"


def test_arrays_that_do_not_belong_to_the_manifest_are_a_problem(project, capsys):
    folder = project / "results/shared/data/cats"
    labels = np.load(folder / "test_labels.npy")
    np.save(folder / "test_labels.npy", labels[:-1])
    assert "test_labels.npy is int64 of shape (7,), not int64 of (8,)" in complaint(project, capsys)
    np.save(folder / "test_labels.npy", labels)
    pixels = np.load(folder / "train_images.npy")
    np.save(folder / "train_images.npy", pixels[:-5])
    assert f"not uint8 of ({len(pixels)}, 3)" in complaint(project, capsys)
    np.save(folder / "train_images.npy", pixels.astype(np.int16))
    assert "train_images.npy is int16" in complaint(project, capsys)


def test_a_truncated_or_missing_array_is_a_problem(project, capsys):
    path = project / "results/shared/data/cats/validation_images.npy"
    path.write_bytes(path.read_bytes()[:-1])
    assert "validation_images.npy is damaged" in complaint(project, capsys)
    path.unlink()
    assert "validation_images.npy does not exist" in complaint(project, capsys)


def test_another_definition_than_the_present_one_is_a_problem(project, capsys):
    redefine(project, "boats", again=False, classes=["Port", "starboard"])
    assert "another definition (classes changed since)" in complaint(project, capsys)


def test_an_older_or_damaged_manifest_is_a_problem_of_its_task_alone(project, capsys):
    change(project, "boats", format=1)
    assert "made by another version (format 1, not 4)" in complaint(project, capsys)
    (project / "results/shared/data/boats/manifest.json").write_text("{")
    with pytest.raises(UserError):
        doctor("overlay.yaml", basedir=project)
    text = capsys.readouterr().out
    assert re.search("boats +not readable", text) and table(text)["cats"]["test"] == "8/8"


def test_several_problems_are_all_named(project, capsys):
    change(project, "boats", shared_between_splits={"train-test": 1}, source_classes=["a", "b"])
    with pytest.raises(UserError, match="2 problems"):
        doctor("overlay.yaml", basedir=project)
    assert (
        sum(line.startswith("- Task boats: ") for line in capsys.readouterr().out.split("\n")) == 2
    )


def test_the_paper_s_tasks_before_any_is_made(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    doctor()
    text = capsys.readouterr().out
    assert text.count("not made") == 9 + 7 and "imagenet" in text and "stsb" in text
    assert load_definition("tasks", "cars", "tasks").hub == "tanganke/stanford_cars"


def test_doctor_imports_neither_torch_nor_open_clip():
    code = (
        "import sys, task_arithmetic.planning.doctor as d; d.doctor();"
        "sys.exit(bool({'torch', 'open_clip', 'datasets'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_last_failure_of_the_data_stage_is_repeated(project, capsys):
    shutil.rmtree(project / "results/shared/data/cats")
    log = project / "results/shared/logs/data/cats.log"
    log.parent.mkdir(parents=True)
    log.write_text(
        "decode …\ntask-arithmetic data: Task cats: its split 'test' is empty; choose it.\n"
    )
    assert "Task cats: its split 'test' is empty; choose it." in complaint(project, capsys)


# --- Texts ---------------------------------------------------------------------------------------

TEXT_DATA = Path("results/shared/data")


@pytest.fixture
def texts(project):
    """Two tasks of texts beside the others, made: one of classes, one of scores; a row of notes
    stands in train and in test."""
    config = project / "config/tasks"
    for task, label in (("notes", ["bad", "good"]), ("grades", "{:.1f}")):
        metric = "spearman" if task == "grades" else "exact_match"
        prompts = {"peta": {"input": "rate: {text}", "labels": label}}
        expected = {"train": 7, "validation": 3, "test": 4}
        definition = {"path": f"texts/{task}", "validation": 3, "texts": ["text"], "metric": metric,
                      "prompts": prompts, "expected": expected}  # fmt: skip
        if task == "notes":
            definition |= {"classes": label, "shared_texts": 0.25}
        (config / f"{task}.yaml").write_text(yaml.safe_dump(definition))
        splits = {}
        for split, count in (("train", 10), ("test", 4)):
            rows = [f"{task} {split} {i}" for i in range(count)]
            if split == "test" and task == "notes":
                rows[0] = f"{task} train {hold_out(10, 3)[0][0]}"
            marks = [i % 2 if task == "notes" else i / 4 for i in range(count)]
            splits[split] = datasets.Dataset.from_dict({"text": rows, "label": marks})
        datasets.DatasetDict(splits).save_to_disk(project / f"texts/{task}")
    overlay = project / "overlay.yaml"
    overlay.write_text(overlay.read_text().replace("language: null", WITH_TEXTS))
    whole = validate_config(merge(read_yaml("config.yaml"), read_yaml("overlay.yaml")), project)
    for task in ("notes", "grades"):
        write_texts(
            task, json.loads(data_settings(whole.definitions.tasks[task])), TEXT_DATA / task
        )
    return project


def test_texts_stand_in_the_same_table(texts, capsys):
    doctor("overlay.yaml", basedir=texts)
    heading, *rows = (re.split("  +", x) for x in capsys.readouterr().out.splitlines()[:6])
    found = {row[0]: dict(zip(heading, row, strict=True)) for row in rows}
    assert list(found) == [*TASKS, "notes", "grades"]
    assert found["notes"] == {
        "task": "notes", "commit": "local", "train": "7/7", "validation": "3/3", "test": "4/4",
        "classes": "2/–", "own names": "none", "shared": "1", "repeated": "0", "stored": "text",
        "disk": "0.0 MB",
    }  # fmt: skip
    assert found["grades"]["classes"] == "scores" and found["grades"]["shared"] == "0"


def test_texts_that_are_not_as_expected_are_problems(texts, capsys):
    path = TEXT_DATA / "notes/test.jsonl"
    content = path.read_bytes()
    path.write_bytes(content + b"{}\n")
    assert "notes/test.jsonl has 5 lines, not 4 as its manifest asks" in complaint(texts, capsys)
    path.unlink()
    assert "notes/test.jsonl does not exist" in complaint(texts, capsys)
    path.write_bytes(content)
    change(texts, "notes", shared_between_splits={"train-test": 2})
    assert "train and test have 2 texts in common" in complaint(texts, capsys)
    change(
        texts, "notes", shared_between_splits={}, counts={"train": 7, "validation": 3, "test": 9}
    )
    path.write_bytes(b"{}\n" * 9)
    assert "9 test texts instead of the expected 4" in complaint(texts, capsys)


def test_the_longest_inputs_of_each_encoder_are_told_and_what_was_cut(texts, capsys):
    heads = texts / "results/shared/encoders/t5-base/heads"
    heads.mkdir(parents=True)
    for task, cut in (("notes", 0), ("grades", 1200)):
        ends = {f"{split}.ends": np.array([5, 9, 19]) for split in ("train", "validation", "test")}
        save_file(ends, heads / f"{task}.safetensors", header({"cut": {"train": cut, "test": 0}}))
    doctor("overlay.yaml", basedir=texts)
    said = "Longest input of t5-base, in tokens: notes 10, grades 10 (1,200 cut)"
    assert said in capsys.readouterr().out.splitlines()
    path = heads / "notes.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    assert "notes.safetensors is not a readable safetensors file" in complaint(texts, capsys)


# --- audit ---------------------------------------------------------------------------------------


def write_again(project, copies):
    """Make some images copies of others, and the data of boats and cats again.

    Args:
        copies: task, split, number; of which task, split, number.
    """
    for task, split, number, *of in copies:
        there, other = (
            project / "images" / t / s / ("left" if n % 2 else "right") / f"{n}.png"
            for t, s, n in ((task, split, number), of)
        )
        shutil.copy(other, there)
    for task in TASKS[:2]:
        redefine(project, task, again=False, shared_images=0.9)
        config = validate_config(
            merge(read_yaml("config.yaml"), read_yaml("overlay.yaml")), project
        )
        definition = json.loads(data_settings(config.definitions.tasks[task]))
        shutil.rmtree(TEXT_DATA / task)
        write_task(task, definition, TEXT_DATA / task)


def audited(project, capsys):
    """The rows of `audit --json`, and the tasks that it says are not made."""
    audit("overlay.yaml", as_json=True, basedir=project)
    said = json.loads(capsys.readouterr().out)
    assert bool(said["missing"]) == said["make"].startswith("snakemake --cores all")
    keys = "task split other_task other_split rows".split()
    assert all(list(row) == keys for row in said["shared"])
    return [tuple(row.values()) for row in said["shared"]], said["missing"]


def test_copies_in_two_splits_and_in_two_tasks_are_counted(project, capsys):
    rows, missing = audited(project, capsys)
    assert len(rows) == 9 and {row[4] for row in rows} == {0} and missing == []
    copies = [
        ("boats", "test", 0, "boats", "train", 2),  # within boats, twice the same image
        ("boats", "test", 2, "boats", "train", 2),
        ("boats", "test", 3, "boats", "train", 5),
        ("cats", "test", 3, "boats", "train", 7),  # between tasks
        ("cats", "test", 4, "boats", "test", 6),
    ]
    write_again(project, copies)
    rows, missing = audited(project, capsys)
    found = {row[:4]: row[4] for row in rows}
    learnt = [found["boats", split, "boats", "test"] for split in ("train", "validation")]
    assert sum(learnt) == 2 and missing == []  # 2 and 5, wherever the draw of validation put them
    assert (
        found["cats", "train", "cats", "test"]
        == found["boats", "train", "boats", "validation"]
        == 0
    )
    between = {key: count for key, count in found.items() if key[0] != key[2]}
    assert between.pop(("boats", "test", "cats", "test")) == 1
    ((key, count),) = between.items()
    assert key in {("boats", s, "cats", "test") for s in ("train", "validation")} and count == 1
    audit("overlay.yaml", basedir=project)
    table = capsys.readouterr().out
    assert "train∩test" in table and "boats  test" in table and "alone are counted" in table


def test_the_audit_names_what_is_not_prepared_and_refuses_what_is_damaged(project, capsys):
    shutil.rmtree(TEXT_DATA / "cats")
    rows, missing = audited(project, capsys)
    assert {row[0] for row in rows} == {"boats", "maps"} and missing == ["cats"]
    np.save(TEXT_DATA / "boats/test_digests.npy", np.zeros((8, 16), np.uint8))
    with pytest.raises(UserError, match="boats/test_digests.npy is damaged"):
        audit("overlay.yaml", basedir=project)
    (TEXT_DATA / "boats/test_digests.npy").unlink()
    with pytest.raises(UserError, match="boats/test_digests.npy"):
        audit("overlay.yaml", basedir=project)


def test_texts_are_audited_with_their_labels(texts, capsys):
    rows, _ = audited(texts, capsys)
    found = {row[:4]: row[4] for row in rows if row[0] == row[2]}
    assert {key[0] for key in found} == {*TASKS, "notes", "grades"}
    both = (TEXT_DATA / f"notes/{split}.jsonl" for split in ("train", "test"))
    train, test = (set(path.read_text().splitlines()) for path in both)
    assert found["notes", "train", "notes", "test"] == len(train & test)
