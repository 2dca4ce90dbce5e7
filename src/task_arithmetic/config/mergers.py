"""The merging methods of a configuration, each with its options and its grid of α."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from ..core.alpha import alpha_grid, alpha_values
from ..errors import UserError, nearest
from ..merging import consensus, layer_scale
from ..merging.method import Method, Options, options_of
from ..merging.methods import find
from ..merging.regmean import RegmeanOptions
from . import kinds as a  # a.Number
from .kinds import Section, key
from .sentences import hold
from .view import SUM

LINES = "_lines"  # what the label of a method that is scaled by depth ends with
MOST = 3.0  # the largest α of a merged vector
WHERE = "merging.methods"


class Alphas(Section):
    """The grid of α."""

    start: a.Number = key("the smallest α")
    stop: a.Number = key("the largest α: at most 2, of merging methods 3")
    step: a.Number = key("from one α to the next")


class Merging(Section):
    """Merging by other methods than the sum, for every mode."""

    encoders: Literal["focus", "all"] = key("whose vectors are merged", "focus")
    methods: dict[a.Name, dict[str, Any] | None] = key(
        "method → its options, and `alphas`, its grid; null: not this one; a name of your own says "
        "its `method`"
    )
    layer_scale: a.Names = key("methods, and the sum, that are also scaled by depth (LiNeS)", [])


@dataclass(frozen=True)
class Merger:
    """A method as a run uses it.

    Attributes:
        label: its name in the run. given: the options that are written. options: all of them.
        alphas: start, stop and step of its grid; start = stop: one value.
        layer_scaled: by depth (LiNeS); α is then its slope.
    """

    label: str
    method: Method
    given: Mapping[str, Any]
    options: Options
    alphas: Mapping[str, float]
    layer_scaled: bool = False

    @property
    def title(self) -> str:
        """Of a method under a name of one's own with that name."""
        own = self.label.removesuffix(LINES)
        named = f" ({own})" * (own != self.method.name)
        return self.method.title + named + " + LiNeS" * self.layer_scaled

    @property
    def needs(self) -> str:
        """What it sees beside vectors: vectors (nothing), unlabelled, labelled, or transductive:
        test inputs."""
        on_test = self.given.get("split") == "test"
        return "transductive" if on_test else self.method.needs_of(self.options)

    @property
    def collects(self) -> bool:
        """Whether it needs the statistics of layers' inputs, which a stage collects."""
        return isinstance(self.options, RegmeanOptions) and not self.options.forward

    @property
    def images(self) -> int:
        """Of how many examples the statistics are."""
        return self.options.images if isinstance(self.options, RegmeanOptions) else 0

    @property
    def learns(self) -> bool:
        """Whether it passes examples through the encoder while it merges."""
        return self.needs != "vectors" and not self.collects

    @property
    def grid(self) -> list[float]:
        return alpha_values(**self.alphas)


def mergers_of(merging: Merging | None) -> tuple[Merger, ...]:
    """The methods that a configuration names, but the sum, and those that it scales by depth.

    Raises:
        UserError: an unknown method or option, an option out of its bounds, a grid that is none.
    """
    if merging is None:
        return ()
    named = {label: said for label, said in merging.methods.items() if said is not None}
    plain = [_merger(label, said) for label, said in named.items() if label != SUM]
    if named.get(SUM):
        raise UserError(
            f"{WHERE}.sum is the paper's own and has no options: give another name to what you "
            f"change, as in `my_sum: {{method: sum, normalize: true}}`."
        )
    if len({merger.images for merger in plain if merger.collects}) > 1:
        raise UserError(
            f"{WHERE} has several methods that need statistics, of different `images`: give them "
            "the same number."
        )
    return (*plain, *_scaled(merging.layer_scale, [_merger(SUM, {}), *plain]))


def subset_mergers(
    labels: Iterable[str],
    alphas: Alphas | None,
    mergers: Iterable[Merger],
    of_sum: Mapping[str, float],
    where: str,
) -> tuple[Merger, ...]:
    """The methods by which subsets of the tasks are merged: the sum, those of merging.methods with
    their options, and others with their defaults.

    Args:
        alphas: a grid for all of them; None: of_sum for the sum, and each other method's own.
    Raises:
        UserError: an unknown method, a grid that is none.
    """
    grid = None if alphas is None else _grid(alphas.given(), (0, 0, 0), f"{where}.alphas")
    known = {merger.label: merger for merger in mergers}
    found = []
    for label in labels:
        try:
            own = known.get(label) or _merger(label, {})
        except UserError as error:
            raise UserError(str(error).replace(f"{WHERE}.{label}", f"{where}.methods")) from None
        own = replace(own, alphas=of_sum) if label == SUM else own
        found.append(replace(own, alphas=grid) if grid else own)
    return tuple(found)


def check_tasks(mergers: Iterable[Merger], count: int, where: str = WHERE) -> None:
    """Raises UserError: a method asks for more tasks than there are."""
    for merger in mergers:
        if isinstance(merger.options, consensus.ConsensusOptions):
            try:
                consensus.check_tasks(merger.options, count)
            except UserError as error:
                raise UserError(f"{where}.{merger.label}: {error}") from None


def _merger(label: str, said: Mapping[str, Any]) -> Merger:
    given = dict(said)
    name, alphas = given.pop("method", label), given.pop("alphas", None)
    try:
        method = find(name)
        options = options_of(method, given)
    except UserError as error:
        raise UserError(f"{WHERE}.{label}: {error}") from None
    if label.endswith(LINES):
        raise UserError(f"{WHERE}.{label}: what ends with {LINES} is made by `layer_scale`.")
    grid = _grid(alphas, method.grid_of(options), f"{WHERE}.{label}.alphas")
    return Merger(label, method, given, options, grid)


def _scaled(labels: list[str], plain: list[Merger]) -> Iterator[Merger]:
    known = {merger.label: merger for merger in plain}
    for label in labels:
        if label not in known:
            raise UserError(
                f"merging.layer_scale names {label!r}, which is not among merging.methods"
                f"{nearest(label, list(known))}: add it there, or remove it here."
            )
        own = known[label]
        grid = _grid(None, layer_scale.GRID, "")
        yield replace(own, label=label + LINES, alphas=grid, layer_scaled=True)


def _grid(said: Any, default: tuple[float, float, float], where: str) -> dict[str, float]:
    start, stop, step = default
    if said is None:
        return {"start": start, "stop": stop, "step": step}
    if not isinstance(said, dict):
        raise UserError(f"{where} must be a mapping of start, stop and step; found {said!r}.")
    given = hold(Alphas, said, where).given()
    if given["start"] != given["stop"] or not 0 <= given["start"] <= MOST:
        alpha_grid(**given, most=MOST, where=where)
    return given
