"""Fine-tuned image towers of every form are the same task vector, bit for bit; what is none is
refused in one sentence, and nothing is written."""

import json
import re
from functools import partial
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import save_file

import task_arithmetic as ta
from task_arithmetic.cli import main
from task_arithmetic.errors import UserError
from task_arithmetic.files.checkpoint import checkpoint_files
from task_arithmetic.files.tensors import read_made_by, read_tensors
from task_arithmetic.stages.evaluate import read_vector
from task_arithmetic.vision.imports import write_published
from task_arithmetic.vision.names import PREFIX, PROJECTION, to_transformers

CONFIG = {
    "model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16, "patch_size": 8,
    "projection_dim": 16, "hidden_act": "quick_gelu",
}  # fmt: skip
ATTENTION = [f"transformer.resblocks.{i}.attn.{w}" for i in (0, 1) for w in ("in_proj_weight",)]
TEXT = {  # open_clip → transformers, but blocks
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
}


@pytest.fixture(scope="module")
def clip():
    return ta.load_encoder(tiny.shared_suite()["encoder_dir"])


@pytest.fixture(scope="module")
def whole():
    """The open_clip model that the encoder was taken from."""
    return read_tensors(tiny.workspace() / "suite/checkpoint/open_clip_model.safetensors")


def trained(clip, mode: str, proj=True) -> dict[str, torch.Tensor]:
    """θ_t of the image tower, after fine-tuning in a mode."""
    theta = {**clip.theta0, **read_tensors(tiny.shared_finetuned(mode, "one"))}
    return theta if proj else {**theta, "proj": clip.theta0["proj"]}


def folder(place: Path, tensors, config=CONFIG, name="model.safetensors") -> Path:
    place.mkdir(parents=True, exist_ok=True)
    if config is not None:
        (place / "config.json").write_text(json.dumps(config))
    save_file({k: v.contiguous() for k, v in tensors.items()}, place / name)
    return place


def with_projection(theta, clip, whole, place):
    return folder(place, to_transformers(theta))


def without_prefix(theta, clip, whole, place):
    tensors = {k.removeprefix(PREFIX): v for k, v in to_transformers(theta).items()}
    tensors["embeddings.position_ids"] = torch.arange(5)[None]
    return folder(place, {k: v for k, v in tensors.items() if k != PROJECTION})


def file_of_transformers(theta, clip, whole, place):
    return folder(place, to_transformers(theta), None) / "model.safetensors"


def in_shards(theta, clip, whole, place):
    tensors = to_transformers(theta)
    names = sorted(tensors)
    folder(place, {k: tensors[k] for k in names[::2]}, name="model-00001-of-00002.safetensors")
    folder(place, {k: tensors[k] for k in names[1::2]}, name="model-00002-of-00002.safetensors")
    listed = {k: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, k in enumerate(names)}
    (place / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listed}))
    return place


def pytorch_bin(theta, clip, whole, place):
    folder(place, {})
    (place / "model.safetensors").unlink()
    torch.save(to_transformers(theta), place / "pytorch_model.bin")
    return place


def text_of_transformers(whole):
    """The text tower as CLIPModel names it."""
    blocks = {k: v for k, v in whole.items() if k.startswith("transformer.")}
    found = {k.replace(PREFIX, "text_model."): v for k, v in to_transformers(blocks).items()}
    found |= {theirs: whole[ours] for ours, theirs in TEXT.items()}
    found["text_projection.weight"] = whole["text_projection"].T
    return {**found, "logit_scale": whole["logit_scale"]}


def whole_clip_model(theta, clip, whole, place):
    config = {"model_type": "clip", "vision_config": CONFIG}
    return folder(place, {**to_transformers(theta), **text_of_transformers(whole)}, config)


def visual(theta, start="visual."):
    return {start + name: tensor for name, tensor in theta.items()}


def open_clip_folder(theta, clip, whole, place):
    place.mkdir()
    config = {"model_cfg": tiny.MODEL, "preprocess_cfg": tiny.PREPROCESS}
    (place / "open_clip_config.json").write_text(json.dumps(config))
    save_file({**whole, **visual(theta)}, place / "open_clip_model.safetensors")
    return place


def tall(theta, clip, whole, place):
    """As nik-dim/tall_masks: a state dict of an image encoder that kept some of the text tower."""
    place.mkdir()
    left = {f"model.{k}": whole[k] for k in ("positional_embedding", "logit_scale", *TEXT)}
    torch.save({**visual(theta, "model.visual."), **left}, place / "nonlinear_finetuned.pt")
    return place / "nonlinear_finetuned.pt"


def state_dict(theta, clip, whole, place):
    place.mkdir()
    torch.save(theta, place / "state.pt")
    return place / "state.pt"


FORMS = [
    with_projection, without_prefix, file_of_transformers, in_shards, pytorch_bin,
    whole_clip_model, open_clip_folder, tall, state_dict,
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
@pytest.mark.parametrize("mode", ["nonlinear", "attention"])
def test_every_form_is_the_pipelines_vector_bit_for_bit(form, mode, clip, whole, tmp_path, capsys):
    theta = trained(clip, mode, proj=form is not without_prefix)
    place = form(theta, clip, whole, tmp_path / "x")
    vector = ta.import_vector(place, clip, "one")
    made = read_vector(tiny.shared_vector(mode, "one"))
    assert vector.mode == mode and not vector.linearized and vector.task == "one"
    assert vector.base == made.base == clip.base
    assert vector.keys() == made.keys()
    for name in made.keys():
        absent = form is without_prefix and name == "proj"
        expected = torch.zeros_like(made[name]) if absent else made[name]
        assert torch.equal(vector[name], expected), name
    said = capsys.readouterr().err
    none_left = "so that none is left to hold to" if mode == "nonlinear" else ""
    assert (none_left or "largest difference 0.0e+00") in said


@pytest.mark.parametrize("mode", ["nonlinear", "ntk", "attention"])
@pytest.mark.parametrize("file", [tiny.shared_finetuned, tiny.shared_vector])
def test_our_own_files_know_their_mode(mode, file, clip):
    vector = ta.import_vector(file(mode, "one"), clip)
    made = read_vector(tiny.shared_vector(mode, "one"))
    assert (vector.mode, vector.linearized) == (mode, mode == "ntk")
    assert vector.keys() == made.keys()
    assert all(torch.equal(vector[name], made[name]) for name in made.keys())


def linear(theta, clip, whole, left=("positional_embedding", "logit_scale", "text_projection")):
    """As tangent_task_arithmetic: tensors by number."""
    start = [*clip.theta0.values(), *(whole[name] for name in left)]
    end = [*(theta[name] for name in clip.theta0), *(whole[name] for name in left)]
    numbered = {f"model.params0.{i}": t for i, t in enumerate(start)}
    return {**numbered, **{f"model.params.{i}": t for i, t in enumerate(end)}}


def test_tensors_by_number_are_matched_by_what_they_were(clip, whole, tmp_path):
    tensors = linear(trained(clip, "ntk"), clip, whole)
    torch.save(tensors, tmp_path / "linear_finetuned.pt")
    vector = ta.import_vector(tmp_path / "linear_finetuned.pt", clip)
    made = read_vector(tiny.shared_vector("ntk", "one"))
    assert vector.mode == "ntk" and vector.linearized and vector.keys() == made.keys()
    assert all(torch.equal(vector[name], made[name]) for name in made.keys())


def test_a_mode_that_is_named_has_exactly_its_tensors(clip, whole, tmp_path):
    """More than what moved may be named, and a linearized mode by name alone."""
    place = with_projection(trained(clip, "attention"), clip, whole, tmp_path / "x")
    for mode in ("nonlinear", "ntk"):
        vector = ta.import_vector(place, clip, mode=mode)
        assert vector.mode == mode and vector.keys() == clip.theta0.keys()
        assert vector.linearized == (mode == "ntk")
        moved = {name for name, tensor in vector.tensors.items() if tensor.any()}
        assert moved == {name for name in clip.theta0 if re.search(r"(in|out)_proj.?weight", name)}
    biases = trained(clip, "attention")
    biases["transformer.resblocks.1.attn.in_proj_bias"] = (
        0.001 + biases["transformer.resblocks.1.attn.in_proj_bias"]
    )
    place = with_projection(biases, clip, whole, tmp_path / "y")
    assert ta.import_vector(place, clip).mode == "attention_bias"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_and_said(dtype, clip, whole, tmp_path, capsys):
    theta = {k: v.to(dtype) for k, v in trained(clip, "attention").items()}
    vector = ta.import_vector(state_dict(theta, clip, whole, tmp_path / "x"), clip)
    said = capsys.readouterr().err
    assert vector.mode == "attention" and str(dtype).removeprefix("torch.") in said
    for name, tensor in vector.tensors.items():
        assert tensor.dtype == torch.float32
        same = theta[name] == clip.theta0[name].to(dtype)
        moved = theta[name].float() - clip.theta0[name]
        assert torch.equal(tensor, torch.where(same, 0.0, moved))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_did_not_move_is_zero_in_half_precision_too(dtype, clip, whole, tmp_path):
    """Rounding θ0 is no fine-tuning."""
    theta = {k: v.to(dtype) for k, v in clip.theta0.items()}
    theta["ln_post.bias"] = (clip.theta0["ln_post.bias"] + 0.25).to(dtype)
    place = state_dict(theta, clip, whole, tmp_path / "x")
    vector = ta.import_vector(place, clip, mode="nonlinear")
    assert [name for name, t in vector.tensors.items() if t.any()] == ["ln_post.bias"]


def test_a_mode_that_says_otherwise_of_f_lin_than_our_file_is_refused(clip):
    with pytest.raises(UserError, match="was fine-tuned in f, and ntk is linearized: name a mode"):
        ta.import_vector(tiny.shared_finetuned("attention", "one"), clip, mode="ntk")


def test_weights_that_do_not_say_so_are_read_as_f_lins_with_a_word(clip, whole, tmp_path, capsys):
    place = state_dict(trained(clip, "attention"), clip, whole, tmp_path / "x")
    assert ta.import_vector(place, clip, mode="ntk").linearized
    assert "does not say that it was fine-tuned in f_lin: as ntk it is read as" in (
        capsys.readouterr().err
    )


def test_a_name_below_a_folder_that_is_here_is_no_hubs(clip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    with pytest.raises(UserError, match="There is no models/textuers: give a folder"):
        ta.import_vector("models/textuers", clip)


def test_a_tensor_under_two_names_is_refused(clip, whole, tmp_path):
    theta = to_transformers(trained(clip, "attention"))
    name = "embeddings.class_embedding"
    theta[name] = theta[f"vision_model.{name}"] + 5
    with pytest.raises(UserError, match="with and without 'vision_model.'"):
        ta.import_vector(folder(tmp_path / "x", theta), clip)


# --- What is refused ------------------------------------------------------------------------------


def moved_text(theta, whole):
    return {
        **visual(theta),
        **whole,
        **visual(theta),
        "text_projection": whole["text_projection"] + 1,
    }


def changed(theta, name, change):
    return {**theta, name: change(theta[name].clone())}


def with_nan(tensor):
    tensor.view(-1)[3] = float("nan")
    return tensor


LN = "transformer.resblocks.0.ln_1.weight"
BAD = {  # what → tensors of θ_t, θ0 and the whole model; options; words of the sentence
    "another base in what attention leaves": (
        lambda theta, whole: changed(theta, LN, lambda x: x + 2e-6),
        {"mode": "attention"}, ["another base", LN],
    ),
    "weights that were trained apart": (
        lambda theta, whole: {k: torch.randn_like(v) for k, v in theta.items()},
        {}, ["another base", "farther"],
    ),
    "not finite": (lambda theta, whole: changed(theta, LN, with_nan), {}, ["not finite", LN]),
    "whole numbers": (lambda theta, whole: changed(theta, LN, torch.Tensor.int), {}, ["int32"]),
    "another geometry": (
        lambda theta, whole: changed(theta, "conv1.weight", lambda x: x[:, :, :4, :4]),
        {}, ["conv1.weight", "(32, 3, 4, 4)"],
    ),
    "a tensor lacks": (lambda theta, whole: {k: v for k, v in theta.items() if k != LN}, {}, [LN]),
    "a tensor too many": (lambda theta, whole: {**theta, "x": theta[LN]}, {}, ["unexpected x"]),
    "two formats": (
        lambda theta, whole: {**to_transformers(theta), **visual(theta)},
        {}, ["transformers", "open_clip"],
    ),
    "a text tower that moved": (
        lambda theta, whole: moved_text(theta, whole), {}, ["text_projection", "text tower"],
    ),
    "a tensor of no text tower": (
        lambda theta, whole: {**visual(theta), "head": theta[LN]}, {}, ["has head"],
    ),
    "an unknown mode": (lambda theta, whole: theta, {"mode": "atention"}, ["'attention'"]),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_fine_tuned_tower_is_one_sentence(what, clip, whole, tmp_path):
    make, options, words = BAD[what]
    tensors = make(trained(clip, "attention"), whole)
    torch.save(tensors, tmp_path / "x.pt")
    refused(partial(ta.import_vector, tmp_path / "x.pt", clip, **options), *words)


def refused(call, *words):
    with pytest.raises(UserError) as error:
        call()
    sentence = str(error.value)
    assert all(word in sentence for word in words), sentence
    assert "\n" not in sentence and sentence.endswith("."), sentence


def test_nothing_moved(clip, whole, tmp_path):
    torch.save(dict(clip.theta0), tmp_path / "x.pt")
    refused(lambda: ta.import_vector(tmp_path / "x.pt", clip), "itself")


def test_tensors_by_number_that_cannot_be_told_apart(clip, whole, tmp_path):
    tensors, names = linear(trained(clip, "ntk"), clip, whole), list(clip.theta0)
    read = partial(ta.import_vector, tmp_path / "x.pt", clip)
    torch.save({**tensors, "model.params0.3": tensors["model.params0.3"] + 1}, tmp_path / "x.pt")
    refused(read, "params0.3", "another base")
    twice = {**tensors, "model.params0.999": tensors["model.params0.3"]}
    torch.save({**twice, "model.params.999": tensors["model.params.3"]}, tmp_path / "x.pt")
    refused(read, "cannot be told apart", names[3])
    torch.save(tensors, tmp_path / "x.pt")
    refused(lambda: read(mode="nonlinear"), "not linearized")
    del tensors["model.params.3"]
    torch.save(tensors, tmp_path / "x.pt")
    refused(read, "as many")


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("hidden_act", "gelu", ["activation gelu, not quick_gelu"]),
        ("num_attention_heads", 4, ["heads 4, not 2"]),
        ("model_type", "siglip_vision_model", ["siglip_vision_model"]),
    ],
)
def test_another_architecture_by_its_configuration(key, value, words, clip, whole, tmp_path):
    theta = to_transformers(trained(clip, "nonlinear"))
    refused(lambda: ta.import_vector(folder(tmp_path, theta, {**CONFIG, key: value}), clip), *words)


def test_gelu_in_open_clips_configuration(clip, whole, tmp_path):
    place = open_clip_folder(trained(clip, "nonlinear"), clip, whole, tmp_path / "x")
    config = {"model_cfg": {**tiny.MODEL, "quick_gelu": False}, "preprocess_cfg": tiny.PREPROCESS}
    (place / "open_clip_config.json").write_text(json.dumps(config))
    refused(lambda: ta.import_vector(place, clip), "activation gelu, not quick_gelu")


def test_a_pickled_module_is_refused_with_two_lines_that_convert_it(clip, tmp_path, monkeypatch):
    """And these lines are right."""
    module = torch.nn.Module()
    module.model = torch.nn.Module()
    module.model.visual = tiny.shared_model().visual
    torch.save(module, tmp_path / "finetuned.pt")
    with pytest.raises(UserError) as error:
        ta.import_vector(tmp_path / "finetuned.pt", clip)
    sentence, *lines = str(error.value).split("\n")
    assert "pickled module" in sentence and len(lines) == 2
    monkeypatch.chdir(tmp_path)
    exec("\n".join(line.strip() for line in lines))
    refused(lambda: ta.import_vector(tmp_path / "finetuned_state.pt", clip), "itself")


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_cut_file(name, clip, whole, tmp_path):
    form = with_projection if name.startswith("model") else pytorch_bin
    place = form(trained(clip, "nonlinear"), clip, whole, tmp_path / "x")
    content = (place / name).read_bytes()
    for size in (0, 100, len(content) // 2):
        (place / name).write_bytes(content[:size])
        refused(lambda: ta.import_vector(place, clip), name, "put a whole one in its place")


def test_a_file_of_something_else(clip, tmp_path):
    torch.save([torch.zeros(2)], tmp_path / "x.pt")
    refused(lambda: ta.import_vector(tmp_path / "x.pt", clip), "list instead of a state dict")


def test_a_folder_that_is_not_whole(tmp_path):
    refused(lambda: checkpoint_files(tmp_path / "none"), "There is no")
    refused(lambda: checkpoint_files(tmp_path), "config.json", "open_clip_config.json")
    (tmp_path / "config.json").write_text("{}")
    refused(lambda: checkpoint_files(tmp_path), "no model.safetensors")
    (tmp_path / "config.json").rename(tmp_path / "open_clip_config.json")
    (tmp_path / "open_clip_pytorch_model.bin").write_text("")
    refused(lambda: checkpoint_files(tmp_path), "is pickled")


def test_the_command_writes_a_vector_that_stands_beside_the_pipelines(
    clip, whole, tmp_path, capsys
):
    place = with_projection(trained(clip, "attention"), clip, whole, tmp_path / "x")
    words = ["vector", "--from", place, "--base", clip.folder, "--task", "one", "--out"]
    words = [str(word) for word in [*words, tmp_path / "one.safetensors", "--json"]]
    assert main(words) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["mode"] == "attention" and said["norm"] > 0
    made = read_vector(tiny.shared_vector("attention", "one"))
    loaded = ta.TaskVector.load(tmp_path / "one.safetensors")
    assert (loaded.mode, loaded.task, loaded.base) == ("attention", "one", clip.base)
    assert all(torch.equal(loaded[name], made[name]) for name in made.keys())
    header = read_made_by(tmp_path / "one.safetensors")
    assert header["stage"] == "vector" and header["theta0_sha256"] == clip.base
    assert list(header["source"]["files"]) == ["model.safetensors"]
    assert main(words) == 1 and "is there already" in capsys.readouterr().err


def test_a_failed_command_writes_nothing(clip, tmp_path, capsys):
    words = ["vector", "--from", tmp_path, "--base", clip.folder, "--task", "one", "--out"]
    assert main([str(word) for word in [*words, tmp_path / "one.safetensors"]]) == 1
    assert capsys.readouterr().err.startswith("task-arithmetic vector: ")
    assert not list(tmp_path.iterdir())


def test_the_stage_writes_what_the_vector_stage_writes(clip, whole, tmp_path):
    place = with_projection(trained(clip, "nonlinear"), clip, whole, tmp_path / "x")
    output = tmp_path / "one.safetensors"
    settings = {"mode": tiny.MODES["nonlinear"]}
    named = {"encoder": "tiny", "mode": "nonlinear", "task": "one", "settings": settings}
    write_published(clip.folder, **named, files=checkpoint_files(place), output=output)
    ours, made = read_tensors(output), read_tensors(tiny.shared_vector("nonlinear", "one"))
    assert ours.keys() == made.keys() and all(torch.equal(ours[k], made[k]) for k in made)
    header, of_vector = read_made_by(output), read_made_by(tiny.shared_vector("nonlinear", "one"))
    for key in ("stage", "encoder", "mode", "task", "theta0_sha256"):
        assert header[key] == of_vector[key], key
    assert header["settings"]["mode"] == of_vector["settings"]["mode"]
