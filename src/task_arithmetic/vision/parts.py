"""The parts of an image tower that a task vector moves, by the names of its tensors."""

import re
from collections.abc import Iterable
from typing import NamedTuple

# A layer norm belongs to what reads it.
PARTS = {"attn": "attention", "ln_1": "attention", "mlp": "mlp", "ln_2": "mlp"}
IN_BLOCK = re.compile(rf"transformer\.resblocks\.(\d+)\.({'|'.join(PARTS)})\..*")
WHOLE, EMBEDDING, HEAD = "whole", "embedding", "head"


class Parts(NamedTuple):
    """Single parts → their tensors, and what several of these make together → these parts."""

    single: dict[str, list[str]]
    joint: dict[str, list[str]]


def parts_of(names: Iterable[str]) -> Parts:
    """The parts of tensors under open_clip's names.

    Single are a block's attention and its MLP ("3.attention", "3.mlp"; blocks counted from the
    input from 0), each with the layer norm before it, what comes before the first block
    ("embedding") and what follows the last ("head"). Together are both of a block ("3.block"), and
    all ("whole") if there is more than one.
    """
    single: dict[str, list[str]] = {}
    for name in names:
        if found := IN_BLOCK.fullmatch(name):
            part = f"{found[1]}.{PARTS[found[2]]}"
        else:
            part = HEAD if name == "proj" or name.startswith("ln_post") else EMBEDDING
        single.setdefault(part, []).append(name)
    blocks = [part.removesuffix(".mlp") for part in single if part.endswith(".mlp")]
    both = {f"{block}.block": [f"{block}.attention", f"{block}.mlp"] for block in blocks}
    joint = {block: of for block, of in both.items() if of[0] in single}
    return Parts(single, joint | ({WHOLE: [*single]} if len(single) > 1 else {}))
