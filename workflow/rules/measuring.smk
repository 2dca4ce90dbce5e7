# Measuring single models and task vectors.


# Zero-shot accuracy of the pretrained encoder on one task, or on the control task.
rule pretrained:
    input:
        encoder=ENCODER,
        head=HEAD,
        data=DATA,
    output:
        rows=PRETRAINED,
        outcomes=PRETRAINED.replace(".csv", ".safetensors"),
    log:
        "results/{run}/logs/pretrained/{encoder}/{task}.log",
    priority: longest_first("pretrained")
    conda:
        "../../envs/torch.yaml"
    threads: cores
    resources:
        **needs("pretrained", gpus),
    params:
        code=code_of("pretrained"),
        settings=lambda wildcards: settings.pretrained_settings(experiment, wildcards.encoder),
    message:
        "Evaluate {wildcards.encoder} on {wildcards.task}, as it was pretrained"
    shell:
        call("pretrained", **EVALUATED)


# Accuracy of one individual model, theta_0 + tau_t, on its own task (Figures 5 and 7). Each task is a
# job of its own here and in other rules: one more task evaluates none of the others again.
rule single_task:
    input:
        encoder=ENCODER,
        head=HEAD,
        data=DATA,
        vector=VECTOR_SHA256,
    output:
        rows="results/{run}/metrics/single_task/{encoder}/{mode}/{task}/{seed}.csv",
        outcomes="results/{run}/metrics/single_task/{encoder}/{mode}/{task}/{seed}.safetensors",
    log:
        "results/{run}/logs/single_task/{encoder}/{mode}/{task}/{seed}.log",
    priority: longest_first("single_task")
    conda:
        "../../envs/torch.yaml"
    threads: cores
    resources:
        **needs("single_task", gpus),
    params:
        code=code_of("single-task"),
        vector=VECTOR,
        settings=lambda wildcards: settings.single_task_settings(
            experiment, wildcards.mode, wildcards.encoder
        ),
    message:
        "Evaluate {wildcards.encoder} fine-tuned on {wildcards.task}: {wildcards.mode}, seed {wildcards.seed}"
    shell:
        call("single-task", **EVALUATED)


# What layers read in an individual model: the Gram matrices of their inputs, for RegMean.
rule statistics:
    input:
        encoder=ENCODER,
        head=HEAD,
        data=DATA,
        vector=VECTOR_SHA256,
    output:
        grams=STATISTICS_SHA256.replace(".sha256", ".safetensors"),
        sha256=STATISTICS_SHA256,
    log:
        "results/{run}/logs/statistics/{encoder}/{mode}/{task}/{seed}.log",
    priority: longest_first("statistics")
    conda:
        "../../envs/torch.yaml"
    threads: cores
    resources:
        **needs("statistics", gpus),
    params:
        code=code_of("statistics"),
        vector=VECTOR,
        settings=lambda wildcards: settings.statistics_settings(
            experiment, wildcards.mode, wildcards.encoder
        ),
    message:
        "Collect what layers read on {wildcards.task}: {wildcards.encoder}, {wildcards.mode}, seed {wildcards.seed}"
    shell:
        call("statistics", output="{output.grams:q}")


# Kernel behaviour test (Figure 3): a task vector of a non-linearized mode through f_lin.
rule kernel:
    input:
        encoder=ENCODER,
        head=HEAD,
        data=DATA,
        vector=VECTOR_SHA256,
    output:
        rows="results/{run}/metrics/kernel/{encoder}/{mode}/{task}/{seed}.csv",
        outcomes="results/{run}/metrics/kernel/{encoder}/{mode}/{task}/{seed}.safetensors",
    log:
        "results/{run}/logs/kernel/{encoder}/{mode}/{task}/{seed}.log",
    priority: longest_first("kernel")
    conda:
        "../../envs/torch.yaml"
    threads: cores
    resources:
        **needs("kernel", gpus),
    params:
        code=code_of("kernel"),
        vector=VECTOR,
        settings=lambda wildcards: settings.pretrained_settings(experiment, wildcards.encoder),
    message:
        "Test kernel behaviour of {wildcards.encoder} on {wildcards.task}: {wildcards.mode}, seed {wildcards.seed}"
    shell:
        call("kernel", **EVALUATED)


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
        rows="results/{run}/metrics/disentanglement/{encoder}/{mode}/{seed}/{pair}.csv",
        outcomes="results/{run}/metrics/disentanglement/{encoder}/{mode}/{seed}/{pair}.safetensors",
    log:
        "results/{run}/logs/disentanglement/{encoder}/{mode}/{seed}/{pair}.log",
    priority: longest_first("disentanglement")
    conda:
        "../../envs/torch.yaml"
    threads: cores
    resources:
        **needs("disentanglement", gpus),
    params:
        code=code_of("disentanglement"),
        vectors=lambda wildcards, input: artifacts_of(input.vectors),
        tasks=lambda wildcards: PAIRS[wildcards.pair],
        data_dirs=lambda wildcards: expand(DATA_DIR, task=PAIRS[wildcards.pair]),
        settings=lambda wildcards: settings.disentanglement_settings(experiment, wildcards.mode),
    message:
        "Measure the disentanglement error of {params.tasks}: {wildcards.encoder}, {wildcards.mode}, seed {wildcards.seed}"
    shell:
        call("disentanglement", **EVALUATED)


# Cosine similarity between the task vectors of one mode (Figure 10).
rule cosine:
    input:
        vectors=of_tasks(VECTOR_SHA256),
    output:
        "results/{run}/metrics/cosine/{encoder}/{mode}/{seed}.csv",
    log:
        "results/{run}/logs/cosine/{encoder}/{mode}/{seed}.log",
    conda:
        "../../envs/torch.yaml"
    resources:
        **needs("cosine"),
    params:
        code=stage_code("cosine"),
        vectors=lambda wildcards, input: artifacts_of(input.vectors),
        tasks=tasks_of,
    message:
        "Compare the task vectors: {wildcards.encoder}, {wildcards.mode}, seed {wildcards.seed}"
    shell:
        call("cosine")


# What a training step costs in each mode (Table 4), measured on the first task's examples. The job
# takes every core, so that nothing runs beside it.
rule efficiency:
    input:
        encoder=ENCODER,
        head=lambda wildcards: HEAD.replace("{task}", tasks_of(wildcards)[0]),
        data=lambda wildcards: DATA.replace("{task}", tasks_of(wildcards)[0]),
    output:
        "results/{run}/metrics/efficiency/{encoder}/{mode}.csv",
    log:
        "results/{run}/logs/efficiency/{encoder}/{mode}.log",
    priority: longest_first("efficiency")
    conda:
        "../../envs/torch.yaml"
    threads: every_core
    resources:
        **needs("efficiency", gpus),
    params:
        code=code_of("efficiency"),
        task=lambda wildcards: tasks_of(wildcards)[0],
        settings=lambda wildcards: settings.efficiency_settings(
            experiment, wildcards.mode, wildcards.encoder
        ),
    message:
        "Time training steps of {wildcards.encoder}, {wildcards.mode}"
    shell:
        call("efficiency", data_dir="results/shared/data/{params.task:q}")
