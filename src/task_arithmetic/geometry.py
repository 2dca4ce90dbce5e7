"""Geometries of CLIP ViTs and T5s: names, shapes and arithmetic, from configurations alone: no
torch."""

import importlib
import math
import sys
import types
from collections.abc import Iterable
from importlib.metadata import distribution
from pathlib import Path

from .artifacts import UserError, read_json
from .schema import nearest
from .vector import moved_names


def read_geometry(name: str, definition: dict) -> dict:
    """An encoder's image tower as encode takes it, and, as `text`, its text tower; read from
    open_clip's own model configurations without importing it, or from a local checkpoint's. Of a
    T5: as t5.logits takes it.

    Raises:
        UserError: open_clip has no such model, or it is no plain CLIP ViT, or no plain T5.
    """
    if "prompts" in definition:
        local = "path" in definition
        config = read_json(Path(definition["path"]) / "config.json") if local else {}
        return t5_geometry(name, {**config, **definition.get("architecture", {})})
    if "path" in definition:
        config = read_json(Path(definition["path"]) / "open_clip_config.json")["model_cfg"]
    else:
        folder = open_clip_folder() / "model_configs"
        known = sorted(path.stem for path in folder.glob("*.json"))
        if definition["model"] not in known:
            raise UserError(
                f"Encoder {name}: open_clip has no model {definition['model']!r}"
                f"{nearest(definition['model'], known)}; correct `model` in its definition."
            )
        config = read_json(folder / f"{definition['model']}.json")
    try:
        vision, text = dict(config["vision_cfg"]), dict(config["text_cfg"])
        width, words = vision["width"], text["width"]
        if "timm_model_name" in vision or not isinstance(vision["layers"], int):
            raise KeyError("layers")
        size = vision["image_size"]
        return {
            "image_size": size if isinstance(size, int) else size[0],
            "patch_size": vision["patch_size"],
            "width": width,
            "layers": vision["layers"],
            "heads": width // vision.get("head_width", 64),
            "mlp_width": int(width * vision.get("mlp_ratio", 4.0)),
            "embed_dim": config["embed_dim"],
            "activation": "quick_gelu" if config.get("quick_gelu", False) else "gelu",
            "text": {
                "context_length": text["context_length"],
                "vocab_size": text["vocab_size"],
                "width": words,
                "layers": text["layers"],
                "heads": text["heads"],
                "activation": "quick_gelu" if config.get("quick_gelu", False) else "gelu",
                "mlp_width": int(words * text.get("mlp_ratio", 4.0)),
                "embed_dim": config["embed_dim"],
            },
        }
    except KeyError as error:
        raise UserError(
            f"Encoder {name} is no plain CLIP ViT (its configuration has no usable {error}): only "
            "vision transformers with class-token pooling and CLIP's text transformer can be used; "
            "choose another model."
        ) from None


def weights_repository(name: str, definition: dict) -> str:
    """The hub's repository of a pretrained tag, from open_clip's table of them alone.

    Raises:
        UserError: open_clip has no such weights, or not on the hub; weights that were trained with
            QuickGELU for a model without it, which would give wrong numbers without an error.
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
    if weights.get("quick_gelu", False) and read_geometry(name, definition)["activation"] == "gelu":
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
