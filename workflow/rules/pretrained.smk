# Zero-shot accuracy of the pretrained encoder on one task, or on the control task.
rule pretrained:
    input:
        encoder=ENCODER,
        head=HEAD,
        data=DATA,
    output:
        PRETRAINED,
    log:
        "results/{run}/logs/pretrained/{encoder}/{task}.log",
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
        settings=lambda wildcards: settings.pretrained_settings(config, wildcards.encoder),
    message:
        "Evaluate {wildcards.encoder} on {wildcards.task}, as it was pretrained"
    shell:
        "task-arithmetic pretrained --encoder-dir results/shared/encoders/{wildcards.encoder:q}"
        " --head {input.head:q} --data-dir results/shared/data/{wildcards.task:q}"
        " --encoder {wildcards.encoder:q} --task {wildcards.task:q}"
        " --settings {params.settings:q} --output {output:q} --job {log:q} --code {params.code:q} &> {log:q}"
