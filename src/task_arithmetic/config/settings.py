"""The slices of an experiment that each stage depends on.

Each is one canonical JSON string: exactly what a stage's result depends on, so that a change of
anything else does not run it again.
"""

import glob
import json
import os
from typing import Any

import yaml

from ..files.checkpoint import checkpoint_files
from ..files.definition import Definition
from ..files.hashes import canonical
from ..files.local import listing
from ..vision.geometry import OWN_MERGES
from .analyses import Samples
from .checks import ENCODER_FILES
from .definitions import AnyEncoder, AnyTask, Checkpoint, Encoder, Task, TextTask
from .experiment import Configuration, Experiment, Part
from .mergers import Merger
from .published import paper_beside
from .recipes import recipes_of
from .view import View, view_of

DOWNLOADS_DIR = "results/shared/downloads"
EMBEDDED_DIR = "results/shared/embedded"  # a folder for each embedded task

Downloaded = AnyTask | AnyEncoder | Checkpoint  # what may come from a hub

# --- Data and encoders: of a definition -----------------------------------------------------------


def _slice(definition: Downloaded, *keys: str) -> dict[str, Any]:
    """What a definition says of these keys."""
    return {key: value for key, value in definition.given().items() if key in keys}


def _modality(definition: AnyTask | AnyEncoder) -> dict[str, str]:
    """What says that a stage is of another modality than vision."""
    return {} if definition.modality == "vision" else {"modality": definition.modality}


def download_record(name: str, definition: Downloaded) -> str | None:
    """Where the download of a task, encoder or checkpoint is recorded; None if it is no hub's."""
    of_hub = definition.pretrained if isinstance(definition, Encoder) else definition.hub
    kind = "tasks" if isinstance(definition, Task | TextTask) else "encoders"
    kind = "checkpoints" if isinstance(definition, Checkpoint) else kind
    return f"{DOWNLOADS_DIR}/{kind}/{name}.json" if of_hub else None


def hub_sources(experiment: Experiment) -> dict[str, tuple[str, Downloaded]]:
    """Record of a download → the name and definition of the task, encoder or checkpoint."""
    tasks, encoders, _ = experiment.definitions
    named: list[tuple[str, Downloaded]] = [*tasks.items(), *encoders.items()]
    named += [(each.name, each) for each in experiment.checkpoints.values()]
    found = {download_record(*each): each for each in named}
    return {record: each for record, each in found.items() if record}


def download_settings(name: str, definition: Downloaded) -> str:
    """The download stage's slice, of a task, an encoder or a checkpoint."""
    if isinstance(definition, Task | TextTask):
        chosen = {
            "kind": "task",
            **_slice(definition, "hub", "config", "revision", "train", "test"),
        }
        chosen |= _slice(definition, "validation") if isinstance(definition.validation, str) else {}
    elif isinstance(definition, Checkpoint):
        chosen = {"kind": "checkpoint", **_slice(definition, "hub", "revision")}
    else:
        chosen = {"kind": "encoder", **_slice(definition, "model", "pretrained", "hub", "revision")}
    return canonical({"name": name, **chosen})


def data_settings(task: AnyTask) -> str:
    """The data stage's slice: the task's definition without its templates or prompts, and of a
    user's folder what is in it."""
    others = ("templates", "prompts", "max_tokens", "paper_task")  # of the head, and of tables
    chosen = {k: v for k, v in task.given().items() if k not in others} | _modality(task)
    if task.embedded:
        chosen["path"] = f"{EMBEDDED_DIR}/{task.embedded}"
    elif task.path:
        chosen["files"] = listing(Definition.of("", chosen))
    return canonical(chosen)


def embedded_hashes(task: AnyTask) -> str | None:
    """The hashes of an embedded task's files, which the data stage waits for; None for another: of
    a user's folder, its settings say what is in it."""
    return f"{EMBEDDED_DIR}/{task.embedded}.sha256" if task.embedded else None


def encoder_settings(encoder: AnyEncoder) -> str:
    """The encoder stage's slice: where the pretrained weights come from."""
    keys = ("model", "pretrained", "path", "hub", "revision", "architecture")
    return canonical({**_modality(encoder), **_slice(encoder, *keys)})


def encoder_files(name: str, encoder: AnyEncoder) -> list[str]:
    """The files that an encoder is read from: a local checkpoint's, or the download's record."""
    path = encoder.path
    if path is None:
        return [record for record in [download_record(name, encoder)] if record]
    own = OWN_MERGES if isinstance(encoder, Encoder) else "tokenizer_config.json"  # if it has it
    found = [os.path.join(path, file) for file in [*ENCODER_FILES[encoder.modality], own]]
    if not isinstance(encoder, Encoder):
        found += sorted(glob.glob(os.path.join(glob.escape(path), "model*.safetensors*")))
    return [file for file in found if os.path.isfile(file)]


def head_settings(task: AnyTask, prompts: str | None) -> str:
    """The head stage's slice: the prompt templates, or the prompt and what is asked for.

    Args:
        prompts: of texts: the prompt set.
    """
    if isinstance(task, Task):
        return canonical(_slice(task, "templates"))
    asked = {"prompt": task.prompts[prompts or ""].given()}
    return canonical({**_modality(task), **asked, **_slice(task, "metric", "max_tokens")})


# --- Learning: of an experiment -------------------------------------------------------------------


def _shared(experiment: Experiment, encoder: str) -> dict[str, Any]:
    """What all that learn or evaluate depend on."""
    modality = _modality(experiment.definitions.encoders[encoder])
    return {**modality, "limit": _limit(experiment), "precision": experiment.precision}


def _limit(experiment: Experiment) -> dict[str, int] | None:
    return experiment.limit.given() if experiment.limit else None


def finetune_settings(experiment: Experiment, mode: str, encoder: str, task: str) -> str:
    """The finetune stage's slice."""
    return canonical(_finetune(experiment, mode, encoder, task))


def _finetune(experiment: Experiment, mode: str, encoder: str, task: str) -> dict[str, Any]:
    patterns, linearized = experiment.patterns(mode, encoder), experiment.linearized(mode)
    return {
        **_shared(experiment, encoder),
        "mode": {"train": patterns, "linearized": linearized},
        "finetune": experiment.part_of(encoder).recipe(encoder, mode, task).given(),
        "micro_batch": experiment.definitions.encoders[encoder].micro_batch,
    }


def published_settings(experiment: Experiment, mode: str, encoder: str) -> str:
    """The published stage's slice."""
    patterns, linearized = experiment.patterns(mode, encoder), experiment.linearized(mode)
    modality = _modality(experiment.definitions.encoders[encoder])
    return canonical({**modality, "mode": {"train": patterns, "linearized": linearized}})


def published_files(experiment: Experiment, encoder: str, mode: str, task: str) -> list[str]:
    """The files of a local checkpoint, or the record of a hub's."""
    checkpoint = experiment.checkpoints[encoder, mode, task]
    if checkpoint.path is not None:
        return [str(file) for file in checkpoint_files(checkpoint.path)]
    return [record for record in [download_record(checkpoint.name, checkpoint)] if record]


def efficiency_settings(experiment: Experiment, mode: str, encoder: str) -> str:
    """The efficiency stage's slice: finetune's of the first task, and how many steps to time."""
    first = experiment.part_of(encoder).tasks[0]
    timed = {"efficiency": experiment.efficiency.given()}
    return canonical({**_finetune(experiment, mode, encoder, first), **timed})


def pretrained_settings(experiment: Experiment, encoder: str) -> str:
    """The pretrained stage's slice, and the kernel stage's."""
    return canonical(_shared(experiment, encoder))


def single_task_settings(experiment: Experiment, mode: str, encoder: str) -> str:
    """The single-task stage's slice."""
    return canonical(_evaluation(experiment, mode, encoder))


def _evaluation(experiment: Experiment, mode: str, encoder: str) -> dict[str, Any]:
    return {**_shared(experiment, encoder), "linearized": experiment.linearized(mode)}


def addition_settings(experiment: Experiment, mode: str, encoder: str) -> str:
    """The addition stage's slice."""
    return canonical(_addition(experiment, mode, encoder))


def _addition(experiment: Experiment, mode: str, encoder: str) -> dict[str, Any]:
    own: dict[str, Any] = {"alphas": experiment.alphas.given()}
    if experiment.part_of(encoder).reference_selection:
        own["reference_selection"] = True
    return {**_evaluation(experiment, mode, encoder), **own}


def statistics_settings(experiment: Experiment, mode: str, encoder: str) -> str:
    """The statistics stage's slice: how many examples any of the methods asks for."""
    images = experiment.part_of(encoder).collected(encoder)
    return canonical({**_evaluation(experiment, mode, encoder), "images": images})


def merge_settings(experiment: Experiment, encoder: str, label: str) -> str:
    """The merge stage's slice: a method and its options; of one that learns from data also what
    evaluations depend on."""
    own = experiment.part_of(encoder).merger(label)
    shared = _shared(experiment, encoder) if own.learns else {}
    return canonical({**shared, **_merging(own)})


def _merging(own: Merger) -> dict[str, Any]:
    scaled = {"layer_scaled": True} if own.layer_scaled else {}
    return {"method": own.method.name, "options": own.given, **scaled}


def merged_settings(experiment: Experiment, mode: str, encoder: str, label: str) -> str:
    """The addition stage's slice for a merged vector: its method's grid."""
    grid = {"alphas": experiment.part_of(encoder).merger(label).alphas}
    return canonical({**_addition(experiment, mode, encoder), **grid})


def subset_settings(experiment: Experiment, mode: str, encoder: str, label: str) -> str:
    """The number_of_tasks stage's slice: a method, its options and grid, and which subsets."""
    subsets = experiment.part_of(encoder).subsets
    assert subsets
    own = subsets.merger(label)
    drawn = {"sizes": subsets.sizes, "draws": subsets.draws, "alphas": own.alphas}
    shared = {**_evaluation(experiment, mode, encoder), **drawn}
    return canonical({**shared, "merging": _merging(own)})


def negation_settings(experiment: Experiment, mode: str, encoder: str) -> str:
    """The negation stage's slice."""
    assert experiment.negation
    own = {"alphas": experiment.alphas.given(), "keep": experiment.negation.keep}
    return canonical({**_evaluation(experiment, mode, encoder), **own})


def disentanglement_settings(experiment: Experiment, mode: str) -> str:
    """The disentanglement stage's slice."""
    assert experiment.disentanglement
    grid = experiment.disentanglement.model_dump(exclude_unset=True, exclude={"pairs"})
    own = {"linearized": experiment.linearized(mode), "limit": _limit(experiment)}
    return canonical({**own, **grid})


def sampled_settings(experiment: Experiment, analysis: str, mode: str, encoder: str) -> str:
    """The slice of the stages of analyses of some test images; of those whose precision is their
    own, without it."""
    samples = {"samples": getattr(experiment.analyses, analysis).samples}
    own = {**_evaluation(experiment, mode, encoder), **samples}
    if analysis != "interference":
        del own["precision"]
    if analysis == "linearity":  # of f, whatever the mode
        del own["linearized"]
    return canonical(own)


# --- Views ---------------------------------------------------------------------------------------


def _shown(experiment: Experiment, part: Part) -> dict[str, Any]:
    """What is shown of a part. Its suite is not the embedded one, whatever the configuration says,
    if any of its tasks does not come with the code."""
    tasks, encoders, modes = experiment.definitions
    own = experiment.suite == "embedded" and not all(tasks[task].embedded for task in part.tasks)
    return {
        "run": experiment.run,
        "seeds": experiment.seeds,
        "suite": "" if own else experiment.suite,
        "tasks": part.tasks,
        "encoders": {name: encoders[name].paper_encoder for name in part.encoders},
        "modes": {name: modes[name].label for name in part.modes},
        "ablations": {name: modes[name].label for name in part.ablations},
        "focus": part.focus,
        "analyses": part.analyses,
        "samples": {
            name: of.samples
            for name, of in experiment.analyses or ()
            if name in part.analyses and isinstance(of, Samples)
        },
        "subsets": part.subsets
        and {
            "sizes": part.subsets.sizes,
            "draws": part.subsets.draws,
            "methods": {each.label: each.title for each in part.subsets.mergers},
        },
        "merging": {
            "encoders": part.merged,
            "methods": {
                each.label: {
                    "title": each.title,
                    "needs": each.needs,
                    "grid": [each.grid[0], each.grid[-1]],
                }
                for each in part.mergers
            },
        },
    }


def _view(experiment: Experiment) -> dict[str, Any]:
    images, texts = experiment.part("vision"), experiment.part("language")
    grid, vision = experiment.disentanglement, _shown(experiment, images)
    vision |= {
        "control": images.control,
        "pairs": images.pairs,
        "samples": vision["samples"] | ({"loss_plane": grid.samples} if grid else {}),
        "keep": experiment.negation.keep if experiment.negation else None,
        "reference_scaling": grid.reference_scaling if grid else False,
        "kernel_modes": [mode for mode in images.modes if not experiment.linearized(mode)],
        "paper_beside": paper_beside(vision["suite"], images.tasks),
    }
    tasks = experiment.definitions.tasks.items()
    of_texts = {name: task for name, task in tasks if isinstance(task, TextTask)}
    language = {
        **_shown(experiment, texts),
        "paper_tasks": {name: task.paper_task for name, task in of_texts.items()},
        "scores": [name for name, task in of_texts.items() if task.metric == "spearman"],
        "reference_selection": texts.reference_selection,
    }
    return {**vision, "language": language}


def view_settings(experiment: Experiment) -> str:
    """What tables, figures and the report depend on, besides the metrics: of the part on images
    and, as `language`, of that on texts. A part that the run has not has no encoders."""
    # In the configuration's order, which is the order of rows and panels.
    return json.dumps(_view(experiment), separators=(",", ":"))


def view(experiment: Experiment) -> View:
    """What view_settings say, typed."""
    return view_of(_view(experiment))


def report_settings(experiment: Experiment) -> str:
    """What the report depends on, besides the metrics and the other views: theirs, the recipes of
    each part, how many classes tasks of images have, where their `expected` says it, and what
    published weights are taken."""
    recipes = {
        modality: [
            {**row._asdict(), "recipe": row.recipe.given()}
            for row in recipes_of(part, experiment.trained(part))
        ]
        for modality, part in experiment.parts.items()
    }
    classes = {
        name: task.expected.classes
        for name, task in experiment.definitions.tasks.items()
        if isinstance(task, Task) and task.expected and task.expected.classes
    }
    checkpoints = [
        {"encoder": encoder, "mode": mode, "task": task, "source": of.source}
        for (encoder, mode, task), of in experiment.checkpoints.items()
    ]
    own = {"recipes": recipes, "classes": classes, "checkpoints": checkpoints}
    return json.dumps({**_view(experiment), **own}, separators=(",", ":"))


# --- The whole ------------------------------------------------------------------------------------


def as_yaml(experiment: Experiment) -> str:
    """The configuration as the report shows it, with the defaults of what it leaves out."""
    optional = [k for k, each in Configuration.model_fields.items() if not each.is_required()]
    shown = {**{key: getattr(experiment, key) for key in optional}, **experiment.given()}
    return yaml.safe_dump(shown, sort_keys=False, default_flow_style=None, width=100)


def everything(experiment: Experiment) -> dict[str, Any]:
    """The configuration and all definitions, as they are written: what a run is planned with."""
    kinds = experiment.definitions._asdict().items()
    named = {kind: {name: d.given() for name, d in each.items()} for kind, each in kinds}
    return {**experiment.given(), "definitions": named}
