# Everything that was measured, as rows of one file.
# Images are tested in every way, texts as in Table 3.
FINETUNED = [
    {"encoder": each["encoder"], "mode": each["mode"], "seed": SEEDS, "task": each["task"]}
    for each in TRAINED
]
OF_IMAGES = {"encoder": VISION["encoders"], "mode": VISION["modes"], "seed": SEEDS}
OF_TEXTS = {"encoder": LANGUAGE["encoders"], "mode": LANGUAGE["modes"], "seed": SEEDS}
OF_IMAGES["task"], OF_TEXTS["task"] = VISION["tasks"], LANGUAGE["tasks"]
KERNEL_MODES = settings.kernel_modes(config)
POSTHOC = [mode for mode in ["posthoc"] if "nonlinear" in VISION["modes"]]
# One vector is like itself alone.
COMPARED = [each for each in (OF_IMAGES, OF_TEXTS) if len(each["task"]) > 1]


rule metrics:
    input:
        pretrained=[
            expand(PRETRAINED, encoder=part["encoders"], task=tasks, allow_missing=True)
            for part, tasks in (
                (VISION, [*VISION["tasks"], *CONTROL]),
                (LANGUAGE, LANGUAGE["tasks"]),
            )
        ],
        single_task=of_stage("single_task", *FINETUNED, name="{task}/{seed}"),
        kernel=of_stage("kernel", {**OF_IMAGES, "mode": KERNEL_MODES}, name="{task}/{seed}"),
        addition=of_stage("addition", *FINETUNED, {**OF_IMAGES, "mode": POSTHOC}),
        negation=of_stage("negation", *[OF_IMAGES] * bool(CONTROL), name="{task}/{seed}"),
        disentanglement=of_stage(
            "disentanglement",
            {**OF_IMAGES, "encoder": VISION["focus"], "pair": PAIRS},
            name="{seed}/{pair}",
        ),
        cosine=of_stage("cosine", *COMPARED),
        efficiency=[
            expand(
                "results/{run}/metrics/efficiency/{encoder}/{mode}.csv",
                encoder=part["encoders"],
                mode=part["modes"],
                allow_missing=True,
            )
            for part in (VISION, LANGUAGE)
        ],
    output:
        report(
            "results/{run}/metrics.csv",
            caption="../report/metrics.rst",
            category="Metrics",
        ),
    log:
        "results/{run}/logs/metrics/metrics.log",
    localrule: True
    conda:
        "../../envs/torch.yaml"
    params:
        code=stage_code("metrics"),
    message:
        "Gather the metrics"
    shell:
        "task-arithmetic metrics --inputs {input:q} --output {output:q} --job {log:q} --code {params.code:q} &> {log:q}"
