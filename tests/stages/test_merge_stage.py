"""The stage that merges vectors' files: what merge_vectors gives in memory, bit for bit."""

import json
import shutil
from pathlib import Path

import pytest
import tiny
import torch

from task_arithmetic.cli import main
from task_arithmetic.errors import UserError
from task_arithmetic.files.hashes import sha256_of_file
from task_arithmetic.files.tensors import read_made_by, read_tensors, write_tensors
from task_arithmetic.merging.merge import merge_vectors
from task_arithmetic.merging.method import Data, options_of
from task_arithmetic.merging.methods import find, names
from task_arithmetic.pipeline.code import code_parts
from task_arithmetic.pipeline.rerun import modules
from task_arithmetic.progress import SILENT
from task_arithmetic.stages.addition import addition
from task_arithmetic.stages.evaluate import (
    EvaluationSettings,
    accuracies,
    load,
    read_merged,
    read_vector,
)
from task_arithmetic.stages.merge import merge, merge_on_data
from task_arithmetic.stages.single_task import single_task
from task_arithmetic.stages.statistics import statistics

TASKS = ["one", "two"]


def merged(output, method, mode="attention", seed=0, vectors=None, **options):
    paths = vectors or [tiny.shared_vector(mode, task) for task in TASKS]
    settings = {"method": method, "options": options}
    of = {"encoder": "tiny", "mode": mode, "seed": seed, "tasks": TASKS[: len(paths)]}
    merge(**of, vectors=paths, settings=settings, output=output)
    return output


@pytest.mark.parametrize("mode", ["attention", "ntk"])
@pytest.mark.parametrize("method", [name for name in names() if find(name).needs == "vectors"])
def test_a_merged_file_is_what_merging_in_memory_gives(tmp_path, method, mode):
    ours = read_vector(merged(tmp_path / "m.safetensors", method, mode, seed=3))
    taus = [read_vector(tiny.shared_vector(mode, task)) for task in TASKS]
    _, expected = merge_vectors(taus, method, seed=3, tasks=TASKS)
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[name], expected[name]) for name in ours.keys())
    assert (ours.mode, ours.linearized, ours.base) == (mode, mode == "ntk", taus[0].base)


def test_the_header_says_what_it_was_made_of_and_how(tmp_path):
    path = merged(tmp_path / "m.safetensors", "ties", keep=0.4)
    said = read_made_by(path)["merging"]
    hashes = {task: sha256_of_file(tiny.shared_vector("attention", task)) for task in TASKS}
    assert said == {
        "method": "ties",
        "options": {"keep": 0.4},
        "layer_scaled": False,
        "sources": hashes,
    }
    again = merged(tmp_path / "again.safetensors", "ties", keep=0.4)
    assert again.read_bytes() == path.read_bytes()


def test_a_vector_that_moves_fewer_tensors_is_zero_in_the_others(tmp_path):
    first, second = (tiny.shared_vector("nonlinear", task) for task in TASKS)
    some = tmp_path / "some.safetensors"
    held = read_tensors(second)
    held.pop("proj")
    write_tensors(some, held, read_made_by(second))
    path = merged(tmp_path / "m.safetensors", "sum", "nonlinear", vectors=[first, some])
    assert torch.equal(read_tensors(path)["proj"], read_tensors(first)["proj"])


def test_task_addition_takes_a_merged_vector(tmp_path):
    """The sum that is merged before gives the rows of the sum that addition makes."""
    arguments, own = tiny.common(mode="attention"), tmp_path / "own.csv"
    alone = tiny.each(single_task, arguments, own, settings={"linearized": False})
    settings = {"alphas": {"start": 0.0, "stop": 1.0, "step": 0.25}}
    shared = {"settings": settings, "single_task": alone}
    addition(**arguments, **shared, output=tmp_path / "a.csv")
    path = merged(tmp_path / "m.safetensors", "sum")
    addition(**{**arguments, "vectors": [path]}, **shared, output=tmp_path / "b.csv")
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    merged(path, "ties")
    addition(**{**arguments, "vectors": [path]}, **shared, output=tmp_path / "c.csv")
    assert (tmp_path / "c.csv").read_bytes() != (tmp_path / "b.csv").read_bytes()


@pytest.mark.parametrize("mode", ["nonlinear", "ntk"])
def test_what_is_scaled_by_depth_is_evaluated_with_its_offset(tmp_path, mode):
    """θ0 + A + b·B of LiNeS: A = a·M, B = l/(L − 1)·M, a = 1/T of the sum."""
    arguments, linearized = tiny.common(mode=mode), mode == "ntk"
    path = tmp_path / "m.safetensors"
    taus = [read_vector(tiny.shared_vector(mode, task)) for task in TASKS]
    of = {"encoder": "tiny", "mode": mode, "seed": 0, "tasks": TASKS}
    vectors = [tiny.shared_vector(mode, task) for task in TASKS]
    merge(**of, vectors=vectors, settings={"method": "sum", "layer_scaled": True}, output=path)
    offset, direction = read_merged(path)
    total = taus[0] + taus[1]
    last = max(int(name.split(".")[2]) for name in total.keys() if "resblocks" in name)
    for name, tensor in total.tensors.items():
        depth = int(name.split(".")[2]) / last if "resblocks" in name else 0
        torch.testing.assert_close(offset[name], tensor / 2, rtol=1e-6, atol=0)
        torch.testing.assert_close(direction[name], depth * tensor, rtol=1e-6, atol=0)
    with pytest.raises(UserError, match="holds no task vector"):
        read_vector(path)
    own = tiny.each(
        single_task, arguments, tmp_path / "own.csv", settings={"linearized": linearized}
    )
    settings = {"alphas": {"start": 0.1, "stop": 1.0, "step": 0.3}, "linearized": linearized}
    out = tmp_path / "a.csv"
    addition(**{**arguments, "vectors": [path]}, settings=settings, single_task=own, output=out,
             method="sum_lines")  # fmt: skip
    frame = tiny.frame_of(out)
    assert set(frame["method"]) == {"sum_lines"}
    rows = frame[(frame["metric"] == "unified_accuracy") & (frame["split"] == "validation")]
    how = EvaluationSettings(linearized=linearized)
    files = dict(
        zip(TASKS, zip(arguments["heads"], arguments["data_dirs"], strict=True), strict=True)
    )
    model, splits = load(arguments["encoder_dir"], files, how, "cpu")
    for (alpha, task), value in rows.set_index(["alpha", "task"])["value"].items():
        found = accuracies(model, offset + alpha * direction, [1.0], splits["validation"], how)
        assert found[task][0] == value


def test_the_encoder_says_how_deep_it_is(tmp_path):
    """A mode that does not reach the last block is scaled as of the whole encoder."""
    vectors = []
    for task in TASKS:
        whole = tiny.shared_vector("nonlinear", task)
        first = {k: v for k, v in read_tensors(whole).items() if "resblocks.0." in k}
        vectors.append(tmp_path / f"{task}.safetensors")
        write_tensors(vectors[-1], first, read_made_by(whole))
    output, arguments = tmp_path / "m.safetensors", tiny.common(mode="nonlinear")
    of = {"encoder": "tiny", "mode": "nonlinear", "seed": 0, "tasks": TASKS, "vectors": vectors}
    settings = {"method": "mean", "layer_scaled": True}
    geometry = Path(arguments["encoder_dir"]) / "encoder.json"
    merge(**of, settings=settings, output=output, geometry=geometry)
    offset, direction = read_merged(output)
    assert all(float(tensor.abs().max()) == 0 for tensor in direction.tensors.values())
    assert all(float(tensor.abs().max()) > 0 for tensor in offset.tensors.values())


@pytest.mark.parametrize(
    ("start", "stop", "chosen", "end"),
    [(0.0, 0.2, 2, "largest"), (0.0, 0.2, 1, ""), (0.0, 0.2, 0, ""), (0.1, 0.3, 0, "smallest"),
     (0.1, 0.3, 2, "largest"), (0.1, 0.1, 0, "")],
)  # fmt: skip
def test_an_end_of_a_grid_is_warned_of(tmp_path, capsys, monkeypatch, start, stop, chosen, end):
    monkeypatch.setattr("task_arithmetic.stages.addition.choose_alpha", lambda *_: chosen)
    arguments = tiny.common(mode="attention")
    own = tiny.each(single_task, arguments, tmp_path / "own.csv", settings={"linearized": False})
    path = merged(tmp_path / "m.safetensors", "ties")
    settings = {"alphas": {"start": start, "stop": stop, "step": 0.1}}
    addition(**{**arguments, "vectors": [path]}, settings=settings, single_task=own,
             output=tmp_path / "a.csv", method="ties")  # fmt: skip
    alpha, said = round(start + 0.1 * chosen, 10), capsys.readouterr().err
    assert (f"α = {alpha:g} is the {end} of the grid" if end else "") in said
    assert end or "of the grid" not in said
    frame = tiny.frame_of(tmp_path / "a.csv")
    assert set(frame[frame["split"] == "test"]["alpha"]) == {alpha}


def test_a_method_that_learns_is_what_learning_in_memory_gives(tmp_path):
    arguments = tiny.common(mode="attention")
    own = tiny.each(single_task, arguments, tmp_path / "own.csv", settings={"linearized": False})
    path, log = tmp_path / "m.safetensors", tmp_path / "m.csv"
    settings = {"method": "per_task", "options": {"sweeps": 1}}
    merge_on_data(**arguments, single_task=own, settings=settings, output=path, log=log)
    files = list(zip(arguments["heads"], arguments["data_dirs"], strict=True))
    model, _ = load(arguments["encoder_dir"], {}, EvaluationSettings(), "cpu")
    taus = [read_vector(tiny.shared_vector("attention", task)) for task in TASKS]
    rows = [tiny.frame_of(p) for p in own]
    accuracy = [float(r[r["split"] == "validation"]["value"].iloc[0]) for r in rows]

    def examples(split):
        assert split == "validation"
        return [model.modality.read_examples(*each, split, None, "cpu") for each in files]

    method = find("per_task")
    chosen = options_of(method, {"sweeps": 1})
    state = method.learn(Data(model, taus, TASKS, examples, accuracy), chosen, SILENT)
    _, expected = merge_vectors(taus, method, {"sweeps": 1}, tasks=TASKS, state=state)
    ours = read_vector(path)
    assert all(torch.equal(ours[name], expected[name]) for name in expected.keys())
    said = read_made_by(path)["merging"]["coefficients"]
    assert [tuple(row) for row in said] == state.as_rows()
    took = tiny.frame_of(log).set_index("metric")["value"]
    assert took["merge_seconds"] > 0 and set(took.index) == {
        "merge_seconds",
        "merge_peak_memory_bytes",
    }
    for name in ("ties", "consensus"):
        with pytest.raises(UserError, match=f"{name} needs vectors alone: use `merge`"):
            merge_on_data(**arguments, single_task=own, settings={"method": name}, output=path)


@pytest.mark.parametrize(
    "method, options", [("consensus", {"select": "validation"}), ("regmean", {"forward": True})]
)
def test_an_option_may_ask_for_examples(tmp_path, method, options):
    arguments = tiny.common(mode="attention")
    own = tiny.each(single_task, arguments, tmp_path / "own.csv", settings={"linearized": False})
    path, settings = tmp_path / "m.safetensors", {"method": method, "options": options}
    merge_on_data(**arguments, single_task=own, settings=settings, output=path)
    files = list(zip(arguments["heads"], arguments["data_dirs"], strict=True))
    model, _ = load(arguments["encoder_dir"], {}, EvaluationSettings(), "cpu")
    taus = [read_vector(tiny.shared_vector("attention", task)) for task in TASKS]

    def examples(split):
        return [model.modality.read_examples(*each, split, None, "cpu") for each in files]

    chosen = options_of(find(method), options)
    state = find(method).learn(Data(model, taus, TASKS, examples), chosen, SILENT)
    _, expected = merge_vectors(taus, method, options, tasks=TASKS, state=state)
    ours = read_vector(path)
    assert all(torch.equal(ours[name], expected[name]) for name in expected.keys())
    if method == "consensus":  # the file says which thresholds were chosen
        said = read_made_by(path)["merging"]["coefficients"]
        assert [tuple(row) for row in said] == state.as_rows()
    with pytest.raises(UserError, match=f"{method} needs (un)?labelled examples of every task"):
        merged(tmp_path / "n.safetensors", method, **options)


def test_statistics_of_other_tasks_are_refused(tmp_path):
    arguments = tiny.common(mode="attention")
    settings, grams = {"images": 4}, [tmp_path / f"{task}.safetensors" for task in TASKS]
    for task, head, data, vector, path in zip(
        TASKS, arguments["heads"], arguments["data_dirs"], arguments["vectors"], grams, strict=True
    ):
        statistics(arguments["encoder_dir"], head, data, encoder="tiny", mode="attention",
                   task=task, seed=0, vector=vector, settings=settings, output=path)  # fmt: skip
    of = {key: arguments[key] for key in ("encoder", "mode", "seed", "tasks", "vectors")}
    settings, output = {"method": "regmean"}, tmp_path / "m.safetensors"
    for wrong, said in (
        (grams[::-1], "is of two, attention, seed 0, where statistics of one"),
        (arguments["vectors"], "no Gram matrices"),
    ):
        with pytest.raises(UserError, match=said):
            merge(**of, statistics=wrong, settings=settings, output=output)
        assert not output.exists()
    forward = {**settings, "options": {"forward": True}}
    with pytest.raises(UserError, match="with `forward` merges .* while it reads examples"):
        merge(**of, statistics=grams, settings=forward, output=output)
    assert not output.exists()
    merge(**of, statistics=grams, settings=settings, output=output)
    taus = [read_vector(path) for path in arguments["vectors"]]
    state = {name: [read_tensors(g)[name] for g in grams] for name in read_tensors(grams[0])}
    _, expected = merge_vectors(taus, "regmean", tasks=TASKS, state=state)
    ours = read_vector(output)
    assert all(torch.equal(ours[name], expected[name]) for name in expected.keys())


def test_what_cannot_be_merged_is_a_sentence_and_writes_nothing(tmp_path):
    first, other = tiny.shared_vector("attention", "one"), tiny.shared_vector("ntk", "two")
    swapped = tiny.shared_vector("attention", "two")
    foreign, output = tmp_path / "foreign.safetensors", tmp_path / "m.safetensors"
    made_by = read_made_by(first) | {"theta0_sha256": "f" * 64}
    write_tensors(foreign, read_tensors(first), made_by)
    for wrong, said in (
        (lambda: merged(output, "sum", vectors=[first, other]), "mode ntk, where one of attention"),
        (lambda: merged(output, "sum", vectors=[first, foreign]), "of different encoders"),
        (lambda: merged(output, "sum", vectors=[swapped, first]), "of task two, where the vect"),
        (lambda: merged(output, "summ"), r"no merging method 'summ' \(did you mean 'sum'"),
        (lambda: merged(output, "ties", keep=0), "keep of the merging method ties must be"),
        (lambda: merged(output, "regmean"), "regmean needs unlabelled examples of every"),
        (lambda: merged(output, "sum", vectors=[tmp_path / "none"]), "none does not exist"),
        (lambda: merged(output, "sum", vectors=[tiny.shared_finetuned("attention", "one")]),
         "holds no task vector"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=said):
            wrong()
        assert not output.exists()


def test_the_command_merges(tmp_path, capsys):
    paths = [shutil.copy(tiny.shared_vector("attention", t), tmp_path / f"{t}.st") for t in TASKS]
    settings = json.dumps({"method": "dare", "options": {"drop": 0.5}})
    command = [
        "stage",
        "merge",
        "--encoder",
        "tiny",
        "--mode",
        "attention",
        "--seed",
        "1",
        "--tasks",
    ]
    command += [*TASKS, "--vectors", *map(str, paths), "--settings", settings]
    assert main([*command, "--output", str(tmp_path / "m.safetensors")]) == 0
    ours = read_tensors(tmp_path / "m.safetensors")
    expected = read_tensors(merged(tmp_path / "n.safetensors", "dare", seed=1, drop=0.5))
    assert all(torch.equal(ours[name], expected[name]) for name in expected)


def test_merging_depends_on_all_methods_and_addition_on_none_of_them():
    files = {f"merging/{name}.py" for name in names()}
    assert files <= set(code_parts(*modules("merge")))
    assert files <= set(code_parts(*modules("merge-on-data")))
    assert set(code_parts(*modules("addition"))) & files == {"merging/sum.py"}
