# Draw a task of the embedded suite as a local dataset, in the form in which the hub gives one.
EMBEDDED = [
    task["embedded"] for task in config["definitions"]["tasks"].values() if "embedded" in task
]


rule embedded:
    output:
        folder=directory("results/shared/embedded/{task}"),
        sha256="results/shared/embedded/{task}.sha256",
    log:
        "results/shared/logs/embedded/{task}.log",
    wildcard_constraints:
        task=one_of(EMBEDDED),
    priority: 1000
    conda:
        "../../envs/torch.yaml"
    resources:
        mem_mb=memory("embedded"),
        runtime=minutes("embedded"),
    params:
        code=stage_code("embedded"),
    message:
        "Draw the embedded task {wildcards.task}"
    shell:
        "task-arithmetic embedded --task {wildcards.task:q} --output {output.folder:q} --job {log:q} --code {params.code:q} &> {log:q}"
