"""An image tower under transformers' names is the same model there, and comes back bit for bit."""

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from task_arithmetic.vision.clip import encode
from task_arithmetic.vision.geometry import ViT
from task_arithmetic.vision.names import PREFIX, PROJECTION, from_transformers, to_transformers

GEOMETRY = ViT(
    image_size=16, patch_size=8, width=128, layers=2, heads=2, embed_dim=24, mlp_width=512,
    activation="quick_gelu",
)  # fmt: skip


@pytest.fixture
def tower():
    generator = torch.Generator().manual_seed(3)
    shapes = GEOMETRY.shapes()
    return {k: 0.1 * torch.randn(s, generator=generator) for k, s in shapes.items()}


def test_transformers_computes_the_same(tower):
    config = CLIPVisionConfig(
        hidden_size=128, intermediate_size=512, num_hidden_layers=2, num_attention_heads=2,
        image_size=16, patch_size=8, projection_dim=24, hidden_act="quick_gelu",
        layer_norm_eps=1e-5,
    )  # fmt: skip
    model = CLIPVisionModelWithProjection(config).eval().double()
    model.load_state_dict(to_transformers(tower))  # strict: every name, and no other
    pixels = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        theirs = model(pixels).image_embeds
    ours = encode({k: v.double() for k, v in tower.items()}, pixels, GEOMETRY)
    assert (ours - theirs).abs().max() <= 1e-12 * theirs.abs().max()


@pytest.mark.parametrize("prefixed", [True, False])
@pytest.mark.parametrize("projection", [True, False])
def test_a_tower_comes_back_bit_for_bit(tower, prefixed, projection):
    theirs = to_transformers(tower)
    theirs["vision_model.embeddings.position_ids"] = torch.arange(5)[None]
    if not projection:
        del theirs[PROJECTION], tower["proj"]
    if not prefixed:
        theirs = {name.removeprefix(PREFIX): tensor for name, tensor in theirs.items()}
    back = from_transformers(theirs)
    assert back.keys() == tower.keys()
    assert all(torch.equal(back[name], tower[name]) for name in tower)


def test_a_part_of_a_tower_is_renamed_too(tower):
    moved = {k: v for k, v in tower.items() if "attn.in_proj_weight" in k}
    back = from_transformers(to_transformers(moved))
    assert back.keys() == moved.keys() and all(torch.equal(back[k], moved[k]) for k in moved)


def test_what_has_no_counterpart_keeps_its_name(tower):
    theirs = to_transformers(tower)
    del theirs[f"{PREFIX}encoder.layers.1.self_attn.k_proj.bias"]
    back = from_transformers(theirs | {"text_model.final": torch.ones(1)})
    assert "transformer.resblocks.1.attn.in_proj_bias" not in back
    assert "encoder.layers.1.self_attn.q_proj.bias" in back and "text_model.final" in back
