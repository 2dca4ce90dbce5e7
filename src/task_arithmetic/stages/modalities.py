"""The modality of an encoder: the module that knows its inputs, outputs and measure.

Training and evaluation are the same for all modalities. What they ask of one is a module of this
package, `modality` in the room of that name, with these functions: `read_encoder`, `read_examples`,
`read_batch`, `to_inputs`, `outputs`, `outputs_linearized`, `loss`, `accuracies` and `remarks`, the
word `UNIT` and the flag `MAY_FAIL`. vision and language are the two that there are; a third is a
third room.
"""

from importlib import import_module

FUNCTIONS = {  # what a stage needs of the module, which code.py cannot see
    stage: "read_encoder read_examples read_batch to_inputs outputs outputs_linearized loss UNIT"
    for stage in ("finetune", "efficiency")
} | {
    stage: "read_encoder read_examples accuracies"
    for stage in ("single-task", "kernel", "addition", "negation")
}
FUNCTIONS["pretrained"] = "read_encoder read_examples accuracies remarks"
FUNCTIONS["addition"] = "read_encoder read_examples accuracies MAY_FAIL"
MODALITIES = ["vision", "language"]


def form(modality: str):
    """The module of a modality."""
    return import_module(f"..{modality}.modality", __package__)
