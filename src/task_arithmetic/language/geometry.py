"""The geometry of a T5: names and shapes of its tensors, from its configuration alone."""

from dataclasses import dataclass
from typing import Any

from ..errors import UserError


@dataclass(frozen=True)
class T5:
    """A plain T5: v1.0, v1.1 or Flan-T5.

    Attributes:
        gated: the feed-forward layers have a gate. tied: the head is the embedding.
        buckets, max_distance: of relative positions. eps: of its norms.
        pad, eos, start: tokens.
    """

    d_model: int
    d_ff: int
    d_kv: int
    heads: int
    layers: int
    decoder_layers: int
    vocab_size: int
    activation: str
    gated: bool
    tied: bool
    buckets: int
    max_distance: int
    eps: float
    pad: int
    eos: int
    start: int

    @property
    def head(self) -> str:
        """The tensor that gives the scores of the vocabulary."""
        return "shared.weight" if self.tied else "lm_head.weight"

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name → shape of every tensor, as transformers names them; a tied head has none."""
        inner, width, hidden = self.heads * self.d_kv, self.d_model, self.d_ff
        attention = {**dict.fromkeys(("q", "k", "v"), (inner, width)), "o": (width, inner)}
        ways_in = ("wi_0", "wi_1") if self.gated else ("wi",)
        forward = {**dict.fromkeys(ways_in, (hidden, width)), "wo": (width, hidden)}
        crossed = {
            "SelfAttention": attention, "EncDecAttention": attention, "DenseReluDense": forward
        }  # fmt: skip
        stacks = {
            "encoder": (self.layers, ("SelfAttention", "DenseReluDense")),
            "decoder": (self.decoder_layers, tuple(crossed)),
        }
        shapes: dict[str, tuple[int, ...]] = {"shared.weight": (self.vocab_size, width)}
        for stack, (layers, parts) in stacks.items():
            bias = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
            shapes[bias] = (self.buckets, self.heads)
            for layer in range(layers):
                for i, part in enumerate(parts):
                    prefix = f"{stack}.block.{layer}.layer.{i}."
                    shapes[f"{prefix}layer_norm.weight"] = (width,)
                    shapes |= {f"{prefix}{part}.{k}.weight": v for k, v in crossed[part].items()}
            shapes[f"{stack}.final_layer_norm.weight"] = (width,)
        return shapes if self.tied else {**shapes, self.head: (self.vocab_size, width)}


def t5_geometry(name: str, config: dict[str, Any]) -> T5:
    """A T5's geometry as `t5.logits` takes it, from transformers' config.json, with its defaults.

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
        return T5(
            d_model=config["d_model"],
            d_ff=config["d_ff"],
            d_kv=config["d_kv"],
            heads=config["num_heads"],
            layers=config["num_layers"],
            decoder_layers=config.get("num_decoder_layers") or config["num_layers"],
            vocab_size=config["vocab_size"],
            activation=activation,
            gated=gated,
            tied=bool(tied) and kind == "t5",
            buckets=config.get("relative_attention_num_buckets", 32),
            max_distance=config.get("relative_attention_max_distance", 128),
            eps=config.get("layer_norm_epsilon", 1e-6),
            pad=pad,
            eos=eos,
            start=pad if start is None else start,
        )
    except (KeyError, ValueError) as error:
        raise UserError(
            f"Encoder {name} is no plain T5 (its configuration has no usable {error}): only T5s as "
            "published, v1.0, v1.1 or Flan-T5, can be used; choose another checkpoint."
        ) from None
