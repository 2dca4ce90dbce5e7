"""The slices of the configuration that each stage depends on.

Each is one canonical JSON string: exactly what a stage's result depends on, so that a change of
anything else does not run it again. `config` is always what validate_config returned.
"""

import glob
import json
import os

import yaml

from ..files.definition import Definition
from ..files.hashes import canonical
from ..files.local import listing
from ..vision.geometry import OWN_MERGES
from .checks import ENCODER_FILES
from .experiment import control_of, mode_of, pairs_of, part_of
from .recipes import recipe_of, recipes_of
from .targets import paper_beside
from .view import View, view_of

DOWNLOADS_DIR = "results/shared/downloads"
EMBEDDED_DIR = "results/shared/embedded"  # a folder for each embedded task


def download_settings(config: dict, kind: str, name: str) -> str:
    """The download stage's slice; kind: tasks or encoders."""
    keys = {
        "tasks": ("hub", "config", "revision", "train", "test"),
        "encoders": ("model", "pretrained", "hub", "revision"),
    }[kind]
    definition = config["definitions"][kind][name]
    chosen = {key: definition[key] for key in keys if key in definition}
    if isinstance(definition.get("validation"), str):
        chosen["validation"] = definition["validation"]
    return canonical({"kind": kind.removesuffix("s"), "name": name, **chosen})


def download_record(config: dict, kind: str, name: str) -> str | None:
    """Where the download of a task or encoder is recorded; None if it is no hub's."""
    definition = config["definitions"][kind][name]
    if "hub" in definition or "pretrained" in definition:
        return f"{DOWNLOADS_DIR}/{kind}/{name}.json"
    return None


def data_settings(config: dict, task: str) -> str:
    """The data stage's slice: the task's definition without its templates or prompts, and of a
    user's folder what is in it."""
    definition = dict(config["definitions"]["tasks"][task])
    if "prompts" in definition:
        definition["modality"] = "language"
    for key in ("templates", "prompts", "max_tokens", "paper_task"):  # of the head, and of tables
        definition.pop(key, None)
    if "embedded" in definition:
        definition["path"] = source_dir(config, task)
    elif "path" in definition:
        definition["files"] = listing(Definition.of(task, definition))
    return canonical(definition)


def source_dir(config: dict, task: str) -> str | None:
    """The folder that a task's examples come from; None if they come from a hub."""
    definition = config["definitions"]["tasks"][task]
    if "embedded" in definition:
        return f"{EMBEDDED_DIR}/{definition['embedded']}"
    return definition.get("path")


def embedded_hashes(config: dict, task: str) -> str | None:
    """The hashes of an embedded task's files, which the data stage waits for; None for another: of
    a user's folder, its settings say what is in it."""
    if "embedded" in config["definitions"]["tasks"][task]:
        return f"{source_dir(config, task)}.sha256"
    return None


def encoder_settings(config: dict, encoder: str) -> str:
    """The encoder stage's slice: where the pretrained weights come from."""
    definition = config["definitions"]["encoders"][encoder]
    keys = ("model", "pretrained", "path", "hub", "revision", "architecture")
    chosen = {k: v for k, v in definition.items() if k in keys}
    return canonical({**_modality(config, encoder), **chosen})


def _modality(config: dict, encoder: str) -> dict:
    """What says that a stage is of another modality than vision."""
    modality = part_of(config, encoder)["modality"]
    return {} if modality == "vision" else {"modality": modality}


def encoder_files(config: dict, encoder: str) -> list[str]:
    """The files that an encoder is read from: a local checkpoint's, or the download's record."""
    record = download_record(config, "encoders", encoder)
    if record:
        return [record]
    path = config["definitions"]["encoders"][encoder]["path"]
    if part_of(config, encoder)["modality"] == "language":
        known = [*ENCODER_FILES["language"], "tokenizer_config.json"]
        weights = sorted(glob.glob(os.path.join(glob.escape(path), "model*.safetensors*")))
        found = [os.path.join(path, file) for file in known]
        return [file for file in found if os.path.isfile(file)] + weights
    own = [OWN_MERGES] if os.path.isfile(os.path.join(path, OWN_MERGES)) else []  # own tokenizer's
    return [os.path.join(path, file) for file in [*ENCODER_FILES["vision"], *own]]


def head_settings(config: dict, task: str, encoder: str) -> str:
    """The head stage's slice: the prompt templates, or the prompt and what is asked for."""
    definition = config["definitions"]["tasks"][task]
    if "templates" in definition:
        return canonical({"templates": definition["templates"]})
    chosen = config["definitions"]["encoders"][encoder]["prompts"]
    rest = {key: definition[key] for key in ("metric", "max_tokens") if key in definition}
    own = {**_modality(config, encoder), "prompt": definition["prompts"][chosen]}
    return canonical({**own, **rest})


def finetune_settings(config: dict, mode: str, encoder: str, task: str) -> str:
    """The finetune stage's slice."""
    return canonical(_finetune(config, mode, encoder, task))


def efficiency_settings(config: dict, mode: str, encoder: str) -> str:
    """The efficiency stage's slice: finetune's of the first task, and how many steps to time."""
    first = part_of(config, encoder)["tasks"][0]
    return canonical(
        {**_finetune(config, mode, encoder, first), "efficiency": config["efficiency"]}
    )


def _finetune(config: dict, mode: str, encoder: str, task: str) -> dict:
    definition, part = mode_of(config, mode, encoder), part_of(config, encoder)
    return {
        **_modality(config, encoder),
        "mode": {key: definition[key] for key in ("train", "linearized")},
        "finetune": recipe_of(part, encoder, mode, task),
        "limit": config["limit"],
        "micro_batch": config["definitions"]["encoders"][encoder].get("micro_batch"),
        "precision": config["precision"],
    }


def pretrained_settings(config: dict, encoder: str) -> str:
    """The pretrained stage's slice."""
    return canonical(_evaluation(config, encoder))


def kernel_settings(config: dict, encoder: str) -> str:
    """The kernel stage's slice."""
    return pretrained_settings(config, encoder)


def single_task_settings(config: dict, mode: str, encoder: str) -> str:
    """The single-task stage's slice."""
    return canonical(_evaluation(config, encoder, mode))


def addition_settings(config: dict, mode: str, encoder: str) -> str:
    """The addition stage's slice."""
    reference = part_of(config, encoder).get("reference_selection", False)
    own = {"alphas": config["alphas"], **({"reference_selection": True} if reference else {})}
    return canonical({**_evaluation(config, encoder, mode), **own})


def negation_settings(config: dict, mode: str, encoder: str) -> str:
    """The negation stage's slice."""
    keep = config["negation"]["keep"]
    own = {"alphas": config["alphas"], "keep": keep}
    return canonical({**_evaluation(config, encoder, mode), **own})


def disentanglement_settings(config: dict, mode: str) -> str:
    """The disentanglement stage's slice."""
    grid = {k: v for k, v in config["disentanglement"].items() if k != "pairs"}
    return canonical({"linearized": is_linearized(config, mode), "limit": config["limit"], **grid})


def _evaluation(config: dict, encoder: str, mode: str | None = None) -> dict:
    return {
        **_modality(config, encoder),
        "limit": config["limit"],
        "precision": config["precision"],
        **({} if mode is None else {"linearized": is_linearized(config, mode)}),
    }


def kernel_modes(config: dict) -> list[str]:
    """The modes of images whose task vectors are tested for kernel behaviour."""
    modes = config["parts"].get("vision", {}).get("modes", [])
    return [mode for mode in modes if not is_linearized(config, mode)]


def is_linearized(config: dict, mode: str) -> bool:
    """Whether `mode` is evaluated through f_lin; `posthoc` always is."""
    return mode == "posthoc" or config["definitions"]["modes"][mode]["linearized"]


def _suite(config: dict, tasks: list[str]) -> str:
    """The suite that tasks are of: not the embedded one, whatever the configuration says, if any of
    them does not come with the code."""
    own = any("embedded" not in config["definitions"]["tasks"].get(task, {}) for task in tasks)
    return "" if own and config["suite"] == "embedded" else config["suite"]


def view_settings(config: dict) -> str:
    """What tables, figures and the report depend on, besides the metrics: of the part on images
    and, as `language`, of that on texts. A part that the run has not has no encoders."""
    definitions = config["definitions"]
    shared = {"run": config["run"], "seeds": config["seeds"]}
    vision = {
        "control": control_of(config),
        "pairs": pairs_of(config),
        "keep": (config["negation"] or {}).get("keep"),
        "reference_scaling": (config["disentanglement"] or {}).get("reference_scaling", False),
        "kernel_modes": kernel_modes(config),
        "paper_beside": paper_beside(_suite(config, config["tasks"]), config["tasks"]),
    }
    views = {}
    for modality, own in (("vision", vision), ("language", {})):
        part = config["parts"].get(modality, {})
        labels = {name: mode["label"] for name, mode in definitions["modes"].items()}
        encoders = {name: definitions["encoders"][name] for name in part.get("encoders", [])}
        views[modality] = {
            **shared,
            "suite": _suite(config, part.get("tasks", [])),
            "tasks": part.get("tasks", []),
            "encoders": {name: encoder.get("paper_encoder") for name, encoder in encoders.items()},
            "modes": {name: labels[name] for name in part.get("modes", [])},
            "ablations": {name: labels[name] for name in part.get("ablations", [])},
            "focus": part.get("focus"),
            **own,
        }
    language = views["language"]
    language["paper_tasks"] = {
        task: definitions["tasks"][task].get("paper_task") for task in language["tasks"]
    }
    language["scores"] = [
        task for task in language["tasks"] if definitions["tasks"][task]["metric"] == "spearman"
    ]
    chosen = config["parts"].get("language", {}).get("reference_selection", False)
    language["reference_selection"] = chosen
    # In the configuration's order, which is the order of rows and panels.
    return json.dumps({**views["vision"], "language": language}, separators=(",", ":"))


def view(config: dict) -> View:
    """What view_settings say, typed."""
    return view_of(json.loads(view_settings(config)))


def report_settings(config: dict) -> str:
    """What the report depends on, besides the metrics and the other views: theirs, and the recipes
    of each part."""
    recipes = {modality: recipes_of(part) for modality, part in config["parts"].items()}
    return json.dumps(
        {**json.loads(view_settings(config)), "recipes": recipes}, separators=(",", ":")
    )


def as_yaml(config: dict) -> str:
    """The resolved configuration as the report shows it, without the definitions."""
    shown = {k: v for k, v in config.items() if k not in ("definitions", "parts")}
    return yaml.safe_dump(shown, sort_keys=False, default_flow_style=None, width=100)
