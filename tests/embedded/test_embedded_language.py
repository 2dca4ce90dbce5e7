"""What the embedded language suite promises: seeded, disjoint, in the form of GLUE and T5."""

import bz2
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

import pretrain_t5
import rows
import words
from pretraining import ENCODERS_FOLDER
from task_arithmetic.embedded import tasks, texts
from task_arithmetic.errors import UserError

ROOT = Path(__file__).parents[2]
TASKS = tuple(texts.TEXT_TASKS)
FOLDER = ENCODERS_FOLDER / pretrain_t5.ENCODER


@pytest.fixture(scope="module")
def written():
    return {name: texts.read_rows(name) for name in TASKS}


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(FOLDER / "tokenizer.json"))


def definition(name):
    return yaml.safe_load((ROOT / "config" / "tasks" / f"{name}.yaml").read_text())


@pytest.mark.parametrize("name", TASKS)
def test_a_task_has_as_many_rows_of_each_class_or_scores_of_all_sizes(written, name):
    classes = texts.TEXT_TASKS[name][1]
    for split, count in (("train", rows.TRAIN), ("validation", rows.VALIDATION)):
        made, labels = written[name][split]
        assert len(made) == len(labels) == count
        if classes:
            counts = np.bincount(labels, minlength=len(classes))
            assert len(counts) == len(classes) and counts.max() - counts.min() <= 1
        else:
            assert min(labels) == 0 and max(labels) == 5
            assert np.histogram(labels, bins=5, range=(0, 5))[0].min() > count / 20


@pytest.mark.parametrize("name", TASKS)
def test_the_same_seed_writes_the_same_rows_and_another_seed_others(written, name):
    few = rows.draw_rows(name, limit=50)
    other = rows.draw_rows(name, seed=1, limit=50)
    assert few == rows.draw_rows(name, 0, 50)
    assert all(made != other[split].texts for split, (made, _) in few.items())
    assert few["train"].texts == written[name]["train"].texts[:50]
    assert texts.read_rows(name, limit=50)["train"] == few["train"]


def test_the_shipped_rows_are_those_that_the_grammar_draws_byte_by_byte():
    assert hashlib.sha256(texts.FILE.read_bytes()).hexdigest() == texts.SHA256
    assert bz2.decompress(rows.content()) == bz2.decompress(texts.FILE.read_bytes())


def test_other_rows_than_those_of_the_code_are_refused(tmp_path, monkeypatch):
    (tmp_path / "rows").write_bytes(texts.FILE.read_bytes() + b"x")
    monkeypatch.setattr(texts, "FILE", tmp_path / "rows")
    with pytest.raises(UserError, match="not the file that came with this code"):
        texts.read_rows("sentiment")


@pytest.mark.parametrize("name", TASKS)
def test_no_sentence_is_in_both_splits_and_no_row_appears_twice(written, name):
    train, validation = (written[name][split][0] for split in ("train", "validation"))
    assert not {t for made in train for t in made} & {t for made in validation for t in made}
    assert len({*train, *validation}) == len(train) + len(validation)


def test_no_sentence_of_a_task_is_in_the_pretraining_corpus(written):
    """Of each phase of the shipped encoder, the first 4,000 examples."""
    corpora = [
        pretrain_t5.make_corpus([0, 5, i], phase["mixture"], 4_000, phase.get("twice", ()))
        for i, phase in enumerate(pretrain_t5.PHASES)
    ]
    sources, targets = ([text for c in corpora for text in c[i]] for i in range(2))
    read = set()
    for source, target in zip(sources, targets, strict=True):
        spans = dict(re.findall(r"(<extra_id_\d>) ([^<]+)", target))
        filled = re.sub(r"<extra_id_\d>", lambda m, s=spans: s[m[0]].strip(), source)
        read.update(part.strip() for part in re.split(r"\b\w+: | \. ", filled))
    known = {
        t for splits in written.values() for made, _ in splits.values() for r in made for t in r
    }
    assert len(read) > 10_000 and not read & known


def test_easy_examples_use_simple_words_and_easy_kinds_alone():
    rare = {word for group in words.PERSON_GROUPS + words.THING_GROUPS for word in group[1:]}
    rng = np.random.default_rng(0)
    for name in TASKS:
        made = [pretrain_t5._instruction(rng, name, "easy")[1] for _ in range(200)]
        assert not rare & {word for text in made for word in text.split()}, name


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_saved_in_the_form_that_the_hub_gives(tmp_path, written, name):
    datasets = pytest.importorskip("datasets")
    tasks.save_task(name, tmp_path / name, limit=20)
    stored = datasets.load_from_disk(str(tmp_path / name))
    columns, classes = texts.TEXT_TASKS[name]
    assert set(stored) == {"train", "validation"}
    features = stored["train"].features
    assert list(features) == [*columns, "label", "idx"]
    assert features["idx"].dtype == "int32"
    if classes:
        assert features["label"].names == list(classes)
    else:
        assert features["label"].dtype == "float32"
    made, labels = written[name]["train"]
    assert stored["train"]["label"] == pytest.approx(labels[:20])
    assert [tuple(row[c] for c in columns) for row in stored["train"]] == made[:20]


def test_an_unknown_task_names_the_nearest_of_all(tmp_path):
    with pytest.raises(UserError, match="sentiments.*did you mean 'sentiment'.*: all are"):
        tasks.save_task("sentiments", tmp_path / "sentiments")


@pytest.mark.parametrize("name", TASKS)
def test_the_definition_of_a_task_agrees_with_its_rows_and_its_pretraining(name):
    made, (columns, classes) = definition(name), texts.TEXT_TASKS[name]
    assert made["embedded"] == name and made["texts"] == list(columns)
    prompt = made["prompts"]["embedded"]
    assert prompt["input"] == pretrain_t5.prompt(name)
    assert prompt["labels"] == (list(classes) or "{:.1f}")
    held_out = made["validation"]
    expected = {"train": rows.TRAIN - held_out, "validation": held_out, "test": rows.VALIDATION}
    assert made["expected"] == expected | ({"classes": len(classes)} if classes else {})


def test_shipped_files_have_the_recorded_hashes():
    record = json.loads((FOLDER / "provenance.json").read_text())
    assert {path.name for path in FOLDER.iterdir()} == {*record["sha256"], "provenance.json"}
    for name, expected in record["sha256"].items():
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == expected
    assert record["phases"] == list(pretrain_t5.PHASES)


def test_the_shipped_model_is_small_and_tied_and_as_its_tokenizer(tokenizer):
    from safetensors.numpy import load_file

    tensors = load_file(FOLDER / "model.safetensors")
    assert 200_000 <= sum(tensor.size for tensor in tensors.values()) <= 500_000
    assert "lm_head.weight" not in tensors
    assert len(tensors["shared.weight"]) == tokenizer.get_vocab_size()
    config = json.loads((FOLDER / "config.json").read_text())
    path = yaml.safe_load((ROOT / "config/encoders/embedded-t5.yaml").read_text())["path"]
    assert (ROOT / path).resolve() == FOLDER.resolve()
    assert config["pad_token_id"] == tokenizer.token_to_id("<pad>") == 0
    assert config["eos_token_id"] == tokenizer.token_to_id("</s>")
    assert tensors.keys() >= {"decoder.block.0.layer.1.EncDecAttention.k.weight"}


def test_label_words_are_distinct_tokens_and_prompts_are_short(tokenizer, written):
    for name in TASKS:
        classes = texts.TEXT_TASKS[name][1] or [f"{score / 10:.1f}" for score in range(51)]
        ids = [tuple(tokenizer.encode(word).ids) for word in classes]
        assert len(set(ids)) == len(ids) and max(map(len, ids)) <= 5
        columns, made = texts.TEXT_TASKS[name][0], written[name]["validation"][0]
        prompts = [
            pretrain_t5.prompt(name).format(**dict(zip(columns, m, strict=True))) for m in made
        ]
        lengths = [len(encoding.ids) for encoding in tokenizer.encode_batch(prompts)]
        assert np.mean(lengths) <= 28 and tokenizer.token_to_id("<unk>") not in ids[0]


def test_both_readers_of_the_tokenizer_give_the_same_ids(tokenizer, written):
    transformers = pytest.importorskip("transformers")
    automatic = transformers.AutoTokenizer.from_pretrained(FOLDER)
    made = [text for name in TASKS for row in written[name]["validation"][0][:40] for text in row]
    made += ["the <extra_id_0> buys a <extra_id_1>", "3.4", "An unseen Zebra: café?", ""]
    ids = [encoding.ids for encoding in tokenizer.encode_batch(made)]
    assert automatic(made)["input_ids"] == ids
    assert all(row[-1] == automatic.eos_token_id for row in ids)
    assert tokenizer.decode(tokenizer.encode("not_duplicate").ids) == "not_duplicate"


def test_transformers_loads_the_shipped_model_strictly():
    transformers = pytest.importorskip("transformers")
    model, found = transformers.T5ForConditionalGeneration.from_pretrained(
        FOLDER, output_loading_info=True
    )
    assert not any(found.values()) and model.config.tie_word_embeddings


def test_pretraining_is_repeatable(tmp_path):
    phases = [phase | {"size": 400, "steps": 2} for phase in pretrain_t5.PHASES]
    for name in ("first", "second"):
        pretrain_t5.pretrain(tmp_path / name, seed=3, phases=phases)
    records = [
        json.loads((tmp_path / n / "provenance.json").read_text()) for n in ("first", "second")
    ]
    assert records[0]["sha256"] == records[1]["sha256"] and records[0]["steps"] == 2 * len(phases)
