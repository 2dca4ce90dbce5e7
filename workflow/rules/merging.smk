# Merging task vectors: addition and negation.


# Task addition (Tables 1, 2 and 5, Figure 9): the unified model theta_0 + alpha * sum of task vectors.
rule addition:
    input:
        encoder=ENCODER,
        heads=of_tasks(HEAD),
        data=of_tasks(DATA),
        vectors=of_tasks(VECTOR_SHA256),
        single_task=of_tasks("results/{run}/metrics/single_task/{encoder}/{mode}/{task}/{seed}.csv"),
    output:
        "results/{run}/metrics/addition/{encoder}/{mode}/{seed}.csv",
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
        settings=lambda wildcards: settings.addition_settings(
            experiment, wildcards.mode, wildcards.encoder
        ),
    message:
        "Add the task vectors: {wildcards.encoder}, {wildcards.mode}, seed {wildcards.seed}"
    shell:
        call("addition")


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
        "results/{run}/metrics/negation/{encoder}/{mode}/{task}/{seed}.csv",
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
        call("negation", control_data_dir="results/shared/data/{params.control:q}")
