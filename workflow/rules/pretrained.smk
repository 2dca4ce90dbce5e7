# Zero-shot accuracy of the pretrained encoder on every task and on the control task.
rule pretrained:
    input:
        encoder=ENCODER,
        heads=expand(HEAD, task=[*TASKS, CONTROL], allow_missing=True),
        data=expand(DATA, task=[*TASKS, CONTROL]),
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
        code=stage_code("pretrained"),
        tasks=[*TASKS, CONTROL],
        data_dirs=[*DATA_DIRS, f"results/shared/data/{CONTROL}"],
        settings=settings.pretrained_settings(config),
    message:
        "Evaluate {wildcards.encoder} as it was pretrained"
    shell:
        "task-arithmetic pretrained --encoder-dir results/shared/encoders/{wildcards.encoder}"
        " --encoder {wildcards.encoder} --tasks {params.tasks} --heads {input.heads}"
        " --data-dirs {params.data_dirs} --settings {params.settings:q} --output {output} --job {log} --code {params.code} &> {log}"
