# Analyses beside the paper's, of the encoder `focus`.
OF_FOCUS = {"encoder": VISION.focus or [], "mode": VISION.modes, "seed": SEEDS}
ANALYSED = []  # the metrics of those that this run has
if "number_of_tasks" in VISION.analyses:
    ANALYSED += of_stage(
        "number_of_tasks", {**OF_FOCUS, "method": [*SUBSETS]}, name="{method}/{seed}"
    )
if "retention" in VISION.analyses:
    merged = VISION.mergers if VISION.focus in VISION.merged else ()
    labels = [SUM, *(merger.label for merger in merged)]
    ANALYSED += of_stage("retention", {**OF_FOCUS, "method": labels}, name="{method}/{seed}")


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


# Task addition of random subsets of the tasks, each merged in memory.
rule number_of_tasks:
    input:
        encoder=ENCODER,
        heads=of_tasks(HEAD),
        data=of_tasks(DATA),
        vectors=of_tasks(VECTOR_SHA256),
        single_task=of_tasks(SINGLE_TASK),
    output:
        "results/{run}/metrics/number_of_tasks/{encoder}/{mode}/{method}/{seed}.csv",
    log:
        "results/{run}/logs/number_of_tasks/{encoder}/{mode}/{method}/{seed}.log",
    wildcard_constraints:
        method=one_of(SUBSETS),
    priority: longest_first("number_of_tasks")
    conda:
        "../../envs/torch.yaml"
    threads: cores
    resources:
        **needs("number_of_tasks", gpus),
    params:
        code=code_of_method("number-of-tasks"),
        vectors=lambda wildcards, input: artifacts_of(input.vectors),
        tasks=tasks_of,
        data_dirs=of_tasks(DATA_DIR),
        method=of_method,
        settings=lambda wildcards: settings.subset_settings(
            experiment, wildcards.mode, wildcards.encoder, wildcards.method
        ),
    message:
        "Merge subsets of the tasks by {wildcards.method}: {wildcards.encoder}, {wildcards.mode}, seed {wildcards.seed}"
    shell:
        call("number-of-tasks")


# Accuracy of a unified model on the control task, at the alpha that addition chose.
rule retention:
    input:
        encoder=ENCODER,
        head=expand(HEAD, task=CONTROL, allow_missing=True),
        data=expand(DATA, task=CONTROL),
        vectors=lambda wildcards: (
            of_tasks(VECTOR_SHA256)(wildcards) if wildcards.method == SUM else MERGED_SHA256
        ),
        addition=lambda wildcards: (
            "results/{run}/metrics/addition/{encoder}/{mode}/"
            + "{method}/" * (wildcards.method != SUM)
            + "{seed}.csv"
        ),
    output:
        "results/{run}/metrics/retention/{encoder}/{mode}/{method}/{seed}.csv",
    log:
        "results/{run}/logs/retention/{encoder}/{mode}/{method}/{seed}.log",
    wildcard_constraints:
        method=one_of([SUM, *MERGERS]),
    priority: longest_first("retention")
    conda:
        "../../envs/torch.yaml"
    threads: cores
    resources:
        **needs("retention", gpus),
    params:
        code=code_of("retention"),
        vectors=lambda wildcards, input: artifacts_of(input.vectors),
        control=CONTROL,
        method=of_method,
        settings=lambda wildcards: settings.single_task_settings(
            experiment, wildcards.mode, wildcards.encoder
        ),
    message:
        "Evaluate what {wildcards.method} merged on {params.control}: {wildcards.encoder}, {wildcards.mode}, seed {wildcards.seed}"
    shell:
        call(
            "retention",
            data_dir="results/shared/data/{params.control:q}",
            addition="{input.addition:q}",
        )
