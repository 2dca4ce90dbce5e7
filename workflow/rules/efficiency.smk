# What a training step costs in each mode (Table 4), measured on the first task's examples. The job
# takes every core, so that nothing runs beside it.
rule efficiency:
    input:
        encoder=ENCODER,
        head=lambda wildcards: HEAD.replace("{task}", tasks_of(wildcards)[0]),
        data=lambda wildcards: DATA.replace("{task}", tasks_of(wildcards)[0]),
    output:
        "results/{run}/metrics/efficiency/{encoder}/{mode}.csv",
    log:
        "results/{run}/logs/efficiency/{encoder}/{mode}.log",
    priority: longest_first("efficiency")
    conda:
        "../../envs/torch.yaml"
    threads: every_core
    resources:
        gpu=gpus,
        mem_mb=memory("efficiency"),
        runtime=minutes("efficiency"),
    params:
        code=code_of("efficiency"),
        task=lambda wildcards: tasks_of(wildcards)[0],
        settings=lambda wildcards: settings.efficiency_settings(
            config, wildcards.mode, wildcards.encoder
        ),
    message:
        "Time training steps of {wildcards.encoder}, {wildcards.mode}"
    shell:
        "task-arithmetic efficiency --encoder-dir results/shared/encoders/{wildcards.encoder:q}"
        " --head {input.head:q} --data-dir results/shared/data/{params.task:q}"
        " --encoder {wildcards.encoder:q} --mode {wildcards.mode:q}"
        " --settings {params.settings:q} --output {output:q} --job {log:q} --code {params.code:q} &> {log:q}"
