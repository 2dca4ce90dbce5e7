"""The published code, imported from a checkout: its modules as they are, and beside them what they
need and this environment, or this suite of tasks, does not give.

Nothing of theirs is here. `load` imports their modules under the name `src`, by which they know
each other; `surroundings` is what must hold while one of their functions runs.
"""

import contextlib
import copy
import importlib
import io
import os
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from task_arithmetic.errors import UserError

REPOSITORY = "https://github.com/gortizji/tangent_task_arithmetic"
COMMIT = "002e5074c0f66ea679989c59c68da6125fced7c3"  # with which this script was tried
NEEDED = {  # module of theirs → what is called
    "utils": ("DotDict", "cosine_lr", "find_optimal_coef"),
    "modeling": ("ImageEncoder", "ClassificationHead", "ImageClassifier"),
    "linearize": ("LinearizedImageEncoder",),
    "task_vectors": ("NonLinearTaskVector", "LinearizedTaskVector"),
    "heads": ("build_classification_head",),
    "eval": ("eval_single_dataset", "evaluate_task_vector", "evaluate_task_vector_at_coef"),
}
ENCODER = "the-run's-encoder"  # what their `args.model` names here


def check(checkout: str | os.PathLike[str]) -> Path:
    """The folder of their modules. Raises UserError: there is no checkout."""
    source = Path(checkout) / "src"
    lacking = [name for name in NEEDED if not (source / f"{name}.py").is_file()]
    if lacking:
        raise UserError(
            f"{checkout} is no checkout of tangent_task_arithmetic (src/{lacking[0]}.py is not "
            f"there): `git clone {REPOSITORY}` and give its folder as --checkout."
        )
    return source


def load(
    checkout: str | os.PathLike[str],
    dataset: Callable[[str], Any],
    templates: Callable[[str], list[Callable[[str], str]]],
) -> SimpleNamespace:
    """Their modules, by name.

    Args:
        checkout: a working copy of REPOSITORY.
        dataset: in place of their registry: a name, with "Val" at its end for validation → what has
            `classnames` and `test_loader`. templates: a name → functions of a class name.
    Raises:
        UserError: no checkout, or one whose modules have other functions.
    """
    source = check(checkout)
    for name in [name for name in sys.modules if name.split(".")[0] == "src"]:
        del sys.modules[name]
    _module("src", __path__=[str(source)])
    _module("src.datasets", __path__=[str(source / "datasets")])
    _module("src.datasets.registry", get_dataset=lambda name, *_, **__: dataset(name))
    _module("src.datasets.templates", get_templates=templates)
    if not (source / "datasets/common.py").is_file():
        _module("src.datasets.common", get_dataloader=_loader, maybe_dictionarize=_as_dictionary)
    if importlib.util.find_spec("functorch") is None:
        functions = {"jvp": torch.func.jvp, "make_functional_with_buffers": functional}
        _module("functorch", **functions)
    found = SimpleNamespace()
    for name, functions_of in NEEDED.items():
        try:
            module = importlib.import_module(f"src.{name}")
        except ImportError as error:
            raise UserError(
                f"src/{name}.py of {checkout} cannot be imported ({error}): this script knows "
                f"commit {COMMIT[:12]} of {REPOSITORY}."
            ) from error
        for function in functions_of:
            if not hasattr(module, function):
                raise UserError(
                    f"src/{name}.py of {checkout} has no {function}: this script knows commit "
                    f"{COMMIT[:12]} of {REPOSITORY}."
                )
        setattr(found, name, module)
    return found


@contextlib.contextmanager
def surroundings(
    build: Callable[[], torch.nn.Module], tokenize: Callable[[list[str]], torch.Tensor]
) -> Iterator[None]:
    """What holds while their functions run.

    open_clip gives the run's own encoder where they ask for it by name, and its tokenizer;
    torch.load reads the pickled modules that they write (since torch 2.6 it refuses them unless it
    is told to); what they print is dropped.
    """
    import open_clip

    create, read = open_clip.create_model_and_transforms, torch.load

    def create_or_build(name: str, **options: Any) -> tuple[torch.nn.Module, Any, Any]:
        return (build(), None, None) if name == ENCODER else create(name, **options)

    def read_pickled(*args: Any, **options: Any) -> Any:
        return read(*args, **{"weights_only": False, **options})

    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        enter(mock.patch.object(open_clip, "create_model_and_transforms", create_or_build))
        enter(mock.patch.object(open_clip, "tokenize", tokenize))
        enter(mock.patch.object(torch, "load", read_pickled))
        enter(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        enter(contextlib.redirect_stdout(io.StringIO()))
        enter(contextlib.redirect_stderr(io.StringIO()))
        yield


@contextlib.contextmanager
def differentiable(linearized: bool = True) -> Iterator[None]:
    """What holds where they take a forward derivative: attention by products and a softmax, since
    neither torch's fused kernels nor the fast path of its attention module have one."""
    if not linearized:
        yield
        return
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def open_clip_model(about: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Any:
    """open_clip's own model of an encoder of a run, which then has no need of the hub.

    Args:
        about: its encoder.json. tensors: of the whole CLIP, under open_clip's names.
    """
    import open_clip

    image, text = about["geometry"], about["text"]
    same = {"layers", "width"}
    model = open_clip.CLIP(
        image["embed_dim"],
        open_clip.CLIPVisionCfg(
            **{key: image[key] for key in same | {"patch_size", "image_size"}},
            head_width=image["width"] // image["heads"],
            mlp_ratio=image["mlp_width"] / image["width"],
        ),
        open_clip.CLIPTextCfg(
            **{key: text[key] for key in same | {"heads", "context_length", "vocab_size"}},
            mlp_ratio=text["mlp_width"] / text["width"],
        ),
        quick_gelu=image["activation"] == "quick_gelu",
    )
    model.load_state_dict(dict(tensors))
    return model.eval()


def functional(
    model: torch.nn.Module, disable_autograd_tracking: bool = False
) -> tuple[Callable[..., Any], tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    """A module as a function of its parameters and buffers, and these: in place of functorch's
    function of this purpose, where torch no longer brings functorch."""
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    stateless = copy.deepcopy(model)

    def call(values: Any, others: Any, *args: Any) -> Any:
        named = dict(zip(parameters, values, strict=True)) | dict(zip(buffers, others, strict=True))
        return torch.func.functional_call(stateless, named, args)

    own = [p.detach().clone() for p in parameters.values()]
    if not disable_autograd_tracking:
        own = [p.requires_grad_() for p in own]
    return call, tuple(own), tuple(b.clone() for b in buffers.values())


def _loader(dataset: Any, is_train: bool, args: Any, image_encoder: Any = None) -> Any:
    return dataset.train_loader if is_train else dataset.test_loader


def _as_dictionary(batch: Any) -> dict[str, torch.Tensor]:
    return batch if isinstance(batch, dict) else dict(zip(("images", "labels"), batch, strict=True))


def _module(name: str, **attributes: Any) -> ModuleType:
    module = types.ModuleType(name)
    vars(module).update(attributes)
    sys.modules[name] = module
    return module
