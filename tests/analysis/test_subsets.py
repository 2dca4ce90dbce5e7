"""Random subsets of the tasks."""

import random
from itertools import combinations

import numpy as np
import pytest

from task_arithmetic.analysis.subsets import label_of, sizes_of, subsets_of
from task_arithmetic.config.kinds import is_name

TASKS = ["cars", "dtd", "eurosat", "gtsrb", "mnist", "resisc45", "sun397", "svhn"]


def test_sizes_are_listed_or_all_or_doubled():
    assert sizes_of([3, 2], 8) == [3, 2]
    assert sizes_of("all", 5) == [2, 3, 4, 5] and sizes_of("all", 2) == [2]
    assert sizes_of("doubled", 8) == [2, 4, 8] and sizes_of("doubled", 20) == [2, 4, 8, 16, 20]
    assert sizes_of("doubled", 2) == [2] and sizes_of("doubled", 3) == [2, 3]


@pytest.mark.parametrize("size", range(2, 9))
def test_draws_are_different_subsets_in_the_order_of_the_tasks(size):
    every = set(combinations(TASKS, size))
    drawn = subsets_of(TASKS, size, 5)
    assert set(drawn) <= every
    assert len(set(drawn)) == len(drawn) == min(5, len(every))


def test_a_draw_depends_on_its_size_and_number_alone():
    """Not on the order of the tasks, nor on how many draws or which sizes there are."""
    first = subsets_of(TASKS, 4, 3)
    assert subsets_of(TASKS, 4, 9)[:3] == first
    shuffled = random.Random(0).sample(TASKS, len(TASKS))
    assert [set(each) for each in subsets_of(shuffled, 4, 3)] == [set(each) for each in first]
    assert all(not set(two) <= set(four) for two in subsets_of(TASKS, 2, 1) for four in first[:1])


def test_one_more_task_takes_the_place_of_one_at_most():
    for size in (2, 4):
        before, after = subsets_of(TASKS, size, 1)[0], subsets_of([*TASKS, "imagenet"], size, 1)[0]
        assert after == before or len(set(after) - set(before)) == 1


def test_every_task_is_drawn_equally_often():
    tasks = [f"task{i}" for i in range(20)]
    drawn = subsets_of(tasks, 5, 2_000)
    shares = np.array([np.mean([task in each for each in drawn]) for task in tasks])
    assert abs(shares - 0.25).max() < 4 * np.sqrt(0.25 * 0.75 / 2_000)


def test_a_label_holds_the_tasks_and_is_no_name_of_a_task():
    label = label_of(TASKS[:3])
    assert label.split("+") == TASKS[:3] and not is_name(label)
