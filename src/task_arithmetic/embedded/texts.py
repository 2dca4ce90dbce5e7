"""The seven embedded text tasks, of the kinds of GLUE's and in its form.

`tasks.save_task("sentiment", folder)` writes one as the hub would give it: a `datasets` folder with
the splits train and validation (GLUE's labelled ones), the text columns, `label` and `idx`. The
same seed gives the same rows, and no sentence is in both splits.
"""

import numpy as np

from .grammar import KINDS, example

SEED = 0
TRAIN, VALIDATION = 2400, 500  # train includes the rows that the data stage holds out of it

# Task -> text columns, label names (none: a score from 0 to 5), both as in the task of GLUE's that
# it is like. Their order numbers the tasks' random streams.
TEXT_TASKS = {
    "acceptability": (("sentence",), ("unacceptable", "acceptable")),  # cola
    "inference": (("premise", "hypothesis"), ("entailment", "neutral", "contradiction")),  # mnli
    "paraphrase": (("sentence1", "sentence2"), ("not_equivalent", "equivalent")),  # mrpc
    "questions": (("question1", "question2"), ("not_duplicate", "duplicate")),  # qqp
    "entailment": (("sentence1", "sentence2"), ("entailment", "not_entailment")),  # rte
    "sentiment": (("sentence",), ("negative", "positive")),  # sst2
    "similarity": (("sentence1", "sentence2"), ()),  # stsb
}


def write_task(name, seed=SEED, limit=None):
    """Rows of a text task: {"train": (texts, labels), "validation": (texts, labels)}.

    texts: a list of tuples, one text for each column; labels: a list of class indices (all equally
    often) or of scores. limit: only the first so many of each split.
    """
    splits, elsewhere, rows = {}, set(), set()
    for split, count in (("train", TRAIN), ("validation", VALIDATION)):
        count = count if limit is None else min(count, limit)
        rng = np.random.default_rng([seed, 4, list(TEXT_TASKS).index(name), split == "validation"])
        kinds = list(KINDS[name].items())
        texts, labels = [], []
        while len(texts) < count:
            label, ways = kinds[len(texts) % len(kinds)]
            way = ways[int(rng.integers(len(ways)))]
            made, target = example(rng, name, label, way)
            if made in rows or elsewhere.intersection(made):
                continue
            rows.add(made)
            texts.append(made)
            labels.append(target)
        elsewhere.update(text for made in texts for text in made)
        splits[split] = texts, labels
    return splits


def build_text_task(name, seed=SEED, limit=None):
    """A text task as a datasets.DatasetDict(train, validation) with the columns of GLUE's."""
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    columns, classes = TEXT_TASKS[name]
    label = ClassLabel(names=list(classes)) if classes else Value("float32")
    features = Features(
        {column: Value("string") for column in columns} | {"label": label, "idx": Value("int32")}
    )
    splits = {}
    for split, (texts, labels) in write_task(name, seed, limit).items():
        content = dict(zip(columns, map(list, zip(*texts, strict=True)), strict=True))
        content |= {"label": labels, "idx": list(range(len(labels)))}
        splits[split] = Dataset.from_dict(content, features=features)
    return DatasetDict(splits)
