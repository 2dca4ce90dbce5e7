# Names, paths and machine knobs that several rules share.
#
# results/shared/ holds what runs have in common (arrays, pretrained encoders, heads),
# results/{run}/ the rest. {run} is always the configuration's `run`.
import math
import re
import shlex

from snakemake.settings.types import DeploymentMethod

from task_arithmetic.config import settings
from task_arithmetic.config.available import PAPER_FIGURES
from task_arithmetic.config.view import SUM
from task_arithmetic.planning import requests as requested
from task_arithmetic.pipeline.gpu import has_gpu
from task_arithmetic.pipeline.rerun import stage_code
from task_arithmetic.stages.catalogue import STAGES

VISION, LANGUAGE = experiment.part("vision"), experiment.part("language")
TASKS, ENCODERS, MODES = experiment.definitions  # name -> what it stands for
CONTROL = VISION.read[len(VISION.tasks) :]
SEEDS, PAIRS = experiment.seeds, VISION.pairs
MERGERS = {merger.label: merger for part in (VISION, LANGUAGE) for merger in part.mergers}
SUBSETS = {merger.label: merger for merger in VISION.subsets.mergers} if VISION.subsets else {}
LEARNERS = [label for label, merger in MERGERS.items() if merger.learns]
VIEW = settings.view(experiment)  # of tables, figures and the report
REQUESTS = requested.requests(experiment, workflow.basedir)

DATA = "results/shared/data/{task}/manifest.json"
ENCODER = "results/shared/encoders/{encoder}/encoder.json"
HEAD = "results/shared/encoders/{encoder}/heads/{task}.safetensors"
VECTOR = "results/{run}/vectors/{encoder}/{mode}/{task}/{seed}.safetensors"
# Weights and vectors are large: what depends on them depends on their hash, a file beside them, so
# that touching or copying them changes nothing.
FINETUNED_SHA256 = "results/{run}/finetuned/{encoder}/{mode}/{task}/{seed}.sha256"
VECTOR_SHA256 = VECTOR.replace(".safetensors", ".sha256")
STATISTICS_SHA256 = "results/{run}/statistics/{encoder}/{mode}/{task}/{seed}.sha256"
SINGLE_TASK = "results/{run}/metrics/single_task/{encoder}/{mode}/{task}/{seed}.csv"
MERGED_SHA256 = "results/{run}/merged/{encoder}/{mode}/{method}/{seed}.sha256"
UNIFIED = "results/{run}/metrics/addition/{encoder}/{mode}/{method}/{seed}.csv"
MERGED_LOG = MERGED_SHA256.replace(".sha256", ".csv")  # what merging took
PRETRAINED = "results/{run}/metrics/pretrained/{encoder}/{task}.csv"
# The manifest and encoder.json name the hashes of what lies beside them: as inputs they say whether
# anything changed, at the price of a few kilobytes.
DATA_DIR = "results/shared/data/{task}"
# What is trained: every encoder in every mode; the ablations on the focus encoder only.
TRAINED = [
    {"encoder": encoders, "mode": modes, "task": part.tasks}
    for part in (VISION, LANGUAGE)
    for encoders, modes in ((part.encoders, part.modes), (part.focus or [], part.ablations))
]
# The task vectors are results themselves: a deleted one is made again.
ALL_VECTORS = [expand(VECTOR, run=experiment.run, seed=SEEDS, **each) for each in TRAINED]


def one_of(names):
    """The pattern of a wildcard that is one of these names."""
    return "|".join(map(re.escape, names)) or "(?!)"


wildcard_constraints:
    run=re.escape(experiment.run),
    task=one_of(TASKS),
    encoder=one_of(ENCODERS),
    mode=one_of(MODES),
    seed="|".join(map(str, SEEDS)),
    pair=one_of(PAIRS),
    method=one_of(MERGERS),


def on_cluster():
    """Whether jobs are submitted; a dry run of a cluster's profile tells only how many may be."""
    return not workflow.local_exec or workflow.resource_settings.nodes is not None


def in_conda():
    """Whether jobs run in the rules' environments, not in Snakemake's own."""
    return DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method


def gpus(wildcards=None):
    """GPUs that a job of a learning stage needs: the `gpu` resource, 1 or 0.

    The profile allows one such job at a time (`resources: gpu=1`), so that two never meet on one
    GPU. Where there is none, a job asks for 0, and as many run at once as there are cores. Jobs
    that are submitted to a cluster ask for 1, because the machine that submits says nothing about
    those that compute; `device: cpu` or `device: cuda` in the configuration settles it by hand.
    """
    if experiment.device != "auto":
        return int(experiment.device == "cuda")
    if on_cluster():
        return 1
    return int(has_gpu())


def cores(wildcards=None):
    """CPU threads of a job of a learning stage: one, so that jobs run side by side, or a few that
    feed a GPU. Snakemake sets OMP_NUM_THREADS and its like to it."""
    return 4 if gpus() else 1


def every_core(wildcards=None):
    """All CPU threads that the run may use, so that nothing runs beside the job."""
    return cores() if on_cluster() else workflow.cores or 4


def modality_of(wildcards):
    """The modality of a job's encoder, or of its task if it has none."""
    if "encoder" in wildcards.keys():
        return ENCODERS[wildcards.encoder].modality
    return TASKS[wildcards.task].modality


def code_of(stage):
    """A parameter: the label of the code that a stage can reach for a job's modality."""
    return lambda wildcards: stage_code(stage, modality_of(wildcards))


def code_of_method(stage):
    """A parameter: the label of the code that a stage can reach for a job's merging method."""
    every = {**SUBSETS, **MERGERS}
    return lambda wildcards: stage_code(stage, every[wildcards.method].method.name)


def sampled(analysis):
    """A parameter: the settings of an analysis of some test images."""
    return lambda wildcards: settings.sampled_settings(
        experiment, analysis, wildcards.mode, wildcards.encoder
    )


def source_of(record):
    """What names a download's record: the kind of what was got, and its name."""
    return os.path.relpath(os.path.splitext(record)[0], settings.DOWNLOADS_DIR)


def reference_of(table):
    """The file of published numbers that a table has beside its own."""
    name = table.removesuffix("_language")
    return name if name in ("targets", "merging") else "paper"


def rule_of(figure):
    """The name of a figure's rule."""
    if figure in PAPER_FIGURES:
        return figure
    return f"heatmap_{figure}" if figure in PAIRS else f"figure_{figure}"


def tasks_of(wildcards):
    """The tasks of an encoder's modality."""
    return experiment.part_of(wildcards.encoder).tasks


def of_tasks(path):
    """An input or parameter: `path` for each of these tasks."""
    return lambda wildcards: expand(path, task=tasks_of(wildcards), allow_missing=True)


def of_stage(stage, *models, name="{seed}"):
    """A stage's metrics for all combinations of what `name` has in each of `models`."""
    path = f"results/{{run}}/metrics/{stage}/{{encoder}}/{{mode}}/{name}.csv"
    return [expand(path, **each, allow_missing=True) for each in models]


def of_methods(path):
    """An input or parameter: `path` for each merging method of the encoder but the sum."""
    return lambda wildcards: expand(
        path,
        method=[merger.label for merger in experiment.part_of(wildcards.encoder).mergers],
        allow_missing=True,
    )


def analysed(name):
    """The metrics of an analysis that is a job for each mode and seed, of the encoder `focus` of
    those parts that have it."""
    parts = [part for part in (VISION, LANGUAGE) if name in part.analyses]
    models = [{"encoder": part.focus, "mode": part.modes, "seed": SEEDS} for part in parts]
    return of_stage(name, *models)


def optional(name, values):
    """A parameter: an option that may be left out, with its values, or nothing."""
    return [f"--{name}", *values] if values else []


def of_method(wildcards):
    """A parameter: what rows call the merging method; of the sum nothing."""
    return [] if wildcards.method == SUM else ["--method", wildcards.method]


def artifacts_of(hashes):
    """The tensors that files of hashes belong to."""
    hashes = [hashes] if isinstance(hashes, str) else hashes
    return [path.replace(".sha256", ".safetensors") for path in hashes]


def asked(stage, wildcards):
    """What a job asks a cluster for, see planning/requests.py."""
    keys = ("encoder", "mode", "task", "method")
    keys = keys if stage != "embedded" else ()  # which names what it draws
    known = {key: wildcards.get(key) for key in keys}
    return REQUESTS(stage, **known)


def expected_seconds(stage, wildcards):
    """How long a job takes by the model of work, for `status`."""
    return asked(stage, wildcards).seconds


def needs(stage, gpu=None):
    """The resources of a stage's jobs, more at each attempt; gpu: as the function `gpus`."""
    return {
        "mem_mb": lambda wildcards, attempt: attempt * asked(stage, wildcards).memory_mb,
        "runtime": lambda wildcards, attempt: attempt * asked(stage, wildcards).minutes,
        **({"gpu": gpu} if gpu else {}),
    }


def longest_first(stage):
    """Priority of a stage's jobs: long ones start first, which leaves nothing idle at the end. What
    all others wait for has 1,000 and more."""
    return lambda wildcards: 1 + round(30 * math.log10(1 + asked(stage, wildcards).seconds))


def shell_prefix():
    """What precedes every shell command: bash's strict mode, and `task-arithmetic` as a function
    that calls the code beside the Snakefile, in the interpreter that runs Snakemake or, with
    --software-deployment-method conda, in the rule's environment."""
    python = "python" if in_conda() else shlex.quote(sys.executable)
    path = shlex.quote(os.path.join(workflow.basedir, "src"))
    known = {
        "TASK_ARITHMETIC_DEVICE": experiment.device,
        "TASK_ARITHMETIC_STORE_GB": experiment.store_gb,
        "TASK_ARITHMETIC_SCRATCH": experiment.scratch or "",
    }
    given = " ".join(f"{name}={shlex.quote(str(value))}" for name, value in known.items())
    call = f"{given} PYTHONPATH={path}${{PYTHONPATH:+:$PYTHONPATH}} {python} -m task_arithmetic"
    prefix = f'set -euo pipefail; task-arithmetic() {{ {call} "$@"; }}; '
    return prefix.replace("{", "{{").replace("}", "}}")


# Where a rule has the options of its stage; those that are not here are parameters.
OPTIONS = {
    **{name: f"{{wildcards.{name}:q}}" for name in ("encoder", "mode", "task", "seed")},
    **{
        name: f"{{input.{name}:q}}"
        for name in "head heads single_task pretrained control_head inputs metrics reference".split()
    },
    "encoder_dir": "results/shared/encoders/{wildcards.encoder:q}",
    "data_dir": "results/shared/data/{wildcards.task:q}",
    "inputs": "{input:q}",
    "output": "{output:q}",
}


# Those of a stage that evaluates.
EVALUATED = {"output": "{output.rows:q}", "outcomes": "{output.outcomes:q}"}


def call(stage, **given):
    """The shell command of a stage, from its declaration: each option as `given`, or as OPTIONS has
    it. One that may be left out is a parameter that holds the option itself, or nothing."""
    words = [f"task-arithmetic stage {stage}"]
    for option in STAGES[stage].options.values():
        value = given.get(option.name, OPTIONS.get(option.name, f"{{params.{option.name}:q}}"))
        name = (
            f"--{option.name.replace('_', '-')} "
            if option.required or given.get(option.name)
            else ""
        )
        words.append(name + value)
    return " ".join([*words, "--job {log:q} --code {params.code:q} &> {log:q}"])


shell.prefix(shell_prefix())
