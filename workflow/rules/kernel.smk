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
        "task-arithmetic kernel --encoder-dir results/shared/encoders/{wildcards.encoder:q}"
        " --encoder {wildcards.encoder:q} --mode {wildcards.mode:q} --seed {wildcards.seed:q}"
        " --tasks {params.tasks:q} --heads {input.heads:q} --data-dirs {params.data_dirs:q}"
        " --vectors {params.vectors:q}"
        " --settings {params.settings:q} --output {output:q} --job {log:q} --code {params.code:q} &> {log:q}"
