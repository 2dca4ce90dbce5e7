# The task vector: fine-tuned minus pretrained weights, of the tensors that moved.
rule vector:
    input:
        encoder=ENCODER,
        finetuned="results/{run}/finetuned/{encoder}/{mode}/{task}/{seed}.safetensors",
    output:
        VECTOR,
    log:
        "results/{run}/logs/vector/{encoder}/{mode}/{task}/{seed}.log",
    benchmark:
        "results/{run}/timings/vector/{encoder}/{mode}/{task}/{seed}.tsv"
    conda:
        "../../envs/torch.yaml"
    message:
        "Extract the task vector of {wildcards.task}: {wildcards.encoder}, {wildcards.mode}, seed {wildcards.seed}"
    shell:
        "task-arithmetic vector --encoder-dir results/shared/encoders/{wildcards.encoder}"
        " --finetuned {input.finetuned} --output {output} &> {log}"
