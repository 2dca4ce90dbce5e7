"""Layers, spectra and subspaces, each against a few independent lines on random data."""

import numpy as np
import pytest
import tiny
import torch

from task_arithmetic.analysis.alignment import alignment, improvement, subspace
from task_arithmetic.analysis.layers import by_layer, cosines, layers_of
from task_arithmetic.analysis.spectra import singular_values, spectrum
from task_arithmetic.language.geometry import t5_geometry
from task_arithmetic.merging.matrices import is_matrix, place_of

T5 = {"d_model": 8, "d_ff": 16, "d_kv": 4, "num_heads": 2, "num_layers": 3, "vocab_size": 20}
GATED = {**T5, "num_decoder_layers": 2, "feed_forward_proj": "gated-gelu"}


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize(
    "geometry",
    [tiny.real_geometry("ViT-L-14"), t5_geometry("t5", T5), t5_geometry("gated", GATED)],
)
def test_every_weight_matrix_of_a_block_has_a_layer_and_nothing_else(geometry):
    shapes = geometry.shapes()
    inside = {n for n, s in shapes.items() if place_of(n) and is_matrix(n, len(s))}
    assert set(layers_of(shapes)) == inside


def test_layers_are_blocks_and_kinds_and_a_decoder_comes_after_its_encoder():
    found = layers_of(tiny.real_geometry("ViT-B-32").shapes())
    assert found["transformer.resblocks.3.attn.in_proj_weight"] == "3.qkv"
    assert found["transformer.resblocks.11.attn.out_proj.weight"] == "11.out"
    both = [found[f"transformer.resblocks.0.mlp.{name}.weight"] for name in ("c_fc", "c_proj")]
    assert both == ["0.mlp", "0.mlp"] and len(set(found.values())) == 3 * 12
    found = layers_of(t5_geometry("t5", GATED).shapes())
    assert found["encoder.block.2.layer.0.SelfAttention.k.weight"] == "2.qkv"
    assert found["decoder.block.0.layer.0.SelfAttention.o.weight"] == "3.out"
    assert found["decoder.block.1.layer.1.EncDecAttention.o.weight"] == "4.cross"
    assert found["decoder.block.1.layer.2.DenseReluDense.wi_1.weight"] == "4.mlp"


def test_cosines_of_a_layer_are_those_of_its_matrices_joined():
    a, b = random(4, 30), random(4, 50, seed=1)
    a[2] = b[2] = 0.0
    products = {"a": a @ a.T, "b": b @ b.T, "norm": random(4, 4)}
    (joined,) = by_layer(products, {"a": "0.mlp", "b": "0.mlp", "absent": "1.mlp"}).values()
    flat = np.hstack([a, b])
    pairs = [(0, 1), (0, 3), (1, 3)]  # none of the vector of zeros
    expected = [
        flat[i] @ flat[j] / np.sqrt(flat[i] @ flat[i] * (flat[j] @ flat[j])) for i, j in pairs
    ]
    found = cosines(joined)
    assert list(found) == pairs
    assert list(found.values()) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("shape", [(12, 30), (30, 12), (12, 12)])
@pytest.mark.parametrize("tasks", [1, 5, 40])
def test_a_spectrum_is_that_of_its_definitions(shape, tasks):
    matrix = random(*shape) @ np.diag(0.8 ** np.arange(shape[1]))
    values = np.sqrt(np.clip(np.linalg.eigvalsh(matrix @ matrix.T), 0, None))[::-1][:12]
    sigma = singular_values(torch.from_numpy(matrix))
    assert sigma == pytest.approx(values, rel=1e-6)
    stable, effective, top = spectrum(sigma, tasks)
    assert stable == pytest.approx(np.sum(matrix**2) / np.linalg.norm(matrix, 2) ** 2)
    p = values / values.sum()
    assert effective == pytest.approx(np.prod(p**-p), rel=1e-6)
    k = max(1, 12 // tasks)
    u, s, vt = np.linalg.svd(matrix)
    cut = u[:, :k] * s[:k] @ vt[:k]
    assert top == pytest.approx(np.sum(cut**2) / np.sum(matrix**2))


def test_spectra_of_matrices_whose_rank_is_known():
    one = torch.outer(torch.arange(1.0, 5.0), torch.arange(1.0, 8.0))
    assert spectrum(singular_values(one), 4) == pytest.approx((1, 1, 1), rel=1e-5)
    assert spectrum(singular_values(torch.eye(8) * 1e-6), 4) == pytest.approx((8, 8, 0.25))
    assert spectrum(singular_values(torch.zeros(3, 4)), 2) is None


def smallest(matrix):
    """k and U_k by trying one after the other."""
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    for k in range(len(s) + 1):
        if np.linalg.norm(matrix - u[:, :k] * s[:k] @ vt[:k]) <= 0.05 * np.linalg.norm(matrix):
            return u[:, :k]
    raise AssertionError


@pytest.mark.parametrize("shape", [(12, 30), (30, 12)])
@pytest.mark.parametrize("decay", [0.3, 0.7, 1.0])
def test_a_subspace_leaves_a_twentieth_and_is_the_smallest(shape, decay):
    merged = np.diag(decay ** np.arange(shape[0])) @ random(*shape)
    tau, own = random(*shape, seed=1), smallest(merged)
    for scale in (1.0, -1e-3):
        basis = subspace(torch.from_numpy(scale * merged))
        assert basis.shape == own.shape
        found = alignment(basis, torch.from_numpy(tau))
        expected = np.linalg.norm(own @ own.T @ tau) / np.linalg.norm(tau)
        assert found == pytest.approx(expected, rel=1e-10)


def test_what_is_merged_of_one_task_holds_it_and_an_orthogonal_one_not_at_all():
    tau = torch.zeros(6, 5)
    tau[:3] = torch.from_numpy(random(3, 5)).float()
    other = torch.zeros(6, 5)
    other[3:] = 1.0
    assert alignment(subspace(tau), tau) == pytest.approx(1, abs=0.05**2)
    assert alignment(subspace(tau), other) == 0
    assert alignment(subspace(torch.zeros(6, 5)), tau) == 0
    assert alignment(subspace(tau), torch.zeros(6, 5)) is None


def test_an_improvement_is_a_share_of_that_of_fine_tuning():
    merged, own = np.array([[0.5, 0.7, 0.6]]), np.array([[0.9, 0.8, 0.6]])
    found = improvement(merged, own, np.array([[0.1, 0.9, 0.6]]))
    assert found[0, 0] == pytest.approx(0.5)
    assert np.isnan(found[0, 1:]).all(), "fine-tuning harmed, or did nothing"
