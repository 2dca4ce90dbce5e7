"""The recipes of a part: which there are, and what each of them trains."""

from collections.abc import Collection, Hashable, Iterable
from typing import NamedTuple, TypeVar

from .experiment import Part, Recipe

Key = TypeVar("Key", bound=Hashable)


class Used(NamedTuple):
    """A recipe, and the encoders, modes and tasks that it trains: names, or "all"."""

    encoders: tuple[str, ...] | str
    modes: tuple[str, ...] | str
    tasks: tuple[str, ...] | str
    recipe: Recipe

    def __str__(self) -> str:
        """Whom it trains, where there are several: "ntk; cars, dtd"."""
        return "; ".join(", ".join(names) for names in self[:3] if names != "all")


def recipes_of(part: Part, trained: Collection[tuple[str, str, str]]) -> list[Used]:
    """The different recipes of a part, of the (encoder, mode, task) that are trained. One that
    trains no such product has several entries."""
    recipes: list[Recipe] = []

    def place(encoder: str, mode: str, task: str) -> int:
        recipe = part.recipe(encoder, mode, task)
        if recipe not in recipes:
            recipes.append(recipe)
        return recipes.index(recipe)

    by_mode = _grouped((mode, encoder) for encoder, mode in part.models)
    found = _grouped(
        ((where, _all(some, encoders), tasks), mode)
        for mode, encoders in by_mode.items()
        for (where, tasks), some in _grouped(
            ((where, _all(tasks, part.tasks)), encoder)
            for encoder in encoders
            for where, tasks in _grouped(
                (place(encoder, mode, t), t) for t in part.tasks if (encoder, mode, t) in trained
            ).items()
        ).items()
    )
    return [
        Used(encoders, _all(modes, list(by_mode)), tasks, recipes[where])
        for (where, encoders, tasks), modes in sorted(found.items(), key=lambda item: item[0][0])
    ]


def _grouped(pairs: Iterable[tuple[Key, str]]) -> dict[Key, list[str]]:
    """Key → the names beside it."""
    found: dict[Key, list[str]] = {}
    for key, name in pairs:
        found.setdefault(key, []).append(name)
    return found


def _all(names: list[str], every: list[str]) -> tuple[str, ...] | str:
    return "all" if names == every else tuple(names)


def differing(rows: list[Used]) -> list[str]:
    """The keys whose values are not the same in all of these recipes."""
    given = [row.recipe.given() for row in rows]
    keys = dict.fromkeys(key for each in given for key in each)
    return [k for k in keys if any(each.get(k) != given[0].get(k) for each in given)]
