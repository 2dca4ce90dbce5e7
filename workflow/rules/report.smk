# The report: one HTML page of tables, figures, configuration and timings.
VIEWS = [
    expand("results/{run}/tables/{name}.csv", name=TABLES, allow_missing=True),
    expand("results/{run}/figures/{name}.png", name=FIGURES, allow_missing=True),
]


rule config:
    output:
        "results/{run}/config.yaml",
    log:
        "results/{run}/logs/config/config.log",
    conda:
        "../../envs/torch.yaml"
    params:
        settings=settings.as_yaml(config),
    message:
        "Keep the configuration"
    shell:
        "printf '%s' {params.settings:q} > {output} 2> {log}"


# Jobs, seconds and peak memory of each stage, summed up from what Snakemake measured of each job
# (second line of a .tsv: column 1 seconds, column 3 peak resident memory in MiB). Stages whose
# results runs share count with the tasks and encoders of this run.
rule timings:
    input:
        VIEWS,
    output:
        "results/{run}/timings.csv",
    log:
        "results/{run}/logs/timings/timings.log",
    conda:
        "../../envs/torch.yaml"
    params:
        own="results/{run}/timings",
        shared=[
            *expand("results/shared/timings/embedded/{task}.tsv", task=EMBEDDED),
            *(
                f"results/shared/timings/download/{kind}/{name}.tsv"
                for kind, names in FROM_HUB.items()
                for name in names
            ),
            *expand("results/shared/timings/data/{task}.tsv", task=[*TASKS, CONTROL]),
            *expand("results/shared/timings/encoder/{encoder}.tsv", encoder=ENCODERS),
            *expand(
                "results/shared/timings/head/{encoder}/{task}.tsv",
                encoder=ENCODERS,
                task=[*TASKS, CONTROL],
            ),
        ],
    message:
        "Sum up the timings"
    shell:
        "find {params.own} {params.shared} -name '*.tsv' 2> {log}"
        " | xargs awk -F '\t' -v OFS=, '"
        "   FNR == 2 {{"
        '     split(FILENAME, folder, "/"); stage = folder[4];'
        "     jobs[stage]++; seconds[stage] += $1; if ($3 > peak[stage]) peak[stage] = $3"
        "   }}"
        "   END {{ for (stage in jobs) print stage, jobs[stage], seconds[stage], peak[stage] }}'"
        " | sort | sed '1i stage,jobs,seconds,peak_memory_mib' > {output}"


rule report:
    input:
        VIEWS,
        metrics="results/{run}/metrics.csv",
        config="results/{run}/config.yaml",
        timings="results/{run}/timings.csv",
    output:
        report(
            "results/{run}/report.html",
            caption="../report/report.rst",
            category="Report",
        ),
    log:
        "results/{run}/logs/report/report.log",
    conda:
        "../../envs/torch.yaml"
    params:
        settings=settings.view_settings(config),
    message:
        "Write the report"
    shell:
        "task-arithmetic report --metrics {input.metrics}"
        " --tables-dir results/{wildcards.run}/tables --figures-dir results/{wildcards.run}/figures"
        " --settings {params.settings:q} --resolved-config {input.config} --timings {input.timings}"
        " --output {output} &> {log}"
