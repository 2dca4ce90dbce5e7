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
        gpu=gpus,
        mem_mb=memory("negation"),
        runtime=minutes("negation"),
    params:
        code=code_of("negation"),
        vector=VECTOR,
        control=CONTROL,
        settings=lambda wildcards: settings.negation_settings(
            config, wildcards.mode, wildcards.encoder
        ),
    message:
        "Negate the task vector of {wildcards.task}: {wildcards.encoder}, {wildcards.mode}, seed {wildcards.seed}"
    shell:
        "task-arithmetic negation --encoder-dir results/shared/encoders/{wildcards.encoder:q}"
        " --head {input.head:q} --data-dir results/shared/data/{wildcards.task:q}"
        " --encoder {wildcards.encoder:q} --mode {wildcards.mode:q} --task {wildcards.task:q}"
        " --seed {wildcards.seed:q} --vector {params.vector:q}"
        " --pretrained {input.pretrained:q} --control {params.control:q}"
        " --control-head {input.control_head:q} --control-data-dir results/shared/data/{params.control:q}"
        " --settings {params.settings:q} --output {output:q} --job {log:q} --code {params.code:q} &> {log:q}"
