"""What a merging method is: its name, paper, options and function."""

from __future__ import annotations  # names of torch: what only plans does not import it

import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from ..errors import UserError, nearest
from ..progress import Progress

if TYPE_CHECKING:
    from torch import Tensor

    from ..core.encoder import Encoder, Examples
    from ..core.vectors import TaskVector

Grid = tuple[float, float, float]  # of α: start, stop, step
Needs = Literal["vectors", "unlabelled", "labelled"]
Scope = Literal["element", "matrix"]


@dataclass(frozen=True)
class Part:
    """What a method sees of one tensor.

    Attributes:
        name: the tensor's. deltas: of each task τ_t, float32, all of one shape; zeros where a
            vector does not move the tensor. tasks: their names, in the same order.
        seed: of the run, for methods that draw.
    """

    name: str
    deltas: Sequence[Tensor]
    tasks: Sequence[str]
    seed: int = 0


@dataclass(frozen=True)
class Data:
    """What a method that needs examples is given of them, beside the vectors.

    Attributes:
        encoder: at θ0. vectors: of each task τ_t, on the encoder's device. tasks: their names.
        examples: split (train, validation or test) → of each task its examples, as the encoder's
            modality reads them.
        own: of each task the validation accuracy of its individual model, if the method needs
            labels.
        precision: of passes: auto, bf16 or float32.
    """

    encoder: Encoder
    vectors: Sequence[TaskVector]
    tasks: Sequence[str]
    examples: Callable[[str], Sequence[Examples]]
    own: Sequence[float] = ()
    precision: str = "float32"
    seed: int = 0


@dataclass(frozen=True)
class Merged:
    """One tensor of the merged model: θ(α) = θ0 + offset + α · direction, both float32 in the
    tensor's shape; no offset is zero."""

    offset: Tensor | None
    direction: Tensor


class Described(NamedTuple):
    """An option in words, and its bounds: at least `low` (or above it, if `open_low`), at most
    `high` (or below it, if `open_high`)."""

    about: str
    low: float
    high: float
    open_low: bool
    open_high: bool


def option(
    default: Any,
    about: str,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    open_low: bool = False,
    open_high: bool = False,
) -> Any:
    """A field of a method's options: its default, one line on it, and its bounds. Choices are the
    field's Literal; a mapping has bounds for each of its values."""
    described = Described(about, low, high, open_low, open_high)
    if isinstance(default, Mapping):
        return field(default_factory=lambda: dict(default), metadata={"option": described})
    return field(default=default, metadata={"option": described})


@dataclass(frozen=True)
class Options:
    """Options that every method has; a method's own are a class below this one. Annotations are
    bool, int, float, a Literal of words, or Mapping[str, float]."""

    normalize: bool = option(False, "give all vectors their mean norm first: no task is louder")


class OptionField(NamedTuple):
    """One option of a method, for schemas and pages."""

    name: str
    kind: Any  # bool, int, float, str or Mapping
    choices: tuple[str, ...]  # of str
    default: Any
    described: Described


class Cost(NamedTuple):
    """What `learn` computes, at most: training steps of `batch` examples of every task, and
    evaluations of all tasks' validation examples; tangents: so many passes give the evaluations of
    images in f_lin, None: each takes one."""

    steps: int = 0
    batch: int = 0
    evaluations: int = 0
    tangents: int | None = None


@dataclass(frozen=True, repr=False)
class Method:
    """A way to make one vector of several.

    Attributes:
        name: of its module. title: for people. paper, arxiv: where it is from.
        equation: one line of LaTeX.
        needs: beside vectors, nothing, texts or images without labels, or with labels; of the
            default options. needs_by: of any options, where they matter.
        scope: entries are merged one by one, or matrices as a whole.
        grid: of α, if none is configured, of the default options; grid_by: of any options, where
            they matter. random: it draws numbers, by `Part.seed`.
        options: the type of its options.
        first_pass: walks over all parts, as often as it needs, and gives the few numbers that
            `merge` needs of the whole model.
        learn: where data are needed, finds what `merge` needs of them, in first_pass's place.
        cost: (options, number of tasks) → what learn computes, for plans.
        merge: the function, called for any tensor, with what first_pass or learn gave.
    """

    name: str
    title: str
    paper: str
    arxiv: str
    equation: str
    scope: Scope
    grid: Grid
    merge: Callable[[Part, Any, Any], Merged]
    needs: Needs = "vectors"
    random: bool = False
    options: type[Options] = Options
    first_pass: Callable[[Iterable[Part], Any], Any] | None = None
    learn: Callable[[Data, Any, Progress], Any] | None = None
    cost: Callable[[Any, int], Cost] = lambda options, tasks: Cost()
    grid_by: Callable[[Any], Grid] | None = None
    needs_by: Callable[[Any], Needs] | None = None

    def __post_init__(self) -> None:
        """Raises UserError for what would fail, or be ignored, only when the method is used."""
        if problem := _wrong_with(self):
            raise UserError(f"The merging method {self.name!r} {problem}.")

    def grid_of(self, options: Options) -> Grid:
        """The grid of α of these options, if none is configured."""
        return self.grid_by(options) if self.grid_by else self.grid

    def needs_of(self, options: Options) -> Needs:
        """What it needs beside vectors with these options."""
        return self.needs_by(options) if self.needs_by else self.needs

    def __repr__(self) -> str:
        """Its name, paper and options, each with its default and what it is."""
        start, stop, step = self.grid
        lines = [f"{self.name}: {self.title} ({self.paper}, arXiv:{self.arxiv or '–'})"]
        lines.append(f"  needs {self.needs}; α from {start:g} to {stop:g} in steps of {step:g}")
        lines += [
            f"  {each.name}={each.default!r}: {each.described.about}"
            for each in option_fields(self)
        ]
        return "\n".join([*lines, ""])


def _wrong_with(method: Method) -> str:
    """What a declaration says that cannot be; empty: it is all right."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", str(method.name)):
        return "must have a name of small letters, digits and _"
    for what, value, words in (("scope", method.scope, Scope), ("needs", method.needs, Needs)):
        if value not in (known := get_args(words)):
            return f"must have a {what} of {' or '.join(known)}; found {value!r}"
    grid = tuple(method.grid)
    if len(grid) != 3 or not all(isinstance(each, (int, float)) for each in grid):
        return f"must have a grid of start, stop and step; found {method.grid!r}"
    if not (0 <= grid[0] <= grid[1] < math.inf and grid[2] > 0):
        return f"must have a grid with 0 <= start <= stop and step > 0; found {method.grid!r}"
    try:
        inspect.signature(method.merge).bind(None, None, None)
    except TypeError:
        return "must have a function merge(part, options, state)"
    if not (isinstance(method.options, type) and issubclass(method.options, Options)):
        return f"must have options that are a class below Options; found {method.options!r}"
    for each in fields(method.options):
        if "option" not in each.metadata:
            return f"has an option {each.name} without a description: {each.name} = option(…)"
    for known in option_fields(method):
        if known.kind not in (bool, int, float, str, Mapping):
            return f"has an option {known.name} that is no bool, int, float, Literal or Mapping"
        if problem := _problem(known, known.default):
            return f"has a default of {known.name} that must be {problem}"
    return ""


def option_fields(method: Method) -> list[OptionField]:
    """All options of a method, its own before those that every method has."""
    hints, found = get_type_hints(method.options), []
    for each in fields(method.options):
        hint = hints[each.name]
        choices = get_args(hint) if get_origin(hint) is Literal else ()
        kind = str if choices else Mapping if get_origin(hint) is not None else hint
        default = {} if kind is Mapping else each.default
        found.append(OptionField(each.name, kind, choices, default, each.metadata["option"]))
    shared = {each.name for each in fields(Options)}
    return sorted(found, key=lambda each: each.name in shared)


def options_of(method: Method, given: Mapping[str, Any]) -> Options:
    """A method's options, of which some are given; the others have their defaults.

    Raises:
        UserError: an unknown name, a value of another kind, or one out of its bounds.
    """
    known = {each.name: each for each in option_fields(method)}
    for name, value in given.items():
        if name not in known:
            near = nearest(str(name), list(known)) or f"; it has {', '.join(known)}"
            raise UserError(f"The merging method {method.name} has no option {name!r}{near}.")
        if problem := _problem(known[name], value):
            raise UserError(f"{name} of the merging method {method.name} must be {problem}.")
    floats = {name for name in given if known[name].kind is float}
    values: dict[str, Any] = {k: float(v) if k in floats else v for k, v in given.items()}
    return method.options(**values)


def _problem(known: OptionField, value: Any) -> str:
    """What a value should be and is not; empty: it is all right."""
    if known.choices:
        near = nearest(value, list(known.choices)) if isinstance(value, str) else ""
        listed = " or ".join(known.choices)
        return "" if value in known.choices else f"{listed}; found {value!r}{near}"
    if known.kind is bool:
        return "" if isinstance(value, bool) else f"true or false; found {value!r}"
    if known.kind is Mapping:
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            return f"a mapping from tasks to numbers; found {value!r}"
        some = ((key, _out_of_bounds(known.described, float, each)) for key, each in value.items())
        return next((f"of {key} {problem}" for key, problem in some if problem), "")
    return _out_of_bounds(known.described, known.kind, value)


def _out_of_bounds(described: Described, kind: Any, value: Any) -> str:
    about, low, high, open_low, open_high = described
    bounds = [f"{'above' if open_low else 'at least'} {low:g}"] if low > -math.inf else []
    bounds += [f"{'below' if open_high else 'at most'} {high:g}"] if high < math.inf else []
    word = " ".join(["a whole number" if kind is int else "a number", " and ".join(bounds)])
    kinds = int if kind is int else (int, float)
    right = isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
    if right:
        right = low < value if open_low else low <= value
        right = right and (value < high if open_high else value <= high)
    return "" if right else f"{word.strip()}; found {value!r}"
