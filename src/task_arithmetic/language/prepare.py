"""Tasks of texts: prompts and target texts, as a text-to-text model reads and is to answer them.

The data stage keeps a task's rows as they are, for people and for every model: `<split>.jsonl`, of
each row the text columns and the label, and the manifest of source.py. The head stage makes of them
what one encoder reads: `write_tokens` puts each row into the prompt and through the tokenizer.
"""

import json
import re
import shutil
import string
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files.checks import check_kept, write_manifest
from ..files.definition import Definition, Settings
from ..files.hashes import sha256_of_file
from ..files.labels import out_of_order
from ..files.manifest import SPLITS
from ..files.paths import PathLike, atomic_path
from ..files.source import Part, read_source

FIELD = re.compile(r"\{([^{}]*)\}")  # of a prompt: stands for a column's text


# --- The data stage ------------------------------------------------------------------------------


def write_texts(
    task: str,
    settings: Settings,
    output: PathLike,
    download: PathLike | None = None,
    threads: int = 1,
) -> None:
    """Read a labelled dataset of texts; write `<split>.jsonl` and manifest.json.

    A line holds a row's text columns and its label, which is a whole number or, if the task's
    metric is `spearman`, a score.

    Args:
        task: the task's name.
        settings: `path` (see local.py) or `hub` with optional `config` and `revision`; `texts`: the
            text columns; `metric`; `shared_texts`: share of rows that may stand in two splits; the
            rest as in data.write_task.
        output: the folder to write.
        download: of a hub's dataset: the record of its Download.
        threads: as of images; texts take one.
    Raises:
        UserError: a missing split or column, an empty split, a row without text or with a hidden
            label, a label outside the classes, other class names, too many rows in two splits,
            counts other than expected.
    """
    output, columns, label = Path(output), settings["texts"], settings.get("label", "label")
    working = output.with_name(f".{output.name}.building")
    try:
        source = read_source(task, settings, download, working / "source")
        texts = {split: _texts_of(task, split, columns, source.parts[split]) for split in SPLITS}
    finally:
        shutil.rmtree(working, ignore_errors=True)
    labels = source.labels()
    kept = check_kept(source, labels, texts)
    with atomic_path(output) as folder:
        folder.mkdir()
        for split in SPLITS:
            with open(folder / f"{split}.jsonl", "w", encoding="utf-8") as file:
                for row, answer in zip(texts[split], labels[split].tolist(), strict=True):
                    content = {**dict(zip(columns, row, strict=True)), label: answer}
                    file.write(json.dumps(content, sort_keys=True, ensure_ascii=False) + "\n")
        hashes = {split: sha256_of_file(folder / f"{split}.jsonl") for split in SPLITS}
        write_manifest(folder, kept, hashes)


def _texts_of(task: str, split: str, columns: list[str], part: Part) -> list[tuple[str, ...]]:
    """The texts of a split's rows, one of each column."""
    every = [part.dataset[column][:] for column in columns]
    texts = [tuple(column[row] for column in every) for row in part.rows]
    for row, found in zip(part.rows, texts, strict=True):
        for column, text in zip(columns, found, strict=True):
            if not isinstance(text, str):
                raise UserError(
                    f"Task {task}: row {row} of the {split} texts has no text in column "
                    f"{column!r} (it holds {text!r}); mend the dataset, or set `texts` to other "
                    "columns."
                )
    return texts


# --- Prompts -------------------------------------------------------------------------------------


def check_text_task(definition: dict[str, Any], where: str) -> None:
    """Hold the prompts of a task's definition to its columns, classes and metric.

    Args:
        where: the definition's file.
    Raises:
        UserError: a prompt without one of `texts` or with another field; labels that are no list of
            different words (metric exact_match), as many as classes, or no format of a number
            (metric spearman).
    """
    columns, scores = definition["texts"], Definition.of("", definition).has_scores
    listed = definition.get("classes")
    classes = definition.get("expected", {}).get("classes", listed and len(listed))
    for name, prompt in definition["prompts"].items():
        fields, labels = FIELD.findall(prompt["input"]), prompt["labels"]
        for column in columns:
            if column not in fields:
                raise UserError(
                    f"{where}: its prompt {name} lacks {{{column}}}, a column that `texts` names; "
                    "put it where that text belongs."
                )
        for field in fields:
            if field not in columns:
                raise UserError(
                    f"{where}: its prompt {name} has {{{field}}}, which `texts` does not name "
                    f"({', '.join(columns)}); correct one of them."
                )
        if scores and not (isinstance(labels, str) and _is_number_format(labels)):
            raise UserError(
                f"{where}: the labels of its prompt {name} must be the format of a score, such as "
                f'"{{:.1f}}", because metric is spearman; found {labels!r}.'
            )
        if not scores and not isinstance(labels, list):
            raise UserError(
                f"{where}: the labels of its prompt {name} must be a list, a word for each label "
                f"in order, because metric is exact_match; found {labels!r}."
            )
        if not scores and len(set(labels)) < len(labels):
            twice = next(word for word in labels if labels.count(word) > 1)
            raise UserError(
                f"{where}: {twice!r} stands twice in the labels of its prompt {name}; change one."
            )
        if not scores and isinstance(listed, list) and (wrong := out_of_order(labels, listed)):
            raise UserError(
                f"{where}: its prompt {name} answers label {wrong[0]}, which `classes` calls "
                f"{listed[wrong[0]]!r}, with {wrong[1]!r}, the name of another label; put labels "
                "in the order of classes."
            )
        if not scores and classes not in (None, len(labels)):
            raise UserError(
                f"{where}: its prompt {name} has {len(labels)} labels for {classes} classes; give "
                "a word for each class, in label order."
            )


def _is_number_format(text: str) -> bool:
    """Whether a format writes numbers so that they can be read again, and tells 1 from 4."""
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(text) if field is not None]
        return fields == [""] and float(text.format(1.0)) < float(text.format(4.0))
    except (ValueError, TypeError):
        return False


def fill(prompt: str, row: dict[str, str]) -> str:
    """A prompt with each {column} replaced by that text of the row, whatever the text holds."""
    pieces = FIELD.split(prompt)  # text, column, text, column, …, text
    pieces[1::2] = [row[column] for column in pieces[1::2]]
    return "".join(pieces)
