"""The geometry of a plain CLIP ViT: names and shapes of its tensors, from configurations alone."""

import gzip
import importlib
import math
import sys
import types
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, NoReturn

from ..errors import UserError, nearest
from ..files.paths import read_json, read_users_json

# What open_clip's model configuration may say of a plain CLIP ViT. Sizes, with its defaults:
SIZES = {
    "vision_cfg": {"layers": 12, "width": 768, "patch_size": 16, "image_size": 224},
    "text_cfg": {"layers": 12, "width": 512, "heads": 8, "context_length": 77, "vocab_size": 49408},
}
OFF: tuple[Any, ...] = (None, False, "", {})
# The rest: key → the values that leave the function as it is; None: every value, as it is of what
# is not there, or of pretraining. A key that is not here is one that we do not know.
HARMLESS: dict[str, dict[str, tuple[Any, ...] | None]] = {
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
OWN_MERGES = "bpe_merges.txt.gz"  # a local checkpoint's own tokenizer
CLIP_TOKENS = 49408  # of the tokenizer that comes with open_clip
PREPARED = {"mode": "RGB", "interpolation": "bicubic", "resize_mode": "shortest"}  # see prepare.py


Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class TextTower:
    """CLIP's text tower, which heads are made with."""

    layers: int
    width: int
    heads: int
    context_length: int
    vocab_size: int
    mlp_width: int
    embed_dim: int
    activation: str

    def shapes(self) -> Shapes:
        """Name → shape of every tensor, as open_clip names them."""
        return {
            "token_embedding.weight": (self.vocab_size, self.width),
            "positional_embedding": (self.context_length, self.width),
            **_norms("ln_final", width=self.width),
            "text_projection": (self.width, self.embed_dim),
            **_blocks(self.layers, self.width, self.mlp_width),
        }


@dataclass(frozen=True)
class ViT:
    """A plain CLIP ViT: its image tower and, where it is known, its text tower."""

    layers: int
    width: int
    patch_size: int
    image_size: int
    mlp_width: int
    heads: int
    embed_dim: int
    activation: str
    text: TextTower | None = None

    @property
    def tokens(self) -> int:
        """Of an image: its patches and the class token."""
        return (self.image_size // self.patch_size) ** 2 + 1

    def shapes(self) -> Shapes:
        """Name → shape of every tensor of the image tower, as open_clip names them."""
        return {
            "conv1.weight": (self.width, 3, self.patch_size, self.patch_size),
            "class_embedding": (self.width,),
            "positional_embedding": (self.tokens, self.width),
            **_norms("ln_pre", "ln_post", width=self.width),
            "proj": (self.width, self.embed_dim),
            **_blocks(self.layers, self.width, self.mlp_width),
        }


def _blocks(layers: int, width: int, mlp_width: int) -> Shapes:
    block = {
        "attn.in_proj_weight": (3 * width, width),
        "attn.in_proj_bias": (3 * width,),
        "attn.out_proj.weight": (width, width),
        "attn.out_proj.bias": (width,),
        "mlp.c_fc.weight": (mlp_width, width),
        "mlp.c_fc.bias": (mlp_width,),
        "mlp.c_proj.weight": (width, mlp_width),
        "mlp.c_proj.bias": (width,),
        **_norms("ln_1", "ln_2", width=width),
    }
    return {
        f"transformer.resblocks.{i}.{name}": shape
        for i in range(layers)
        for name, shape in block.items()
    }


def _norms(*names: str, width: int) -> Shapes:
    return {f"{name}.{part}": (width,) for name in names for part in ("weight", "bias")}


def clip_geometry(name: str, definition: dict[str, Any]) -> ViT:
    """Both towers of an encoder's definition, read from open_clip's own model configurations
    without importing it, or from a local checkpoint's.

    Raises:
        UserError: open_clip has no such model, or it is no plain CLIP ViT, or a local checkpoint's
            images are prepared otherwise than ours.
    """
    if "path" in definition:
        config = read_users_json(name, Path(definition["path"]) / "open_clip_config.json")
        geometry = _towers(name, config.get("model_cfg"))
        tokens = _tokens(name, Path(definition["path"]) / OWN_MERGES)
        if geometry.text and geometry.text.vocab_size != tokens:
            raise UserError(
                f"Encoder {name}: its tokenizer has {tokens} tokens, its text tower "
                f"{geometry.text.vocab_size}: put the tokenizer's own merges beside the "
                f"checkpoint as {OWN_MERGES}."
            )
        check_preprocessing(name, config.get("preprocess_cfg") or {}, geometry.image_size)
        return geometry
    folder = open_clip_folder() / "model_configs"
    known = sorted(path.stem for path in folder.glob("*.json"))
    if definition["model"] not in known:
        raise UserError(
            f"Encoder {name}: open_clip has no model {definition['model']!r}"
            f"{nearest(definition['model'], known)}; correct `model` in its definition."
        )
    return _towers(name, read_json(folder / f"{definition['model']}.json"))


def _tokens(name: str, merges: Path) -> int:
    """The number of open_clip's tokens: two for each byte, one for each merge, start and end."""
    if not merges.is_file():
        return CLIP_TOKENS
    try:
        lines = gzip.decompress(merges.read_bytes()).decode("utf-8").split("\n")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"Encoder {name}: {merges} cannot be read ({error}); mend it.") from None
    return min(CLIP_TOKENS, 512 + len(lines) - 1 + 2)


def _towers(name: str, config: Any) -> ViT:
    """The towers of open_clip's model configuration, of which nothing may be ignored."""

    def refuse(key: str, value: Any) -> NoReturn:
        raise UserError(
            f"Encoder {name} is no plain CLIP ViT (its configuration has {key}: {value!r}): only "
            "vision transformers with class-token pooling and CLIP's text transformer and "
            "tokenizer can be used; choose another model."
        )

    def whole(value: Any) -> bool:
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
    return ViT(**vision, text=TextTower(**text))


def check_preprocessing(name: str, preprocess: dict[str, Any], image_size: int) -> None:
    """Refuse an encoder whose images are to be prepared otherwise than ours are.

    Args:
        preprocess: open_clip's preprocess_cfg, or its table's entry of pretrained weights.
    Raises:
        UserError: what it says is not what prepare.py and pixels.py do.
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


def weights_repository(name: str, definition: dict[str, Any]) -> str:
    """The hub's repository of a pretrained tag, from open_clip's table of them alone.

    Raises:
        UserError: open_clip has no such weights, or not on the hub; a model that is no plain CLIP
            ViT; weights that were trained with QuickGELU for a model without it, or on images that
            are prepared otherwise, which would give wrong numbers without an error.
    """
    table = part_of_open_clip("pretrained")
    model, tag = definition["model"], definition["pretrained"]
    weights = table.get_pretrained_cfg(model, tag)
    repo, _, file = weights.get("hf_hub", "").rpartition("/")
    if not repo or file:
        tags = ", ".join(table.list_pretrained_tags_by_model(model)) or "none: see `model`"
        raise UserError(
            f"Encoder {name}: open_clip has no weights {tag!r} for {model} on the hub (it has "
            f"{tags}); correct `model` or `pretrained`."
        )
    geometry = clip_geometry(name, definition)
    check_preprocessing(name, weights, geometry.image_size)
    if weights.get("quick_gelu", False) and geometry.activation == "gelu":
        raise UserError(
            f"Encoder {name}: the weights {tag} of {model} were trained with QuickGELU, which this "
            f"architecture does not have; use model: {model}-quickgelu."
        )
    return repo


def part_of_open_clip(name: str) -> types.ModuleType:
    """One module of open_clip by itself, whose import as a whole takes ten seconds."""
    package = types.ModuleType("_open_clip")
    package.__path__ = [str(open_clip_folder())]
    sys.modules[package.__name__] = package
    return importlib.import_module(f"{package.__name__}.{name}")


def open_clip_folder() -> Path:
    """Where open_clip is installed; importing it would take ten seconds.

    Raises:
        PackageNotFoundError: it is not, as where Snakemake runs jobs in environments of their own.
    """
    return Path(str(distribution("open_clip_torch").locate_file("open_clip")))


def parameters(shapes: Iterable[tuple[int, ...]]) -> int:
    """The number of parameters of tensors of these shapes."""
    return sum(math.prod(shape) for shape in shapes)
