"""Tasks of texts: prompts and target texts, as a text-to-text model reads and is to answer them.

The data stage keeps a task's rows as they are, for people and for every model: `<split>.jsonl`, of
each row the text columns and the label, and the manifest of source.py. The head stage makes of them
what one encoder reads: `write_tokens` puts each row into the prompt and through the tokenizer.
"""

import json
import os
import re
import shutil
import string
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .arrays import SPLITS, read_manifest, sample_indices
from .artifacts import (
    UserError,
    again,
    atomic_path,
    check_file,
    header,
    mend,
    open_tensors,
    read_made_by,
    read_sealed,
    sha256_of_file,
)
from .labels import has_scores, out_of_order
from .source import (
    check_counts,
    contradictions,
    count_overlap,
    read_source,
    say_notes,
    too_many_shared,
    write_manifest,
)

TOKENIZER = "tokenizer.json"
MAX_TOKENS = {"input": 512, "target": 10}
BATCH = 1024  # texts that are tokenized at a time
UNKNOWN = "<unk>"  # as T5s call what they have no token for
FIELD = re.compile(r"\{([^{}]*)\}")  # of a prompt: stands for a column's text


# --- The data stage ------------------------------------------------------------------------------


def write_texts(task: str, settings: dict, output, download=None, threads: int = 1) -> None:
    """Read a labelled dataset of texts; write `<split>.jsonl` and manifest.json.

    A line holds a row's text columns and its label, which is a whole number or, if the task's
    metric is `spearman`, a score.

    Args:
        task: the task's name.
        settings: `path` (see local.py) or `hub` with optional `config` and `revision`; `texts`: the
            text columns; `metric`; `shared_texts`: share of rows that may stand in two splits; the
            rest as in data.write_task.
        output: the folder to write.
        download: of a hub's dataset: what hub.download recorded.
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
        texts = {split: _texts_of(task, split, columns, *source.parts[split]) for split in SPLITS}
    finally:
        shutil.rmtree(working, ignore_errors=True)
    notes = [*source.notes, *check_counts(source, source.labels)]
    labels = {split: source.labels[split].tolist() for split in SPLITS}
    notes += [] if has_scores(settings) else contradictions(texts, labels, "text")
    say_notes(task, notes)
    overlap = count_overlap(texts)
    shared = overlap["shared_between_splits"]
    if problem := too_many_shared(task, settings, source.counts(), shared):
        raise UserError(problem)
    with atomic_path(output) as folder:
        folder.mkdir()
        for split in SPLITS:
            with open(folder / f"{split}.jsonl", "w", encoding="utf-8") as file:
                for row, answer in zip(texts[split], labels[split], strict=True):
                    content = {**dict(zip(columns, row, strict=True)), label: answer}
                    file.write(json.dumps(content, sort_keys=True, ensure_ascii=False) + "\n")
        hashes = {split: sha256_of_file(folder / f"{split}.jsonl") for split in SPLITS}
        write_manifest(folder, source, hashes, source.counts(), overlap, notes)


def _texts_of(task: str, split: str, columns: list[str], dataset, rows) -> list[tuple[str, ...]]:
    """The texts of a split's rows, one of each column."""
    every = [dataset[column][:] for column in columns]
    texts = [tuple(column[row] for column in every) for row in rows]
    for row, found in zip(rows, texts, strict=True):
        for column, text in zip(columns, found, strict=True):
            if not isinstance(text, str):
                raise UserError(
                    f"Task {task}: row {row} of the {split} texts has no text in column "
                    f"{column!r} (it holds {text!r}); mend the dataset, or set `texts` to other "
                    "columns."
                )
    return texts


# --- Prompts -------------------------------------------------------------------------------------


def check_text_task(definition: dict, where: str) -> None:
    """Hold the prompts of a task's definition to its columns, classes and metric.

    Args:
        where: the definition's file.
    Raises:
        UserError: a prompt without one of `texts` or with another field; labels that are no list of
            different words (metric exact_match), as many as classes, or no format of a number
            (metric spearman).
    """
    columns, scores = definition["texts"], has_scores(definition)
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


# --- The head stage ------------------------------------------------------------------------------


def read_tokenizer(encoder_dir, about: dict):
    """An encoder's own tokenizer (of `tokenizers`), which neither cuts nor pads.

    Raises:
        UserError: tokenizer.json is missing, damaged, or not the one that encoder.json names.
    """
    path = Path(encoder_dir) / TOKENIZER
    # Read when the first batch is tokenized: no more threads than the job has.
    os.environ.setdefault("RAYON_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
    from tokenizers import Tokenizer

    if not path.is_file():
        raise UserError(f"{path} does not exist: {again(path)}.")
    check_file(path, about["tokenizer_sha256"])
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{path} cannot be read as a tokenizer ({reason}): make the encoder again, from files "
            "with a tokenizer.json of `tokenizers`."
        ) from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def write_tokens(encoder_dir, data_dir, settings: dict, output) -> None:
    """Write what one encoder reads of a task and is to answer, as tokens.

    The file holds `<split>.tokens` int32 (ΣL,), one input after another, each with its end of text;
    `<split>.ends` int64 (N,); `<split>.target` int32 (N,), which of the target texts is the answer;
    `<split>.score` float32 (N,), if labels are scores; `words` int32 (W, L): the target texts, each
    with its end of text, then zeros.

    Args:
        encoder_dir: the encoder stage's folder.
        data_dir: the task's folder, of `write_texts`.
        settings: `prompt`: `input`, a text with a {column} for each text column, and `labels`,
            the target texts in label order or the format of a score; `metric`; `max_tokens`:
            `input`, where inputs are cut, and `target`, both with the end of text.
    Raises:
        UserError: other labels than the task's, a target text that is too long or has unknown
            parts, or two of them that are the same tokens; a damaged file.
    """
    manifest, about = read_manifest(data_dir), read_sealed(Path(encoder_dir) / "encoder.json")
    tokenizer, eos = read_tokenizer(encoder_dir, about), about["geometry"]["eos"]
    prompt, labels = settings["prompt"], settings["prompt"]["labels"]
    most = {**MAX_TOKENS, **settings.get("max_tokens", {})}
    task, scores = manifest["task"], has_scores(settings)
    rows = {split: _read_rows(Path(data_dir), split, manifest) for split in SPLITS}
    label = manifest["definition"].get("label", "label")
    answers = {split: [row[label] for row in found] for split, found in rows.items()}
    if scores:
        answers = {split: [labels.format(x) for x in found] for split, found in answers.items()}
        texts = sorted({text for found in answers.values() for text in found})
        place = {text: index for index, text in enumerate(texts)}
        answers = {split: [place[text] for text in found] for split, found in answers.items()}
    else:
        texts = labels
        if len(texts) != len(manifest["classes"]):
            raise UserError(
                f"Task {task}: its prompt has {len(texts)} labels for "
                f"{len(manifest['classes'])} classes; give a word for each class, in label order."
            )
    tensors = {"words": _words(task, about["name"], tokenizer, texts, eos, most["target"])}
    for names in () if scores else (manifest["classes"], manifest["source_classes"] or []):
        if found := out_of_order(texts, names):
            raise UserError(
                f"Task {task}: its prompt answers label {found[0]}, which is "
                f"{names[found[0]]!r}, with {found[1]!r}, the name of another label; put the "
                "prompt's labels in the order of the classes."
            )
    if manifest.get("in_words") and list(map(str.strip, texts)) != manifest["classes"]:
        raise UserError(
            f"Task {task}: its labels are words ({', '.join(manifest['classes'])}), and its prompt "
            "has others: list the words as `classes` in its definition, in the order of the "
            "prompt's labels."
        )
    cut = {}
    for split in SPLITS:
        inputs = [fill(prompt["input"], row) for row in rows[split]]
        tokens, ends, cut[split] = _tokens(tokenizer, inputs, eos, most["input"])
        tensors |= {f"{split}.tokens": tokens, f"{split}.ends": ends}
        tensors[f"{split}.target"] = np.array(answers[split], np.int32)
        if scores:
            tensors[f"{split}.score"] = np.array([row[label] for row in rows[split]], np.float32)
    if any(cut.values()):
        counts = ", ".join(f"{n:,} of {len(rows[k]):,} {k}" for k, n in cut.items() if n)
        print(
            f"Task {task}: inputs of more than {most['input']} tokens were cut to that: {counts} "
            "texts (`max_tokens` in its definition).",
            file=sys.stderr,
        )
    made_by = {
        "encoder": about["name"],
        "tokenizer_sha256": about["tokenizer_sha256"],
        "task": task,
        "data_sha256": manifest["data_sha256"],
        "prompt": prompt,
        "texts": texts,
        "metric": settings["metric"],
        "max_tokens": most,
        "cut": cut,
    }
    from safetensors.numpy import save_file

    with atomic_path(output) as temporary:
        save_file(tensors, temporary, header(made_by))


def _read_rows(data_dir: Path, split: str, manifest: dict) -> list[dict]:
    """The rows of a split, as the data stage wrote them."""
    path = data_dir / f"{split}.jsonl"
    check_file(path, manifest["files"].get(path.name))
    try:
        with open(path, encoding="utf-8") as file:
            return [json.loads(line) for line in file]
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: {again(path)}.") from None


def _tokens(tokenizer, texts: list[str], eos: int, most: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Tokens int32 (ΣL,) of texts, one after another, each at most `most` long and with `eos` at
    its end; the ends int64 (N,) of the texts; how many were cut."""
    parts, lengths, cut = [np.zeros(0, np.int32)], [], 0
    for start in range(0, len(texts), BATCH):
        batch = []
        for found in tokenizer.encode_batch_fast(
            texts[start : start + BATCH], add_special_tokens=False
        ):
            ids = found.ids
            cut += len(ids) >= most
            batch += [*ids[: most - 1], eos]
            lengths.append(min(len(ids), most - 1) + 1)
        parts.append(np.array(batch, np.int32))
    return np.concatenate(parts), np.cumsum(lengths, dtype=np.int64), cut


def _words(task: str, encoder: str, tokenizer, texts: list[str], eos: int, most: int) -> np.ndarray:
    """Target texts as tokens int32 (W, L), zeros after each one's `eos`."""
    every = [[*tokenizer.encode(text, add_special_tokens=False).ids, eos] for text in texts]
    unknown = tokenizer.token_to_id(UNKNOWN)
    seen: dict[tuple, str] = {}
    for text, ids in zip(texts, every, strict=True):
        if len(ids) > most:
            raise UserError(
                f"Task {task}: its label {text!r} is {len(ids)} tokens long for encoder {encoder}, "
                f"more than max_tokens.target ({most}); choose another word, or raise that."
            )
        if unknown in ids:
            raise UserError(
                f"Task {task}: its label {text!r} has parts that encoder {encoder} has no token "
                "for; choose another word."
            )
        if tuple(ids) in seen:
            raise UserError(
                f"Task {task}: its labels {seen[tuple(ids)]!r} and {text!r} are the same tokens "
                f"for encoder {encoder}, which cannot tell them apart; choose other words."
            )
        seen[tuple(ids)] = text
    words = np.zeros((len(every), max(map(len, every))), np.int32)
    for row, ids in zip(words, every, strict=True):
        row[: len(ids)] = ids
    return words


# --- Reading back --------------------------------------------------------------------------------


class Texts(NamedTuple):
    """What an encoder reads of a split, and is to answer.

    Attributes:
        tokens: int32 (ΣL,); input i is tokens[starts[i] : ends[i]], with its end of text.
        target: int32 (N,): which of `texts` is the answer. score: float32 (N,), or None.
        words: int32 (W, L): the target texts as tokens, each with its end of text, then zeros.
        texts: the W target texts.
        longest: the most tokens that an answer may have, with its end of text.
    """

    tokens: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    target: np.ndarray
    score: np.ndarray | None
    words: np.ndarray
    texts: list[str]
    metric: str
    longest: int


def read_tokens(path, manifest: dict, about: dict, split: str, limit: dict | None = None) -> Texts:
    """A split's inputs and answers, as `write_tokens` wrote them.

    Args:
        manifest: of the task's folder. about: the encoder's, see `write_tokens`.
        limit: as in arrays.read_split.
    Raises:
        UserError: tokens of other data or of another encoder, a split without rows, a damaged file.
    """
    made_by = read_made_by(path)
    for what, key, wanted in (
        ("task", "task", manifest["task"]),
        ("data", "data_sha256", manifest["data_sha256"]),
        ("encoder", "encoder", about["name"]),
        ("tokenizer", "tokenizer_sha256", about["tokenizer_sha256"]),
    ):
        if made_by.get(key) != wanted:
            raise UserError(
                f"{path} holds the tokens of another {what} ({made_by.get(key)}, not {wanted}): "
                f"{mend(path)}."
            )
    with open_tensors(path) as file:
        names = file.keys()
        tokens, ends, target, score = (
            file.get_tensor(f"{split}.{what}") if f"{split}.{what}" in names else None
            for what in ("tokens", "ends", "target", "score")
        )
        words = file.get_tensor("words")
    if not len(ends) or not len(ends) == len(target) == manifest["counts"][split]:
        raise UserError(f"{path} has no labelled {split} texts: {mend(path)}.")
    starts = np.concatenate([[0], ends[:-1]])
    chosen = sample_indices(len(ends), (limit or {}).get(split) or len(ends))
    return Texts(
        tokens,
        starts[chosen],
        ends[chosen],
        target[chosen],
        None if score is None else score[chosen],
        words,
        made_by["texts"],
        made_by["metric"],
        made_by["max_tokens"]["target"],
    )
