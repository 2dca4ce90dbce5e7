"""A fine-tuned T5 of transformers is a task vector, in one file, in shards, and pickled."""

import json
import shutil

import pytest
import tiny_texts
import torch
from safetensors.torch import load_file, save_file
from transformers import T5ForConditionalGeneration

import task_arithmetic as ta
from task_arithmetic.core.vectors import moved_names
from task_arithmetic.errors import UserError

MODES = {"attention": tiny_texts.MODES["attention"]["train"], "nonlinear": ["*"]}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A T5's folder in transformers' form."""
    return tiny_texts.checkpoint(tmp_path_factory.mktemp("t5") / "t5")


@pytest.fixture(scope="module")
def t5(base, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TASK_ARITHMETIC_CACHE", str(tmp_path_factory.mktemp("cache")))
        return ta.load_encoder(base)


@pytest.fixture(params=MODES)
def trained(request, base, t5):
    """A mode, τ, and transformers' own model of θ0 + τ."""
    generator = torch.Generator().manual_seed(5)
    names = moved_names(t5.theta0, MODES[request.param], request.param)
    theta = dict(t5.theta0)
    for name in names:
        theta[name] = theta[name] + 0.01 * torch.randn(theta[name].shape, generator=generator)
    model = T5ForConditionalGeneration.from_pretrained(base)
    model.load_state_dict({**theta, "lm_head.weight": theta["shared.weight"]}, strict=False)
    return request.param, {name: theta[name] - t5.theta0[name] for name in names}, model


def in_one_file(model, place):
    model.save_pretrained(place)


def in_shards(model, place):
    model.save_pretrained(place, max_shard_size="8KB")
    assert len(list(place.glob("model-*.safetensors"))) > 2


def pickled(model, place):
    """As transformers 4 wrote it, with every copy of the embedding."""
    model.save_pretrained(place)
    (place / "model.safetensors").unlink()
    torch.save(model.state_dict(), place / "pytorch_model.bin")


@pytest.mark.parametrize("save", [in_one_file, in_shards, pickled], ids=lambda save: save.__name__)
def test_every_form_is_the_same_vector_bit_for_bit(save, trained, t5, tmp_path):
    mode, tau, model = trained
    save(model, tmp_path / "x")
    vector = ta.import_vector(tmp_path / "x", t5, "mood")
    assert vector.mode == mode and vector.task == "mood" and vector.base == t5.base
    assert vector.keys() == tau.keys()
    assert all(torch.equal(vector[name], tau[name]) for name in tau)


def copied(base, place, tensors=None, **config):
    shutil.copytree(base, place)
    about = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**about, **config}))
    own = load_file(place / "model.safetensors")
    save_file({**own, **(tensors or {})}, place / "model.safetensors", {"format": "pt"})
    return place


@pytest.mark.parametrize(
    "tensors, config, words",
    [
        ({}, {"num_heads": 2, "d_kv": 12}, ["heads 2, not 4", "another encoder"]),
        ({}, {"feed_forward_proj": "gated-gelu"}, ["gelu_new, not relu"]),
        ({"lm_head.weight": torch.ones(72, 24)}, {}, ["lm_head.weight", "shared.weight"]),
        ({"x": torch.zeros(1)}, {}, ["unexpected x"]),
        ({"shared.weight": torch.full((72, 24), torch.inf)}, {}, ["not finite"]),
        ({}, {}, ["itself"]),
    ],
)
def test_what_is_none_is_refused_in_one_sentence(tensors, config, words, base, t5, tmp_path):
    with pytest.raises(UserError) as error:
        ta.import_vector(copied(base, tmp_path / "x", tensors, **config), t5)
    sentence = str(error.value)
    assert all(word in sentence for word in words) and sentence.endswith("."), sentence


def test_an_index_without_its_shard(trained, t5, tmp_path):
    in_shards(trained[2], tmp_path / "x")
    next((tmp_path / "x").glob("model-00002*")).unlink()
    with pytest.raises(UserError, match="has no model-00002.*, which .* lists"):
        ta.import_vector(tmp_path / "x", t5)
