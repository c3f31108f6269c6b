"""How a gradient becomes a step: parts of a batch, what is not scored, decay, warm-up, and where a batch begins."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fpt.gpt2 import GPT2
from fpt.config import Config
from fpt.model import build, shapes_of
from fpt.optimization import rate_factor, transformation
from fpt.task import UNSCORED, Batch, Split
from fpt.trainer import Condition, Trainer, restart
from tasks.copying import Copying

QUICK = {"xla_backend_optimization_level": 0}  # compiles in a third of the time
TINY = GPT2(layers=1, width=16, heads=2, positions=16, embedding_dropout=0, attention_dropout=0, residual_dropout=0)


def trainer_of(geometry=TINY, anywhere=True, **settings):
    """A trainer on copying, with all that it trains drawn wide enough that every term of the arithmetic shows."""
    task = Copying(vocabulary=8, context=16, anywhere=anywhere, varied=True)
    config = Config(task, "tiny", train="body+token", load="none",
                    **dict(steps=150, batch=16, lr=1e-2, eval_every=1, dropout=0.0) | settings)
    model, draw = build(task, geometry, input_dropout=0), np.random.default_rng(0)
    values = {name: jnp.asarray(name.endswith("/scale") + 0.2 * draw.standard_normal(shape, np.float32))
              for name, shape in shapes_of(model, task).items()}
    return Trainer(model, config, 1, {}), values


@pytest.fixture(scope="module")
def whole():
    """The gradient of a whole batch as a function of it, and the batch."""
    trainer, _ = trainer_of()
    return gradient_of(), Split(*map(np.array, trainer.task.draw(None, jax.random.key(0), 0, 16)[:2]))


def gradient_of(**settings):
    """The gradient of a batch that may begin anywhere, as a function of its examples."""
    trainer, values = trainer_of(**settings)
    compute = lambda split: trainer.gradient(values, {}, Batch(*split, anywhere=True), jax.random.key(1))
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
    trainer, values = trainer_of()
    scores = np.asarray(trainer.model.apply({"params": nested(values)}, inputs)[0], np.float64)
    nats = np.log(np.exp(scores).sum(-1)) - np.take_along_axis(scores, targets[..., None], -1)[..., 0]
    right = scores.argmax(-1) == targets
    np.testing.assert_allclose(compute(Split(inputs, targets))[0], (nats.mean(), right.mean()), rtol=1e-5)
    scored = Split(inputs, np.where(np.arange(16) < 10, targets, UNSCORED))
    (loss, accuracy), gradient = compute(scored)
    np.testing.assert_allclose((loss, accuracy), (nats[:, :10].mean(), right[:, :10].mean()), rtol=1e-5)
    changed = np.where(np.arange(16) < 10, inputs, (inputs + 3) % 8)
    (again, _), other = compute(scored._replace(inputs=changed))
    assert again == loss
    for name, value in gradient.items():
        np.testing.assert_allclose(other[name], value, atol=1e-6, err_msg=name)


def nested(values):
    from flax.traverse_util import unflatten_dict

    return unflatten_dict(values, sep="/")


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_weight_decay_moves_the_blocks_matrices_and_nothing_else(optimizer):
    trainer, values = trainer_of(optimizer=optimizer, weight_decay=0.5)
    values |= {f"{end}/kernel": jnp.ones((3, 5)) for end in ("input", "output")}
    moved = transformation(trainer.config)
    updates = jax.jit(lambda: moved.update(jax.tree.map(jnp.zeros_like, values), moved.init(values), values)[0])()
    matrices = {f"body/h_0/{part}/kernel" for part in ("attn/c_attn", "attn/c_proj", "mlp/c_fc", "mlp/c_proj")}
    for name, value in values.items():
        np.testing.assert_allclose(updates[name], 0.5 * value if name in matrices else 0 * value, atol=1e-7, err_msg=name)


def _clipped_adam(gradients, clip):
    """What Adam (Kingma & Ba 2015) multiplies with the rate, step by step, for gradients clipped by their joint norm."""
    mean = {name: np.zeros(value.shape) for name, value in gradients[0].items()}
    square, steps = dict(mean), []
    for number, gradient in enumerate(gradients, 1):
        norm = math.sqrt(sum(np.square(value, dtype=np.float64).sum() for value in gradient.values()))
        taken = {name: value * min(1.0, clip / norm) for name, value in gradient.items()}
        mean = {name: 0.9 * mean[name] + 0.1 * value for name, value in taken.items()}
        square = {name: 0.999 * square[name] + 0.001 * value**2 for name, value in taken.items()}
        steps.append({name: mean[name] / (1 - 0.9**number) / (np.sqrt(square[name] / (1 - 0.999**number)) + 1e-8)
                      for name in taken})
    return steps


@pytest.mark.parametrize("clip", [1.0, 2.5])
def test_steps_are_adams_after_a_clip_of_the_joint_norm(clip):
    """Over several steps, of which the clip changes some: at the first, Adam's step does not hang on the gradient's scale."""
    noise = np.random.default_rng(0)
    # One of them so small that what is added to the root of the second moment shows.
    shapes = {"output/kernel": ((4, 3), 1.0), "output/bias": ((3,), 0.5), "body/ln_f/bias": ((5,), 1e-8)}
    draw = lambda size: {name: (size * scale * noise.standard_normal(shape)).astype(np.float32)
                         for name, (shape, scale) in shapes.items()}
    gradients = [draw(size) for size in (0.1, 3.0, 0.2, 0.05, 30.0, 0.3)]
    config = Config(Copying(), "tiny", steps=9, batch=1, lr=1.0, eval_every=1, clip=clip)
    moved = transformation(config)
    moments = moved.init(gradients[0])
    for gradient, wanted in zip(gradients, _clipped_adam(gradients, clip)):
        updates, moments = moved.update(gradient, moments, gradient)
        for name, value in wanted.items():
            np.testing.assert_allclose(updates[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def test_the_rate_rises_and_falls_as_stated():
    cosine = Config(Copying(), "gpt2-mini", steps=20, batch=1, lr=1.0, eval_every=1, warmup=4, decay="cosine")
    factors = [float(rate_factor(cosine, step)) for step in range(20)]
    np.testing.assert_allclose(factors[:5], [0.2, 0.4, 0.6, 0.8, 1], rtol=1e-6)
    np.testing.assert_allclose(factors[5:], [(1 + math.cos(math.pi * step / 16)) / 2 for step in range(1, 16)], rtol=1e-4)
    assert float(rate_factor(cosine, 20)) == pytest.approx(0, abs=1e-6)
    constant = dataclasses.replace(cosine, decay="constant")
    np.testing.assert_allclose([rate_factor(constant, step) for step in (0, 4, 19)], [0.2, 1, 1], rtol=1e-6)
    assert float(rate_factor(dataclasses.replace(constant, warmup=0), 0)) == 1


@pytest.fixture(scope="module", params=["adam", "muon"])
def trained(request):
    """Optimiser; before, after one step and at the end: parameters; and mean losses of the first ten steps and the last ten."""
    trainer, values = trainer_of(dataclasses.replace(TINY, positions=19), optimizer=request.param, weight_decay=0.1, warmup=9,
                               decay="cosine")
    condition = Condition(jax.random.key(0), jnp.float32(1e-2))
    step_once = lambda number, state: trainer.step({}, None, condition, state, number)
    advance = jax.jit(lambda state, first, count: jax.lax.fori_loop(first, first + count, step_once, state),
                      compiler_options=QUICK)
    state = jax.tree.map(lambda leaf: leaf[0], trainer.begin({name: value[None] for name, value in values.items()}))
    seen, losses, step = [values], [], 0
    for count in (1, 9, 130, 10):
        state = advance(restart(state), step, count)
        step += count
        seen.append(state.trainable)
        losses.append(float(state.loss) / count)
    return request.param, seen[0], seen[1], seen[-1], losses[1], losses[-1]


def test_steps_are_finite_and_the_loss_falls(trained):
    *_, after, first, last = trained
    assert all(np.isfinite(value).all() for value in after.values())
    assert last < first - 0.2


def test_the_first_step_takes_the_share_of_the_rate_that_warmup_leaves(trained):
    """Also of Muon, whose step has a fifth of the rate in the mean; its Adam, with Nesterov's momentum, begins with more."""
    optimizer, before, after, *_ = trained
    moved = {name: after[name] - before[name] for name in before}
    for name in ("body/wpe", "token/embedding", "body/ln_f/scale"):
        assert 0.95 < np.abs(moved[name]).max() / 1e-3 < (1.05 if optimizer == "adam" else 1.5), name
    for name in ("body/h_0/attn/c_attn/kernel", "body/h_0/mlp/c_proj/kernel"):
        size = np.sqrt((moved[name] ** 2).mean()) / 1e-3
        assert 0.9 < size < 1.1 if optimizer == "adam" else 0.15 < size < 0.25, name


def test_every_row_of_the_position_table_is_trained(trained):
    _, before, _, after, *_ = trained
    assert (np.abs(after["body/wpe"] - before["body/wpe"]).max(1) > 1e-4).all() and len(after["body/wpe"]) == 19


def test_rows_of_the_position_table_are_trained_about_alike():
    trainer, values = trainer_of(dataclasses.replace(TINY, positions=48))
    batch, keys = trainer.task.draw(None, jax.random.key(0), 0, 1), jax.random.split(jax.random.key(2), 600)
    wpe = {"body/wpe": values.pop("body/wpe")}
    reached = lambda key: (jax.grad(trainer.loss, has_aux=True)(wpe, values, batch, key)[0]["body/wpe"] != 0).any(1)
    share = np.asarray(jax.jit(jax.vmap(reached), compiler_options=QUICK)(keys)).mean(0)
    assert share.max() < 3 * share.min()


def test_a_task_that_begins_at_the_first_position_leaves_the_later_rows_alone():
    trainer, values = trainer_of(dataclasses.replace(TINY, positions=48), anywhere=False)
    batch, wpe = trainer.task.draw(None, jax.random.key(0), 0, 1), {"body/wpe": values.pop("body/wpe")}
    gradient = jax.grad(trainer.loss, has_aux=True)(wpe, values, batch, jax.random.key(1))[0]["body/wpe"]
    assert np.array_equal(np.asarray(gradient != 0).any(1), np.arange(48) < 16)
