# Kernel behaviour test (Figure 3): a task vector of a non-linearized mode through f_lin.
rule kernel:
    input:
        encoder=ENCODER,
        heads=of_tasks(HEAD),
        data=of_tasks(DATA),
        vectors=of_tasks(VECTOR_SHA256),
    output:
        "results/{run}/metrics/kernel/{encoder}/{mode}/{seed}.csv",
    log:
        "results/{run}/logs/kernel/{encoder}/{mode}/{seed}.log",
    priority: longest_first("kernel")
    conda:
        "../../envs/torch.yaml"
    threads: cores
    resources:
        gpu=gpus,
        mem_mb=memory("kernel"),
        runtime=minutes("kernel"),
    params:
        code=code_of("kernel"),
        vectors=lambda wildcards, input: artifacts_of(input.vectors),
        tasks=tasks_of,
        data_dirs=of_tasks(DATA_DIR),
        settings=lambda wildcards: settings.kernel_settings(config, wildcards.encoder),
    message:
        "Test kernel behaviour: {wildcards.encoder}, {wildcards.mode}, seed {wildcards.seed}"
    shell:
        "task-arithmetic kernel --encoder-dir results/shared/encoders/{wildcards.encoder}"
        " --encoder {wildcards.encoder} --mode {wildcards.mode} --seed {wildcards.seed}"
        " --tasks {params.tasks} --heads {input.heads} --data-dirs {params.data_dirs}"
        " --vectors {params.vectors}"
        " --settings {params.settings:q} --output {output} --job {log} --code {params.code} &> {log}"
