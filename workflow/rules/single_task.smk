# Accuracy of one individual model, theta_0 + tau_t, on its own task (Figures 5 and 7). Each task is a
# job of its own here and in other rules: one more task evaluates none of the others again.
rule single_task:
    input:
        encoder=ENCODER,
        head=HEAD,
        data=DATA,
        vector=VECTOR_SHA256,
    output:
        "results/{run}/metrics/single_task/{encoder}/{mode}/{task}/{seed}.csv",
    log:
        "results/{run}/logs/single_task/{encoder}/{mode}/{task}/{seed}.log",
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
        vector=VECTOR,
        settings=lambda wildcards: settings.single_task_settings(
            config, wildcards.mode, wildcards.encoder
        ),
    message:
        "Evaluate {wildcards.encoder} fine-tuned on {wildcards.task}: {wildcards.mode}, seed {wildcards.seed}"
    shell:
        "task-arithmetic single-task --encoder-dir results/shared/encoders/{wildcards.encoder:q}"
        " --head {input.head:q} --data-dir results/shared/data/{wildcards.task:q}"
        " --encoder {wildcards.encoder:q} --mode {wildcards.mode:q} --task {wildcards.task:q}"
        " --seed {wildcards.seed:q} --vector {params.vector:q}"
        " --settings {params.settings:q} --output {output:q} --job {log:q} --code {params.code:q} &> {log:q}"
