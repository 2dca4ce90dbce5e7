"""A hundred tasks, three modes, three encoders, five seeds."""

import time
import tracemalloc
import weakref

import numpy as np
import pytest
import tiny
import yaml
from safetensors.numpy import save_file

from task_arithmetic.files.tensors import header, read_tensors
from task_arithmetic.merging.sum import total
from task_arithmetic.stages import vector
from task_arithmetic.stages.evaluate import read_vector

TASKS = 100


@pytest.fixture
def hundred(project, tmp_path):
    """A project of 100 tasks of the hub, and its overlay: 4,500 fine-tunings."""
    for number in range(TASKS):
        definition = {
            "hub": f"owner/task{number}",
            "templates": ["a photo of a {}."],
            "expected": {"train": 2000, "validation": 200, "test": 1000, "classes": 10},
        }
        path = project / f"config/tasks/task{number}.yaml"
        path.write_text(yaml.safe_dump(definition))
    overlay = {
        "run": "hundred",
        "tasks": [f"task{number}" for number in range(TASKS)],
        "ablations": [],
        "language": None,
        "seeds": [0, 1, 2, 3, 4],
        "disentanglement": {"pairs": {"fig6": ["task0", "task1"], "fig8": ["task2", "task3"]}},
    }
    (project / "hundred.yaml").write_text(yaml.safe_dump(overlay))
    return project


@pytest.mark.slow
def test_4500_fine_tunings_are_planned(hundred, snakemake):
    """In how many seconds is in NOTES.md: a test that fails on a busy machine helps nobody."""
    began = time.monotonic()
    done = snakemake(
        *("-n", "--quiet", "rules", "--configfile", hundred / "hundred.yaml"),
        directory=hundred,
        snakefile=hundred / "Snakefile",
    )
    print(f"dry run: {time.monotonic() - began:.1f} s")
    assert done.returncode == 0, done.stdout[-3000:]
    counts = dict(line.split() for line in done.stdout.splitlines() if len(line.split()) == 2)
    assert counts["finetune"] == counts["vector"] == "4500"
    assert counts["single_task"] == counts["negation"] == "4500" and counts["kernel"] == "3000"
    assert counts["addition"] == counts["cosine"] == "45"
    assert counts["head"] == counts["pretrained"] == str(3 * (TASKS + 1))


@pytest.fixture
def forty(tmp_path):
    """Forty vectors of a megabyte."""
    paths = [tmp_path / f"{number}.safetensors" for number in range(40)]
    for number, path in enumerate(paths):
        generator = np.random.default_rng(number)
        tensors = {f"t{i}": generator.random((64, 1024), np.float32) for i in range(4)}
        save_file(tensors, path, header({"stage": "vector"}))
    return paths


def test_memory_for_similarities_does_not_grow_with_the_number_of_vectors(forty, monkeypatch):
    monkeypatch.setattr(vector, "SLICE", 2**17)
    peaks = []
    for count in (4, 40):
        tracemalloc.start()
        products = vector.inner_products(forty[:count])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert {each.shape for each in products.values()} == {(count, count)}
    assert peaks[1] < 1.5 * peaks[0] < 8 * 2**20, peaks


def test_a_sum_holds_two_vectors_at_a_time(forty):
    """However many there are: each is let go before the next one is read."""
    alive, most = [], [0]

    def reading():
        for path in forty:
            read = read_vector(path)
            alive.append(weakref.ref(read))
            most[0] = max(most[0], sum(ref() is not None for ref in alive))
            yield read
            del read

    summed = total(reading())
    assert most[0] <= 2
    expected = sum(read_tensors(path)["t2"].double() for path in forty)
    assert tiny.close(summed.tensors["t2"].double(), expected) < 1e-6
