# Everything that was measured, as rows of one file.
# every encoder in every mode; the ablations on the focus encoder only
EVERY = {"encoder": ENCODERS, "mode": MODES, "seed": SEEDS}
ABLATED = {"encoder": FOCUS, "mode": ABLATIONS, "seed": SEEDS}
KERNEL_MODES = [mode for mode in MODES if not settings.is_linearized(config, mode)]


rule metrics:
    input:
        pretrained=expand(
            "results/{run}/metrics/pretrained/{encoder}.csv", encoder=ENCODERS, allow_missing=True
        ),
        single_task=[
            expand(
                "results/{run}/metrics/single_task/{encoder}/{mode}/{seed}.csv",
                **models,
                allow_missing=True,
            )
            for models in (EVERY, ABLATED)
        ],
        kernel=expand(
            "results/{run}/metrics/kernel/{encoder}/{mode}/{seed}.csv",
            encoder=ENCODERS,
            mode=KERNEL_MODES,
            seed=SEEDS,
            allow_missing=True,
        ),
        addition=[
            expand(
                "results/{run}/metrics/addition/{encoder}/{mode}/{seed}.csv",
                **models,
                allow_missing=True,
            )
            for models in (EVERY, {**EVERY, "mode": "posthoc"}, ABLATED)
        ],
        negation=expand(
            "results/{run}/metrics/negation/{encoder}/{mode}/{seed}.csv",
            **EVERY,
            allow_missing=True,
        ),
        disentanglement=expand(
            "results/{run}/metrics/disentanglement/{encoder}/{mode}/{seed}/{pair}.csv",
            encoder=FOCUS,
            mode=MODES,
            seed=SEEDS,
            pair=PAIRS,
            allow_missing=True,
        ),
        cosine=expand(
            "results/{run}/metrics/cosine/{encoder}/{mode}/{seed}.csv", **EVERY, allow_missing=True
        ),
        efficiency=expand(
            "results/{run}/metrics/efficiency/{encoder}/{mode}.csv",
            encoder=ENCODERS,
            mode=MODES,
            allow_missing=True,
        ),
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
        "task-arithmetic metrics --inputs {input} --output {output} --job {log} --code {params.code} &> {log}"
