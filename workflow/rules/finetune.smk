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
            config, wildcards.mode, wildcards.encoder
        ),
    message:
        "Fine-tune {wildcards.encoder} on {wildcards.task}: {wildcards.mode}, seed {wildcards.seed}"
    shell:
        "task-arithmetic finetune --encoder-dir results/shared/encoders/{wildcards.encoder}"
        " --head {input.head} --data-dir results/shared/data/{wildcards.task}"
        " --encoder {wildcards.encoder} --mode {wildcards.mode} --task {wildcards.task}"
        " --seed {wildcards.seed} --settings {params.settings:q}"
        " --output {output.weights} --log {output.log} --job {log} --code {params.code} &> {log}"
