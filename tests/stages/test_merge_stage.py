"""The stage that merges vectors' files: what merge_vectors gives in memory, bit for bit."""

import json
import shutil

import pytest
import tiny
import torch

from task_arithmetic.cli import main
from task_arithmetic.errors import UserError
from task_arithmetic.files.hashes import sha256_of_file
from task_arithmetic.files.tensors import read_made_by, read_tensors, write_tensors
from task_arithmetic.merging.merge import merge_vectors
from task_arithmetic.merging.methods import find, names
from task_arithmetic.pipeline.code import METHODS, code_parts
from task_arithmetic.stages.addition import addition
from task_arithmetic.stages.evaluate import read_vector
from task_arithmetic.stages.merge import merge
from task_arithmetic.stages.single_task import single_task

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


def test_what_cannot_be_merged_is_a_sentence_and_writes_nothing(tmp_path):
    first, other = tiny.shared_vector("attention", "one"), tiny.shared_vector("ntk", "two")
    foreign, output = tmp_path / "foreign.safetensors", tmp_path / "m.safetensors"
    made_by = read_made_by(first) | {"theta0_sha256": "f" * 64}
    write_tensors(foreign, read_tensors(first), made_by)
    for wrong, said in (
        (lambda: merged(output, "sum", vectors=[first, other]), "is of mode ntk, and"),
        (lambda: merged(output, "sum", vectors=[first, foreign]), "of different encoders"),
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
    command = ["merge", "--encoder", "tiny", "--mode", "attention", "--seed", "1", "--tasks"]
    command += [*TASKS, "--vectors", *map(str, paths), "--settings", settings]
    assert main([*command, "--output", str(tmp_path / "m.safetensors")]) == 0
    ours = read_tensors(tmp_path / "m.safetensors")
    expected = read_tensors(merged(tmp_path / "n.safetensors", "dare", seed=1, drop=0.5))
    assert all(torch.equal(ours[name], expected[name]) for name in expected)


def test_merging_depends_on_all_methods_and_addition_on_none_of_them():
    assert names() == METHODS
    files = {f"merging/{name}.py" for name in METHODS}
    assert files <= set(code_parts("stages.merge"))
    assert set(code_parts("stages.addition")) & files == {"merging/sum.py"}
