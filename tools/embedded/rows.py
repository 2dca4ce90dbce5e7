"""The rows of the embedded text tasks, drawn from a seed and the grammar (words.py, examples.py).

    python tools/embedded/rows.py

writes them where the package reads them (src/task_arithmetic/embedded/texts.json.bz2) and prints
the file's SHA-256, which embedded/texts.py names. No sentence is in both splits of a task.
"""

import bz2
import hashlib
import json

import numpy as np

from examples import KINDS, example
from task_arithmetic.embedded.texts import FILE, TEXT_TASKS, Rows

SEED = 0
TRAIN, VALIDATION = 2400, 500  # train includes the rows that the data stage holds out of it


def draw_rows(name: str, seed: int = SEED, limit: int | None = None) -> dict[str, Rows]:
    """The splits of a text task, train and validation; limit: only the first so many rows."""
    splits, elsewhere, drawn = {}, set(), set()
    for split, count in (("train", TRAIN), ("validation", VALIDATION)):
        count = count if limit is None else min(count, limit)
        rng = np.random.default_rng([seed, 4, list(TEXT_TASKS).index(name), split == "validation"])
        kinds = list(KINDS[name].items())
        rows = Rows([], [])
        while len(rows.texts) < count:
            label, ways = kinds[len(rows.texts) % len(kinds)]
            way = ways[int(rng.integers(len(ways)))]
            made, target = example(rng, name, label, way)
            if made in drawn or elsewhere.intersection(made):
                continue
            drawn.add(made)
            rows.texts.append(made)
            rows.labels.append(target)
        elsewhere.update(text for made in rows.texts for text in made)
        splits[split] = rows
    return splits


def content() -> bytes:
    """What the package's file holds: all tasks, compressed; the same bytes on every machine."""
    tasks = {
        name: {
            split: [[*texts, label] for texts, label in zip(*rows, strict=True)]
            for split, rows in draw_rows(name).items()
        }
        for name in TEXT_TASKS
    }
    return bz2.compress(json.dumps(tasks).encode())


if __name__ == "__main__":
    FILE.write_bytes(content())
    print(hashlib.sha256(FILE.read_bytes()).hexdigest())
