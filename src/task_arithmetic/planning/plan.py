"""What a run takes, before anything runs: jobs, disk, downloads and hours of each stage.

Jobs and bytes are counted; hours are what the stages compute, times the speed of the device.
Nothing is downloaded or written.
"""

import json
import os
import shutil
import textwrap
from collections import Counter
from typing import NamedTuple

from ..config import settings
from ..config.available import figure_names, table_names
from ..config.experiment import control_of, pairs_of
from ..config.geometries import read_geometry, shapes_of
from ..config.reading import ROOT, read_config
from ..core.arithmetic import alpha_grid
from ..core.precision import uses_bf16
from ..files.paths import human_bytes, three_digits
from ..stages.disentanglement import REFERENCE_BATCH, REFERENCE_BATCHES
from ..stages.efficiency import WARM_UP
from ..vision.geometry import parameters
from ..vision.images import RESOLUTION, TRAIN_SIDE
from .disk import (
    ASPECT,
    FILES,
    FLOAT,
    OTHER_FILES,
    SAMPLE,
    SOURCE,
    TARGET,
    add_up,
    bytes_at,
    class_count,
    disk_bytes,
    downloads,
    example_counts,
    free_files,
    how_sized,
    hub_sources,
    parts_of,
    template_count,
    times,
)
from .probe import Key, device_at_hand, named_device, operations, probed, rated, starting_seconds
from .requests import models_evaluated

START_SECONDS = 5.0  # from a job's start to its first batch, on a named device
# Stages whose jobs hold a GPU where there is one.
GPU_STAGES = ["head", "finetune", "pretrained", "single_task", "kernel", "addition", "posthoc"]
GPU_STAGES += ["negation", "disentanglement", "efficiency"]


def plan(*paths, device: str | None = None, basedir=ROOT) -> None:
    """Print what a run of a configuration takes, stage by stage.

    Args:
        paths: configuration files, each over the one before and the first over config.yaml.
        device: a name of devices.csv, "cpu" for this machine's, or None: this machine's GPU if it
            has one, else its CPU.
        basedir: the folder that holds config/ and workflow/.
    Raises:
        UserError: a wrong configuration, an unknown device, an unknown encoder.
    """
    config = read_config(*paths, basedir=basedir)
    named = named_device(device, basedir)
    encoders = config["definitions"]["encoders"]
    geometries = {name: read_geometry(name, definition) for name, definition in encoders.items()}
    kind = "cuda" if named else device_at_hand(config, device)
    auto = "bf16" if named or uses_bf16("auto", kind) else "float32"
    jobs = outputs(config)
    items = work(config, auto)
    keys = sorted({item.key for item in items}, key=_place(config))
    if named:
        speeds, starting = rated(keys, config, geometries, named), START_SECONDS
        about = [
            f"{named['label']}: an estimate, not measured. {named['share']:.0%} "
            f"({named['share_is']}) of its peak of {named['bf16_tflops']:g} TFLOP/s in bf16 and "
            f"{named['float32_tflops']:g} in float32 (source: {named['source']}); "
            f"{START_SECONDS:g} s to start each job (assumed). Without --device, this machine's "
            "own is measured."
        ]
    else:
        speeds, about = probed(keys, config, geometries, kind)
        starting = starting_seconds(kind)
        about.append(f"Starting a job takes {starting:.1f} s (measured).")
    fetched, notes = downloads(config)
    disk = {**disk_bytes(config, geometries), "download": fetched}
    seconds: dict[str, list] = {stage: [len(jobs[stage]) * starting] for stage in GPU_STAGES}
    for item in items:
        seconds[item.stage].append(times(speeds[item.key], item.amount))
    total = sum(value for values in seconds.values() for value in values if value is not None)
    unit = Unit(f"{'GPU' if kind == 'cuda' else 'CPU'}-{'hours' if total >= 3600 else 'minutes'}")
    notes = [*_notes(config, kind, geometries, unit.text(total / _share(kind))), *notes]
    notes += _room(jobs, disk)
    print(f"{config['run']}: {_held(config)}\n")
    print(_stage_table(jobs, disk, seconds, unit), end="\n\n")
    print(_speed_table(keys, items, speeds, config, geometries, unit), end="\n\n")
    for sentence in [*about, "", *notes]:
        print(textwrap.fill(sentence, 100, subsequent_indent="  "))


# --- Jobs ----------------------------------------------------------------------------------------


def outputs(config: dict) -> dict[str, list[str]]:
    """Stage → one output of each of its jobs, as the rules in workflow/rules expand them."""
    run, shared, seeds = f"results/{config['run']}", "results/shared", config["seeds"]
    parts, views = parts_of(config), json.loads(settings.view_settings(config))
    images, definitions = parts["vision"], config["definitions"]["tasks"]

    def of_all(key):
        return [entry for part in parts.values() for entry in part[key]]

    def metrics(stage, pairs):
        return [f"{run}/metrics/{stage}/{e}/{m}/{s}.csv" for e, m in pairs for s in seeds]

    read, encoders, own = of_all("read"), of_all("encoders"), of_all("main")
    embedded = {definitions[t]["embedded"]: None for t in read if "embedded" in definitions[t]}

    def of_tasks(part, pairs):
        return [f"{e}/{m}/{t}/{s}" for e, m in pairs for t in part["tasks"] for s in seeds]

    def of_models(stage, names):
        return [f"{run}/metrics/{stage}/{name}.csv" for name in names]

    trained = [name for part in parts.values() for name in of_tasks(part, part["models"])]
    heads = [(e, t) for part in parts.values() for e in part["encoders"] for t in part["read"]]
    nonlinear = [(e, m) for e, m in images["main"] if not settings.is_linearized(config, m)]
    return {
        "download": list(hub_sources(config)),
        "embedded": [f"{shared}/embedded/{name}.sha256" for name in embedded],
        "data": [f"{shared}/data/{task}/manifest.json" for task in read],
        "encoder": [f"{shared}/encoders/{encoder}/encoder.json" for encoder in encoders],
        "head": [
            f"{shared}/encoders/{encoder}/heads/{task}.safetensors" for encoder, task in heads
        ],
        "finetune": [f"{run}/finetuned/{name}.sha256" for name in trained],
        "vector": [f"{run}/vectors/{name}.safetensors" for name in trained],
        "pretrained": [f"{run}/metrics/pretrained/{encoder}/{task}.csv" for encoder, task in heads],
        "single_task": of_models("single_task", trained),
        "kernel": of_models("kernel", of_tasks(images, nonlinear)),
        "addition": metrics("addition", of_all("models")),
        "posthoc": metrics(
            "addition", [(e, "posthoc") for e, m in images["main"] if m == "nonlinear"]
        ),
        "negation": of_models(
            "negation", of_tasks(images, images["main"] if control_of(config) else [])
        ),
        "disentanglement": [
            f"{run}/metrics/disentanglement/{images['focus']}/{mode}/{seed}/{pair}.csv"
            for mode in images["modes"]
            for seed in seeds
            for pair in pairs_of(config)
        ],
        "cosine": metrics(
            "cosine",
            [pair for part in parts.values() if len(part["tasks"]) > 1 for pair in part["main"]],
        ),
        "efficiency": [f"{run}/metrics/efficiency/{e}/{m}.csv" for e, m in own],
        "metrics": [f"{run}/metrics.csv"],
        "tables": [f"{run}/tables/{name}.csv" for name in table_names(views)],
        "figures": [f"{run}/figures/{name}.png" for name in figure_names(views)],
        "report": [f"{run}/report.html"],
    }


# --- Work ----------------------------------------------------------------------------------------


class Item(NamedTuple):
    """How much of a key a stage computes, over all of its jobs; None: unknown."""

    stage: str
    key: Key
    amount: int | None


def work(config: dict, auto: str) -> list[Item]:
    """What each stage computes: steps, images, texts and prompts.

    Args:
        auto: what `precision: auto` stands for, bf16 or float32.
    """
    parts = parts_of(config).values()
    return [item for part in parts if part["encoders"] for item in _work(config, part, auto)]


def _work(config: dict, part: dict, auto: str) -> list[Item]:
    tasks, seeds, of_images = part["tasks"], len(config["seeds"]), part["unit"] == "image"
    limit = config["limit"] or {}
    examples: dict[str, dict[str, int | None]] = {}
    for task in part["read"]:
        counts = example_counts(config, task)
        examples[task] = {k: n and min(n, limit.get(k, n)) for k, n in counts.items()}

    def count(split, names):
        return add_up(examples[name][split] for name in names)

    for_grid, for_one = (times(seeds, count(split, tasks)) for split in ("validation", "test"))
    both = add_up([for_grid, for_one])
    alphas = len(alpha_grid(config["alphas"]))
    items: list[Item] = []

    def add(stage, encoder, kind, mode, amount, chosen):
        precision = json.loads(chosen).get("precision", "float32")
        precision = auto if precision == "auto" else precision
        batch = json.loads(chosen)["finetune"]["batch_size"] if kind == "step" else 1
        items.append(Item(stage, Key(encoder, kind, mode, precision, batch), amount))

    def evaluate(stage, encoder, mode, grid, one, chosen, linearized=None):
        """Examples that are evaluated at each α of the grid, and at one α; f_lin gives the whole
        grid in one pass."""
        if settings.is_linearized(config, mode) if linearized is None else linearized:
            vectors = "nonlinear" if mode == "posthoc" else mode
            add(stage, encoder, "linearized", vectors, add_up([grid, one]), chosen)
        else:
            passes = add_up([times(alphas, grid), one])
            add(stage, encoder, part["unit"], None, passes, chosen)
            if of_images:
                add(stage, encoder, "read", None, add_up([grid, one]), chosen)

    for encoder in part["encoders"]:
        everything = add_up(count(split, part["read"]) for split in ("validation", "test"))
        chosen = settings.pretrained_settings(config, encoder)
        evaluate("pretrained", encoder, None, 0, everything, chosen, linearized=False)
        if of_images:
            for task in part["read"]:
                amount = times(template_count(config, task), class_count(config, task))
                chosen = settings.head_settings(config, task, encoder)
                add("head", encoder, "prompt", None, amount, chosen)
            if "nonlinear" in part["modes"]:
                chosen = settings.addition_settings(config, "posthoc", encoder)
                evaluate("posthoc", encoder, "posthoc", for_grid, for_one, chosen)
    for encoder, mode in part["models"]:
        for task in tasks:
            chosen = settings.finetune_settings(config, mode, encoder, task)
            steps = seeds * json.loads(chosen)["finetune"]["steps"]
            add("finetune", encoder, "step", mode, steps, chosen)
        chosen = settings.single_task_settings(config, mode, encoder)
        evaluate("single_task", encoder, mode, 0, both, chosen)
        chosen = settings.addition_settings(config, mode, encoder)
        # By reference_selection α is chosen on test, where the grid is walked too.
        walked = both if part.get("reference_selection", False) else for_grid
        evaluate("addition", encoder, mode, walked, for_one, chosen)
    for encoder, mode in part["main"]:
        chosen = settings.efficiency_settings(config, mode, encoder)
        add("efficiency", encoder, "step", mode, WARM_UP + config["efficiency"]["steps"], chosen)
        if not of_images:
            continue
        linearized = settings.is_linearized(config, mode)
        if not linearized:
            chosen = settings.kernel_settings(config, encoder)
            evaluate("kernel", encoder, mode, 0, both, chosen, linearized=True)
        if control := control_of(config):
            beside, beside_test = (
                add_up([own, times(seeds * len(tasks), count(split, [control]))])
                for own, split in ((for_grid, "validation"), (for_one, "test"))
            )
            chosen = settings.negation_settings(config, mode, encoder)
            evaluate("negation", encoder, mode, beside, beside_test, chosen)
        if encoder == part["focus"] and pairs_of(config):
            cells, sample = _grid(config, lambda task: examples[task]["test"])
            chosen = settings.disentanglement_settings(config, mode)
            if linearized:  # one pass for the tangent of each of the two vectors
                add("disentanglement", encoder, "linearized", mode, times(2, sample), chosen)
            else:
                add("disentanglement", encoder, "image", None, times(cells, sample), chosen)
                add("disentanglement", encoder, "read", None, sample, chosen)
    return items


def _grid(config: dict, count) -> tuple[int, int | None]:
    """Models that an image of the disentanglement error goes through, and images of all seeds,
    pairs and tasks; count: function task → number of test images."""
    grid = config["disentanglement"]
    samples = grid["samples"]
    if grid.get("reference_scaling", False):
        samples = REFERENCE_BATCH * REFERENCE_BATCHES
    counts = [count(task) for pair in pairs_of(config).values() for task in pair]
    sample = add_up(n and min(n, samples) for n in counts)
    return models_evaluated(grid), times(len(config["seeds"]), sample)


# --- Text ----------------------------------------------------------------------------------------


class Unit(NamedTuple):
    """What times are told in: GPU-hours, CPU-minutes …"""

    name: str

    def text(self, seconds: float) -> str:
        """Seconds in this unit."""
        return three_digits(seconds / (3600 if self.name.endswith("hours") else 60))


def _held(config: dict) -> str:
    def counted(held, *keys):
        counts = [(len(held[key]), key) for key in keys if held[key]]
        return ", ".join(f"{n} {key if n != 1 else key[:-1]}" for n, key in counts)

    kinds = "tasks", "encoders", "modes", "ablations"
    parts = [part for part in parts_of(config).values() if part["encoders"]]
    held = [f"{counted(part, *kinds)} on {part['unit']}s" for part in parts]
    return "; ".join([*held, counted(config, "seeds")])


def _stage_table(jobs: dict, disk: dict, seconds: dict, unit: Unit) -> str:
    rows, every = [], []
    for stage, paths in jobs.items():
        are_there = [os.path.exists(path) for path in paths]
        there, added = [], []
        for path, is_there, size in zip(paths, are_there, disk.get(stage, paths), strict=True):
            if stage in disk and is_there:
                there.append(size if stage == "download" else bytes_at(path))
            elif stage in disk:
                added.append(size)
        files = [FILES.get(stage, OTHER_FILES) * (not is_there) for is_there in are_there]
        every.append([stage, are_there, there, added, files, seconds.get(stage, [])])
    every.append(["total", *([v for row in every for v in row[i]] for i in range(1, 6))])
    fetched = next(row[3] for row in every if row[0] == "download")
    for stage, are_there, there, added, files, taken in every:
        row = [stage, f"{len(are_there):,}", f"{sum(are_there):,}"]
        row.append(_amount(fetched if stage in ("download", "total") else [], human_bytes))
        row += [_amount(there, human_bytes), _amount(added, human_bytes), f"{sum(files):,}"]
        if are_there:
            rows.append([*row, _amount(taken, unit.text)])
    head = ["stage", "jobs", "done", "download", "there", "disk", "files", unit.name]
    return _table(head, rows, ruled=True)


ACTIONS = {
    "step": "train",
    "image": "evaluate",
    "text": "evaluate",
    "linearized": "evaluate f_lin of",
    "read": "read and normalise",
    "prompt": "head, prompts",
}


def _place(config: dict):
    """The order of the rows of speeds, as a key to sort by."""
    parts = parts_of(config).values()
    encoders = [encoder for part in parts for encoder in part["encoders"]]
    modes = ["", *(mode for part in parts for mode in [*part["modes"], *part["ablations"]])]
    return lambda key: (
        encoders.index(key.encoder),
        list(ACTIONS).index(key.kind),
        modes.index(key.mode or ""),
        key.precision,
        key.batch,
    )


def _speed_table(keys, items, speeds, config: dict, geometries: dict, unit: Unit) -> str:
    rows, steps = [], Counter((key.encoder, key.mode) for key in keys if key.kind == "step")
    for key in keys:
        if speeds[key] == 0:
            continue
        taken = [times(speeds[key], item.amount) for item in items if item.key == key]
        rate = operations(key, config, geometries) / speeds[key] / 1e12
        several = key.kind == "step" and steps[key.encoder, key.mode] > 1
        size = f"of {key.batch} at a time" if several else None
        what = " ".join(filter(None, [ACTIONS[key.kind], key.mode, size]))
        row = [
            key.encoder,
            what,
            key.precision,
            three_digits(key.batch / speeds[key]),
        ]
        rows.append([*row, f"{rate:,.3f}" if rate < 1 else three_digits(rate)])
        rows[-1].append(_amount(taken, unit.text))
    return _table(
        ["encoder", "what", "precision", "examples/s", "TFLOP/s", unit.name], rows, left=3
    )


def _share(kind: str) -> int:
    """Devices to spread jobs over: four GPUs, as an example, or the machine's cores."""
    return 4 if kind == "cuda" else os.cpu_count() or 1


def _notes(config: dict, kind: str, geometries: dict, shared: str) -> list[str]:
    """Sentences on what the numbers are; shared: the time if it is spread."""
    parts = parts_of(config)
    state = 3 * FLOAT * max(parameters(shapes_of(g).values()) for g in geometries.values())
    notes = [
        "Jobs and times of everything from scratch; done: outputs that are there already, with the "
        "bytes under there; disk and files: what is added to them (files about, with logs, records "
        "and folders). Snakemake counts one job more, `all`. Stages without disk write less than a "
        "megabyte per job."
    ]
    sized = {task: how_sized(config, task) for task in parts["vision"]["read"]}
    if sampled := [task for task, how in sized.items() if how == "sample"]:
        notes.append(
            f"The arrays of {_listed(sampled)} are estimated by {SAMPLE} of the images in each "
            "split's folder."
        )
    if bounded := [task for task, how in sized.items() if how == "bound"]:
        notes.append(
            f"The arrays of {_listed(bounded)} take at most this ({RESOLUTION} × {RESOLUTION} "
            f"pixels, in training {TRAIN_SIDE} × {round(ASPECT * TRAIN_SIDE)} or the source's "
            "largest), unless their images are wider than 4 to 3."
        )
    if parts["language"]["tasks"]:
        notes.append(
            f"Texts are assumed to have {SOURCE} tokens of four characters, and answers {TARGET} "
            "tokens: their bytes and times are estimates. f_lin is assumed to give a grid of α in "
            "one pass: it takes longer the more answers differ between them. Making tokens of "
            "texts (head) is not counted."
        )
    notes.append(
        f"While a fine-tuning is unfinished, its state lies beside it, up to {human_bytes(state)}. "
        "Downloads go to the hub's cache, everything else to results/."
    )
    if kind == "cuda":
        notes.append(
            f"Times are of one GPU; on four (--resources gpu=4) {shared} at best. Stages "
            "without a time run on the CPU and are not counted."
        )
    else:
        notes.append(
            f"Times are of one core; on {_share(kind)} cores {shared} at best. Stages without a "
            "time are not counted."
        )
    return notes


def _room(jobs: dict, disk: dict) -> list[str]:
    """A sentence if what is added does not fit where results lie."""
    folder = "results" if os.path.isdir("results") else "."
    missing = {k: [not os.path.exists(path) for path in paths] for k, paths in jobs.items()}
    files = sum(FILES.get(stage, OTHER_FILES) * sum(new) for stage, new in missing.items())
    amounts = [
        size or 0
        for stage, sizes in disk.items()
        if stage != "download"  # these go to the hub's cache
        for size, new in zip(sizes, missing[stage], strict=True)
        if new
    ]
    rooms = [(sum(amounts), shutil.disk_usage(folder).free, human_bytes, "")]
    if (free := free_files(folder)) is not None:
        rooms.append((files, free, "{:,}".format, " files"))
    return [
        f"Too little room: {form(needed)}{unit} are added, and only {form(free)}{unit} are free in "
        f"{os.path.abspath(folder)}; make place, or put results/ on another disk by a link."
        for needed, free, form, unit in rooms
        if needed > free
    ]


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return ", ".join(names[:6]) + more


def _table(head: list[str], rows: list[list[str]], left: int = 1, ruled: bool = False) -> str:
    """Aligned columns: the first `left` to the left, the rest to the right; `ruled`: the last
    row is a total."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [head, *rows]
    ]
    rule = "─" * (sum(widths) + 2 * (len(widths) - 1))
    lines.insert(1, rule)
    if ruled:
        lines.insert(-1, rule)
    return "\n".join(lines)


def _amount(values, form) -> str:
    """The sum of what is known: "unknown" if nothing is, "≥" if not everything is."""
    values = list(values)
    known = [value for value in values if value is not None]
    if not values:
        return "–"
    if not known:
        return "unknown"
    return ("≥ " if len(known) < len(values) else "") + form(sum(known))
