"""Layers of an encoder, and how task vectors lie to each other in each of them. Needs no torch."""

import re
from collections.abc import Iterable, Mapping

import numpy as np

from ..merging.matrices import place_of

KINDS = {  # kind → its weight matrices, as open_clip and transformers name them
    "qkv": r"\.attn\.in_proj_weight|\.SelfAttention\.[qkv]\.weight",
    "out": r"\.attn\.out_proj\.weight|\.SelfAttention\.o\.weight",
    "cross": r"\.EncDecAttention\.[qkvo]\.weight",
    "mlp": r"\.mlp\.c_(fc|proj)\.weight|\.DenseReluDense\.w[io](_[01])?\.weight",
}


def layers_of(names: Iterable[str]) -> dict[str, str]:
    """Weight matrix of a block → its layer, "<block>.<kind>" such as "3.qkv"; other tensors have
    none. Blocks are counted from the input, from 0: of a T5 the encoder's, then the decoder's.

    Args:
        names: all tensors of the encoder, which say how many blocks a T5's encoder has.
    """
    places = {name: place for name in names if (place := place_of(name))}
    before = max((p.block + 1 for p in places.values() if p.stack == "encoder.block"), default=0)
    found = {}
    for name, (stack, block) in places.items():
        for kind, pattern in KINDS.items():
            if re.search(f"(?:{pattern})$", name):
                found[name] = f"{block + before * (stack == 'decoder.block')}.{kind}"
    return found


def by_layer(
    products: Mapping[str, np.ndarray], layers: Mapping[str, str]
) -> dict[str, np.ndarray]:
    """Layer → inner products (n, n) over all of its matrices.

    Args:
        products: tensor → the inner products of n vectors, float64. layers: as layers_of.
    """
    found: dict[str, np.ndarray] = {}
    for name, layer in layers.items():
        if name in products:
            found[layer] = found.get(layer, 0.0) + products[name]
    return found


def cosines(products: np.ndarray) -> dict[tuple[int, int], float]:
    """⟨τ_i, τ_j⟩ / (‖τ_i‖ ‖τ_j‖) of all pairs i < j of vectors, from their inner products (n, n);
    a vector of zeros has none."""
    norms = np.sqrt(products.diagonal())
    pairs = zip(*np.triu_indices(len(norms), 1), strict=True)
    return {
        (int(i), int(j)): float(products[i, j] / (norms[i] * norms[j]))
        for i, j in pairs
        if norms[i] > 0 and norms[j] > 0
    }
