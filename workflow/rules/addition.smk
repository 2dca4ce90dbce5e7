# Task addition (Tables 1, 2 and 5, Figure 9): the unified model theta_0 + alpha * sum of task vectors.
rule addition:
    input:
        encoder=ENCODER,
        heads=of_tasks(HEAD),
        data=of_tasks(DATA),
        vectors=of_tasks(VECTOR_SHA256),
        single_task="results/{run}/metrics/single_task/{encoder}/{mode}/{seed}.csv",
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
        "task-arithmetic addition --encoder-dir results/shared/encoders/{wildcards.encoder}"
        " --encoder {wildcards.encoder} --mode {wildcards.mode} --seed {wildcards.seed}"
        " --tasks {params.tasks} --heads {input.heads} --data-dirs {params.data_dirs}"
        " --vectors {params.vectors}"
        " --single-task {input.single_task}"
        " --settings {params.settings:q} --output {output} --job {log} --code {params.code} &> {log}"


# Post-hoc linearization: nonlinear's task vectors through f_lin, normalized by their own accuracy
# there.
use rule addition as posthoc with:
    input:
        encoder=ENCODER,
        heads=of_tasks(HEAD),
        data=of_tasks(DATA),
        vectors=of_tasks(VECTOR_SHA256.replace("{mode}", "nonlinear")),
        single_task="results/{run}/metrics/kernel/{encoder}/nonlinear/{seed}.csv",
    wildcard_constraints:
        mode="posthoc",
        encoder=one_of(VISION["encoders"]),
