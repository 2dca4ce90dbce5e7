# The report: one HTML page of tables, figures, configuration and timings.
VIEWS = [
    expand("results/{run}/tables/{name}.csv", name=TABLES, allow_missing=True),
    expand("results/{run}/figures/{name}.png", name=FIGURES, allow_missing=True),
]


rule report:
    input:
        VIEWS,
        metrics="results/{run}/metrics.csv",
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
        settings=settings.report_settings(config),
        config_text=settings.as_yaml(config),
    message:
        "Write the report"
    shell:
        "task-arithmetic report --metrics {input.metrics:q}"
        " --tables-dir results/{wildcards.run:q}/tables --figures-dir results/{wildcards.run:q}/figures"
        " --settings {params.settings:q} --config-text {params.config_text:q}"
        " --run-dir results/{wildcards.run:q} --output {output.page:q} --job {log:q} --code {params.code:q} &> {log:q}"
