"""What transformers reads beside the weights of a T5: its configuration, and its tokenizer's."""

from pathlib import Path
from typing import Any

from .geometry import T5
from .tokens import TOKENIZER

# What is as the pretrained model's own folder has it, where it is found:
COPIED = ("generation_config.json", "tokenizer_config.json", "special_tokens_map.json")


def t5_config(geometry: T5) -> dict[str, Any]:
    """config.json of a T5ForConditionalGeneration."""
    return {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        "is_encoder_decoder": True,
        "d_model": geometry.d_model,
        "d_ff": geometry.d_ff,
        "d_kv": geometry.d_kv,
        "num_heads": geometry.heads,
        "num_layers": geometry.layers,
        "num_decoder_layers": geometry.decoder_layers,
        "vocab_size": geometry.vocab_size,
        "feed_forward_proj": "gated-gelu" if geometry.gated else "relu",
        "tie_word_embeddings": geometry.tied,
        "relative_attention_num_buckets": geometry.buckets,
        "relative_attention_max_distance": geometry.max_distance,
        "layer_norm_epsilon": geometry.eps,
        "pad_token_id": geometry.pad,
        "eos_token_id": geometry.eos,
        "decoder_start_token_id": geometry.start,
        "torch_dtype": "float32",
    }


def tokenizer_config(folder: Path, geometry: T5) -> dict[str, Any]:
    """tokenizer_config.json, for a tokenizer.json that has none beside it."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    named = {"pad_token": geometry.pad, "eos_token": geometry.eos}
    special = {key: tokenizer.id_to_token(token) for key, token in named.items()}
    inputs = {"model_input_names": ["input_ids", "attention_mask"]}
    return {"tokenizer_class": "PreTrainedTokenizerFast", **special, **inputs}
