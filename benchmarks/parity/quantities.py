"""What of ours is held to what of theirs: the same weights, the same images, on the CPU.

Each function gives rows of the table. Of theirs stand here only calls; where there is nothing to be
called (their loop of fine-tuning is for GPUs with NCCL, and Eq. 2 is not in that repository), the
few lines around their classes are our own.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import reference
import torch
import yaml
from torch import Tensor

from task_arithmetic.core.disentanglement import Sample, disentanglement_errors
from task_arithmetic.core.encoder import Encoder
from task_arithmetic.core.schedule import Recipe, learning_rate_at
from task_arithmetic.core.training import Training, batches
from task_arithmetic.core.vectors import TaskVector
from task_arithmetic.errors import UserError
from task_arithmetic.files.hashes import read_sealed
from task_arithmetic.files.manifest import read_manifest, sample_indices
from task_arithmetic.files.tensors import read_made_by, read_tensors
from task_arithmetic.stages.evaluate import read_vector
from task_arithmetic.vision.checkpoints import clip_tokenizer
from task_arithmetic.vision.clip import classify, encode, encode_linearized
from task_arithmetic.vision.modality import MERGES, TEXT_TOWER, Images, Vision, read_encoder

MODES = ("nonlinear", "ntk", "attention")
CPU = torch.device("cpu")
IMAGES = 128  # of one task, for logits; of one batch of theirs


class Row(NamedTuple):
    """A quantity: how many numbers were compared, a size of ours and of theirs (the largest, or the
    mean), the largest difference, and the bound that it must not exceed (None: a measurement)."""

    quantity: str
    count: int
    ours: float
    theirs: float
    difference: float
    bound: float | None

    @property
    def exceeded(self) -> bool:
        return self.bound is not None and not self.difference <= self.bound


@dataclass(eq=False)
class Run:
    """A finished run: one encoder of it, its tasks, vectors and metrics."""

    folder: Path
    encoder: str = ""
    seed: int = 0
    config: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        if not (self.folder / "metrics.csv").is_file():
            raise UserError(f"{self.folder} is no finished run: it has no metrics.csv; run it.")
        self.config = yaml.safe_load((self.folder / "config.yaml").read_text())
        self.encoder = self.encoder or self.config["encoders"][-1]
        if self.encoder not in self.config["encoders"]:
            raise UserError(f"{self.folder} has no encoder {self.encoder}.")
        self.seed = self.config["seeds"][0]
        self.modes = [mode for mode in MODES if mode in self.config["modes"]]

    @property
    def tasks(self) -> list[str]:
        return self.config["tasks"]

    @property
    def encoder_dir(self) -> Path:
        return self.folder.parent / "shared/encoders" / self.encoder

    def vector(self, mode: str, task: str) -> TaskVector:
        path = f"vectors/{self.encoder}/{mode}/{task}/{self.seed}.safetensors"
        return read_vector(self.folder / path)

    def theta(self, mode: str, task: str) -> dict[str, Tensor]:
        """The fine-tuned weights, of the whole image tower."""
        path = f"finetuned/{self.encoder}/{mode}/{task}/{self.seed}.safetensors"
        return {**self.read.theta0, **read_tensors(self.folder / path)}

    @functools.cached_property
    def read(self) -> Encoder:
        return read_encoder(self.encoder_dir)

    @property
    def vision(self) -> Vision:
        return self.read.modality  # type: ignore[return-value]

    @functools.cache  # noqa: B019
    def examples(self, task: str, split: str) -> Images:
        head, data = self.head_path(task), self.folder.parent / "shared/data" / task
        return self.vision.read_examples(head, data, split, self.config["limit"])

    def head_path(self, task: str) -> Path:
        return self.encoder_dir / "heads" / f"{task}.safetensors"

    def classes(self, task: str) -> list[str]:
        return read_manifest(self.folder.parent / "shared/data" / task).classes

    @functools.cached_property
    def metrics(self) -> dict[tuple[Any, ...], float]:
        """(mode, task, split, metric, α) → value, of this encoder and seed; α None: no grid."""
        rows = pd.read_csv(self.folder / "metrics.csv")
        rows = rows[rows.encoder == self.encoder]
        rows = rows[(rows.seed == self.seed) | rows.seed.isna()]
        if "method" in rows:
            rows = rows[rows.method.isna()]
        return {
            (r.mode, r.task, r.split, r.metric, None if np.isnan(r.alpha) else round(r.alpha, 9)): (
                r.value
            )
            for r in rows.itertuples()
            if r.metric.endswith("accuracy") and r.split in ("validation", "test")
        }


class Loader:
    """The images of one split as their loops read them: pixels as ours make them, in batches."""

    def __init__(self, vision: Vision, examples: Images) -> None:
        self.vision, self.examples = vision, examples

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        images, labels, _ = self.examples
        assert isinstance(images, np.ndarray)
        for i in range(0, len(labels), IMAGES):
            some = torch.from_numpy(np.array(images[i : i + IMAGES]))
            yield self.vision.pixels(some), torch.from_numpy(labels[i : i + IMAGES])


class Theirs:
    """Their code on a run's encoder, tasks and weights; `folder` holds these as they write them."""

    def __init__(self, checkout: Path, run: Run, folder: Path) -> None:
        self.run, self.folder = run, folder
        self.about = read_sealed(run.encoder_dir / "encoder.json")
        self.code = reference.load(checkout, self._dataset, self._templates)
        image = {f"visual.{name}": tensor for name, tensor in run.read.theta0.items()}
        scale = torch.tensor(self.about["logit_scale"])
        words = read_tensors(run.encoder_dir / TEXT_TOWER)
        self.clip = {**image, **words, "logit_scale": scale}
        merges = run.encoder_dir / MERGES if self.about["own_merges"] else None
        self.tokenize = clip_tokenizer(self.about["text"]["context_length"], merges)
        self.args = self.code.utils.DotDict(
            model=reference.ENCODER, save=str(folder), device="cpu", batch_size=IMAGES
        )

    def __enter__(self) -> "Theirs":
        self.around: AbstractContextManager[None] = reference.surroundings(
            lambda: reference.open_clip_model(self.about, self.clip), self.tokenize
        )
        self.around.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.around.__exit__(*error)

    def _dataset(self, name: str) -> SimpleNamespace:
        task, split = name.removesuffix("Val"), "validation" if name.endswith("Val") else "test"
        examples = self.run.examples(task, split)
        loader = Loader(self.run.vision, examples)
        return SimpleNamespace(classnames=self.run.classes(task), test_loader=loader)

    def _templates(self, name: str) -> list[Callable[[str], str]]:
        made_by = read_made_by(self.run.head_path(name.removesuffix("Val")))
        return [functools.partial(str.replace, text, "{}") for text in made_by["templates"]]

    def encoder(self, theta: dict[str, Tensor] | None = None) -> Any:
        """An ImageEncoder at θ, or at θ0."""
        found = self.code.modeling.ImageEncoder(self.args)
        if theta is not None:
            named = {f"model.visual.{name}": tensor for name, tensor in theta.items()}
            wrong = found.load_state_dict(named, strict=False).unexpected_keys
            assert not wrong, wrong
        return found

    def linearized(self, theta: dict[str, Tensor]) -> Any:
        """A LinearizedImageEncoder around θ0 at θ."""
        return self.code.linearize.LinearizedImageEncoder(
            self.args, init_encoder=self.encoder(), image_encoder=self.encoder(theta)
        )

    def names(self) -> list[str]:
        """Of an ImageEncoder's parameters, in the order in which a linearized one holds them."""
        return [name for name, _ in self.encoder().named_parameters()]

    def checkpoint(self, linearized: bool, theta: dict[str, Tensor] | None, name: str) -> str:
        """The path of weights as their fine-tuning saves them; None: those of θ0."""
        path = self.folder / f"{'linear_' * linearized}{name}.pt"
        if not path.exists():
            if linearized:
                self.linearized(theta or self.run.read.theta0).save(str(path))
            else:
                self.encoder(theta).save(str(path))
        return str(path)

    def zero(self, linearized: bool) -> str:
        return self.checkpoint(linearized, None, "zeroshot")

    def vector(self, mode: str, task: str) -> Any:
        """Their task vector, of two files of theirs."""
        linearized = self.run.vector(mode, task).linearized
        kinds = self.code.task_vectors
        kind = kinds.LinearizedTaskVector if linearized else kinds.NonLinearTaskVector
        tuned = self.checkpoint(linearized, self.run.theta(mode, task), f"{mode}_{task}")
        return kind(self.zero(linearized), tuned)

    def classifier(self, encoder: Any, head: Tensor) -> Any:
        modeling = self.code.modeling
        return modeling.ImageClassifier(encoder, modeling.ClassificationHead(True, head)).eval()


def _compared(name: str, pairs: list[tuple[Tensor, Tensor]], bound: float) -> Row:
    """A row of tensors: their largest numbers and the largest difference."""
    return Row(
        name,
        sum(a.numel() for a, _ in pairs),
        max(float(a.abs().max()) for a, _ in pairs),
        max(float(b.abs().max()) for _, b in pairs),
        max(float((a - b).abs().max()) for a, b in pairs),
        bound,
    )


# --- One pass ------------------------------------------------------------------------------------


@torch.no_grad()
def logits(run: Run, theirs: Theirs) -> list[Row]:
    """Logits of f and of f_lin at the fine-tuned weights of every mode and task, under our head."""
    pairs: dict[tuple[str, torch.dtype], list[tuple[Tensor, Tensor]]] = {}
    for mode in run.modes:
        for task in run.tasks:
            tau, theta, geometry = (
                run.vector(mode, task),
                run.theta(mode, task),
                run.vision.geometry,
            )
            examples = run.examples(task, "test")
            (pixels, _), head = next(iter(Loader(run.vision, examples))), examples.head
            for dtype in (torch.float32, torch.float64):
                x, classes = pixels.to(dtype), head.to(dtype)
                moved = {name: tensor.to(dtype) for name, tensor in theta.items()}
                start = {name: tensor.to(dtype) for name, tensor in run.read.theta0.items()}
                if not tau.linearized:
                    ours = classify(encode(moved, x, geometry), classes)
                    model = theirs.classifier(theirs.encoder(theta), head).to(dtype)
                    pairs.setdefault(("f", dtype), []).append((ours, model(x)))
                way = {name: moved[name] - start[name] for name in tau.keys()}
                value, tangent = encode_linearized(start, way, x, geometry)
                model = theirs.classifier(theirs.linearized(theta), head).to(dtype)
                with reference.differentiable():
                    found = classify(value + tangent, classes), model(x)
                pairs.setdefault(("f_lin", dtype), []).append(found)
    bounds = {torch.float32: 1e-3, torch.float64: 1e-11}
    return [
        _compared(f"logits of {what}, {str(dtype).removeprefix('torch.')}", found, bounds[dtype])
        for (what, dtype), found in sorted(pairs.items(), key=lambda item: str(item[0]))
    ]


@torch.no_grad()
def heads(run: Run, theirs: Theirs) -> list[Row]:
    """The zero-shot head of every task."""
    pairs = []
    for task in run.tasks:
        model = theirs.code.modeling.ImageEncoder(theirs.args, keep_lang=True).model
        build = theirs.code.heads.build_classification_head
        found = build(model, f"{task}Val", None, None, "cpu")
        pairs.append((run.examples(task, "test").head, found.weight))
    return [_compared("heads, float32", pairs, 1e-4)]


@torch.no_grad()
def vectors(run: Run, theirs: Theirs) -> list[Row]:
    """τ of every mode and task; what did not move is zero in theirs."""
    pairs, others = [], 0.0
    names = theirs.names()
    for mode in run.modes:
        for task in run.tasks:
            ours, found = run.vector(mode, task), theirs.vector(mode, task)
            named = found.get_named_parameters(names) if ours.linearized else found.vector
            for name in names:
                own = name.removeprefix("model.visual.")
                if name.startswith("model.visual.") and own in ours.keys():
                    pairs.append((ours[own], named[name]))
                else:
                    others = max(others, float(named[name].abs().max()))
    row = _compared("task vectors, float32", pairs, 0.0)
    return [row._replace(difference=max(row.difference, others))]


# --- Training ------------------------------------------------------------------------------------


def training(run: Run, theirs: Theirs, steps: int) -> list[Row]:
    """τ after some optimizer steps of the run's recipe, on the same batches.

    Their loop asks for GPUs and NCCL: the lines around their classes are ours, in its order. In
    float32 an entry whose gradient is no more than rounding moves at random, by up to the sum of
    the rates: AdamW divides a gradient by its own size. All of τ together is held closer.
    """
    task, rows = run.tasks[0], []
    given = {k: v for k, v in run.config["finetune"].items() if k in Recipe.__dataclass_fields__}
    given |= {"steps": steps, "warmup_steps": steps // 4, "gradient_clip": 1.0}
    recipe = Recipe(**{**given, "crop_scale": tuple(given["crop_scale"])})
    examples = run.examples(task, "train")
    rates = sum(learning_rate_at(step, recipe) for step in range(steps))
    for dtype in (torch.float64, torch.float32):
        pairs, keys = [], []
        for mode in run.modes:
            read = batches(run.vision, examples, range(steps), run.seed, recipe, CPU)
            read = [(pixels.to(dtype), labels) for pixels, labels in read]
            ours = _our_training(run, mode, task, recipe, read, dtype)
            moved = _their_training(run, theirs, mode, task, recipe, read, dtype)
            for name, tensor in ours.items():
                start = run.read.theta0[name].to(dtype)
                a, b = tensor - start, moved[name] - start
                if not name.endswith("in_proj_bias"):
                    pairs.append((a, b))
                    continue
                # softmax does not see what is added to all keys: their gradient is rounding alone
                thirds = list(zip(a.chunk(3), b.chunk(3), strict=True))
                keys.append(thirds.pop(1))
                pairs += thirds
        what = f"τ after {steps} steps, {str(dtype).removeprefix('torch.')}"
        exact = dtype == torch.float64
        rows.append(_compared(what, pairs, 1e-9 if exact else 2 * rates))
        if keys:
            rows.append(_compared(f"{what}: key biases", keys, 1e-9 if exact else 2 * rates))
        if not exact:
            lengths = [
                sum(float(v.square().sum()) for v in of) ** 0.5 for of in zip(*pairs, strict=True)
            ]
            apart = sum(float((a - b).square().sum()) for a, b in pairs) ** 0.5 / lengths[0]
            count = sum(a.numel() for a, _ in pairs)
            rows.append(Row(f"{what}: ‖difference‖ ÷ ‖τ‖", count, *lengths, apart, 1e-2))
    return rows


def _our_training(
    run: Run, mode: str, task: str, recipe: Recipe, read: Any, dtype: torch.dtype
) -> dict[str, Tensor]:
    theta0 = {name: tensor.to(dtype) for name, tensor in run.read.theta0.items()}
    head, tau = run.examples(task, "train").head.to(dtype), run.vector(mode, task)
    names = [name for name in theta0 if name in tau.keys()]
    ours = Training(theta0, run.vision, head, recipe, names, linearized=tau.linearized)
    for step, (pixels, labels) in enumerate(read):
        ours.step(pixels, labels, learning_rate_at(step, recipe))
    return {name: tensor.detach() for name, tensor in ours.theta.items()}


def _their_training(
    run: Run, theirs: Theirs, mode: str, task: str, recipe: Recipe, read: Any, dtype: torch.dtype
) -> dict[str, Tensor]:
    tau, theta0 = run.vector(mode, task), run.read.theta0
    encoder = theirs.linearized(theta0) if tau.linearized else theirs.encoder()
    if not tau.linearized:
        for name, parameter in encoder.named_parameters():
            parameter.requires_grad_(name.removeprefix("model.visual.") in tau.keys())
    model = theirs.classifier(encoder, run.examples(task, "train").head)
    model.freeze_head()
    model = model.to(dtype)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    rate = theirs.code.utils.cosine_lr(
        optimizer, recipe.learning_rate, recipe.warmup_steps, recipe.steps
    )
    loss_of = torch.nn.CrossEntropyLoss()
    for step, (pixels, labels) in enumerate(read):
        with reference.differentiable(tau.linearized):
            loss_of(model(pixels), labels).backward()
        rate(step)
        torch.nn.utils.clip_grad_norm_(parameters, recipe.gradient_clip)
        optimizer.step()
        optimizer.zero_grad()
    if tau.linearized:
        named = dict(zip(theirs.names(), encoder.model.params, strict=True))
    else:
        named = dict(encoder.named_parameters())
    return {
        name.removeprefix("model.visual."): parameter.detach() for name, parameter in named.items()
    }


# --- Accuracies ----------------------------------------------------------------------------------

SPLITS = {"validation": "Val", "test": ""}  # and how their names of data sets end


def accuracies(run: Run, theirs: Theirs) -> list[Row]:
    """Every accuracy of the run's zero-shot, single-task, post-hoc, addition and negation rows, and
    every α that was chosen, beside what their functions find."""
    return Accuracies(run, theirs).rows()


class Accuracies:
    """Accuracies of theirs, by the kind of row, each beside that of the run's metrics."""

    def __init__(self, run: Run, theirs: Theirs) -> None:
        self.run, self.theirs, self.args = run, theirs, theirs.args
        grid, negation = run.config["alphas"], run.config["negation"]
        if (grid["start"], grid["stop"]) != (0, 1):
            raise UserError("Their grid of α is from 0 to 1: take a run with this grid.")
        self.args.n_eval_points = round(1 / grid["step"]) + 1
        self.control, self.keep = (negation["control"], negation["keep"]) if negation else ("", 0)
        self.found: dict[str, list[tuple[float, float]]] = {}
        self.alphas: list[tuple[float, float]] = []
        self.zero: dict[str, float] = {}  # name of a data set → zero-shot accuracy
        self.own: dict[str, dict[str, float]] = {}  # mode → the same of its individual models

    def rows(self) -> list[Row]:
        self.zero_shot()
        self.individual()
        self.addition()
        if self.control:
            self.negation()
        run = self.run
        smallest = min(len(run.examples(t, s).labels) for t in run.tasks for s in SPLITS)
        one = 1 / smallest + 1e-9  # an image, whose two largest logits are equal up to rounding
        rows = [_beside(f"accuracies, {kind}", pairs, one) for kind, pairs in self.found.items()]
        return [*rows, _beside("α chosen", self.alphas, 1e-9)]

    def zero_shot(self) -> None:
        for task in [*self.run.tasks, *filter(None, [self.control])]:
            for split, ending in SPLITS.items():
                top = self._scored(self.theirs.encoder(), task + ending)
                self.zero[task + ending] = top
                row = "pretrained", task, split, "pretrained_accuracy", None
                self._add("zero-shot", top, *row)

    def individual(self) -> None:
        """θ0 + τ of every mode and task; of a mode that is not linearized the same in f_lin too."""
        for mode in self.run.modes:
            for task in self.run.tasks:
                tau, linearized = self.theirs.vector(mode, task), self._linearized(mode)
                zero = self.theirs.zero(linearized)
                for split, ending in SPLITS.items():
                    tuned = tau.apply_to(zero, scaling_coef=1.0)
                    top = self._scored(tuned, task + ending, linearized)
                    self.own.setdefault(mode, {})[task + ending] = top
                    self._add("single task", top, mode, task, split, "single_task_accuracy", 1.0)
                    if linearized:
                        continue
                    start = tau.apply_to(zero, scaling_coef=0.0)
                    linear = self.theirs.code.linearize.LinearizedImageEncoder(
                        self.args, init_encoder=start, image_encoder=tuned
                    )
                    top = self._scored(linear, task + ending, True)
                    self._add("post-hoc", top, mode, task, split, "posthoc_accuracy", 1.0)
                    if mode == "nonlinear":
                        self.own.setdefault("posthoc", {})[task + ending] = top

    def addition(self) -> None:
        tasks, code = self.run.tasks, self.theirs.code
        for mode in self.own:  # with post-hoc linearization of nonlinear
            posthoc = mode == "posthoc"
            of = "nonlinear" if posthoc else mode
            linearized = self._linearized(of)
            tau = sum(self.theirs.vector(of, task) for task in tasks)
            given = {"task_vector": tau, "pretrained_checkpoint": self.theirs.zero(linearized)}
            given |= {"args": self.args, "posthoc_linearization": posthoc}
            self.args.update(control_dataset=None, finetuning_accuracies=self.own[mode])
            self.args.update(eval_datasets=[task + "Val" for task in tasks])
            with reference.differentiable(linearized or posthoc):
                curve = code.eval.evaluate_task_vector(**given)
                alpha = float(code.utils.find_optimal_coef(curve, metric="avg_normalized_top1"))
                self.args.update(eval_datasets=tasks)
                test = code.eval.evaluate_task_vector_at_coef(**given, scaling_coef=alpha)
            ours = self._chosen(mode, tasks[0], "unified_accuracy", alpha)
            for task in tasks:
                for a, at in curve.items():
                    row = mode, task, "validation", "unified_accuracy", a
                    self._add("addition", at[f"{task}Val:top1"], *row)
                row = mode, task, "test", "unified_accuracy", ours
                self._add("addition", test[f"{task}:top1"], *row)

    def negation(self) -> None:
        code, control = self.theirs.code, self.control
        for mode in self.run.modes:
            linearized = self._linearized(mode)
            self.args.update(finetuning_accuracies=self.own[mode])
            for task in self.run.tasks:
                tau = -self.theirs.vector(mode, task)
                given = tau, self.theirs.zero(linearized), self.args
                with reference.differentiable(linearized):
                    self.args.update(eval_datasets=[f"{task}Val"], control_dataset=f"{control}Val")
                    curve = code.eval.evaluate_task_vector(*given)
                    alpha = code.utils.find_optimal_coef(
                        curve,
                        metric=f"{task}Val:top1",
                        minimize=True,
                        control_metric=f"{control}Val:top1",
                        control_metric_threshold=self.keep * self.zero[f"{control}Val"],
                    )
                    alpha = float("nan") if alpha is None else float(alpha)
                    ours = self._chosen(mode, task, "negated_accuracy", alpha)
                    self.args.update(eval_datasets=[task], control_dataset=control)
                    test = code.eval.evaluate_task_vector_at_coef(*given, ours)
                for metric, name in (("negated_accuracy", task), ("control_accuracy", control)):
                    for a, at in curve.items():
                        row = mode, task, "validation", metric, a
                        self._add("negation", at[f"{name}Val:top1"], *row)
                    row = mode, task, "test", metric, ours
                    self._add("negation", test[f"{name}:top1"], *row)

    def _linearized(self, mode: str) -> bool:
        return self.run.vector(mode, self.run.tasks[0]).linearized

    def _scored(self, encoder: Any, name: str, linearized: bool = False) -> float:
        with reference.differentiable(linearized):
            return float(
                self.theirs.code.eval.eval_single_dataset(encoder, name, self.args)["top1"]
            )

    def _chosen(self, mode: str, task: str, metric: str, found: float) -> float:
        """The α of the run's test row; it is noted beside the one of theirs."""
        row = mode, task, "test", metric
        ours = next((key[4] for key in self.run.metrics if key[:4] == row), None)
        if ours is None:
            raise UserError(f"{self.run.folder}/metrics.csv has no row {row}: finish the run.")
        self.alphas.append((ours, found))
        return ours

    def _add(self, kind: str, found: float, *row: Any) -> None:
        *names, alpha = row
        key = (*names, None if alpha is None else round(float(alpha), 9))
        if key not in self.run.metrics:
            raise UserError(f"{self.run.folder}/metrics.csv has no row {key}: finish the run.")
        self.found.setdefault(kind, []).append((self.run.metrics[key], found))


def _beside(name: str, pairs: list[tuple[float, float]], bound: float) -> Row:
    """A row of numbers: means, the largest difference, and in its name how many differ."""
    ours, found = np.array(pairs).T
    apart = np.abs(ours - found)
    differ = int(np.sum(~(apart <= 1e-9)))  # NaN too
    name += f" ({differ} differ)" if differ else ""
    return Row(name, len(ours), ours.mean(), found.mean(), apart.max(), bound)


# --- Disentanglement -----------------------------------------------------------------------------


@torch.no_grad()
def disentanglement(run: Run, theirs: Theirs, points: int) -> list[Row]:
    """Both errors of Eq. 2 of the run's first pair on a coarse grid. Their repository has none: its
    models give features and classes, and the formula around them is written here a second time."""
    how = run.config["disentanglement"]
    if not how["pairs"]:
        return []
    pair = next(iter(how["pairs"].values()))
    alphas = np.linspace(how["low"], how["high"], points).round(12).tolist()
    found: dict[str, list[tuple[Tensor, Tensor]]] = {"representation": [], "classification": []}
    count = 0
    for mode in run.modes:
        samples = []
        for task in pair:
            images, labels, head = run.examples(task, "test")
            some = sample_indices(len(labels), how["samples"])
            weights = np.full(len(some), 1 / len(some))
            samples.append(Sample(np.array(images[some]), weights, labels[some], head))
            count = len(some)
        taus = [run.vector(mode, task) for task in pair]
        ours = disentanglement_errors(run.read, taus, samples, alphas, taus[0].linearized)
        errors = _their_errors(run, theirs, mode, pair, samples, alphas)
        for module, grid in errors.items():
            found[module].append((torch.from_numpy(getattr(ours, module)), grid))
    bounds = {"representation": 1e-5, "classification": 1 / count + 1e-9}
    return [
        _compared(f"{module} disentanglement error", pairs, bounds[module])
        for module, pairs in found.items()
    ]


def _their_errors(
    run: Run, theirs: Theirs, mode: str, pair: list[str], samples: list[Sample], alphas: list[float]
) -> dict[str, Tensor]:
    """ξ(α1, α2) of their models: (points, points) for each module."""
    taus = [theirs.vector(mode, task) for task in pair]
    linearized = run.vector(mode, pair[0]).linearized
    zero = theirs.zero(linearized)
    pixels = [run.vision.pixels(torch.from_numpy(sample.images)) for sample in samples]
    heads = [theirs.code.modeling.ClassificationHead(True, sample.head) for sample in samples]

    def features(a: float, b: float) -> list[Tensor]:
        model = (taus[0] * a + taus[1] * b).apply_to(zero, scaling_coef=1.0).eval()
        with reference.differentiable(linearized):
            return [model(x).double() for x in pixels]

    alone = [[features(a, 0.0)[0] for a in alphas], [features(0.0, b)[1] for b in alphas]]
    errors = {
        name: torch.zeros(len(alphas), len(alphas), dtype=torch.float64)
        for name in ("representation", "classification")
    }
    for i, a in enumerate(alphas):
        for j, b in enumerate(alphas):
            for t, unified in enumerate(features(a, b)):
                own, head = alone[t][(i, j)[t]], heads[t]
                divergence = torch.nn.functional.kl_div(
                    unified.log_softmax(1), own.log_softmax(1), reduction="none", log_target=True
                )
                flips = head(own.float()).argmax(1) != head(unified.float()).argmax(1)
                errors["representation"][i, j] += divergence.sum(1).mean()
                errors["classification"][i, j] += flips.double().mean()
    return errors
