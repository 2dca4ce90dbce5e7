"""What the embedded suite promises: seeded, disjoint, in open_clip's and the hub's own forms."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

import corpus
import pretrain
from pretraining import ENCODERS_FOLDER
from task_arithmetic.embedded import draw, real, tasks
from task_arithmetic.errors import UserError

ROOT = Path(__file__).parents[2]
ENCODERS = ("embedded-small", "embedded-base")
TASKS = tuple(tasks.CLASSES)


@pytest.fixture(scope="module")
def drawn():
    """The first 60 images of each split of each task."""
    return {name: tasks.draw_task(name, limit=60) for name in TASKS}


def hashes(images):
    return {tasks.image_hash(image) for image in images}


@pytest.mark.parametrize("name", TASKS)
def test_a_task_has_the_promised_form(drawn, name):
    for images, labels in drawn[name].values():
        assert images.shape == (60, 32, 32, 3) and images.dtype == np.uint8
        assert labels.shape == (60,) and labels.dtype == np.int64
        assert 0 <= labels.min() and labels.max() < len(tasks.CLASSES[name])


@pytest.mark.parametrize("name", TASKS)
def test_the_same_seed_draws_the_same_images_and_another_seed_others(drawn, name):
    again = tasks.draw_task(name, limit=60)
    other = tasks.draw_task(name, seed=1, limit=20)
    for split, (images, labels) in drawn[name].items():
        assert np.array_equal(again[split][0], images)
        assert np.array_equal(again[split][1], labels)
        assert not np.array_equal(other[split][0], images[:20])


def test_a_limit_keeps_the_first_images(drawn):
    few = tasks.draw_task("signs", limit=5)["test"][0]
    assert np.array_equal(few, drawn["signs"]["test"][0][:5])


def test_no_image_appears_twice_in_a_whole_task():
    for name in ("handwritten", "optical", "textures"):  # the ones where it could happen
        splits = tasks.draw_task(name)
        images = np.concatenate([splits["train"][0], splits["test"][0]])
        assert len(images) == sum(tasks.COUNTS[name])
        assert len(hashes(images)) == len(images)


def test_no_image_is_shared_between_splits_tasks_or_the_corpus(drawn):
    images = [image for splits in drawn.values() for part, _ in splits.values() for image in part]
    assert len(hashes(images)) == len(images)
    assert not hashes(images) & hashes([corpus.draw_pair(0, index)[0] for index in range(500)])


def test_a_repeated_image_is_drawn_again(monkeypatch):
    calls = []

    def two_values(rng, label):
        calls.append(label)
        return np.full((32, 32, 3), min(len(calls) // 2, 200), np.uint8)

    monkeypatch.setattr(tasks.rendered, "shapes", two_values)
    splits = tasks.draw_task("shapes", limit=3)
    assert len(hashes([*splits["train"][0], *splits["test"][0]])) == 6


def test_train_and_test_crops_of_a_photograph_share_no_pixel():
    for name, (*_, train, test, least, most) in real.PHOTOS.items():
        apart = (
            train[2] <= test[0] or test[2] <= train[0] or train[3] <= test[1] or test[3] <= train[1]
        )
        assert apart and least <= most, name
        width, height = real.photo(name).size
        for split, region in (("train", train), ("test", test)):
            assert 0 <= region[0] and region[2] <= width and 0 <= region[1] and region[3] <= height
            for seed in range(100):
                box = real.texture_box(np.random.default_rng(seed), name, split)
                assert region[0] <= box[0] and box[2] <= region[2]
                assert region[1] <= box[1] and box[3] <= region[3]


def test_corpus_and_tasks_share_no_font():
    assert not set(corpus.FONTS) & set(draw.TASK_FONTS)
    for name in (*corpus.FONTS, *draw.TASK_FONTS):
        assert (draw.FONT_FOLDER / name).exists()


def test_the_corpus_is_drawn_from_its_seed():
    images, captions = corpus.draw_corpus(0, 30)
    again, same_captions = corpus.draw_corpus(0, 30, processes=1)
    assert np.array_equal(images, again) and captions == same_captions
    assert images.shape == (30, 32, 32, 3)
    assert all(captions)


def test_a_task_is_saved_in_the_form_that_the_hub_gives(tmp_path):
    datasets = pytest.importorskip("datasets")
    tasks.save_task("landcover", tmp_path / "landcover", limit=12)
    stored = datasets.load_from_disk(str(tmp_path / "landcover"))
    images, labels = tasks.draw_task("landcover", limit=12)["test"]
    assert set(stored) == {"train", "test"}
    assert stored["test"].features["label"].names == list(tasks.CLASSES["landcover"])
    assert stored["test"]["label"] == labels.tolist()
    for row, image in zip(stored["test"], images, strict=False):
        assert np.array_equal(np.asarray(row["image"]), image)
    assert [path.name for path in tmp_path.iterdir()] == ["landcover"]


def test_saving_twice_gives_identical_files(tmp_path):
    for folder in ("first", "second"):
        tasks.save_task("optical", tmp_path / folder, limit=8)
    files = [
        {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}
        for root in (tmp_path / "first", tmp_path / "second")
    ]
    assert files[0] == files[1]


def test_an_unknown_task_names_the_nearest():
    with pytest.raises(UserError, match="letter2.*did you mean 'letters'"):
        tasks.draw_task("letter2")


@pytest.mark.parametrize("name", TASKS)
def test_the_definition_of_a_task_agrees_with_its_drawing(name):
    definition = yaml.safe_load((ROOT / "config" / "tasks" / f"{name}.yaml").read_text())
    train, test = tasks.COUNTS[name]
    assert definition["embedded"] == name
    assert definition["expected"] == {
        "train": train - definition["validation"],
        "validation": definition["validation"],
        "test": test,
        "classes": len(tasks.CLASSES[name]),
    }
    assert all(template.count("{}") == 1 for template in definition["templates"])
    assert len(set(tasks.CLASSES[name])) == len(tasks.CLASSES[name])


@pytest.mark.parametrize("encoder", ENCODERS)
def test_shipped_files_have_the_recorded_hashes(encoder):
    folder = ENCODERS_FOLDER / encoder
    record = json.loads((folder / "provenance.json").read_text())
    for name, expected in record["sha256"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == expected
    assert record["steps"] == pretrain.STEPS[encoder]
    assert record["corpus_images"] == corpus.SIZE


def test_shipped_files_take_at_most_8_megabytes():
    files = [path for path in ENCODERS_FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 8_000_000
    assert len(files) == 4 * len(ENCODERS) + 5  # and a T5's


@pytest.mark.parametrize("encoder", ENCODERS)
def test_open_clip_loads_a_shipped_encoder_strictly(encoder):
    open_clip = pytest.importorskip("open_clip")
    from open_clip.tokenizer import SimpleTokenizer
    from safetensors.torch import load_file

    folder = ENCODERS_FOLDER / encoder
    model = open_clip.create_model(f"local-dir:{folder}")
    tensors = load_file(folder / "open_clip_model.safetensors")
    model.load_state_dict(tensors, strict=True)
    definition = yaml.safe_load((ROOT / "config" / "encoders" / f"{encoder}.yaml").read_text())
    assert (ROOT / definition["path"]).resolve() == folder.resolve()
    tokenizer = SimpleTokenizer(bpe_path=str(folder / "bpe_merges.txt.gz"), context_length=20)
    assert tokenizer.vocab_size == model.vocab_size == len(tensors["token_embedding.weight"])
    # A word of the corpus is one token; every prompt fits.
    assert len(tokenizer.encode("umbrella")) == 1
    for name, classes in tasks.CLASSES.items():
        definition = yaml.safe_load((ROOT / "config" / "tasks" / f"{name}.yaml").read_text())
        for template in definition["templates"]:
            assert all(len(tokenizer.encode(template.format(c))) <= 18 for c in classes)


def test_pretraining_is_repeatable_and_its_folder_loads(tmp_path):
    open_clip = pytest.importorskip("open_clip")
    for name in ("first", "second"):
        pretrain.pretrain("embedded-small", tmp_path / name, seed=3, steps=2, size=300)
    records = [
        json.loads((tmp_path / n / "provenance.json").read_text()) for n in ("first", "second")
    ]
    assert records[0]["sha256"] == records[1]["sha256"]
    assert records[0]["steps"] == 2
    open_clip.create_model(f"local-dir:{tmp_path / 'first'}")
