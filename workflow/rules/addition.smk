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
        gpu=gpus,
        mem_mb=memory("addition"),
        runtime=minutes("addition"),
    params:
        code=code_of("addition"),
        vectors=lambda wildcards, input: artifacts_of(input.vectors),
        tasks=tasks_of,
        data_dirs=of_tasks(DATA_DIR),
        settings=lambda wildcards: settings.addition_settings(
            config, wildcards.mode, wildcards.encoder
        ),
    message:
        "Add the task vectors: {wildcards.encoder}, {wildcards.mode}, seed {wildcards.seed}"
    shell:
        "task-arithmetic addition --encoder-dir results/shared/encoders/{wildcards.encoder:q}"
        " --encoder {wildcards.encoder:q} --mode {wildcards.mode:q} --seed {wildcards.seed:q}"
        " --tasks {params.tasks:q} --heads {input.heads:q} --data-dirs {params.data_dirs:q}"
        " --vectors {params.vectors:q}"
        " --single-task {input.single_task:q}"
        " --settings {params.settings:q} --output {output:q} --job {log:q} --code {params.code:q} &> {log:q}"


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
        encoder=one_of(VISION["encoders"]),
