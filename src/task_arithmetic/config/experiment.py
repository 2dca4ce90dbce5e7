"""What a configuration and the definitions that it names may say: every key, its type and bounds.

`Experiment` is a whole configuration: config.yaml with any overlays over it. What its names stand
for is a `Task` or `TextTask` (a file in config/tasks), an `Encoder` or `TextEncoder`
(config/encoders) and a `Mode` (config/modes). `task-arithmetic schema` prints them for editors;
what names must be to each other is checks.py.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from .kinds import (
    DISTINCT,
    SOME,
    TWO,
    UNIQUE,
    Column,
    Count,
    Hub,
    ListOr,
    ListOrMapping,
    Maybe,
    Name,
    Names,
    Natural,
    Pair,
    Patterns,
    Section,
    Share,
    SomeShare,
    Text,
    TextOr,
    Texts,
    Word,
    key,
    not_shared,
    partly,
)

# --- The configuration ---------------------------------------------------------------------------


class Recipe(Section):
    """How a task is fine-tuned."""

    steps: Count = key("optimizer steps")
    batch_size: Count = key("examples per step")
    learning_rate: Annotated[float, Field(gt=0)] = key("at the end of the warm-up")
    warmup_steps: Natural = key("steps in which the rate grows linearly from 0")
    schedule: Literal["cosine", "constant"] = key("the rate after the warm-up", "cosine")
    weight_decay: Annotated[float, Field(ge=0)] = key("AdamW's, on every parameter that moves")
    gradient_clip: Annotated[float, Field(gt=0)] | None = key("largest norm of the gradient")
    checkpoint_steps: Count = key("steps between two saved states of an unfinished run")


class ImageRecipe(Recipe):
    """How a task of images is fine-tuned."""

    crop_scale: Annotated[list[SomeShare], TWO] = key(
        "random crop: smallest and largest share of the image's area"
    )


@partly
class SpecialRecipe(Recipe):
    """In which keys a recipe is special."""


@partly
class SpecialImageRecipe(ImageRecipe):
    """In which keys a recipe is special."""


class Finetune(Recipe):
    """The recipe, and what is special to encoders, modes and tasks, each over the one before."""

    by_encoder: dict[Any, SpecialRecipe] = key("encoder → what is special to it", {})
    by_mode: dict[Any, SpecialRecipe] = key("mode → what is special to it", {})
    by_task: dict[Any, SpecialRecipe] = key("task → what is special to it", {})


class ImageFinetune(ImageRecipe):
    """The recipe, and what is special to encoders, modes and tasks, each over the one before."""

    by_encoder: dict[Any, SpecialImageRecipe] = key("encoder → what is special to it", {})
    by_mode: dict[Any, SpecialImageRecipe] = key("mode → what is special to it", {})
    by_task: dict[Any, SpecialImageRecipe] = key("task → what is special to it", {})


class Language(Section):
    """The same experiment on texts."""

    tasks: Names = key("files of config/tasks")
    encoders: Names = key("files of config/encoders, from small to large")
    modes: Annotated[Names, SOME] = key("files of config/modes")
    focus: Maybe[str] = key("the encoder of Table 3; default the first", None)
    finetune: Finetune = key("the recipe")
    reference_selection: bool = key("α on the scores that are reported", False)


class Alphas(Section):
    """The grid of α."""

    start: float = key("the smallest α")
    stop: float = key("the largest α, at most 2")
    step: float = key("from one α to the next")


class Negation(Section):
    """Forgetting one task while the accuracy of a control task is kept."""

    control: Name | None = key("the control task; null: no negation")
    keep: SomeShare = key("share of the pretrained control accuracy that must remain")


class Disentanglement(Section):
    """The heatmaps: the error over a grid of both coefficients."""

    pairs: dict[Name, Pair | None] | None = key("figure → two tasks; null: no such heatmap")
    low: float = key("both coefficients run from low ...")
    high: float = key("... to high")
    points: Annotated[int, Field(ge=2, le=201)] = key("in so many points")
    samples: Count = key("random test images per task")
    reference_scaling: bool = key("as the published code, on the first images", False)


class Efficiency(Section):
    """The measurement of training steps."""

    steps: Count = key("timed training steps per mode")


class Limit(Section):
    """How many random examples of each split are kept."""

    train: Count = key("of train")
    validation: Count = key("of validation")
    test: Count = key("of test")


class Experiment(Section):
    """A configuration: config.yaml, or an overlay on it."""

    run: Annotated[Name, AfterValidator(not_shared)] = key("results go to results/<run>/")
    suite: Annotated[Text, Field(max_length=60)] = key(
        "paper and embedded (what comes with the code) have the paper's numbers beside; or your own"
    )
    tasks: Names = key("files of config/tasks")
    encoders: Names = key("files of config/encoders, from small to large; empty, as tasks: texts")
    modes: Annotated[Names, SOME] = key("files of config/modes")
    ablations: Names = key("modes that are run on the focus encoder only", [])
    focus: str = key("the encoder of Tables 1 and 5 and of Figures 6, 8, 9 and 10")
    seeds: Annotated[list[Natural], SOME, DISTINCT, UNIQUE] = key(
        "each seed repeats all fine-tuning", [0]
    )
    finetune: ImageFinetune = key("the recipe")
    language: Language | None = key("the same on texts; null: none", None)
    alphas: Alphas = key("the grid of α, which is chosen on validation")
    negation: Negation | None = key("null, or a control of null: none")
    disentanglement: Disentanglement | None = key("null, or no pairs: no heatmaps")
    efficiency: Efficiency = key("the measurement of training steps")
    limit: Limit | None = key("random examples that are kept of each split; null: all", None)
    precision: Literal["auto", "bf16", "float32"] = key(
        "of training and accuracies; auto: bf16 on GPUs", "auto"
    )
    device: Literal["auto", "cpu", "cuda"] = key("auto: GPU jobs where there is a GPU", "auto")
    store_gb: Annotated[float, Field(ge=0)] = key(
        "finished results that a change replaced are kept up to this size; 0: none are", 50
    )
    scratch: Text | None = key(
        "folder for the states of unfinished fine-tunings; null: beside the results", None
    )


# --- The definitions -----------------------------------------------------------------------------


class Expected(Section):
    """Counts that the data must have."""

    train: Maybe[Natural] = key("training examples", None)
    validation: Maybe[Count] = key("validation examples", None)
    test: Maybe[Count] = key("test examples", None)
    classes: Maybe[Count] = key("classes", None)


class Source(Section):
    """Where the examples of a task come from: exactly one of hub, path, embedded."""

    hub: Maybe[Hub] = key("owner/name", None)
    config: Maybe[str] = key("of the hub's dataset", None)
    revision: Maybe[str] = key("of the hub's dataset", None)
    path: Maybe[Text] = key(
        "a folder or file, see README: class folders, saved by datasets, parquet, CSV, JSON lines",
        None,
    )
    embedded: Maybe[str] = key("a task that comes with the code", None)
    label: str = key("column of the labels", "label")
    train: str | None = key("split; null: evaluated only", "train")
    test: TextOr[Annotated[float, Field(gt=0, lt=1)]] = key(
        "split; or the share of rows to draw, of data that are not cut into splits", "test"
    )
    split: Maybe[Text] = key("column that names each row's split, of data in one piece", None)
    validation: Maybe[TextOr[Count]] = key(
        "split, or examples to hold out; default 10 %, at most 5,000", None
    )
    stratified: bool = key("each class gives its share to what is drawn", True)
    missing_classes: Literal["error", "allow"] = key("only trained on, or only tested", "error")
    expected: Maybe[Expected] = key("counts that the data must have", None)


class Task(Source):
    """One labelled image set."""

    image: str = key("column of the images", "image")
    shared_images: Share = key("share that may be in two splits", 0)
    bad_images: Literal["error", "skip"] = key("that cannot be read", "error")
    transparent: Literal["white", "black", "drop", "error"] = key(
        "ground under transparent images", "white"
    )
    levels: Maybe[Annotated[list[float], TWO]] = key(
        "black and white of images of more than 8 bits; of 16 bits default [0, 65535]", None
    )
    alike_classes: Literal["error", "allow"] = key(
        "whose names read the same to a text tower", "error"
    )
    classes: Maybe[ListOr[Texts, Literal["open_clip"]]] = key(
        "names that replace the dataset's, in label order", None
    )
    source_classes: Maybe[ListOr[Annotated[list[str], SOME], Literal["any"]]] = key(
        "the dataset's own names, which classes stand for; any: they are not compared", None
    )
    templates: ListOr[Texts, Literal["open_clip"]] = key(
        "prompts, each with one {} for the class name"
    )


class Prompt(Section):
    """A prompt, and what it is answered with."""

    input: Text = key('each of texts in braces: "cola sentence: {sentence}"')
    labels: ListOr[Annotated[list[Word], SOME], str] = key(
        'what is to be answered, in label order; of scores, their format: "{:.1f}"'
    )


class MaxTokens(Section):
    """Longer texts are cut; both with the end of text."""

    input: Annotated[int, Field(ge=2)] = key("of a prompt", 512)
    target: Annotated[int, Field(ge=2)] = key("of an answer", 10)


class TextTask(Source):
    """One labelled set of texts."""

    texts: Annotated[list[Column], SOME, DISTINCT, UNIQUE] = key("columns that prompts name")
    shared_texts: Share = key("share that may be in two splits", 0)
    classes: Maybe[Texts] = key("names that replace the dataset's, in label order", None)
    source_classes: Maybe[ListOr[Texts, Literal["any"]]] = key(
        "the dataset's own names, which classes stand for; any: they are not compared", None
    )
    prompts: Annotated[dict[str, Prompt], SOME] = key(
        "prompt set → prompt; an encoder names the set that it reads"
    )
    metric: Literal["exact_match", "spearman"] = key("spearman: labels are scores")
    max_tokens: MaxTokens = key("longer texts are cut", MaxTokens())
    paper_task: Maybe[Literal["cola", "mnli", "mrpc", "qqp", "rte", "sst2", "stsb"]] = key(
        "whose published number is beside it", None
    )


class Encoder(Section):
    """One pretrained CLIP: open_clip's model and tag, or a local folder."""

    model: Maybe[str] = key("open_clip's name", None)
    pretrained: Maybe[str] = key("open_clip's tag", None)
    path: Maybe[Text] = key("folder: open_clip_config.json, open_clip_model.safetensors", None)
    micro_batch: Count | None = key("images per forward pass while fine-tuning", None)
    paper_encoder: Maybe[Literal["ViT-B-32", "ViT-B-16", "ViT-L-14"]] = key(
        "whose published numbers stand beside it", None
    )


class Architecture(Section):
    """Keys of a T5's config.json: what is planned with before it is downloaded."""

    d_model: Count = key("width")
    d_ff: Count = key("width within a feed-forward block")
    d_kv: Count = key("width of a head's keys and values")
    num_heads: Count = key("heads of an attention block")
    num_layers: Count = key("layers of the encoder")
    num_decoder_layers: Count = key("layers of the decoder")
    vocab_size: Count = key("rows of the embedding")
    feed_forward_proj: str = key("relu, or gated-gelu")
    tie_word_embeddings: bool = key("whether the head shares the embedding")


class TextEncoder(Section):
    """One pretrained T5, in the form of transformers: a hub's repository, or a local folder."""

    hub: Maybe[Hub] = key("owner/name, with its architecture", None)
    revision: Maybe[str] = key("of the hub's repository", None)
    architecture: Maybe[Architecture] = key("of the hub's repository", None)
    path: Maybe[Text] = key("folder: config.json, model.safetensors, tokenizer.json", None)
    prompts: Text = key("the prompt set that it reads, of those of each task")
    micro_batch: Count | None = key("texts per forward pass while fine-tuning", None)


class ByModality(Section):
    """Patterns for each modality."""

    vision: Maybe[Patterns] = key("over the tensors of CLIP's image tower", None)
    language: Maybe[Patterns] = key("over the tensors of T5", None)


class Mode(Section):
    """Which tensors move, and whether f is linearized."""

    label: Text = key("what tables and figures call it")
    train: ListOrMapping[Patterns, ByModality] = key(
        "patterns (*, ?, [..]) over tensor names; for all encoders, or those of each modality"
    )
    linearized: bool = key("whether f is linearized")


# --- Views of a configuration, as validate_config gives it ----------------------------------------


def part_of(config: dict, encoder: str) -> dict:
    """The part of a run that an encoder belongs to, with its `modality`."""
    return next(
        {**part, "modality": modality}
        for modality, part in config["parts"].items()
        if encoder in part["encoders"]
    )


def mode_of(config: dict, mode: str, encoder: str) -> dict:
    """A mode's definition as it is for an encoder: `train` is the list of its modality."""
    definition = config["definitions"]["modes"][mode]
    modality = part_of(config, encoder)["modality"]
    return {**definition, "train": patterns(definition, modality)}


def control_of(config: dict) -> str | None:
    """The control task of negation; None: nothing is negated."""
    vision = "vision" in config["parts"]
    return (config["negation"] or {}).get("control") if vision else None


def pairs_of(config: dict) -> dict[str, list[str]]:
    """Heatmap → its two tasks; those that are null are none."""
    pairs = (config["disentanglement"] or {}).get("pairs") or {}
    return (
        {name: pair for name, pair in pairs.items() if pair} if "vision" in config["parts"] else {}
    )


def patterns(definition: dict, modality: str) -> list[str]:
    """The patterns of a mode's definition, which may be different for each modality."""
    train = definition["train"]
    return train.get(modality, []) if isinstance(train, dict) else train
