"""The image tower, its linearization, the text tower and the heads, held to open_clip's own."""

import gzip
import json
import pickle
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from torch.nn.attention import SDPBackend, sdpa_kernel

from task_arithmetic.errors import UserError
from task_arithmetic.files.hashes import sealed, sha256_of_file
from task_arithmetic.files.paths import read_json, write_json
from task_arithmetic.files.tensors import read_tensors
from task_arithmetic.stages.download import write_download
from task_arithmetic.vision.checkpoints import clip_tokenizer, import_encoder, write_head
from task_arithmetic.vision.clip import (
    classify,
    encode,
    encode_linearized,
    encode_text,
    make_head,
)
from task_arithmetic.vision.geometry import (
    HARMLESS,
    SIZES,
    TextTower,
    ViT,
    clip_geometry,
    weights_repository,
)
from task_arithmetic.vision.modality import read_encoder

TEMPLATES = ["a photo of a {}.", "{}", "art of the {}, don't ask!"]


@pytest.fixture(scope="module", params=["quick_gelu", "gelu"])
def clip(request, tmp_path_factory):
    """One small CLIP, as open_clip's module and as our imported tensors."""
    root = tmp_path_factory.mktemp(request.param)
    folder = tiny.checkpoint(root / "checkpoint", quick_gelu=request.param == "quick_gelu")
    import_encoder("tiny", {"path": str(folder)}, root / "encoder")
    encoder = read_encoder(root / "encoder")
    return SimpleNamespace(
        folder=folder,
        encoder_dir=root / "encoder",
        params=encoder.theta0,
        geometry=encoder.modality.geometry,
        text_geometry=TextTower(**read_json(root / "encoder/encoder.json")["text"]),
        text=read_tensors(root / "encoder" / "text_tower.safetensors"),
        model=tiny.open_clip_model(folder),
        model64=tiny.open_clip_model(folder).double(),
    )


def double(tensors):
    return {name: tensor.double() for name, tensor in tensors.items()}


def images(count=3, size=16, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, size, size, generator=generator, dtype=dtype)


def direction(params, chosen=lambda name: True, seed=1):
    """A random task vector of the chosen tensors, of their sizes."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: 0.1
        * tensor.std()
        * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
        for name, tensor in params.items()
        if chosen(name)
    }


# --- The image tower -----------------------------------------------------------------------------


def test_encode_is_open_clips_image_tower(clip):
    pixels = images(dtype=torch.float32)
    with torch.no_grad():
        assert (
            tiny.close(encode(clip.params, pixels, clip.geometry), clip.model.visual(pixels)) < 1e-5
        )
        ours = encode(double(clip.params), pixels.double(), clip.geometry)
        assert tiny.close(ours, clip.model64.visual(pixels.double())) < 1e-12


def real_tower(name):
    """open_clip's image tower without memory."""
    import open_clip

    config = open_clip.get_model_config(f"{name}-quickgelu")
    with torch.device("meta"):
        vision = open_clip.model.CLIPVisionCfg(**config["vision_cfg"])
        return open_clip.model._build_vision_tower(config["embed_dim"], vision, quick_gelu=True)


@pytest.mark.parametrize("name", tiny.REAL)
def test_encode_is_open_clips_image_tower_at_full_size(name):
    visual = real_tower(name).to_empty(device="cpu").eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in visual.parameters():  # of the order of trained weights
            fan_in = parameter.shape[-1] if parameter.ndim > 1 else 100
            parameter.uniform_(-1, 1).mul_(1.5 * fan_in**-0.5)
            if parameter.ndim == 1:
                parameter.add_(0.5)
        pixels = images(2 if name == "ViT-B-32" else 1, 224, torch.float32)
        ours = encode(dict(visual.named_parameters()), pixels, tiny.real_geometry(name))
        theirs = visual(pixels)
    assert theirs.std() > 0.01 and theirs.isfinite().all()
    assert tiny.close(ours, theirs) < 1e-5


@pytest.mark.parametrize("name", tiny.REAL)
def test_the_expected_tensors_are_those_of_open_clips_tower(name):
    theirs = {k: tuple(v.shape) for k, v in real_tower(name).state_dict().items()}
    assert tiny.real_geometry(name).shapes() == theirs


def test_encode_does_not_depend_on_the_batch_that_an_image_is_in(clip):
    pixels, params = images(5), double(clip.params)
    alone = torch.cat([encode(params, pixels[i : i + 1], clip.geometry) for i in range(5)])
    assert tiny.close(encode(params, pixels, clip.geometry), alone) < 1e-12


def test_the_gradient_in_every_tensor_is_that_of_open_clips_tower(clip):
    pixels = images()
    params = {k: v.requires_grad_() for k, v in double(clip.params).items()}
    weights = torch.randn(3, clip.geometry.embed_dim, dtype=torch.float64)
    (encode(params, pixels, clip.geometry) * weights).sum().backward()
    visual = clip.model64.visual
    visual.zero_grad()
    (visual(pixels) * weights).sum().backward()
    theirs = dict(visual.named_parameters())
    assert theirs.keys() == params.keys()
    for name, tensor in params.items():
        assert tiny.close(tensor.grad, theirs[name].grad) < 1e-9, name


# --- The linearization f(x; θ0) + ∇f(x; θ0)·τ ----------------------------------------------------


def open_clip_jvp(model, tau, pixels):
    """f(x; θ0) and ∇f(x; θ0)·τ by torch's own forward mode through open_clip's own module."""
    theta0 = {name: p.detach() for name, p in model.visual.named_parameters()}
    tangents = {name: tau.get(name, torch.zeros_like(p)) for name, p in theta0.items()}

    def f(params):
        return torch.func.functional_call(model.visual, params, (pixels,))

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            return torch.func.jvp(f, (theta0,), (tangents,))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


GROUPS = {
    "everything": lambda n: True,
    "conv1": lambda n: n == "conv1.weight",
    "class_embedding": lambda n: n == "class_embedding",
    "positional_embedding": lambda n: n == "positional_embedding",
    "ln_pre": lambda n: n.startswith("ln_pre"),
    "ln_1 and ln_2": lambda n: ".ln_" in n,
    "ln_post": lambda n: n.startswith("ln_post"),
    "proj": lambda n: n == "proj",
    "attention": lambda n: n.endswith(("attn.in_proj_weight", "attn.out_proj.weight")),
    "attention biases": lambda n: n.endswith(("attn.in_proj_bias", "attn.out_proj.bias")),
    "mlp weights": lambda n: ".mlp." in n and n.endswith("weight"),
    "mlp biases": lambda n: ".mlp." in n and n.endswith("bias"),
    "first block": lambda n: n.startswith("transformer.resblocks.0."),
    "last block": lambda n: n.startswith("transformer.resblocks.1."),
}


@pytest.mark.parametrize("group", GROUPS)
def test_the_tangent_is_torchs_jvp_of_open_clips_tower(clip, group):
    params, pixels = double(clip.params), images()
    tau = direction(params, GROUPS[group])
    assert tau
    value, tangent = encode_linearized(params, tau, pixels, clip.geometry)
    their_value, their_tangent = open_clip_jvp(clip.model64, tau, pixels)
    assert tiny.close(value, their_value) < 1e-12
    assert tiny.close(tangent, their_tangent) < 1e-10


def test_the_tangent_in_float32_is_as_good_as_float32_allows(clip):
    pixels, tau = images(dtype=torch.float32), direction(clip.params)
    value, tangent = encode_linearized(clip.params, tau, pixels, clip.geometry)
    exact = open_clip_jvp(clip.model64, double(tau), pixels.double())
    assert tiny.close(value.double(), exact[0]) < 1e-5
    assert tiny.close(tangent.double(), exact[1]) < 1e-5


def test_the_linearized_encoder_is_affine_in_tau(clip):
    params, pixels = double(clip.params), images()
    one, two = direction(params, seed=1), direction(params, GROUPS["attention"], seed=2)
    both = {n: 0.7 * t - 1.9 * two[n] if n in two else 0.7 * t for n, t in one.items()}
    parts = [encode_linearized(params, tau, pixels, clip.geometry) for tau in (one, two, both)]
    for value, _ in parts:
        assert torch.equal(value, parts[0][0])
    assert tiny.close(0.7 * parts[0][1] - 1.9 * parts[1][1], parts[2][1]) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_linearized_encoder_at_tau_0_is_the_encoder(clip, dtype):
    params = {k: v.to(dtype) for k, v in clip.params.items()}
    pixels = images(dtype=dtype)
    expected = encode(params, pixels, clip.geometry)
    value, tangent = encode_linearized(params, {}, pixels, clip.geometry)
    assert torch.equal(value, expected)
    assert torch.equal(tangent, torch.zeros_like(expected))
    zeros = {name: torch.zeros_like(tensor) for name, tensor in params.items()}
    value, tangent = encode_linearized(params, zeros, pixels, clip.geometry)
    assert tiny.close(value, expected) < (1e-5 if dtype == torch.float32 else 1e-12)
    assert torch.equal(tangent, torch.zeros_like(expected))


@pytest.mark.parametrize("group", ["everything", "attention", "mlp weights"])
def test_the_tangent_is_the_central_finite_difference(clip, group):
    params, pixels, h = double(clip.params), images(), 1e-5
    tau = direction(params, GROUPS[group])

    def at(step):
        moved = {n: t + step * tau[n] if n in tau else t for n, t in params.items()}
        return encode(moved, pixels, clip.geometry)

    _, tangent = encode_linearized(params, tau, pixels, clip.geometry)
    assert tiny.close((at(h) - at(-h)) / (2 * h), tangent) < 1e-7


def test_the_tangent_carries_no_gradient_graph_and_the_value_does(clip):
    params = {k: v.clone().requires_grad_() for k, v in clip.params.items()}
    tau = {k: v.requires_grad_() for k, v in direction(clip.params).items()}
    for chosen in (tau, {k: tau[k] for k in ("class_embedding", "proj")}):
        value, tangent = encode_linearized(
            params, chosen, images(dtype=torch.float32), clip.geometry
        )
        assert value.requires_grad and not tangent.requires_grad and tangent.grad_fn is None


def test_the_values_gradient_beside_a_tangent_is_the_encoders(clip):
    """What the training of a linearized mode takes its gradient from."""
    pixels, leaves = images(), {k: v.requires_grad_() for k, v in double(clip.params).items()}
    value, _ = encode_linearized(leaves, direction(double(clip.params)), pixels, clip.geometry)
    ours = torch.autograd.grad(value.pow(2).sum(), list(leaves.values()))
    plain = encode(leaves, pixels, clip.geometry)
    expected = torch.autograd.grad(plain.pow(2).sum(), list(leaves.values()))
    for name, a, b in zip(leaves, ours, expected, strict=True):
        assert tiny.close(a, b) < 1e-9, name


# --- The text tower and the heads ----------------------------------------------------------------


def test_encode_text_is_open_clips_text_tower(clip):
    import open_clip

    tokens = open_clip.get_tokenizer(f"local-dir:{clip.folder}")(
        ["a", "a photo of a star.", "word " * 40]
    )
    with torch.no_grad():
        ours = encode_text(clip.text, tokens, clip.text_geometry)
        assert tiny.close(ours, clip.model.encode_text(tokens)) < 1e-5
        ours = encode_text(double(clip.text), tokens, clip.text_geometry)
        assert tiny.close(ours, clip.model64.encode_text(tokens)) < 1e-12


TEXTS = [
    "",
    "A photo of   a Cat.",
    "naïve café — 12,345 €",
    "it's <end_of_text> &amp; done",
    "x" * 400,
]


def small_merges(path, count=500):
    """The first `count` merges of CLIP's own vocabulary."""
    from open_clip.tokenizer import default_bpe

    with gzip.open(default_bpe()) as file:
        lines = file.read().decode().split("\n")
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write("\n".join(lines[: 1 + count]))
    return path


@pytest.mark.parametrize("context_length", [77, 16])
def test_the_tokenizer_is_open_clips(context_length):
    import open_clip

    theirs = open_clip.get_tokenizer("ViT-B-32", context_length=context_length)(TEXTS)
    assert torch.equal(clip_tokenizer(context_length)(TEXTS), theirs)


def test_the_tokenizer_with_own_merges_is_open_clips(tmp_path):
    from open_clip.tokenizer import SimpleTokenizer

    path = small_merges(tmp_path / "bpe_merges.txt.gz")
    ours = clip_tokenizer(24, path)(TEXTS)
    assert torch.equal(ours, SimpleTokenizer(bpe_path=str(path), context_length=24)(TEXTS))
    assert ours.max() == 512 + 500 + 1  # the end-of-text token is the last of the small vocabulary
    assert not torch.equal(ours, clip_tokenizer(24)(TEXTS))


def test_a_head_is_the_scaled_mean_of_normalised_prompts():
    features = torch.randn(5, 7, 16, dtype=torch.float64)
    expected = np.zeros((5, 16))
    for c in range(5):
        for prompt in features[c].numpy():
            expected[c] += prompt / np.sqrt((prompt**2).sum())
        expected[c] *= 1 / np.sqrt((expected[c] ** 2).sum()) * np.exp(4.6)
    assert tiny.close(make_head(features, 4.6), torch.from_numpy(expected)) < 1e-12


def test_logits_are_the_head_times_the_normalised_feature():
    features, head = torch.randn(4, 16).double(), torch.randn(3, 16).double()
    f, h = features.numpy(), head.numpy()
    expected = [[h[c] @ f[b] / np.sqrt(f[b] @ f[b]) for c in range(3)] for b in range(4)]
    assert tiny.close(classify(features, head), torch.tensor(expected)) < 1e-12
    assert tiny.close(classify(1000 * features, head), torch.tensor(expected)) < 1e-12


def zero_shot(model, tokenizer, templates):
    """open_clip's own zero-shot classifier, times CLIP's temperature factor."""
    import open_clip

    weights = open_clip.build_zero_shot_classifier(model, tokenizer, tiny.CLASSES, templates)
    return weights.T * model.logit_scale.exp().detach()


def test_a_written_head_is_open_clips_zero_shot_classifier(clip, tmp_path):
    import open_clip

    data_dir = tiny.classes_dir(tmp_path / "data")
    write_head(clip.encoder_dir, data_dir, {"templates": TEMPLATES}, tmp_path / "head.safetensors")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{clip.folder}")
    expected = zero_shot(clip.model, tokenizer, TEMPLATES)
    head = read_tensors(tmp_path / "head.safetensors")["head"]
    assert head.shape == (3, 16)
    assert tiny.close(head, expected) < 1e-5


def test_imagenets_templates_are_open_clips_eighty(clip, tmp_path):
    import open_clip

    data_dir = tiny.classes_dir(tmp_path / "data")
    write_head(
        clip.encoder_dir, data_dir, {"templates": "open_clip"}, tmp_path / "head.safetensors"
    )
    assert len(open_clip.OPENAI_IMAGENET_TEMPLATES) == 80
    tokenizer = open_clip.get_tokenizer(f"local-dir:{clip.folder}")
    expected = zero_shot(clip.model, tokenizer, open_clip.OPENAI_IMAGENET_TEMPLATES)
    assert tiny.close(read_tensors(tmp_path / "head.safetensors")["head"], expected) < 1e-5


def test_an_encoder_with_its_own_merges_makes_heads_with_them(tmp_path):
    from open_clip.tokenizer import SimpleTokenizer

    text = {**tiny.MODEL["text_cfg"], "vocab_size": 512 + 500 + 2}
    folder = tiny.checkpoint(tmp_path / "checkpoint", text_cfg=text)
    merges = small_merges(folder / "bpe_merges.txt.gz")
    import_encoder("tiny", {"path": str(folder)}, tmp_path / "encoder")
    shutil.move(folder, tmp_path / "gone")  # heads need only the encoder's own folder
    data_dir = tiny.classes_dir(tmp_path / "data")
    write_head(
        tmp_path / "encoder", data_dir, {"templates": TEMPLATES}, tmp_path / "head.safetensors"
    )
    tokenizer = SimpleTokenizer(
        bpe_path=str(tmp_path / "gone" / merges.name), context_length=text["context_length"]
    )
    expected = zero_shot(tiny.open_clip_model(tmp_path / "gone"), tokenizer, TEMPLATES)
    assert tiny.close(read_tensors(tmp_path / "head.safetensors")["head"], expected) < 1e-5


def test_classes_that_are_the_same_tokens_are_refused_unless_allowed(clip, tmp_path):
    """The tokenizer mends what it takes for a broken encoding, and drops case and spaces."""
    data_dir, head = tiny.classes_dir(tmp_path / "data"), tmp_path / "head.safetensors"
    manifest = read_json(data_dir / "manifest.json") | {"classes": ["it's", "star", "IT’S"]}
    write_json(
        data_dir / "manifest.json", sealed({k: manifest[k] for k in manifest if k != "seal"})
    )
    with pytest.raises(UserError, match="\"it's\" and 'IT’S' as the same tokens"):
        write_head(clip.encoder_dir, data_dir, {"templates": TEMPLATES}, head)
    manifest |= {"definition": {"alike_classes": "allow"}}
    write_json(
        data_dir / "manifest.json", sealed({k: manifest[k] for k in manifest if k != "seal"})
    )
    write_head(clip.encoder_dir, data_dir, {"templates": TEMPLATES}, head)
    rows = read_tensors(head)["head"]
    assert torch.equal(rows[0], rows[2]) and not torch.equal(rows[0], rows[1])


def test_a_tokenizer_that_does_not_fit_the_text_tower_is_refused(tmp_path):
    """A small vocabulary whose merges were forgotten: its tokens are not the tower's."""
    text = {**tiny.MODEL["text_cfg"], "vocab_size": 600}
    folder = tiny.checkpoint(tmp_path / "checkpoint", text_cfg=text)
    for take in (clip_geometry, lambda *of: import_encoder(*of, tmp_path / "encoder")):
        with pytest.raises(UserError, match="49408 tokens, its text tower 600: put .*bpe_merges"):
            take("tiny", {"path": str(folder)})
    small_merges(folder / "bpe_merges.txt.gz", 600 - 514)
    assert clip_geometry("tiny", {"path": str(folder)}).text.vocab_size == 600
    (folder / "bpe_merges.txt.gz").write_bytes(b"no gzip")
    with pytest.raises(UserError, match="Encoder tiny: .*bpe_merges.txt.gz cannot be read"):
        clip_geometry("tiny", {"path": str(folder)})


# --- Import --------------------------------------------------------------------------------------


def test_an_imported_encoder_holds_every_tensor_of_both_towers(clip):
    state = clip.model.state_dict()
    image = {k.removeprefix("visual."): v for k, v in state.items() if k.startswith("visual.")}
    assert clip.params.keys() == image.keys()
    assert all(torch.equal(clip.params[k], v) for k, v in image.items())
    words = {k for k in state if not k.startswith("visual.")} - {"logit_scale"}
    assert clip.text.keys() == words
    assert all(torch.equal(clip.text[k], state[k]) for k in words)


def test_an_imported_encoder_says_how_its_pixels_are_normalised(clip):
    about = read_json(clip.encoder_dir / "encoder.json")
    assert (about["mean"], about["std"]) == (tiny.PREPROCESS["mean"], tiny.PREPROCESS["std"])
    assert about["logit_scale"] == float(clip.model.logit_scale)
    assert (about["modality"], about["theta0"]) == ("vision", "image_tower.safetensors")
    assert about["theta0_sha256"] == sha256_of_file(clip.encoder_dir / about["theta0"])
    assert about["text_tower_sha256"] == sha256_of_file(clip.encoder_dir / "text_tower.safetensors")


def test_half_precision_weights_are_imported_as_float32(tmp_path):
    folder = tiny.checkpoint(tmp_path / "checkpoint")
    weights = folder / "open_clip_model.safetensors"
    half = {k: v.half() for k, v in load_file(weights).items()}
    save_file(half, weights)
    import_encoder("tiny", {"path": str(folder)}, tmp_path / "encoder")
    params = read_encoder(tmp_path / "encoder").theta0
    for name, tensor in params.items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, half[f"visual.{name}"].float())


VISION, TEXT = tiny.MODEL["vision_cfg"], tiny.MODEL["text_cfg"]
NOT_PLAIN = {
    "attentional pooling": {
        "vision_cfg": {**VISION, "attentional_pool": True, "attn_pooler_heads": 2}
    },
    "average pooling": {"vision_cfg": {**VISION, "pool_type": "avg"}},
    "a ResNet": {
        "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16}
    },
    "a timm tower": {
        "vision_cfg": {
            "timm_model_name": "vit_tiny_patch16_224",
            "timm_pool": "",
            "timm_proj": "linear",
            "image_size": 32,
        }
    },
    "layer scale": {"vision_cfg": {**VISION, "ls_init_value": 0.5}},
    "no ln_pre": {"vision_cfg": {**VISION, "no_ln_pre": True}},
    "normalised queries": {"vision_cfg": {**VISION, "qk_norm": True}},
    "an oblong image": {"vision_cfg": {**VISION, "image_size": [16, 24]}},
    "cut-off pixels": {"vision_cfg": {**VISION, "image_size": 19}},
    "another GELU": {
        "quick_gelu": False,
        "vision_cfg": {**VISION, "act_kwargs": {"approximate": "tanh"}},
    },
    "text that looks ahead": {"text_cfg": {**TEXT, "no_causal_mask": True}},
    "a text bias": {"text_cfg": {**TEXT, "proj_bias": True}},
    "text pooled at its last token": {"text_cfg": {**TEXT, "pool_type": "last"}},
    "a separate text module": {"custom_text": True},
    "text of another tokenizer": {"text_cfg": {**TEXT, "hf_tokenizer_name": "bert-base-uncased"}},
    "text cleaned otherwise": {"text_cfg": {**TEXT, "tokenizer_kwargs": {"clean": "canonicalize"}}},
    "norms with another ε": {"vision_cfg": {**VISION, "norm_kwargs": {"eps": 1e-6}}},
    "tokens too": {"vision_cfg": {**VISION, "output_tokens": True}},
}


@pytest.mark.parametrize("kind", NOT_PLAIN)
def test_an_encoder_that_is_no_plain_clip_vit_is_refused(tmp_path, kind):
    """By `check` from its JSON alone, and by the stage that takes it."""
    folder = tiny.checkpoint(tmp_path / "checkpoint", **NOT_PLAIN[kind])
    with pytest.raises(UserError, match="Encoder odd is no plain CLIP ViT") as caught:
        import_encoder("odd", {"path": str(folder)}, tmp_path / "encoder")
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]
    with pytest.raises(UserError) as checked:
        clip_geometry("odd", {"path": str(folder)})
    assert str(checked.value) == str(caught.value)


@pytest.mark.parametrize("key, value", [("pool_type", "gap"), ("register_tokens", False)])
def test_what_a_configuration_says_beyond_what_we_know_is_refused(good_checkpoint, tmp_path, key,
                                                                  value):  # fmt: skip
    folder = shutil.copytree(good_checkpoint, tmp_path / "checkpoint")
    edit(folder, "model_cfg", vision_cfg={**VISION, key: value})
    with pytest.raises(UserError, match=rf"no plain CLIP ViT .*vision_cfg\.{key}: {value!r}"):
        clip_geometry("odd", {"path": str(folder)})


def test_defaults_that_are_spelled_out_are_plain(good_checkpoint, tmp_path):
    from dataclasses import asdict

    from open_clip.model import CLIPTextCfg, CLIPVisionCfg

    folder = shutil.copytree(good_checkpoint, tmp_path / "checkpoint")
    unused = {k: v for k, v in asdict(CLIPTextCfg()).items() if k != "hf_model_name"}
    whole = {"vision_cfg": {**asdict(CLIPVisionCfg()), **VISION}, "text_cfg": {**unused, **TEXT}}
    plain = clip_geometry("tiny", {"path": str(folder)})
    edit(folder, "model_cfg", custom_text=False, **whole)
    assert clip_geometry("tiny", {"path": str(folder)}) == plain
    import_encoder("tiny", {"path": str(folder)}, tmp_path / "encoder")
    about = read_json(tmp_path / "encoder/encoder.json")
    assert ViT(**about["geometry"], text=TextTower(**about["text"])) == plain


def test_the_table_of_known_keys_is_open_clips():
    from dataclasses import fields

    from open_clip.model import CLIPTextCfg, CLIPVisionCfg

    for part, theirs in (("vision_cfg", CLIPVisionCfg), ("text_cfg", CLIPTextCfg)):
        known = {*SIZES[part], *HARMLESS[part]}
        assert known <= {field.name for field in fields(theirs)}


# --- Preprocessing -------------------------------------------------------------------------------


def edit(folder, part, **changes):
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text())
    config[part] |= changes
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    "key, value",
    [
        ("resize_mode", "squash"),
        ("resize_mode", "longest"),
        ("interpolation", "bilinear"),
        ("interpolation", "random"),
        ("mode", "L"),
        ("size", 24),
        ("size", [16, 24]),
        ("mean", [0.5]),
        ("std", [0.5, 0.5, 0]),
        ("crop_pct", 0.9),
    ],
)
def test_an_encoder_whose_images_are_prepared_otherwise_is_refused(good_checkpoint, tmp_path, key,
                                                                   value):  # fmt: skip
    folder = shutil.copytree(good_checkpoint, tmp_path / "checkpoint")
    edit(folder, "preprocess_cfg", **{key: value})
    for refuse in (
        lambda: clip_geometry("odd", {"path": str(folder)}),
        lambda: import_encoder("odd", {"path": str(folder)}, tmp_path / "encoder"),
    ):
        with pytest.raises(UserError, match=f"^Encoder odd: .* has {key}: ") as caught:
            refuse()
        assert "\n" not in str(caught.value) and not (tmp_path / "encoder").exists()


def test_our_preprocessing_may_be_spelled_out(good_checkpoint, tmp_path):
    folder = shutil.copytree(good_checkpoint, tmp_path / "checkpoint")
    edit(folder, "preprocess_cfg", size=[16, 16], mode="RGB", interpolation="bicubic",
         resize_mode="shortest", fill_color=0, mean=None)  # fmt: skip
    import_encoder("tiny", {"path": str(folder)}, tmp_path / "encoder")
    about = read_json(tmp_path / "encoder/encoder.json")
    assert about["mean"] == pytest.approx([0.48145466, 0.4578275, 0.40821073])  # open_clip's


def test_published_weights_whose_images_are_squashed_are_refused():
    definition = {"model": "ViT-H-14-quickgelu", "pretrained": "dfn5b"}
    with pytest.raises(UserError, match="Encoder big: .* has resize_mode: 'squash'"):
        weights_repository("big", definition)


@pytest.fixture(scope="module")
def good_checkpoint(tmp_path_factory):
    return tiny.checkpoint(tmp_path_factory.mktemp("good") / "checkpoint")


def broken(good, tmp_path, change):
    """A copy of a good checkpoint with `change` done to its tensors."""
    folder = shutil.copytree(good, tmp_path / "checkpoint")
    weights = folder / "open_clip_model.safetensors"
    tensors = load_file(weights)
    change(tensors)
    save_file(tensors, weights)
    return folder


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda t: t.pop("visual.proj"), "misses visual.proj"),
        (lambda t: t.update(more=torch.ones(1)), "has unexpected more"),
        (
            lambda t: t.update({"visual.proj": torch.ones(32, 8)}),
            r"has visual.proj of shape \(32, 8\), not \(32, 16\)",
        ),
        (lambda t: [t.pop(k) for k in list(t) if ".attn." in k], "misses .* and 13 more"),
    ],
    ids=["missing", "extra", "misshapen", "many missing"],
)
def test_a_checkpoint_of_other_tensors_is_refused_by_name(good_checkpoint, tmp_path, change, says):
    folder = broken(good_checkpoint, tmp_path, change)
    with pytest.raises(UserError, match=rf"open_clip_model\.safetensors {says}"):
        import_encoder("tiny", {"path": str(folder)}, tmp_path / "encoder")
    assert not (tmp_path / "encoder").exists()


@pytest.mark.parametrize("content", ["pickle", "torch", "text", "cut"])
def test_a_checkpoint_that_is_no_safetensors_file_is_refused(good_checkpoint, tmp_path, content):
    folder = shutil.copytree(good_checkpoint, tmp_path / "checkpoint")
    weights = folder / "open_clip_model.safetensors"
    tensors = load_file(weights)
    if content == "pickle":
        weights.write_bytes(pickle.dumps({"a": 1}))
    elif content == "torch":
        torch.save({k: tensors[k].clone() for k in ("visual.proj",)}, weights)
    elif content == "text":
        weights.write_text("see https://example.org/weights")
    else:
        weights.write_bytes(weights.read_bytes()[:-100])
    says = "pickled" if content in ("pickle", "torch") else "not a readable safetensors file"
    with pytest.raises(UserError, match=rf"open_clip_model\.safetensors is .*{says}"):
        import_encoder("tiny", {"path": str(folder)}, tmp_path / "encoder")


@pytest.mark.parametrize("missing", ["open_clip_config.json", "open_clip_model.safetensors", ""])
def test_a_folder_without_a_checkpoint_is_refused(good_checkpoint, tmp_path, missing):
    folder = tmp_path / "checkpoint"
    if missing:
        shutil.copytree(good_checkpoint, folder)
        (folder / missing).unlink()
    with pytest.raises(UserError, match="Encoder tiny: .*checkpoint must hold open_clip_config"):
        import_encoder("tiny", {"path": str(folder)}, tmp_path / "encoder")


@pytest.mark.parametrize("config", ["{", "[]", "{}", '{"model_cfg": {"vision_cfg": {}}}'])
def test_a_damaged_model_config_is_refused_in_one_sentence(good_checkpoint, tmp_path, config):
    folder = shutil.copytree(good_checkpoint, tmp_path / "checkpoint")
    (folder / "open_clip_config.json").write_text(config)
    with pytest.raises(UserError, match="Encoder tiny: ") as caught:
        import_encoder("tiny", {"path": str(folder)}, tmp_path / "encoder")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("model", ["ViT-B-32", "ViT-B-16", "ViT-L-14"])
def test_openai_weights_without_quickgelu_are_refused_before_any_download(tmp_path, model):
    definition = {"model": model, "pretrained": "openai"}
    with pytest.raises(UserError, match=f"use model: {model}-quickgelu"):
        write_download({"kind": "encoder", "name": "plain", **definition}, tmp_path / "record.json")
    definition["model"] += "-quickgelu"
    assert weights_repository("right", definition).startswith("timm/vit_")


@pytest.mark.parametrize(
    "definition, says",
    [
        ({"model": "ViT-B-33", "pretrained": "openai"}, "no weights 'openai' for ViT-B-33"),
        (
            {"model": "ViT-B-32-quickgelu", "pretrained": "openay"},
            "no weights 'openay' .*it has openai, ",
        ),
    ],
    ids=["model", "weights"],
)
def test_names_that_open_clip_does_not_know_are_one_sentence(tmp_path, definition, says):
    with pytest.raises(UserError, match=says) as caught:
        write_download({"kind": "encoder", "name": "odd", **definition}, tmp_path / "record.json")
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_pretrained_weights_are_never_taken_without_their_download(tmp_path):
    """open_clip would go on with random weights."""
    definition = {"model": "ViT-B-32-quickgelu", "pretrained": "openai"}
    with pytest.raises(UserError, match="give the record of its download"):
        import_encoder("ViT-B-32", definition, tmp_path / "encoder")
    assert not list(tmp_path.iterdir())


def test_an_encoder_whose_tensors_do_not_fit_its_description_is_refused(clip, tmp_path):
    folder = shutil.copytree(clip.encoder_dir, tmp_path / "encoder")
    geometry = read_json(folder / "encoder.json")["geometry"]
    tiny.reseal(folder, geometry={**geometry, "layers": 3})
    with pytest.raises(
        UserError, match=r"image_tower\.safetensors misses transformer\.resblocks\.2"
    ):
        read_encoder(folder)
