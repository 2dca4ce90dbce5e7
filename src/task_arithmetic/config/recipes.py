"""Recipes of fine-tuning: one for each modality, and what is special to encoders, modes and tasks.

`part` is a modality's part of a configuration, see config._parts.
"""

from ..errors import UserError, nearest

# What a recipe may say of single encoders, modes and tasks, each over the one before, key by key.
BY = {"by_encoder": "encoders", "by_mode": "modes", "by_task": "tasks"}


def recipe_of(part: dict, encoder: str, mode: str, task: str) -> dict:
    """The recipe of one fine-tuning: its part's, over it what by_encoder says of the encoder, over
    that by_mode, and over all by_task."""
    recipe = dict(part["finetune"])
    special = [recipe.pop(key, {}) for key in BY]
    for by, name in zip(special, (encoder, mode, task), strict=True):
        recipe |= by.get(name, {})
    return recipe


def models_of(part: dict) -> list[tuple[str, str]]:
    """(encoder, mode) of all that is fine-tuned: the ablations are of the focus encoder alone."""
    main = [(encoder, mode) for encoder in part["encoders"] for mode in part["modes"]]
    return main + [(part["focus"], mode) for mode in part["ablations"]]


def recipes_of(part: dict) -> list[dict]:
    """The different recipes of a part, each with the encoders, modes and tasks that it trains:
    lists of names, or "all". One that trains no such product has several entries."""
    recipes: list[dict] = []
    found: dict[tuple, list[str]] = {}  # recipe's place, encoders, tasks → modes
    for mode in dict.fromkeys(mode for _, mode in models_of(part)):
        encoders = [encoder for encoder, other in models_of(part) if other == mode]
        used: dict[tuple, list[str]] = {}  # recipe's place, tasks → encoders
        for encoder in encoders:
            trained: dict[int, list[str]] = {}
            for task in part["tasks"]:
                recipe = recipe_of(part, encoder, mode, task)
                if recipe not in recipes:
                    recipes.append(recipe)
                trained.setdefault(recipes.index(recipe), []).append(task)
            for place, tasks in trained.items():
                used.setdefault((place, _all(tasks, part["tasks"])), []).append(encoder)
        for (place, tasks), some in used.items():
            found.setdefault((place, _all(some, encoders), tasks), []).append(mode)
    modes = [*part["modes"], *part["ablations"]]
    return [
        {"encoders": encoders, "modes": _all(some, modes), "tasks": tasks, "recipe": recipes[place]}
        for (place, encoders, tasks), some in sorted(found.items(), key=lambda item: item[0][0])
    ]


def _all(names: list[str], every: list[str]) -> tuple[str, ...] | str:
    return "all" if names == every else tuple(names)


def differing(rows: list[dict]) -> list[str]:
    """The keys whose values are not the same in all of these recipes."""
    first = rows[0]["recipe"]
    keys = dict.fromkeys(key for row in rows for key in row["recipe"])
    return [k for k in keys if any(row["recipe"].get(k) != first.get(k) for row in rows)]


def used_for(row: dict) -> str:
    """Whom a recipe of several trains, in words: "ntk; cars, dtd"."""
    axes = [row[names] for names in BY.values() if row[names] != "all"]
    return "; ".join(", ".join(names) for names in axes)


def check_names(section: dict, where: str) -> None:
    """Recipes are special to encoders, modes and tasks that are there.

    Args:
        section: the configuration or its `language`. where: "" or "language.".
    Raises:
        UserError: another name.
    """
    for key, names in BY.items():
        known = [*section[names], *(section.get("ablations", []) if key == "by_mode" else [])]
        for name in map(str, section["finetune"].get(key, {})):
            if name not in known:
                raise UserError(
                    f"{where}finetune.{key} has {name!r}, which is not among {where}{names}"
                    f"{nearest(name, known)}; correct or remove it."
                )


def check_recipes(part: dict, where: str) -> None:
    """Every recipe is one, as it is used.

    Args:
        where: "" or "language.".
    Raises:
        UserError: a warm-up longer than the training, or a scale of crops the wrong way round.
    """
    rows = recipes_of(part)
    for row in rows:
        of = f", as for {used_for(row)}" if len(rows) > 1 else ""
        check_recipe(row["recipe"], f"{where}finetune.", of)


def check_recipe(recipe: dict, where: str, of: str) -> None:
    """One recipe; `where` stands before its keys, and `of` says whom it is for. Raises UserError as
    check_recipes."""
    if recipe["warmup_steps"] > recipe["steps"]:
        raise UserError(
            f"{where}warmup_steps ({recipe['warmup_steps']}) must be at most {where}steps "
            f"({recipe['steps']}){of}."
        )
    small, large = recipe.get("crop_scale", (0, 1))
    if small > large:
        raise UserError(
            f"{where}crop_scale must be [smallest, largest]; found [{small}, {large}]{of}."
        )
