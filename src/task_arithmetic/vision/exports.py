"""What transformers and open_clip read beside the weights of a plain CLIP ViT: configurations."""

from typing import Any

from .geometry import PREPARED, TextTower, ViT

BASES = {  # definitions of OpenAI's CLIPs → the repositories that transformers loads them from
    ("ViT-B-32", "openai"): "openai/clip-vit-base-patch32",
    ("ViT-B-16", "openai"): "openai/clip-vit-base-patch16",
    ("ViT-L-14", "openai"): "openai/clip-vit-large-patch14",
}


def base_of(definition: dict[str, Any]) -> str:
    """The hub's repository of a CLIP under transformers' names; "": it is none of OpenAI's."""
    model = str(definition.get("model", "")).removesuffix("-quickgelu")
    return BASES.get((model, definition.get("pretrained", "")), "")


def transformers_config(geometry: ViT) -> dict[str, Any]:
    """config.json of a CLIPVisionModelWithProjection; CLIPVisionModel reads it too."""
    return {
        "architectures": ["CLIPVisionModelWithProjection"],
        "model_type": "clip_vision_model",
        "hidden_size": geometry.width,
        "intermediate_size": geometry.mlp_width,
        "num_hidden_layers": geometry.layers,
        "num_attention_heads": geometry.heads,
        "num_channels": 3,
        "image_size": geometry.image_size,
        "patch_size": geometry.patch_size,
        "projection_dim": geometry.embed_dim,
        "hidden_act": geometry.activation,
        "layer_norm_eps": 1e-5,
        "attention_dropout": 0.0,
        "torch_dtype": "float32",
    }


def preprocessor_config(size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Any:
    """preprocessor_config.json: how CLIPImageProcessor prepares images as prepare.py does."""
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": size},
        "resample": 3,  # bicubic
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
    }


def ratio(mlp_width: int, width: int) -> float:
    """What open_clip multiplies a width by, and rounds down, to get the MLP's."""
    exact = mlp_width / width
    return exact if int(width * exact) == mlp_width else (mlp_width + 0.5) / width


def open_clip_config(
    geometry: ViT, text: TextTower, mean: tuple[float, ...], std: tuple[float, ...]
) -> dict[str, Any]:
    """open_clip_config.json of a whole CLIP."""
    towers: dict[str, dict[str, Any]] = {
        "vision_cfg": {
            "image_size": geometry.image_size,
            "patch_size": geometry.patch_size,
            "layers": geometry.layers,
            "width": geometry.width,
            "head_width": geometry.width // geometry.heads,
            "mlp_ratio": ratio(geometry.mlp_width, geometry.width),
        },
        "text_cfg": {
            "context_length": text.context_length,
            "vocab_size": text.vocab_size,
            "layers": text.layers,
            "width": text.width,
            "heads": text.heads,
            "mlp_ratio": ratio(text.mlp_width, text.width),
        },
    }
    quick = geometry.activation == "quick_gelu"
    prepared = {key: value for key, value in PREPARED.items() if key != "mode"}
    return {
        "model_cfg": {"embed_dim": geometry.embed_dim, "quick_gelu": quick, **towers},
        "preprocess_cfg": {"mean": list(mean), "std": list(std), **prepared},
    }
