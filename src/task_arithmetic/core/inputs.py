"""What the layers of a model read, told beside a pass that knows nothing of it: the functions of
the models stay as they are, and training and evaluation pay nothing."""

from collections.abc import Callable, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

Visit = Callable[[str, Tensor], None]  # the name of a weight matrix, its layer's inputs


class LayerInputs(TorchFunctionMode):
    """Within it, every product x Wᵀ by one of some weights is told as visit(name, x), x (…, in).

    Args:
        weights: name → W, or those of its rows that are multiplied in one product. A product is
            known by where in memory its weight starts.
    """

    def __init__(self, weights: Mapping[str, Tensor], visit: Visit) -> None:
        super().__init__()
        self.weights = dict(weights)  # held: nothing else may come to lie where they are
        self.names = {weight.data_ptr(): name for name, weight in weights.items()}
        self.visit = visit

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.linear and (name := self.names.get(args[1].data_ptr())):
            self.visit(name, args[0])
        return func(*args, **(kwargs or {}))
