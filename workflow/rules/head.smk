# The frozen zero-shot classifier of one task for one encoder, from class names and templates; of
# texts, the tokens of its prompts and answers.
rule head:
    input:
        encoder=ENCODER,
        data=DATA,
    output:
        HEAD,
    log:
        "results/shared/logs/head/{encoder}/{task}.log",
    priority: 1000
    conda:
        "../../envs/torch.yaml"
    threads: cores
    resources:
        gpu=lambda wildcards: gpus() * (wildcards.encoder in VISION["encoders"]),  # texts need none
        mem_mb=memory("head"),
        runtime=minutes("head"),
    params:
        code=code_of("head"),
        settings=lambda wildcards: settings.head_settings(config, wildcards.task, wildcards.encoder),
    message:
        "Make the head of {wildcards.task} for {wildcards.encoder}"
    shell:
        "task-arithmetic head --encoder-dir results/shared/encoders/{wildcards.encoder:q}"
        " --data-dir results/shared/data/{wildcards.task:q} --settings {params.settings:q}"
        " --output {output:q} --job {log:q} --code {params.code:q} &> {log:q}"
