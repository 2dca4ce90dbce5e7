"""What each job of a run computes and writes: the one model that plan and requests share.

Jobs and bytes are counted as rules and stages have them; None is an unknown number. Nothing here
imports torch.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from ..config import settings
from ..config.available import figure_names, table_names
from ..config.experiment import control_of, mode_of, pairs_of, part_of
from ..config.geometries import Geometry, read_geometry
from ..config.recipes import models_of, recipe_of
from ..core.arithmetic import alpha_grid
from ..core.vectors import moved_names
from ..language.geometry import T5
from ..vision.geometry import ViT, parameters
from .disk import (
    EMBEDDED_SIDE,
    FLOAT,
    LINE,
    SOURCE,
    TARGET,
    add_up,
    class_count,
    data_bytes,
    example_counts,
    hub_sources,
    is_text,
    template_count,
    times,
)
from .operations import flops, t5_flops

STAGES = "download embedded data encoder head finetune vector pretrained single_task kernel".split()
STAGES += "addition posthoc negation disentanglement cosine efficiency".split()
STAGES += "metrics tables figures report".split()
# Stages that hold a GPU where there is one.
LEARNING = "head finetune pretrained single_task kernel addition posthoc negation".split()
LEARNING += ["disentanglement", "efficiency"]
GRIDS = ("addition", "posthoc", "negation")  # these walk the α on validation
WARM_UP = 3  # steps before `efficiency` starts the clock
REFERENCE_SAMPLES = 16 * 128  # images of a heatmap with reference_scaling

# Files and folders that a job adds, about: outputs and their hashes, log and record, the store's
# mark, and what Snakemake notes of each output.
FILES = {"download": 4, "embedded": 16, "data": 15, "encoder": 8, "head": 7, "finetune": 11}
FILES |= {"vector": 8, "efficiency": 7, "metrics": 6, "tables": 8, "figures": 6, "report": 6}
OTHER_FILES = 10  # of stages that write metrics

UNITS = {"vision": "image", "language": "text"}  # modality → what one example of it is
NOTHING = {"tasks": [], "encoders": [], "modes": [], "ablations": [], "focus": None}
Known = Callable[[str], dict]  # task → number of examples of each split, and of its `classes`


class Key(NamedTuple):
    """Something whose speed counts, in a precision: a training step of a mode (kind `step`), one
    image or text through f (`image`, `text`) or through f_lin (`linearized`), an image that is read
    and normalised for any number of passes through f (`read`), a text of a head (`prompt`); of a
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
        size: bytes that it writes; None: unknown, 0: less than a megabyte.
    """

    stage: str
    output: str
    encoder: str | None = None
    mode: str | None = None
    task: str | None = None
    seed: int | None = None
    pair: str | None = None
    work: tuple[Work, ...] = ()
    size: int | None = 0

    @property
    def files(self) -> int:
        """Files and folders that it adds, about."""
        return FILES.get(self.stage, OTHER_FILES)


def parts_of(config: dict) -> dict[str, dict]:
    """Every modality → its part of a run, which may hold nothing: config["parts"], and

    unit: image or text; read: its tasks and, of images, the control task; main: (encoder, mode) of
    its modes; models: these and those of its ablations, which is everything that is fine-tuned.
    """
    found = {}
    for modality, unit in UNITS.items():
        part = {**NOTHING, **config["parts"].get(modality, {})}
        control = [control_of(config)] if unit == "image" and control_of(config) else []
        own = {
            "unit": unit,
            "read": [*part["tasks"], *control],
            "main": models_of({**part, "ablations": []}),
            "models": models_of(part),
        }
        found[modality] = {**part, **own}
    return found


# --- Jobs ----------------------------------------------------------------------------------------


def jobs(config: dict, auto: str = "bf16") -> list[Job]:
    """Every job of a run, with what it computes and writes, in the order of STAGES.

    Args:
        auto: what `precision: auto` stands for, bf16 or float32.
    Raises:
        UserError: an encoder that is no plain CLIP ViT, or no plain T5.
    """
    encoders = config["definitions"]["encoders"]
    geometries = {name: read_geometry(name, definition) for name, definition in encoders.items()}
    counted: dict[str, dict] = {}

    def known(task: str) -> dict:
        if task not in counted:
            counted[task] = {**example_counts(config, task), "classes": class_count(config, task)}
        return counted[task]

    found = []
    for job in sorted(_listed(config), key=lambda job: STAGES.index(job.stage)):
        geometry = geometries.get(job.encoder or "")
        found.append(
            job._replace(
                work=work_of(config, known, job, auto), size=_size(config, known, job, geometry)
            )
        )
    return found


def by_stage(jobs: list[Job]) -> dict[str, list[Job]]:
    """Stage → its jobs, of all stages in their order."""
    return {stage: [job for job in jobs if job.stage == stage] for stage in STAGES}


def _listed(config: dict) -> Iterator[Job]:
    """The jobs as workflow/rules expand them."""
    run, shared, seeds = f"results/{config['run']}", "results/shared", config["seeds"]
    tasks, view = config["definitions"]["tasks"], settings.view(config)
    drawn: set[str] = set()

    def measured(stage: str, *place: str | int | None, **of: str | int | None) -> Job:
        return Job(stage, "/".join(map(str, [run, "metrics", stage, *place])) + ".csv", **of)

    yield from (Job("download", record) for record in hub_sources(config))
    for part in parts_of(config).values():
        of_images = part["unit"] == "image"
        for t in part["read"]:
            yield Job("data", f"{shared}/data/{t}/manifest.json", task=t)
            name = tasks[t].get("embedded")
            if name and name not in drawn:
                drawn.add(name)
                yield Job("embedded", f"{shared}/embedded/{name}.sha256", task=t)
        for e in part["encoders"]:
            folder = f"{shared}/encoders/{e}"
            yield Job("encoder", f"{folder}/encoder.json", e)
            for t in part["read"]:
                yield Job("head", f"{folder}/heads/{t}.safetensors", e, task=t)
                yield measured("pretrained", e, t, encoder=e, task=t)
        for e, m in part["models"]:
            for s in seeds:
                of = {"encoder": e, "mode": m, "seed": s}
                main, plain = (e, m) in part["main"], not settings.is_linearized(config, m)
                for t in part["tasks"]:
                    place = e, m, t, s
                    name = f"{e}/{m}/{t}/{s}"
                    yield Job("finetune", f"{run}/finetuned/{name}.sha256", e, m, t, s)
                    yield Job("vector", f"{run}/vectors/{name}.safetensors", e, m, t, s)
                    yield measured("single_task", *place, **of, task=t)
                    if of_images and main and plain:
                        yield measured("kernel", *place, **of, task=t)
                    if of_images and main and control_of(config):
                        yield measured("negation", *place, **of, task=t)
                yield measured("addition", e, m, s, **of)
                if main and len(part["tasks"]) > 1:
                    yield measured("cosine", e, m, s, **of)
                if of_images and main and m == "nonlinear":
                    job = measured("addition", e, "posthoc", s, **{**of, "mode": "posthoc"})
                    yield job._replace(stage="posthoc")
                if of_images and main and e == part["focus"]:
                    for pair in pairs_of(config):
                        yield measured("disentanglement", e, m, s, pair, **of, pair=pair)
        for e, m in part["main"]:
            yield measured("efficiency", e, m, encoder=e, mode=m)
    yield Job("metrics", f"{run}/metrics.csv")
    yield from (Job("tables", f"{run}/tables/{name}.csv") for name in table_names(view))
    yield from (Job("figures", f"{run}/figures/{name}.png") for name in figure_names(view))
    yield Job("report", f"{run}/report.html")


# --- What a job computes -------------------------------------------------------------------------


def work_of(config: dict, known: Known, job: Job, auto: str = "bf16") -> tuple[Work, ...]:
    """Steps, images, texts and prompts of one job.

    Args:
        job: of a stage of LEARNING (of another: nothing); without a task, of all tasks of its part.
        auto: as `jobs` has it.
    """
    stage, encoder, mode = job.stage, job.encoder, job.mode
    if stage not in LEARNING or encoder is None:
        return ()
    part = parts_of(config)[part_of(config, encoder)["modality"]]
    of_images, limit = part["unit"] == "image", config["limit"] or {}
    full = stage in ("head", "disentanglement")
    precision = "float32" if full else config["precision"].replace("auto", auto)

    def some(kind: str, amount: int | None, of: str | None = None, batch: int = 1) -> Work:
        return Work(Key(encoder, kind, of, precision, batch), amount)

    def count(split: str, names: list[str], most: int | None = None) -> int | None:
        mosts = [most for most in (limit.get(split), most) if most is not None]
        counts = [known(name)[split] for name in names]
        return add_up(n and min([n, *mosts]) for n in counts)

    if stage == "head" and not of_images:
        return ()  # tokens of texts are not counted
    if stage == "head":
        prompts = times(template_count(config, job.task), known(job.task)["classes"])
        return (some("prompt", prompts),)
    if stage in ("finetune", "efficiency"):
        recipe = recipe_of(part, encoder, mode, job.task or part["tasks"][0])
        timed = WARM_UP + config["efficiency"]["steps"]
        steps = recipe["steps"] if stage == "finetune" else timed
        return (some("step", steps, mode, recipe["batch_size"]),)
    linearized = stage == "kernel" or bool(mode) and settings.is_linearized(config, mode)
    if stage == "disentanglement":
        grid = config["disentanglement"]
        reference = grid.get("reference_scaling", False)
        samples = REFERENCE_SAMPLES if reference else grid["samples"]
        sample = count("test", pairs_of(config)[job.pair], samples)
        if linearized:  # a tangent of each of the two vectors
            return (some("linearized", times(2, sample), mode),)
        return some("image", times(models_evaluated(grid), sample)), some("read", sample)
    names = tasks_read(config, part, stage, job.task)
    walked, one = count("validation", names), count("test", names)
    if stage == "addition" and part.get("reference_selection", False):
        walked = add_up([walked, one])  # α is chosen on test, where the grid is walked too
    read = add_up([walked, one])
    if linearized:  # f_lin gives the whole grid in one pass
        return (some("linearized", read, "nonlinear" if mode == "posthoc" else mode),)
    alphas = len(alpha_grid(**config["alphas"])) if stage in GRIDS else 1
    passes = some(part["unit"], add_up([times(alphas, walked), one]))
    return (passes, some("read", read)) if of_images else (passes,)


def tasks_read(config: dict, part: dict, stage: str, task: str | None) -> list[str]:
    """The tasks whose examples a job reads: its own, or all; with the control task to negate, and
    the first one to time steps."""
    if stage in ("head", "efficiency"):
        return part["tasks"][: stage == "efficiency"]
    control = [control_of(config)] if stage == "negation" else []
    return [*([task] if task else part["tasks"]), *control]


def models_evaluated(grid: dict) -> int:
    """Models that each image of the disentanglement error goes through: a unified one for each cell
    but those whose other coefficient is 0, and an individual one for each value of its own."""
    coefficients = np.linspace(grid["low"], grid["high"], grid["points"]).round(12)
    return grid["points"] * (grid["points"] + 1 - int(0 in coefficients))


def flops_of(kind: str, geometry: Geometry, mode: dict | None) -> float:
    """Arithmetic for one example through an encoder, see operations.flops; of a text, t5_flops."""
    if isinstance(geometry, T5):
        return t5_flops(kind, geometry, mode, SOURCE, TARGET)
    return flops(kind, geometry, mode)


def operations(key: Key, config: dict, geometry: Geometry) -> float:
    """Arithmetic operations of one unit of a key: of a step, of its whole batch."""
    mode = mode_of(config, key.mode, key.encoder) if key.mode else None
    return key.batch * flops_of(key.kind, geometry, mode)


# --- What a job writes ---------------------------------------------------------------------------


def _size(config: dict, known: Known, job: Job, geometry: Geometry | None) -> int | None:
    """Bytes of a job's outputs; None: unknown, 0: less than a megabyte."""
    if job.stage in ("finetune", "vector"):
        shapes = geometry.shapes()
        names = moved_names(shapes, mode_of(config, job.mode, job.encoder)["train"], job.mode)
        return FLOAT * parameters(shapes[name] for name in names)
    if job.stage == "encoder":
        return encoder_bytes(geometry)
    if job.stage not in ("embedded", "data", "head"):
        return 0
    counts = {split: n for split, n in known(job.task).items() if split != "classes"}
    definition = config["definitions"]["tasks"][job.task]
    if job.stage == "embedded":
        row = LINE if is_text(definition) else 3 * EMBEDDED_SIDE**2
        return times(row, add_up(counts.values()))
    if job.stage == "data":
        return data_bytes(definition, counts)
    if isinstance(geometry, T5):  # tokens (int32) and, of each text, where they end and its answer
        return times(4 * SOURCE + 8 + 4, add_up(counts.values()))
    return times(FLOAT * geometry.embed_dim, known(job.task)["classes"])


def encoder_bytes(geometry: Geometry) -> int:
    """Bytes of an encoder's tensors, a CLIP's text tower included."""
    text = isinstance(geometry, ViT) and geometry.text
    towers = [geometry, *([text] if text else [])]
    return FLOAT * sum(parameters(tower.shapes().values()) for tower in towers)
