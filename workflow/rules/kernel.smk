# Kernel behaviour test (Figure 3): a task vector of a non-linearized mode through f_lin.
rule kernel:
    input:
        encoder=ENCODER,
        heads=expand(HEAD, task=TASKS, allow_missing=True),
        data=expand(DATA, task=TASKS),
        vectors=expand(VECTOR_SHA256, task=TASKS, allow_missing=True),
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
        code=stage_code("kernel"),
        vectors=lambda wildcards, input: artifacts_of(input.vectors),
        tasks=TASKS,
        data_dirs=DATA_DIRS,
        settings=settings.kernel_settings(config),
    message:
        "Test kernel behaviour: {wildcards.encoder}, {wildcards.mode}, seed {wildcards.seed}"
    shell:
        "task-arithmetic kernel --encoder-dir results/shared/encoders/{wildcards.encoder}"
        " --encoder {wildcards.encoder} --mode {wildcards.mode} --seed {wildcards.seed}"
        " --tasks {params.tasks} --heads {input.heads} --data-dirs {params.data_dirs}"
        " --vectors {params.vectors}"
        " --settings {params.settings:q} --output {output} --job {log} --code {params.code} &> {log}"
