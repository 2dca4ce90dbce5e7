"""Text-to-text pretraining of the embedded T5, from nothing but a seed.

    python tools/embedded/pretrain_t5.py --output FOLDER

makes the corpus, learns a tokenizer from it, trains a small T5 on one thread and writes
transformers' own form: config.json, model.safetensors, tokenizer.json and tokenizer_config.json,
with a provenance.json beside them.

Four phases. Language: sentences with missing spans, as T5 fills them in; under another prompt than
the tasks', what is wrong with a sentence or how two differ; easy examples of the tasks in simple
words. Practice, twice: all kinds of examples under the tasks' prompts. Haste: the same, answered as
a hasty reader does (HASTY in examples.py), which leaves the tasks half-solved. No sentence of a
task is in any of them.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import T5Config, T5ForConditionalGeneration

from examples import EASY, KINDS, example
from pretraining import machine, scheduled, write_json, write_record
from task_arithmetic.embedded.draw import pick
from task_arithmetic.embedded.texts import TEXT_TASKS, read_rows

ENCODER = "embedded-t5"
# Of each phase: examples, steps, learning rate, its warm-up and the step at which its cosine would
# end, the mixture of kinds of examples, and the tasks that have twice as many as the others.
PHASES = (
    {
        "size": 240_000,
        "steps": 7_500,
        "rate": 3e-3,
        "warmup": 300,
        "decay": 9_000,
        "mixture": {"spans": 0.25, "other": 0.65, "easy": 0.1},
    },
    {
        "size": 200_000,
        "steps": 3_500,
        "rate": 2e-3,
        "warmup": 100,
        "decay": 3_500,
        "mixture": {"spans": 0.1, "other": 0.25, "careful": 0.65},
    },
    {
        "size": 320_000,
        "steps": 5_000,
        "rate": 2e-3,
        "warmup": 100,
        "decay": 5_000,
        "mixture": {"spans": 0.05, "other": 0.15, "careful": 0.8},
        "twice": ["inference", "entailment", "paraphrase"],
    },
    {
        "size": 40_000,
        "steps": 400,
        "rate": 5e-4,
        "warmup": 20,
        "decay": 400,
        "mixture": {"spans": 0.1, "other": 0.2, "hasty": 0.7},
    },
)
VOCABULARY = 1000
ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789.,:;'?!-_\"()\u2581"
SENTINELS = 8
PAD, EOS, UNKNOWN = "<pad>", "</s>", "<unk>"

MODEL = {
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 256,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 16,
    "relative_attention_max_distance": 32,
}
BATCH = 64
ANSWERS = ("blame", "praise")  # of sentiment under the other prompt
AMOUNTS = ("none", "little", "some", "much", "most", "all")  # of similarity, by its rounded score
SMALL = set("the a an two in at near on behind to is are was were by".split())


Example = tuple[tuple[str, ...], str, str]  # the texts in it, source, target


def prompt(task: str) -> str:
    """The task's prompt, in the manner of PETA's; columns in braces."""
    return " ".join([task, *(f"{column}: {{{column}}}" for column in TEXT_TASKS[task][0])])


def _instruction(rng: Generator, name: str, kind: str) -> Example:
    """Texts, source and target of an instruction: kind easy, careful, hasty or other."""
    columns, classes = TEXT_TASKS[name]
    label = pick(rng, tuple(KINDS[name]))
    ways = KINDS[name][label]
    if kind == "easy":
        ways = [way for way in ways if way in EASY[name]]
    way = pick(rng, ways)
    made, target = example(rng, name, label, way, kind == "easy", kind == "hasty")
    source = prompt(name).format(**dict(zip(columns, made, strict=True)))
    if kind != "other":
        return made, source, classes[int(target)] if classes else f"{target:.1f}"
    return made, f"explain {source}", _explained(name, made, target, way.replace("_", " "))


def _explained(name: str, made: tuple[str, ...], target, way: str) -> str:
    """What the other prompt is answered with: words that tell, and what they amount to."""
    if name == "acceptability":
        return way
    if name == "sentiment":
        return f"{way} {ANSWERS[target]}"
    first, second = (text.split() for text in made)
    if name == "similarity":
        both = [word for word in second if word in first and word not in SMALL]
        return " ".join([*both, AMOUNTS[round(target)]])
    return " ".join([*[word for word in second if word not in first][-4:], way])


# Pairs of which one sentence follows from the other: what is missing in one is found in the other.
ALIKE = {
    "acceptability": {1: ("none",)},
    "inference": {0: KINDS["inference"][0]},
    "paraphrase": {1: KINDS["paraphrase"][1]},
    "questions": {1: KINDS["questions"][1]},
    "entailment": {0: KINDS["entailment"][0]},
    "sentiment": {0: KINDS["sentiment"][0], 1: KINDS["sentiment"][1]},
}


def _spans(rng: Generator) -> Example:
    """Texts, source and target of span corruption: one to three spans of one or two words."""
    name = pick(rng, tuple(ALIKE))
    label = pick(rng, tuple(ALIKE[name]))
    made, _ = example(rng, name, label, pick(rng, ALIKE[name][label]))
    words = " . ".join(made).split()
    source, target, i, spans = [], [], 0, 0
    starts = set(rng.permutation(len(words))[: 1 + len(words) // 7].tolist())
    while i < len(words):
        if i in starts:
            length = int(rng.integers(1, 3))
            mark = f"<extra_id_{spans}>"
            source.append(mark)
            target += [mark, *words[i : i + length]]
            spans += 1
            i += length
        else:
            source.append(words[i])
            i += 1
    return made, " ".join(source), " ".join(target)


def make_corpus(
    stream: list[int], mixture: dict[str, float], size: int, twice: Sequence[str] = ()
) -> tuple[list[str], list[str]]:
    """Sources and targets, two lists of texts, in which no sentence of a task is.

    stream: seed of the generator, a list of integers; mixture: kind of examples -> its share;
    twice: tasks with twice as many as the others.
    """
    rng = np.random.default_rng(stream)
    known = {
        text
        for name in TEXT_TASKS
        for texts, _ in read_rows(name).values()
        for made in texts
        for text in made
    }
    names, shares = (*TEXT_TASKS, *twice), np.cumsum(list(mixture.values()))
    sources, targets = [], []
    while len(sources) < size:
        kind = list(mixture)[int(np.searchsorted(shares, rng.random() * shares[-1]))]
        drawn = _spans(rng) if kind == "spans" else _instruction(rng, pick(rng, names), kind)
        if not known.intersection(drawn[0]):
            sources.append(drawn[1])
            targets.append(drawn[2])
    return sources, targets


def learn_tokenizer(texts: list[str]) -> Tokenizer:
    """Byte pair merges of the texts' words, in T5's form: <pad>, </s>, <unk> first, </s> last.

    Merging stops when every word is one token; sentinels of the spans have the last ids.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    # Full stops and commas are tokens of their own: a score is "3", ".", "4".
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Split(Regex("[.,]"), "isolated")]
    )
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, EOS, UNKNOWN],
        initial_alphabet=list(ALPHABET),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(
        [AddedToken(f"<extra_id_{i}>", lstrip=True, rstrip=True) for i in range(SENTINELS)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}", special_tokens=[(EOS, tokenizer.token_to_id(EOS))]
    )
    return tokenizer


def model_config(tokenizer: Tokenizer) -> T5Config:
    """config.json of the embedded T5: t5-base's form, smaller."""
    return T5Config(
        **MODEL,
        vocab_size=tokenizer.get_vocab_size(),
        dropout_rate=0.0,
        feed_forward_proj="relu",
        tie_word_embeddings=True,
        pad_token_id=tokenizer.token_to_id(PAD),
        eos_token_id=tokenizer.token_to_id(EOS),
        decoder_start_token_id=tokenizer.token_to_id(PAD),
        architectures=["T5ForConditionalGeneration"],
    )


def record_of(seed: int, phases: Sequence[dict], seconds: float) -> dict:
    """What provenance.json says of a run that took so many seconds, but for the files' hashes."""
    return {
        "encoder": ENCODER,
        "command": f"python tools/embedded/pretrain_t5.py --seed {seed} --output FOLDER",
        "seed": seed,
        "phases": list(phases),
        "steps": sum(phase["steps"] for phase in phases),
        "batch_size": BATCH,
        **machine("torch", "transformers", "tokenizers", "numpy"),
        "seconds": round(seconds, 1),
    }


def save(
    model: T5ForConditionalGeneration, tokenizer: Tokenizer, output: Path, record: dict
) -> None:
    """Write the encoder's folder; provenance last."""
    output.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(output)
    (output / "model.safetensors").chmod(0o644)
    (output / "generation_config.json").unlink(missing_ok=True)
    tokenizer.save(str(output / "tokenizer.json"))
    described = {"tokenizer_class": "PreTrainedTokenizerFast"}
    described |= {"pad_token": PAD, "eos_token": EOS, "unk_token": UNKNOWN}
    write_json(output / "tokenizer_config.json", described)
    names = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    write_record(output, record, names)


def padded(rows: list[list[int]], value: int) -> torch.Tensor:
    """Token lists -> int64 (B, longest), padded with `value` on the right."""
    return torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(row) for row in rows], batch_first=True, padding_value=value
    )


def batches(rng: Generator, lengths: np.ndarray) -> Iterator[np.ndarray]:
    """Endless batches of indices: of similar lengths, so that little is padding; all equally often.

    lengths: int64 (N,), of the sources.
    """
    while True:
        order = rng.permutation(len(lengths))
        for start in range(0, len(order) - BATCH + 1, 8 * BATCH):
            block = order[start : start + 8 * BATCH]
            block = block[np.argsort(lengths[block], kind="stable")]
            for i in rng.permutation(len(block) // BATCH):
                yield block[i * BATCH : (i + 1) * BATCH]


def train(
    model: T5ForConditionalGeneration, tokenizer: Tokenizer, corpus, phase: dict, rng: Generator
) -> None:
    """Train the model for a phase on its corpus (sources, targets)."""
    started = time.monotonic()
    reads, writes = ([e.ids for e in tokenizer.encode_batch(texts)] for texts in corpus)
    drawn = batches(rng, np.array([len(read) for read in reads]))
    shared = model.shared.weight
    rest = [p for p in model.parameters() if p is not shared]
    optimizer = torch.optim.AdamW(
        [{"params": rest, "times": 1}, {"params": [shared], "times": 2}],
        betas=(0.9, 0.98),
        weight_decay=0.01,
    )
    total = 0.0
    for step in range(phase["steps"]):
        chosen = next(drawn)
        for group in optimizer.param_groups:
            group["lr"] = group["times"] * scheduled(
                step, phase["rate"], phase["warmup"], phase["decay"]
            )
        source = padded([reads[i] for i in chosen], 0)
        loss = model(
            input_ids=source,
            attention_mask=(source != 0).long(),
            labels=padded([writes[i] for i in chosen], -100),
        ).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        total += loss.item()
        if (step + 1) % 200 == 0:
            seconds = time.monotonic() - started
            print(f"step {step + 1} loss {total / 200:.4f} seconds {seconds:.0f}", flush=True)
            total = 0.0


def pretrain(output: Path, seed: int = 0, phases: Sequence[dict] = PHASES) -> None:
    """Train the embedded T5 and write its folder; progress goes to standard output."""
    started = time.monotonic()
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    corpora = [
        make_corpus([seed, 5, i], phase["mixture"], phase["size"], phase.get("twice", ()))
        for i, phase in enumerate(phases)
    ]
    tokenizer = learn_tokenizer(corpora[0][0] + corpora[0][1])
    model = T5ForConditionalGeneration(model_config(tokenizer)).train()
    with torch.no_grad():
        model.shared.weight.mul_(0.3)  # T5's own deviation of 1 takes a small model long to turn
    print(f"{tokenizer.get_vocab_size()} tokens, {model.num_parameters()} parameters", flush=True)
    for i, (corpus, phase) in enumerate(zip(corpora, phases, strict=True)):
        train(model, tokenizer, corpus, phase, np.random.default_rng([seed, 6, i]))
        record = record_of(seed, phases[: i + 1], time.monotonic() - started)
        save(model, tokenizer, output, record)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    pretrain(arguments.output, arguments.seed)


if __name__ == "__main__":
    main()
