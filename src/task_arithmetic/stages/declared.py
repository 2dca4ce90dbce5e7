"""The stages: for each command its function, its options, and how its jobs are treated.

A stage that is another function for each modality names both.
"""

ONE = "encoder_dir head data_dir encoder mode task seed vector settings output"
MANY = "encoder_dir encoder mode seed tasks heads data_dirs vectors settings output"
# command → its function (or modality → function), its options, what it does
STAGES: dict[str, tuple] = {
    "embedded": ("embedded.tasks.save_task", "task output", "draw an embedded task as a dataset"),
    "download": ("files.hub.download", "settings output", "get a task's or an encoder's files"),
    "data": (
        {"vision": "vision.prepare.write_task", "language": "language.prepare.write_texts"},
        "task settings download threads output",
        "read a dataset into uint8 arrays, or texts",
    ),
    "encoder": (
        {
            "vision": "vision.checkpoints.import_encoder",
            "language": "language.checkpoints.import_t5",
        },
        "encoder settings download output",
        "take a pretrained CLIP from open_clip, or a T5 from transformers",
    ),
    "head": (
        {"vision": "vision.checkpoints.write_head", "language": "language.tokens.write_tokens"},
        "encoder_dir data_dir settings output",
        "make a frozen zero-shot head, or the tokens of prompts and answers",
    ),
    "finetune": (
        "stages.finetune.finetune",
        "encoder_dir head data_dir encoder mode task seed settings output log",
        "fine-tune one encoder on one task in one mode",
    ),
    "vector": (
        "stages.vector.write_vector",
        "encoder_dir finetuned output",
        "extract a task vector",
    ),
    "pretrained": (
        "stages.evaluate.pretrained",
        "encoder_dir head data_dir encoder task settings output",
        "zero-shot accuracy of a task",
    ),
    "single-task": ("stages.evaluate.single_task", ONE, "accuracy of an individual model"),
    "kernel": (
        "stages.evaluate.kernel",
        ONE,
        "kernel behaviour test: post-hoc linearized accuracy",
    ),
    "addition": ("stages.evaluate.addition", f"{MANY} single_task", "task addition"),
    "negation": (
        "stages.evaluate.negation",
        f"{ONE} pretrained control control_head control_data_dir",
        "task negation with a control task",
    ),
    "disentanglement": (
        "stages.disentanglement.disentanglement",
        MANY,
        "disentanglement error of two tasks on a grid",
    ),
    "cosine": (
        "stages.vector.cosine",
        "encoder mode seed tasks vectors output",
        "cosine similarity of task vectors",
    ),
    "efficiency": (
        "stages.efficiency.efficiency",
        "encoder_dir head data_dir encoder mode settings output",
        "measure what a training step costs",
    ),
    "metrics": ("files.metrics.gather", "inputs output", "gather metrics files into one"),
    "table": (
        "report.tables.write",
        "name metrics reference settings output_dir",
        "make one table",
    ),
    "figure": ("report.figures.write", "name metrics settings output_dir", "make one figure"),
    "report": (
        "report.page.write",
        "metrics tables_dir figures_dir settings config_text run_dir output",
        "make the HTML report",
    ),
}

# Stages that learn or evaluate: each job holds a GPU, if there is one.
ON_DEVICE = {
    *("head", "finetune", "pretrained", "single-task", "kernel", "addition", "negation"),
    *("disentanglement", "efficiency"),
}
STORED = ON_DEVICE - {"efficiency"}  # a measurement is made when it is asked for
# Stages whose outputs have a .sha256 beside them; data and encoders hold their hashes themselves.
HASHED = ON_DEVICE | {"embedded", "vector", "cosine", "metrics"}
