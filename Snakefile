# Task arithmetic on CLIP, end to end. `snakemake --cores all --resources gpu=4` runs config.yaml,
# the paper's experiment; `--configfile config/mini.yaml` the embedded one. Rules are in
# workflow/rules, one file per stage, each a call of `task-arithmetic <stage>`.
import os
import sys

from snakemake.utils import min_version

min_version("9.14")


configfile: os.path.join(workflow.basedir, "config.yaml")


sys.path.insert(0, os.path.join(workflow.basedir, "src"))
from task_arithmetic.pipeline import run
from task_arithmetic.errors import UserError
from task_arithmetic.config.reading import read_config, typed
from task_arithmetic.pipeline.rerun import check_plan

try:
    # Read again: Snakemake's merging overlooks a key written twice, and cannot empty a mapping.
    given = workflow.config_settings
    config = read_config(*given.configfiles, typed(dict(given.config)), basedir=workflow.basedir)
    check_plan(config)
except UserError as error:
    sys.exit(str(error))


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/embedded.smk"
include: "workflow/rules/download.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/encoder.smk"
include: "workflow/rules/head.smk"
include: "workflow/rules/finetune.smk"
include: "workflow/rules/vector.smk"
include: "workflow/rules/pretrained.smk"
include: "workflow/rules/single_task.smk"
include: "workflow/rules/kernel.smk"
include: "workflow/rules/addition.smk"
include: "workflow/rules/negation.smk"
include: "workflow/rules/disentanglement.smk"
include: "workflow/rules/cosine.smk"
include: "workflow/rules/efficiency.smk"
include: "workflow/rules/metrics.smk"
include: "workflow/rules/tables.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/report.smk"


onstart:
    run.start(f"results/{config['run']}", workflow.dag, config)


onerror:
    run.failed(f"results/{config['run']}", log)


localrules:
    all,


rule all:
    default_target: True
    input:
        f"results/{config['run']}/report.html",
        ALL_VECTORS,
