# Accuracy of each individual model, theta_0 + tau_t, on its own task (Figures 5 and 7).
rule single_task:
    input:
        encoder=ENCODER,
        heads=of_tasks(HEAD),
        data=of_tasks(DATA),
        vectors=of_tasks(VECTOR_SHA256),
    output:
        "results/{run}/metrics/single_task/{encoder}/{mode}/{seed}.csv",
    log:
        "results/{run}/logs/single_task/{encoder}/{mode}/{seed}.log",
    priority: longest_first("single_task")
    conda:
        "../../envs/torch.yaml"
    threads: cores
    resources:
        gpu=gpus,
        mem_mb=memory("single_task"),
        runtime=minutes("single_task"),
    params:
        code=code_of("single-task"),
        vectors=lambda wildcards, input: artifacts_of(input.vectors),
        tasks=tasks_of,
        data_dirs=of_tasks(DATA_DIR),
        settings=lambda wildcards: settings.single_task_settings(
            config, wildcards.mode, wildcards.encoder
        ),
    message:
        "Evaluate the individual models: {wildcards.encoder}, {wildcards.mode}, seed {wildcards.seed}"
    shell:
        "task-arithmetic single-task --encoder-dir results/shared/encoders/{wildcards.encoder:q}"
        " --encoder {wildcards.encoder:q} --mode {wildcards.mode:q} --seed {wildcards.seed:q}"
        " --tasks {params.tasks:q} --heads {input.heads:q} --data-dirs {params.data_dirs:q}"
        " --vectors {params.vectors:q}"
        " --settings {params.settings:q} --output {output:q} --job {log:q} --code {params.code:q} &> {log:q}"
