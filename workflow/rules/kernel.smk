# Kernel behaviour test (Figure 3): a task vector of a non-linearized mode through f_lin.
rule kernel:
    input:
        encoder=ENCODER,
        head=HEAD,
        data=DATA,
        vector=VECTOR_SHA256,
    output:
        "results/{run}/metrics/kernel/{encoder}/{mode}/{task}/{seed}.csv",
    log:
        "results/{run}/logs/kernel/{encoder}/{mode}/{task}/{seed}.log",
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
        vector=VECTOR,
        settings=lambda wildcards: settings.kernel_settings(config, wildcards.encoder),
    message:
        "Test kernel behaviour of {wildcards.encoder} on {wildcards.task}: {wildcards.mode}, seed {wildcards.seed}"
    shell:
        "task-arithmetic kernel --encoder-dir results/shared/encoders/{wildcards.encoder:q}"
        " --head {input.head:q} --data-dir results/shared/data/{wildcards.task:q}"
        " --encoder {wildcards.encoder:q} --mode {wildcards.mode:q} --task {wildcards.task:q}"
        " --seed {wildcards.seed:q} --vector {params.vector:q}"
        " --settings {params.settings:q} --output {output:q} --job {log:q} --code {params.code:q} &> {log:q}"
