"""What other libraries load of an export: every tensor; the same features, logits and answers."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import tiny_texts
import torch
from PIL import Image
from safetensors import safe_open

import task_arithmetic as ta
from task_arithmetic.files.hashes import sealed
from task_arithmetic.files.paths import write_json
from task_arithmetic.files.tensors import write_tensors
from task_arithmetic.language.modality import Language
from task_arithmetic.language.t5 import logits
from task_arithmetic.vision.clip import encode, encode_text
from task_arithmetic.vision.geometry import TextTower, ViT
from task_arithmetic.vision.modality import Vision

LOAD = """
import json, sys, torch, transformers
folder, kind, inputs, output = sys.argv[1:]
model, said = getattr(transformers, kind).from_pretrained(folder, output_loading_info=True)
with torch.no_grad():
    found = model.eval()(pixel_values=torch.load(inputs))
found = found.image_embeds if kind.endswith("WithProjection") else found.pooler_output
torch.save(found, output)
keys = ("missing_keys", "unexpected_keys", "mismatched_keys")
print(json.dumps([transformers.__version__, *(sorted(map(str, said[key])) for key in keys)]))
"""


def drawn(shapes, seed=0, scale=0.03):
    generator = torch.Generator().manual_seed(seed)
    return {k: scale * torch.randn(shape, generator=generator) for k, shape in shapes.items()}


def clip(folder: Path, geometry: ViT, **about) -> ta.Encoder:
    """An encoder of random weights, and in its folder the text tower of the geometry."""
    folder.mkdir()
    theta0 = drawn(geometry.shapes())
    if geometry.text:
        about |= {"text": asdict(geometry.text), "own_merges": False, "logit_scale": 4.6}
        words = drawn(geometry.text.shapes(), 1)
        write_tensors(folder / "text_tower.safetensors", words, {})
    about = {"definition": {}, "source": None, "text_tower_sha256": None, **about}
    write_json(folder / "encoder.json", sealed(about))
    vision = Vision(geometry, (0.48, 0.46, 0.41), (0.27, 0.26, 0.28))
    none = ta.TaskVector({}, base="b")
    return ta.Encoder("random", theta0, vision, "b", "", folder, none)


def moved(encoder: ta.Encoder, part: str = "") -> ta.Encoder:
    """With a vector that moves every tensor, or those with a part in their names."""
    shapes = {name: tensor.shape for name, tensor in encoder.theta0.items() if part in name}
    return encoder + ta.TaskVector(drawn(shapes, 2, 0.01), "nonlinear", base=encoder.base)


def pixels(geometry, count=2):
    generator = torch.Generator().manual_seed(3)
    return torch.randn(count, 3, geometry.image_size, geometry.image_size, generator=generator)


def relative(ours, theirs):
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Nothing may be looked for on a hub."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


TINY = ViT(2, 32, 8, 16, 48, 4, 16, "gelu")  # whose heads are no 64 wide, and whose MLP is no 4 ×


# --- transformers --------------------------------------------------------------------------------


def check_transformers(model: ta.Encoder, folder: Path) -> None:
    """Both classes load every tensor and give our features."""
    from transformers import CLIPVisionModel, CLIPVisionModelWithProjection

    vision = model.modality
    images = pixels(vision.geometry)
    with torch.no_grad():
        ours = encode(model.theta, images, vision.geometry)
        for kind in (CLIPVisionModelWithProjection, CLIPVisionModel):
            theirs, said = kind.from_pretrained(folder, output_loading_info=True)
            assert not said["missing_keys"] and not said["mismatched_keys"]
            found = theirs.eval()(pixel_values=images)
            if kind is CLIPVisionModel:
                assert set(said["unexpected_keys"]) == {"visual_projection.weight"}
                found = found.pooler_output @ model.theta["proj"]
            else:
                assert not said["unexpected_keys"]
                found = found.image_embeds
            assert relative(ours, found) <= 1e-5
            del theirs  # before the next one takes as much


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
@pytest.mark.parametrize("shard_bytes", [5 * 10**9, 30_000])
def test_transformers_loads_an_image_tower(tmp_path, activation, shard_bytes):
    model = moved(clip(tmp_path / "encoder", replace(TINY, activation=activation)))
    ta.export(model, tmp_path / "out", shard_bytes=shard_bytes)
    check_transformers(model, tmp_path / "out")
    shards = sorted((tmp_path / "out").glob("*.safetensors"))
    assert (len(shards) > 1) == (shard_bytes < 10**9)
    for path in shards:
        header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
        assert path.stat().st_size - header <= shard_bytes
        with safe_open(path, "pt") as file:
            assert file.metadata() == {"format": "pt"}


def test_images_are_prepared_as_ours(tmp_path):
    from transformers import CLIPImageProcessor

    model = moved(clip(tmp_path / "encoder", TINY))
    ta.export(model, tmp_path / "out")
    processor = CLIPImageProcessor.from_pretrained(tmp_path / "out")
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    theirs = processor(Image.fromarray(image), return_tensors="pt")["pixel_values"]
    ours = model.modality.pixels(torch.from_numpy(image)[None])
    assert theirs.shape == ours.shape and (theirs - ours).abs().max() <= 1e-5


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in list(tiny.REAL)[1:]]


@pytest.mark.parametrize("name", ["ViT-B-32", *SLOW])
def test_the_papers_encoders_load_in_transformers(tmp_path, name):
    model = moved(clip(tmp_path / "encoder", tiny.real_geometry(name)), "attn.in_proj")
    ta.export(model, tmp_path / "out")
    check_transformers(model, tmp_path / "out")


@pytest.mark.slow
def test_a_transformers_of_another_version_loads_the_same(tmp_path):
    """Of transformers 4 in an environment of its own: TRANSFORMERS_4 names its Python."""
    python = os.environ.get("TRANSFORMERS_4")
    if not python:
        pytest.skip("TRANSFORMERS_4 names no Python with transformers 4")
    model = moved(clip(tmp_path / "encoder", TINY))
    ta.export(model, tmp_path / "out")
    images = pixels(TINY)
    torch.save(images, tmp_path / "pixels")
    ours = encode(model.theta, images, TINY)
    for kind, unexpected in (
        ("CLIPVisionModelWithProjection", []),
        ("CLIPVisionModel", ["visual_projection.weight"]),
    ):
        words = [python, "-c", LOAD, tmp_path / "out", kind, tmp_path / "pixels", tmp_path / kind]
        env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        done = subprocess.run([*map(str, words)], env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        version, *keys = json.loads(done.stdout.splitlines()[-1])
        assert version.startswith("4.") and keys == [[], unexpected, []]
        found = torch.load(tmp_path / kind)
        found = found if kind.endswith("Projection") else found @ model.theta["proj"]
        assert relative(ours, found) <= 1e-5


# --- T5 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_transformers_loads_a_t5(tmp_path, tied):
    from transformers import AutoTokenizer, T5ForConditionalGeneration

    read = ta.load_encoder(tiny_texts.suite()["encoder_dir"])
    geometry = read.modality.geometry
    if not tied:
        geometry = replace(geometry, tied=False, gated=True, activation="gelu_new")
    language = replace(read.modality, geometry=geometry)
    theta0 = drawn(geometry.shapes(), scale=0.2)
    model = moved(replace(read, theta0=theta0, modality=language))
    ta.export(model, tmp_path / "out")
    theirs, said = T5ForConditionalGeneration.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not said["missing_keys"] and not said["unexpected_keys"]
    with safe_open(tmp_path / "out/model.safetensors", "pt") as file:
        assert set(file.keys()) == set(geometry.shapes())
        assert ("lm_head.weight" in file.keys()) is not tied  # noqa: SIM118
    source = torch.tensor([[5, 9, 14, geometry.eos], [7, geometry.eos, 0, 0]])
    given = torch.tensor([[geometry.start, 4, 6], [geometry.start, 8, 3]])
    with torch.no_grad():
        found = theirs.eval()(
            input_ids=source, attention_mask=(source != 0).long(), decoder_input_ids=given
        ).logits
    assert relative(logits(model.theta, source, given, geometry), found) <= 1e-5
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    tokens = tokenizer("red dog runs")["input_ids"]
    own = tiny_texts.suite()["encoder_dir"] / "tokenizer.json"
    from tokenizers import Tokenizer

    assert tokens == Tokenizer.from_file(str(own)).encode("red dog runs").ids
    assert theirs.generate(torch.tensor([tokens]), max_new_tokens=3).shape[0] == 1


def test_a_t5_without_its_pretrained_folder_has_a_tokenizer_all_the_same(tmp_path, monkeypatch):
    from transformers import AutoTokenizer

    monkeypatch.chdir(tmp_path)
    read = ta.load_encoder(tiny_texts.suite()["encoder_dir"])
    folder = tmp_path / "encoder"
    folder.mkdir()
    about = {"definition": {"path": "gone"}, "source": None}
    write_json(folder / "encoder.json", sealed(about))
    (folder / "tokenizer.json").write_bytes((read.folder / "tokenizer.json").read_bytes())
    ta.export(moved(replace(read, folder=folder)), "out")
    tokenizer = AutoTokenizer.from_pretrained("./out")
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1)
    assert tokenizer("red")["input_ids"]
    assert isinstance(read.modality, Language)


# --- open_clip -----------------------------------------------------------------------------------


def check_open_clip(model: ta.Encoder, folder: Path) -> None:
    import open_clip

    theirs, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    geometry = model.modality.geometry
    images = pixels(geometry)
    text = geometry.text or TextTower(
        **json.loads((model.folder / "encoder.json").read_text())["text"]
    )
    tokens = torch.randint(1, text.vocab_size, (2, text.context_length))
    with safe_open(model.folder / "text_tower.safetensors", "pt") as file:
        words = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    with torch.no_grad():
        found = theirs.eval().encode_image(images)
        assert relative(encode(model.theta, images, geometry), found) <= 1e-5
        assert relative(encode_text(words, tokens, text), theirs.encode_text(tokens)) <= 1e-5
    image = np.random.default_rng(0).integers(0, 256, (geometry.image_size,) * 2 + (3,), np.uint8)
    prepared = preprocess(Image.fromarray(image))
    assert (prepared - model.modality.pixels(torch.from_numpy(image)[None])[0]).abs().max() <= 1e-5


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_open_clip_loads_the_whole_model(tmp_path, activation):
    text = TextTower(2, 24, 3, 16, 500, 36, 16, activation)
    model = moved(clip(tmp_path / "encoder", replace(TINY, activation=activation, text=text)))
    ta.export(model, tmp_path / "out", "open_clip")
    check_open_clip(model, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("name", tiny.REAL)
def test_the_papers_encoders_load_in_open_clip(tmp_path, name):
    geometry = tiny.real_geometry(name)
    width = 768 if name == "ViT-L-14" else 512
    text = TextTower(12, width, width // 64, 77, 49408, 4 * width, width, "quick_gelu")
    model = moved(clip(tmp_path / "encoder", replace(geometry, text=text)), "attn.in_proj")
    ta.export(model, tmp_path / "out", "open_clip")
    check_open_clip(model, tmp_path / "out")


def test_what_open_clip_loads_is_an_encoder_of_ours_again(tmp_path):
    """A tokenizer of its own goes along."""
    small = ta.load_encoder("embedded-small")
    model = moved(small)
    ta.export(model, tmp_path / "out", "open_clip")
    again = ta.load_encoder(tmp_path / "out")
    assert again.theta0.keys() == model.theta.keys()
    assert all(torch.equal(again.theta0[name], model.theta[name]) for name in model.theta)
    task = ta.load_task("shapes", small)
    head = ta.load_task("shapes", again).head
    with safe_open(head, "pt") as ours, safe_open(task.head, "pt") as theirs:
        assert torch.equal(ours.get_tensor("head"), theirs.get_tensor("head"))


def test_the_ten_lines_of_the_card_classify_an_image(tmp_path, monkeypatch, capsys):
    suite = tiny.shared_suite()
    encoder = ta.load_encoder(suite["encoder_dir"])
    files = zip(suite["tasks"], suite["data_dirs"], suite["heads"], strict=True)
    tasks = [ta.Task(name, encoder, data, head) for name, data, head in files]
    tau = ta.merge([ta.TaskVector.load(tiny.shared_vector("attention", t.name)) for t in tasks])
    model = encoder + 0.5 * tau
    ta.export(model, tmp_path / "out", "open_clip", tasks=tasks)
    card = (tmp_path / "out/README.md").read_text()
    lines = card.split("```python\n")[1].split("```")[0]
    assert len([line for line in lines.splitlines() if line]) == 10
    examples = tasks[0].examples("test", encoder)
    images = model.modality.pixels(torch.from_numpy(np.array(examples.images)))
    features = encode(model.theta, images, model.modality.geometry)
    expected = (torch.nn.functional.normalize(features, dim=-1) @ examples.head.T).argmax(-1)
    monkeypatch.chdir(tmp_path / "out")
    chosen = [int((expected == label).nonzero()[0]) for label in expected.unique()]
    assert len(chosen) > 1
    for i in chosen:
        Image.fromarray(examples.images[i]).save("image.png")
        exec(compile(lines, "card", "exec"), {})
        assert capsys.readouterr().out.split() == [tasks[0].classes[expected[i]]]
    with safe_open("heads.safetensors", "pt") as file:
        said = json.loads(file.metadata()["tasks"])
        assert set(file.keys()) == {"one", "two", "three"} == set(said)
    assert said["one"]["templates"] == ["a photo of a {}.", "{}"]


@pytest.mark.slow
def test_the_script_that_another_python_runs_is_right_here(tmp_path):
    """So that what it says of transformers 4 is of that version."""
    model = moved(clip(tmp_path / "encoder", TINY))
    ta.export(model, tmp_path / "out")
    torch.save(pixels(TINY), tmp_path / "pixels")
    kind = "CLIPVisionModelWithProjection"
    words = [sys.executable, "-c", LOAD, tmp_path / "out", kind, tmp_path / "pixels"]
    done = subprocess.run([*map(str, words), str(tmp_path / "f")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])[1:] == [[], [], []]
    found = torch.load(tmp_path / "f")
    assert relative(encode(model.theta, pixels(TINY), TINY), found) <= 1e-5
