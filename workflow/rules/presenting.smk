# Metrics, tables, figures and the report.
from task_arithmetic.config.available import (
    MERGING,
    PAPER_FIGURES,
    figure_names,
    table_names,
    title_of,
)
from task_arithmetic.report.captions import figure_caption, table_caption

# Everything that was measured, as rows of one file.
# Images are tested in every way, texts as in Table 3.
FINETUNED = [
    {"encoder": each["encoder"], "mode": each["mode"], "seed": SEEDS, "task": each["task"]}
    for each in TRAINED
]
MERGED = [
    {
        "encoder": part.merged,
        "mode": part.modes,
        "method": [merger.label for merger in part.mergers],
        "seed": SEEDS,
    }
    for part in (VISION, LANGUAGE)
    if part.mergers
]
OF_IMAGES, OF_TEXTS = (
    {"encoder": part.encoders, "mode": part.modes, "seed": SEEDS, "task": part.tasks}
    for part in (VISION, LANGUAGE)
)
KERNEL_MODES = [mode for mode in VISION.modes if not experiment.linearized(mode)]
POSTHOC = ["posthoc"] * ("nonlinear" in VISION.modes)
# One vector is like itself alone.
COMPARED = [each for each in (OF_IMAGES, OF_TEXTS) if len(each["task"]) > 1]


# What has the answers to single examples beside its metrics.
ANSWERED = [
    *(
        expand(PRETRAINED, encoder=part.encoders, task=part.read, allow_missing=True)
        for part in (VISION, LANGUAGE)
    ),
    *of_stage("single_task", *FINETUNED, name="{task}/{seed}"),
    *of_stage("kernel", {**OF_IMAGES, "mode": KERNEL_MODES}, name="{task}/{seed}"),
    *of_stage("addition", *FINETUNED, {**OF_IMAGES, "mode": POSTHOC}),
    *of_stage("addition", *MERGED, name="{method}/{seed}"),
    *of_stage("negation", *[OF_IMAGES] * bool(CONTROL), name="{task}/{seed}"),
    *of_stage(
        "disentanglement",
        {**OF_IMAGES, "encoder": VISION.focus or [], "pair": PAIRS},
        name="{seed}/{pair}",
    ),
]


rule metrics:
    input:
        answered=ANSWERED,
        merge=[expand(MERGED_LOG, **each, allow_missing=True) for each in MERGED],
        cosine=of_stage("cosine", *COMPARED),
        analyses=ANALYSED,
        efficiency=[
            expand(
                "results/{run}/metrics/efficiency/{encoder}/{mode}.csv",
                encoder=part.encoders,
                mode=part.modes,
                allow_missing=True,
            )
            for part in (VISION, LANGUAGE)
        ],
    output:
        report(
            "results/{run}/metrics.csv",
            caption="../report/metrics.rst",
            category="Metrics",
        ),
    log:
        "results/{run}/logs/metrics/metrics.log",
    localrule: True
    conda:
        "../../envs/torch.yaml"
    params:
        code=stage_code("metrics"),
    message:
        "Gather the metrics"
    shell:
        call("metrics")


# How sure accuracies are, and comparisons of modes and methods, from the answers to single examples.
rule intervals:
    input:
        answers=[[path.replace(".csv", ".safetensors") for path in each] for each in ANSWERED],
        metrics="results/{run}/metrics.csv",
    output:
        rows="results/{run}/intervals.csv",
        comparisons="results/{run}/comparisons.csv",
        draws="results/{run}/draws.safetensors",
    log:
        "results/{run}/logs/intervals/intervals.log",
    localrule: True
    conda:
        "../../envs/torch.yaml"
    params:
        code=stage_code("intervals"),
        settings=settings.view_settings(experiment),
    message:
        "Find the intervals of accuracies"
    shell:
        call(
            "intervals",
            answers="{input.answers:q}",
            output="{output.rows:q}",
            comparisons="{output.comparisons:q}",
            draws="{output.draws:q}",
        )


# The paper's tables, and ours beside them, as CSV, Markdown and LaTeX: one rule for each, because
# each has its own caption in Snakemake's report.

REFERENCE = os.path.relpath(os.path.join(workflow.basedir, "workflow/reference"))
TABLES = table_names(VIEW)


for table in TABLES:

    rule:
        name:
            table if table.startswith("table") else f"table_{table}"
        input:
            metrics="results/{run}/metrics.csv",
            draws="results/{run}/draws.safetensors",
            reference=f"{REFERENCE}/{reference_of(table)}.csv",
        output:
            report(
                f"results/{{run}}/tables/{table}.csv",
                caption="../report/view.rst",
                category="Tables",
                labels={"table": table, "format": "CSV"},
            ),
            f"results/{{run}}/tables/{table}.md",
            f"results/{{run}}/tables/{table}.tex",
        log:
            f"results/{{run}}/logs/tables/{table}.log",
        localrule: True
        conda:
            "../../envs/torch.yaml"
        params:
            code=stage_code("table"),
            name=table,
            caption=f"{title_of(table)}. {table_caption(table, VIEW)}",
            settings=settings.view_settings(experiment),
        message:
            f"Make table {table}"
        shell:
            call("table", draws="{input.draws:q}", output_dir="results/{wildcards.run:q}/tables")


# Figures as PNG, PDF and SVG, and their data as CSV: one rule for each, because each has its own
# caption in Snakemake's report.

FIGURES = figure_names(VIEW)


for figure in FIGURES:

    rule:
        name:
            rule_of(figure)
        input:
            metrics="results/{run}/metrics.csv",
        output:
            report(
                f"results/{{run}}/figures/{figure}.png",
                caption="../report/view.rst",
                category="Figures",
                labels={"figure": figure, "format": "PNG"},
            ),
            [f"results/{{run}}/figures/{figure}.{kind}" for kind in ("pdf", "svg", "csv")],
        log:
            f"results/{{run}}/logs/figures/{figure}.log",
        localrule: True
        conda:
            "../../envs/torch.yaml"
        params:
            code=stage_code("figure"),
            name=figure,
            caption=f"{title_of(figure)}. {figure_caption(figure, VIEW)}",
            settings=settings.view_settings(experiment),
        message:
            f"Draw figure {figure}"
        shell:
            call("figure", output_dir="results/{wildcards.run:q}/figures")


# The report: one HTML page of tables, figures, configuration and timings.
VIEWS = [
    expand("results/{run}/tables/{name}.csv", name=TABLES, allow_missing=True),
    expand(
        "results/{run}/figures/{name}.{kind}", name=FIGURES, kind=["svg", "png"], allow_missing=True
    ),
]


rule report:
    input:
        VIEWS,
        metrics="results/{run}/metrics.csv",
        draws="results/{run}/draws.safetensors",
        intervals="results/{run}/intervals.csv",
        comparisons="results/{run}/comparisons.csv",
        paper=f"{REFERENCE}/paper.csv",
        targets=f"{REFERENCE}/targets.csv",
        merging=f"{REFERENCE}/merging.csv",
    output:
        page=report(
            "results/{run}/report.html",
            caption="../report/report.rst",
            category="Report",
        ),
        config="results/{run}/config.yaml",
        trace="results/{run}/trace.csv",
    log:
        "results/{run}/logs/report/report.log",
    localrule: True
    conda:
        "../../envs/torch.yaml"
    params:
        code=stage_code("report"),
        settings=settings.report_settings(experiment),
        config_text=settings.as_yaml(experiment),
    message:
        "Write the report"
    shell:
        call(
            "report",
            paper="{input.paper:q}",
            targets="{input.targets:q}",
            merging="{input.merging:q}",
            draws="{input.draws:q}",
            figures_dir="results/{wildcards.run:q}/figures",
            run_dir="results/{wildcards.run:q}",
            output="{output.page:q}",
        )
