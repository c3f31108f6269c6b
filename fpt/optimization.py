"""Turns a gradient into a step: clipping, the optimiser, weight decay and the learning rate.

The paper uses Adam at a constant rate after clipping; the rest is for pretraining a body.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from fpt import roles
from fpt.body import Table
from fpt.config import Config
from fpt.errors import UserError
from fpt.muon import scale_by_muon


def transformation(config: Config, table: Table) -> optax.GradientTransformation:
    """Makes the transformation from gradients by name to updates, which a run's rate multiplies.

    The gradient of all trained parameters is clipped by its joint norm.  adam: as torch computes
    it; AdamW (Loshchilov & Hutter 2019) where weights decay.  muon: Muon for
    the matrices of the blocks, the only weights that decay, and Adam with Nesterov's momentum for
    all else.
    """
    matrices = lambda values: {name: table[name].matrix for name in values}
    if config.optimizer == "muon":
        labels = lambda values: {name: "matrix" if matrix else "other"
                                 for name, matrix in matrices(values).items()}
        decayed = optax.chain(scale_by_muon(), optax.add_decayed_weights(config.weight_decay))
        others = optax.scale_by_adam(nesterov=True)
        optimizer = optax.partition({"matrix": decayed, "other": others}, labels)
    elif config.weight_decay:
        decay = optax.add_decayed_weights(config.weight_decay, matrices)
        optimizer = optax.chain(optax.scale_by_adam(), decay)
    else:
        optimizer = optax.scale_by_adam()
    chained = optax.chain(optax.clip_by_global_norm(config.clip), optimizer)

    def update(*arguments):
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer's power
            return chained.update(*arguments)

    return optax.GradientTransformation(chained.init, update)


def schedule(config: Config, step):
    """Computes the share of a run's learning rate that step number `step`, from 0 on, takes."""
    warm = jnp.minimum(1.0, (step + 1) / (config.warmup + 1))
    if config.decay == "constant":
        return warm
    progress = jnp.maximum(step - config.warmup, 0) / max(1, config.steps - config.warmup)
    return warm * 0.5 * (1 + jnp.cos(jnp.pi * progress))


def rates(config: Config, table: Table) -> dict[str, float]:
    """Computes the learning rate of each trained parameter, `lr` times its factor in `--rates`.

    Of several factors for a parameter the last one holds; without any it is 1.
    Raises UserError for a factor that applies to no parameter that is trained.
    """
    found = dict.fromkeys(roles.parse(config.train).among(table), config.lr)
    for chosen, factor in roles.factors(config.rates):
        names = [name for name in chosen.among(table) if name in found]
        if not names:
            raise UserError(f"--rates {chosen.text}={factor:g}: --train {config.train} trains no "
                            "such parameter; leave the factor out, or train these roles")
        found |= dict.fromkeys(names, config.lr * factor)
    return found
