"""What each job of a run computes and writes: the one model that plan and requests share.

Jobs and bytes are counted as rules and stages have them; None is an unknown number. Nothing here
imports torch.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

import numpy as np

from ..config import settings
from ..config.available import figure_names, table_names
from ..config.experiment import Disentanglement, Experiment, Part
from ..config.geometries import Geometry, geometries_of
from ..config.view import SUM
from ..core.alpha import alpha_values
from ..core.vectors import moved_names
from ..merging.matrices import PROJECTION, is_matrix
from ..vision.geometry import ViT, parameters
from .disk import (
    EMBEDDED_SIDE,
    FLOAT,
    LINE,
    Counts,
    add_up,
    counts_of,
    data_bytes,
    template_count,
    times,
)
from .operations import SOURCE, Moved, flops

STAGES = "download embedded data encoder head finetune vector published pretrained".split()
STAGES += "single_task kernel".split()
STAGES += "statistics merge merge_on_data addition merged posthoc negation".split()
STAGES += "disentanglement interference pairs linearity number_of_tasks retention".split()
STAGES += "cosine layers spectra alignment efficiency metrics intervals".split()
STAGES += "tables figures report".split()
# Stages that hold a GPU where there is one.
LEARNING = "head finetune pretrained single_task kernel addition posthoc negation".split()
LEARNING += "statistics merge merge_on_data merged disentanglement efficiency".split()
SAMPLED = "interference pairs linearity".split()  # analyses of some test images
LEARNING += ["spectra", "alignment", *SAMPLED, "number_of_tasks", "retention"]
OF_MATRICES = "merge spectra alignment".split()  # no examples: linear algebra of weight matrices
OF_MODES = "finetune vector published merge merge_on_data statistics".split()  # write its tensors
GRIDS = ("addition", "posthoc", "negation")  # these walk the α on validation
WARM_UP = 3  # steps before `efficiency` starts the clock
REFERENCE_SAMPLES = 16 * 128  # images of a heatmap with reference_scaling

# Files and folders that a job adds, about: outputs and their hashes, log and record, the store's
# mark, and what Snakemake notes of each output.
FILES = {"download": 4, "embedded": 16, "data": 15, "encoder": 8, "head": 7, "finetune": 11}
FILES |= {"vector": 8, "published": 8, "efficiency": 7, "metrics": 6, "tables": 8, "figures": 10}
FILES |= {"report": 6, "intervals": 8}
OTHER_FILES = 10  # of stages that write metrics

Shapes = dict[str, tuple[int, ...]]
Known = Callable[[str], Counts]  # a task's


class Key(NamedTuple):
    """Something whose speed counts, in a precision: a training step of a mode (kind `step`), one
    image or text through f (`image`, `text`) or through f_lin (`linearized`), an image that is read
    and normalised for any number of passes through f (`read`), a text of a head (`prompt`), an
    image through f and f_lin at each part of a mode's τ (`linearity`, always in float64); of a
    step, `batch` examples."""

    encoder: str
    kind: str
    mode: str | None
    precision: str
    batch: int = 1


class Work(NamedTuple):
    """How much of a key a job computes; None: unknown."""

    key: Key
    amount: int | None


class Job(NamedTuple):
    """A job of a run.

    Attributes:
        output: one of its outputs, as its rule names it.
        size: bytes that it writes; None: unknown, 0: less than a megabyte, or the report.
    """

    stage: str
    output: str
    encoder: str | None = None
    mode: str | None = None
    task: str | None = None
    seed: int | None = None
    pair: str | None = None
    method: str | None = None
    work: tuple[Work, ...] = ()
    size: int | None = 0

    @property
    def files(self) -> int:
        """Files and folders that it adds, about."""
        return FILES.get(self.stage, OTHER_FILES)


# --- Jobs ----------------------------------------------------------------------------------------


def jobs(experiment: Experiment, auto: str = "bf16") -> list[Job]:
    """Every job of a run, with what it computes and writes, in the order of STAGES.

    Args:
        auto: what `precision: auto` stands for, bf16 or float32.
    Raises:
        UserError: an encoder that is no plain CLIP ViT, or no plain T5.
    """
    geometries = geometries_of(experiment)

    @cache
    def known(task: str) -> Counts:
        return counts_of(task, experiment.definitions.tasks[task])

    return [
        job._replace(
            work=work_of(experiment, known, job, auto),
            size=_size(experiment, known, job, geometries.get(job.encoder or "")),
        )
        for job in sorted(_listed(experiment), key=lambda job: STAGES.index(job.stage))
    ]


def by_stage(jobs: list[Job]) -> dict[str, list[Job]]:
    """Stage → its jobs, of all stages in their order."""
    return {stage: [job for job in jobs if job.stage == stage] for stage in STAGES}


def _listed(experiment: Experiment) -> Iterator[Job]:
    """The jobs as workflow/rules expand them."""
    run, shared = f"results/{experiment.run}", "results/shared"
    metrics, tasks = f"{run}/metrics", experiment.definitions.tasks
    view = settings.view(experiment)
    drawn: set[str] = set()
    yield from (Job("download", record) for record in settings.hub_sources(experiment))
    for part in experiment.parts.values():
        of_images = part.unit == "image"
        for t in part.read:
            yield Job("data", f"{shared}/data/{t}/manifest.json", task=t)
            name = tasks[t].embedded
            if name and name not in drawn:
                drawn.add(name)
                yield Job("embedded", f"{shared}/embedded/{name}.sha256", task=t)
        for e in part.encoders:
            folder = f"{shared}/encoders/{e}"
            yield Job("encoder", f"{folder}/encoder.json", e)
            for t in part.read:
                yield Job("head", f"{folder}/heads/{t}.safetensors", e, task=t)
                yield Job("pretrained", f"{metrics}/pretrained/{e}/{t}.csv", e, task=t)
        for (e, m), s in ((model, seed) for model in part.models for seed in experiment.seeds):
            main = (e, m) in part.main
            for t in part.tasks:
                name = f"{e}/{m}/{t}/{s}"
                published = (e, m, t) in experiment.checkpoints
                if not published:
                    yield Job("finetune", f"{run}/finetuned/{name}.sha256", e, m, t, s)
                stage = "published" if published else "vector"
                yield Job(stage, f"{run}/vectors/{name}.safetensors", e, m, t, s)
                yield Job("single_task", f"{metrics}/single_task/{name}.csv", e, m, t, s)
                if of_images and main and not experiment.linearized(m):
                    yield Job("kernel", f"{metrics}/kernel/{name}.csv", e, m, t, s)
                if main and part.control:
                    yield Job("negation", f"{metrics}/negation/{name}.csv", e, m, t, s)
            yield Job("addition", f"{metrics}/addition/{e}/{m}/{s}.csv", e, m, seed=s)
            for merger in part.mergers if main and e in part.merged else ():
                label, folder = merger.label, f"{e}/{m}/{merger.label}"
                output = f"{run}/merged/{folder}/{s}.sha256"
                stage = "merge_on_data" if merger.learns else "merge"
                yield Job(stage, output, e, m, seed=s, method=label)
                output = f"{metrics}/addition/{folder}/{s}.csv"
                yield Job("merged", output, e, m, seed=s, method=label)
            if main and part.collected(e):
                for t in part.tasks:
                    output = f"{run}/statistics/{e}/{m}/{t}/{s}.sha256"
                    yield Job("statistics", output, e, m, t, s)
            if main and len(part.tasks) > 1:
                yield Job("cosine", f"{metrics}/cosine/{e}/{m}/{s}.csv", e, m, seed=s)
            for name in ("layers", "spectra", "alignment"):
                if main and e == part.focus and name in part.analyses:
                    yield Job(name, f"{metrics}/{name}/{e}/{m}/{s}.csv", e, m, seed=s)
            if of_images and main and m == "nonlinear":
                output = f"{metrics}/addition/{e}/posthoc/{s}.csv"
                yield Job("posthoc", output, e, "posthoc", seed=s)
            shown = part.analyses if main and e == part.focus else ()
            if "number_of_tasks" in shown and part.subsets:
                for label in (merger.label for merger in part.subsets.mergers):
                    output = f"{metrics}/number_of_tasks/{e}/{m}/{label}/{s}.csv"
                    yield Job("number_of_tasks", output, e, m, seed=s, method=label)
            if "retention" in shown:
                merged = [merger.label for merger in part.mergers if e in part.merged]
                for label in (SUM, *merged):
                    output = f"{metrics}/retention/{e}/{m}/{label}/{s}.csv"
                    yield Job("retention", output, e, m, seed=s, method=label)
            for p in part.pairs if main and e == part.focus else ():
                output = f"{metrics}/disentanglement/{e}/{m}/{s}/{p}.csv"
                yield Job("disentanglement", output, e, m, seed=s, pair=p)
            for name in SAMPLED if main and e == part.focus else ():
                if name in part.analyses:
                    yield Job(name, f"{metrics}/{name}/{e}/{m}/{s}.csv", e, m, seed=s)
        for e, m in part.main:
            yield Job("efficiency", f"{metrics}/efficiency/{e}/{m}.csv", e, m)
    yield Job("metrics", f"{run}/metrics.csv")
    yield Job("intervals", f"{run}/intervals.csv")
    yield from (Job("tables", f"{run}/tables/{name}.csv") for name in table_names(view))
    yield from (Job("figures", f"{run}/figures/{name}.png") for name in figure_names(view))
    yield Job("report", f"{run}/report.html")


# --- What a job computes -------------------------------------------------------------------------


def work_of(experiment: Experiment, known: Known, job: Job, auto: str = "bf16") -> tuple[Work, ...]:
    """Steps, images, texts and prompts of one job.

    Args:
        job: of a stage of LEARNING (of another: nothing); without a task, of all tasks of its part.
        auto: as `jobs` has it.
    """
    stage, encoder, mode = job.stage, job.encoder, job.mode
    if stage not in LEARNING or encoder is None:
        return ()
    part, grid = experiment.part_of(encoder), experiment.disentanglement
    of_images = part.unit == "image"
    full = stage in ("head", "disentanglement", "pairs")
    precision = "float32" if full else experiment.precision.replace("auto", auto)

    def some(kind: str, amount: int | None, of: str | None = None, batch: int = 1) -> Work:
        return Work(Key(encoder, kind, of, precision, batch), amount)

    def count(split: str, names: list[str], most: int | None = None) -> int | None:
        mosts = [most] if most is not None else []
        mosts += [getattr(experiment.limit, split)] if experiment.limit else []
        counts = [known(name).splits[split] for name in names]
        return add_up(n and min([n, *mosts]) for n in counts)

    if stage == "head":  # tokens of texts are not counted
        task = job.task or ""
        prompts = times(template_count(experiment.definitions.tasks[task]), known(task).classes)
        return (some("prompt", prompts),) if of_images else ()
    if stage in ("finetune", "efficiency"):
        recipe = part.recipe(encoder, mode or "", job.task or part.tasks[0])
        timed = WARM_UP + experiment.efficiency.steps
        steps = recipe.steps if stage == "finetune" else timed
        return (some("step", steps, mode, recipe.batch_size),)
    linearized = stage == "kernel" or bool(mode) and experiment.linearized(mode or "")
    if stage == "disentanglement" and grid:
        samples = REFERENCE_SAMPLES if grid.reference_scaling else grid.samples
        sample = count("test", part.pairs[job.pair or ""], samples)
        if linearized:  # a tangent of each of the two vectors
            return (some("linearized", times(2, sample), mode),)
        return some("image", times(models_evaluated(grid), sample)), some("read", sample)
    names = tasks_read(part, stage, job.task)
    if stage in SAMPLED:
        sample = count("test", names, getattr(experiment.analyses, stage).samples)
        if stage == "linearity":
            return (Work(Key(encoder, "linearity", mode, "float64"), sample),)
        read = times(len(names), sample)
        if linearized:
            return (some("linearized", read, mode),)
        # in `interference` also the pretrained model
        passed = add_up([read, sample]) if stage == "interference" else read
        return some("image", passed), some("read", read)
    if stage == "number_of_tasks" and part.subsets:
        own, subsets = part.subsets.merger(job.method or ""), part.subsets.of(names)
        walked = add_up(count("validation", [*subset]) for subset in subsets)
        tested = add_up(count("test", [*subset]) for subset in subsets)
        if linearized:  # and the offset of what is scaled by depth
            passed = add_up([times(1 + own.layer_scaled, walked), tested])
            return (some("linearized", passed, mode),)
        models = add_up([times(len(own.grid), walked), tested])
        return some(part.unit, models), some("read", add_up([walked, tested]))
    if stage == "retention":
        tested = count("test", names)
        if linearized:
            return (some("linearized", tested, mode),)
        return some(part.unit, tested), some("read", tested)
    merger = part.merger(job.method) if job.method else None
    if stage == "statistics":
        images = count("train", names, part.collected(encoder))
        return (some(part.unit, images),)
    if stage in OF_MATRICES:
        return ()
    if stage == "merge_on_data" and merger:
        steps, batch, evaluations, tangents = merger.method.cost(merger.options, len(names))
        if linearized and of_images and tangents is not None:
            evaluations = tangents
        images = times(evaluations, count("validation", names))
        passes = some("linearized", images, mode) if linearized else some(part.unit, images)
        trained = [some("step", steps, mode, batch * len(names))] if steps else []
        return (*trained, *([passes] if evaluations else []))
    walked, one = count("validation", names), count("test", names)
    if stage == "addition" and part.reference_selection:
        walked = add_up([walked, one])  # α is chosen on test, where the grid is walked too
    read = add_up([walked, one])
    if linearized:  # f_lin gives the whole grid in one pass, and another one of an offset
        if merger and merger.layer_scaled:
            read = add_up([times(2, walked), one])
        return (some("linearized", read, "nonlinear" if mode == "posthoc" else mode),)
    alphas = len(alpha_values(**experiment.alphas.given())) if stage in GRIDS else 1
    alphas = len(merger.grid) if merger else alphas
    passes = some(part.unit, add_up([times(alphas, walked), one]))
    return (passes, some("read", read)) if of_images else (passes,)


def tasks_read(part: Part, stage: str, task: str | None) -> list[str]:
    """The tasks whose examples a job reads: its own, or all; with the control task to negate, and
    the first one to time steps."""
    if stage in ("head", "efficiency"):
        return part.tasks[: stage == "efficiency"]
    if stage == "retention":
        return [*filter(None, [part.control])]
    control = [part.control] if stage == "negation" and part.control else []
    return [*([task] if task else part.tasks), *control]


def models_evaluated(grid: Disentanglement) -> int:
    """Models that each image of the disentanglement error goes through: a unified one for each cell
    but those whose other coefficient is 0, and an individual one for each value of its own."""
    coefficients = np.linspace(grid.low, grid.high, grid.points).round(12)
    return grid.points * (grid.points + 1 - int(0 in coefficients))


def operations(key: Key, experiment: Experiment, geometry: Geometry) -> float:
    """Arithmetic operations of one unit of a key: of a step, of its whole batch."""
    moved = None
    if key.mode:
        patterns = experiment.patterns(key.mode, key.encoder)
        moved = Moved(patterns, experiment.linearized(key.mode))
    return key.batch * flops(key.kind, geometry, moved)


# --- What a job writes ---------------------------------------------------------------------------


def _size(experiment: Experiment, known: Known, job: Job, geometry: Geometry | None) -> int | None:
    """Bytes of a job's outputs; None: unknown, 0: less than a megabyte."""
    if job.stage in OF_MODES and geometry:
        moved = moved_shapes(experiment, job.encoder or "", job.mode or "", geometry)
        if job.stage == "statistics":
            return FLOAT * sum(columns**2 for _, columns in matrices_of(moved).values())
        merger = experiment.part_of(job.encoder or "").merger(job.method) if job.method else None
        return FLOAT * parameters(moved.values()) * (1 + bool(merger and merger.layer_scaled))
    if job.stage == "encoder" and geometry:
        return encoder_bytes(geometry)
    if job.stage not in ("embedded", "data", "head") or job.task is None:
        return 0
    counts, task = known(job.task), experiment.definitions.tasks[job.task]
    if job.stage == "embedded":
        return times(LINE if task.modality == "language" else 3 * EMBEDDED_SIDE**2, counts.rows)
    if job.stage == "data":
        return data_bytes(task, counts.splits)
    if isinstance(geometry, ViT):
        return times(FLOAT * geometry.embed_dim, counts.classes)
    return times(4 * SOURCE + 8 + 4, counts.rows)  # tokens; of each text its end and its answer


def moved_shapes(experiment: Experiment, encoder: str, mode: str, geometry: Geometry) -> Shapes:
    """The tensors that a mode moves: what a task vector holds."""
    shapes = geometry.shapes()
    names = moved_names(shapes, experiment.patterns(mode, encoder), mode)
    return {name: shapes[name] for name in names}


def matrices_of(shapes: Shapes) -> dict[str, tuple[int, int]]:
    """Weight matrices among tensors, (out, in)."""
    found = {}
    for name, shape in shapes.items():
        if is_matrix(name, len(shape)):
            rows, columns = shape[::-1] if name == PROJECTION else shape
            found[name] = rows, columns
    return found


def encoder_bytes(geometry: Geometry) -> int:
    """Bytes of an encoder's tensors, a CLIP's text tower included."""
    text = geometry.text if isinstance(geometry, ViT) else None
    towers = [geometry, *([text] if text else [])]
    return FLOAT * sum(parameters(tower.shapes().values()) for tower in towers)
