"""The comparison with the published code: what of it needs no checkout of that code. The whole runs
where TANGENT_TASK_ARITHMETIC names one (pytest -m slow tests/test_parity.py)."""

import csv
import importlib
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch

from task_arithmetic.errors import UserError
from task_arithmetic.vision.clip import encode, encode_text
from task_arithmetic.vision.geometry import TextTower, ViT

FOLDER = Path(__file__).parents[1] / "benchmarks/parity"


@pytest.fixture
def parity(monkeypatch):
    """Its modules, by name; theirs are forgotten afterwards."""
    monkeypatch.syspath_prepend(FOLDER)
    yield importlib.import_module
    for name in [name for name in sys.modules if name.split(".")[0] == "src"]:
        del sys.modules[name]


def row(parity, difference, bound):
    return parity("quantities").Row("logits", 2, 1.0, 1.0, difference, bound)


@pytest.mark.parametrize(
    "difference, bound, status", [(0.0, 0.0, 0), (2e-3, 1e-3, 1), (float("nan"), 1e-3, 1)]
)
def test_a_difference_above_its_bound_is_exit_status_1(parity, difference, bound, status):
    compare = parity("compare")
    rows = [row(parity, 1e-4, 1e-3), row(parity, difference, bound)]
    assert compare.status(rows) == status
    assert ("exceeded" in compare.table(rows)) == bool(status)


def test_a_measurement_has_no_bound(parity):
    compare, rows = parity("compare"), [row(parity, 1.3, None)]
    assert compare.status(rows) == 0 and "ours ÷ theirs 1.30" in compare.table(rows)


def test_no_checkout_is_one_sentence(parity, tmp_path, capsys):
    assert parity("compare").main(["--checkout", str(tmp_path / "none")]) == 2
    said = capsys.readouterr().err
    assert "is no checkout of tangent_task_arithmetic (src/utils.py is not there)" in said
    assert said.count("\n") == 1


def test_no_finished_run_is_one_sentence(parity, tmp_path, capsys):
    checkout_of(parity, tmp_path)
    options = ["--checkout", str(tmp_path), "--run", str(tmp_path / "results")]
    assert parity("compare").main(options) == 2
    assert "is no finished run" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text, reason",
    [("", "utils.py of .* has no DotDict"), ("import no_such", "cannot be imported")],
)
def test_a_checkout_of_other_code_is_refused(parity, tmp_path, text, reason):
    checkout_of(parity, tmp_path, text)
    with pytest.raises(UserError, match=reason):
        parity("reference").load(tmp_path, None, None)


def checkout_of(parity, folder, text=""):
    (folder / "src").mkdir()
    for name in parity("reference").NEEDED:
        (folder / f"src/{name}.py").write_text(text)


def test_a_module_as_a_function_is_the_module(parity):
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).eval()
    call, parameters, buffers = parity("reference").functional(model, True)
    x = torch.randn(5, 3)
    assert torch.equal(call(parameters, buffers, x), model(x))
    assert not any(tensor.requires_grad for tensor in parameters)
    moved = [tensor + 0.1 for tensor in parameters]
    for own, tensor in zip(model.parameters(), moved, strict=True):
        own.data.copy_(tensor)
    assert torch.equal(call(moved, buffers, x), model(x))


def test_the_encoder_of_a_run_is_open_clips(parity):
    text = TextTower(1, 16, 2, 8, 30, 64, 12, "quick_gelu")
    image = ViT(2, 24, 8, 16, 48, 3, 12, "quick_gelu")
    about = {"geometry": vars(image), "text": vars(text)}
    theta0, words = (
        {name: 0.1 * torch.randn(shape) for name, shape in tower.shapes().items()}
        for tower in (image, text)
    )
    whole = {f"visual.{name}": tensor for name, tensor in theta0.items()} | words
    whole["logit_scale"] = torch.tensor(2.0)
    model = parity("reference").open_clip_model(about, whole)
    pixels, tokens = torch.randn(3, 3, 16, 16), torch.randint(1, 30, (3, 8))
    torch.testing.assert_close(model.encode_image(pixels), encode(theta0, pixels, image))
    torch.testing.assert_close(model.encode_text(tokens), encode_text(words, tokens, text))


def test_fused_kernels_are_back_after_a_forward_derivative(parity):
    fused = torch.backends.mha.get_fastpath_enabled
    before = fused(), torch.backends.cuda.flash_sdp_enabled()
    with parity("reference").differentiable():
        assert not fused() and not torch.backends.cuda.flash_sdp_enabled()
    assert (fused(), torch.backends.cuda.flash_sdp_enabled()) == before
    with parity("reference").differentiable(linearized=False):
        assert fused() == before[0]


CHECKOUT = os.environ.get("TANGENT_TASK_ARITHMETIC")


@pytest.mark.slow
@pytest.mark.skipif(not CHECKOUT, reason="TANGENT_TASK_ARITHMETIC names no checkout of their code")
def test_nano_agrees_with_the_published_code(parity, nano, tmp_path, capsys):
    compare, which = parity("compare"), parity("compare").QUANTITIES[:-1]
    options = ["--checkout", CHECKOUT, "--steps", "4", "--points", "3"]
    assert compare.main([*options, "--run", str(nano.results), "--only", *which]) == 0
    assert "| accuracies, negation | 72 |" in capsys.readouterr().out
    other = tmp_path / "results/nano"
    shutil.copytree(nano.results, other)
    (other.parent / "shared").symlink_to(nano.results.parent / "shared")
    rows = list(csv.reader((other / "metrics.csv").open()))
    at = next(i for i, row in enumerate(rows) if "negated_accuracy" in row)
    rows[at][7] = "0.9"
    with (other / "metrics.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    assert compare.main([*options, "--run", str(other), "--only", "accuracies"]) == 1
