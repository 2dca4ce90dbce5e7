"""A tiny T5, two tasks of texts and their tokens, in the real forms, for tests of the core."""

from functools import cache
from pathlib import Path

import numpy as np
import tiny
import torch

from task_arithmetic.language.checkpoints import import_t5
from task_arithmetic.language.prepare import write_texts
from task_arithmetic.language.tokens import write_tokens
from task_arithmetic.stages.finetune import finetune
from task_arithmetic.stages.vector import write_vector

WORDS = "red blue green dog cat bird runs sleeps sings gladly sadly not".split()
MODES = {
    "nonlinear": {"train": ["*"], "linearized": False},
    "ntk": {"train": ["*"], "linearized": True},
    "attention": {"train": ["*Attention.[qkv].weight"], "linearized": False},
}
RECIPE = {
    "steps": 6,
    "batch_size": 8,
    "learning_rate": 3e-3,
    "schedule": "constant",
    "warmup_steps": 0,
    "weight_decay": 0.0,
    "gradient_clip": None,
    "checkpoint_steps": 100,
}
TASKS = {
    "mood": {
        "texts": ["sentence"],
        "metric": "exact_match",
        "prompt": {"input": "mood: {sentence}", "labels": ["sad", "very glad"]},
    },
    "alike": {
        "texts": ["one", "two"],
        "metric": "spearman",
        "prompt": {"input": "alike: {one} and {two}", "labels": "{:.1f}"},
    },
}


def checkpoint(folder: Path) -> Path:
    """A random T5 and its tokenizer in transformers' form."""
    import json

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import T5Config, T5ForConditionalGeneration

    words = [*WORDS, "mood:", "alike:", "and", "sad", "very", "glad"]
    numbers = [f"{n / 10:.1f}" for n in range(51)]
    known = ["<pad>", "</s>", "<unk>", *(f"▁{word}" for word in [*words, *numbers])]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(known)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    about = {"tokenizer_class": "PreTrainedTokenizerFast", **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(known),
        d_model=24,
        d_kv=6,
        d_ff=32,
        num_layers=2,
        num_heads=4,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=16,
        decoder_start_token_id=0,
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


def dataset(folder: Path, task: str, seed: int) -> Path:
    """A saved dataset of the task: sentences of words at random, some labels drawn anew."""
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    generator = np.random.default_rng(seed)

    def sentence():
        return " ".join(generator.choice(WORDS[:9], generator.integers(1, 7)))

    def row():
        if task == "mood":
            glad = bool(generator.random() < 0.5)
            label = glad ^ bool(generator.random() < 0.1)
            return {"sentence": f"{sentence()} {'gladly' if glad else 'sadly'}", "label": label}
        end = generator.integers(3)
        label = round(float(2 * end + generator.choice([0.25, 0.75])), 2)
        return {"one": sentence(), "two": f"{sentence()} {WORDS[9 + end]}", "label": label}

    label = ClassLabel(names=["sad", "glad"]) if task == "mood" else Value("float32")
    features = Features({**{c: Value("string") for c in TASKS[task]["texts"]}, "label": label})

    drawn = (row() for _ in range(400))
    every = list({tuple(r[c] for c in TASKS[task]["texts"]): r for r in drawn}.values())[:130]
    splits = {"train": every[:90], "test": every[90:]}
    DatasetDict(
        {k: Dataset.from_list([{**r} for r in v], features=features) for k, v in splits.items()}
    ).save_to_disk(str(folder))
    return folder


@cache
def suite() -> dict:
    """Encoder, data and tokens: the arguments that evaluations share. Never changed."""
    root = tiny.workspace() / "texts"
    import_t5("tiny", {"path": str(checkpoint(root / "checkpoint"))}, root / "encoder")
    data_dirs, heads = [], []
    for seed, (task, definition) in enumerate(TASKS.items()):
        source = dataset(root / "source" / task, task, seed)
        own = {k: definition[k] for k in ("texts", "metric")}
        data_dirs.append(root / "data" / task)
        write_texts(task, {"path": str(source), "validation": 30, **own}, data_dirs[-1])
        heads.append(root / "heads" / f"{task}.safetensors")
        chosen = {k: definition[k] for k in ("prompt", "metric")}
        write_tokens(root / "encoder", data_dirs[-1], chosen, heads[-1])
    return {
        "encoder_dir": root / "encoder",
        "encoder": "tiny",
        "tasks": list(TASKS),
        "heads": heads,
        "data_dirs": data_dirs,
    }


def settings(mode="nonlinear", **recipe) -> dict:
    """Fine-tuning settings."""
    chosen = {"mode": MODES[mode], "finetune": {**RECIPE, **recipe}}
    return {"modality": "language", **chosen, "limit": None}


def train(folder: Path, mode: str, task: str, seed=0, **recipe) -> Path:
    """Fine-tune and extract the vector; returns the vector's path. θ_t lies in finetuned/."""
    every = suite()
    i = every["tasks"].index(task)
    moved = folder / "finetuned" / mode / f"{task}-{seed}.safetensors"
    finetune(
        every["encoder_dir"],
        every["heads"][i],
        every["data_dirs"][i],
        encoder="tiny",
        mode=mode,
        task=task,
        seed=seed,
        settings=settings(mode, **recipe),
        output=moved,
        log=moved.with_suffix(".csv"),
    )
    vector = folder / "vectors" / mode / f"{task}-{seed}.safetensors"
    write_vector(every["encoder_dir"], moved, vector)
    return vector


@cache
def vector(mode: str, task: str) -> Path:
    """A vector of the suite that has learnt something."""
    return train(tiny.workspace() / "texts", mode, task, learning_rate=1e-2, steps=60)


def common(mode=None) -> dict:
    """The arguments that evaluations share."""
    found = suite()
    if mode is None:
        return found
    return {**found, "mode": mode, "seed": 0, "vectors": [vector(mode, t) for t in found["tasks"]]}
