# Task arithmetic on CLIP, end to end. `snakemake --cores all --resources gpu=4` runs config.yaml,
# the paper's experiment; `--configfile config/mini.yaml` the embedded one. Rules are in
# workflow/rules, by theme, each a call of `task-arithmetic <stage>`.
import os
import sys

from snakemake.utils import min_version

min_version("9.14")


configfile: os.path.join(workflow.basedir, "config.yaml")


sys.path.insert(0, os.path.join(workflow.basedir, "src"))
from task_arithmetic.pipeline import run, warm
from task_arithmetic.errors import UserError
from task_arithmetic.config.reading import read_config, typed
from task_arithmetic.config.settings import everything
from task_arithmetic.pipeline.rerun import check_plan

try:
    # Read again: Snakemake's merging overlooks a key written twice, and cannot empty a mapping.
    given = workflow.config_settings
    overlays = [*given.configfiles, typed(dict(given.config))]
    experiment = read_config(*overlays, basedir=workflow.basedir)
    check_plan(everything(experiment))
    config.update(experiment.given())  # for Snakemake's own report
except UserError as error:
    sys.exit(str(error))


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/learning.smk"
include: "workflow/rules/measuring.smk"
include: "workflow/rules/merging.smk"
include: "workflow/rules/analysing.smk"
include: "workflow/rules/presenting.smk"


onstart:
    run.start(f"results/{experiment.run}", workflow.dag, experiment, expected_seconds)
    if not on_cluster() and not in_conda():
        warm.start()


onerror:
    run.failed(f"results/{experiment.run}", log)


localrules:
    all,


rule all:
    default_target: True
    input:
        f"results/{experiment.run}/report.html",
        ALL_VECTORS,
