# Getting examples.


# Draw a task of the embedded suite as a local dataset, in the form in which the hub gives one.
EMBEDDED = [task.embedded for task in TASKS.values() if task.embedded]


rule embedded:
    output:
        folder=directory("results/shared/embedded/{task}"),
        sha256="results/shared/embedded/{task}.sha256",
    log:
        "results/shared/logs/embedded/{task}.log",
    wildcard_constraints:
        task=one_of(EMBEDDED),
    priority: 1000
    conda:
        "../../envs/torch.yaml"
    resources:
        **needs("embedded"),
    params:
        code=stage_code("embedded"),
    message:
        "Draw the embedded task {wildcards.task}"
    shell:
        call("embedded", output="{output.folder:q}")


# Get a task's, an encoder's or a checkpoint's files from the hub into its client's cache, and record
# what was got. Runs where Snakemake runs: compute nodes often have no connection.
FROM_HUB = settings.hub_sources(experiment)


rule download:
    output:
        f"{settings.DOWNLOADS_DIR}/{{source}}.json",
    log:
        "results/shared/logs/download/{source}.log",
    wildcard_constraints:
        source=one_of(map(source_of, FROM_HUB)),
    priority: 2000
    localrule: True
    conda:
        "../../envs/torch.yaml"
    params:
        code=stage_code("download"),
        settings=lambda wildcards, output: settings.download_settings(*FROM_HUB[output[0]]),
    message:
        "Download {wildcards.source}"
    shell:
        call("download")


# Read a labelled dataset, from the hub or a folder, into uint8 arrays (or texts) and a manifest.
rule data:
    input:
        embedded=lambda wildcards: settings.embedded_hashes(TASKS[wildcards.task]) or [],
        download=lambda wildcards: settings.download_record(wildcards.task, TASKS[wildcards.task])
        or [],
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
        task=one_of(VISION.read),
    priority: 1000
    conda:
        "../../envs/torch.yaml"
    threads: lambda wildcards: asked("data", wildcards).cores  # one for each process that decodes
    resources:
        **needs("data"),
    params:
        code=code_of("data"),
        settings=lambda wildcards: settings.data_settings(TASKS[wildcards.task]),
        download=lambda wildcards, input: ["--download", input.download] if input.download else [],
    message:
        "Read the examples of {wildcards.task}"
    shell:
        call("data", threads="{threads}", output="results/shared/data/{wildcards.task:q}")


use rule data as text_data with:
    output:
        manifest=DATA,
        texts=expand(
            "results/shared/data/{{task}}/{split}.jsonl", split=["train", "validation", "test"]
        ),
    wildcard_constraints:
        task=one_of(LANGUAGE.tasks),
