"""The stages, in the order of a run. Nothing here imports torch."""

from .declaration import STAGES, Input, Name, Output, Seed, Settings, Shown, Threads, stage

__all__ = ["STAGES"]


@stage("embedded.tasks.save_task", hashed=True)
class Embedded:
    """draw an embedded task as a dataset"""

    task: Name
    output: Output


@stage("stages.download.write_download")
class Download:
    """get a task's or an encoder's files"""

    settings: Settings
    output: Output


@stage({"vision": "vision.prepare.write_task", "language": "language.prepare.write_texts"})
class Data:
    """read a dataset into uint8 arrays, or texts"""

    task: Name
    settings: Settings
    download: Input | None = None
    threads: Threads = Threads(1)
    output: Output


@stage(
    {"vision": "vision.checkpoints.import_encoder", "language": "language.checkpoints.import_t5"}
)
class Encoder:
    """take a pretrained CLIP from open_clip, or a T5 from transformers"""

    encoder: Name
    settings: Settings
    download: Input | None = None
    output: Output


@stage(
    {"vision": "vision.checkpoints.write_head", "language": "language.tokens.write_tokens"},
    on_device=("vision",),
    stored=True,
    hashed=True,
)
class Head:
    """make a frozen zero-shot head, or the tokens of prompts and answers"""

    encoder_dir: Input
    data_dir: Input
    settings: Settings
    output: Output


@stage("stages.finetune.finetune", on_device=True, stored=True, hashed=True, modal=True)
class Finetune:
    """fine-tune one encoder on one task in one mode"""

    encoder_dir: Input
    head: Input
    data_dir: Input
    encoder: Name
    mode: Name
    task: Name
    seed: Seed
    settings: Settings
    output: Output
    log: Output


@stage("stages.vector.write_vector", hashed=True)
class Vector:
    """extract a task vector"""

    encoder_dir: Input
    finetuned: Input
    output: Output


@stage(
    {"vision": "vision.imports.write_published", "language": "language.imports.write_published"},
    hashed=True,
)
class Published:
    """extract a task vector of published weights"""

    encoder_dir: Input
    encoder: Name
    mode: Name
    task: Name
    settings: Settings
    files: list[Input] | None = None
    download: Input | None = None
    output: Output


class OfOneTask:
    """What evaluates one task vector on its task."""

    encoder_dir: Input
    head: Input
    data_dir: Input
    encoder: Name
    mode: Name
    task: Name
    seed: Seed
    vector: Input
    settings: Settings
    output: Output


@stage("stages.statistics.statistics", on_device=True, stored=True, hashed=True, modal=True)
class Statistics(OfOneTask):
    """collect what the layers of an individual model read, for merging by regmean"""


@stage("stages.single_task.pretrained", on_device=True, stored=True, hashed=True, modal=True)
class Pretrained:
    """zero-shot accuracy of a task"""

    encoder_dir: Input
    head: Input
    data_dir: Input
    encoder: Name
    task: Name
    settings: Settings
    output: Output
    outcomes: Output | None = None


@stage("stages.single_task.single_task", on_device=True, stored=True, hashed=True, modal=True)
class SingleTask(OfOneTask):
    """accuracy of an individual model"""

    outcomes: Output | None = None


@stage("stages.single_task.kernel", on_device=True, stored=True, hashed=True, modal=True)
class Kernel(OfOneTask):
    """kernel behaviour test: post-hoc linearized accuracy"""

    outcomes: Output | None = None


class OfVectors:
    """What merges task vectors."""

    encoder: Name
    mode: Name
    seed: Seed
    tasks: list[Name]
    vectors: list[Input]
    settings: Settings
    output: Output
    log: Output | None = None
    method: Name | None = None


@stage("stages.merge.merge", on_device=True, stored=True, hashed=True, by_method=True)
class Merge(OfVectors):
    """merge task vectors into one, by any method"""

    statistics: list[Input] | None = None
    geometry: Input | None = None


@stage(
    "stages.merge.merge_on_data",
    on_device=True,
    stored=True,
    hashed=True,
    modal=True,
    by_method=True,
)
class MergeOnData(OfVectors):
    """merge task vectors by a method that learns from examples"""

    encoder_dir: Input
    heads: list[Input]
    data_dirs: list[Input]
    single_task: list[Input]


class OfManyTasks:
    """What evaluates several task vectors on their tasks."""

    encoder_dir: Input
    encoder: Name
    mode: Name
    seed: Seed
    tasks: list[Name]
    heads: list[Input]
    data_dirs: list[Input]
    vectors: list[Input]
    settings: Settings
    output: Output


@stage("stages.addition.addition", on_device=True, stored=True, hashed=True, modal=True)
class Addition(OfManyTasks):
    """task addition"""

    single_task: list[Input]
    outcomes: Output | None = None
    method: Name | None = None


@stage(
    "stages.number_of_tasks.number_of_tasks",
    on_device=True,
    stored=True,
    hashed=True,
    modal=True,
    by_method=True,
)
class NumberOfTasks(OfManyTasks):
    """task addition of random subsets of the tasks"""

    single_task: list[Input]
    method: Name | None = None


@stage("stages.retention.retention", on_device=True, stored=True, hashed=True, modal=True)
class Retention:
    """accuracy of a merged model on the control task"""

    encoder_dir: Input
    head: Input
    data_dir: Input
    encoder: Name
    mode: Name
    seed: Seed
    control: Name
    vectors: list[Input]
    addition: Input
    settings: Settings
    output: Output
    method: Name | None = None


@stage("stages.negation.negation", on_device=True, stored=True, hashed=True, modal=True)
class Negation(OfOneTask):
    """task negation with a control task"""

    pretrained: Input
    control: Name
    control_head: Input
    control_data_dir: Input
    outcomes: Output | None = None


@stage(
    "stages.disentanglement.disentanglement", on_device=True, stored=True, hashed=True, modal=True
)
class Disentanglement(OfManyTasks):
    """disentanglement error of two tasks on a grid"""

    outcomes: Output | None = None


@stage("stages.interference.interference", on_device=True, stored=True, hashed=True, modal=True)
class Interference(OfManyTasks):
    """what each task vector does to the accuracies of all tasks"""


@stage("stages.pairs.pairs", on_device=True, stored=True, hashed=True, modal=True)
class Pairs(OfManyTasks):
    """disentanglement error of all pairs of tasks at the chosen α"""

    addition: Input


@stage("stages.linearity.linearity", on_device=True, stored=True, hashed=True, modal=True)
class Linearity(OfManyTasks):
    """how linear an encoder is in each part of its task vectors"""


@stage("stages.vector.cosine", hashed=True)
class Cosine:
    """cosine similarity of task vectors"""

    encoder: Name
    mode: Name
    seed: Seed
    tasks: list[Name]
    vectors: list[Input]
    output: Output


@stage("stages.layers.layers", hashed=True)
class Layers(Cosine):
    """cosine similarity and relative norm of task vectors in each layer"""

    encoder_dir: Input


class OfMerged:
    """What compares task vectors with what they were merged into."""

    encoder: Name
    mode: Name
    seed: Seed
    tasks: list[Name]
    vectors: list[Input]
    methods: list[Name] | None = None
    merged: list[Input] | None = None
    unified: list[Input] | None = None
    output: Output


@stage("stages.spectra.spectra", on_device=True, stored=True, hashed=True)
class Spectra(OfMerged):
    """rank of task vectors, and of what they were merged into, in each layer"""

    encoder_dir: Input


@stage("stages.alignment.alignment", on_device=True, stored=True, hashed=True)
class Alignment(OfMerged):
    """alignment of task vectors with what they were merged into"""


# A measurement is made when it is asked for: never stored.
@stage("stages.efficiency.efficiency", on_device=True, hashed=True, modal=True)
class Efficiency:
    """measure what a training step costs"""

    encoder_dir: Input
    head: Input
    data_dir: Input
    encoder: Name
    mode: Name
    settings: Settings
    output: Output


@stage("files.metrics.gather", hashed=True)
class Metrics:
    """gather metrics files into one"""

    inputs: list[Input]
    output: Output


@stage("report.comparisons.write")
class Intervals:
    """intervals of accuracies, and comparisons of modes and methods"""

    answers: list[Input]
    metrics: Input
    settings: Settings
    output: Output
    comparisons: Output
    draws: Output


@stage("report.tables.write")
class Table:
    """make one table"""

    name: Name
    metrics: Input
    reference: Input
    draws: Input | None = None
    settings: Settings
    output_dir: Output


@stage("report.figures.write")
class Figure:
    """make one figure"""

    name: Name
    metrics: Input
    settings: Settings
    output_dir: Output


@stage("report.page.write")
class Report:
    """make the HTML report"""

    metrics: Input
    paper: Input
    targets: Input
    merging: Input
    draws: Input | None = None
    figures_dir: Input
    settings: Settings
    config_text: Shown
    run_dir: Shown | None = None
    output: Output
