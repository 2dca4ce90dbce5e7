"""What a configuration holds, said to people, and its JSON schema, said to their editors."""

import json
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from ..answer import answer
from ..core.alpha import alpha_grid
from ..files.definition import Definition
from ..files.local import find, outline
from ..files.paths import PathLike
from .available import left_out
from .checks import check_weights
from .definitions import Encoder, Mode, Task, TextEncoder, TextTask
from .experiment import Configuration, Experiment, Part
from .reading import ROOT, read_config
from .recipes import Used, differing, recipes_of
from .settings import view
from .view import SUM

SCHEMAS: dict[str, Any] = {  # a file in config/schemas → what it describes
    "configuration": Configuration,
    "tasks": Task | TextTask,
    "encoders": Encoder | TextEncoder,
    "modes": Mode,
}


class Held(NamedTuple):
    """What a run holds of a modality.

    Attributes:
        merging: labels of the merging methods, of the vectors of the encoders `merged`.
        published: how many task vectors are not fine-tuned, but somebody else's.
        finetunings: how many fine-tunings there are, over all seeds.
    """

    modality: str
    tasks: list[str]
    control: str | None
    encoders: list[str]
    focus: str | None
    modes: list[str]
    ablations: list[str]
    merging: list[str]
    merged: list[str]
    published: int
    finetunings: int
    recipes: list[Used]


class Checked(NamedTuple):
    """What a configuration holds.

    Attributes:
        local_data: sentences on data that lie at a local path. left_out: on tables and figures.
    """

    run: str
    seeds: list[int]
    alphas: list[float]
    parts: list[Held]
    local_data: list[str]
    left_out: list[str]


def check(*paths: PathLike, basedir: PathLike = ROOT, as_json: bool = False) -> None:
    """Validate configuration files, each over the one before and the first over config.yaml, as
    `snakemake --configfile` merges them; print what the run holds and how much it fine-tunes."""
    experiment = read_config(*paths, basedir=basedir)
    check_weights(experiment)
    seeds = list(experiment.seeds)
    checked = Checked(
        experiment.run,
        seeds,
        alpha_grid(**experiment.alphas.given()),
        [_held(experiment, part) for part in experiment.parts.values()],
        _local_data(experiment),
        left_out(view(experiment)),
    )
    answer(checked, _lines(checked), as_json)


def _held(experiment: Experiment, part: Part) -> Held:
    trained = experiment.trained(part)
    return Held(
        part.modality,
        list(part.tasks),
        part.control,
        list(part.encoders),
        part.focus,
        list(part.modes),
        list(part.ablations),
        [SUM, *(each.label for each in part.mergers)] if part.mergers else [],
        list(part.merged) if part.mergers else [],
        len(part.tasks) * len(part.models) - len(trained),
        len(trained) * len(experiment.seeds),
        recipes_of(part, trained),
    )


def _lines(checked: Checked) -> Iterator[str]:
    run, seeds, alphas, parts, *_ = checked
    yield f"run        {run}: results/{run}/"
    yield f"alphas     {alphas[0]:g} to {alphas[-1]:g}, {len(alphas)} values"
    for part in parts:
        yield from _of_part(part, len(seeds))
    yield from _titled("local data", checked.local_data)
    yield from _titled("left out", checked.left_out)


def _of_part(part: Held, seeds: int) -> Iterator[str]:
    several = "s" * (part.finetunings > 1)
    runs = f"{part.finetunings} run{several} ({seeds} seed{'s' * (seeds > 1)})"
    if len(part.recipes) == 1:
        only = part.recipes[0].recipe
        runs += f" of {only.steps} steps of {only.batch_size} examples"
    taken = part.published
    control = f"; control {part.control}" if part.control else ""
    merging = f"{', '.join(part.merging)}; of {', '.join(part.merged)}" if part.merging else ""
    said = {
        "tasks": ", ".join(part.tasks) + control,
        "encoders": f"{', '.join(part.encoders)}; focus {part.focus}",
        "modes": ", ".join(part.modes),
        "ablations": ", ".join(part.ablations),
        "merging": merging,
        "published": f"{taken} task vectors, not fine-tuned" if taken else "",
        "fine-tune": runs if part.finetunings else "",
    }
    yield part.modality
    yield from (f"  {what:10} {text}" for what, text in said.items() if text)
    rows = part.recipes
    for row in rows[len(rows) == 1 :]:
        given, keys = row.recipe.given(), differing(rows)
        yield f"  recipe     {row}: {', '.join(f'{k} {given.get(k)}' for k in keys)}"


def _local_data(experiment: Experiment) -> list[str]:
    """What the tasks read that lie at a local path, and which of them read the same."""
    lines: list[str] = []
    places: dict[str, list[str]] = {}
    for name, task in experiment.definitions.tasks.items():
        if task.path:
            lines.append(f"{name}: {outline(find(Definition.of(name, task.given())))}")
            places.setdefault(os.path.realpath(task.path), []).append(name)
    return lines + [f"{' and '.join(x)} read the same data" for x in places.values() if len(x) > 1]


def _titled(title: str, lines: list[str]) -> list[str]:
    return [title, *(f"  {line}" for line in lines)] if lines else []


def schema(of: str | None = None) -> None:
    """Print the JSON schema of a configuration, or of the definitions in a folder of config/."""
    print(schema_text(of or "configuration"))


def schema_text(of: str) -> str:
    """A JSON schema, one of SCHEMAS. A configuration may be an overlay: no key has to be there."""
    whole = TypeAdapter(SCHEMAS[of]).json_schema()
    return json.dumps(_plain(whole, of == "configuration"), indent=1, ensure_ascii=False)


def _plain(node: Any, overlay: bool) -> Any:
    """A part of a schema without titles, which repeat the keys, and defaults of null."""
    if isinstance(node, list):
        return [_plain(item, overlay) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: _plain(value, overlay)
        for key, value in node.items()
        if not (key == "title" and isinstance(value, str))
        and not (key == "default" and value is None)
        and not (key == "required" and isinstance(value, list) and overlay)
    }
