# Zero-shot accuracy of the pretrained encoder on every task and on the control task.
rule pretrained:
    input:
        encoder=ENCODER,
        heads=of_tasks(HEAD, control=True),
        data=of_tasks(DATA, control=True),
    output:
        "results/{run}/metrics/pretrained/{encoder}.csv",
    log:
        "results/{run}/logs/pretrained/{encoder}.log",
    priority: longest_first("pretrained")
    conda:
        "../../envs/torch.yaml"
    threads: cores
    resources:
        gpu=gpus,
        mem_mb=memory("pretrained"),
        runtime=minutes("pretrained"),
    params:
        code=code_of("pretrained"),
        tasks=lambda wildcards: tasks_of(wildcards, control=True),
        data_dirs=of_tasks(DATA_DIR, control=True),
        settings=lambda wildcards: settings.pretrained_settings(config, wildcards.encoder),
    message:
        "Evaluate {wildcards.encoder} as it was pretrained"
    shell:
        "task-arithmetic pretrained --encoder-dir results/shared/encoders/{wildcards.encoder:q}"
        " --encoder {wildcards.encoder:q} --tasks {params.tasks:q} --heads {input.heads:q}"
        " --data-dirs {params.data_dirs:q} --settings {params.settings:q} --output {output:q} --job {log:q} --code {params.code:q} &> {log:q}"
