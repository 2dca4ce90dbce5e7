# The paper's tables, and ours beside them, as CSV, Markdown and LaTeX: one rule for each, because
# each has its own caption in Snakemake's report.
import json

from task_arithmetic.available import table_names

REFERENCE = os.path.relpath(os.path.join(workflow.basedir, "workflow/reference"))
TABLES = table_names(json.loads(settings.view_settings(config)))


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
                caption=f"../report/{table}.rst",
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
            settings=settings.view_settings(config),
        message:
            f"Make table {table}"
        shell:
            "task-arithmetic table --name {params.name:q} --metrics {input.metrics:q}"
            " --reference {input.reference:q} --settings {params.settings:q}"
            " --output-dir results/{wildcards.run:q}/tables --job {log:q} --code {params.code:q} &> {log:q}"
