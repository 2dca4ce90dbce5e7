"""Tasks of texts: what the data stage keeps, which prompts and answers an encoder gets, what both
refuse."""

import json
import subprocess
import sys
from copy import deepcopy

import datasets
import numpy as np
import pytest
from safetensors.numpy import load_file

from task_arithmetic.config.reading import load_definition
from task_arithmetic.errors import UserError
from task_arithmetic.files.hashes import read_sealed, sealed, sha256_of_file
from task_arithmetic.files.manifest import read_manifest, sample_indices
from task_arithmetic.files.paths import read_json, write_json
from task_arithmetic.files.source import hold_out
from task_arithmetic.files.tensors import read_made_by
from task_arithmetic.language.prepare import check_text_task, fill, write_texts
from task_arithmetic.language.tokens import read_tokens, write_tokens

COUNTS = {"train": 40, "test": 12}
SPLITS = ("train", "validation", "test")
CLASSES = ["no", "yes"]
WORDS = "a the cat dog house sees likes near under not old red".split()
ALPHABET = "abcdefghijklmnopqrstuvwxyzACEIPRTUW0123456789 {}.,:'\"()?_"
CLASS, SCORE = {"texts": ["one", "two"], "metric": "exact_match"}, {"metric": "spearman"}
PROMPT = {"input": "is {one} as {two}?", "labels": ["no", "yes"]}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """`datasets` keeps its cache within the test."""
    for name in ("HF_DATASETS_CACHE", "HF_CACHE_HOME"):
        monkeypatch.setattr(datasets.config, name, tmp_path / "cache")


def rows(split, count=None, scores=False) -> dict:
    """Column → values: two different texts for each row."""
    count = COUNTS[split] if count is None else count
    generator = np.random.default_rng([*split.encode()])
    texts = {
        column: [
            " ".join([*generator.choice(WORDS, generator.integers(2, 7)), column, split, str(i)])
            for i in range(count)
        ]
        for column in ("one", "two")
    }
    values = generator.uniform(0, 5, count).astype(np.float32).tolist()
    return {**texts, "label": values if scores else [i % 2 for i in range(count)]}


def features(scores=False, **changes):
    label = datasets.Value("float32") if scores else datasets.ClassLabel(names=CLASSES)
    text = datasets.Value("string")
    return datasets.Features({"one": text, "two": text, "label": label, **changes})


def saved(folder, scores=False, kinds=None, **splits) -> str:
    """A saved dataset of such rows; `splits` gives other ones."""
    splits = {**{name: rows(name, scores=scores) for name in COUNTS}, **splits}
    kinds = kinds or features(scores)
    made = {name: datasets.Dataset.from_dict(found, kinds) for name, found in splits.items()}
    datasets.DatasetDict(made).save_to_disk(folder)
    return str(folder)


def written(tmp_path, scores=False, name="data", **definition):
    definition = {**CLASS, **(SCORE if scores else {}), **definition}
    if "path" not in definition:
        definition["path"] = saved(tmp_path / "source", scores)
    write_texts("mine", definition, tmp_path / name)
    return tmp_path / name


def lines(folder, split) -> list[dict]:
    return [json.loads(line) for line in (folder / f"{split}.jsonl").read_text().splitlines()]


def as_lines(found: dict, chosen) -> list[dict]:
    return [{column: values[i] for column, values in found.items()} for i in chosen]


@pytest.fixture(scope="module")
def tokenizer():
    """A small tokenizer to which no character is unknown."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    made = Tokenizer(models.Unigram())
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    made.train_from_iterator([*WORDS, *CLASSES, ALPHABET], trainer)
    made.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    made.enable_truncation(4)  # as some checkpoints' files say; what is cut is ours to say
    made.enable_padding(length=50)
    return made


@pytest.fixture
def encoder(tmp_path, tokenizer):
    """The encoder stage's folder, as far as tokens need it."""
    return save_encoder(tmp_path / "encoder", tokenizer)


def save_encoder(folder, tokenizer, name="small"):
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    about = {"name": name, "geometry": {"eos": 1, "pad": 0}}
    about["tokenizer_sha256"] = sha256_of_file(folder / "tokenizer.json")
    write_json(folder / "encoder.json", sealed(about))
    return folder


def tokens_of(tmp_path, encoder, data, name="head", **settings):
    settings = {"prompt": PROMPT, "metric": "exact_match", **settings}
    write_tokens(encoder, data, settings, tmp_path / f"{name}.safetensors")
    return tmp_path / f"{name}.safetensors"


def read(path, encoder, data, split, limit=None):
    about = read_sealed(encoder / "encoder.json")
    return read_tokens(
        path, read_manifest(data), about["name"], about["tokenizer_sha256"], split, limit
    )


def inputs_of(texts, tokenizer) -> list[str]:
    """The inputs as texts again; each must end where its text does, and only there."""
    found = [texts.tokens[a:b].tolist() for a, b in zip(texts.starts, texts.ends, strict=True)]
    assert all(ids[-1] == 1 and 1 not in ids[:-1] for ids in found)
    return [tokenizer.decode(ids) for ids in found]


# --- The seven tasks' definitions ----------------------------------------------------------------

# What the references' code makes of a row: task → prompt set → the row's input, its answers.
PETA = {
    "cola": lambda r: f"cola sentence: {r['sentence']}",
    "mnli": lambda r: f"mnli hypothesis: {r['hypothesis']} premise: {r['premise']}",
    "mrpc": lambda r: f"mrpc sentence1: {r['sentence1']} sentence2: {r['sentence2']}",
    "qqp": lambda r: f"qqp question1: {r['question1']} question2: {r['question2']}",
    "rte": lambda r: f"rte sentence1: {r['sentence1']} sentence2: {r['sentence2']}",
    "sst2": lambda r: f"sst2 sentence: {r['sentence']}",
    "stsb": lambda r: f"stsb sentence1: {r['sentence1']} sentence2: {r['sentence2']}",
}
FUSION_BENCH = {
    "cola": lambda r: (
        f'Indicate if the following sentence is grammatically correct or not: "{r["sentence"]}". '
        "Answere 'acceptable' or 'unacceptable'."
    ),
    "mnli": lambda r: (
        f"Does the premise: '{r['premise']}' logically imply, contradict, or is neutral to the "
        f"hypothesis: '{r['hypothesis']}'? Answere with 'entailment', 'contradiction', or "
        "'neutral'."
    ),
    "mrpc": lambda r: (
        f"Are the following sentences '{r['sentence1']}' and '{r['sentence2']}' conveying the "
        "same meaning? Answere with 'yes' or 'no'."
    ),
    "qqp": lambda r: (
        f"Do the questions '{r['question1']}' and '{r['question2']}' have the same intent? "
        "Answere with 'yes' or 'no'."
    ),
    "rte": lambda r: (
        f"Does the text: '{r['sentence1']}' entail that '{r['sentence2']}' is true? Provide "
        "'yes' or 'no'."
    ),
    "sst2": lambda r: (
        f"Given the sentence '{r['sentence']}', determine the sentiment. Is it positive or "
        "negative?"
    ),
    "stsb": lambda r: (
        f"Consider the sentences '{r['sentence1']}' and '{r['sentence2']}'. On a scale from 1 "
        "(completely different) to 5 (completely similar), rate the similarity."
    ),
}
NAMES = {  # ClassLabel of nyu-mll/glue
    "cola": ["unacceptable", "acceptable"],
    "mnli": ["entailment", "neutral", "contradiction"],
    "mrpc": ["not_equivalent", "equivalent"],
    "qqp": ["not_duplicate", "duplicate"],
    "rte": ["entailment", "not_entailment"],
    "sst2": ["negative", "positive"],
    "stsb": [],
}
ANSWERS = {"mrpc": ["no", "yes"], "qqp": ["no", "yes"], "rte": ["yes", "no"]}  # fusion_bench's own
GLUE_COUNTS = {  # of nyu-mll/glue: train, and validation (matched)
    "cola": (8551, 1043), "mnli": (392_702, 9815), "mrpc": (3668, 408), "qqp": (363_846, 40_430),
    "rte": (2490, 277), "sst2": (67_349, 872), "stsb": (5749, 1500),
}  # fmt: skip
EXAMPLE = ['It\'s {sentence} "50%" of {0}.', "Not {premise}: {hypothesis}? "]


def define(task):
    return load_definition("tasks", task, "language.tasks", modality="language").given()


@pytest.mark.parametrize("task", NAMES)
def test_prompts_are_those_of_the_references(task):
    definition = define(task)
    assert set(definition["prompts"]) == {"peta", "fusion_bench"}
    row = dict(zip(definition["texts"], EXAMPLE, strict=False))
    for name, render in (("peta", PETA[task]), ("fusion_bench", FUSION_BENCH[task])):
        prompt = definition["prompts"][name]
        assert fill(prompt["input"], row) == render(row)
        answers = NAMES[task] if name == "peta" else ANSWERS.get(task, NAMES[task])
        assert prompt["labels"] == (answers or "{:.1f}")


@pytest.mark.parametrize("task", NAMES)
def test_definitions_are_those_of_glue(task):
    definition, (train, test) = define(task), GLUE_COUNTS[task]
    kept, held = hold_out(train)
    expected = {"train": len(kept), "validation": len(held), "test": test}
    if NAMES[task]:
        expected["classes"] = len(NAMES[task])
    assert definition["expected"] == expected
    assert definition.get("classes", []) == NAMES[task]
    assert (definition["hub"], definition["config"]) == ("nyu-mll/glue", task)
    assert definition["test"] == ("validation_matched" if task == "mnli" else "validation")
    assert definition["metric"] == ("exact_match" if NAMES[task] else "spearman")
    assert definition["paper_task"] == task


def test_encoders_are_the_two_of_the_protocol():
    found = [
        load_definition("encoders", name, "language.encoders", modality="language").given()
        for name in ("t5-base", "flan-t5-base")
    ]
    assert [e["hub"] for e in found] == ["google-t5/t5-base", "google/flan-t5-base"]
    assert [e["prompts"] for e in found] == ["peta", "fusion_bench"]
    differ = {k: (v, found[1]["architecture"][k]) for k, v in found[0]["architecture"].items()}
    assert {k: v for k, v in differ.items() if v[0] != v[1]} == {
        "d_ff": (3072, 2048),
        "feed_forward_proj": ("relu", "gated-gelu"),
        "tie_word_embeddings": (True, False),
    }


# --- What the data stage keeps -------------------------------------------------------------------


@pytest.mark.parametrize("scores", [False, True], ids=["classes", "scores"])
def test_every_row_is_in_exactly_one_split_with_its_label(tmp_path, scores):
    folder = written(tmp_path, scores, validation=7)
    kept, held = hold_out(40, 7, None if scores else rows("train")["label"])
    for split, source, chosen in (
        ("train", "train", kept), ("validation", "train", held), ("test", "test", range(12)),
    ):  # fmt: skip
        assert lines(folder, split) == as_lines(rows(source, scores=scores), chosen)
    manifest = read_manifest(folder)
    assert manifest.counts == {"train": 33, "validation": 7, "test": 12}
    assert manifest.classes == ([] if scores else CLASSES)
    assert manifest.source_classes == (None if scores else CLASSES)
    assert set(manifest.files) == {f"{split}.jsonl" for split in SPLITS}


def test_a_row_is_a_line_of_its_columns_and_label_in_order(tmp_path):
    odd = 'a "quote", a\nline\u2028and {one} of 100 % é'
    test = rows("test") | {"two": [odd, *rows("test")["two"][1:]]}
    path = saved(tmp_path / "source", test=test)
    folder = written(tmp_path, path=path, texts=["two", "one"])
    first = (folder / "test.jsonl").read_bytes().split(b"\n")[0].decode()
    assert first.startswith('{"label": 0, "one": ') and json.loads(first)["two"] == odd


def test_making_a_task_again_gives_the_same_files(tmp_path):
    path = saved(tmp_path / "source")
    one, two = (written(tmp_path, path=path, name=name) for name in ("a", "b"))
    names = sorted(p.name for p in one.iterdir())
    assert names == ["manifest.json", "test.jsonl", "train.jsonl", "validation.jsonl"]
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in names)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("what", ["a word", "a label", "a class name"])
def test_the_data_hash_changes_with_any_part_of_the_data(tmp_path, what):
    before = read_manifest(written(tmp_path)).data_sha256
    test, kinds = rows("test"), features()
    if what == "a word":
        test["two"][5] += "s"
    elif what == "a label":
        test["label"][5] = 1 - test["label"][5]
    else:
        kinds = features(label=datasets.ClassLabel(names=["no", "perhaps"]))
    path = saved(tmp_path / "other", kinds=kinds, test=test)
    assert read_manifest(written(tmp_path, path=path, name="b")).data_sha256 != before


def test_a_task_that_is_only_evaluated_has_no_train_rows(tmp_path):
    folder = written(tmp_path, train=None, validation=3)
    assert read_manifest(folder).counts == {"train": 0, "validation": 3, "test": 9}
    found = lines(folder, "validation") + lines(folder, "test")
    assert sorted(row["one"] for row in found) == sorted(rows("test")["one"])


def test_repeated_and_shared_rows_are_counted_and_shared_ones_held_to_the_definition(tmp_path):
    train, test = rows("train"), rows("test")
    kept = hold_out(40, None, rows("train")["label"])[0][3]
    for column in ("one", "two"):
        test[column][2] = train[column][kept]
        test[column][4] = test[column][5]
    test["one"][7] = train["one"][kept]  # the same text, but not the same row
    path = saved(tmp_path / "source", train=train, test=test)
    manifest = read_manifest(written(tmp_path, path=path, shared_texts=0.1))
    shared = {"train-validation": 0, "train-test": 1, "validation-test": 0}
    assert manifest.shared_between_splits == shared
    assert manifest.repeated_within_split == {"train": 0, "validation": 0, "test": 1}
    with pytest.raises(UserError, match="train and test have 1 text in common;.*`shared_texts`"):
        written(tmp_path, path=path, shared_texts=0.08)  # 1 of 12 is 0.083


# --- What it refuses -----------------------------------------------------------------------------


def hidden(label):
    return lambda folder: {"path": saved(folder, test=rows("test") | {"label": [label] * 12})}


def hidden_scores(folder):
    test = rows("test", scores=True) | {"label": [-1.0] * 12}
    return {"path": saved(folder, True, test=test), "metric": "spearman"}


def endless_score(folder):
    test = rows("test", scores=True)
    test["label"][3] = float("nan")
    return {"path": saved(folder, True, test=test), "metric": "spearman"}


def score_in_words(folder):
    test = rows("test") | {"label": ["good"] * 12}
    train = rows("train") | {"label": ["good"] * 40}
    kinds = features(label=datasets.Value("string"))
    return {"path": saved(folder, kinds=kinds, train=train, test=test), "metric": "spearman"}


def missing_text(folder):
    test = rows("test")
    test["two"][3] = None
    return {"path": saved(folder, test=test)}


def text_of_numbers(folder):
    kinds, extra = features(size=datasets.Value("int32")), {"size": list(range(40))}
    test = rows("test") | {"size": list(range(12))}
    path = saved(folder, kinds=kinds, train=rows("train") | extra, test=test)
    return {"path": path, "texts": ["one", "size"]}


BAD = {
    "hidden labels": (hidden(-1), "row 0 of the test texts has label -1: its labels are hidden; "
                      "set `test` in its definition"),
    "missing labels": (hidden(None), "row 0 .* has label None: its labels are hidden; set `test`"),
    "hidden scores": (hidden_scores, "has label -1.0: its labels are hidden; set `test`"),
    "endless score": (endless_score, "row 3 of the test texts has label nan, which is no finite"),
    "score in words": (score_in_words, "'label' of its train texts is not a label of numbers"),
    "missing text": (missing_text, "row 3 of the test texts has no text in column 'two' .*None"),
    "numbers": (text_of_numbers, "has no text in column 'size' .it holds 0.*set `texts`"),
    "column": (lambda f: {"path": saved(f), "texts": ["three"]}, "no column 'three' .*`texts`"),
    "label column": (lambda f: {"path": saved(f), "label": "kind"}, "no column 'kind' .*`label`"),
    "split": (lambda f: {"path": saved(f), "test": "dev"}, "no split 'dev' .it has train, test"),
    "empty": (lambda f: {"path": saved(f, test=rows("test", 0))}, "its split 'test' is empty"),
    "order": (lambda f: {"path": saved(f), "classes": ["yes", "no"]}, "label 0 is 'no' in its da"),
    "classes": (lambda f: {"path": saved(f), "classes": [*"abc"]}, "3 classes, its dataset has 2"),
    "counts": (lambda f: {"path": saved(f), "expected": {"test": 9}}, "12 test instead of the exp"),
    "validation": (lambda f: {"path": saved(f), "validation": 40}, "hold out 40 of 40 rows"),
    "folder": (lambda f: {"path": str(f)}, "there is nothing at"),
    "images": (lambda f: f.mkdir() or {"path": str(f)}, "has no split 'train' .it is empty"),
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_dataset_is_one_sentence_that_names_the_task_and_leaves_nothing(tmp_path, bad):
    make, says = BAD[bad]
    definition = make(tmp_path / "source")
    with pytest.raises(UserError, match=says) as caught:
        written(tmp_path, **definition)
    assert "Task mine" in str(caught.value) and "\n" not in str(caught.value)
    assert not {p.name for p in tmp_path.iterdir()} - {"source", "cache"}


# --- Prompts -------------------------------------------------------------------------------------


def test_a_text_stands_in_its_prompt_as_it_is_whatever_it_holds():
    row = {"one": "{two} {one} {} {0} {{two}}", "two": "\\1 {one!r}"}
    assert fill("{two}|{one}|{two}", row) == f"{row['two']}|{row['one']}|{row['two']}"


GOOD = {
    "texts": ["one", "two"],
    "metric": "exact_match",
    "classes": CLASSES,
    "prompts": {"mine": PROMPT, "other": {"input": "{two} {one}", "labels": ["a", "b"]}},
}
WRONG = {  # what is changed of its prompt `mine`, and elsewhere → what is said
    "missing field": ({"input": "is {one}?"}, {}, "prompt mine lacks {two}"),
    "unknown field": ({"input": "{one} {two} {three}"}, {}, "prompt mine has {three}, which"),
    "empty field": ({"input": "{one} {two} {}"}, {}, "prompt mine has {}, which"),
    "a format for classes": ({"labels": "{:.1f}"}, {}, "must be a list.*exact_match"),
    "a list for scores": ({}, {"metric": "spearman"}, "must be the format of a score.*spearman"),
    "no number": ({"labels": "{}s"}, {"metric": "spearman"}, "must be the format of a score"),
    "no field": ({"labels": "1.0"}, {"metric": "spearman"}, "must be the format of a score"),
    "two fields": ({"labels": "{}{}"}, {"metric": "spearman"}, "must be the format of a score"),
    "another order": ({"labels": ["yes", "no"]}, {}, "answers label 0, which `classes` calls 'no'"),
    "a label twice": ({"labels": ["no", "no"]}, {}, "'no' stands twice in the labels"),
    "too few labels": ({"labels": ["no"]}, {}, "has 1 labels for 2 classes"),
    "too many expected": ({}, {"classes": None, "expected": {"classes": 3}}, "2 labels for 3 cl"),
}


def test_a_right_definition_passes():
    check_text_task(GOOD, "here")
    scores = {"mine": {**PROMPT, "labels": "{:.1f}"}}
    check_text_task({**GOOD, "metric": "spearman", "prompts": scores}, "here")


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_prompt_is_one_sentence(wrong):
    prompt, others, says = WRONG[wrong]
    definition = deepcopy(GOOD) | others
    definition["prompts"]["mine"] |= prompt
    with pytest.raises(UserError, match=says) as caught:
        check_text_task(definition, "config/tasks/mine.yaml")
    assert "config/tasks/mine.yaml" in str(caught.value) and "\n" not in str(caught.value)


# --- What an encoder reads -----------------------------------------------------------------------


def test_inputs_are_the_prompts_of_all_rows_whole_each_with_its_end(tmp_path, encoder, tokenizer):
    test = rows("test")
    test["one"][4] = "{two} is {label}"
    data = written(tmp_path, path=saved(tmp_path / "source", test=test))
    path = tokens_of(tmp_path, encoder, data)
    for split in SPLITS:
        found = lines(data, split)
        texts = read(path, encoder, data, split)
        assert inputs_of(texts, tokenizer) == [f"is {r['one']} as {r['two']}?" for r in found]
        assert texts.target.tolist() == [row["label"] for row in found]
        assert texts.score is None and texts.metric == "exact_match" and texts.longest == 10
        assert texts.texts == CLASSES
        assert [tokenizer.decode(row.tolist()) for row in texts.words] == CLASSES
    assert "is {two} is {label} as " in inputs_of(texts, tokenizer)[4]
    about = read_made_by(path)
    assert about["cut"] == dict.fromkeys(SPLITS, 0) and about["prompt"] == PROMPT
    assert about["max_tokens"] == {"input": 512, "target": 10}
    kinds = {name: array.dtype.name for name, array in load_file(path).items()}
    assert kinds == {"words": "int32"} | {
        f"{split}.{what}": "int64" if what == "ends" else "int32"
        for split in SPLITS
        for what in ("tokens", "ends", "target")
    }


def test_a_score_is_to_be_answered_in_its_format_and_kept_exactly(tmp_path, encoder, tokenizer):
    data = written(tmp_path, True)
    prompt = {**PROMPT, "labels": "{:.1f}"}
    path = tokens_of(tmp_path, encoder, data, prompt=prompt, metric="spearman")
    everything = []
    for split in SPLITS:
        texts = read(path, encoder, data, split)
        scores = [row["label"] for row in lines(data, split)]
        assert texts.score.dtype == np.float32 and texts.score.tolist() == scores
        answers = [texts.texts[target] for target in texts.target]
        assert answers == [f"{score:.1f}" for score in scores]
        everything += answers
    assert texts.texts == sorted(set(everything))
    assert [tokenizer.decode(row.tolist()) for row in texts.words] == texts.texts


def test_inputs_that_are_too_long_are_cut_counted_and_said(tmp_path, encoder, tokenizer, capsys):
    data = written(tmp_path)
    whole = tokens_of(tmp_path, encoder, data)
    lengths = {split: np.diff(np.append(0, load_file(whole)[f"{split}.ends"])) for split in SPLITS}
    most = int(np.median(lengths["train"]))
    assert not capsys.readouterr().err
    path = tokens_of(tmp_path, encoder, data, "short", max_tokens={"input": most, "target": 12})
    cut = {split: int((lengths[split] > most).sum()) for split in SPLITS}
    assert read_made_by(path)["cut"] == cut and 0 < cut["train"] < 36
    said = capsys.readouterr().err
    assert said.startswith(f"Task mine: inputs of more than {most} tokens were cut to that: ")
    assert f"{cut['train']} of 36 train, " in said and said.count("\n") == 1
    texts, before = (read(p, encoder, data, "train") for p in (path, whole))
    assert texts.longest == 12
    for i in range(36):
        ids, full = (t.tokens[t.starts[i] : t.ends[i]].tolist() for t in (texts, before))
        assert ids == (full if len(full) <= most else [*full[: most - 1], 1])


def test_tokens_are_the_same_each_time(tmp_path, encoder):
    data = written(tmp_path)
    one, two = (tokens_of(tmp_path, encoder, data, name).read_bytes() for name in ("a", "b"))
    assert one == two


@pytest.mark.parametrize(
    "settings, says",
    [
        ({"prompt": {**PROMPT, "labels": ["a", "b", "no"]}}, "3 labels for 2 classes"),
        ({"prompt": {**PROMPT, "labels": ["é", "ü"]}}, "'é' has parts that encoder small has no"),
        ({"prompt": {**PROMPT, "labels": ["no", " no"]}}, "'no' and ' no' are the same tokens"),
        ({"prompt": {**PROMPT, "labels": ["yes", "no"]}},
         "answers label 0, which is 'no', with 'yes', the name of another label"),
        ({"max_tokens": {"target": 2}, "prompt": {**PROMPT, "labels": ["no", "catdoghouse"]}},
         "'catdoghouse' is 1. tokens long for encoder small, more than max_tokens.target .2."),
    ],
    ids=["count", "unknown characters", "spaces", "order", "long"],
)  # fmt: skip
def test_labels_that_an_encoder_cannot_answer_are_refused(tmp_path, encoder, settings, says):
    data = written(tmp_path)
    with pytest.raises(UserError, match=says) as caught:
        tokens_of(tmp_path, encoder, data, **settings)
    assert "Task mine" in str(caught.value) and not (tmp_path / "head.safetensors").exists()


@pytest.mark.parametrize("file", ["test.jsonl", "manifest.json", "tokenizer.json", "encoder.json"])
@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_tokens_are_not_made_of_damaged_files(tmp_path, encoder, file, damage):
    data = written(tmp_path)
    path = (data if (data / file).exists() else encoder) / file
    if damage == "missing":
        path.unlink()
    elif file.endswith(("manifest.json", "encoder.json")):
        write_json(path, read_json(path) | {"name": "another", "task": "another"})
    else:
        path.write_bytes(path.read_bytes().replace(b"cat", b"dog"))
    with pytest.raises(UserError, match=f"{file} (does not exist|is damaged)") as caught:
        tokens_of(tmp_path, encoder, data)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_tokenizer_is_one_sentence(tmp_path, encoder):
    (encoder / "tokenizer.json").write_text("{}")
    sha256 = sha256_of_file(encoder / "tokenizer.json")
    about = {k: v for k, v in read_json(encoder / "encoder.json").items() if k != "seal"}
    write_json(encoder / "encoder.json", sealed({**about, "tokenizer_sha256": sha256}))
    with pytest.raises(UserError, match="tokenizer.json cannot be read as a tokenizer") as caught:
        tokens_of(tmp_path, encoder, written(tmp_path))
    assert "\n" not in str(caught.value)


# --- Reading back --------------------------------------------------------------------------------


def test_a_limit_draws_that_many_texts_of_a_split_at_random(tmp_path, encoder, tokenizer):
    data = written(tmp_path)
    path = tokens_of(tmp_path, encoder, data)
    limit = {"train": 9, "validation": 500, "test": 5}
    for split, count in (("train", 9), ("validation", 4), ("test", 5)):
        every, some = read(path, encoder, data, split), read(path, encoder, data, split, limit)
        chosen = sample_indices(len(every.target), count)
        assert len(some.target) == len(some.starts) == count
        wanted = inputs_of(every, tokenizer)
        assert inputs_of(some, tokenizer) == [wanted[i] for i in chosen]
        assert some.target.tolist() == every.target[chosen].tolist()


def test_a_limit_of_scores_keeps_each_with_its_text(tmp_path, encoder):
    data = written(tmp_path, True)
    settings = {"prompt": {**PROMPT, "labels": "{:.1f}"}, "metric": "spearman"}
    path = tokens_of(tmp_path, encoder, data, **settings)
    every, some = (read(path, encoder, data, "test", limit) for limit in (None, {"test": 5}))
    assert some.score.tolist() == every.score[sample_indices(12, 5)].tolist()


def test_tokens_of_something_else_are_refused(tmp_path, encoder, tokenizer):
    data = written(tmp_path)
    path = tokens_of(tmp_path, encoder, data)
    other = saved(tmp_path / "other", test=rows("test", 11))
    other_data = written(tmp_path, name="b", path=other)
    with pytest.raises(UserError, match="head.safetensors holds the tokens of another data"):
        read(path, encoder, other_data, "test")
    write_texts("theirs", read_manifest(data).definition, tmp_path / "c")
    with pytest.raises(UserError, match=r"of another task \(mine, not theirs\)"):
        read(path, encoder, tmp_path / "c", "test")
    twin = save_encoder(tmp_path / "twin", tokenizer, "twin")
    with pytest.raises(UserError, match=r"of another encoder \(small, not twin\)"):
        read(path, twin, data, "test")
    name = read_sealed(encoder / "encoder.json")["name"]
    with pytest.raises(UserError, match="of another tokenizer"):
        read_tokens(path, read_manifest(data), name, "0" * 64, "test")


def test_a_split_without_texts_is_refused(tmp_path, encoder):
    data = written(tmp_path, train=None, validation=3)
    path = tokens_of(tmp_path, encoder, data)
    assert len(read(path, encoder, data, "test").target) == 9
    with pytest.raises(UserError, match="has no labelled train texts"):
        read(path, encoder, data, "train")


@pytest.mark.parametrize("damage", ["missing", "cut", "empty"])
def test_damaged_tokens_are_one_sentence(tmp_path, encoder, damage):
    data = written(tmp_path)
    path = tokens_of(tmp_path, encoder, data)
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-5] if damage == "cut" else b"")
    with pytest.raises(
        UserError, match="head.safetensors (does not exist|is not a read)"
    ) as caught:
        read(path, encoder, data, "test")
    assert "\n" not in str(caught.value)


def test_an_older_folder_is_named_as_such(tmp_path, encoder):
    data = written(tmp_path)
    about = {k: v for k, v in read_json(data / "manifest.json").items() if k != "seal"}
    write_json(data / "manifest.json", sealed({**about, "format": 1}))
    with pytest.raises(UserError, match="made by another version"):
        tokens_of(tmp_path, encoder, data)


def test_reading_texts_and_tokens_needs_neither_torch_nor_transformers(tmp_path, encoder):
    data = written(tmp_path)
    code = (
        "import sys; from task_arithmetic.language.tokens import write_tokens\n"
        f"settings = {{'prompt': {PROMPT}, 'metric': 'exact_match'}}\n"
        "write_tokens(*sys.argv[1:3], settings, sys.argv[3])\n"
        "sys.exit(bool({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, encoder, data, tmp_path / "head.safetensors"]
    assert subprocess.run(command, check=False).returncode == 0
