# Cosine similarity between the task vectors of one mode (Figure 10).
rule cosine:
    input:
        vectors=expand(VECTOR, task=TASKS, allow_missing=True),
    output:
        "results/{run}/metrics/cosine/{encoder}/{mode}/{seed}.csv",
    log:
        "results/{run}/logs/cosine/{encoder}/{mode}/{seed}.log",
    benchmark:
        "results/{run}/timings/cosine/{encoder}/{mode}/{seed}.tsv"
    conda:
        "../../envs/torch.yaml"
    params:
        tasks=TASKS,
    message:
        "Compare the task vectors: {wildcards.encoder}, {wildcards.mode}, seed {wildcards.seed}"
    shell:
        "task-arithmetic cosine --encoder {wildcards.encoder} --mode {wildcards.mode}"
        " --seed {wildcards.seed} --tasks {params.tasks} --vectors {input.vectors}"
        " --output {output} &> {log}"
