"""f_lin of many coefficients: its features are affine in τ, so that the derivative along each task
vector is computed once, and then every Σ c_t τ_t costs a product with the head alone."""

from __future__ import annotations  # names of torch

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from .lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from ..core.encoder import Classifier, Encoder
    from ..core.vectors import TaskVector


@dataclass(frozen=True)
class Features:
    """Of some examples f(x; θ0), and of each task vector ∇f(x; θ0)·τ_t.

    Attributes:
        value: (N, D). tangents: (T, N, D). examples: as the encoder's classifier reads them.
    """

    value: Tensor
    tangents: Tensor
    examples: Any

    def at(self, coefficients: Sequence[float]) -> Tensor:
        """f_lin(x; θ0 + Σ c_t τ_t), (N, D)."""
        given = torch.tensor(coefficients, dtype=self.value.dtype, device=self.value.device)
        return self.value + torch.tensordot(given, self.tangents, 1)

    def accuracy(self, encoder: Encoder, coefficients: Sequence[float]) -> float:
        """The share of right predictions. Raises UserError: features that are not finite."""
        from ..core.precision import check_finite

        found = self.at(coefficients)
        check_finite(found.norm(dim=-1))
        chosen = cast("Classifier", encoder.modality).classify(found, self.examples.head).argmax(-1)
        return float(np.mean(chosen.cpu().numpy() == self.examples.labels))


def features_of(
    encoder: Encoder, taus: Sequence[TaskVector], splits: Mapping[str, Any], precision: str
) -> dict[str, Features]:
    """Task → its features, in one pass for each task vector.

    Args:
        encoder: of a modality that is a Classifier. taus: of each task. splits: task → examples of
            validation or test.
    """
    modality: Any = encoder.modality  # its features_linearized takes a precision
    theta0, found = encoder.theta0, dict[str, Features]()
    with torch.inference_mode():
        for task, examples in splits.items():
            values, tangents = [], []
            for pixels in chain.from_iterable(modality.batches(examples.images, encoder.device)):
                each = [
                    modality.features_linearized(theta0, tau, pixels, precision) for tau in taus
                ]
                values.append(each[0][0])
                tangents.append(torch.stack([tangent for _, tangent in each]))
            found[task] = Features(torch.cat(values), torch.cat(tangents, dim=1), examples)
    return found
