"""The stages layers, spectra and alignment, held to the tensors in their files."""

from itertools import combinations

import numpy as np
import pytest
import tiny
import torch

from task_arithmetic.analysis.alignment import alignment as ratio
from task_arithmetic.analysis.alignment import subspace
from task_arithmetic.analysis.layers import layers_of
from task_arithmetic.analysis.spectra import spectrum
from task_arithmetic.errors import UserError
from task_arithmetic.files.metrics import write_rows
from task_arithmetic.files.tensors import read_made_by, read_tensors, write_tensors
from task_arithmetic.merging.matrices import is_matrix
from task_arithmetic.stages.alignment import alignment
from task_arithmetic.stages.evaluate import write_merged
from task_arithmetic.stages.layers import layers
from task_arithmetic.stages.merge import merge
from task_arithmetic.stages.spectra import spectra

TASKS = ["one", "two", "three"]
ALPHA = 0.7


def given(mode):
    own = tiny.common(TASKS, mode)
    return {key: own[key] for key in ("encoder_dir", "encoder", "mode", "seed", "tasks", "vectors")}


def taus(vectors):
    return [{k: v.double().numpy() for k, v in read_tensors(path).items()} for path in vectors]


def table(path, **keys):
    rows = tiny.frame_of(path)
    for key, value in keys.items():
        rows = rows[rows[key] == value]
    return rows


@pytest.fixture(scope="module")
def with_methods(tmp_path_factory):
    """Iso-C's merged file, and one with an offset, and the metrics of their unified models."""
    folder, own = tmp_path_factory.mktemp("merged"), given("nonlinear")
    paths = {name: folder / f"{name}.safetensors" for name in ("iso_c", "mine")}
    of = {key: own[key] for key in ("encoder", "mode", "seed", "tasks", "vectors")}
    merge(**of, settings={"method": "iso_c"}, output=paths["iso_c"])
    torch.manual_seed(1)
    a, b = (
        {name: torch.randn_like(tensor) for name, tensor in read_tensors(paths["iso_c"]).items()}
        for _ in range(2)
    )
    write_merged(paths["mine"], a, b, {"mode": "nonlinear"})
    unified = []
    for name in paths:
        unified.append(folder / f"{name}.csv")
        row = {"metric": "unified_accuracy", "split": "test", "value": 0.5, "alpha": ALPHA}
        rows = [{**row, "task": task} for task in TASKS]
        rows.append({**row, "task": "one", "split": "validation", "alpha": 0.1})
        write_rows(unified[-1], rows, method=name)
    more = {"methods": list(paths), "merged": list(paths.values()), "unified": unified}
    mine = {name: a[name] + ALPHA * b[name] for name in a}
    updates = {"iso_c": read_tensors(paths["iso_c"]), "mine": mine}
    return {**own, **more}, {k: {n: t.numpy() for n, t in u.items()} for k, u in updates.items()}


@pytest.mark.parametrize("mode", ["nonlinear", "attention"])
def test_layers_have_the_cosines_and_norms_of_their_matrices(mode, tmp_path, capsys):
    own = given(mode)
    layers(**own, output=tmp_path / "a.csv")
    theta0 = read_tensors(own["encoder_dir"] / "image_tower.safetensors")
    known, read = layers_of(theta0), taus(own["vectors"])
    kinds = ["qkv", "out", *["mlp"] * (mode == "nonlinear")]
    wanted = {f"{block}.{kind}" for block in range(2) for kind in kinds}
    found = table(tmp_path / "a.csv", metric="cosine_similarity")
    assert set(found.layer) == wanted and len(found) == 3 * len(wanted)
    for layer in wanted:
        names = [name for name, of in known.items() if of == layer]
        flat = [np.concatenate([tau[name].ravel() for name in names]) for tau in read]
        size = np.linalg.norm(np.concatenate([theta0[name].numpy().ravel() for name in names]))
        rows = found[found.layer == layer].set_index(["task", "other_task"]).value
        for (i, a), (j, b) in combinations(enumerate(TASKS), 2):
            cosine = flat[i] @ flat[j] / np.linalg.norm(flat[i]) / np.linalg.norm(flat[j])
            assert rows[a, b] == pytest.approx(cosine, rel=1e-9)
        norms = table(tmp_path / "a.csv", metric="relative_norm", layer=layer)
        expected = [np.linalg.norm(each) / size for each in flat]
        assert norms.set_index("task").value[TASKS].tolist() == pytest.approx(expected, rel=1e-6)
    (count,) = table(tmp_path / "a.csv", metric="layer_matrices").value
    assert count == sum(name in known for name in read[0])
    assert "no cosine" not in capsys.readouterr().err


def test_where_a_vector_is_zero_there_is_no_cosine_and_it_is_said(tmp_path, capsys):
    own = given("attention")
    tensors = read_tensors(own["vectors"][0])
    tensors["transformer.resblocks.1.attn.out_proj.weight"].zero_()
    write_tensors(tmp_path / "zero.safetensors", tensors, read_made_by(own["vectors"][0]))
    vectors = [tmp_path / "zero.safetensors", *own["vectors"][1:]]
    layers(**{**own, "vectors": vectors}, output=tmp_path / "a.csv")
    rows = table(tmp_path / "a.csv", metric="cosine_similarity", layer="1.out")
    assert list(zip(rows.task, rows.other_task, strict=True)) == [("two", "three")]
    assert 0 in table(tmp_path / "a.csv", metric="relative_norm", layer="1.out").value.to_numpy()
    assert "no cosine there: one (1.out)." in capsys.readouterr().err


def test_spectra_are_means_of_individual_vectors_their_sum_and_every_method(with_methods, tmp_path):
    own, updates = with_methods
    spectra(**own, output=tmp_path / "a.csv")
    read = taus(own["vectors"])
    known = layers_of(read[0])
    summed = {name: sum(tau[name] for tau in read) for name in known}
    of = {"": (read, ""), "merged_": ([summed], ""), **{m: ([u], m) for m, u in updates.items()}}
    for which, (models, method) in of.items():
        prefix = which if which in ("", "merged_") else "merged_"
        for layer in ("0.qkv", "1.mlp"):
            names = [name for name in known if known[name] == layer]
            sigmas = [np.linalg.svd(m[name], compute_uv=False) for m in models for name in names]
            expected = np.mean([spectrum(s.astype(float), len(TASKS)) for s in sigmas], axis=0)
            rows = table(tmp_path / "a.csv", method=method, layer=layer).set_index("metric").value
            got = [rows[prefix + m] for m in ("stable_rank", "effective_rank", "top_energy")]
            assert got == pytest.approx(expected, rel=1e-4), (which, layer)
    iso = table(tmp_path / "a.csv", method="iso_c", metric="merged_stable_rank").value
    assert iso.to_numpy() == pytest.approx(32, rel=1e-3)  # all singular values are equal


def test_alignments_are_means_over_matrices_with_what_is_merged_at_the_chosen_alpha(
    with_methods, tmp_path
):
    own, updates = with_methods
    del own["encoder_dir"]
    alignment(**own, output=tmp_path / "a.csv")
    read = taus(own["vectors"])
    names = [name for name, tensor in read[0].items() if is_matrix(name, tensor.ndim)]
    assert "proj" in names and len(names) == 2 * 4 + 1
    every = {"": {name: sum(tau[name] for tau in read) for name in names}, **updates}
    for method, merged in every.items():
        turned = {n: merged[n].T if n == "proj" else merged[n] for n in names}
        bases = {n: subspace(torch.from_numpy(turned[n])) for n in names}
        for task, tau in zip(TASKS, read, strict=True):
            turned = {n: torch.from_numpy(tau[n].T if n == "proj" else tau[n]) for n in names}
            each = [ratio(bases[n], turned[n].to(bases[n].dtype)) for n in names]
            (row,) = table(tmp_path / "a.csv", method=method, task=task).value
            assert row == pytest.approx(np.mean(each), rel=1e-4)
    (count,) = table(tmp_path / "a.csv", metric="alignment_matrices").value
    assert count == len(names)


def test_without_methods_there_is_the_sum_alone(tmp_path):
    own = given("attention")
    spectra(**own, output=tmp_path / "spectra.csv")
    del own["encoder_dir"]
    alignment(**own, output=tmp_path / "alignment.csv")
    for name in ("spectra", "alignment"):
        assert set(table(tmp_path / f"{name}.csv").method) == {""}


def test_values_that_are_not_finite_are_one_sentence(tmp_path):
    own = given("attention")
    tensors = read_tensors(own["vectors"][0])
    tensors["transformer.resblocks.1.attn.out_proj.weight"][0, 0] = np.inf
    write_tensors(tmp_path / "bad.safetensors", tensors, read_made_by(own["vectors"][0]))
    vectors = [tmp_path / "bad.safetensors", *own["vectors"][1:]]
    with pytest.raises(UserError, match=r"bad.safetensors has values in .*out_proj.weight that"):
        spectra(**{**own, "vectors": vectors}, output=tmp_path / "a.csv")
