# Encoders, heads, fine-tuning and task vectors.


# Take a pretrained CLIP through open_clip: theta_0 of the image tower, and the text tower; or a T5
# through transformers.
rule encoder:
    input:
        lambda wildcards: settings.encoder_files(wildcards.encoder, ENCODERS[wildcards.encoder]),
    output:
        description=ENCODER,
        towers=expand(
            "results/shared/encoders/{{encoder}}/{tower}_tower.safetensors",
            tower=["image", "text"],
        ),
    log:
        "results/shared/logs/encoder/{encoder}.log",
    wildcard_constraints:
        encoder=one_of(VISION.encoders),
    priority: 1000
    conda:
        "../../envs/torch.yaml"
    resources:
        **needs("encoder"),
    params:
        code=code_of("encoder"),
        settings=lambda wildcards: settings.encoder_settings(ENCODERS[wildcards.encoder]),
        download=lambda wildcards, input: (
            ["--download", *input] if set(input) <= set(FROM_HUB) else []
        ),
    message:
        "Take the pretrained encoder {wildcards.encoder}"
    shell:
        call("encoder", output="results/shared/encoders/{wildcards.encoder:q}")


use rule encoder as text_encoder with:
    output:
        description=ENCODER,
        weights="results/shared/encoders/{encoder}/model.safetensors",
        tokenizer="results/shared/encoders/{encoder}/tokenizer.json",
    wildcard_constraints:
        encoder=one_of(LANGUAGE.encoders),


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
        **needs("head"),
        gpu=lambda wildcards: gpus() * (wildcards.encoder in VISION.encoders),  # texts need none
    params:
        code=code_of("head"),
        settings=lambda wildcards: settings.head_settings(
            TASKS[wildcards.task], ENCODERS[wildcards.encoder].prompts
        ),
    message:
        "Make the head of {wildcards.task} for {wildcards.encoder}"
    shell:
        call("head")


# What is published is not fine-tuned: a path goes on with this encoder's mode and task.
PUBLISHED = one_of("/".join(names) for names in experiment.checkpoints)
TRAINED_HERE = f"(?!({PUBLISHED})/)({one_of(ENCODERS)})"


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
    wildcard_constraints:
        encoder=TRAINED_HERE,
    priority: longest_first("finetune")
    conda:
        "../../envs/torch.yaml"
    threads: cores
    resources:
        **needs("finetune", gpus),
    params:
        code=code_of("finetune"),
        settings=lambda wildcards: settings.finetune_settings(
            experiment, wildcards.mode, wildcards.encoder, wildcards.task
        ),
    message:
        "Fine-tune {wildcards.encoder} on {wildcards.task}: {wildcards.mode}, seed {wildcards.seed}"
    shell:
        call("finetune", output="{output.weights:q}", log="{output.log:q}")


# The task vector: fine-tuned minus pretrained weights, of the tensors that moved.
rule vector:
    input:
        encoder=ENCODER,
        finetuned=FINETUNED_SHA256,
    output:
        vector=VECTOR,
        sha256=VECTOR_SHA256,
    log:
        "results/{run}/logs/vector/{encoder}/{mode}/{task}/{seed}.log",
    wildcard_constraints:
        encoder=TRAINED_HERE,
    conda:
        "../../envs/torch.yaml"
    resources:
        **needs("vector"),
    params:
        code=stage_code("vector"),
        finetuned=FINETUNED_SHA256.replace(".sha256", ".safetensors"),
    message:
        "Extract the task vector of {wildcards.task}: {wildcards.encoder}, {wildcards.mode}, seed {wildcards.seed}"
    shell:
        call("vector", output="{output.vector:q}")


# The task vector of fine-tuned weights that somebody has published, of a hub or local.
rule published:
    input:
        encoder=ENCODER,
        checkpoint=lambda wildcards: settings.published_files(
            experiment, wildcards.encoder, wildcards.mode, wildcards.task
        ),
    output:
        vector=VECTOR,
        sha256=VECTOR_SHA256,
    log:
        "results/{run}/logs/published/{encoder}/{mode}/{task}/{seed}.log",
    wildcard_constraints:
        encoder=f"(?=({PUBLISHED})/)({one_of(ENCODERS)})",
    conda:
        "../../envs/torch.yaml"
    resources:
        **needs("published"),
    params:
        code=code_of("published"),
        settings=lambda wildcards: settings.published_settings(
            experiment, wildcards.mode, wildcards.encoder
        ),
        files=lambda wildcards, input: (
            [] if set(input.checkpoint) <= set(FROM_HUB) else ["--files", *input.checkpoint]
        ),
        download=lambda wildcards, input: (
            ["--download", *input.checkpoint] if set(input.checkpoint) <= set(FROM_HUB) else []
        ),
    message:
        "Take the published task vector of {wildcards.task}: {wildcards.encoder}, {wildcards.mode}"
    shell:
        call("published", output="{output.vector:q}")
