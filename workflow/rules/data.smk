# Read a labelled dataset, from the hub or a folder, into uint8 arrays (or texts) and a manifest.
rule data:
    input:
        embedded=lambda wildcards: settings.embedded_hashes(config, wildcards.task) or [],
        download=lambda wildcards: settings.download_record(config, "tasks", wildcards.task) or [],
    output:
        manifest=DATA,
        sizes="results/shared/data/{task}/train_sizes.npy",
        arrays=expand(
            "results/shared/data/{{task}}/{split}_{what}.npy",
            split=["train", "validation", "test"],
            what=["images", "labels", "digests"],
        ),
    log:
        "results/shared/logs/data/{task}.log",
    wildcard_constraints:
        task=one_of([*VISION["tasks"], *CONTROL]),
    priority: 1000
    conda:
        "../../envs/torch.yaml"
    threads: decoders
    resources:
        mem_mb=memory("data"),
        runtime=minutes("data"),
    params:
        code=code_of("data"),
        settings=lambda wildcards: settings.data_settings(config, wildcards.task),
        download=lambda wildcards, input: ["--download", input.download] if input.download else [],
    message:
        "Read the examples of {wildcards.task}"
    shell:
        "task-arithmetic data --task {wildcards.task:q} --settings {params.settings:q}"
        " {params.download:q} --threads {threads}"
        " --output results/shared/data/{wildcards.task:q} --job {log:q} --code {params.code:q} &> {log:q}"


use rule data as text_data with:
    output:
        manifest=DATA,
        texts=expand(
            "results/shared/data/{{task}}/{split}.jsonl", split=["train", "validation", "test"]
        ),
    wildcard_constraints:
        task=one_of(LANGUAGE["tasks"]),
