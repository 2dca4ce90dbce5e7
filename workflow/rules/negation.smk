# Task negation: theta_0 - alpha * tau_t forgets one task while the control task keeps its accuracy.
rule negation:
    input:
        encoder=ENCODER,
        heads=of_tasks(HEAD),
        data=of_tasks(DATA),
        vectors=of_tasks(VECTOR_SHA256),
        pretrained="results/{run}/metrics/pretrained/{encoder}.csv",
        control_head=expand(HEAD, task=CONTROL, allow_missing=True),
        control_data=expand(DATA, task=CONTROL),
    output:
        "results/{run}/metrics/negation/{encoder}/{mode}/{seed}.csv",
    log:
        "results/{run}/logs/negation/{encoder}/{mode}/{seed}.log",
    priority: longest_first("negation")
    conda:
        "../../envs/torch.yaml"
    threads: cores
    resources:
        gpu=gpus,
        mem_mb=memory("negation"),
        runtime=minutes("negation"),
    params:
        code=code_of("negation"),
        vectors=lambda wildcards, input: artifacts_of(input.vectors),
        tasks=tasks_of,
        data_dirs=of_tasks(DATA_DIR),
        control=CONTROL,
        settings=lambda wildcards: settings.negation_settings(
            config, wildcards.mode, wildcards.encoder
        ),
    message:
        "Negate the task vectors: {wildcards.encoder}, {wildcards.mode}, seed {wildcards.seed}"
    shell:
        "task-arithmetic negation --encoder-dir results/shared/encoders/{wildcards.encoder:q}"
        " --encoder {wildcards.encoder:q} --mode {wildcards.mode:q} --seed {wildcards.seed:q}"
        " --tasks {params.tasks:q} --heads {input.heads:q} --data-dirs {params.data_dirs:q}"
        " --vectors {params.vectors:q}"
        " --pretrained {input.pretrained:q} --control {params.control:q}"
        " --control-head {input.control_head:q} --control-data-dir results/shared/data/{params.control:q}"
        " --settings {params.settings:q} --output {output:q} --job {log:q} --code {params.code:q} &> {log:q}"
