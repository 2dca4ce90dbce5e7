"""What a configuration holds, said to people, and its JSON schema, said to their editors."""

import json
import os
from typing import Any

from pydantic import TypeAdapter

from ..core.alpha import alpha_grid
from ..files.definition import Definition
from ..files.local import find, outline
from ..files.paths import PathLike
from .available import left_out
from .checks import check_weights
from .definitions import Encoder, Mode, Task, TextEncoder, TextTask
from .experiment import Configuration, Experiment, Part
from .reading import ROOT, read_config
from .recipes import differing, recipes_of
from .settings import view

SCHEMAS: dict[str, Any] = {  # a file in config/schemas → what it describes
    "configuration": Configuration,
    "tasks": Task | TextTask,
    "encoders": Encoder | TextEncoder,
    "modes": Mode,
}


def check(*paths: PathLike, basedir: PathLike = ROOT) -> None:
    """Validate configuration files, each over the one before and the first over config.yaml, as
    `snakemake --configfile` merges them; print what the run holds and how much it fine-tunes."""
    experiment = read_config(*paths, basedir=basedir)
    check_weights(experiment)
    alphas = alpha_grid(**experiment.alphas.given())
    lines = [
        f"run        {experiment.run}: results/{experiment.run}/",
        f"alphas     {alphas[0]:g} to {alphas[-1]:g}, {len(alphas)} values",
    ]
    for part in experiment.parts.values():
        lines += _of_part(experiment, part)
    lines += _titled("local data", _local_data(experiment))
    lines += _titled("left out", left_out(view(experiment)))
    print("\n".join(lines))


def _of_part(experiment: Experiment, part: Part) -> list[str]:
    trained, seeds = experiment.trained(part), len(experiment.seeds)
    taken = len(part.tasks) * len(part.models) - len(trained)
    rows = recipes_of(part, trained)
    control = f"; control {part.control}" if part.control else ""
    runs = f"{len(trained) * seeds} runs ({seeds} seed{'s' * (seeds > 1)})"
    if len(rows) == 1:
        only = rows[0].recipe
        runs += f" of {only.steps} steps of {only.batch_size} examples"
    said = {
        "tasks": ", ".join(part.tasks) + control,
        "encoders": f"{', '.join(part.encoders)}; focus {part.focus}",
        "modes": ", ".join(part.modes),
        "ablations": ", ".join(part.ablations),
        "merging": _mergers(part),
        "published": f"{taken} task vectors, not fine-tuned" if taken else "",
        "fine-tune": runs if trained else "",
    }
    lines = [part.modality, *(f"  {what:10} {text}" for what, text in said.items() if text)]
    for row in rows[len(rows) == 1 :]:
        given, keys = row.recipe.given(), differing(rows)
        lines.append(f"  recipe     {row}: {', '.join(f'{k} {given.get(k)}' for k in keys)}")
    return lines


def _mergers(part: Part) -> str:
    if not part.mergers:
        return ""
    return f"sum, {', '.join(each.label for each in part.mergers)}; of {', '.join(part.merged)}"


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
