# The paper's tables, and ours beside them, as CSV, Markdown and LaTeX: one rule for each, because
# each has its own caption in Snakemake's report.
from task_arithmetic.config.available import table_names, title_of
from task_arithmetic.report.captions import table_caption

REFERENCE = os.path.relpath(os.path.join(workflow.basedir, "workflow/reference"))
TABLES = table_names(VIEW)


for table in TABLES:

    rule:
        name:
            table if table.startswith("table") else f"table_{table}"
        input:
            metrics="results/{run}/metrics.csv",
            reference=f"{REFERENCE}/{'targets' if table == 'targets' else 'paper'}.csv",
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
            settings=settings.view_settings(config),
        message:
            f"Make table {table}"
        shell:
            "task-arithmetic table --name {params.name:q} --metrics {input.metrics:q}"
            " --reference {input.reference:q} --settings {params.settings:q}"
            " --output-dir results/{wildcards.run:q}/tables --job {log:q} --code {params.code:q} &> {log:q}"
