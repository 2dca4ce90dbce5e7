# Fine-tune one encoder on one task in one mode, with one seed: the tensors that moved.
rule finetune:
    input:
        encoder=ENCODER,
        head=HEAD,
        data=DATA,
    output:
        weights="results/{run}/finetuned/{encoder}/{mode}/{task}/{seed}.safetensors",
        log="results/{run}/finetuned/{encoder}/{mode}/{task}/{seed}.csv",
        sha256=FINETUNED_SHA256,
    log:
        "results/{run}/logs/finetune/{encoder}/{mode}/{task}/{seed}.log",
    priority: longest_first("finetune")
    conda:
        "../../envs/torch.yaml"
    threads: cores
    resources:
        gpu=gpus,
        mem_mb=memory("finetune"),
        runtime=minutes("finetune"),
    params:
        code=code_of("finetune"),
        settings=lambda wildcards: settings.finetune_settings(
            config, wildcards.mode, wildcards.encoder, wildcards.task
        ),
    message:
        "Fine-tune {wildcards.encoder} on {wildcards.task}: {wildcards.mode}, seed {wildcards.seed}"
    shell:
        "task-arithmetic finetune --encoder-dir results/shared/encoders/{wildcards.encoder:q}"
        " --head {input.head:q} --data-dir results/shared/data/{wildcards.task:q}"
        " --encoder {wildcards.encoder:q} --mode {wildcards.mode:q} --task {wildcards.task:q}"
        " --seed {wildcards.seed:q} --settings {params.settings:q}"
        " --output {output.weights:q} --log {output.log:q} --job {log:q} --code {params.code:q} &> {log:q}"
