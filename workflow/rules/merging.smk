# Merging task vectors: addition, by the sum or by any method, and negation.


# Task addition (Tables 1, 2 and 5, Figure 9): the unified model theta_0 + alpha * sum of task vectors.
rule addition:
    input:
        encoder=ENCODER,
        heads=of_tasks(HEAD),
        data=of_tasks(DATA),
        vectors=of_tasks(VECTOR_SHA256),
        single_task=of_tasks(SINGLE_TASK),
    output:
        rows="results/{run}/metrics/addition/{encoder}/{mode}/{seed}.csv",
        outcomes="results/{run}/metrics/addition/{encoder}/{mode}/{seed}.safetensors",
    log:
        "results/{run}/logs/addition/{encoder}/{mode}/{seed}.log",
    priority: longest_first("addition")
    conda:
        "../../envs/torch.yaml"
    threads: cores
    resources:
        **needs("addition", gpus),
    params:
        code=code_of("addition"),
        vectors=lambda wildcards, input: artifacts_of(input.vectors),
        tasks=tasks_of,
        data_dirs=of_tasks(DATA_DIR),
        method=[],
        settings=lambda wildcards: settings.addition_settings(
            experiment, wildcards.mode, wildcards.encoder
        ),
    message:
        "Add the task vectors: {wildcards.encoder}, {wildcards.mode}, seed {wildcards.seed}"
    shell:
        call("addition", **EVALUATED)


# Post-hoc linearization: nonlinear's task vectors through f_lin, normalized by their own accuracy
# there.
use rule addition as posthoc with:
    input:
        encoder=ENCODER,
        heads=of_tasks(HEAD),
        data=of_tasks(DATA),
        vectors=of_tasks(VECTOR_SHA256.replace("{mode}", "nonlinear")),
        single_task=of_tasks("results/{run}/metrics/kernel/{encoder}/nonlinear/{task}/{seed}.csv"),
    wildcard_constraints:
        mode="posthoc",
        encoder=one_of(VISION.encoders),


# Merge the task vectors of one encoder, mode and seed by a method other than the sum.
rule merge:
    input:
        vectors=of_tasks(VECTOR_SHA256),
        statistics=lambda wildcards: (
            of_tasks(STATISTICS_SHA256)(wildcards) if MERGERS[wildcards.method].collects else []
        ),
        encoder=lambda wildcards: (
            ENCODER.replace("{encoder}", wildcards.encoder)
            if MERGERS[wildcards.method].layer_scaled
            else []
        ),
    output:
        weights=MERGED_SHA256.replace(".sha256", ".safetensors"),
        log=MERGED_LOG,
        sha256=MERGED_SHA256,
    log:
        "results/{run}/logs/merge/{encoder}/{mode}/{method}/{seed}.log",
    wildcard_constraints:
        method=one_of(set(MERGERS) - set(LEARNERS)),
    priority: longest_first("merge")
    conda:
        "../../envs/torch.yaml"
    threads: cores
    resources:
        **needs("merge", gpus),
    params:
        code=code_of_method("merge"),
        vectors=lambda wildcards, input: artifacts_of(input.vectors),
        statistics=lambda wildcards, input: (
            ["--statistics", *artifacts_of(input.statistics)] if input.statistics else []
        ),
        geometry=lambda wildcards, input: (["--geometry", input.encoder] if input.encoder else []),
        tasks=tasks_of,
        method=lambda wildcards: ["--method", wildcards.method],
        settings=lambda wildcards: settings.merge_settings(
            experiment, wildcards.encoder, wildcards.method
        ),
    message:
        "Merge the task vectors by {wildcards.method}: {wildcards.encoder}, {wildcards.mode}, seed {wildcards.seed}"
    shell:
        call("merge", output="{output.weights:q}", log="{output.log:q}")


# The same by a method that learns from examples, for which it reads what addition reads.
rule merge_on_data:
    input:
        encoder=ENCODER,
        heads=of_tasks(HEAD),
        data=of_tasks(DATA),
        vectors=of_tasks(VECTOR_SHA256),
        single_task=of_tasks(SINGLE_TASK),
    output:
        weights=MERGED_SHA256.replace(".sha256", ".safetensors"),
        log=MERGED_LOG,
        sha256=MERGED_SHA256,
    log:
        "results/{run}/logs/merge/{encoder}/{mode}/{method}/{seed}.log",
    wildcard_constraints:
        method=one_of(LEARNERS),
    priority: longest_first("merge")
    conda:
        "../../envs/torch.yaml"
    threads: cores
    resources:
        **needs("merge", gpus),
    params:
        code=code_of_method("merge-on-data"),
        vectors=lambda wildcards, input: artifacts_of(input.vectors),
        data_dirs=of_tasks(DATA_DIR),
        tasks=tasks_of,
        method=lambda wildcards: ["--method", wildcards.method],
        settings=lambda wildcards: settings.merge_settings(
            experiment, wildcards.encoder, wildcards.method
        ),
    message:
        "Merge the task vectors by {wildcards.method}: {wildcards.encoder}, {wildcards.mode}, seed {wildcards.seed}"
    shell:
        call("merge-on-data", output="{output.weights:q}", log="{output.log:q}")


# Task addition of what was merged: theta_0 + alpha * the merged vector, over its method's grid.
use rule addition as merged with:
    input:
        encoder=ENCODER,
        heads=of_tasks(HEAD),
        data=of_tasks(DATA),
        vectors=MERGED_SHA256,
        single_task=of_tasks(SINGLE_TASK),
    output:
        rows=UNIFIED,
        outcomes=UNIFIED.replace(".csv", ".safetensors"),
    log:
        "results/{run}/logs/addition/{encoder}/{mode}/{method}/{seed}.log",
    priority: longest_first("merged")
    resources:
        **needs("merged", gpus),
    params:
        code=code_of("addition"),
        vectors=lambda wildcards, input: artifacts_of([input.vectors]),
        tasks=tasks_of,
        data_dirs=of_tasks(DATA_DIR),
        method=lambda wildcards: ["--method", wildcards.method],
        settings=lambda wildcards: settings.merged_settings(
            experiment, wildcards.mode, wildcards.encoder, wildcards.method
        ),
    message:
        "Evaluate the vectors merged by {wildcards.method}: {wildcards.encoder}, {wildcards.mode}, seed {wildcards.seed}"


# Task negation: theta_0 - alpha * tau_t forgets one task while the control task keeps its accuracy.
rule negation:
    input:
        encoder=ENCODER,
        head=HEAD,
        data=DATA,
        vector=VECTOR_SHA256,
        pretrained=expand(PRETRAINED, task=CONTROL, allow_missing=True),
        control_head=expand(HEAD, task=CONTROL, allow_missing=True),
        control_data=expand(DATA, task=CONTROL),
    output:
        rows="results/{run}/metrics/negation/{encoder}/{mode}/{task}/{seed}.csv",
        outcomes="results/{run}/metrics/negation/{encoder}/{mode}/{task}/{seed}.safetensors",
    log:
        "results/{run}/logs/negation/{encoder}/{mode}/{task}/{seed}.log",
    priority: longest_first("negation")
    conda:
        "../../envs/torch.yaml"
    threads: cores
    resources:
        **needs("negation", gpus),
    params:
        code=code_of("negation"),
        vector=VECTOR,
        control=CONTROL,
        settings=lambda wildcards: settings.negation_settings(
            experiment, wildcards.mode, wildcards.encoder
        ),
    message:
        "Negate the task vector of {wildcards.task}: {wildcards.encoder}, {wildcards.mode}, seed {wildcards.seed}"
    shell:
        call("negation", **EVALUATED, control_data_dir="results/shared/data/{params.control:q}")
