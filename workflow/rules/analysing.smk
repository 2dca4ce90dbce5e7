# Analyses beside the paper's, of the encoder `focus`.
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
