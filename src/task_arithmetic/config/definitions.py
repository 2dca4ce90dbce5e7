"""What the definitions that a configuration names may say: files in config/tasks, config/encoders
and config/modes, each a `Task` or `TextTask`, an `Encoder` or `TextEncoder`, or a `Mode`."""

from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import Field

from . import kinds as a  # a.Share
from .kinds import Maybe, Section, key


class Expected(Section):
    """Counts that the data must have."""

    train: Maybe[a.Natural] = key("training examples", None)
    validation: Maybe[a.Count] = key("validation examples", None)
    test: Maybe[a.Count] = key("test examples", None)
    classes: Maybe[a.Count] = key("classes", None)


class Source(Section):
    """Where the examples of a task come from: exactly one of hub, path, embedded."""

    hub: Maybe[a.Hub] = key("owner/name", None)
    config: Maybe[str] = key("of the hub's dataset", None)
    revision: Maybe[str] = key("of the hub's dataset", None)
    path: Maybe[a.Text] = key(
        "a folder or file: class folders, saved by datasets, parquet, CSV, JSON lines",
        None,
    )
    embedded: Maybe[str] = key("a task that comes with the code", None)
    label: str = key("column of the labels", "label")
    train: str | None = key("split; null: evaluated only", "train")
    test: a.TextOr[Annotated[float, Field(gt=0, lt=1)]] = key(
        "split; or the share of rows to draw, of data that are not cut into splits", "test"
    )
    split: Maybe[a.Text] = key("column that names each row's split, of data in one piece", None)
    validation: Maybe[a.TextOr[a.Count]] = key(
        "split, or examples to hold out; default 10 %, at most 5,000", None
    )
    stratified: bool = key("each class gives its share to what is drawn", True)
    missing_classes: Literal["error", "allow"] = key("only trained on, or only tested", "error")
    expected: Maybe[Expected] = key("counts that the data must have", None)


class Task(Source):
    """One labelled image set."""

    modality: ClassVar[str] = "vision"

    image: str = key("column of the images", "image")
    shared_images: a.Share = key("share that may be in two splits", 0)
    bad_images: Literal["error", "skip"] = key("that cannot be read", "error")
    transparent: Literal["white", "black", "drop", "error"] = key(
        "ground under transparent images", "white"
    )
    levels: Maybe[Annotated[list[a.Number], a.TWO]] = key(
        "black and white of images of more than 8 bits; of 16 bits default [0, 65535]", None
    )
    alike_classes: Literal["error", "allow"] = key(
        "whose names read the same to a text tower", "error"
    )
    classes: Maybe[a.ListOr[a.Texts, Literal["open_clip"]]] = key(
        "names that replace the dataset's, in label order", None
    )
    source_classes: Maybe[a.ListOr[Annotated[list[str], a.SOME], Literal["any"]]] = key(
        "the dataset's own names, which classes stand for; any: they are not compared", None
    )
    templates: a.ListOr[a.Texts, Literal["open_clip"]] = key(
        "prompts, each with one {} for the class name"
    )


class Prompt(Section):
    """A prompt, and what it is answered with."""

    input: a.Text = key('each of texts in braces: "cola sentence: {sentence}"')
    labels: a.ListOr[Annotated[list[a.Word], a.SOME], str] = key(
        'what is to be answered, in label order; of scores, their format: "{:.1f}"'
    )


class MaxTokens(Section):
    """Longer texts are cut; both with the end of text."""

    input: Annotated[int, Field(ge=2)] = key("of a prompt", 512)
    target: Annotated[int, Field(ge=2)] = key("of an answer", 10)


class TextTask(Source):
    """One labelled set of texts."""

    modality: ClassVar[str] = "language"

    texts: Annotated[list[a.Column], a.SOME, a.DISTINCT, a.UNIQUE] = key(
        "columns that prompts name"
    )
    shared_texts: a.Share = key("share that may be in two splits", 0)
    classes: Maybe[a.Texts] = key("names that replace the dataset's, in label order", None)
    source_classes: Maybe[a.ListOr[a.Texts, Literal["any"]]] = key(
        "the dataset's own names, which classes stand for; any: they are not compared", None
    )
    prompts: Annotated[dict[str, Prompt], a.SOME] = key(
        "prompt set → prompt; an encoder names the set that it reads"
    )
    metric: Literal["exact_match", "spearman"] = key("spearman: labels are scores")
    max_tokens: MaxTokens = key("longer texts are cut", MaxTokens())
    paper_task: Maybe[Literal["cola", "mnli", "mrpc", "qqp", "rte", "sst2", "stsb"]] = key(
        "whose published number is beside it", None
    )


class Checkpoint(Section):
    """Fine-tuned weights that somebody has published: exactly one of hub, path."""

    hub: Maybe[a.Hub] = key("owner/name", None)
    revision: Maybe[str] = key("of the hub's repository", None)
    path: Maybe[a.Text] = key("a folder of transformers or open_clip, or a file", None)

    @property
    def source(self) -> str:
        """Where people find them."""
        return self.path or "@".join(filter(None, [self.hub, self.revision]))

    @property
    def name(self) -> str:
        """What the record of its download is called."""
        return "@".join(filter(None, [self.hub, self.revision])).replace("/", "--")


# task → its checkpoint, and mode → those of its tasks; null: fine-tune anyway
OfTasks = dict[a.Name, a.HubOr[Checkpoint] | None]
Checkpoints = dict[a.Name, OfTasks | None]


def checkpoint_of(given: str | Checkpoint) -> Checkpoint:
    """A checkpoint; owner/name stands for a hub's."""
    return Checkpoint(hub=given) if isinstance(given, str) else given


class Encoder(Section):
    """One pretrained CLIP: open_clip's model and tag, or a local folder."""

    modality: ClassVar[str] = "vision"
    prompts: ClassVar[None] = None

    model: Maybe[str] = key("open_clip's name", None)
    pretrained: Maybe[str] = key("open_clip's tag", None)
    path: Maybe[a.Text] = key("folder: open_clip_config.json, open_clip_model.safetensors", None)
    micro_batch: a.Count | None = key("images per forward pass while fine-tuning", None)
    paper_encoder: Maybe[Literal["ViT-B-32", "ViT-B-16", "ViT-L-14"]] = key(
        "whose published numbers stand beside it", None
    )
    published: Checkpoints = key("mode → task → weights that are taken, not fine-tuned", {})


class Architecture(Section):
    """Keys of a T5's config.json: what is planned with before it is downloaded."""

    d_model: a.Count = key("width")
    d_ff: a.Count = key("width within a feed-forward block")
    d_kv: a.Count = key("width of a head's keys and values")
    num_heads: a.Count = key("heads of an attention block")
    num_layers: a.Count = key("layers of the encoder")
    num_decoder_layers: a.Count = key("layers of the decoder")
    vocab_size: a.Count = key("rows of the embedding")
    feed_forward_proj: str = key("relu, or gated-gelu")
    tie_word_embeddings: bool = key("whether the head shares the embedding")


class TextEncoder(Section):
    """One pretrained T5, in the form of transformers: a hub's repository, or a local folder."""

    modality: ClassVar[str] = "language"
    paper_encoder: ClassVar[None] = None

    hub: Maybe[a.Hub] = key("owner/name, with its architecture", None)
    revision: Maybe[str] = key("of the hub's repository", None)
    architecture: Maybe[Architecture] = key("of the hub's repository", None)
    path: Maybe[a.Text] = key("folder: config.json, model.safetensors, tokenizer.json", None)
    prompts: a.Text = key("the prompt set that it reads, of those of each task")
    micro_batch: a.Count | None = key("texts per forward pass while fine-tuning", None)
    published: Checkpoints = key("mode → task → weights that are taken, not fine-tuned", {})


class ByModality(Section):
    """Patterns for each modality."""

    vision: Maybe[a.Patterns] = key("over the tensors of CLIP's image tower", None)
    language: Maybe[a.Patterns] = key("over the tensors of T5", None)


class Mode(Section):
    """Which tensors move, and whether f is linearized."""

    label: a.Text = key("what tables and figures call it")
    train: a.ListOrMapping[a.Patterns, ByModality] = key(
        "patterns (*, ?, [..]) over tensor names; for all encoders, or those of each modality"
    )
    linearized: bool = key("whether f is linearized")

    def patterns(self, modality: str) -> list[str]:
        """The patterns for the encoders of a modality; none if it has none for them."""
        found = self.train if isinstance(self.train, list) else getattr(self.train, modality)
        return found or []


AnyTask = Task | TextTask
AnyEncoder = Encoder | TextEncoder


class Definitions(NamedTuple):
    """What the names of a configuration stand for; paths are relative to the working directory."""

    tasks: dict[str, AnyTask]
    encoders: dict[str, AnyEncoder]
    modes: dict[str, Mode]


FORMS: dict[str, dict[str, type[Section]]] = {  # folder of config/ → modality → what it holds
    "tasks": {"vision": Task, "language": TextTask},
    "encoders": {"vision": Encoder, "language": TextEncoder},
    "modes": {"vision": Mode, "language": Mode},
}
