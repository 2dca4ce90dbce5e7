"""RegMean++: regmean of which each block reads what the merged blocks below it put out, against a
slow version that runs whole models."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
import twins
from test_statistics import data, drawn, images, open_clips, random_vector, texts  # noqa: F401

from task_arithmetic.core.vectors import TaskVector
from task_arithmetic.errors import UserError
from task_arithmetic.merging.grams import collect
from task_arithmetic.merging.matrices import is_matrix
from task_arithmetic.merging.merge import merge_vectors
from task_arithmetic.merging.method import Data, options_of
from task_arithmetic.merging.methods import find
from task_arithmetic.progress import SILENT

METHOD = find("regmean")
BLOCKS = "transformer.resblocks."
OF_IMAGES = [("class", "conv1", "ln_pre", "positional"), (f"{BLOCKS}0.",), (f"{BLOCKS}1.",),
             ("ln_post", "proj")]  # fmt: skip
OF_TEXTS = [
    ("shared",), ("encoder.block.0.",), ("encoder.block.1.",), ("encoder.final",),
    ("decoder.block.0.",), ("decoder.block.1.",), ("decoder.block.2.",), ("decoder.final", "lm_"),
]  # fmt: skip


def learnt(given, **options):
    of = {"forward": True, **options}
    state = METHOD.learn(given, options_of(METHOD, of), SILENT)
    return merge_vectors(given.vectors, METHOD, of, tasks=given.tasks, state=state)[1]


def slowly(vectors, layers, grams_of, factors=(1.0, 1.0)):
    """Name → M, where grams_of(t, vector of the whole model) gives task t's Gram matrices, and what
    is merged is each vector times its factor."""
    merged = {}
    for prefixes in layers:
        grams = [grams_of(t, {**tau.tensors, **merged}) for t, tau in enumerate(vectors)]
        for name in [name for name in vectors[0].keys() if name.startswith(prefixes)]:
            pairs = zip(vectors, factors, strict=True)
            arrays = [factor * tau[name].double().numpy() for tau, factor in pairs]
            if is_matrix(name, arrays[0].ndim):
                turned = [a.T for a in arrays] if name == "proj" else arrays
                found = twins.regmean(turned, [each[name].double().numpy() for each in grams])
                found = found.T if name == "proj" else found
            else:
                found = sum(arrays) / len(arrays)
            merged[name] = torch.from_numpy(np.ascontiguousarray(found))
    assert merged.keys() == vectors[0].keys()
    return merged


def of_both(encoder, examples, vectors):
    return Data(encoder, vectors, ["a", "b"], lambda split: [examples] * len(vectors), seed=2)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("kind", ["full", "attention"])
def test_of_images_each_block_is_merged_on_what_the_merged_ones_below_put_out(
    images,  # noqa: F811
    kind,
    normalize,
):
    def moves(name):
        return kind == "full" or (".attn." in name and name.endswith("weight"))

    vectors = [seed * random_vector(images.encoder.theta0, moves, seed) for seed in (1, 2)]
    norms, factors = [tau.norm() for tau in vectors], (1.0, 1.0)
    if normalize:
        factors = tuple(sum(norms) / 2 / norm for norm in norms)
    given = of_both(images.encoder, images.examples, vectors)
    ours = learnt(given, images=40, normalize=normalize)
    pixels = images.pixels[drawn(48, 40, 2)]

    def grams_of(t, tensors):
        return open_clips(TaskVector(tensors).apply(images.encoder.theta0), pixels)

    expected = slowly(vectors, OF_IMAGES, grams_of, factors)
    apart = {name: tiny.close(ours[name].double(), each) for name, each in expected.items()}
    assert max(apart.values()) < 1e-4
    grams = METHOD.learn(given, options_of(METHOD, {"images": 40}), SILENT)
    _, plain = merge_vectors(vectors, METHOD, {"normalize": normalize}, state=grams)
    first = f"{BLOCKS}0.attn.in_proj_weight"
    assert tiny.close(plain[f"{BLOCKS}1.attn.in_proj_weight"].double(),
                      expected[f"{BLOCKS}1.attn.in_proj_weight"]) > 1e-2  # fmt: skip
    if kind == "attention":  # nothing below the first block moves
        assert tiny.close(plain[first].double(), expected[first]) < 1e-5


@pytest.mark.filterwarnings("ignore::task_arithmetic.merging.linear.LostRank")
def test_of_texts_answers_come_from_each_tasks_own_upper_blocks(texts):  # noqa: F811
    vectors = [0.3 * random_vector(texts.encoder.theta0, seed=seed) for seed in (1, 2)]
    ours = learnt(of_both(texts.encoder, texts.examples, vectors), images=7)

    def grams_of(t, tensors):
        return collect(texts.encoder, TaskVector(tensors), texts.examples, 7, 2).grams

    expected = slowly(vectors, OF_TEXTS, grams_of)
    assert max(tiny.close(ours[name].double(), each) for name, each in expected.items()) < 1e-4


def test_of_one_task_or_the_same_vector_twice_it_is_regmean():
    of = data("attention", ["two"])
    twice = data("attention", ["one", "two"])
    twice = replace(twice, vectors=[twice.vectors[0], twice.vectors[0].copy()])
    for given in (of, twice):
        grams = METHOD.learn(given, options_of(METHOD, {}), SILENT)
        _, plain = merge_vectors(given.vectors, METHOD, tasks=given.tasks, state=grams)
        ours = learnt(given)
        assert max(tiny.close(ours[name], plain[name]) for name in plain.keys()) < 1e-4


def test_in_f_lin_it_is_regmean():
    """There a layer reads what it reads at θ0, whatever is merged below it."""
    given = data("ntk")
    grams = METHOD.learn(given, options_of(METHOD, {}), SILENT)
    _, plain = merge_vectors(given.vectors, METHOD, tasks=given.tasks, state=grams)
    ours = learnt(given)
    assert ours.keys() == plain.keys()
    assert all(torch.equal(ours[name], plain[name]) for name in plain.keys())


def test_what_it_refuses_is_a_sentence():
    given = data("attention")
    grams = METHOD.learn(given, options_of(METHOD, {}), SILENT)
    for state in (None, {}, grams):
        with pytest.raises(UserError, match="merges .* while it reads examples: give what its"):
            merge_vectors(given.vectors, METHOD, {"forward": True}, state=state)
