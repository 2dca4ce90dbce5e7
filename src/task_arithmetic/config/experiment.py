"""What a configuration may say: every key, its type and bounds; and the experiment that it is.

`Configuration` is config.yaml with any overlays over it; `task-arithmetic schema` prints it for
editors. An `Experiment` is one with the definitions that it names, as all others read it. What
names must be to each other is checks.py.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SkipValidation

from ..analysis.subsets import sizes_of, subsets_of
from . import kinds as a  # a.Share
from .analyses import OF_TEXTS, Analyses
from .definitions import Checkpoint, Checkpoints, Definitions, checkpoint_of
from .kinds import Maybe, Section, key, partly
from .mergers import Alphas, Merger, Merging, check_tasks, mergers_of, subset_mergers

# What a recipe may say of single encoders, modes and tasks, each over the one before, key by key.
BY = {"by_encoder": "encoders", "by_mode": "modes", "by_task": "tasks"}


class Recipe(Section):
    """How a task is fine-tuned."""

    steps: a.Count = key("optimizer steps")
    batch_size: a.Count = key("examples per step")
    learning_rate: a.Positive = key("at the end of the warm-up")
    warmup_steps: a.Natural = key("steps in which the rate grows linearly from 0")
    schedule: Literal["cosine", "constant"] = key("the rate after the warm-up", "cosine")
    weight_decay: a.NotNegative = key("AdamW's, on every parameter that moves")
    gradient_clip: a.Positive | None = key("largest norm of the gradient")


class TextRecipe(Recipe):
    """How a task of texts is fine-tuned."""

    checkpoint_steps: a.Count = key("steps between two saved states of an unfinished run")


class ImageRecipe(Recipe):
    """How a task of images is fine-tuned."""

    crop_scale: Annotated[list[a.SomeShare], a.TWO] = key(
        "random crop: smallest and largest share of the image's area"
    )
    checkpoint_steps: a.Count = key("steps between two saved states of an unfinished run")


@partly
class SpecialRecipe(TextRecipe):
    """In which keys a recipe is special."""


@partly
class SpecialImageRecipe(ImageRecipe):
    """In which keys a recipe is special."""


class Finetune(TextRecipe):
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

    tasks: a.Names = key("files of config/tasks")
    encoders: a.Names = key("files of config/encoders, from small to large")
    modes: Annotated[a.Names, a.SOME] = key("files of config/modes")
    focus: Maybe[str] = key("the encoder of Table 3; default the first", None)
    finetune: Finetune = key("the recipe")
    reference_selection: bool = key("α on the scores that are reported", False)


class Negation(Section):
    """Forgetting one task while the accuracy of a control task is kept."""

    control: a.Name | None = key("the control task; null: no negation")
    keep: a.SomeShare = key("share of the pretrained control accuracy that must remain")


class Disentanglement(Section):
    """The heatmaps: the error over a grid of both coefficients."""

    pairs: dict[a.Name, a.Pair | None] | None = key("figure → two tasks; null: no such heatmap")
    low: a.Number = key("both coefficients run from low ...")
    high: a.Number = key("... to high")
    points: Annotated[int, Field(ge=2, le=201)] = key("in so many points")
    samples: a.Count = key("random test images per task")
    reference_scaling: bool = key("as the published code, on the first images", False)


class Efficiency(Section):
    """The measurement of training steps."""

    steps: a.Count = key("timed training steps per mode")


class Limit(Section):
    """How many random examples of each split are kept."""

    train: a.Count = key("of train")
    validation: a.Count = key("of validation")
    test: a.Count = key("of test")


def _not_shared(name: str) -> str:
    if name == "shared":
        raise ValueError(f"cannot be {name!r}, which is kept for what runs share; rename it")
    return name


class Configuration(Section):
    """A configuration: config.yaml, or an overlay on it."""

    run: Annotated[a.Name, AfterValidator(_not_shared)] = key("results go to results/<run>/")
    suite: Annotated[a.Text, Field(max_length=60)] = key(
        "paper and embedded (what comes with the code) have the paper's numbers beside; or your own"
    )
    tasks: a.Names = key("files of config/tasks")
    encoders: a.Names = key("files of config/encoders, from small to large; empty, as tasks: texts")
    modes: Annotated[a.Names, a.SOME] = key("files of config/modes")
    ablations: a.Names = key("modes that are run on the focus encoder only", [])
    focus: str = key("the encoder of Tables 1 and 5 and of Figures 6, 8, 9 and 10")
    seeds: Annotated[list[a.Natural], a.SOME, a.DISTINCT, a.UNIQUE] = key(
        "each seed repeats all fine-tuning", [0]
    )
    finetune: ImageFinetune = key("the recipe")
    published: dict[a.Name, Checkpoints | None] = key(
        "encoder → mode → task → weights that are taken, not fine-tuned; over the encoders' own", {}
    )
    language: Language | None = key("the same on texts; null: none", None)
    alphas: Alphas = key("the grid of α, which is chosen on validation")
    negation: Negation | None = key("null, or a control of null: none")
    disentanglement: Disentanglement | None = key("null, or no pairs: no heatmaps")
    merging: Merging | None = key("methods beside the sum; null: none", None)
    analyses: Analyses | None = key("what is shown beside the paper's; null: nothing", None)
    efficiency: Efficiency = key("the measurement of training steps")
    limit: Limit | None = key("random examples that are kept of each split; null: all", None)
    precision: Literal["auto", "bf16", "float32"] = key(
        "of training and accuracies; auto: bf16 on GPUs", "auto"
    )
    device: Literal["auto", "cpu", "cuda"] = key("auto: GPU jobs where there is a GPU", "auto")
    store_gb: a.NotNegative = key(
        "finished results that a change replaced are kept up to this size; 0: none are", 50
    )
    scratch: a.Text | None = key(
        "folder for the states of unfinished fine-tunings; null: beside the results", None
    )


# --- The experiment ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Subsets:
    """Subsets of the tasks that are merged: how many tasks they have, how many of each size are
    drawn at most, and by which methods."""

    sizes: list[int]
    draws: int
    mergers: tuple[Merger, ...]

    def merger(self, label: str) -> Merger:
        """One of `mergers`."""
        return next(each for each in self.mergers if each.label == label)

    def of(self, tasks: list[str]) -> list[tuple[str, ...]]:
        """All of these tasks' subsets."""
        return [each for size in self.sizes for each in subsets_of(tasks, size, self.draws)]


@dataclass(frozen=True)
class Part:
    """What is done in a modality: with images (vision), or with texts (language).

    Attributes:
        ablations: modes of the encoder `focus` alone.
        finetune: its recipe, and what is special; None: nothing is fine-tuned.
        control: the control task of negation; None: nothing is negated.
        pairs: heatmap → its two tasks.
        reference_selection: whether α is chosen on test, as in the published code.
        merged: encoders whose vectors are merged by more methods than the sum: by `mergers`.
        analyses: names of those that are made of the encoder `focus`.
        subsets: of the tasks, for the analysis number_of_tasks; None: it is not made.
    """

    modality: str
    tasks: list[str] = field(default_factory=list)
    encoders: list[str] = field(default_factory=list)
    modes: list[str] = field(default_factory=list)
    ablations: list[str] = field(default_factory=list)
    focus: str | None = None
    finetune: Finetune | ImageFinetune | None = None
    control: str | None = None
    pairs: dict[str, list[str]] = field(default_factory=dict)
    reference_selection: bool = False
    merged: list[str] = field(default_factory=list)
    mergers: tuple[Merger, ...] = ()
    analyses: tuple[str, ...] = ()
    subsets: Subsets | None = None

    @property
    def unit(self) -> str:
        """What an example is: an image or a text."""
        return "image" if self.modality == "vision" else "text"

    def merger(self, label: str) -> Merger:
        """One of `mergers`."""
        return next(each for each in self.mergers if each.label == label)

    def collected(self, encoder: str) -> int:
        """Of how many examples of a task a method needs the statistics of layers' inputs; 0: no
        method does."""
        asked = [each.images for each in self.mergers if each.collects]
        return max(asked, default=0) if encoder in self.merged else 0

    @property
    def read(self) -> list[str]:
        """The tasks, and the control task."""
        return [*self.tasks, *filter(None, [self.control])]

    @property
    def main(self) -> list[tuple[str, str]]:
        """(encoder, mode) of all that is fine-tuned but the ablations."""
        return [(encoder, mode) for encoder in self.encoders for mode in self.modes]

    @property
    def models(self) -> list[tuple[str, str]]:
        """(encoder, mode) of all that is fine-tuned."""
        return self.main + [(self.focus or "", mode) for mode in self.ablations]

    def recipe(self, encoder: str, mode: str, task: str) -> Recipe:
        """The recipe of one fine-tuning: the part's, over it what by_encoder says of the encoder,
        over that by_mode, and over all by_task."""
        assert self.finetune
        said = self.finetune.given()
        special = [said.pop(by, {}) for by in BY]
        for by, name in zip(special, (encoder, mode, task), strict=True):
            said |= by.get(name, {})
        form = ImageRecipe if self.modality == "vision" else TextRecipe
        return form.model_construct(**said)


class Experiment(Configuration):
    """A configuration that is right, and what it names.

    Attributes:
        parts: modality → what is done in it; one without encoders is left out.
        definitions: what the names of tasks, encoders and modes stand for.
    """

    parts: SkipValidation[dict[str, Part]] = Field(exclude=True)
    definitions: SkipValidation[Definitions] = Field(exclude=True)

    def part(self, modality: str) -> Part:
        """What is done in a modality, which may be nothing."""
        return self.parts.get(modality) or Part(modality)

    def part_of(self, encoder: str) -> Part:
        """The part that an encoder belongs to."""
        return self.parts[self.definitions.encoders[encoder].modality]

    def patterns(self, mode: str, encoder: str) -> list[str]:
        """The patterns of a mode over an encoder's tensors."""
        modality = self.definitions.encoders[encoder].modality
        return self.definitions.modes[mode].patterns(modality)

    @cached_property
    def checkpoints(self) -> dict[tuple[str, str, str], Checkpoint]:
        """(encoder, mode, task) → the published weights that are taken in place of fine-tuning; the
        configuration's over the encoder's own, where null takes away."""
        found: dict[tuple[str, str, str], Checkpoint] = {}
        for part in self.parts.values():
            for encoder, mode in part.models:
                of_modes = self.published.get(encoder, {})
                over = None if of_modes is None else of_modes.get(mode, {})
                own = self.definitions.encoders[encoder].published.get(mode) or {}
                of_tasks = {} if over is None else {**own, **over}
                for task in part.tasks:
                    if (given := of_tasks.get(task)) is not None:
                        found[encoder, mode, task] = checkpoint_of(given)
        return found

    def trained(self, part: Part) -> list[tuple[str, str, str]]:
        """(encoder, mode, task) of all that is fine-tuned in a part."""
        every = [(*model, task) for model in part.models for task in part.tasks]
        return [each for each in every if each not in self.checkpoints]

    def linearized(self, mode: str) -> bool:
        """Whether a mode is evaluated through f_lin; `posthoc` always is."""
        return mode == "posthoc" or self.definitions.modes[mode].linearized


def parts_of(configuration: Configuration) -> dict[str, Part]:
    """The parts of an experiment, from its configuration."""
    c, texts = configuration, configuration.language
    named = c.disentanglement.pairs if c.disentanglement else None
    pairs = {name: pair for name, pair in (named or {}).items() if pair}
    control = c.negation.control if c.negation else None
    images = c.tasks, c.encoders, c.modes, c.ablations, c.focus
    found = [Part("vision", *images, c.finetune, control, pairs)]
    if texts:
        focus = texts.focus or next(iter(texts.encoders), None)
        own = texts.tasks, texts.encoders, texts.modes, list[str](), focus, texts.finetune
        found.append(Part("language", *own, reference_selection=texts.reference_selection))
    mergers = mergers_of(c.merging)
    merging = (_merging(part, c.merging, mergers) for part in found if part.encoders)
    return {part.modality: _analysing(part, c) for part in merging}


def _merging(part: Part, merging: Merging | None, mergers: tuple[Merger, ...]) -> Part:
    if len(part.tasks) < 2:  # there is nothing to merge
        return part
    check_tasks(mergers, len(part.tasks))
    focus = merging is not None and merging.encoders == "focus"
    merged = [part.focus or ""] if focus else part.encoders
    return replace(part, merged=merged if mergers else [], mergers=mergers)


def _analysing(part: Part, configuration: Configuration) -> Part:
    """The part with those of the analyses that it can have."""
    of_several = ("layers", "alignment", "pairs", "interference", "number_of_tasks")
    lacks = dict.fromkeys(of_several, len(part.tasks) < 2)
    lacks |= {"loss_plane": not part.pairs, "retention": not part.control}
    analyses, of_images = configuration.analyses, part.modality == "vision"
    asked = [name for name, of in analyses or () if of is not None and not lacks.get(name)]
    made = tuple(name for name in asked if of_images or name in OF_TEXTS)
    subsets = None
    if analyses and analyses.number_of_tasks and "number_of_tasks" in made:
        said, where = analyses.number_of_tasks, "analyses.number_of_tasks"
        grids = said.alphas, part.mergers, configuration.alphas.given()
        mergers = subset_mergers(said.methods, *grids, where)
        subsets = Subsets(sizes_of(said.sizes, len(part.tasks)), said.draws, mergers)
    return replace(part, analyses=made, subsets=subsets)
