"""Texts: batches, loss, gradients, generated answers, their measures, and the stages on them."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import tiny
import tiny_texts
import torch
import torch.nn.functional as F

from task_arithmetic.core.outcomes import spearman
from task_arithmetic.core.schedule import Recipe, learning_rate_at
from task_arithmetic.core.training import Training
from task_arithmetic.errors import UserError
from task_arithmetic.files.hashes import sealed, sha256_of_file
from task_arithmetic.files.metrics import write_rows
from task_arithmetic.files.paths import write_json
from task_arithmetic.files.tensors import read_tensors
from task_arithmetic.language import modality as language
from task_arithmetic.language.t5 import generate, logits, logits_linearized
from task_arithmetic.stages import addition as module
from task_arithmetic.stages.efficiency import efficiency
from task_arithmetic.stages.evaluate import read_vector
from task_arithmetic.stages.finetune import TrainingSettings, start
from task_arithmetic.stages.single_task import pretrained
from task_arithmetic.stages.single_task import single_task as of_one_task
from task_arithmetic.stages.vector import cosine
from task_arithmetic.vision import modality as vision

EVALUATION = {"modality": "language", "limit": None}
GRID = {"start": 0.0, "stop": 1.0, "step": 0.25}


def examples(task="mood", split="train"):
    every = tiny_texts.suite()
    i = every["tasks"].index(task)
    return encoder().modality.read_examples(every["heads"][i], every["data_dirs"][i], split)


def encoder():
    return language.read_encoder(tiny_texts.suite()["encoder_dir"])


def prepare(mode, dtype=torch.float64, **recipe):
    """A run as `finetune` starts it, and a batch of tokens and targets."""
    texts, pretrained = examples("alike"), encoder()
    theta0 = {name: tensor.to(dtype) for name, tensor in pretrained.theta0.items()}
    how = TrainingSettings.of(tiny_texts.settings(mode, **recipe))
    run = start(replace(pretrained, theta0=theta0), texts, how, mode)
    batch = run.modality.to_inputs(*run.modality.read_batch(texts, 3, 0, how.finetune))
    return run, theta0, batch


def moved(run, amount=0.05):
    """Let a run's θ differ from θ0."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in run.theta.values():
            noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
            tensor += amount * noise


# --- Batches -------------------------------------------------------------------------------------


def test_a_batch_is_the_steps_texts_and_answers_padded_to_the_longest():
    texts, _ = found = examples("mood")
    source, targets = encoder().modality.read_batch(found, 5, 1, Recipe(**tiny_texts.RECIPE))
    chosen = language.batch_indices(5, len(texts.target), 8, 1)
    lengths = (texts.ends - texts.starts)[chosen]
    assert source.shape == (8, lengths.max()) and len(set(lengths)) > 1
    for row, target, i in zip(source.tolist(), targets.tolist(), chosen, strict=True):
        expected = texts.tokens[texts.starts[i] : texts.ends[i]].tolist()
        assert row == expected + [0] * (len(row) - len(expected))
        answer = [t for t in texts.words[texts.target[i]].tolist() if t]
        assert target == answer + [-100] * (len(target) - len(answer)) and answer[-1] == 1


def test_the_decoder_is_given_the_targets_one_step_later_as_in_transformers():
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, vocab_size=9)
    config.decoder_start_token_id = 0
    targets = torch.tensor([[5, 7, 1], [4, 1, -100]])
    theirs = T5ForConditionalGeneration(config)._shift_right(targets)
    ours = encoder().modality._given(targets)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("mode", tiny_texts.MODES)
def test_padding_to_a_fixed_length_changes_neither_loss_nor_gradient(mode):
    run, _, (source, targets) = prepare(mode)
    moved(run)
    gradient = run.add_linearized_gradient if mode == "ntk" else run.add_gradient
    loss = float(gradient(source, targets))
    found = {name: tensor.grad.clone() for name, tensor in run.theta.items()}
    for tensor in run.theta.values():
        tensor.grad = None
    wide, long = F.pad(source, (0, 40)), F.pad(targets, (0, 6), value=-100)
    assert float(gradient(wide, long)) == pytest.approx(loss, rel=1e-12)
    for name, tensor in run.theta.items():
        assert tiny.close(tensor.grad, found[name]) < 1e-10, name


# --- Gradients -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", tiny_texts.MODES)
def test_gradients_are_those_of_autograd_over_the_mean_of_all_target_tokens(mode):
    """For a linearized mode: of autograd through torch's jvp, at a τ that is not 0."""
    run, theta0, (source, targets) = prepare(mode)
    moved(run)
    geometry, given = run.modality.geometry, run.modality._given(targets)
    leaves = {name: t.detach().clone().requires_grad_() for name, t in run.theta.items()}

    def model(params):
        return logits({**theta0, **params}, source, given, geometry)

    if mode == "ntk":
        start_at = {name: theta0[name] for name in leaves}
        tau = {name: leaf - theta0[name] for name, leaf in leaves.items()}
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            scores = sum(torch.func.jvp(model, (start_at,), (tau,)))
    else:
        scores = model(leaves)
    wanted = targets >= 0
    chosen = scores.log_softmax(-1)[wanted]
    loss = -chosen[torch.arange(len(chosen)), targets[wanted]].mean()
    expected = torch.autograd.grad(loss, list(leaves.values()))
    ours = (run.add_linearized_gradient if mode == "ntk" else run.add_gradient)(source, targets)
    assert float(ours) == pytest.approx(float(loss), rel=1e-10)
    for (name, tensor), gradient in zip(run.theta.items(), expected, strict=True):
        assert tiny.close(tensor.grad, gradient) < 1e-8, name


@pytest.mark.parametrize("micro", [1, 3, 7])
def test_micro_batches_of_answers_of_different_lengths_add_up_to_the_batch(micro):
    gradients = []
    for size in (None, micro):
        run, _, (source, targets) = prepare("nonlinear", learning_rate=0.0)
        targets = targets.clone()
        targets[::2, 1:] = -100  # answers of different lengths
        run.micro_batch = size
        loss = run.step(source, targets, 0.0)
        gradients.append((loss, {n: t.grad.clone() for n, t in run.theta.items()}))
    (loss, whole), (parts_loss, parts) = gradients
    assert parts_loss == pytest.approx(loss, rel=1e-12)
    assert all(tiny.close(parts[name], whole[name]) < 1e-9 for name in whole)


def test_the_step_of_the_published_recipe_is_adam_without_decay_clipping_or_schedule():
    run, theta0, (source, targets) = prepare("nonlinear")
    run.add_gradient(source, targets)
    gradients = {name: tensor.grad.clone() for name, tensor in run.theta.items()}
    rate = learning_rate_at(5, run.recipe)
    assert rate == learning_rate_at(0, run.recipe) == 3e-3
    run.step(source, targets, rate)
    for name, tensor in run.theta.items():
        g = gradients[name]
        expected = theta0[name] - rate * g / (g.abs() + 1e-8)  # Adam's first step
        assert torch.allclose(tensor.detach(), expected, rtol=1e-9, atol=1e-12), name


# --- Answers and measures ------------------------------------------------------------------------


def test_spearman_is_scipys_also_with_ties():
    generator = np.random.default_rng(0)
    for _ in range(20):
        a, b = generator.integers(0, 6, 40), generator.normal(size=40)
        expected = scipy.stats.spearmanr(a, b).statistic
        assert spearman(a, b) == pytest.approx(expected, abs=1e-12)


def test_a_constant_answer_correlates_with_nothing():
    assert spearman(np.ones(5), np.arange(5)) == 0.0


@pytest.mark.parametrize(
    "text, number",
    [("3.8", 3.8), (" 2", 2.0), ("-1.5", -1.5), ("", 0.0), ("five", 0.0), ("nan", 0.0),
     ("inf", 0.0), ("3.8 4", 0.0)],
)  # fmt: skip
def test_an_answer_that_is_no_number_counts_as_0(text, number):
    assert language.as_number(text) == number


def test_an_exact_match_is_of_decoded_texts_and_nothing_less():
    words = {(4, 1, 0): "yes", (5, 1, 0): "no", (6, 7, 1): "yes", (4, 4, 1): "yes yes", (1,): ""}
    texts = examples("mood").texts._replace(
        words=np.array([[4, 1, 0], [5, 1, 0]]), target=np.array([0, 0, 1, 0, 1])
    )
    answers = np.array([[4, 1, 0], [6, 7, 1], [5, 1, 0], [4, 4, 1], [4, 1, 0]])
    assert language.measured(answers, texts, words.__getitem__).tolist() == [
        True,
        True,
        True,
        False,
        False,
    ]


def naive(theta, texts, tokenizer) -> list[str]:
    """Answers one text at a time, without padding, cache or batch."""
    found = []
    for start_at, end in zip(texts.starts, texts.ends, strict=True):
        source = torch.from_numpy(texts.tokens[start_at:end].astype(np.int64))[None]
        given = torch.zeros(1, 1, dtype=torch.int64)
        while given.shape[1] <= texts.longest:
            scores = theta(source, given)
            given = torch.cat([given, scores[:, -1:].argmax(-1)], dim=1)
            if given[0, -1] == 1:
                break
        found.append(tokenizer.decode(given[0, 1:].tolist()))
    return found


@pytest.mark.parametrize("linearized", [False, True], ids=["f", "f_lin"])
@pytest.mark.parametrize("task", tiny_texts.TASKS)
def test_accuracies_are_those_of_a_naive_loop_over_texts_and_alphas(task, linearized):
    theta0, modality, found = encoder().theta0, encoder().modality, examples(task, "test")
    texts, geometry = found.texts, modality.geometry
    tau = read_vector(tiny_texts.vector("ntk" if linearized else "nonlinear", task))
    alphas = [0.0, 0.5, 1.0]
    found = modality.accuracies(theta0, tau, alphas, {"x": found}, linearized)["x"]
    tokenizer = language.read_tokenizer(modality.folder, modality.tokenizer_sha256)
    expected = []
    for alpha in alphas:

        def theta(source, given, alpha=alpha):
            if not linearized:
                return logits(tau.apply(theta0, alpha), source, given, geometry)
            value, tangent = logits_linearized(theta0, tau.tensors, source, given, geometry)
            return value + alpha * tangent

        with torch.no_grad():
            said = naive(theta, texts, tokenizer)
        if task == "mood":
            labels = ["sad", "very glad"]
            hits = [a == labels[t] for a, t in zip(said, texts.target, strict=True)]
            expected.append(np.mean(hits))
        else:
            numbers = [float(a) if a.replace(".", "").isdigit() else 0.0 for a in said]
            constant = len(set(numbers)) == 1
            rho = 0.0 if constant else scipy.stats.spearmanr(numbers, texts.score).statistic
            expected.append(rho)
    assert found == pytest.approx(expected, abs=1e-9)
    assert len(set(np.round(expected, 6))) > 1  # the vector does something


@pytest.mark.parametrize("linearized", [False, True], ids=["f", "f_lin"])
@pytest.mark.parametrize(("a", "b"), [("attention", "nonlinear"), ("nonlinear", "attention")])
def test_a_grid_with_an_offset_is_one_alpha_at_a_time(a, b, linearized):
    """θ0 + A + α B, whose A and B have other tensors than each other."""
    t5, parts = encoder(), {task: examples(task, "test") for task in tiny_texts.TASKS}
    offset, tau = (read_vector(tiny_texts.vector(mode, "mood")) for mode in (a, b))
    assert offset.keys() != tau.keys()
    offset, alphas = 0.3 * offset, [-0.5, 0.0, 0.4, 1.0]
    found = t5.modality.accuracies(t5.theta0, tau, alphas, parts, linearized, "float32", offset)
    plain = t5.modality.accuracies(t5.theta0, tau, alphas, parts, linearized)
    for i, alpha in enumerate(alphas):
        of = t5.theta0, offset + alpha * tau, [1.0], parts, linearized
        alone = t5.modality.accuracies(*of)
        assert all(found[task][i] == pytest.approx(alone[task][0], abs=1e-9) for task in parts)
    assert any(found[task].tolist() != plain[task].tolist() for task in parts)
    assert any(len(set(found[task])) > 1 for task in parts)


def test_accuracies_do_not_depend_on_batches(monkeypatch):
    t5, tau = encoder(), read_vector(tiny_texts.vector("ntk", "mood"))
    of = t5.theta0, tau, [0.0, 0.7], {"x": examples("mood", "test")}, True
    whole = t5.modality.accuracies(*of)["x"]
    monkeypatch.setattr(language, "BATCH", 7)
    assert t5.modality.accuracies(*of)["x"].tolist() == whole.tolist()


def test_theta0_plus_tau_answers_as_the_finetuned_model(tmp_path):
    """θ0 + 1·τ is the individual model (paper, after Definition 1)."""
    vector = tiny_texts.vector("attention", "mood")
    theta0, geometry = encoder().theta0, encoder().modality.geometry
    moved_file = vector.parents[2] / "finetuned/attention/mood-0.safetensors"
    theta = {**theta0, **read_tensors(moved_file)}
    ours = read_vector(vector).apply(theta0, 1.0)
    source = torch.from_numpy(language.padded(examples("mood", "test").texts, np.arange(40)))
    with torch.inference_mode():
        answers = [generate(t, source, geometry, 4) for t in (ours, theta)]
    assert torch.equal(*answers) and len(answers[0].flatten(0, 1).unique(dim=0)) > 1


# --- Whole runs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", tiny_texts.MODES)
def test_only_what_the_mode_names_moves(mode):
    tau = read_vector(tiny_texts.vector(mode, "mood")).tensors
    theta0 = encoder().theta0
    attention = tuple(f"Attention.{part}.weight" for part in "qkv")
    named = {name for name in theta0 if mode != "attention" or name.endswith(attention)}
    assert set(tau) == named
    assert all(tensor.any() for tensor in tau.values())


@pytest.mark.parametrize("mode", tiny_texts.MODES)
def test_a_stopped_and_resumed_run_gives_the_same_file(mode, tmp_path, monkeypatch):

    tiny_texts.train(tmp_path / "whole", mode, "alike", checkpoint_steps=2)
    original, taken = Training.update, []

    def stop(*arguments):
        taken.append(1)
        if len(taken) == 4:
            raise KeyboardInterrupt
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "update", stop)
        with pytest.raises(KeyboardInterrupt):
            tiny_texts.train(tmp_path / "parts", mode, "alike", checkpoint_steps=2)
    assert not list(tmp_path.glob("parts/finetuned/*/*.safetensors"))
    tiny_texts.train(tmp_path / "parts", mode, "alike", checkpoint_steps=2)
    one, two = (
        read_tensors(tmp_path / part / "finetuned" / mode / "alike-0.safetensors")
        for part in ("whole", "parts")
    )
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_another_seed_gives_another_order_of_texts(tmp_path):
    one = read_tensors(tiny_texts.train(tmp_path, "attention", "mood", seed=1))
    two = read_tensors(tiny_texts.train(tmp_path, "attention", "mood", seed=2))
    assert any(not torch.equal(one[name], two[name]) for name in one)


def test_the_pretrained_stage_measures_every_task_and_says_what_was_cut(tmp_path):
    arguments = tiny_texts.common()
    paths = tiny.each(pretrained, arguments, tmp_path / "a.csv", settings=EVALUATION)
    rows = tiny.frame_of(*paths)
    accuracy = rows[rows.metric == "pretrained_accuracy"]
    assert len(accuracy) == 4 and set(accuracy.split) == {"validation", "test"}
    cut = rows[rows.metric == "cut_inputs"]
    assert len(cut) == 6 and set(cut.task) == set(tiny_texts.TASKS) and (cut.value == 0).all()
    assert set(cut.split) == {"train", "validation", "test"}


def single_task(tmp_path, mode):
    linearized = tiny_texts.MODES[mode]["linearized"]
    path, arguments = tmp_path / f"single-{mode}.csv", tiny_texts.common(mode)
    settings = {**EVALUATION, "linearized": linearized}
    return tiny.each(of_one_task, arguments, path, settings=settings)


@pytest.mark.parametrize("mode", tiny_texts.MODES)
def test_the_individual_models_have_learnt_their_tasks(mode, tmp_path):
    found = tiny.frame_of(*single_task(tmp_path, mode)).set_index(["task", "split"]).value
    assert found["mood", "test"] > 0.7 and found["alike", "test"] > 0.2


def addition(tmp_path, mode="nonlinear", name="addition", arguments=None, **settings):
    linearized = tiny_texts.MODES[mode]["linearized"]
    path = tmp_path / f"{name}.csv"
    module.addition(
        **(arguments or tiny_texts.common(mode)),
        single_task=single_task(tmp_path, mode),
        settings={**EVALUATION, "alphas": GRID, "linearized": linearized, **settings},
        output=path,
    )
    return tiny.frame_of(path)


def chosen_alpha(rows) -> float:
    (alpha,) = set(rows[(rows.split == "test")].alpha)
    return alpha


@pytest.mark.parametrize("mode", tiny_texts.MODES)
def test_alpha_is_the_best_mean_of_normalized_validation_accuracy(mode, tmp_path):
    rows = addition(tmp_path, mode)
    curve = rows[(rows.split == "validation") & (rows.metric == "normalized_accuracy")]
    assert chosen_alpha(rows) == curve.groupby("alpha").value.mean().idxmax()
    test = rows[(rows.split == "test") & (rows.metric == "unified_accuracy")]
    assert len(test) == 2
    t5 = encoder()
    tau = sum(read_vector(tiny_texts.vector(mode, task)) for task in tiny_texts.TASKS)
    for row in test.itertuples():
        parts = {"x": examples(row.task, "test")}
        linearized = tiny_texts.MODES[mode]["linearized"]
        found = t5.modality.accuracies(t5.theta0, tau, [row.alpha], parts, linearized)
        assert row.value == found["x"][0]


def poisoned(tmp_path, split, value):
    """The arguments of addition where all answers of a split are others."""
    arguments = tiny_texts.common("nonlinear")
    heads = []
    for task, head in zip(arguments["tasks"], arguments["heads"], strict=True):
        from safetensors import safe_open
        from safetensors.numpy import load_file, save_file

        tensors = load_file(head)
        with safe_open(head, "np") as file:
            about = file.metadata()
        target = f"{split}.target"
        tensors[target] = value(tensors[target], len(tensors["words"]))
        if f"{split}.score" in tensors:
            tensors[f"{split}.score"] = -tensors[f"{split}.score"]
        heads.append(tmp_path / f"{split}-{task}.safetensors")
        save_file(tensors, heads[-1], about)
    return {**arguments, "heads": heads}


def test_poisoned_test_answers_change_alpha_only_under_reference_selection(tmp_path):
    flipped = poisoned(tmp_path, "test", lambda target, words: (words - 1 - target).astype("int32"))
    plain = addition(tmp_path)
    assert chosen_alpha(addition(tmp_path, arguments=flipped)) == chosen_alpha(plain)
    reference = addition(tmp_path, reference_selection=True)
    spoilt = addition(tmp_path, arguments=flipped, reference_selection=True)
    assert chosen_alpha(spoilt) != chosen_alpha(reference)
    one, other = (rows[rows.split == "validation"] for rows in (plain, reference))
    assert one.value.tolist() == other.value.tolist()


def test_reference_selection_takes_the_best_mean_on_test(tmp_path):
    rows = addition(tmp_path, reference_selection=True)
    t5 = encoder()
    tau = sum(read_vector(tiny_texts.vector("nonlinear", t)) for t in tiny_texts.TASKS)
    grid = [0.0, 0.25, 0.5, 0.75, 1.0]
    parts = {task: examples(task, "test") for task in tiny_texts.TASKS}
    found = t5.modality.accuracies(t5.theta0, tau, grid, parts, False)
    mean = sum(found.values())
    assert chosen_alpha(rows) == grid[int(np.argmax(mean))]


def test_validation_answers_do_change_alpha(tmp_path):
    flipped = poisoned(
        tmp_path, "validation", lambda target, words: (words - 1 - target).astype("int32")
    )
    assert chosen_alpha(addition(tmp_path)) != chosen_alpha(addition(tmp_path, arguments=flipped))


@pytest.mark.parametrize("value", [0.0, -0.2])
def test_a_task_whose_individual_model_scores_nothing_has_no_normalized_accuracy(value, tmp_path):
    """α is then chosen by the others; by accuracy, if there are none."""
    every = addition(tmp_path, "ntk")
    found = {}
    for failed in (["alike"], ["mood", "alike"]):
        rows = [
            {"task": t, "split": s, "alpha": 1.0, "value": value if t in failed else 0.5}
            for t in tiny_texts.TASKS
            for s in ("validation", "test")
        ]
        own = {"encoder": "tiny", "mode": "ntk", "seed": 0, "metric": "single_task_accuracy"}
        write_rows(tmp_path / "own.csv", rows, **own)  # each task's rows are found in it
        module.addition(
            **tiny_texts.common("ntk"),
            single_task=[tmp_path / "own.csv"] * 2,
            settings={**EVALUATION, "alphas": GRID, "linearized": True},
            output=tmp_path / "a.csv",
        )
        found[len(failed)] = tiny.frame_of(tmp_path / "a.csv")
    curve = every[(every.split == "validation") & (every.metric == "unified_accuracy")]
    mood = curve[curve.task == "mood"].set_index("alpha").value
    assert set(found[1][found[1].metric == "normalized_accuracy"].task) == {"mood"}
    assert chosen_alpha(found[1]) == mood.idxmax()
    assert set(found[2].metric) == {"unified_accuracy"}
    assert chosen_alpha(found[2]) == curve.groupby("alpha").value.mean().idxmax()


def test_on_images_an_accuracy_of_0_stays_an_error():
    assert language.Language.may_fail and not vision.Vision.may_fail


def test_cosines_of_t5s_task_vectors(tmp_path):
    arguments = tiny_texts.common("attention")
    cosine(**{k: arguments[k] for k in ("encoder", "mode", "seed", "tasks", "vectors")},
           output=tmp_path / "a.csv")  # fmt: skip
    one, two = (read_vector(path) for path in arguments["vectors"])
    value = tiny.frame_of(tmp_path / "a.csv").set_index(["task", "other_task"]).value
    assert value["mood", "alike"] == pytest.approx(one.cosine(two), abs=1e-6)


def test_the_costs_of_a_step_are_measured_for_a_t5_too(tmp_path):
    every, counts = tiny_texts.suite(), {}
    total = sum(tensor.numel() for tensor in encoder().theta0.values())
    for mode in tiny_texts.MODES:
        efficiency(
            every["encoder_dir"],
            encoder="tiny",
            mode=mode,
            head=every["heads"][0],
            data_dir=every["data_dirs"][0],
            settings={**tiny_texts.settings(mode), "efficiency": {"steps": 2}},
            output=tmp_path / f"{mode}.csv",
        )
        found = tiny.frame_of(tmp_path / f"{mode}.csv").set_index("metric").value
        assert found["step_seconds"] > 0 and found["peak_memory_bytes"] > 0
        counts[mode] = (found["trained_parameters"], found["held_parameters"])
    assert counts["nonlinear"] == (total, total)
    assert counts["ntk"] == (total, 2 * total)
    assert counts["attention"] == (18 * 24 * 24, total)  # q, k, v of 2 + 2 · 2 attentions


def test_tokens_of_another_encoder_are_refused(tmp_path):
    folder = tmp_path / "encoder"
    shutil.copytree(tiny_texts.suite()["encoder_dir"], folder)
    about = json.loads((folder / "encoder.json").read_text())
    del about["seal"]
    write_json(folder / "encoder.json", sealed({**about, "name": "other"}))
    arguments = {**tiny_texts.common(), "encoder_dir": folder}
    with pytest.raises(UserError, match="of another encoder"):
        tiny.each(pretrained, arguments, tmp_path / "a.csv", settings=EVALUATION)


def test_bf16_is_for_the_passes_alone():
    t5, tau = encoder(), read_vector(tiny_texts.vector("ntk", "mood"))
    parts = {"x": examples("mood", "test")}
    exact, rounded = (
        t5.modality.accuracies(t5.theta0, tau, [1.0], parts, True, precision)["x"][0]
        for precision in ("float32", "bf16")
    )
    assert abs(exact - rounded) < 0.15
    how = TrainingSettings.of({**tiny_texts.settings("ntk"), "precision": "bf16"})
    run = start(t5, examples("mood"), how, "ntk")
    batch = t5.modality.read_batch(examples("mood"), 0, 0, how.finetune)
    loss = run.step(*batch, 1e-3)
    assert np.isfinite(loss)
    assert all(t.grad.dtype == t.dtype == torch.float32 for t in run.theta.values())


def test_an_answer_ends_at_its_end_whatever_a_tokenizer_takes_for_special(tmp_path):
    folder = tmp_path / "encoder"
    shutil.copytree(tiny_texts.suite()["encoder_dir"], folder)
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace('"special":true', '"special":false').replace(
        '"special": true', '"special": false'))  # fmt: skip
    modality = encoder().modality
    plain = modality.decoder()
    other = replace(modality, folder=folder, tokenizer_sha256=sha256_of_file(path)).decoder()
    answers = [(14, 1, 0, 0), (14, 1, 14), (1, 0), (14, 15)]
    assert [other(x) for x in answers] == [plain(x) for x in answers]
    assert plain((14, 1, 14)) == plain((14,)) != ""


def test_logits_are_float32_whatever_the_precision():
    theta0, modality = encoder().theta0, encoder().modality
    batch = modality.read_batch(examples("mood"), 0, 0, Recipe(**tiny_texts.RECIPE))
    tau = read_vector(tiny_texts.vector("ntk", "mood")).tensors
    with torch.autocast("cpu", torch.bfloat16):
        found = [
            modality.outputs(theta0, *batch),
            *modality.outputs_linearized(theta0, tau, *batch),
        ]
    assert {tensor.dtype for tensor in found} == {torch.float32}
    exact = modality.outputs(theta0, *batch)
    assert not torch.equal(found[0], exact) and tiny.close(found[0], exact) < 0.1
