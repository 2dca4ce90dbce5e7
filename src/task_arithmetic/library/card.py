"""The card of an exported model, README.md, and merge.yaml: how it was made, and what it reaches.

card.md says how it reads; here is what it says. Numbers are those that were measured or given.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import jinja2
import yaml

from ..files.hashes import read_sha256, sha256_of_file, versions
from ..files.manifest import read_manifest
from ..files.paths import PathLike, read_json
from ..files.tensors import open_tensors, read_made_by
from ..merging.method import Method, options_of
from ..merging.methods import find
from ..stages.evaluate import MERGED, read_vector_header
from .encoders import Encoder
from .formats import Hashes, repository
from .steps import evaluate
from .tasks import Task
from .vectors import TaskVector, digest

ORDER = ["base_model", "base_model_relation", "library_name", "pipeline_tag", "tags", "datasets"]
ORDER += ["metrics", "license"]  # model-index follows
TEXT = "text2text-generation"
LIBRARIES = {"transformers": "transformers", "fusion_bench": "transformers"}
LIBRARIES |= {"open_clip": "open_clip"}


@dataclass(frozen=True)
class Source:
    """One of the vectors that a model was merged of.

    Attributes:
        sha256: of its file, or of its numbers. norm: ‖τ‖, and seed: of its fine-tuning; None: not
            known. file: where it lies. weight: what the vector was multiplied by first; None: 1.
        coefficients: of a merged vector, what data taught: task, tensor or "", value.
        load: gives it, to evaluate the individual model; None: it is not at hand.
    """

    task: str
    mode: str
    sha256: str
    norm: float | None = None
    seed: int | None = None
    file: str = ""
    load: Callable[[], TaskVector] | None = field(default=None, repr=False)
    weight: float | None = None
    coefficients: Sequence[Sequence[Any]] = ()

    @classmethod
    def of(cls, vector: TaskVector) -> "Source":
        """A vector in memory."""
        about = vector.task, vector.mode, digest(vector.tensors), vector.norm()
        return cls(*about, load=lambda: vector)


def sources_of_files(paths: Sequence[PathLike]) -> list[Source]:
    """Vectors in files, read once each: a tensor at a time, two files beside each other.

    Raises:
        UserError: a file that is missing, damaged or no task vector.
    """
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(_source_of_file, paths))


def _source_of_file(path: PathLike) -> Source:
    made_by, norms = read_made_by(path), [0.0]
    if made_by.get("stage") != MERGED:
        read_vector_header(path)  # which refuses what is no vector
    with open_tensors(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118
            norms.append(float(file.get_tensor(name).float().norm()))
    known = read_sha256(path).get(Path(path).name) or sha256_of_file(path)
    norm = None if made_by.get("stage") == MERGED else math.hypot(*norms)
    task, mode = (made_by.get(key, "") for key in ("task", "mode"))
    return Source(
        task, mode, known, norm, made_by.get("seed"), str(path), lambda: TaskVector.load(path)
    )


@dataclass(frozen=True)
class Score:
    """What an exported model reaches on a task's test split; fractions.

    Attributes:
        examples: how many of the split. whole: whether these are all. metric: accuracy, or
            spearmanr. zero_shot: of θ0. individual: of the task's own model, as
            its mode has it; None: its vector is not at hand. merged: of the exported model.
    """

    task: str
    examples: int
    whole: bool
    metric: str
    zero_shot: float
    individual: float | None
    merged: float

    @property
    def normalized(self) -> float | None:
        """merged / individual."""
        return self.merged / self.individual if self.individual else None


def measure(
    encoder: Encoder, tasks: Sequence[Task], sources: Iterable[Source], precision: str
) -> list[Score]:
    """Every accuracy that a card can tell of an encoder θ0 + τ."""
    pretrained = replace(encoder, tau=TaskVector({}, base=encoder.base))
    zero, merged = (evaluate(each, tasks, precision=precision) for each in (pretrained, encoder))
    own = {source.task: source.load for source in sources if source.load}
    scores = []
    for task in tasks:
        load, alone = own.get(task.name), None
        if load is not None:
            alone = evaluate(pretrained + load(), [task], precision=precision)[task.name]
        metric = read_made_by(task.head).get("metric")
        kind = "spearmanr" if metric == "spearman" else "accuracy"
        count = read_manifest(task.data_dir).counts["test"]
        used = min(count, (task.limit or {}).get("test", count))
        about = task.name, used, used == count, kind
        scores.append(Score(*about, zero[task.name], alone, merged[task.name]))
    return scores


@dataclass(frozen=True)
class Made:
    """How a model was made: what its card and merge.yaml say.

    Attributes:
        method, given: of merging, and the keywords that `merge` was given; "": vectors were not
            merged here. merged: the file of what was merged before. alpha: of θ0 + α·M; None: not
            given. chosen: how, in words.
        dropped: the projection is θ0's. nonlinear: f_lin was trained, and f is what is exported.
        command: what makes it again; "": it was made in a notebook.
    """

    to: str
    sources: Sequence[Source] = ()
    method: str = ""
    given: Mapping[str, Any] = field(default_factory=dict)
    merged: Source | None = None
    alpha: float | None = None
    chosen: str = ""
    license: str = ""
    dropped: bool = False
    nonlinear: bool = False
    command: str = ""

    @property
    def merging(self) -> Method | None:
        return find(self.method) if self.method else None

    def options(self) -> dict[str, Any]:
        """All options of the method, with the seed of one that draws."""
        if self.merging is None:
            return {}
        own = {k: v for k, v in self.given.items() if k not in ("seed", "layer_scale")}
        found = asdict(options_of(self.merging, own))
        found |= {"seed": self.given.get("seed", 0)} if self.merging.random else {}
        return found | ({"layer_scale": True} if self.given.get("layer_scale") else {})


def write_card(
    folder: Path, name: str, encoder: Encoder, made: Made, tasks: Sequence[Task],
    scores: Sequence[Score], files: Hashes,
) -> None:  # fmt: skip
    """Write merge.yaml and README.md beside a model's files.

    Args:
        name: what the model is called. files: their hashes, as far as they are known.
    """
    (folder / "merge.yaml").write_text(_yaml(_recipe(encoder, made, scores)), "utf-8")
    every = {file.name: files.get(file.name) for file in sorted(folder.iterdir())}
    hashes = {file: known or sha256_of_file(folder / file) for file, known in every.items()}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    data = [_dataset(task) for task in tasks]
    body = environment.get_template("card.md").render(
        name=name,
        encoder=encoder,
        made=made,
        base=repository(encoder),
        texts=encoder.modality.name == "language",
        moved="proj" in encoder.tau.keys(),
        shards=any("-of-" in file for file in files),
        tasks=[task.name for task in tasks],
        scores=scores,
        means=_means(scores),
        percent=lambda share: "–" if share is None else f"{100 * share:.2f}",
        data=[each for each in data if each["repo"]],
        recipe=(folder / "merge.yaml").read_text("utf-8"),
        hashes=hashes,
        context=_context_length(folder),
        versions={k: v for k, v in versions().items() if k in ("task_arithmetic", "torch")},
    )
    from huggingface_hub import ModelCard

    matter = _front_matter(name, encoder, made, data, scores)
    ModelCard(f"---\n{matter}\n---\n{body}").save(folder / "README.md")


def _context_length(folder: Path) -> int | None:
    """Of an exported text tower, if there is one."""
    path = folder / "open_clip_config.json"
    return read_json(path)["model_cfg"]["text_cfg"]["context_length"] if path.is_file() else None


def _front_matter(
    name: str, encoder: Encoder, made: Made, data: Sequence[dict[str, Any]], scores: Sequence[Score]
) -> str:
    """The YAML that the hub reads; a vector is of no library that it knows."""
    from huggingface_hub import EvalResult, ModelCardData

    texts, base = encoder.modality.name == "language", repository(encoder)
    kind = TEXT if texts else "image-feature-extraction"
    pipelines = {"open_clip": "zero-shot-image-classification", "vector": None}
    results = [
        EvalResult(
            task_type=TEXT if texts else "image-classification",
            dataset_type=of["repo"] or of["task"],
            dataset_name=of["task"],
            dataset_config=of["config"],
            dataset_split=of["split"],
            dataset_revision=of["commit"],
            metric_type=score.metric,
            metric_value=round(score.merged, 4),
        )
        for of, score in zip(data, scores, strict=False)
        if score.whole
    ]
    about = ModelCardData(
        base_model=[base] if base else None,
        base_model_relation="merge" if base else None,
        library_name=LIBRARIES.get(made.to),
        pipeline_tag=pipelines.get(made.to, kind),
        tags=["merge", "task-arithmetic", "t5" if texts else "clip"],
        datasets=sorted({of["repo"] for of in data if of["repo"]}) or None,
        metrics=sorted({score.metric for score in scores}) or None,
        license=made.license or None,
        model_name=name,
        eval_results=results or None,
    )
    if not results:
        about.pop("model_name")
    return about.to_yaml(original_order=ORDER)


def _dataset(task: Task) -> dict[str, Any]:
    """Where a task's examples are from."""
    manifest = read_manifest(task.data_dir)
    source, said = manifest.source or {}, manifest.definition
    of_hub = {"repo": source.get("repo"), "commit": source.get("commit")}
    split = said.get("test", "test") if of_hub["repo"] else "test"
    return {"task": task.name, "config": said.get("config"), "split": split, **of_hub}


def _recipe(encoder: Encoder, made: Made, scores: Sequence[Score]) -> dict[str, Any]:
    """merge.yaml: all that the model's numbers depend on."""
    base = {"name": encoder.name, "sha256": encoder.base, "repository": repository(encoder)}
    flags = {"keep_base_projection": made.dropped, "as_nonlinear": made.nonlinear}
    found = {
        "command": made.command,
        "base": {key: value for key, value in base.items() if value},
        "method": made.method,
        "options": made.options(),
        "alpha": made.alpha,
        "vectors": [_told(each) for each in made.sources],
        "merged": _told(made.merged) if made.merged else None,
        "to": made.to,
        **{key: True for key, value in flags.items() if value},
        "evaluated_on": [score.task for score in scores],
        "versions": {k: v for k, v in versions().items() if k in ("task_arithmetic", "torch")},
    }
    return {key: value for key, value in found.items() if value not in ("", None, [], {})}


def _told(source: Source) -> dict[str, Any]:
    every = asdict(replace(source, load=None))
    return {key: value for key, value in every.items() if value not in (None, "", (), [])}


def _yaml(content: Mapping[str, Any]) -> str:
    return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1000))


def _means(scores: Sequence[Score]) -> list[float | None]:
    """Of each column over the tasks; None where one of them is not known."""
    rows = [(each.zero_shot, each.individual, each.merged, each.normalized) for each in scores]
    columns = [
        [value for value in column if value is not None] for column in zip(*rows, strict=True)
    ]
    return [sum(c) / len(c) if len(c) == len(scores) else None for c in columns]
