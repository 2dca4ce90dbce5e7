"""Tokens of a task's prompts and answers, as one encoder reads them."""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import UserError
from ..files.definition import Definition
from ..files.hashes import check_file, read_sealed
from ..files.labels import out_of_order
from ..files.manifest import SPLITS, Manifest, read_manifest, sample_indices
from ..files.paths import PathLike, again, atomic_path, mend
from ..files.tensors import header, open_tensors, read_made_by
from .prepare import fill

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER = "tokenizer.json"
MAX_TOKENS = {"input": 512, "target": 10}
BATCH = 1024  # texts that are tokenized at a time
UNKNOWN = "<unk>"  # as T5s call what they have no token for


def read_tokenizer(encoder_dir: PathLike, sha256: str) -> "Tokenizer":
    """An encoder's own tokenizer (of `tokenizers`), which neither cuts nor pads.

    Raises:
        UserError: tokenizer.json is missing, damaged, or not the one of this SHA-256.
    """
    path = Path(encoder_dir) / TOKENIZER
    # Read when the first batch is tokenized: no more threads than the job has.
    os.environ.setdefault("RAYON_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
    from tokenizers import Tokenizer

    if not path.is_file():
        raise UserError(f"{path} does not exist: {again(path)}.")
    check_file(path, sha256)
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


def write_tokens(
    encoder_dir: PathLike, data_dir: PathLike, settings: dict[str, Any], output: PathLike
) -> None:
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
    tokenizer = read_tokenizer(encoder_dir, about["tokenizer_sha256"])
    eos = about["geometry"]["eos"]
    prompt, labels = settings["prompt"], settings["prompt"]["labels"]
    most = {**MAX_TOKENS, **settings.get("max_tokens", {})}
    task, classes = manifest.task, manifest.classes
    scores = Definition.of(task, settings).has_scores
    rows = {split: _read_rows(Path(data_dir), split, manifest) for split in SPLITS}
    label = manifest.definition.get("label", "label")
    answers = {split: [row[label] for row in found] for split, found in rows.items()}
    if scores:
        said = {split: [labels.format(x) for x in found] for split, found in answers.items()}
        texts = sorted({text for found in said.values() for text in found})
        place = {text: index for index, text in enumerate(texts)}
        targets = {split: [place[text] for text in found] for split, found in said.items()}
    else:
        texts, targets = labels, answers
        if len(texts) != len(classes):
            raise UserError(
                f"Task {task}: its prompt has {len(texts)} labels for {len(classes)} classes; give "
                "a word for each class, in label order."
            )
    tensors = {"words": _words(task, about["name"], tokenizer, texts, eos, most["target"])}
    for names in () if scores else (classes, manifest.source_classes or []):
        if found := out_of_order(texts, names):
            raise UserError(
                f"Task {task}: its prompt answers label {found[0]}, which is "
                f"{names[found[0]]!r}, with {found[1]!r}, the name of another label; put the "
                "prompt's labels in the order of the classes."
            )
    if manifest.in_words and list(map(str.strip, texts)) != classes:
        raise UserError(
            f"Task {task}: its labels are words ({', '.join(classes)}), and its prompt has others: "
            "list the words as `classes` in its definition, in the order of the prompt's labels."
        )
    cut = {}
    for split in SPLITS:
        inputs = [fill(prompt["input"], row) for row in rows[split]]
        tokens, ends, cut[split] = _tokens(tokenizer, inputs, eos, most["input"])
        tensors |= {f"{split}.tokens": tokens, f"{split}.ends": ends}
        tensors[f"{split}.target"] = np.array(targets[split], np.int32)
        if scores:
            tensors[f"{split}.score"] = np.array(answers[split], np.float32)
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
        "data_sha256": manifest.data_sha256,
        "prompt": prompt,
        "texts": texts,
        "metric": settings["metric"],
        "max_tokens": most,
        "cut": cut,
    }
    from safetensors.numpy import save_file

    with atomic_path(output) as temporary:
        save_file(tensors, temporary, header(made_by))


def _read_rows(data_dir: Path, split: str, manifest: Manifest) -> list[dict[str, Any]]:
    """The rows of a split, as the data stage wrote them."""
    path = data_dir / f"{split}.jsonl"
    check_file(path, manifest.files.get(path.name))
    try:
        with open(path, encoding="utf-8") as file:
            return [json.loads(line) for line in file]
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: {again(path)}.") from None


def _tokens(
    tokenizer: "Tokenizer", texts: list[str], eos: int, most: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """Tokens int32 (ΣL,) of texts, one after another, each at most `most` long and with `eos` at
    its end; the ends int64 (N,) of the texts; how many were cut."""
    parts, lengths, cut = [np.zeros(0, np.int32)], [], 0
    for start in range(0, len(texts), BATCH):
        batch: list[int] = []
        some = texts[start : start + BATCH]
        for found in tokenizer.encode_batch_fast(some, add_special_tokens=False):
            ids = found.ids[: most - 1]
            cut += len(found.ids) >= most
            batch += [*ids, eos]
            lengths.append(len(ids) + 1)
        parts.append(np.array(batch, np.int32))
    return np.concatenate(parts), np.cumsum(lengths, dtype=np.int64), cut


def _words(
    task: str, encoder: str, tokenizer: "Tokenizer", texts: list[str], eos: int, most: int
) -> np.ndarray:
    """Target texts as tokens int32 (W, L), zeros after each one's `eos`."""
    every = [[*tokenizer.encode(text, add_special_tokens=False).ids, eos] for text in texts]
    unknown = tokenizer.token_to_id(UNKNOWN)
    seen: dict[tuple[int, ...], str] = {}
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


def read_tokens(
    path: PathLike,
    manifest: Manifest,
    encoder: str,
    tokenizer_sha256: str,
    split: str,
    limit: Mapping[str, int] | None = None,
) -> Texts:
    """A split's inputs and answers, as `write_tokens` wrote them.

    Args:
        manifest: of the task's folder. encoder: its name, and the hash of its tokenizer.
        limit: as in images.read_split.
    Raises:
        UserError: tokens of other data or of another encoder, a split without rows, a damaged file.
    """
    made_by = read_made_by(path)
    for what, key, wanted in (
        ("task", "task", manifest.task),
        ("data", "data_sha256", manifest.data_sha256),
        ("encoder", "encoder", encoder),
        ("tokenizer", "tokenizer_sha256", tokenizer_sha256),
    ):
        if made_by.get(key) != wanted:
            raise UserError(
                f"{path} holds the tokens of another {what} ({made_by.get(key)}, not {wanted}): "
                f"{mend(path)}."
            )
    with open_tensors(path) as file:
        found = {key: file.get_tensor(key) for key in file.keys() if key.startswith(f"{split}.")}  # noqa: SIM118
        words = file.get_tensor("words")
    tokens, ends, target = (found[f"{split}.{what}"] for what in ("tokens", "ends", "target"))
    if not len(ends) or not len(ends) == len(target) == manifest.counts[split]:
        raise UserError(f"{path} has no labelled {split} texts: {mend(path)}.")
    starts = np.concatenate([[0], ends[:-1]])
    chosen = sample_indices(len(ends), (limit or {}).get(split) or len(ends))
    score = found.get(f"{split}.score")
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
