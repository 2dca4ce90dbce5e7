# Get a task's or an encoder's files from the hub into its client's cache, and record what was got.
# Runs where Snakemake runs: compute nodes often have no connection.
FROM_HUB = {
    kind: [name for name in names if settings.download_record(config, kind, name)]
    for kind, names in (("tasks", TASKS), ("encoders", ENCODERS))
}


rule download:
    output:
        f"{settings.DOWNLOADS_DIR}/{{kind}}/{{name}}.json",
    log:
        "results/shared/logs/download/{kind}/{name}.log",
    wildcard_constraints:
        kind="tasks|encoders",
        name=one_of([*FROM_HUB["tasks"], *FROM_HUB["encoders"]]),
    priority: 2000
    localrule: True
    conda:
        "../../envs/torch.yaml"
    params:
        code=stage_code("download"),
        settings=lambda wildcards: settings.download_settings(
            config, wildcards.kind, wildcards.name
        ),
    message:
        "Download {wildcards.name}"
    shell:
        "task-arithmetic download --settings {params.settings:q} --output {output:q} --job {log:q} --code {params.code:q} &> {log:q}"
