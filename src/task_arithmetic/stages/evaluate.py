"""What all evaluations share: reading a model, vectors and examples, and one computation.

That is the modality's `accuracies`: the model at θ0 + α·τ, for each α of a grid, on one or more
splits, through f or through f_lin.
"""

import torch

from ..core.vectors import TaskVector
from ..files.tensors import check_tensors
from . import modalities

CPU = torch.device("cpu")


def load(encoder_dir, files: dict, settings: dict, device):
    """θ0, its description, and for each split the tasks' examples, as the modality reads them.

    Args:
        files: task → its head and its data folder.
    Returns:
        theta0, about, {split: {task: examples}}, of the splits validation and test.
    """
    form = modalities.form(settings.get("modality", "vision"))
    theta0, about = form.read_encoder(encoder_dir, device)
    splits = {
        split: {
            task: form.read_examples(head, data_dir, split, settings["limit"], about, device)
            for task, (head, data_dir) in files.items()
        }
        for split in ("validation", "test")
    }
    return theta0, about, splits


def accuracies(theta0, about, tau, alphas, splits, settings: dict) -> dict:
    """The modality's `accuracies` as a stage's settings say: linearized (default: not) and
    precision."""
    form = modalities.form(settings.get("modality", "vision"))
    linearized = settings.get("linearized", False)
    precision = settings.get("precision", "float32")
    return form.accuracies(theta0, about, tau, alphas, splits, linearized, precision)


def read_vector(path, theta0: dict) -> TaskVector:
    """A task vector, on θ0's device, held to θ0's names and shapes.

    Raises:
        UserError: a file of another encoder, or no safetensors.
    """
    vector = TaskVector.load(path, next(iter(theta0.values())).device)
    known = {name: theta0[name].shape for name in vector.tensors if name in theta0}
    check_tensors(path, vector.tensors, known)
    return vector
