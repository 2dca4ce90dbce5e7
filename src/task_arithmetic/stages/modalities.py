"""The modality of an encoder: the module that knows its inputs, outputs and measure.

Training and evaluation are the same for all modalities. What they ask of one is a module of this
package, `modality` in the room of that name, with these functions: `read_encoder`, `read_examples`,
`read_batch`, `to_inputs`, `outputs`, `outputs_linearized`, `loss`, `accuracies` and `remarks`, the
word `UNIT` and the flag `MAY_FAIL`. vision and language are the two that there are; a third is a
third room.
"""

from importlib import import_module
from typing import Any


def form(modality: str) -> Any:
    """The module of a modality."""
    return import_module(f"..{modality}.modality", __package__)
