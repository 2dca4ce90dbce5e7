"""What a configuration holds, said to people, and its JSON schema, said to their editors."""

import json
import os
from typing import Any

from pydantic import TypeAdapter

from .available import left_out
from .checks import check_weights
from .experiment import Encoder, Experiment, Mode, Task, TextEncoder, TextTask, control_of
from .reading import ROOT, read_config
from .recipes import differing, models_of, recipes_of, used_for
from .settings import view

SCHEMAS: dict[str, Any] = {  # a file in config/schemas → what it describes
    "configuration": Experiment,
    "tasks": Task | TextTask,
    "encoders": Encoder | TextEncoder,
    "modes": Mode,
}


def check(*paths: str | os.PathLike, basedir: str | os.PathLike = ROOT) -> None:
    """Validate configuration files, each over the one before and the first over config.yaml, as
    `snakemake --configfile` merges them; print what the run holds and how much it fine-tunes."""
    config = read_config(*paths, basedir=basedir)
    check_weights(config)
    from ..core.arithmetic import alpha_grid

    alphas, seeds = alpha_grid(config["alphas"]), len(config["seeds"])
    print(f"run        {config['run']}: results/{config['run']}/")
    print(f"alphas     {alphas[0]:g} to {alphas[-1]:g}, {len(alphas)} values")
    for modality, part in config["parts"].items():
        control = control_of(config) if modality == "vision" else None
        per_seed, rows = len(part["tasks"]) * len(models_of(part)), recipes_of(part)
        print(f"{modality}")
        beside = f"; control {control}" if control else ""
        print(f"  tasks      {', '.join(part['tasks'])}{beside}")
        print(f"  encoders   {', '.join(part['encoders'])}; focus {part['focus']}")
        print(f"  modes      {', '.join(part['modes'])}")
        if part["ablations"]:
            print(f"  ablations  {', '.join(part['ablations'])}")
        runs = f"{per_seed * seeds} runs ({seeds} seed{'s' * (seeds > 1)})"
        if len(rows) == 1:
            runs += " of {steps} steps of {batch_size} examples".format(**rows[0]["recipe"])
        print(f"  fine-tune  {runs}")
        for row in rows[len(rows) == 1 :]:
            special = ", ".join(f"{key} {row['recipe'].get(key)}" for key in differing(rows))
            print(f"  recipe     {used_for(row)}: {special}")
    missing = left_out(view(config))
    for line in [*_local_data(config), *_titled("left out", missing)]:
        print(line)


def _local_data(config: dict) -> list[str]:
    """What the tasks read that lie at a local path, and which of them read the same."""
    from ..files.definition import Definition
    from ..files.local import find, outline

    tasks = config["definitions"]["tasks"]
    own = {name: task for name, task in tasks.items() if "path" in task}
    lines = [f"{name}: {outline(find(Definition.of(name, task)))}" for name, task in own.items()]
    places: dict[str, list[str]] = {}
    for name, task in own.items():
        places.setdefault(os.path.realpath(task["path"]), []).append(name)
    lines += [f"{' and '.join(x)} read the same data" for x in places.values() if len(x) > 1]
    return _titled("local data", lines)


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
