"""The tensors of a CLIP image tower under open_clip's names, which are ours, and transformers'.

The names of other libraries stand here alone: what is read from them and written for them goes
through these functions, which move and turn numbers and never compute any.
"""

import re

import torch
from torch import Tensor

Tensors = dict[str, Tensor]

PREFIX = "vision_model."  # of all but the projection, in CLIPVisionModelWithProjection
PROJECTION = "visual_projection.weight"
_OUTER = {  # ours → theirs, without the prefix; theirs misspell "layernorm"
    "class_embedding": "embeddings.class_embedding",
    "conv1.weight": "embeddings.patch_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_pre": "pre_layrnorm",
    "ln_post": "post_layernorm",
}
_INNER = {  # of a block
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_TEXT = {"token_embedding": "embeddings.token_embedding", "ln_final": "final_layer_norm"}
_QKV = "q_proj", "k_proj", "v_proj"  # in the order of the rows of in_proj


def to_transformers(tensors: Tensors) -> Tensors:
    """An image tower as CLIPVisionModelWithProjection names it.

    Args:
        tensors: under open_clip's names without `visual.`, see ViT.shapes: all, or some of them.
    Returns:
        in_proj (3W, ·) as its three parts (W, ·), proj (W, E) turned, all others as they are.
    """
    found: Tensors = {}
    for name, tensor in tensors.items():
        if name == "proj":
            found[PROJECTION] = tensor.T.contiguous()
        elif match := re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)", name):
            layer, inner = match.groups()
            start = f"{PREFIX}encoder.layers.{layer}."
            if inner.startswith("attn.in_proj_"):
                kind = inner.removeprefix("attn.in_proj_")
                for own, part in zip(_QKV, tensor.chunk(3), strict=True):
                    found[f"{start}self_attn.{own}.{kind}"] = part.contiguous()
            else:
                found[start + _renamed(inner, _INNER)] = tensor
        else:
            found[PREFIX + _renamed(name, _OUTER)] = tensor
    return found


def from_transformers(tensors: Tensors) -> Tensors:
    """The inverse of to_transformers, of names with or without the prefix, and with or without the
    projection. `position_ids`, which old files hold, are no weights. A name that is none of an
    image tower's stays as it is; so do the parts of an in_proj of which one lacks."""
    plain = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
    plain.pop("embeddings.position_ids", None)
    outer, inner = ({theirs: ours for ours, theirs in of.items()} for of in (_OUTER, _INNER))
    found: Tensors = {}
    for name, tensor in plain.items():
        if name == PROJECTION:
            found["proj"] = tensor.T.contiguous()
        elif match := re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)", name):
            start = f"transformer.resblocks.{match[1]}."
            if part := re.fullmatch(r"self_attn\.(q_proj|k_proj|v_proj)\.(weight|bias)", match[2]):
                every = [name.replace(part[1], own) for own in _QKV]
                if not all(one in plain for one in every):
                    found[name] = tensor
                elif part[1] == _QKV[0]:
                    joined = torch.cat([plain[one] for one in every])
                    found[f"{start}attn.in_proj_{part[2]}"] = joined
            else:
                found[start + _renamed(match[2], inner)] = tensor
        else:
            found[_renamed(name, outer)] = tensor
    return found


def text_from_transformers(tensors: Tensors) -> Tensors:
    """A text tower of CLIPModel as open_clip names it. A name that is none of a text tower's stays
    as it is."""
    outer = {theirs: ours for ours, theirs in _TEXT.items()}
    found = from_transformers({n.removeprefix("text_model."): t for n, t in tensors.items()})
    if "text_projection.weight" in found:
        found["text_projection"] = found.pop("text_projection.weight").T.contiguous()
    return {_renamed(name, outer): tensor for name, tensor in found.items()}


def _renamed(name: str, of: dict[str, str]) -> str:
    """A name in the other language: whole, or up to `.weight` or `.bias`."""
    module, dot, kind = name.rpartition(".")
    return of[name] if name in of else of.get(module, module) + dot + kind
