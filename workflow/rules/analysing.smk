# Analyses beside the paper's, of the encoder `focus`.
OF_FOCUS = {"encoder": VISION.focus or [], "mode": VISION.modes, "seed": SEEDS}
ANALYSED = []  # the metrics of those that this run has


# Cosine similarity and relative norm of the task vectors in each layer.
rule layers:
    input:
        encoder=ENCODER,
        vectors=of_tasks(VECTOR_SHA256),
    output:
        "results/{run}/metrics/layers/{encoder}/{mode}/{seed}.csv",
    log:
        "results/{run}/logs/layers/{encoder}/{mode}/{seed}.log",
    conda:
        "../../envs/torch.yaml"
    resources:
        **needs("layers"),
    params:
        code=stage_code("layers"),
        vectors=lambda wildcards, input: artifacts_of(input.vectors),
        tasks=tasks_of,
    message:
        "Compare the task vectors layer by layer: {wildcards.encoder}, {wildcards.mode}, seed {wildcards.seed}"
    shell:
        call("layers")


# The rank of the task vectors, and of what they were merged into.
rule spectra:
    input:
        encoder=ENCODER,
        vectors=of_tasks(VECTOR_SHA256),
        merged=of_methods(MERGED_SHA256),
        unified=of_methods(UNIFIED),
    output:
        "results/{run}/metrics/spectra/{encoder}/{mode}/{seed}.csv",
    log:
        "results/{run}/logs/spectra/{encoder}/{mode}/{seed}.log",
    priority: longest_first("spectra")
    conda:
        "../../envs/torch.yaml"
    threads: cores
    resources:
        **needs("spectra", gpus),
    params:
        code=stage_code("spectra"),
        vectors=lambda wildcards, input: artifacts_of(input.vectors),
        tasks=tasks_of,
        methods=lambda wildcards: optional("methods", of_methods("{method}")(wildcards)),
        merged=lambda wildcards, input: optional("merged", artifacts_of(input.merged)),
        unified=lambda wildcards, input: optional("unified", input.unified),
    message:
        "Measure the rank of the task vectors: {wildcards.encoder}, {wildcards.mode}, seed {wildcards.seed}"
    shell:
        call("spectra")


# How far each task vector lies in the subspace of what it was merged into.
rule alignment:
    input:
        vectors=of_tasks(VECTOR_SHA256),
        merged=of_methods(MERGED_SHA256),
        unified=of_methods(UNIFIED),
    output:
        "results/{run}/metrics/alignment/{encoder}/{mode}/{seed}.csv",
    log:
        "results/{run}/logs/alignment/{encoder}/{mode}/{seed}.log",
    priority: longest_first("alignment")
    conda:
        "../../envs/torch.yaml"
    threads: cores
    resources:
        **needs("alignment", gpus),
    params:
        code=stage_code("alignment"),
        vectors=lambda wildcards, input: artifacts_of(input.vectors),
        tasks=tasks_of,
        methods=lambda wildcards: optional("methods", of_methods("{method}")(wildcards)),
        merged=lambda wildcards, input: optional("merged", artifacts_of(input.merged)),
        unified=lambda wildcards, input: optional("unified", input.unified),
    message:
        "Align the task vectors with what they were merged into: {wildcards.encoder}, {wildcards.mode}, seed {wildcards.seed}"
    shell:
        call("alignment")


ANALYSED += [*analysed("layers"), *analysed("spectra"), *analysed("alignment")]
ANALYSED += [
    of_stage(analysis, OF_FOCUS)
    for analysis in ("interference", "pairs", "linearity")
    if analysis in VISION.analyses
]


# What each task vector does to the accuracies of all tasks.
rule interference:
    input:
        encoder=ENCODER,
        heads=of_tasks(HEAD),
        data=of_tasks(DATA),
        vectors=of_tasks(VECTOR_SHA256),
    output:
        "results/{run}/metrics/interference/{encoder}/{mode}/{seed}.csv",
    log:
        "results/{run}/logs/interference/{encoder}/{mode}/{seed}.log",
    priority: longest_first("interference")
    conda:
        "../../envs/torch.yaml"
    threads: cores
    resources:
        **needs("interference", gpus),
    params:
        code=code_of("interference"),
        vectors=lambda wildcards, input: artifacts_of(input.vectors),
        tasks=tasks_of,
        data_dirs=of_tasks(DATA_DIR),
        settings=sampled("interference"),
    message:
        "Measure what task vectors do to other tasks: {wildcards.encoder}, {wildcards.mode}, seed {wildcards.seed}"
    shell:
        call("interference")


# Disentanglement error of all pairs of tasks, at the alpha that addition chose.
rule pairs:
    input:
        encoder=ENCODER,
        heads=of_tasks(HEAD),
        data=of_tasks(DATA),
        vectors=of_tasks(VECTOR_SHA256),
        addition="results/{run}/metrics/addition/{encoder}/{mode}/{seed}.csv",
    output:
        "results/{run}/metrics/pairs/{encoder}/{mode}/{seed}.csv",
    log:
        "results/{run}/logs/pairs/{encoder}/{mode}/{seed}.log",
    priority: longest_first("pairs")
    conda:
        "../../envs/torch.yaml"
    threads: cores
    resources:
        **needs("pairs", gpus),
    params:
        code=code_of("pairs"),
        vectors=lambda wildcards, input: artifacts_of(input.vectors),
        tasks=tasks_of,
        data_dirs=of_tasks(DATA_DIR),
        settings=sampled("pairs"),
    message:
        "Measure the disentanglement error of all pairs: {wildcards.encoder}, {wildcards.mode}, seed {wildcards.seed}"
    shell:
        call("pairs", addition="{input.addition:q}")


# How linear the encoder is in each block's part of the task vectors.
rule linearity:
    input:
        encoder=ENCODER,
        heads=of_tasks(HEAD),
        data=of_tasks(DATA),
        vectors=of_tasks(VECTOR_SHA256),
    output:
        "results/{run}/metrics/linearity/{encoder}/{mode}/{seed}.csv",
    log:
        "results/{run}/logs/linearity/{encoder}/{mode}/{seed}.log",
    priority: longest_first("linearity")
    conda:
        "../../envs/torch.yaml"
    threads: cores
    resources:
        **needs("linearity", gpus),
    params:
        code=code_of("linearity"),
        vectors=lambda wildcards, input: artifacts_of(input.vectors),
        tasks=tasks_of,
        data_dirs=of_tasks(DATA_DIR),
        settings=sampled("linearity"),
    message:
        "Measure how linear parts of task vectors are: {wildcards.encoder}, {wildcards.mode}, seed {wildcards.seed}"
    shell:
        call("linearity")
