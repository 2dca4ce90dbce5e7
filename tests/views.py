"""Synthetic, plausible metrics for any settings: what the tests of tables, figures, report read.

Nothing here is measured. Numbers follow the shapes of real ones: accuracies between zero-shot and
one, an interior best α, an error surface that is zero at the origin.
"""

import csv
import re
import zlib
from itertools import product

import numpy as np

from task_arithmetic.analysis.subsets import label_of, subsets_of

COLUMNS = "encoder mode seed task split metric alpha value other_task other_alpha method".split()
COLUMNS += ["layer"]
TASKS = ["mnist", "digits", "svhn", "gtsrb", "resisc45", "landcover", "handwritten", "textures",
         "shapes", "letters"]  # fmt: skip
PAPER_ENCODERS = {"small": "ViT-B-32", "base": "ViT-B-16", "large": None}
MODES = {
    "nonlinear": "Non-linear fine-tuning",
    "ntk": "NTK linearization",
    "attention": "Attention modules only",
}
ABLATIONS = {
    "attention_bias": "Attention weights and biases",
    "attention_mlp": "Attention and MLP weights",
    "attention_mlp_bias": "Attention and MLP weights and biases",
}
QUALITY = {  # mode → loss of single-task accuracy, interference between tasks
    "nonlinear": (0.0, 0.30), "ntk": (0.06, 0.15), "attention": (0.01, 0.10),
    "posthoc": (0.20, 0.25), "attention_bias": (0.012, 0.11), "attention_mlp": (0.02, 0.14),
    "attention_mlp_bias": (0.015, 0.12),
}  # fmt: skip


NO_TEXTS = {
    "tasks": [], "encoders": {}, "modes": {}, "ablations": {}, "focus": None, "paper_tasks": {},
    "scores": [], "reference_selection": False,
}  # fmt: skip
TEXTS = NO_TEXTS | {
    "tasks": ["acceptability", "inference", "similarity"],
    "encoders": {"t5": None},
    "modes": dict(MODES),
    "focus": "t5",
    "paper_tasks": {"acceptability": "cola", "inference": "mnli", "similarity": "stsb"},
    "scores": ["similarity"],
}


METHODS = {  # label → what the view says of it; whether it is better than the sum
    "mean": ("Weight averaging", "vectors", (1.0, 1.0)),
    "ties": ("TIES", "vectors", (0.1, 1.6)),
    "dare": ("DARE", "vectors", (0.1, 1.0)),
    "consensus": ("Consensus task arithmetic", "vectors", (0.1, 1.0)),
    "tsv": ("TSV-M", "vectors", (0.1, 3.0)),
    "iso_c": ("Iso-C", "vectors", (0.1, 3.0)),
    "iso_cts": ("Iso-CTS", "vectors", (0.1, 3.0)),
    "wudi": ("WUDI", "vectors", (0.1, 1.5)),
    "regmean": ("RegMean", "unlabelled", (0.1, 2.0)),
    "per_task": ("Task arithmetic", "labelled", (0.1, 1.0)),  # with the title of the sum
    "adamerging": ("AdaMerging", "unlabelled", (1.0, 1.0)),
    "adamerging_test": ("AdaMerging on test", "transductive", (1.0, 1.0)),
}


def make_merging(*labels, encoders=("small",)) -> dict:
    """The settings of merging, with these of METHODS."""
    keys = ("title", "needs", "grid")
    methods = {label: dict(zip(keys, METHODS[label], strict=True)) for label in labels}
    return {"encoders": list(encoders), "methods": methods}


RECIPE = {"encoders": "all", "modes": "all", "tasks": "all"}
RECIPE = {**RECIPE, "recipe": {"steps": 2000, "learning_rate": 1e-5, "gradient_clip": None}}


def make_settings(tasks=8, encoders=2, seeds=1, suite="embedded", **changes) -> dict:
    """Settings as the command line gives them to the views."""
    names = TASKS[:tasks]
    return {
        "run": "synthetic",
        "suite": suite,
        "tasks": names,
        "control": "scenes",
        "encoders": dict(list(PAPER_ENCODERS.items())[:encoders]),
        "modes": dict(MODES),
        "ablations": dict(ABLATIONS),
        "focus": "small",
        "seeds": list(range(seeds)),
        "pairs": {"fig6": names[:2], "fig8": names[:-3:-1]},
        "keep": 0.95,
        "kernel_modes": ["nonlinear", "attention"],
        "paper_beside": True,
        "language": NO_TEXTS,
        "recipes": {"vision": [RECIPE]},
    } | changes


def draw(*keys, low=0.0, high=1.0) -> float:
    """A number in [low, high) that depends on `keys` only."""
    return low + (high - low) * zlib.crc32(repr(keys).encode()) / 2**32


def make_rows(settings, points=15, alphas=21) -> list[dict]:
    """Rows of metrics.csv for all that `settings` promise."""
    rows = []
    tasks, control, seeds = settings["tasks"], settings["control"], settings["seeds"]
    grid = [round(a, 4) for a in np.linspace(0, 1, alphas)]
    square = [round(a, 4) for a in np.linspace(-2, 2, points)]

    def add(metric, encoder, mode, value, seed="", task="", split="", alpha="", other=("", ""),
            method="", layer=""):  # fmt: skip
        row = [encoder, mode, seed, task, split, metric, alpha, float(value), *other, method, layer]
        rows.append(dict(zip(COLUMNS, row, strict=True)))

    for e, encoder in enumerate(settings["encoders"]):
        zero = {task: draw("zero", task, low=0.2, high=0.7) + 0.05 * e for task in tasks}
        zero[control] = 0.62 + 0.05 * e
        for task, split in product([*tasks, *[control] * bool(control)], ["validation", "test"]):
            value = zero[task] + draw(encoder, task, split, low=-0.01, high=0.01)
            add("pretrained_accuracy", encoder, "pretrained", value, task=task, split=split)
        focus = encoder == settings["focus"]
        modes = [*settings["modes"], *(settings["ablations"] if focus else [])]
        modes += ["posthoc"] * ("nonlinear" in modes)
        for mode, seed in product(modes, seeds):
            lost, interference = QUALITY.get(mode, (0.03, 0.2))
            interference *= draw("luck", encoder, mode, seed, low=0.8, high=1.2)
            fitted = {}  # task, split → accuracy of the individual model
            for task, split in product(tasks, ["validation", "test"]):
                best = draw("best", task, low=0.9, high=0.99) + 0.003 * e - lost
                best += draw(encoder, task, mode, seed, split, low=-0.015, high=0.005)
                fitted[task, split] = best
                metric = "posthoc_accuracy" if mode == "posthoc" else "single_task_accuracy"
                owner = "nonlinear" if mode == "posthoc" else mode
                add(metric, encoder, owner, best, seed, task, split)
                if mode in settings["kernel_modes"] and mode != "nonlinear":
                    add("posthoc_accuracy", encoder, mode, best - 0.05 * draw(task), seed, task,
                        split)  # fmt: skip

            def unified(task, split, alpha, fitted=fitted, zero=zero, seed=seed, mode=mode,
                        interference=interference):  # fmt: skip
                gain = (fitted[task, split] - zero[task]) * (1 - np.exp(-5 * alpha))
                loss = interference * (1 + 0.3 * draw("hurt", task, mode, seed)) * alpha**1.5
                return zero[task] + gain - loss

            def normalized(task, split, alpha, unified=unified, fitted=fitted):
                return unified(task, split, alpha) / fitted[task, split]

            mean = [np.mean([normalized(task, "validation", a) for task in tasks]) for a in grid]
            chosen = grid[int(np.argmax(mean))]
            wanted = [("validation", a) for a in grid] + [("test", chosen)]
            for task, (split, alpha) in product(tasks, wanted):
                for metric, value in (("unified_accuracy", unified), ("normalized_accuracy",
                                                                      normalized)):  # fmt: skip
                    add(metric, encoder, mode, value(task, split, alpha), seed, task, split, alpha)
            if mode in settings["modes"]:
                if control:
                    _forgetting(add, encoder, mode, seed, tasks, control, zero, grid, interference)
                _geometry(add, encoder, mode, seed, settings, square, interference)
        for mode in settings["modes"]:
            held = 1_200_000 * (e + 1) * (2.1 if mode == "ntk" else 1)
            trained = 393_216 * (e + 1) if mode == "attention" else 1_200_000 * (e + 1)
            step = {"ntk": 0.31, "attention": 0.1}.get(mode, 0.16) * (e + 1)
            for metric, value in (("held_parameters", held), ("trained_parameters", trained),
                                  ("peak_memory_bytes", 6e8 + 900 * held), ("step_seconds", step),
                                  ("training_seconds", 100 * step)):  # fmt: skip
                add(metric, encoder, mode, value)
    _analyses(add, settings, list(rows))
    _texts(add, settings["language"], seeds, grid)
    for part in (settings, settings["language"]):
        if part.get("merging"):
            _merged(add, part, seeds, list(rows))
        if part["focus"] in part["encoders"]:
            _of_matrices(add, part, seeds)
    if "number_of_tasks" in settings.get("analyses", ()):
        _subsets(add, settings, seeds)
    if "retention" in settings.get("analyses", ()):
        _retained(add, settings, seeds)
    return rows


def _of_matrices(add, part, seeds):
    """Over depth, and the alignment with what is merged; of `attention` no MLP, and of a mode of
    norms alone no matrix at all."""
    encoder, analyses, tasks = part["focus"], part.get("analyses", ()), part["tasks"]
    methods = ["", *(part.get("merging") or {"methods": {}})["methods"]]
    for mode, seed in product(part["modes"], seeds):
        kinds = [] if "norm" in mode else ["qkv", "out", *["mlp"] * (mode != "attention")]
        layers = [f"{block}.{kind}" for block in range(4) for kind in kinds]
        own = {name: len(layers) for name in ("layer", "spectrum", "alignment")}
        asked = {"layer": "layers", "spectrum": "spectra"}
        for name, count in own.items():
            if asked.get(name, name) in analyses:
                add(f"{name}_matrices", encoder, mode, count, seed)
        for layer in layers if "layers" in analyses else []:
            for t, task in enumerate(tasks):
                add(
                    "relative_norm", encoder, mode, draw(mode, layer, task), seed, task, layer=layer
                )
                for other in tasks[t + 1 :]:
                    value = draw(mode, layer, task, other, high=0.2) - 0.02
                    add("cosine_similarity", encoder, mode, value, seed, task, other=(other, ""),
                        layer=layer)  # fmt: skip
        for layer, which in product(layers if "spectra" in analyses else [], [None, *methods]):
            at = {"method": which or "", "layer": layer}
            name = "" if which is None else "merged_"
            stable = draw(mode, which, layer, low=2, high=30)
            for metric, value in (("stable_rank", stable), ("effective_rank", 2 * stable),
                                  ("top_energy", 1 / stable)):  # fmt: skip
                add(name + metric, encoder, mode, value, seed, **at)
        if layers and "alignment" in analyses:
            for method, task in product(methods, tasks):
                value = draw("aligned", mode, method, task, low=0.5)
                add("subspace_alignment", encoder, mode, value, seed, task, method=method)


def _subsets(add, settings, seeds):
    """Merging subsets of the tasks: the more, the worse."""
    said, tasks = settings["subsets"], settings["tasks"]
    subsets = [s for n in said["sizes"] for s in subsets_of(tasks, n, said["draws"])]
    for mode, method, seed in product(settings["modes"], said["methods"], seeds):
        for subset in subsets:
            value = 1 - 0.5 * QUALITY.get(mode, (0, 0.2))[1] * (len(subset) - 1) / len(tasks)
            value += draw("subset", method, high=0.05) + draw(seed, mode, *subset, high=0.03)
            keys = seed, label_of(subset), "test", 0.3, ("", ""), "" if method == "sum" else method
            add("subset_accuracy", settings["focus"], mode, 0.9 * value, *keys)
            add("subset_normalized_accuracy", settings["focus"], mode, value, *keys)


def _retained(add, settings, seeds):
    """The control task's accuracy of every merged model."""
    merging = settings.get("merging") or {"encoders": [], "methods": {}}
    merged = merging["methods"] if settings["focus"] in merging["encoders"] else ()
    for mode, method, seed in product(settings["modes"], ["", *merged], seeds):
        value = draw("kept", mode, method, low=0.45, high=0.6) + draw("kept", seed, high=0.01)
        keys = seed, settings["control"], "test", 0.3, ("", ""), method
        add("retained_accuracy", settings["focus"], mode, value, *keys)


def _merged(add, part, seeds, rows):
    """What is measured of merging methods: the accuracies of the sum, and another gain for each
    method; a time and a memory for each seed."""
    of_sum = [row for row in rows if row["split"] == "test"]
    of_sum = [r for r in of_sum if r["metric"] in ("unified_accuracy", "normalized_accuracy")]
    merged = product(part["merging"]["encoders"], part["modes"], part["merging"]["methods"].items())
    for encoder, mode, (method, about) in merged:
        grid = np.unique(np.linspace(*about["grid"], 5).round(4))
        for row in of_sum:
            if (row["encoder"], row["mode"]) != (encoder, mode):
                continue
            keys = encoder, mode, row["seed"]
            chosen = grid[int(draw(method, *keys, high=len(grid)))]
            gain = draw("gain", method, mode, low=-0.1, high=0.15)
            gain += draw("gain", method, *keys, row["task"], low=-0.02, high=0.02)
            wanted = [("validation", alpha) for alpha in grid] + [("test", chosen)]
            for split, alpha in wanted:
                value = row["value"] + gain - (alpha - chosen) ** 2
                where = row["seed"], row["task"], split, alpha
                add(row["metric"], encoder, mode, value, *where, method=method)
        for seed in seeds:
            cost = draw(method, mode, seed, low=0.9, high=1.1)
            add("merge_seconds", encoder, mode, 0.4 * cost, seed, method=method)
            add("merge_peak_memory_bytes", encoder, mode, 3e8 * cost, seed, method=method)


def _texts(add, settings, seeds, grid):
    """What is measured on texts: one value a task of each kind, another curve for each mode."""
    for encoder in settings["encoders"]:
        tasks, modes = settings["tasks"], list(settings["modes"])
        for task, split in product(tasks, ["validation", "test"]):
            zero = draw(encoder, task, split, low=0.4, high=0.6)
            add("pretrained_accuracy", encoder, "pretrained", zero, task=task, split=split)
        add("cut_inputs", encoder, "pretrained", 12, task=tasks[0], split="train")
        for mode, seed, task in product(modes, seeds, tasks):
            for split in ("validation", "test"):
                best = draw(encoder, mode, task, split, seed, low=0.85, high=0.95)
                add("single_task_accuracy", encoder, mode, best, seed, task, split)
                peak = 0.2 + 0.1 * modes.index(mode)
                for alpha in grid if split == "validation" else [0.25]:
                    value = best - 0.2 - (alpha - peak) ** 2
                    keys = encoder, mode, value, seed, task, split, alpha
                    add("unified_accuracy", *keys)
                    add("normalized_accuracy", encoder, mode, value / best, *keys[3:])
            if len(tasks) > 1:
                norm = 0.5 + draw("norm", mode, task, seed)
                add("vector_norm", encoder, mode, norm, seed, task)
            for other in tasks if len(tasks) > 1 else []:
                cosine = 1.0 if task == other else draw(mode, *sorted([task, other]), high=0.3)
                add("cosine_similarity", encoder, mode, cosine, seed, task, other=(other, ""))
        for mode in modes:
            held = 340_000 * (2 if mode == "ntk" else 1)
            for metric, value in (("held_parameters", held), ("trained_parameters", 340_000),
                                  ("peak_memory_bytes", 9e6), ("step_seconds", 0.04),
                                  ("training_seconds", 4.0)):  # fmt: skip
                add(metric, encoder, mode, value)


def _forgetting(add, encoder, mode, seed, tasks, control, zero, grid, interference):
    """Task negation: both accuracies fall with α, the control's slowly."""
    for task in tasks:
        fall = draw("fall", task, mode, seed, low=2, high=4)
        chosen = max(a for a in grid if 1 - interference * a**2 >= 0.95)
        for split, alpha in [("validation", a) for a in grid] + [("test", chosen)]:
            keys = (seed, task, split, alpha, (control, ""))
            add("negated_accuracy", encoder, mode, zero[task] * np.exp(-fall * alpha), *keys)
            add("control_accuracy", encoder, mode, zero[control] * (1 - interference * alpha**2),
                *keys)  # fmt: skip


def _geometry(add, encoder, mode, seed, settings, square, interference):
    """Error surfaces of the focus encoder's pairs, cosines of all encoders."""
    for first, second in settings["pairs"].values():
        for a, b in product(square, square) if encoder == settings["focus"] else []:
            bend = draw(mode, seed, first, low=0.9, high=1.1) * interference
            error = bend * (abs(a * b) + 0.3 * (a**2 + b**2) * (1 + 0.5 * (a < 0) + 0.5 * (b < 0)))
            keys = (seed, first, "test", a, (second, b))
            add("representation_disentanglement", encoder, mode, 0.05 * error**1.5, *keys)
            add("classification_disentanglement", encoder, mode, 2 * np.tanh(error / 2), *keys)
    for task in settings["tasks"] if len(settings["tasks"]) > 1 else []:
        norm = (1 if mode == "attention" else 2) + draw("norm", mode, task)
        add("vector_norm", encoder, mode, norm + 0.1 * draw("norm", mode, task, seed), seed, task)
    for one, two in product(settings["tasks"] if len(settings["tasks"]) > 1 else [], repeat=2):
        cosine = 1 if one == two else 0.3 * interference * draw(*sorted([one, two])) - 0.01
        if one != two:
            cosine += draw(mode, encoder, seed, *sorted([one, two]), low=-0.01, high=0.02)
        add("cosine_similarity", encoder, mode, cosine, seed, one, other=(two, ""))


def _analyses(add, settings, rows):
    """What analyses measure of the focus encoder, beside these rows; without ablations."""
    focus, tasks, analyses = settings["focus"], settings["tasks"], settings.get("analyses", ())
    test = [row for row in rows if row["split"] == "test" and row["mode"] in settings["modes"]]
    of_focus = [row for row in test if row["encoder"] == focus]
    surface = [r for r in of_focus if r["metric"] == "representation_disentanglement"]
    for row in surface if "loss_plane" in analyses else []:
        a, b = row["alpha"], row["other_alpha"]
        bend = (a - 0.6) ** 2 + (b - 0.6) ** 2
        other = row["other_task"], b
        where = row["seed"], row["task"], "test", a, other
        add("plane_accuracy", focus, row["mode"], 0.8 * np.exp(-bend / 3), *where)
        add("plane_loss", focus, row["mode"], 0.5 + bend**2, *where)
    of_sum = [row for row in of_focus if row["metric"] == "unified_accuracy"]
    chosen = {(row["mode"], row["seed"]): row["alpha"] for row in of_sum}
    for (mode, seed), alpha in chosen.items():
        of_mode = QUALITY.get(mode, (0.03, 0.2))[1]
        for i, j in product(range(len(tasks)), repeat=2):
            one, two, luck = tasks[i], tasks[j], draw(mode, seed, tasks[i], tasks[j])
            if "interference" in analyses:
                gain = 0.3 if i == j else 0.02 - of_mode * luck
                add("interference", focus, mode, gain, seed, one, "test", 1.0, (two, ""))
            if "pairs" in analyses and i < j:
                where = seed, one, "test", alpha, (two, alpha)
                add("representation_pair_error", focus, mode, 0.1 * alpha * of_mode * luck, *where)
                add("classification_pair_error", focus, mode, alpha * of_mode * luck, *where)
        kinds = ["attention"] if mode == "attention" else ["attention", "mlp", "block"]
        layers = [f"{block}.{kind}" for block in range(12) for kind in kinds]
        layers += ["whole"] if mode == "attention" else ["embedding", "head", "whole"]
        for task, layer in product(tasks, layers if "linearity" in analyses else []):
            value = draw(mode, layer) + 0.1 * draw(task, layer, seed)
            add("linearity_error", focus, mode, value, seed, task, "test", 1.0, layer=layer)


def near_published(rows, settings, published) -> list[dict]:
    """Rows whose test accuracies are within 0.03 of published ones, where there are some.

    Args:
        published: what tables.read_targets returns.
    """
    known = published.set_index(["encoder", "mode", "column"])["value"] / 100
    moved = []
    for row in rows:
        key = settings["encoders"].get(row["encoder"]), row["mode"], row["task"]
        alone = row["metric"] in ("pretrained_accuracy", "single_task_accuracy")
        if alone and row["split"] == "test" and key in known.index:
            row = row | {"value": known[key] + draw(*key, row["seed"], low=-0.03, high=0.03)}
        moved.append(row)
    return moved


def read_markdown(path) -> tuple[list[str], list[list[str]], int]:
    """Headings, rows and number of columns of words of a table's Markdown."""
    lines = path.read_text(encoding="utf-8").splitlines()
    table = [re.split(r" \| ", line[2:-2]) for line in lines if line.startswith("| ")]
    headings, ruler, *rows = [[cell.replace(r"\|", "|") for cell in line] for line in table]
    return headings, rows, ruler.count(":--")


def write_pictures(folder, names):
    """Stand-ins for figures: the report only embeds them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / f"{name}.svg").write_text(
            '<svg width="9pt" height="9pt" viewBox="0 0 9 9"></svg>'
        )


def write_metrics(path, rows):
    """Write rows as metrics.csv."""
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path
