"""The seven embedded text tasks, of the kinds of GLUE's and in its form.

`tasks.save_task("sentiment", folder)` writes one as the hub would give it: a `datasets` folder with
the splits train and validation (GLUE's labelled ones), the text columns, `label` and `idx`. Their
rows come with the code, in texts.json.bz2: tools/embedded/rows.py drew them from a grammar.
"""

import bz2
import json
from pathlib import Path
from typing import NamedTuple

from ..errors import UserError
from ..files.hashes import sha256_of

FILE = Path(__file__).with_name("texts.json.bz2")  # {task: {split: [[text, ..., label], ...]}}
# Of the file: other rows are other code, and run again what was learned from these.
SHA256 = "3cd342329ce7b754f4c5a71a5edb89e78f4f0e5bb417f77d9eed08ef4fc3482e"


class TextTask(NamedTuple):
    """A task's text columns and label names, both as in the task of GLUE's that it is like."""

    columns: tuple[str, ...]
    classes: tuple[str, ...]  # none: a score from 0 to 5


class Rows(NamedTuple):
    """A split: a text for each column of each row; class indices (all equally often) or scores."""

    texts: list[tuple[str, ...]]
    labels: list[float]


# Their order numbers the tasks' random streams.
TEXT_TASKS = {
    "acceptability": TextTask(("sentence",), ("unacceptable", "acceptable")),  # cola
    "inference": TextTask(
        ("premise", "hypothesis"), ("entailment", "neutral", "contradiction")
    ),  # mnli
    "paraphrase": TextTask(("sentence1", "sentence2"), ("not_equivalent", "equivalent")),  # mrpc
    "questions": TextTask(("question1", "question2"), ("not_duplicate", "duplicate")),  # qqp
    "entailment": TextTask(("sentence1", "sentence2"), ("entailment", "not_entailment")),  # rte
    "sentiment": TextTask(("sentence",), ("negative", "positive")),  # sst2
    "similarity": TextTask(("sentence1", "sentence2"), ()),  # stsb
}


def read_rows(name: str, limit: int | None = None) -> dict[str, Rows]:
    """The splits of a text task, train and validation; limit: only the first so many rows of each.

    Raises UserError if the file is not the one that this code is of.
    """
    packed = FILE.read_bytes()
    if sha256_of(packed) != SHA256:
        raise UserError(f"{FILE} is not the file that came with this code: install it again.")
    return {
        split: Rows([tuple(row[:-1]) for row in rows[:limit]], [row[-1] for row in rows[:limit]])
        for split, rows in json.loads(bz2.decompress(packed))[name].items()
    }
