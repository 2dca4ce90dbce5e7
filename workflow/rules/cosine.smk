# Cosine similarity between the task vectors of one mode (Figure 10).
rule cosine:
    input:
        vectors=of_tasks(VECTOR_SHA256),
    output:
        "results/{run}/metrics/cosine/{encoder}/{mode}/{seed}.csv",
    log:
        "results/{run}/logs/cosine/{encoder}/{mode}/{seed}.log",
    conda:
        "../../envs/torch.yaml"
    resources:
        mem_mb=memory("cosine"),
        runtime=minutes("cosine"),
    params:
        code=stage_code("cosine"),
        vectors=lambda wildcards, input: artifacts_of(input.vectors),
        tasks=tasks_of,
    message:
        "Compare the task vectors: {wildcards.encoder}, {wildcards.mode}, seed {wildcards.seed}"
    shell:
        "task-arithmetic cosine --encoder {wildcards.encoder:q} --mode {wildcards.mode:q}"
        " --seed {wildcards.seed:q} --tasks {params.tasks:q} --vectors {params.vectors:q}"
        " --output {output:q} --job {log:q} --code {params.code:q} &> {log:q}"
