"""What a configuration and its definitions must be, beyond the form of each value: names that are
there, splits that differ, patterns that match. Each mistake is a UserError of one sentence."""

import os
from importlib.metadata import PackageNotFoundError

from ..errors import UserError, nearest
from .available import RESERVED_PAIRS
from .experiment import Encoder, Mode, Task, TextEncoder, TextTask, control_of, pairs_of, patterns
from .recipes import check_names, check_recipes

WHERE = {
    "vision": "",
    "language": "language.",
}  # modality → where the configuration names its parts
OTHER = {"vision": "language", "language": "vision"}
RESERVED_MODES = {"pretrained", "posthoc"}  # rows of the results that nobody fine-tunes
ENCODER_FILES = {  # modality → files of a local checkpoint
    "vision": ["open_clip_config.json", "open_clip_model.safetensors"],
    "language": ["config.json", "tokenizer.json"],
}

# --- One definition ------------------------------------------------------------------------------


def check_modality(definition: dict, kind: str, key: str, modality: str, where: str) -> None:
    """A definition is of the modality that the configuration names it for, under `key`."""
    if modality != ("language" if "prompts" in definition else "vision"):
        other = {"vision": "images", "language": "texts"}
        raise UserError(
            f"{where} is a definition for {other[OTHER[modality]]}, but {key} is of "
            f"{other[modality]}: name it in {WHERE[OTHER[modality]]}{kind}."
        )


def check_mode(name: str, mode: Mode, key: str, modality: str, where: str) -> None:
    """A mode has a name of its own, and patterns for the modality that it is named for."""
    if name in RESERVED_MODES:
        raise UserError(f"A mode cannot be called {name!r}, as a row of the tables is: rename it.")
    if not isinstance(mode.train, list) and not getattr(mode.train, modality):
        raise UserError(
            f"{where} has no patterns for {modality}, where {key} names it: add {modality} to its "
            "`train`."
        )


def check_path(path: str, kind: str, modality: str, where: str) -> None:
    """What a definition's path names is there and, of an encoder, a checkpoint."""
    if kind != "encoders":
        if not os.path.exists(path):
            raise UserError(f"{where}: path names {path}, where nothing is; correct it.")
        return
    if "{" in path:
        raise UserError(
            f"{where}: {path} (its path) has a brace, which Snakemake takes for a placeholder in "
            "what jobs read; give another, such as a link to the folder."
        )
    if not os.path.isdir(path):
        raise UserError(f"{where}: path names {path}, which is not a folder; correct it.")
    for file in ENCODER_FILES[modality]:
        if not os.path.isfile(os.path.join(path, file)):
            raise UserError(f"{where}: {path} (its path) holds no {file}; put it there.")


def check_source(task: Task | TextTask, where: str) -> None:
    """The examples come from one place, and their splits are different ones."""
    sources = [key for key in ("hub", "path", "embedded") if getattr(task, key) is not None]
    if len(sources) != 1:
        named = " and ".join(sources) or "none of them"
        raise UserError(f"{where} must have exactly one of hub, path and embedded; found {named}.")
    drawn = isinstance(task.test, float)
    whole = ["split"] * (task.split is not None) + ["test"] * drawn  # of data in one piece
    if task.path is None and whole:
        raise UserError(f"{where}: {whole[0]} as it stands there is for a local `path`; mend it.")
    if len(whole) > 1:
        raise UserError(
            f"{where}: either split names the rows of test, or test a share; remove one."
        )
    if task.train is None and drawn:
        raise UserError(f"{where}: without train there is nothing to draw test from; name a split.")
    names = [task.train, task.test]
    names += [task.validation] if isinstance(task.validation, str) else []
    if len(set(names)) < len(names):
        raise UserError(
            f"{where}: train, validation and test must be different splits; found "
            f"{', '.join(map(str, names))}."
        )
    for key in ("config", "revision"):
        if task.hub is None and getattr(task, key) is not None:
            raise UserError(f"{where}: {key} belongs to a hub's dataset; remove it.")


def check_task(task: Task, where: str) -> None:
    """Templates take a class name, classes differ to a text tower, levels are in order."""
    for template in task.templates if isinstance(task.templates, list) else []:
        if template.count("{}") != 1:
            raise UserError(
                f"{where}: each template must have exactly one {{}}, for the class name; "
                f"found {template!r}."
            )
    from ..files.labels import alike

    listed = isinstance(task.classes, list) and task.alike_classes != "allow"
    if listed and (same := alike(task.classes)):
        raise UserError(
            f"{where}: the classes {same[0]!r} and {same[1]!r} are the same to a model that reads "
            "their names; rename one."
        )
    low, high = task.levels or (0, 1)
    if not low < high:
        raise UserError(f"{where}: levels must be [lowest, highest]; found [{low}, {high}].")


def check_encoder(encoder: Encoder | TextEncoder, where: str) -> None:
    """The weights come from one place."""
    hub = ["model", "pretrained"] if isinstance(encoder, Encoder) else ["hub", "architecture"]
    named = [key for key in (*hub, "path") if getattr(encoder, key) is not None]
    if named not in (hub, ["path"]):
        raise UserError(
            f"{where} must have either path, or both {' and '.join(hub)}; "
            f"found {', '.join(sorted(named)) or 'neither'}."
        )


# --- The configuration and what it names ---------------------------------------------------------


def check_alphas(config: dict) -> None:
    """The grid of α is one."""
    from ..core.arithmetic import alpha_grid  # which imports numpy

    alpha_grid(**config["alphas"])


def check_config(config: dict, definitions: dict) -> None:
    """What the names of a configuration must be to each other, and its definitions to each other.

    Args:
        config: with its `parts`. definitions: kind → name → definition.
    """
    _check_names(config)
    check_names(config, WHERE["vision"])
    if config["language"]:
        check_names(config["language"], WHERE["language"])
    for modality, part in config["parts"].items():
        _check_shapes(modality, part, definitions)
        check_recipes(part, WHERE[modality])
    _check_columns(config["parts"].get("language", {"tasks": []})["tasks"], definitions["tasks"])


def check_weights(config: dict) -> None:
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
    from ..vision.geometry import ViT
    from ..vision.images import RESOLUTION
    from .geometries import read_geometry

    for name in part["encoders"]:
        encoder = definitions["encoders"][name]
        try:
            geometry = read_geometry(name, encoder)
        except PackageNotFoundError:  # no open_clip here, to know its models
            continue
        if isinstance(geometry, ViT) and geometry.image_size > RESOLUTION:
            raise UserError(
                f"Encoder {name} reads images of {geometry.image_size} pixels, but they are "
                f"stored at {RESOLUTION}: choose a model of at most that."
            )
        for mode in [*part["modes"], *part["ablations"]]:
            chosen = patterns(definitions["modes"][mode], modality)
            moved_names(geometry.shapes(), chosen, mode)
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
