"""Runs this project's half of a benchmark in a process of its own.

It trains the number of steps that each line of standard input asks for, and prints the seconds a
step took (`benchmark_torch.serve`).  Its argument is a `benchmark.Work` as JSON.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

import tasks
from fpt import machine
from fpt.config import Config
from fpt.gpt2 import BODIES
from fpt.layers import precision
from fpt.parameters import Source, model_of
from fpt.task import Split
from fpt.trainer import Trainer
from scripts.benchmark import Work
from scripts.benchmark_torch import host_peak, serve

# Of the matrices whose product gives the peak rate, so large that it is not the call that is timed.
SIDES = {"cpu": 2_048, "other": 8_192}


def matmul_rate(dtype) -> float:
    """Measures the FLOP/s of a large matrix product with a float32 result: the best of several."""
    side = machine.by_device(**SIDES)
    left, right = (jax.random.normal(jax.random.key(n), (side, side), dtype) for n in range(2))
    product = jax.jit(lambda a, b: jnp.matmul(a, b, precision=precision(dtype),
                                              preferred_element_type=jnp.float32))
    jax.block_until_ready(product(left, right))
    best = float("inf")
    for _ in range(12):
        begun = time.perf_counter()
        jax.block_until_ready(product(left, right))
        best = min(best, time.perf_counter() - begun)
    return 2 * side**3 / best


def peak_bytes() -> int:
    """Measures the most memory in bytes that this process has had on the device."""
    stated = jax.devices()[0].memory_stats() or {}
    return stated.get("peak_bytes_in_use") or host_peak()


def main() -> None:
    work = Work(**json.loads(sys.argv[1]))
    task, runs, geometry = tasks.find(work.task)(), work.runs, BODIES[work.body]
    # As `fpt.parameters.resolve` would leave it, without a look for weights.
    if task.interface.tied:
        geometry = dataclasses.replace(geometry, embedding_dropout=0.0, attention_dropout=0.0,
                                       residual_dropout=0.0)
    asked = {"optimizer": work.optimizer} if work.optimizer else {}
    config = Config.preset(task, body=work.body, batch=work.batch, load="none", body_seed=0,
                           dtype=work.dtype, geometry=geometry, **asked)
    config = dataclasses.replace(config, task=task, dropout=0.1)  # at its published sizes
    model = model_of(config)
    reached = None if task.interface.tied else task.interface.tokens
    source = Source(config, None, reached=reached)
    trainable, frozen = source.stack([config] * runs)
    train, noise = None, np.random.default_rng(0)
    if work.task == "language":
        train = Split(jnp.asarray(noise.integers(0, task.vocabulary, 1_000_000, np.uint16)), None)
    if work.task == "cifar10":  # what the pixels show does not change how long they take
        train = Split(jnp.asarray(noise.integers(0, 256, (1_000, 32, 32, 3), np.uint8)),
                      jnp.asarray(noise.integers(0, 10, (1_000, 1), np.int32)))
    configs = [dataclasses.replace(config, seed=seed) for seed in range(runs)]
    trainer = Trainer(model, config, source.table, source.axes(runs), runs)
    condition = trainer.condition(configs)
    state, done = trainer.begin(trainable), 0
    del trainable
    advance = trainer.compile(frozen, train, condition, state)

    def steps(count: int) -> None:
        nonlocal state, done
        state = advance(frozen, train, condition, state, np.int32(done), np.int32(count))
        done += count
        np.asarray(state.loss)

    steps(1)
    ready = {"first_step_at": time.time(), "device": machine.device(),
             "platform": jax.default_backend(), "software": f"jax {jax.__version__}"}
    serve(steps, ready | {"matmul": matmul_rate(jnp.dtype(work.dtype))}, peak_bytes)


if __name__ == "__main__":
    main()
