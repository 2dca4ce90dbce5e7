"""How linear an encoder is in each part of a task vector."""

import copy

import numpy as np
import pytest
import tiny
import torch
from test_evaluate import images_of

from task_arithmetic.core.linearity import linearity_errors
from task_arithmetic.core.vectors import TaskVector
from task_arithmetic.stages.evaluate import vector_of
from task_arithmetic.stages.linearity import linearity
from task_arithmetic.vision.modality import read_encoder
from task_arithmetic.vision.parts import parts_of

SINGLE = ["0.attention", "0.mlp", "1.attention", "1.mlp", "embedding", "head"]
JOINT = ["0.block", "1.block", "whole"]
LAYERS = {"nonlinear": SINGLE + JOINT, "ntk": SINGLE + JOINT}
LAYERS["attention"] = ["0.attention", "1.attention", "whole"]


@pytest.fixture(scope="module")
def encoder():
    return read_encoder(tiny.shared_suite()["encoder_dir"])


def belongs(name: str, layer: str) -> bool:
    """Whether a tensor lies in a layer, said otherwise than vision.parts has it."""
    inside = name.startswith("transformer.resblocks.")
    if layer in ("whole", "embedding", "head"):
        last = name == "proj" or name.startswith("ln_post.")
        return layer == "whole" or not inside and last == (layer == "head")
    block, kind = layer.split(".")
    starts = {"attention": ("attn.", "ln_1."), "mlp": ("mlp.", "ln_2.")}
    starts["block"] = starts["attention"] + starts["mlp"]
    place = f"transformer.resblocks.{block}."
    return name.startswith(tuple(place + start for start in starts[kind]))


@torch.no_grad()
def naive_ratio(tau, pixels):
    """By open_clip's module in float64; the derivative by central differences."""

    def features(scale):
        model = copy.deepcopy(tiny.shared_model()).double()
        for name, parameter in model.visual.named_parameters():
            if name in tau:
                parameter.add_(scale * tau[name].double())
        return model.visual(pixels.double()).numpy()

    step = 1e-4
    tangent = (features(step) - features(-step)) / (2 * step)
    change = features(1.0) - features(0.0)
    return np.linalg.norm(change - tangent, axis=1).mean() / np.linalg.norm(change, axis=1).mean()


@pytest.mark.parametrize("mode", tiny.MODES)
def test_errors_are_those_of_naive_models(mode, tmp_path):
    arguments = tiny.common(mode=mode) | {"settings": {"samples": 2048}}
    linearity(**arguments, output=tmp_path / "linearity.csv")
    frame = tiny.frame_of(tmp_path / "linearity.csv")
    assert len(frame) == 2 * len(LAYERS[mode])
    assert set(frame.metric) == {"linearity_error"} and set(frame.split) == {"test"}
    found = frame.set_index(["task", "layer"])["value"]
    for task in ("one", "two"):
        every = vector_of(tiny.shared_vector(mode, task), read_encoder(arguments["encoder_dir"]))
        pixels, _ = images_of(task, "test")
        for layer in LAYERS[mode]:
            tau = {name: every[name] for name in every.keys() if belongs(name, layer)}
            assert found[task, layer] == pytest.approx(naive_ratio(tau, pixels), rel=1e-5)


def random_vector(encoder, scale=0.05) -> TaskVector:
    generator = torch.Generator().manual_seed(3)
    theta0 = encoder.theta0.items()
    return TaskVector({k: scale * torch.randn(v.shape, generator=generator) for k, v in theta0})


def test_tangents_of_the_parts_make_the_tangent_of_the_whole(encoder):
    theta0 = {name: tensor.double() for name, tensor in encoder.theta0.items()}
    tau = {name: tensor.double() for name, tensor in random_vector(encoder).tensors.items()}
    pixels = images_of("one", "test")[0].double()
    single, joint = parts_of(tau)
    assert sorted(name for names in single.values() for name in names) == sorted(tau)
    assert set(single) == set(SINGLE) and list(joint) == JOINT

    def tangent(names):
        own = {name: tau[name] for name in names}
        return encoder.modality.outputs_linearized(theta0, own, pixels, pixels)[1]

    total = sum(tangent(names) for names in single.values())
    assert tiny.close(total, tangent(tau)) < 1e-12


def test_the_error_falls_in_proportion_to_the_length_of_tau(encoder):
    images = np.load(tiny.workspace() / "suite" / "data" / "one" / "test_images.npy")[:8]
    parts = parts_of(encoder.theta0)
    at = {
        scale: linearity_errors(encoder, scale * random_vector(encoder), images, *parts)
        for scale in (1e-3, 2e-3)
    }
    for layer in SINGLE + JOINT:
        once, twice = at[1e-3][layer], at[2e-3][layer]
        assert 0 < once < 0.02 and twice / once == pytest.approx(2, rel=0.03), layer


def test_a_part_that_does_nothing_has_no_error(encoder):
    images = np.load(tiny.workspace() / "suite" / "data" / "one" / "test_images.npy")[:4]
    tau = TaskVector({name: torch.zeros_like(t) for name, t in encoder.theta0.items()})
    assert set(linearity_errors(encoder, tau, images, *parts_of(tau.keys())).values()) == {0.0}


@pytest.mark.parametrize(
    "names, single, joint",
    [
        (["transformer.resblocks.10.attn.in_proj_weight"], ["10.attention"], []),
        (["transformer.resblocks.1.ln_2.bias"], ["1.mlp"], []),
        (["conv1.weight", "ln_post.bias"], ["embedding", "head"], ["whole"]),
        (
            ["transformer.resblocks.2.ln_1.bias", "transformer.resblocks.2.mlp.c_fc.bias"],
            ["2.attention", "2.mlp"],
            ["2.block", "whole"],
        ),
    ],
)
def test_a_mode_has_the_parts_that_it_moves(names, single, joint):
    parts = parts_of(names)
    assert list(parts.single) == single and list(parts.joint) == joint
