# The task vector: fine-tuned minus pretrained weights, of the tensors that moved.
rule vector:
    input:
        encoder=ENCODER,
        finetuned=FINETUNED_SHA256,
    output:
        vector=VECTOR,
        sha256=VECTOR_SHA256,
    log:
        "results/{run}/logs/vector/{encoder}/{mode}/{task}/{seed}.log",
    conda:
        "../../envs/torch.yaml"
    resources:
        mem_mb=memory("vector"),
        runtime=minutes("vector"),
    params:
        code=stage_code("vector"),
        finetuned=FINETUNED_SHA256.replace(".sha256", ".safetensors"),
    message:
        "Extract the task vector of {wildcards.task}: {wildcards.encoder}, {wildcards.mode}, seed {wildcards.seed}"
    shell:
        "task-arithmetic vector --encoder-dir results/shared/encoders/{wildcards.encoder:q}"
        " --finetuned {params.finetuned:q} --output {output.vector:q} --job {log:q} --code {params.code:q} &> {log:q}"
