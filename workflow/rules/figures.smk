# The paper's figures as PNG and PDF: one rule for each, because each has its own caption in
# Snakemake's report.
from task_arithmetic.config.available import PAPER_FIGURES, figure_names, title_of
from task_arithmetic.report.captions import figure_caption

FIGURES = figure_names(VIEW)


for figure in FIGURES:

    rule:
        name:
            figure if figure in PAPER_FIGURES else f"heatmap_{figure}"
        input:
            metrics="results/{run}/metrics.csv",
        output:
            report(
                f"results/{{run}}/figures/{figure}.png",
                caption="../report/view.rst",
                category="Figures",
                labels={"figure": figure, "format": "PNG"},
            ),
            f"results/{{run}}/figures/{figure}.pdf",
        log:
            f"results/{{run}}/logs/figures/{figure}.log",
        localrule: True
        conda:
            "../../envs/torch.yaml"
        params:
            code=stage_code("figure"),
            name=figure,
            caption=f"{title_of(figure)}. {figure_caption(figure, VIEW)}",
            settings=settings.view_settings(config),
        message:
            f"Draw figure {figure}"
        shell:
            "task-arithmetic figure --name {params.name:q} --metrics {input.metrics:q}"
            " --settings {params.settings:q} --output-dir results/{wildcards.run:q}/figures --job {log:q} --code {params.code:q} &> {log:q}"
