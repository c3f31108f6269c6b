"""Checks how a gradient becomes a step: parts of a batch, what is not scored, weight decay,
warm-up, rates by role, and where a batch begins.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from fpt import UserError, train
from fpt.body import Parameter
from fpt.config import Config
from fpt.gpt2 import GPT2
from fpt.initialisers import zeros
from fpt.model import Model, table
from fpt.optimization import schedule, transformation
from fpt.randomness import stream
from fpt.task import UNSCORED, Batch, Split
from fpt.trainer import Trainer
from tasks.bits import BitXor
from tasks.copying import Copying

QUICK = {"xla_backend_optimization_level": 0}  # compiles in a third of the time
TINY = GPT2(layers=1, width=16, heads=2, positions=16, embedding_dropout=0, attention_dropout=0,
            residual_dropout=0)


def trainer_of(geometry=TINY, anywhere=True, **settings):
    """Makes a trainer on copying, and values of its parameters.

    They are drawn wide enough that every term of the arithmetic shows.
    """
    task = Copying(vocabulary=8, context=16, anywhere=anywhere)
    usual = dict(steps=150, batch=16, lr=1e-2, eval_every=1, dropout=0.0)
    config = Config(task, "tiny", train="body+token", load="none", **usual | settings)
    parameters, noise = table(task.interface, geometry), np.random.default_rng(0)
    values = {name: name.endswith("/scale") + 0.2 * noise.standard_normal(one.shape, np.float32)
              for name, one in parameters.items()}
    model = Model(task.interface, geometry, input_dropout=0)
    return Trainer(model, config, parameters, {}, 1), jax.tree.map(jnp.asarray, values)


def logits_of(trainer, values, inputs):
    """Computes a trainer's logits on inputs by the parameters' values, in double precision."""
    nested = {"params": unflatten_dict(values, sep="/")}
    return np.asarray(trainer.model.apply(nested, inputs)[0], np.float64)


@pytest.fixture(scope="module")
def whole():
    """Makes the gradient of a whole batch as a function of its examples, and such examples."""
    trainer, _ = trainer_of()
    batch = trainer.task.draw(None, jax.random.key(0), 0, 16)
    return gradient_of(), Split(*map(np.array, batch[:2]))


def gradient_of(**settings):
    """Makes the gradient of a batch that may begin anywhere, as a function of its examples."""
    trainer, values = trainer_of(**settings)
    compute = lambda split: trainer.gradient(values, {}, Batch(*split, anywhere=True),
                                             jax.random.key(1))
    return jax.jit(compute, compiler_options=QUICK)


def test_the_gradient_of_two_halves_is_that_of_the_whole_batch(whole):
    compute, batch = whole
    (figures, gradient), (found, other) = compute(batch), gradient_of(accumulate=2)(batch)
    np.testing.assert_allclose(found, figures, atol=1e-6)
    for name, value in gradient.items():
        assert np.abs(value).max() > 1e-4, name
        np.testing.assert_allclose(other[name], value, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("answers", [3, 0])
def test_parts_count_by_their_scored_answers(whole, answers):
    """The first half of the examples has few scored answers, or none."""
    compute, (inputs, targets) = whole
    few = (np.arange(16)[:, None] < 8) & (np.arange(16) >= answers)
    batch = Split(inputs, np.where(few, UNSCORED, targets))
    (figures, gradient), (found, other) = compute(batch), gradient_of(accumulate=2)(batch)
    np.testing.assert_allclose(found, figures, atol=1e-6)
    for name, value in gradient.items():
        np.testing.assert_allclose(other[name], value, atol=1e-6, err_msg=name)


def test_what_is_not_scored_has_no_influence(whole):
    compute, (inputs, targets) = whole
    logits = logits_of(*trainer_of(), inputs)
    nats = np.log(np.exp(logits).sum(-1))
    nats -= np.take_along_axis(logits, targets[..., None], -1)[..., 0]
    right, figures = logits.argmax(-1) == targets, compute(Split(inputs, targets))[0]
    np.testing.assert_allclose(figures, (nats.mean(), right.mean()), rtol=1e-5)
    scored = Split(inputs, np.where(np.arange(16) < 10, targets, UNSCORED))
    (loss, accuracy), gradient = compute(scored)
    wanted = nats[:, :10].mean(), right[:, :10].mean()
    np.testing.assert_allclose((loss, accuracy), wanted, rtol=1e-5)
    changed = np.where(np.arange(16) < 10, inputs, (inputs + 3) % 8)
    (again, _), other = compute(scored._replace(inputs=changed))
    assert again == loss
    for name, value in gradient.items():
        np.testing.assert_allclose(other[name], value, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_weight_decay_moves_the_blocks_matrices_and_nothing_else(optimizer):
    trainer, values = trainer_of(optimizer=optimizer, weight_decay=0.5)
    values |= {f"{end}/kernel": jnp.ones((3, 5)) for end in ("input", "output")}
    around = {f"{end}/kernel": Parameter((3, 5), end, zeros, owner="run")
              for end in ("input", "output")}
    moved = transformation(trainer.config, trainer.table | around)
    still = jax.tree.map(jnp.zeros_like, values)
    updates = jax.jit(lambda: moved.update(still, moved.init(values), values)[0])()
    parts = ("attn/c_attn", "attn/c_proj", "mlp/c_fc", "mlp/c_proj")
    matrices = {f"body/h_0/{part}/kernel" for part in parts}
    for name, value in values.items():
        wanted = 0.5 * value if name in matrices else 0 * value
        np.testing.assert_allclose(updates[name], wanted, atol=1e-7, err_msg=name)


def clipped_adam(gradients, clip):
    """Computes what Adam (Kingma & Ba 2015) multiplies with the learning rate, step by step.

    The gradients, by name, are clipped by their joint norm.
    """
    mean = {name: np.zeros(value.shape) for name, value in gradients[0].items()}
    square, steps = dict(mean), []
    for number, gradient in enumerate(gradients, 1):
        squares = (np.square(value, dtype=np.float64).sum() for value in gradient.values())
        share = min(1.0, clip / math.sqrt(sum(squares)))
        taken = {name: share * value for name, value in gradient.items()}
        mean = {name: 0.9 * mean[name] + 0.1 * value for name, value in taken.items()}
        square = {name: 0.999 * square[name] + 0.001 * value**2 for name, value in taken.items()}
        root = {name: np.sqrt(value / (1 - 0.999**number)) for name, value in square.items()}
        steps.append({name: mean[name] / (1 - 0.9**number) / (root[name] + 1e-8) for name in taken})
    return steps


@pytest.mark.parametrize("clip", [1.0, 2.5])
def test_steps_are_adams_after_a_clip_of_the_joint_norm(clip):
    """At the first step, Adam's update does not depend on the gradient's scale, so take several."""
    noise = np.random.default_rng(0)
    # One of them so small that what is added to the root of the second moment shows.
    scales = {"output/kernel": ((4, 3), 1.0), "output/bias": ((3,), 0.5),
              "body/ln_f/bias": ((5,), 1e-8)}
    draw = lambda size: {name: np.float32(size * scale * noise.standard_normal(shape))
                         for name, (shape, scale) in scales.items()}
    gradients = [draw(size) for size in (0.1, 3.0, 0.2, 0.05, 30.0, 0.3)]
    config = Config(Copying(), "tiny", steps=9, batch=1, lr=1.0, eval_every=1, clip=clip)
    moved = transformation(config, {})
    moments = moved.init(gradients[0])
    for gradient, wanted in zip(gradients, clipped_adam(gradients, clip)):
        updates, moments = moved.update(gradient, moments, gradient)
        for name, value in wanted.items():
            np.testing.assert_allclose(updates[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def test_the_rate_rises_and_falls_as_stated():
    cosine = Config(Copying(), "gpt2-mini", steps=20, batch=1, lr=1.0, eval_every=1, warmup=4,
                    decay="cosine")
    factors = [float(schedule(cosine, step)) for step in range(20)]
    np.testing.assert_allclose(factors[:5], [0.2, 0.4, 0.6, 0.8, 1], rtol=1e-6)
    falling = [(1 + math.cos(math.pi * step / 16)) / 2 for step in range(1, 16)]
    np.testing.assert_allclose(factors[5:], falling, rtol=1e-4)
    assert float(schedule(cosine, 20)) == pytest.approx(0, abs=1e-6)
    constant = dataclasses.replace(cosine, decay="constant")
    found = [schedule(constant, step) for step in (0, 4, 19)]
    np.testing.assert_allclose(found, [0.2, 1, 1], rtol=1e-6)
    assert float(schedule(dataclasses.replace(constant, warmup=0), 0)) == 1


# Factors of the rate


def first(tree):
    """Takes the first run of a stack."""
    return jax.tree.map(lambda leaf: leaf[0], tree)


def test_each_parameter_moves_at_the_rate_of_its_role():
    """Over steps of Adam by hand, some of them clipped; of several factors the last one applies."""
    trainer, values = trainer_of(dataclasses.replace(TINY, layers=2), anywhere=False, lr=3e-2,
                                 clip=2.5, rates=("norm=0.5", "attention=2", "attention@1=0.1"))
    factors = {"norm": (0.5, 0.5), "attention": (2, 0.1)}
    rate = {name: 3e-2 * factors.get(one.role, (1, 1))[one.layer or 0]
            for name, one in trainer.table.items()}
    condition = first(trainer.condition([trainer.config]))
    state = first(trainer.begin({name: value[None] for name, value in values.items()}))
    step = jax.jit(lambda state, number: trainer.step({}, None, condition, state, number),
                   compiler_options=QUICK)
    slope = jax.grad(lambda at, split: trainer.loss(at, {}, Batch(*split))[0])
    slope = jax.jit(slope, compiler_options=QUICK)
    gradients, by_hand = [], {name: np.float64(value) for name, value in values.items()}
    for number in range(4):
        batch = trainer.task.draw(None, stream(condition.key, "data"), number, 16)
        at = {name: np.float32(value) for name, value in by_hand.items()}
        gradients.append(jax.tree.map(np.asarray, slope(at, batch[:2])))
        moved = clipped_adam(gradients, 2.5)[-1]
        by_hand = {name: by_hand[name] - rate[name] * moved[name] for name in rate}
        state = step(state, number)
    norms = [math.sqrt(sum(np.sum(value**2) for value in one.values())) for one in gradients]
    assert min(norms) < 2.5 < max(norms)
    for name, value in state.trainable.items():
        # Adam divides by the gradient's size: where that is rounding alone, so is the step.
        known = np.min([np.abs(gradient[name]) for gradient in gradients], axis=0) > 1e-4
        assert known.mean() > 0.2, name
        np.testing.assert_allclose((value - values[name])[known] / rate[name],
                                   (by_hand[name] - values[name])[known] / rate[name],
                                   rtol=1e-2, atol=1e-2, err_msg=name)


@pytest.mark.parametrize("trained, rates, said", [
    ("norm", "input=0.1", "--rates input=0.1: --train norm trains no such parameter"),
    ("output", "body=0.5", "--rates body=0.5: --train output trains no such parameter"),
    ("fpt", "attention@0=0.1", "--rates attention@0=0.1: --train fpt trains no such parameter"),
    ("fpt", "norm@2=0.1", "norm@2-2 goes beyond the body's layers, 0 to 1"),
    ("all", "token=0.1", "no parameter here has the role token"),
])
def test_a_factor_of_what_is_not_trained_is_refused_before_training(
        tiny_folder, tmp_path, trained, rates, said):
    config = Config(BitXor(bits=3), str(tiny_folder), steps=1, batch=1, lr=1e-3, eval_every=1,
                    train=trained, rates=(rates,))
    with pytest.raises(UserError, match=said):
        train(config, tmp_path / "runs", quiet=True)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("text", ["norm", "norm=", "norm=x", "norm=0", "norm=-1", "norm=inf",
                                  "norm=nan", "=0.1", "norm:0.1", ""])
def test_a_factor_that_cannot_be_read_is_refused(text):
    with pytest.raises(UserError, match="--rates takes a role and a positive factor"):
        Config(BitXor(), "tiny", steps=1, batch=1, lr=1, eval_every=1, rates=(text,))


def test_a_factor_of_a_role_that_does_not_exist_is_refused():
    with pytest.raises(UserError, match="did you mean 'norm'"):
        Config(BitXor(), "tiny", steps=1, batch=1, lr=1, eval_every=1, rates=("nrm=0.1",))


def test_a_run_without_factors_keeps_the_name_that_it_had():
    """The name was computed by the code before there were factors."""
    body = GPT2(layers=2, width=32, heads=4, positions=64, vocabulary=11)
    config = Config(BitXor(bits=6), "tiny", steps=10, batch=4, lr=1e-3, eval_every=5, seed=3,
                    geometry=body, load="none")
    assert config.name == "bit-xor-tiny-fpt-lr0.001-seed3-8eb360c8"
    assert dataclasses.replace(config, rates=("norm=0.1",)).name != config.name


# Training on copying


@pytest.fixture(scope="module", params=["adam", "muon"])
def trained(request):
    """Trains with one optimiser.

    Gives its name; the parameters before, after one step and at the end; and the mean losses of the
    first ten steps and of the last ten.
    """
    trainer, values = trainer_of(dataclasses.replace(TINY, positions=19), weight_decay=0.1,
                                 optimizer=request.param, warmup=9, decay="cosine")
    condition = first(trainer.condition([trainer.config]))
    step_once = lambda number, state: trainer.step({}, None, condition, state, number)
    steps = lambda state, start, count: jax.lax.fori_loop(start, start + count, step_once, state)
    advance = jax.jit(steps, compiler_options=QUICK)
    state = first(trainer.begin({name: value[None] for name, value in values.items()}))
    seen, losses, step = [values], [], 0
    for count in (1, 9, 130, 10):
        state = advance(state._replace(loss=jnp.zeros(())), step, count)
        step += count
        seen.append(state.trainable)
        losses.append(float(state.loss) / count)
    return request.param, seen[0], seen[1], seen[-1], losses[1], losses[-1]


def test_steps_are_finite_and_the_loss_falls(trained):
    *_, after, before, last = trained
    assert all(np.isfinite(value).all() for value in after.values())
    assert last < before - 0.2


def test_the_first_step_takes_the_share_of_the_rate_that_warmup_leaves(trained):
    """Also of Muon, whose step has a fifth of the rate in the mean.

    Its Adam, with Nesterov's momentum, begins with more.
    """
    optimizer, before, after, *_ = trained
    moved = {name: after[name] - before[name] for name in before}
    for name in ("body/wpe", "token/embedding", "body/ln_f/scale"):
        most = 1.05 if optimizer == "adam" else 1.5
        assert 0.95 < np.abs(moved[name]).max() / 1e-3 < most, name
    for name in ("body/h_0/attn/c_attn/kernel", "body/h_0/mlp/c_proj/kernel"):
        size = np.sqrt((moved[name] ** 2).mean()) / 1e-3
        assert 0.9 < size < 1.1 if optimizer == "adam" else 0.15 < size < 0.25, name


def test_every_row_of_the_position_table_is_trained(trained):
    _, before, _, after, *_ = trained
    moved = np.abs(after["body/wpe"] - before["body/wpe"]).max(1)
    assert (moved > 1e-4).all() and len(moved) == 19


def test_rows_of_the_position_table_are_trained_about_alike():
    trainer, values = trainer_of(dataclasses.replace(TINY, positions=48))
    batch = trainer.task.draw(None, jax.random.key(0), 0, 1)
    keys = jax.random.split(jax.random.key(2), 600)
    wpe, slope = {"body/wpe": values.pop("body/wpe")}, jax.grad(trainer.loss, has_aux=True)
    reached = lambda key: (slope(wpe, values, batch, key)[0]["body/wpe"] != 0).any(1)
    share = np.asarray(jax.jit(jax.vmap(reached), compiler_options=QUICK)(keys)).mean(0)
    assert share.max() < 3 * share.min()


def test_a_task_that_begins_at_the_first_position_leaves_the_later_rows_alone():
    trainer, values = trainer_of(dataclasses.replace(TINY, positions=48), anywhere=False)
    batch = trainer.task.draw(None, jax.random.key(0), 0, 1)
    wpe, slope = {"body/wpe": values.pop("body/wpe")}, jax.grad(trainer.loss, has_aux=True)
    gradient = slope(wpe, values, batch, jax.random.key(1))[0]["body/wpe"]
    assert np.array_equal(np.asarray(gradient != 0).any(1), np.arange(48) < 16)
