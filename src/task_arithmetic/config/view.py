"""What tables, figures and the report show of a run: the JSON of settings.view_settings, typed.

Nothing here imports more than Python itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, NamedTuple, TypedDict

PAPER_MODES = ["nonlinear", "ntk", "attention"]  # the paper's order; other modes follow
LABELS = {"pretrained": "Pre-trained", "posthoc": "Post-hoc linearization"}
Needs = Literal["vectors", "unlabelled", "labelled", "transductive"]


class Use(TypedDict):
    """A recipe of fine-tuning, and whom it trains: names, or "all"."""

    encoders: list[str] | str
    modes: list[str] | str
    tasks: list[str] | str
    recipe: dict[str, Any]


class Taken(TypedDict):
    """Published weights that are taken in place of fine-tuning, and where people find them."""

    encoder: str
    mode: str
    task: str
    source: str


class MethodShown(NamedTuple):
    """A merging method of a run, with its options.

    Attributes:
        title: for people. needs: which data it sees besides the task vectors.
        grid: the smallest and the largest α of its own grid; None: that of task addition.
    """

    title: str
    needs: Needs
    grid: tuple[float, float] | None


class SubsetsShown(NamedTuple):
    """Subsets of the tasks that are merged: how many tasks they have, how many of each size are
    drawn at most, and label → title of the methods."""

    sizes: list[int]
    draws: int
    methods: dict[str, str]


SUM = "sum"  # θ0 + α Σ τ: every run has it, whatever else it merges with
THE_SUM = MethodShown("Task arithmetic", "vectors", None)  # α of addition is reported by itself


@dataclass(frozen=True, kw_only=True)
class Part:
    """What is shown of a run on images, or on texts. A part that the run has not has no encoders.

    Attributes:
        of_texts: whether it is the part on texts.
        suite: "paper", "embedded", or a name of the user's own.
        seeds: as they stand in the metrics' seed column.
        control: the control task of negation, on images.
        encoders: name → the paper's encoder that it stands for, if any; in the order of rows.
        modes: name → label, the paper's first and in its order, without ablations.
        ablations: name → label, by name; of the encoder `focus` alone.
        labels: name → what tables and figures call a mode, of all of the run's.
        pairs: name of a heatmap → its two tasks.
        keep: the share of the control accuracy that negation has to keep.
        kernel_modes: modes with a kernel behaviour test; of texts none has one.
        paper_beside: whether the paper's numbers stand beside the run's.
        reference_scaling: whether ξ is normalised as in the published code.
        reference_selection: whether α is chosen on test, as in the published code.
        paper_tasks: task of texts → the paper's task that it stands beside, if any.
        scores: tasks of texts whose "accuracy" is Spearman's ρ.
        methods: label → what it is, of all merging methods but the sum, in the configuration's
            order. merged_encoders: those whose task vectors they merge, in the order of rows.
        analyses: names of those that are shown, of the encoder `focus`. samples: of those that take
            some test images of each task, how many.
        subsets: of the tasks, for the analysis number_of_tasks; None: it is not shown.
    """

    run: str
    suite: str
    seeds: tuple[str, ...]
    tasks: tuple[str, ...]
    control: str | None
    encoders: dict[str, str | None]
    focus: str
    modes: dict[str, str]
    ablations: dict[str, str]
    labels: dict[str, str]
    pairs: dict[str, tuple[str, str]]
    keep: float | None
    kernel_modes: tuple[str, ...]
    paper_beside: bool
    reference_scaling: bool = False
    reference_selection: bool = False
    paper_tasks: dict[str, str | None] = field(default_factory=dict)
    scores: tuple[str, ...] = ()
    methods: dict[str, MethodShown] = field(default_factory=dict)
    merged_encoders: tuple[str, ...] = ()
    analyses: tuple[str, ...] = ()
    samples: dict[str, int] = field(default_factory=dict)
    subsets: SubsetsShown | None = None
    of_texts: bool = False

    @property
    def unified_modes(self) -> list[str]:
        """The modes, and of images `posthoc` (a nonlinear task vector through f_lin) where there is
        nonlinear."""
        posthoc = "nonlinear" in self.modes and not self.of_texts
        return [*self.modes, *["posthoc"] * posthoc]

    def label(self, mode: str) -> str:
        """What tables and figures call a mode."""
        return self.labels.get(mode, mode)

    @property
    def compared_methods(self) -> dict[str, MethodShown]:
        """The sum, and then the other merging methods."""
        return {SUM: THE_SUM, **self.methods}

    def method_title(self, label: str) -> str:
        """What tables and figures call a merging method: its title, or the label where two share a
        title."""
        titles = [method.title for method in self.compared_methods.values()]
        title = self.compared_methods[label].title
        return title if titles.count(title) == 1 else label


def central_mode(part: Part) -> str:
    """The mode that is shown where there is room for one: attention, or the first."""
    return "attention" if "attention" in part.modes else next(iter(part.modes))


@dataclass(frozen=True, kw_only=True)
class View(Part):
    """What is shown of a run: its part on images, and `language`, that on texts.

    Attributes:
        recipes: modality → its recipes, as recipes.recipes_of gives them; classes: task of images →
            how many it has, if it is known; checkpoints: published weights. All for the report.
    """

    language: Part
    recipes: dict[str, list[Use]] = field(default_factory=dict)
    classes: dict[str, int] = field(default_factory=dict)
    checkpoints: list[Taken] = field(default_factory=list)

    @property
    def parts(self) -> list[Part]:
        """The parts that the run has."""
        return [part for part in (self, self.language) if part.encoders]


def view_of(settings: Mapping[str, Any]) -> View:
    """The view that settings.view_settings or settings.report_settings describe, parsed."""
    own: dict[str, Any] = {"merging": {}, "analyses": (), "subsets": None, "samples": {}}
    own |= {"control": None, "pairs": {}, "keep": None}  # which texts have not
    of_texts = {**own, **settings["language"]}
    of_texts = {**settings, **of_texts}  # the rest is what images have
    language = Part(**_typed(of_texts, of_texts["modes"], of_texts=True))
    own = {key: settings[key] for key in ("recipes", "classes", "checkpoints") if key in settings}
    return View(**_typed(settings, of_texts["modes"]), language=language, **own)


def _typed(
    settings: Mapping[str, Any], labels: dict[str, str], of_texts: bool = False
) -> dict[str, Any]:
    """The fields of a part; labels: of the modes on texts."""
    found = {each.name: settings[each.name] for each in fields(Part) if each.name in settings}
    modes, ablations = settings["modes"], settings["ablations"]
    ordered = sorted(modes, key=lambda mode: [*PAPER_MODES, mode].index(mode))
    tested = [mode for mode in ordered if mode in settings["kernel_modes"] and not of_texts]
    merging = settings.get("merging") or {"encoders": [], "methods": {}}
    subsets = settings.get("subsets")
    return found | {
        "seeds": tuple(map(str, settings["seeds"])),
        "tasks": tuple(settings["tasks"]),
        "modes": {mode: modes[mode] for mode in ordered},
        "ablations": dict(sorted(ablations.items())),
        "labels": LABELS | labels | modes | ablations,
        "pairs": {name: tuple(pair) for name, pair in settings["pairs"].items()},
        "kernel_modes": tuple(tested),
        "scores": tuple(settings.get("scores", ())),
        "analyses": tuple(settings.get("analyses", ())),
        "subsets": SubsetsShown(**subsets) if subsets else None,
        "methods": {label: MethodShown(**each) for label, each in merging["methods"].items()},
        "merged_encoders": tuple(name for name in found["encoders"] if name in merging["encoders"]),
        "of_texts": of_texts,
    }
