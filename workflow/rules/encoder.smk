# Take a pretrained CLIP through open_clip: theta_0 of the image tower, and the text tower; or a T5
# through transformers.
rule encoder:
    input:
        lambda wildcards: settings.encoder_files(config, wildcards.encoder),
    output:
        description=ENCODER,
        towers=expand(
            "results/shared/encoders/{{encoder}}/{tower}_tower.safetensors",
            tower=["image", "text"],
        ),
    log:
        "results/shared/logs/encoder/{encoder}.log",
    wildcard_constraints:
        encoder=one_of(VISION["encoders"]),
    priority: 1000
    conda:
        "../../envs/torch.yaml"
    resources:
        mem_mb=memory("encoder"),
        runtime=minutes("encoder"),
    params:
        code=code_of("encoder"),
        settings=lambda wildcards: settings.encoder_settings(config, wildcards.encoder),
        download=lambda wildcards, input: (
            ["--download", *input] if wildcards.encoder in FROM_HUB["encoders"] else []
        ),
    message:
        "Take the pretrained encoder {wildcards.encoder}"
    shell:
        "task-arithmetic encoder --encoder {wildcards.encoder:q} --settings {params.settings:q}"
        " {params.download:q}"
        " --output results/shared/encoders/{wildcards.encoder:q} --job {log:q} --code {params.code:q} &> {log:q}"


use rule encoder as text_encoder with:
    output:
        description=ENCODER,
        weights="results/shared/encoders/{encoder}/model.safetensors",
        tokenizer="results/shared/encoders/{encoder}/tokenizer.json",
    wildcard_constraints:
        encoder=one_of(LANGUAGE["encoders"]),
