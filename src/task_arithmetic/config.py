"""The configuration: reading, merging, checking, and the definitions that its names stand for.

Definitions of tasks, encoders and modes are files in config/; what is wrong with any of them or
with the configuration is a UserError of one sentence. Nothing here imports torch.
"""

import glob
import os
from functools import cache
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import yaml

from .artifacts import UserError
from .schema import check_schema, found, nearest

ROOT = Path(__file__).resolve().parents[2]  # the repository: Snakefile, config/, workflow/
KINDS = {"tasks": "task", "encoders": "encoder", "modes": "mode"}  # folder of config/ → one of it
RESERVED_MODES = {"pretrained", "posthoc"}  # rows of the results that nobody fine-tunes
MOST_ALPHAS = 201
ENCODER_FILES = ["open_clip_config.json", "open_clip_model.safetensors"]
OWN_MERGES = "bpe_merges.txt.gz"

# ------------------------------------------------------------------------- reading and merging


def read_yaml(path) -> dict[str, Any]:
    """Read one YAML mapping. Raises UserError if it is missing, damaged or no mapping."""
    try:
        content = yaml.safe_load(Path(path).read_text())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; check the name and the folder.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1}: {getattr(error, 'problem', 'syntax')})" if mark else ""
        raise UserError(f"{path} is not valid YAML{where}; mend that line.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold `key: value` lines; it holds {found(content)}.")
    return content


def merge(base: dict, overlay: dict) -> dict:
    """`base` with `overlay` over it: mappings merge key by key, everything else is replaced."""
    merged = dict(base)
    for key, value in overlay.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def read_config(*paths, basedir=ROOT) -> dict:
    """The checked configuration of files, each over the one before and the first over config.yaml,
    as `snakemake --configfile` merges them."""
    config = read_yaml(Path(basedir) / "config.yaml")
    for path in paths:
        config = merge(config, read_yaml(path))
    return validate_config(config, basedir)


def typed(value):
    """What `snakemake --config 'alphas={step: 0.1}' seeds=[0,1]` gives, as YAML would read it:
    Snakemake leaves numbers inside of mappings and lists as texts."""
    if isinstance(value, dict):
        return {key: typed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [typed(item) for item in value]
    if isinstance(value, str):
        try:
            read = yaml.safe_load(value)
        except yaml.YAMLError:
            return value
        return value if isinstance(read, dict | list) else read
    return value


def check(*paths, basedir=ROOT) -> None:
    """Validate configuration files, each over the one before and the first over config.yaml, as
    `snakemake --configfile` merges them; print what the run holds and how much it fine-tunes."""
    config = read_config(*paths, basedir=basedir)
    _check_weights(config)
    per_seed = len(config["tasks"]) * (
        len(config["encoders"]) * len(config["modes"]) + len(config["ablations"])
    )
    recipe, seeds = config["finetune"], len(config["seeds"])
    alphas = alpha_grid(config["alphas"])
    print(f"run        {config['run']}: results/{config['run']}/")
    print(f"tasks      {', '.join(config['tasks'])}; control {config['negation']['control']}")
    print(f"encoders   {', '.join(config['encoders'])}; focus {config['focus']}")
    print(f"modes      {', '.join(config['modes'])}")
    print(f"ablations  {', '.join(config['ablations']) or 'none'}")
    print(f"alphas     {alphas[0]:g} to {alphas[-1]:g}, {len(alphas)} values")
    print(
        f"fine-tune  {per_seed * seeds} runs ({seeds} seed{'s' * (seeds > 1)}) of "
        f"{recipe['steps']} steps of {recipe['batch_size']} images"
    )


# ------------------------------------------------------------------------- checking


@cache
def _schema(name: str, basedir: str) -> dict:
    return read_yaml(Path(basedir) / "workflow" / "schemas" / f"{name}.schema.yaml")


def validate_config(config: dict, basedir=ROOT) -> dict:
    """The configuration with its defaults and, as `definitions`, what its names stand for.

    Args:
        config: config.yaml with any overlays merged over it.
        basedir: the folder that holds config/ and workflow/; paths in definitions are relative to
            it, and become relative to the working directory.
    Raises:
        UserError: the first thing that is wrong.
    """
    schema = _schema("config", str(basedir))
    check_schema(config, schema, "the configuration")
    defaults = {k: v["default"] for k, v in schema["properties"].items() if "default" in v}
    config = {**defaults, **config}
    _check_finetune(config["finetune"])
    alpha_grid(config["alphas"])
    definitions = load_definitions(config, basedir)
    _check_names(config)
    _check_towers(definitions)
    return {**config, "definitions": definitions}


def load_definitions(config: dict, basedir=ROOT) -> dict[str, dict[str, dict]]:
    """kind (tasks, encoders, modes) → name → its checked definition, for each name in `config`."""
    control = config["negation"]["control"]
    names = {
        "tasks": [(task, "tasks") for task in config["tasks"]] + [(control, "negation.control")],
        "encoders": [(encoder, "encoders") for encoder in config["encoders"]],
        "modes": [(mode, key) for key in ("modes", "ablations") for mode in config[key]],
    }
    return {
        kind: {name: load_definition(kind, name, key, basedir) for name, key in named}
        for kind, named in names.items()
    }


def load_definition(kind: str, name: str, key: str, basedir=ROOT) -> dict:
    """Read and check config/<kind>/<name>.yaml; `key` is where the configuration names it."""
    folder, word = Path(basedir) / "config" / kind, KINDS[kind]
    path = folder / f"{name}.yaml"
    known = sorted(p.stem for p in folder.glob("*.yaml"))
    if name not in known:  # not path.exists(): a name is no path, and case counts everywhere
        raise UserError(
            f"There is no {word} {name!r} ({key} in the configuration){nearest(name, known)}; "
            f"each {word} is a file config/{kind}/NAME.yaml."
        )
    definition, where = read_yaml(path), f"config/{kind}/{name}.yaml"
    check_schema(definition, _schema(word, str(basedir)), where)
    if kind == "tasks":
        _check_task(definition, where)
    elif kind == "encoders":
        _check_encoder(definition, where)
    elif name in RESERVED_MODES:
        raise UserError(f"A mode cannot be called {name!r}, as a row of the tables is: rename it.")
    if "path" in definition:
        definition["path"] = _local(definition["path"], basedir)
        _check_folder(definition["path"], kind, where)
    return definition


def _local(path: str, basedir) -> str:
    """A definition's path, given relative to `basedir`, as seen from the working directory."""
    return path if os.path.isabs(path) else os.path.relpath(Path(basedir) / path)


def _check_folder(path: str, kind: str, where: str) -> None:
    files = ENCODER_FILES if kind == "encoders" else []
    if not os.path.isdir(path):
        raise UserError(f"{where}: path names {path}, which is not a folder; correct it.")
    for file in files:
        if not os.path.isfile(os.path.join(path, file)):
            raise UserError(f"{where}: {path} (its path) holds no {file}; put it there.")


def _check_task(definition: dict, where: str) -> None:
    sources = [key for key in ("hub", "path", "embedded") if key in definition]
    if len(sources) != 1:
        named = " and ".join(sources) or "none of them"
        raise UserError(f"{where} must have exactly one of hub, path and embedded; found {named}.")
    if "hub" not in definition:
        for key in {"config", "revision"} & set(definition):
            raise UserError(f"{where}: {key} belongs to a hub's dataset; remove it.")
    for key in ("templates", "classes"):
        texts = definition.get(key)
        if isinstance(texts, str) and texts != "open_clip":
            raise UserError(
                f"{where}: {key} must be a list, or the word open_clip; found {texts!r}."
            )
    for template in definition["templates"]:
        if definition["templates"] != "open_clip" and template.count("{}") != 1:
            raise UserError(
                f"{where}: each template must have exactly one {{}}, for the class name; "
                f"found {template!r}."
            )
    classes = definition.get("classes", [])
    if len(set(classes)) < len(classes) and isinstance(classes, list):
        twice = next(name for name in classes if classes.count(name) > 1)
        raise UserError(f"{where}: the class {twice!r} stands twice in classes; rename one.")


def _check_encoder(definition: dict, where: str) -> None:
    hub = {"model", "pretrained"} & set(definition)
    if ("path" in definition) == bool(hub) or len(hub) == 1:
        raise UserError(
            f"{where} must have either path, or both model and pretrained; "
            f"found {', '.join(sorted(hub | ({'path'} & set(definition)))) or 'neither'}."
        )


def _check_finetune(recipe: dict) -> None:
    if recipe["warmup_steps"] > recipe["steps"]:
        raise UserError(
            f"finetune.warmup_steps ({recipe['warmup_steps']}) must be at most finetune.steps "
            f"({recipe['steps']})."
        )
    small, large = recipe["crop_scale"]
    if small > large:
        raise UserError(
            f"finetune.crop_scale must be [smallest, largest]; found [{small}, {large}]."
        )


def _check_weights(config: dict) -> None:
    """open_clip knows the weights of every encoder of a hub, and they fit its activation."""
    from .geometry import weights_repository

    for name, encoder in config["definitions"]["encoders"].items():
        if "pretrained" in encoder:
            weights_repository(name, encoder)


def _check_towers(definitions: dict) -> None:
    """Every pattern of every mode matches a tensor of every encoder, and every encoder reads images
    as they are stored; as far as it can be seen before an encoder is taken."""
    from .arrays import RESOLUTION
    from .geometry import image_tower_shapes, read_geometry
    from .vector import moved_names

    for name, encoder in definitions["encoders"].items():
        try:
            shapes = image_tower_shapes(read_geometry(name, encoder))
        except PackageNotFoundError:  # no open_clip here, to know its models
            continue
        size = read_geometry(name, encoder)["image_size"]
        if size > RESOLUTION:
            raise UserError(
                f"Encoder {name} reads images of {size} pixels, but they are stored at "
                f"{RESOLUTION}: choose a model of at most that."
            )
        for mode, definition in definitions["modes"].items():
            moved_names(shapes, definition["train"], mode)


def _check_names(config: dict) -> None:
    """What the names of tasks, encoders and modes must be to each other."""
    tasks, control = config["tasks"], config["negation"]["control"]
    if control in tasks:
        raise UserError(
            f"negation.control is {control!r}, which is among tasks; choose another task, whose "
            "accuracy is to be kept."
        )
    if config["focus"] not in config["encoders"]:
        raise UserError(
            f"focus is {config['focus']!r}, which is not among encoders"
            f"{nearest(config['focus'], config['encoders'])}."
        )
    if "nonlinear" not in config["modes"]:
        raise UserError(
            "modes must have nonlinear, which the non-linear advantage and post-hoc linearization "
            "compare with."
        )
    for mode in config["ablations"]:
        if mode in config["modes"]:
            raise UserError(f"{mode!r} is in modes and in ablations; remove it from one of them.")
    for place, (name, pair) in enumerate(config["disentanglement"]["pairs"].items()):
        key = f"disentanglement.pairs.{name}"
        for task in pair:
            if task not in tasks:
                raise UserError(
                    f"{key} has {task!r}, which is not among tasks{nearest(task, tasks)}."
                )
        if pair[0] == pair[1]:
            raise UserError(f"{key} must be two different tasks; found {pair[0]!r} twice.")
        if pair in list(config["disentanglement"]["pairs"].values())[:place]:
            raise UserError(f"{key} repeats an earlier pair, {pair[0]} and {pair[1]}; change one.")
    low, high = config["disentanglement"]["low"], config["disentanglement"]["high"]
    if low >= high:
        raise UserError(f"disentanglement.low ({low}) must be below disentanglement.high ({high}).")


def alpha_grid(alphas: dict) -> list[float]:
    """start, start + step, …, stop, each rounded to 10 decimals, so that 0.15 is 0.15.

    Raises:
        UserError: not 0 ≤ start < stop ≤ 2, no whole number of steps, or too many of them.
    """
    start, stop, step = alphas["start"], alphas["stop"], alphas["step"]
    if not 0 <= start < stop <= 2:
        raise UserError(
            f"alphas must have 0 <= start < stop <= 2; found start {start} and stop {stop}."
        )
    if not step > 0:
        raise UserError(f"alphas.step must be above 0; found {step}.")
    count = (stop - start) / step
    if count > MOST_ALPHAS - 1 + 1e-6:
        raise UserError(
            f"alphas has {int(count) + 1} values from {start} to {stop} in steps of {step}; make "
            f"alphas.step larger: at most {MOST_ALPHAS} are allowed."
        )
    if abs(count - round(count)) > 1e-6 or round(count) < 1:
        raise UserError(
            f"alphas.step ({step}) must divide the way from {start} to {stop} into whole steps."
        )
    return [round(start + i * step, 10) for i in range(round(count) + 1)]


def has_gpu() -> bool:
    """Whether this machine shows an NVIDIA GPU to its jobs: asks the driver, not torch."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return not hidden and any(
        glob.glob(pattern) for pattern in ("/proc/driver/nvidia/gpus/*", "/dev/nvidia[0-9]*")
    )
