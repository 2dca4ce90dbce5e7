# Zero-shot accuracy of the pretrained encoder on every task and on the control task.
def evaluated(wildcards):
    """The tasks of an encoder's modality, and of images the control task."""
    return [*tasks_of(wildcards), *(CONTROL if wildcards.encoder in VISION["encoders"] else [])]


rule pretrained:
    input:
        encoder=ENCODER,
        heads=lambda wildcards: expand(HEAD, task=evaluated(wildcards), allow_missing=True),
        data=lambda wildcards: expand(DATA, task=evaluated(wildcards)),
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
        tasks=lambda wildcards: evaluated(wildcards),
        data_dirs=lambda wildcards: expand(DATA_DIR, task=evaluated(wildcards)),
        settings=lambda wildcards: settings.pretrained_settings(config, wildcards.encoder),
    message:
        "Evaluate {wildcards.encoder} as it was pretrained"
    shell:
        "task-arithmetic pretrained --encoder-dir results/shared/encoders/{wildcards.encoder}"
        " --encoder {wildcards.encoder} --tasks {params.tasks} --heads {input.heads}"
        " --data-dirs {params.data_dirs} --settings {params.settings:q} --output {output} --job {log} --code {params.code} &> {log}"
