"""Answers to single examples for synthetic rows of metrics (views.make_rows), and rows that are
exactly the means of these answers."""

import zlib

import numpy as np
import pandas as pd

from task_arithmetic.core.outcomes import Outcomes
from task_arithmetic.files.outcomes import Answered

ANSWERED = ["pretrained_accuracy", "single_task_accuracy", "posthoc_accuracy", "unified_accuracy"]
ANSWERED += ["negated_accuracy", "control_accuracy"]
KEYS = "encoder mode seed method task other_task split metric".split()
EXAMPLES = 120


def make_answers(rows, examples=EXAMPLES):
    """(named outcomes, rows). Examples of a task and split are the same for all; harder ones are
    wrong first, as models agree on what is hard."""
    frame = pd.DataFrame(rows)
    chosen = frame[frame["metric"].isin(ANSWERED)]
    named = []
    for key, group in chosen.groupby(KEYS, sort=False):
        encoder, mode, seed, method, task, other, split, metric = key
        of = other if metric == "control_accuracy" else task
        sample = f"{zlib.crc32(repr((of, split)).encode()):016x}"
        hard = np.random.default_rng(int(sample, 16)).permutation(examples) / examples
        noise = np.random.default_rng(zlib.crc32(repr(key).encode())).normal(0, 0.1, examples)
        rank = np.argsort(np.argsort(hard + noise)) / examples
        found = np.array([rank < value for value in group["value"]])
        alphas = tuple(None if a == "" else float(a) for a in group["alpha"])
        whose = Answered(split, metric, task, alphas, examples, sample, encoder, mode)
        whole = None if seed == "" else int(seed)
        whose = whose._replace(seed=whole, other_task=other, method=method)
        named.append((whose, Outcomes(found)))
        frame.loc[group.index, "value"] = found.mean(axis=1)
    return named, _normalized(frame).to_dict("records")


def _normalized(frame):
    """Normalized accuracies of the new ones."""
    values = {
        (r.metric, r.encoder, r.mode, r.seed, r.method, r.task, r.split, r.alpha): r.value
        for r in frame.itertuples()
    }
    for r in frame[frame["metric"] == "normalized_accuracy"].itertuples():
        at = r.encoder, r.mode, r.seed
        own = next(
            value for key, value in values.items()
            if key[4:7] == ("", r.task, r.split) and key[3] == r.seed and key[1] == r.encoder
            and (key[0], key[2]) == (("posthoc_accuracy", "nonlinear") if r.mode == "posthoc"
                                     else ("single_task_accuracy", r.mode))
        )  # fmt: skip
        unified = values["unified_accuracy", *at, r.method, r.task, r.split, r.alpha]
        frame.loc[r.Index, "value"] = unified / own
    return frame
