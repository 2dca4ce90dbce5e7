"""Is the embedded language suite in its bands? Zero-shot and fine-tuned score of every task.

    python -m task_arithmetic.embedded.bands_t5 --rate 5e-4 --attention

A check of the suite on transformers' own model, independent of the pipeline. It never merges
anything: the suite is tuned to these numbers alone.
"""

import argparse
import copy
from pathlib import Path

import numpy as np

from .pretrain_t5 import ENCODER, ENCODERS_FOLDER, padded, prompt
from .texts import TEXT_TASKS, TRAIN, write_task

STEPS, BATCH, HELD_OUT = 100, 32, 400


def read_rows(tokenizer, task, texts, labels):
    """Token lists of the prompts, and the answers as texts."""
    columns, classes = TEXT_TASKS[task]
    sources = [prompt(task).format(**dict(zip(columns, made, strict=True))) for made in texts]
    answers = [classes[label] if classes else f"{label:.1f}" for label in labels]
    return [encoding.ids for encoding in tokenizer.encode_batch(sources)], answers


def score(model, tokenizer, task, sources, answers):
    """Exact match of greedy answers, or Spearman's rho with what is no number as 0, times 100."""
    import torch

    said = []
    with torch.no_grad():
        for i in range(0, len(sources), 125):
            source = padded(sources[i : i + 125], 0)
            given = torch.zeros(len(source), 1, dtype=torch.int64)
            states = None
            for _ in range(6):
                out = model(
                    input_ids=None if states else source,
                    encoder_outputs=states,
                    attention_mask=(source != 0).long(),
                    decoder_input_ids=given,
                )
                states = (out.encoder_last_hidden_state,)
                given = torch.cat([given, out.logits[:, -1].argmax(-1, keepdim=True)], dim=1)
            for row in given[:, 1:].tolist():
                row = row[: row.index(1)] if 1 in row else row
                said.append(tokenizer.decode(row))
    if TEXT_TASKS[task][1]:
        return 100 * np.mean([a == b for a, b in zip(said, answers, strict=True)])
    from scipy.stats import rankdata

    ranks = [rankdata([_number(text) for text in texts]) for texts in (said, answers)]
    return 100 * np.corrcoef(*ranks)[0, 1] if np.ptp(ranks[0]) else 0.0


def _number(text):
    try:
        return float(text.replace(" ", ""))
    except ValueError:
        return 0.0


def fine_tune(model, tokenizer, sources, answers, rate, attention=False, steps=STEPS, seed=0):
    """Train a copy on one task, constant rate: all parameters, or queries, keys and values."""
    import torch

    model = copy.deepcopy(model).train()
    chosen = [
        p
        for name, p in model.named_parameters()
        if not attention or name.split(".")[-2] in ("q", "k", "v")
    ]
    optimizer = torch.optim.AdamW(chosen, lr=rate, weight_decay=0)
    targets = [encoding.ids for encoding in tokenizer.encode_batch(answers)]
    rng, order = np.random.default_rng(seed), np.empty(0, np.int64)
    for _ in range(steps):
        if len(order) < BATCH:
            order = rng.permutation(len(sources))
        batch, order = order[:BATCH], order[BATCH:]
        source = padded([sources[i] for i in batch], 0)
        loss = model(
            input_ids=source,
            attention_mask=(source != 0).long(),
            labels=padded([targets[i] for i in batch], -100),
        ).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(chosen, 1.0)
        optimizer.step()
    return model.eval()


def main():
    import torch
    from tokenizers import Tokenizer
    from transformers import T5ForConditionalGeneration

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, default=ENCODERS_FOLDER / ENCODER)
    parser.add_argument("--tasks", nargs="*", default=list(TEXT_TASKS))
    parser.add_argument("--rate", type=float, help="fine-tune too, at this learning rate")
    parser.add_argument("--attention", action="store_true", help="and q, k and v alone")
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = Tokenizer.from_file(str(arguments.folder / "tokenizer.json"))
    model = T5ForConditionalGeneration.from_pretrained(arguments.folder).eval()
    rows = []
    for task in arguments.tasks:
        splits = write_task(task)
        test = read_rows(tokenizer, task, *splits["validation"])
        row = [score(model, tokenizer, task, *test)]
        if arguments.rate:
            order = np.random.default_rng(0).permutation(TRAIN)[HELD_OUT:]
            sources, answers = read_rows(tokenizer, task, *splits["train"])
            train = [sources[i] for i in order], [answers[i] for i in order]
            for attention in (False, True)[: 1 + arguments.attention]:
                tuned = fine_tune(
                    model, tokenizer, *train, arguments.rate, attention, arguments.steps
                )
                row.append(score(tuned, tokenizer, task, *test))
        rows.append(row)
        print(f"{task:14}" + "".join(f"{value:8.1f}" for value in row), flush=True)
    print(f"{'mean':14}" + "".join(f"{value:8.1f}" for value in np.mean(rows, axis=0)))


if __name__ == "__main__":
    main()
