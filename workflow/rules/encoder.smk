# Take a pretrained CLIP through open_clip: theta_0 of the image tower, and the text tower.
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
    priority: 1000
    conda:
        "../../envs/torch.yaml"
    resources:
        mem_mb=memory("encoder"),
        runtime=minutes("encoder"),
    params:
        code=stage_code("encoder"),
        settings=lambda wildcards: settings.encoder_settings(config, wildcards.encoder),
        download=lambda wildcards, input: (
            f"--download {input}" if wildcards.encoder in FROM_HUB["encoders"] else ""
        ),
    message:
        "Take the pretrained encoder {wildcards.encoder}"
    shell:
        "task-arithmetic encoder --encoder {wildcards.encoder} --settings {params.settings:q}"
        " {params.download}"
        " --output results/shared/encoders/{wildcards.encoder} --job {log} --code {params.code} &> {log}"
