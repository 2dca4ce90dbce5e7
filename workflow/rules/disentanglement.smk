# Disentanglement error (Equation 2) of two tasks on a grid of coefficients, of the representation
# and of the classification (Figures 6 and 8).
rule disentanglement:
    input:
        encoder=ENCODER,
        heads=lambda wildcards: expand(HEAD, task=PAIRS[wildcards.pair], allow_missing=True),
        data=lambda wildcards: expand(DATA, task=PAIRS[wildcards.pair]),
        vectors=lambda wildcards: expand(
            VECTOR_SHA256, task=PAIRS[wildcards.pair], allow_missing=True
        ),
    output:
        "results/{run}/metrics/disentanglement/{encoder}/{mode}/{seed}/{pair}.csv",
    log:
        "results/{run}/logs/disentanglement/{encoder}/{mode}/{seed}/{pair}.log",
    priority: longest_first("disentanglement")
    conda:
        "../../envs/torch.yaml"
    threads: cores
    resources:
        gpu=gpus,
        mem_mb=memory("disentanglement"),
        runtime=minutes("disentanglement"),
    params:
        code=stage_code("disentanglement"),
        vectors=lambda wildcards, input: artifacts_of(input.vectors),
        tasks=lambda wildcards: PAIRS[wildcards.pair],
        data_dirs=lambda wildcards: expand(DATA_DIR, task=PAIRS[wildcards.pair]),
        settings=lambda wildcards: settings.disentanglement_settings(config, wildcards.mode),
    message:
        "Measure the disentanglement error of {params.tasks}: {wildcards.encoder}, {wildcards.mode}, seed {wildcards.seed}"
    shell:
        "task-arithmetic disentanglement"
        " --encoder-dir results/shared/encoders/{wildcards.encoder:q}"
        " --encoder {wildcards.encoder:q} --mode {wildcards.mode:q} --seed {wildcards.seed:q}"
        " --tasks {params.tasks:q} --heads {input.heads:q} --data-dirs {params.data_dirs:q}"
        " --vectors {params.vectors:q} --settings {params.settings:q} --output {output:q} --job {log:q} --code {params.code:q} &> {log:q}"
