# Analyses beside the paper's, of the encoder `focus`.
ANALYSED = []  # the metrics of those that this run has
FOCUS = {"encoder": VISION.focus or [], "mode": VISION.modes, "seed": SEEDS}
SUBSETS = {merger.label: merger for merger in VISION.subsets.mergers} if VISION.subsets else {}
if "number_of_tasks" in VISION.analyses:
    ANALYSED += of_stage("number_of_tasks", {**FOCUS, "method": [*SUBSETS]}, name="{method}/{seed}")
if "retention" in VISION.analyses:
    merged = VISION.mergers if VISION.focus in VISION.merged else ()
    labels = [SUM, *(merger.label for merger in merged)]
    ANALYSED += of_stage("retention", {**FOCUS, "method": labels}, name="{method}/{seed}")


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
        code=lambda wildcards: stage_code("number-of-tasks", SUBSETS[wildcards.method].method.name),
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
