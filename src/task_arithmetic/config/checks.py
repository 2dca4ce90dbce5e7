"""What a configuration and its definitions must be, beyond the form of each value: names that are
there, splits that differ, patterns that match. Each mistake is a UserError of one sentence."""

import os
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError

from ..errors import UserError, nearest
from .available import PLANE, RESERVED_PAIRS
from .definitions import (
    AnyEncoder,
    AnyTask,
    Checkpoints,
    Encoder,
    Mode,
    Task,
    TextTask,
    checkpoint_of,
)
from .experiment import BY, Experiment, ImageRecipe, Language, Part, Recipe
from .mergers import check_tasks
from .recipes import recipes_of

WHERE = {"vision": "", "language": "language."}  # modality → what stands before its keys
KINDS = {"vision": "images", "language": "texts"}
RESERVED_MODES = {"pretrained", "posthoc"}  # rows of the results that nobody fine-tunes
ENCODER_FILES = {  # modality → files of a local checkpoint
    "vision": ["open_clip_config.json", "open_clip_model.safetensors"],
    "language": ["config.json", "tokenizer.json"],
}

# --- One definition ------------------------------------------------------------------------------


def check_modality(
    content: dict[str, object], kind: str, key: str, modality: str, where: str
) -> None:
    """A definition is of the modality that the configuration names it for, under `key`."""
    own = "language" if "prompts" in content else "vision"
    if modality != own:
        raise UserError(
            f"{where} is a definition for {KINDS[own]}, but {key} is of {KINDS[modality]}: name it "
            f"in {WHERE[own]}{kind}."
        )


def check_mode(name: str, mode: Mode, key: str, modality: str, where: str) -> None:
    """A mode has a name of its own, and patterns for the modality that it is named for."""
    if name in RESERVED_MODES:
        raise UserError(f"A mode cannot be called {name!r}, as a row of the tables is: rename it.")
    if not mode.patterns(modality):
        raise UserError(
            f"{where} has no patterns for {modality}, where {key} names it: add {modality} to its "
            "`train`."
        )


def check_definition(definition: AnyTask | AnyEncoder, where: str) -> None:
    """Examples or weights come from one place, which is there; splits are different ones; and what
    asks for a class fits: templates or prompts."""
    if isinstance(definition, TextTask):
        from ..language.prepare import check_text_task

        check_text_task(definition.given(), where)
    for mistake in _mistakes(definition):
        raise UserError(f"{where}: {mistake}.")


def _mistakes(definition: AnyTask | AnyEncoder) -> Iterator[str]:
    path = definition.path
    if isinstance(definition, Task | TextTask):
        yield from _in_source(definition)
        if isinstance(definition, Task):
            yield from _in_images(definition)
        if path is not None and not os.path.exists(path):
            yield f"path names {path}, where nothing is; correct it"
        return
    hub = ["model", "pretrained"] if isinstance(definition, Encoder) else ["hub", "architecture"]
    named = [key for key in (*hub, "path") if getattr(definition, key) is not None]
    if named not in (hub, ["path"]):
        have = ", ".join(sorted(named)) or "neither"
        yield f"give either path, or both {' and '.join(hub)}; found {have}"
    if path is not None and "{" in path:
        yield (
            f"{path} (its path) has a brace, which Snakemake takes for a placeholder in what jobs "
            "read; give another, such as a link to the folder"
        )
    if path is not None and not os.path.isdir(path):
        yield f"path names {path}, which is not a folder; correct it"
    for file in ENCODER_FILES[definition.modality] if path is not None else []:
        if not os.path.isfile(os.path.join(path or "", file)):
            yield f"{path} (its path) holds no {file}; put it there"


def check_published(published: Checkpoints, where: str) -> None:
    """Each checkpoint comes from one place, which is there and has weights. Raises UserError."""
    from ..files.checkpoint import checkpoint_files

    for mode, of_tasks in published.items():
        for task, given in (of_tasks or {}).items():
            if given is None:
                continue
            checkpoint, key = checkpoint_of(given), f"{where}.{mode}.{task}"
            if isinstance(given, str) and os.path.exists(given):
                raise UserError(
                    f"{key} is {given!r}, which is a hub's name and lies here as well: write "
                    f"{{path: {given}}} or {{hub: {given}}}."
                )
            if (checkpoint.hub is None) == (checkpoint.path is None):
                raise UserError(f"{key} must have exactly one of hub and path.")
            if checkpoint.revision is not None and checkpoint.hub is None:
                raise UserError(f"{key} has a revision, which belongs to a hub: remove it.")
            if checkpoint.path is not None:
                if "{" in checkpoint.path:
                    raise UserError(f"{key} names a path with a brace: give a link to it instead.")
                try:
                    checkpoint_files(checkpoint.path)
                except UserError as error:
                    raise UserError(f"{key}: {error}") from None


def _in_source(task: AnyTask) -> Iterator[str]:
    sources = [key for key in ("hub", "path", "embedded") if getattr(task, key) is not None]
    if len(sources) != 1:
        named = " and ".join(sources) or "none of them"
        yield f"give exactly one of hub, path and embedded; found {named}"
    drawn = isinstance(task.test, float)
    whole = ["split"] * (task.split is not None) + ["test"] * drawn  # of data in one piece
    if task.path is None and whole:
        yield f"{whole[0]} as it stands there is for a local `path`; mend it"
    if len(whole) > 1:
        yield "either split names the rows of test, or test a share; remove one"
    if task.train is None and drawn:
        yield "without train there is nothing to draw test from; name a split"
    names = [task.train, task.test]
    names += [task.validation] if isinstance(task.validation, str) else []
    if len(set(names)) < len(names):
        found = ", ".join(map(str, names))
        yield f"train, validation and test must be different splits; found {found}"
    for key in ("config", "revision"):
        if task.hub is None and getattr(task, key) is not None:
            yield f"{key} belongs to a hub's dataset; remove it"


def _in_images(task: Task) -> Iterator[str]:
    from ..files.labels import alike  # which imports numpy

    for template in task.templates if isinstance(task.templates, list) else []:
        if template.count("{}") != 1:
            yield (
                f"each template must have exactly one {{}}, for the class name; found {template!r}"
            )
    listed = task.classes if isinstance(task.classes, list) else []
    if task.alike_classes != "allow" and (same := alike(listed)):
        yield (
            f"the classes {same[0]!r} and {same[1]!r} are the same to a model that reads their "
            "names; rename one"
        )
    low, high = task.levels or (0, 1)
    if not low < high:
        yield f"levels must be [lowest, highest]; found [{low}, {high}]"


# --- The configuration and what it names ---------------------------------------------------------


def check_experiment(experiment: Experiment) -> None:
    """What names must be to each other, and definitions to each other."""
    for mistake in _in_experiment(experiment):
        raise UserError(f"{mistake}.")
    for encoder, published in experiment.published.items():
        check_published(published or {}, f"published.{encoder}")
    for part in experiment.parts.values():
        _check_shapes(experiment, part)
        rows = recipes_of(part, experiment.trained(part))
        for row in rows:
            of = f", as for {row}" if len(rows) > 1 else ""
            check_recipe(row.recipe, f"{WHERE[part.modality]}finetune.", of)


def _in_experiment(experiment: Experiment) -> Iterator[str]:
    yield from _in_names(experiment)
    yield from _in_subsets(experiment.part("vision"))
    yield from _in_special(experiment, WHERE["vision"])
    if experiment.language:
        yield from _in_special(experiment.language, WHERE["language"])
    yield from _in_columns(experiment)
    yield from _in_published(experiment)


def _in_published(experiment: Experiment) -> Iterator[str]:
    """Published weights are of an encoder, a mode and a task of the run, which has one seed."""
    known = [each for part in experiment.parts.values() for each in part.encoders]
    for encoder, of_modes in experiment.published.items():
        key = f"published.{encoder}"
        if encoder not in known:
            near = nearest(encoder, known)
            yield f"published has {encoder!r}, which is not among encoders{near}; correct it"
            continue
        part = experiment.part_of(encoder)
        modes = [mode for model, mode in part.models if model == encoder]
        for mode, of_tasks in (of_modes or {}).items():
            if mode not in modes:
                near = nearest(mode, modes)
                yield f"{key} has {mode!r}, which is no mode of {encoder} here{near}; correct it"
            for task in [task for task in of_tasks or {} if task not in part.tasks]:
                near = nearest(task, part.tasks)
                yield f"{key}.{mode} has {task!r}, which is not among tasks{near}; correct it"
    for (encoder, mode, task), _ in [*experiment.checkpoints.items()][:1]:
        if len(experiment.seeds) > 1:
            yield (
                f"seeds has several, but {encoder}, {mode}, {task} is published weights, which "
                f"have none: give one seed, or set published.{encoder} to null to fine-tune it"
            )


def _in_subsets(part: Part) -> Iterator[str]:
    """Subsets of the tasks have two of them at least, and are merged without more than vectors."""
    if part.subsets is None:
        return
    key, count = "analyses.number_of_tasks", len(part.tasks)
    for size in part.subsets.sizes:
        if not 2 <= size <= count:
            yield (
                f"{key}.sizes has {size}, where 2 to {count} of the {count} tasks can be merged; "
                "remove it, or write all or doubled"
            )
    for merger in part.subsets.mergers:
        if merger.needs != "vectors":
            yield (
                f"{key}.methods has {merger.label!r}, which needs {merger.needs} examples of the "
                "tasks; name methods that need task vectors alone, as sum and tsv do"
            )
    check_tasks(part.subsets.mergers, min(part.subsets.sizes), f"{key}.methods")


def check_weights(experiment: Experiment) -> None:
    """open_clip knows the weights of every encoder of a hub, and they fit its activation."""
    from ..vision.geometry import weights_repository

    for name, encoder in experiment.definitions.encoders.items():
        if isinstance(encoder, Encoder) and encoder.pretrained:
            weights_repository(name, encoder.given())


def check_recipe(recipe: Recipe, where: str, of: str = "") -> None:
    """One recipe, as it is used; `where` stands before its keys, and `of` says whom it is for.
    Raises UserError: a warm-up longer than the training, a scale of crops the wrong way round."""
    if recipe.warmup_steps > recipe.steps:
        raise UserError(
            f"{where}warmup_steps ({recipe.warmup_steps}) must be at most {where}steps "
            f"({recipe.steps}){of}."
        )
    small, large = recipe.crop_scale if isinstance(recipe, ImageRecipe) else (0, 1)
    if small > large:
        raise UserError(
            f"{where}crop_scale must be [smallest, largest]; found [{small}, {large}]{of}."
        )


def _in_special(section: Experiment | Language, where: str) -> Iterator[str]:
    """Recipes are special to encoders, modes and tasks that are there."""
    for key, names in BY.items():
        ablations = section.ablations if isinstance(section, Experiment) else []
        known = [*getattr(section, names), *(ablations if names == "modes" else [])]
        for name in map(str, getattr(section.finetune, key)):
            if name not in known:
                yield (
                    f"{where}finetune.{key} has {name!r}, which is not among {where}{names}"
                    f"{nearest(name, known)}; correct or remove it"
                )


def _check_shapes(experiment: Experiment, part: Part) -> None:
    """Every pattern of every mode matches a tensor of every encoder, every encoder reads images as
    they are stored, and every task has the prompts that every encoder asks for; as far as it can be
    seen before an encoder is taken."""
    from ..core.vectors import moved_names
    from ..vision.geometry import ViT
    from ..vision.images import RESOLUTION
    from .geometries import read_geometry

    for name in part.encoders:
        encoder = experiment.definitions.encoders[name]
        try:
            geometry = read_geometry(name, encoder)
        except PackageNotFoundError:  # no open_clip here, to know its models
            continue
        if isinstance(geometry, ViT) and geometry.image_size > RESOLUTION:
            raise UserError(
                f"Encoder {name} reads images of {geometry.image_size} pixels, but they are "
                f"stored at {RESOLUTION}: choose a model of at most that."
            )
        for mode in [*part.modes, *part.ablations]:
            moved_names(geometry.shapes(), experiment.patterns(mode, name), mode)
        for task in part.tasks:
            definition, asked = experiment.definitions.tasks[task], encoder.prompts
            if isinstance(definition, TextTask) and asked and asked not in definition.prompts:
                known = list(definition.prompts)
                raise UserError(
                    f"Task {task} has no prompt set {asked!r}, which encoder {name} asks for"
                    f"{nearest(asked, known)}; it has {', '.join(known)}: add it to `prompts` in "
                    f"config/tasks/{task}.yaml, or name another in config/encoders/{name}.yaml."
                )


def _in_columns(experiment: Experiment) -> Iterator[str]:
    """Table 3 has one column for each task of texts."""
    tasks = experiment.definitions.tasks.items()
    columns = {n: task.paper_task or n for n, task in tasks if isinstance(task, TextTask)}
    for task, column in columns.items():
        if column in ("mode", "average") or column[:6] == "paper_" or column[-4:] == "_std":
            yield (
                f"Task {task} cannot stand in Table 3, where the column {column} is another: "
                "rename it"
            )
        if list(columns.values()).count(column) > 1:
            yield (
                f"Task {task} and another one stand in the column {column} of Table 3, as their "
                "paper_task says; remove paper_task from the definition of one of them"
            )


def _in_names(experiment: Experiment) -> Iterator[str]:
    """What the names of tasks, encoders and modes must be to each other."""
    parts = experiment.parts
    if not parts:
        yield "The configuration names no encoder: add one to encoders"
    for modality, part in parts.items():
        where = WHERE[modality]
        if not part.tasks:
            yield f"{where}tasks in the configuration must have at least 1 entry; found none"
        if part.focus not in part.encoders:
            near = nearest(part.focus or "", part.encoders)
            yield (
                f"{where}focus is {part.focus!r}, which is not among {where}encoders{near}; name "
                "one of them"
            )
    if "vision" not in parts and experiment.tasks:
        yield (
            "The configuration names tasks but no encoder for them: add one to encoders, or make "
            "tasks empty too"
        )
    images, texts = experiment.part("vision"), experiment.part("language")
    yield from _in_pairs(experiment, images)
    for kind, others, names in (
        ("tasks", images.read, texts.tasks),
        ("encoders", images.encoders, texts.encoders),
    ):
        for name in [name for name in names if name in others]:
            yield (
                f"language.{kind} has {name!r}, which is also among {kind} of images; remove it "
                "from one of them"
            )


def _in_pairs(experiment: Experiment, part: Part) -> Iterator[str]:
    """Control task, ablations and heatmaps of the part on images."""
    tasks, pairs = part.tasks, part.pairs
    if part.control in tasks:
        yield (
            f"negation.control is {part.control!r}, which is among tasks; choose another task, "
            "whose accuracy is to be kept, or null"
        )
    if part.control and experiment.alphas.start > 0:
        yield (
            f"alphas.start is {experiment.alphas.start}, but negation needs 0, where the control "
            "task surely keeps its accuracy: start there, or set negation to null"
        )
    for mode in [mode for mode in part.ablations if mode in part.modes]:
        yield f"{mode!r} is in modes and in ablations; remove it from one of them"
    for place, (name, pair) in enumerate(pairs.items()):
        key = f"disentanglement.pairs.{name}"
        if name in RESERVED_PAIRS or name.endswith("_language") or name.startswith(PLANE):
            yield f"{key} has the name of another figure or table; call the pair otherwise"
        for task in pair:
            if task not in tasks:
                yield (
                    f"{key} has {task!r}, which is not among tasks{nearest(task, tasks)}; name two "
                    f"of them, or set {name} to null for no such heatmap"
                )
        if pair[0] == pair[1]:
            yield f"{key} must be two different tasks; found {pair[0]!r} twice"
        if pair in list(pairs.values())[:place]:
            yield f"{key} repeats an earlier pair, {pair[0]} and {pair[1]}; change one"
    grid = experiment.disentanglement if part.encoders else None
    if grid and grid.low >= grid.high:
        yield f"disentanglement.low ({grid.low}) must be below disentanglement.high ({grid.high})"
