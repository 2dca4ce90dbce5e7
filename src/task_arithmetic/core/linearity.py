"""How linear an encoder is in each part of a task vector: the kernel behaviour test (paper, section
3.2) refined to blocks, attention and MLP."""

from collections.abc import Collection, Mapping
from typing import cast

import numpy as np
import torch
from torch import Tensor

from .encoder import Classifier, Encoder
from .precision import check_finite, in_parts
from .vectors import TaskVector


@torch.inference_mode()
def linearity_errors(
    encoder: Encoder,
    tau: TaskVector,
    images: np.ndarray,
    parts: Mapping[str, Collection[str]],
    joint: Mapping[str, Collection[str]],
) -> dict[str, float]:
    """E‖f(x; θ0 + τ^l) − f_lin(x; θ0 + τ^l)‖ / E‖f(x; θ0 + τ^l) − f(x; θ0)‖ of every part l of τ,
    over raw features.

    0: f is linear along the part, as far as it goes (or the part does nothing at all); for τ → ετ
    the ratio falls in proportion to ε. Passes are float64 whatever the run's precision: the norms
    are of differences of close features, and those of a part of τ are down at float32's rounding.

    Args:
        encoder: of a modality that is a Classifier. images: uint8 (N, H, W, 3).
        tau: τ; also of a linearized mode, of which it is f that is measured.
        parts: part → its tensors; no two share one. joint: what several parts make together →
            these parts; their tangents are summed.
    Returns:
        part → ratio, of all parts and then of what they make together.
    Raises:
        UserError: features that are not finite.
    """
    modality = cast(Classifier, encoder.modality)
    theta0, moved = (
        {name: tensor.double() for name, tensor in tensors.items()}
        for tensors in (encoder.theta0, tau.tensors)
    )
    named = {**parts, **{whole: [n for p in joint[whole] for n in parts[p]] for whole in joint}}

    def norms(pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Of every part ‖f − f_lin‖ and ‖f − f(θ0)‖: (B, parts)."""
        nothing = torch.zeros(len(pixels), 0)
        start = modality.outputs(theta0, pixels, nothing)
        tangents: dict[str, Tensor] = {}
        errors, changes = [], []
        for part, names in named.items():
            own = {name: moved[name] for name in names}
            if part in parts:
                _, tangents[part] = modality.outputs_linearized(theta0, own, pixels, nothing)
            theta = {**theta0, **{name: theta0[name] + delta for name, delta in own.items()}}
            change = modality.outputs(theta, pixels, nothing) - start
            tangent = sum(tangents[each] for each in joint.get(part, [part]))
            errors.append((change - tangent).norm(dim=-1))
            changes.append(change.norm(dim=-1))
        return torch.stack(errors, dim=1), torch.stack(changes, dim=1)

    sums = torch.zeros(2, len(named), dtype=torch.float64)
    for batch in (each for chunk in modality.batches(images, encoder.device) for each in chunk):
        found = torch.stack([each.sum(0) for each in in_parts(norms, batch.double())])
        check_finite(found)
        sums += found.cpu()
    ratios = torch.where(sums[1] > 0, sums[0] / sums[1], 0.0)
    return dict(zip(named, ratios.tolist(), strict=True))
