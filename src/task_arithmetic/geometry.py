"""Geometries of CLIP ViTs: names, shapes and arithmetic, from configurations alone: no torch."""

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
    open_clip's own model configurations without importing it, or from a local checkpoint's.

    Raises:
        UserError: open_clip has no such model, or it is no plain CLIP ViT.
    """
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
