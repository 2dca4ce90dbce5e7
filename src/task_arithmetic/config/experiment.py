"""The configuration: reading, merging, checking, and the definitions that its names stand for.

Definitions of tasks, encoders and modes are files in config/; what is wrong with any of them or
with the configuration is a UserError of one sentence. Nothing here imports torch.
"""

import json
import os
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import yaml

from ..core.arithmetic import alpha_grid
from ..errors import UserError, nearest
from ..files.shipped import ROOT, local_path, shipped_config
from .available import RESERVED_PAIRS, left_out
from .recipes import check_names, check_recipes, differing, models_of, recipes_of, used_for
from .schema import check_schema, composed, found

KINDS = {"tasks": "task", "encoders": "encoder", "modes": "mode"}  # folder of config/ → one of it
WHERE = {
    "vision": "",
    "language": "language.",
}  # modality → where the configuration names its parts
RESERVED_MODES = {"pretrained", "posthoc"}  # rows of the results that nobody fine-tunes
ENCODER_FILES = {  # modality → files of a local checkpoint
    "vision": ["open_clip_config.json", "open_clip_model.safetensors"],
    "language": ["config.json", "tokenizer.json"],
}

# ------------------------------------------------------------------------- reading and merging


class _Loader(yaml.SafeLoader):
    """YAML in which no key is written twice: PyYAML takes the last one without a word."""

    def construct_mapping(self, node, deep=False):
        lines = {}
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else []:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            name, line = self.construct_object(key), key.start_mark.line + 1
            if name in lines:
                twice = f"has `{key.value}` twice, in line {lines[name]} and in line {line}"
                raise UserError(f"{node.start_mark.name} {twice}; remove one of them.")
            lines[name] = line
        return super().construct_mapping(node, deep)


def read_yaml(path) -> dict[str, Any]:
    """Read one YAML mapping. Raises UserError if it is missing, damaged or no mapping."""
    try:
        with open(path, encoding="utf-8") as file:
            content = yaml.load(file, _Loader)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; check the name and the folder.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give a YAML file.") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text in UTF-8: save it as that.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1}: {getattr(error, 'problem', 'syntax')})" if mark else ""
        raise UserError(f"{path} is not valid YAML{where}; mend that line.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold `key: value` lines; it holds {found(content)}.")
    return content


def merge(base: dict, overlay: dict) -> dict:
    """`base` with `overlay` over it: mappings merge key by key, everything else is replaced, and
    `pairs: {}` is no pairs, not all of the base's."""
    merged = dict(base)
    for key, value in overlay.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        emptied = key == "pairs" and value == {}
        merged[key] = merge(merged[key], value) if both and not emptied else value
    return merged


def read_config(*overlays, basedir=ROOT) -> dict:
    """The checked configuration of overlays, files or mappings, each over the one before and the
    first over config.yaml: what `snakemake` is given by --configfile and --config."""
    config = read_yaml(Path(basedir) / "config.yaml")
    for overlay in overlays:
        config = merge(
            config, overlay if isinstance(overlay, dict) else read_yaml(shipped_config(overlay))
        )
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
    from .settings import view_settings

    missing = left_out(json.loads(view_settings(config)))
    for line in [*_local_data(config), *_titled("left out", missing)]:
        print(line)


def _local_data(config: dict) -> list[str]:
    """What the tasks read that lie at a local path, and which of them read the same."""
    from ..files.local import find, outline

    tasks = config["definitions"]["tasks"]
    own = {name: task for name, task in tasks.items() if "path" in task}
    lines = [f"{name}: {outline(find(name, task))}" for name, task in own.items()]
    places: dict[str, list[str]] = {}
    for name, task in own.items():
        places.setdefault(os.path.realpath(task["path"]), []).append(name)
    lines += [f"{' and '.join(x)} read the same data" for x in places.values() if len(x) > 1]
    return _titled("local data", lines)


def _titled(title: str, lines: list[str]) -> list[str]:
    return [title, *(f"  {line}" for line in lines)] if lines else []


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
    config = {**composed(config), **{k: config[k] for k in ("scratch",) if k in config}}  # a path
    check_schema(config, schema, "the configuration")
    if (coding := sys.getfilesystemencoding()) != "utf-8" and not str(config).isascii():
        raise UserError(
            "The configuration has letters other than ASCII's, which cannot stand in names of "
            f"files in this locale ({coding}): set LC_ALL=C.UTF-8."
        )
    defaults = {k: v["default"] for k, v in schema["properties"].items() if "default" in v}
    config = {**defaults, **config}
    config["parts"] = _parts(config)
    alpha_grid(config["alphas"])
    definitions = _definitions(config, basedir)
    _check_names(config)
    check_names(config, WHERE["vision"])
    if config["language"]:
        check_names(config["language"], WHERE["language"])
    for modality, part in config["parts"].items():
        _check_shapes(modality, part, definitions)
        check_recipes(part, WHERE[modality])
    _check_columns(config["parts"].get("language", {"tasks": []})["tasks"], definitions["tasks"])
    return {**config, "definitions": definitions}


def _parts(config: dict) -> dict[str, dict]:
    """Modality → what is done in it: tasks, encoders, modes, ablations, focus, finetune. A modality
    without encoders is left out."""
    keys = ("tasks", "encoders", "modes", "ablations", "focus", "finetune")
    found = {"vision": {key: config[key] for key in keys}}
    if config["language"]:
        own = {"ablations": [], **config["language"]}
        own.setdefault("focus", next(iter(own["encoders"]), None))
        found["language"] = {key: own[key] for key in (*keys, "reference_selection") if key in own}
    return {modality: part for modality, part in found.items() if part["encoders"]}


def part_of(config: dict, encoder: str) -> dict:
    """The part of a run that an encoder belongs to, with its `modality`."""
    return next(
        {**part, "modality": modality}
        for modality, part in config["parts"].items()
        if encoder in part["encoders"]
    )


def mode_of(config: dict, mode: str, encoder: str) -> dict:
    """A mode's definition as it is for an encoder: `train` is the list of its modality."""
    definition = config["definitions"]["modes"][mode]
    modality = part_of(config, encoder)["modality"]
    return {**definition, "train": patterns(definition, modality)}


def control_of(config: dict) -> str | None:
    """The control task of negation; None: nothing is negated."""
    vision = "vision" in config["parts"]
    return (config["negation"] or {}).get("control") if vision else None


def pairs_of(config: dict) -> dict[str, list[str]]:
    """Heatmap → its two tasks; those that are null are none."""
    pairs = (config["disentanglement"] or {}).get("pairs") or {}
    return (
        {name: pair for name, pair in pairs.items() if pair} if "vision" in config["parts"] else {}
    )


def patterns(definition: dict, modality: str) -> list[str]:
    """The patterns of a mode's definition, which may be different for each modality."""
    train = definition["train"]
    return train.get(modality, []) if isinstance(train, dict) else train


def _definitions(config: dict, basedir=ROOT) -> dict[str, dict[str, dict]]:
    """kind (tasks, encoders, modes) → name → its checked definition, for each name in `config`."""
    found: dict[str, dict[str, dict]] = {kind: {} for kind in KINDS}
    for modality, part in config["parts"].items():
        where = WHERE[modality]
        named = {
            "tasks": [(name, f"{where}tasks") for name in part["tasks"]],
            "encoders": [(name, f"{where}encoders") for name in part["encoders"]],
            "modes": [(name, where + key) for key in ("modes", "ablations") for name in part[key]],
        }
        if modality == "vision" and (control := control_of(config)):
            named["tasks"].append((control, "negation.control"))
        for kind, names in named.items():
            for name, key in names:
                found[kind][name] = load_definition(kind, name, key, basedir, modality)
    return found


def load_definition(kind: str, name: str, key: str, basedir=ROOT, modality="vision") -> dict:
    """Read and check config/<kind>/<name>.yaml, of a modality; `key` is where the configuration
    names it."""
    folder, word = Path(basedir) / "config" / kind, KINDS[kind]
    known = {composed(path.stem): path for path in sorted(folder.glob("*.yaml"))}
    if name not in known:  # not path.exists(): a name is no path, and case counts everywhere
        raise UserError(
            f"There is no {word} {name!r} ({key} in the configuration)"
            f"{nearest(name, list(known))}; each {word} is a file config/{kind}/NAME.yaml."
        )
    definition, where = read_yaml(known[name]), f"config/{kind}/{name}.yaml"
    if kind != "modes" and modality != ("language" if "prompts" in definition else "vision"):
        other = {"vision": "images", "language": "texts"}
        raise UserError(
            f"{where} is a definition for {other[_other(modality)]}, but {key} is of "
            f"{other[modality]}: name it in {WHERE[_other(modality)]}{kind}."
        )
    form = f"text_{word}" if kind != "modes" and modality == "language" else word
    check_schema(definition, _schema(form, str(basedir)), where)
    if kind == "modes":
        if name in RESERVED_MODES:
            raise UserError(
                f"A mode cannot be called {name!r}, as a row of the tables is: rename it."
            )
        if not patterns(definition, modality):
            raise UserError(
                f"{where} has no patterns for {modality}, where {key} names it: add "
                f"{modality} to its `train`."
            )
    elif kind == "encoders":
        _check_encoder(definition, where)
    else:
        _check_source(definition, where)
        if modality == "vision":
            _check_task(definition, where)
        else:
            from ..language.prepare import check_text_task

            check_text_task(definition, where)
    if "path" in definition:
        definition["path"] = local_path(definition["path"], basedir)
        if kind == "encoders" and "{" in definition["path"]:
            raise UserError(
                f"{where}: {definition['path']} (its path) has a brace, which Snakemake takes for "
                "a placeholder in what jobs read; give another, such as a link to the folder."
            )
        if kind == "encoders":
            _check_folder(definition["path"], ENCODER_FILES[modality], where)
        elif not os.path.exists(definition["path"]):
            raise UserError(
                f"{where}: path names {definition['path']}, where nothing is; correct it."
            )
    return definition


def _other(modality: str) -> str:
    return {"vision": "language", "language": "vision"}[modality]


def _check_folder(path: str, files: list[str], where: str) -> None:
    if not os.path.isdir(path):
        raise UserError(f"{where}: path names {path}, which is not a folder; correct it.")
    for file in files:
        if not os.path.isfile(os.path.join(path, file)):
            raise UserError(f"{where}: {path} (its path) holds no {file}; put it there.")


def _check_source(definition: dict, where: str) -> None:
    sources = [key for key in ("hub", "path", "embedded") if key in definition]
    if len(sources) != 1:
        named = " and ".join(sources) or "none of them"
        raise UserError(f"{where} must have exactly one of hub, path and embedded; found {named}.")
    whole = {"split", "test"} if isinstance(definition.get("test"), float) else {"split"}
    if "path" not in definition and (given := sorted(whole & set(definition))):
        raise UserError(f"{where}: {given[0]} as it stands there is for a local `path`; mend it.")
    if whole <= set(definition) and len(whole) > 1:
        raise UserError(
            f"{where}: either split names the rows of test, or test a share; remove one."
        )
    if definition.get("train", "") is None and "test" in whole:
        raise UserError(f"{where}: without train there is nothing to draw test from; name a split.")
    names = [definition.get("train", "train"), definition.get("test", "test")]
    names += [definition.get("validation")] if isinstance(definition.get("validation"), str) else []
    if len(set(names)) < len(names):
        raise UserError(
            f"{where}: train, validation and test must be different splits; found "
            f"{', '.join(map(str, names))}."
        )
    if "hub" not in definition:
        for key in {"config", "revision"} & set(definition):
            raise UserError(f"{where}: {key} belongs to a hub's dataset; remove it.")


def _check_task(definition: dict, where: str) -> None:
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
    from ..files.labels import alike

    allowed = definition.get("alike_classes", "error") == "allow"
    if isinstance(classes, list) and not allowed and (same := alike(classes)):
        raise UserError(
            f"{where}: the classes {same[0]!r} and {same[1]!r} are the same to a model that reads "
            "their names; rename one."
        )
    low, high = definition.get("levels", (0, 1))
    if not low < high:
        raise UserError(f"{where}: levels must be [lowest, highest]; found [{low}, {high}].")


def _check_encoder(definition: dict, where: str) -> None:
    needed = ["hub", "architecture"] if "prompts" in definition else ["model", "pretrained"]
    named = [key for key in (*needed, "path") if key in definition]
    if named not in (needed, ["path"]):
        raise UserError(
            f"{where} must have either path, or both {' and '.join(needed)}; "
            f"found {', '.join(sorted(named)) or 'neither'}."
        )


def _check_weights(config: dict) -> None:
    """open_clip knows the weights of every encoder of a hub, and they fit its activation."""
    from ..vision.geometry import weights_repository

    for name, encoder in config["definitions"]["encoders"].items():
        if "pretrained" in encoder:
            weights_repository(name, encoder)


def _check_shapes(modality: str, part: dict, definitions: dict) -> None:
    """Every pattern of every mode matches a tensor of every encoder, every encoder reads images as
    they are stored, and every task has the prompts that every encoder asks for; as far as it can be
    seen before an encoder is taken."""
    from ..core.vectors import moved_names
    from ..vision.images import RESOLUTION
    from .geometries import read_geometry, shapes_of

    for name in part["encoders"]:
        encoder = definitions["encoders"][name]
        try:
            geometry = read_geometry(name, encoder)
        except PackageNotFoundError:  # no open_clip here, to know its models
            continue
        if geometry.get("image_size", 0) > RESOLUTION:
            raise UserError(
                f"Encoder {name} reads images of {geometry['image_size']} pixels, but they are "
                f"stored at {RESOLUTION}: choose a model of at most that."
            )
        for mode in [*part["modes"], *part["ablations"]]:
            chosen = patterns(definitions["modes"][mode], modality)
            moved_names(shapes_of(geometry), chosen, mode)
        for task in part["tasks"]:
            known = list(definitions["tasks"][task].get("prompts", [encoder.get("prompts")]))
            if encoder.get("prompts") not in known:
                raise UserError(
                    f"Task {task} has no prompt set {encoder['prompts']!r}, which encoder {name} "
                    f"asks for{nearest(encoder['prompts'], known)}; it has {', '.join(known)}: add "
                    f"it to `prompts` in config/tasks/{task}.yaml, or name another in "
                    f"config/encoders/{name}.yaml."
                )


def _check_columns(tasks: list[str], definitions: dict) -> None:
    """Table 3 has one column for each task of texts."""
    columns = [definitions[task].get("paper_task") or task for task in tasks]
    for task, column in zip(tasks, columns, strict=True):
        if column in ("mode", "average") or column[:6] == "paper_" or column[-4:] == "_std":
            raise UserError(
                f"Task {task} cannot stand in Table 3, where the column {column} is another: "
                "rename it."
            )
        if columns.count(column) > 1:
            raise UserError(
                f"Task {task} and another one stand in the column {column} of Table 3, as their "
                "paper_task says; remove paper_task from the definition of one of them."
            )


def _check_names(config: dict) -> None:
    """What the names of tasks, encoders and modes must be to each other."""
    if not config["parts"]:
        raise UserError("The configuration names no encoder: add one to encoders.")
    vision, language = (config["parts"].get(modality) for modality in ("vision", "language"))
    for modality, part in config["parts"].items():
        where = WHERE[modality]
        if not part["tasks"]:
            raise UserError(
                f"{where}tasks in the configuration must have at least 1 entry; found none."
            )
        if part["focus"] not in part["encoders"]:
            raise UserError(
                f"{where}focus is {part['focus']!r}, which is not among {where}encoders"
                f"{nearest(part['focus'], part['encoders'])}; name one of them."
            )
    if vision:
        _check_vision_names(config)
    elif config["tasks"]:
        raise UserError(
            "The configuration names tasks but no encoder for them: add one to encoders, or make "
            "tasks empty too."
        )
    if vision and language:
        for kind in ("tasks", "encoders"):
            others = [*vision[kind], control_of(config) if kind == "tasks" else None]
            for name in language[kind]:
                if name in others:
                    raise UserError(
                        f"language.{kind} has {name!r}, which is also among {kind} of images; "
                        "remove it from one of them."
                    )


def _check_vision_names(config: dict) -> None:
    tasks, control, pairs = config["tasks"], control_of(config), pairs_of(config)
    if control in tasks:
        raise UserError(
            f"negation.control is {control!r}, which is among tasks; choose another task, whose "
            "accuracy is to be kept, or null."
        )
    if control and config["alphas"]["start"] > 0:
        raise UserError(
            f"alphas.start is {config['alphas']['start']}, but negation needs 0, where the control "
            "task surely keeps its accuracy: start there, or set negation to null."
        )
    for mode in config["ablations"]:
        if mode in config["modes"]:
            raise UserError(f"{mode!r} is in modes and in ablations; remove it from one of them.")
    for place, (name, pair) in enumerate(pairs.items()):
        key = f"disentanglement.pairs.{name}"
        if name in RESERVED_PAIRS or name.endswith("_language"):
            raise UserError(
                f"{key} has the name of another figure or table; call the pair otherwise."
            )
        for task in pair:
            if task not in tasks:
                raise UserError(
                    f"{key} has {task!r}, which is not among tasks{nearest(task, tasks)}; name two "
                    f"of them, or set {name} to null for no such heatmap."
                )
        if pair[0] == pair[1]:
            raise UserError(f"{key} must be two different tasks; found {pair[0]!r} twice.")
        if pair in list(pairs.values())[:place]:
            raise UserError(f"{key} repeats an earlier pair, {pair[0]} and {pair[1]}; change one.")
    grid = config["disentanglement"] or {"low": 0, "high": 1}
    if grid["low"] >= grid["high"]:
        raise UserError(
            f"disentanglement.low ({grid['low']}) must be below disentanglement.high "
            f"({grid['high']})."
        )
