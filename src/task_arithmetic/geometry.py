"""Geometries of CLIP ViTs and T5s: names, shapes and arithmetic, from configurations alone: no
torch."""

import gzip
import importlib
import json
import math
import sys
import types
import zlib
from collections.abc import Iterable
from importlib.metadata import distribution
from pathlib import Path

from .artifacts import UserError, read_json
from .config import OWN_MERGES
from .schema import nearest
from .vector import moved_names

# What open_clip's model configuration may say of a plain CLIP ViT. Sizes, with its defaults:
SIZES = {
    "vision_cfg": {"layers": 12, "width": 768, "patch_size": 16, "image_size": 224},
    "text_cfg": {"layers": 12, "width": 512, "heads": 8, "context_length": 77, "vocab_size": 49408},
}
OFF = (None, False, "", {})
# The rest: key → the values that leave the function as it is; None: every value, as it is of what
# is not there, or of pretraining. A key that is not here is one that we do not know.
HARMLESS: dict[str, dict[str, tuple | None]] = {
    "model_cfg": {
        **dict.fromkeys(("embed_dim", "vision_cfg", "text_cfg")),
        **dict.fromkeys(("init_logit_scale", "init_logit_bias", "nonscalar_logit_scale")),
        **{"quick_gelu": (None, False, True), "custom_text": OFF},
    },
    "vision_cfg": {
        **dict.fromkeys(("head_width", "mlp_ratio", "patch_dropout")),
        **dict.fromkeys(("attn_pooler_queries", "attn_pooler_heads", "timm_model_pretrained")),
        **dict.fromkeys(("timm_pool", "timm_proj", "timm_proj_bias", "timm_drop")),
        **{"timm_drop_path": None, "timm_model_name": OFF, "attentional_pool": OFF},
        **{"no_ln_pre": OFF, "pos_embed_type": ("learnable",), "pool_type": ("tok",)},
    },
    "text_cfg": {
        **dict.fromkeys(("mlp_ratio", "pad_id", "eos_id", "hf_model_pretrained")),
        **dict.fromkeys(("hf_proj_type", "hf_pooler_type")),
        **{"embed_cls": OFF, "no_causal_mask": OFF, "proj_bias": OFF, "proj_type": ("linear",)},
        **{"pool_type": ("argmax",), "hf_tokenizer_name": OFF, "tokenizer_mode": OFF},
        **{"tokenizer_kwargs": OFF},
    },
}
for _part in ("vision_cfg", "text_cfg"):
    HARMLESS[_part] |= {"ls_init_value": (None,), "block_type": (None, "default")}
    HARMLESS[_part] |= dict.fromkeys(("final_ln_after_pool", "output_tokens", "qk_norm"), OFF)
    HARMLESS[_part] |= dict.fromkeys(("act_kwargs", "norm_kwargs"), (None, {}))
    HARMLESS[_part] |= dict.fromkeys(("scaled_cosine_attn", "scale_heads", "scale_fc"), OFF)
    HARMLESS[_part] |= dict.fromkeys(("scale_attn_inner", "scale_attn"), OFF)
CLIP_TOKENS = 49408  # of the tokenizer that comes with open_clip
PREPARED = {"mode": "RGB", "interpolation": "bicubic", "resize_mode": "shortest"}  # see data.py


def read_geometry(name: str, definition: dict) -> dict:
    """An encoder's image tower as encode takes it, and, as `text`, its text tower; read from
    open_clip's own model configurations without importing it, or from a local checkpoint's. Of a
    T5: as t5.logits takes it.

    Raises:
        UserError: open_clip has no such model, or it is no plain CLIP ViT, or no plain T5, or a
            local checkpoint's images are prepared otherwise than ours.
    """
    if "prompts" in definition:
        local = "path" in definition
        config = _own_json(name, Path(definition["path"]) / "config.json") if local else {}
        return t5_geometry(name, {**config, **definition.get("architecture", {})})
    if "path" in definition:
        config = _own_json(name, Path(definition["path"]) / "open_clip_config.json")
        geometry = _clip_geometry(name, config.get("model_cfg"))
        tokens = _tokens(name, Path(definition["path"]) / OWN_MERGES)
        if geometry["text"]["vocab_size"] != tokens:
            raise UserError(
                f"Encoder {name}: its tokenizer has {tokens} tokens, its text tower "
                f"{geometry['text']['vocab_size']}: put the tokenizer's own merges beside the "
                f"checkpoint as {OWN_MERGES}."
            )
        check_preprocessing(name, config.get("preprocess_cfg") or {}, geometry["image_size"])
        return geometry
    folder = open_clip_folder() / "model_configs"
    known = sorted(path.stem for path in folder.glob("*.json"))
    if definition["model"] not in known:
        raise UserError(
            f"Encoder {name}: open_clip has no model {definition['model']!r}"
            f"{nearest(definition['model'], known)}; correct `model` in its definition."
        )
    return _clip_geometry(name, read_json(folder / f"{definition['model']}.json"))


def _tokens(name: str, merges: Path) -> int:
    """The number of open_clip's tokens: two for each byte, one for each merge, start and end."""
    if not merges.is_file():
        return CLIP_TOKENS
    try:
        lines = gzip.decompress(merges.read_bytes()).decode("utf-8").split("\n")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"Encoder {name}: {merges} cannot be read ({error}); mend it.") from None
    return min(CLIP_TOKENS, 512 + len(lines) - 1 + 2)


def _own_json(name: str, path: Path) -> dict:
    """A file of a user's checkpoint."""
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"Encoder {name}: {path} is no readable JSON ({error}); correct it."
        ) from None
    if not isinstance(config, dict):
        raise UserError(f"Encoder {name}: {path} must be a JSON object; correct it.")
    return config


def _clip_geometry(name: str, config) -> dict:
    """The towers of open_clip's model configuration, of which nothing may be ignored."""

    def refuse(key, value):
        raise UserError(
            f"Encoder {name} is no plain CLIP ViT (its configuration has {key}: {value!r}): only "
            "vision transformers with class-token pooling and CLIP's text transformer and "
            "tokenizer can be used; choose another model."
        )

    def whole(value):
        return isinstance(value, int) and value > 0

    found = {}
    for part in ("model_cfg", *SIZES):
        given = config if part == "model_cfg" else config.get(part)
        if not isinstance(given, dict):
            raise UserError(f"Encoder {name}: its open_clip configuration has no {part}; add it.")
        for key, value in given.items():
            harmless = HARMLESS[part].get(key, ())
            if key not in SIZES.get(part, ()) and harmless is not None and value not in harmless:
                refuse(f"{part}.{key}".removeprefix("model_cfg."), value)
        sizes = {key: given.get(key, size) for key, size in SIZES.get(part, {}).items()}
        for key in ("image_size", "patch_size"):  # may be pairs, of a square
            pair = sizes.get(key)
            if isinstance(pair, list) and len(pair) == 2 and pair[0] == pair[1]:
                sizes[key] = pair[0]
        ratio = given.get("mlp_ratio", 4.0)
        if not isinstance(ratio, int | float) or ratio <= 0:
            refuse(f"{part}.mlp_ratio", ratio)
        for key, value in sizes.items():
            if not whole(value):
                refuse(f"{part}.{key}", value)
        found[part] = {**sizes, "mlp_width": int(sizes.get("width", 0) * ratio)}
    vision, text = found["vision_cfg"], found["text_cfg"]
    head_width, embed_dim = config["vision_cfg"].get("head_width", 64), config.get("embed_dim")
    if not whole(embed_dim):
        refuse("embed_dim", embed_dim)
    if not whole(head_width) or head_width > vision["width"]:
        refuse("vision_cfg.head_width", head_width)
    vision["heads"] = vision["width"] // head_width
    for part, tower in (("vision_cfg", vision), ("text_cfg", text)):
        if tower["width"] % tower["heads"]:
            refuse(f"{part}.width", tower["width"])
        tower["embed_dim"] = embed_dim
        tower["activation"] = "quick_gelu" if config.get("quick_gelu") else "gelu"
    if vision["image_size"] % vision["patch_size"]:  # open_clip drops the rest of the pixels
        refuse("vision_cfg.image_size", vision["image_size"])
    return {**vision, "text": text}


def check_preprocessing(name: str, preprocess: dict, image_size: int) -> None:
    """Refuse an encoder whose images are to be prepared otherwise than ours are.

    Args:
        preprocess: open_clip's preprocess_cfg, or its table's entry of pretrained weights.
    Raises:
        UserError: what it says is not what data.py and pixels.py do.
    """
    if not isinstance(preprocess, dict):
        raise UserError(f"Encoder {name}: its preprocess_cfg must be a JSON object; correct it.")
    wanted = {**PREPARED, "size": image_size, "mean": "three numbers", "std": "three above 0"}
    for key, value in preprocess.items():
        if key in ("url", "hf_hub", "quick_gelu", "fill_color") or value is None:
            continue
        numbers = list(value) if isinstance(value, list | tuple) else [value]
        if key in ("mean", "std"):
            right = len(numbers) == 3 and all(isinstance(v, int | float) for v in numbers)
            right = right and (key == "mean" or min(numbers) > 0)
        elif key == "size":
            right = set(map(str, numbers)) == {str(image_size)}
        else:
            right = key in PREPARED and value == PREPARED[key]
        if not right:
            only = f"only {wanted[key]} can be" if key in wanted else "this key cannot be"
            raise UserError(
                f"Encoder {name}: its preprocessing has {key}: {value!r}, where {only} used: "
                "images are prepared as CLIP's are (RGB, shortest side by bicubic interpolation, "
                "centre crop); choose another model."
            )


def weights_repository(name: str, definition: dict) -> str:
    """The hub's repository of a pretrained tag, from open_clip's table of them alone.

    Raises:
        UserError: open_clip has no such weights, or not on the hub; a model that is no plain CLIP
            ViT; weights that were trained with QuickGELU for a model without it, or on images that
            are prepared otherwise, which would give wrong numbers without an error.
    """
    package = types.ModuleType("_open_clip_table")
    package.__path__ = [str(open_clip_folder())]
    sys.modules[package.__name__] = package
    table = importlib.import_module(f"{package.__name__}.pretrained")
    model, tag = definition["model"], definition["pretrained"]
    weights = table.get_pretrained_cfg(model, tag)
    repo, _, file = weights.get("hf_hub", "").rpartition("/")
    if not repo or file:
        tags = ", ".join(table.list_pretrained_tags_by_model(model)) or "none: see `model`"
        raise UserError(
            f"Encoder {name}: open_clip has no weights {tag!r} for {model} on the hub (it has "
            f"{tags}); correct `model` or `pretrained`."
        )
    geometry = read_geometry(name, definition)
    check_preprocessing(name, weights, geometry["image_size"])
    if weights.get("quick_gelu", False) and geometry["activation"] == "gelu":
        raise UserError(
            f"Encoder {name}: the weights {tag} of {model} were trained with QuickGELU, which this "
            f"architecture does not have; use model: {model}-quickgelu."
        )
    return repo


def open_clip_folder() -> Path:
    """Where open_clip is installed; importing it would take ten seconds.

    Raises:
        PackageNotFoundError: it is not, as where Snakemake runs jobs in environments of their own.
    """
    return Path(str(distribution("open_clip_torch").locate_file("open_clip")))


def shapes_of(geometry: dict) -> dict[str, tuple]:
    """Name → shape of every tensor of an encoder."""
    return t5_shapes(geometry) if "d_model" in geometry else image_tower_shapes(geometry)


def image_tower_shapes(geometry: dict) -> dict[str, tuple]:
    """Name → shape of every tensor of a plain CLIP ViT's image tower, as open_clip names them."""
    g, width = geometry, geometry["width"]
    side = g["image_size"] // g["patch_size"]
    return {
        "conv1.weight": (width, 3, g["patch_size"], g["patch_size"]),
        "class_embedding": (width,),
        "positional_embedding": (side * side + 1, width),
        **{f"{ln}.{part}": (width,) for ln in ("ln_pre", "ln_post") for part in ("weight", "bias")},
        "proj": (width, g["embed_dim"]),
        **_block_shapes(g),
    }


def _block_shapes(geometry: dict) -> dict[str, tuple]:
    width, mlp_width = geometry["width"], geometry["mlp_width"]
    block = {
        "attn.in_proj_weight": (3 * width, width),
        "attn.in_proj_bias": (3 * width,),
        "attn.out_proj.weight": (width, width),
        "attn.out_proj.bias": (width,),
        "mlp.c_fc.weight": (mlp_width, width),
        "mlp.c_fc.bias": (mlp_width,),
        "mlp.c_proj.weight": (width, mlp_width),
        "mlp.c_proj.bias": (width,),
        **{f"{ln}.{part}": (width,) for ln in ("ln_1", "ln_2") for part in ("weight", "bias")},
    }
    layers = range(geometry["layers"])
    return {f"transformer.resblocks.{i}.{k}": shape for i in layers for k, shape in block.items()}


def parameters(shapes: Iterable[tuple]) -> int:
    """The number of parameters of tensors of these shapes."""
    return sum(math.prod(shape) for shape in shapes)


def text_parameters(text: dict) -> int:
    """The number of parameters of a plain CLIP text tower."""
    width, mlp = text["width"], text["mlp_width"]
    attention, norms = 4 * width * width + 4 * width, 4 * width
    block = attention + norms + 2 * width * mlp + mlp + width
    tokens = (text["vocab_size"] + text["context_length"]) * width
    return tokens + text["layers"] * block + 2 * width + width * text["embed_dim"]


def flops(kind: str, geometry: dict, mode: dict | None) -> float:
    """Arithmetic for one image (or prompt), a multiplication and an addition as two operations.

    Of matrix products only, and of every token in every layer. A pass back, or one of a tangent,
    costs as much as the pass forward, but for the products with weights that do not move, and
    twice as much in the products of attention, where both sides vary.

    Args:
        kind: image: f(x; θ); linearized: f_lin; step: one image of a training step; prompt: one
            text through the text tower; read: no arithmetic to speak of.
        mode: a mode's definition, of `step` and `linearized`.
    """
    if kind == "read":
        return 0.0
    if kind == "prompt":
        text = geometry["text"]
        length, width = text["context_length"], text["width"]
        weights = 4 * width * width + 2 * width * text["mlp_width"]
        return text["layers"] * (2 * length * weights + 4 * length * length * width)
    shapes = image_tower_shapes(geometry)
    patches = (geometry["image_size"] // geometry["patch_size"]) ** 2
    tokens = patches + 1

    def of_weights(names):
        at = {name: 2 * math.prod(shapes[name]) for name in names if len(shapes[name]) > 1}
        at.pop("positional_embedding", None)
        uses = {"conv1.weight": patches, "proj": 1}
        return sum(product * uses.get(name, tokens) for name, product in at.items())

    weights, pairs = of_weights(shapes), 4 * tokens**2 * geometry["width"] * geometry["layers"]
    forward = weights + pairs
    if kind == "image" or mode is None:
        return forward
    moved = of_weights(moved_names(shapes, mode["train"]))
    again = weights - of_weights(["conv1.weight"]) + moved + 2 * pairs  # a tangent, or backward
    passes = 1 + mode["linearized"] if kind == "step" else 1
    return forward + passes * again


# --- T5 ------------------------------------------------------------------------------------------


def t5_geometry(name: str, config: dict) -> dict:
    """A T5's geometry as `t5.logits` takes it, from transformers' config.json, with its defaults.

    Returns:
        d_model, d_ff, d_kv, heads, layers, decoder_layers, vocab_size, activation, gated,
        tied (the head is the embedding), buckets, max_distance, eps, pad, eos, start.
    Raises:
        UserError: the model is not text-to-text, or no plain T5.
    """
    kind = config.get("model_type", "t5")
    if kind not in ("t5", "mt5") or not config.get("is_encoder_decoder", True):
        raise UserError(
            f"Encoder {name} is no text-to-text model (its model_type is {kind!r}): only T5s, with "
            "an encoder and a decoder, can be used; choose another checkpoint."
        )
    forward = config.get("feed_forward_proj", {"t5": "relu", "mt5": "gated-gelu"}[kind])
    activations = {"relu": ("relu", False), "gated-gelu": ("gelu_new", True)}
    try:
        activation, gated = activations[forward]
        # transformers 5 writes that every head is tied, and beside it whether it is in truth.
        tied = config.get("scale_decoder_outputs", config.get("tie_word_embeddings", True))
        eos = config.get("eos_token_id", 1)
        (eos,) = eos if isinstance(eos, list) else [eos]
        pad = config.get("pad_token_id", 0)
        if pad != 0:  # what texts are filled up with, see texts.py
            raise ValueError(f"pad_token_id: {pad}")
        start = config.get("decoder_start_token_id")
        return {
            "d_model": config["d_model"],
            "d_ff": config["d_ff"],
            "d_kv": config["d_kv"],
            "heads": config["num_heads"],
            "layers": config["num_layers"],
            "decoder_layers": config.get("num_decoder_layers") or config["num_layers"],
            "vocab_size": config["vocab_size"],
            "activation": activation,
            "gated": gated,
            "tied": bool(tied) and kind == "t5",
            "buckets": config.get("relative_attention_num_buckets", 32),
            "max_distance": config.get("relative_attention_max_distance", 128),
            "eps": config.get("layer_norm_epsilon", 1e-6),
            "pad": pad,
            "eos": eos,
            "start": pad if start is None else start,
        }
    except (KeyError, ValueError) as error:
        raise UserError(
            f"Encoder {name} is no plain T5 (its configuration has no usable {error}): only T5s as "
            "published, v1.0, v1.1 or Flan-T5, can be used; choose another checkpoint."
        ) from None


def t5_shapes(geometry: dict) -> dict[str, tuple]:
    """Name → shape of every tensor of a T5, as transformers names them; a tied head has none."""
    g, inner = geometry, geometry["heads"] * geometry["d_kv"]
    width, hidden = g["d_model"], g["d_ff"]
    attention = {**dict.fromkeys(("q", "k", "v"), (inner, width)), "o": (width, inner)}
    ways_in = ("wi_0", "wi_1") if g["gated"] else ("wi",)
    forward = {**dict.fromkeys(ways_in, (hidden, width)), "wo": (width, hidden)}
    crossed = {"SelfAttention": attention, "EncDecAttention": attention, "DenseReluDense": forward}
    stacks = {
        "encoder": (g["layers"], ("SelfAttention", "DenseReluDense")),
        "decoder": (g["decoder_layers"], tuple(crossed)),
    }
    shapes = {"shared.weight": (g["vocab_size"], width)}
    for stack, (layers, parts) in stacks.items():
        shapes[f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = (
            g["buckets"],
            g["heads"],
        )
        for layer in range(layers):
            for i, part in enumerate(parts):
                prefix = f"{stack}.block.{layer}.layer.{i}."
                shapes[f"{prefix}layer_norm.weight"] = (width,)
                shapes |= {f"{prefix}{part}.{k}.weight": v for k, v in crossed[part].items()}
        shapes[f"{stack}.final_layer_norm.weight"] = (width,)
    return shapes if g["tied"] else {**shapes, "lm_head.weight": (g["vocab_size"], width)}


def t5_flops(kind: str, geometry: dict, mode: dict | None, source: int, target: int) -> float:
    """Arithmetic for one example of `source` and `target` tokens, counted as `flops` does.

    Args:
        kind: text: f(x; θ) at every target token, given at once or generated one by one, which
            with a cache takes as many operations; linearized: f_lin; step: one example of a
            training step; read: no arithmetic to speak of.
        mode: a mode's definition, of `step` and `linearized`.
    """
    if kind == "read":
        return 0.0
    shapes, head = t5_shapes(geometry), "shared.weight" if geometry["tied"] else "lm_head.weight"

    def tokens(name):  # that a weight is multiplied with
        if name == head:
            return target
        if len(shapes[name]) < 2 or name == "shared.weight" or "relative_attention" in name:
            return 0
        reads = name.startswith("encoder.") or "EncDecAttention.k" in name
        return source if reads or "EncDecAttention.v" in name else target

    def of_weights(names):
        return sum(2 * math.prod(shapes[name]) * tokens(name) for name in names)

    per_layer = geometry["layers"] * source**2, geometry["decoder_layers"] * (target + source)
    pairs = 4 * geometry["heads"] * geometry["d_kv"] * (per_layer[0] + per_layer[1] * target)
    weights = of_weights(shapes)
    forward = weights + pairs
    if kind == "text" or mode is None:
        return forward
    again = weights + of_weights(moved_names(shapes, mode["train"])) + 2 * pairs
    passes = 1 + mode["linearized"] if kind == "step" else 1
    return forward + passes * again
