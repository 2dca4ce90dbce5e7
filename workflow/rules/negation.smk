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
        "task-arithmetic negation --encoder-dir results/shared/encoders/{wildcards.encoder}"
        " --encoder {wildcards.encoder} --mode {wildcards.mode} --seed {wildcards.seed}"
        " --tasks {params.tasks} --heads {input.heads} --data-dirs {params.data_dirs}"
        " --vectors {params.vectors}"
        " --pretrained {input.pretrained} --control {params.control}"
        " --control-head {input.control_head} --control-data-dir results/shared/data/{params.control}"
        " --settings {params.settings:q} --output {output} --job {log} --code {params.code} &> {log}"
