"""How a gradient becomes a step: clipping, the optimiser, weight decay, and the rate over the course of a run.

The paper's is Adam at a constant rate after clipping; the rest is for pretraining a body.
"""

from __future__ import annotations

import jax.numpy as jnp
import optax
import optax.contrib

from fpt.config import Config


def transformation(config: Config) -> optax.GradientTransformation:
    """Gradients by name -> what is multiplied with a run's rate and subtracted.

    The gradient of all trainables is clipped by its joint norm.  adam: as torch computes it; AdamW (Loshchilov & Hutter
    2019) where weights decay.  muon: the matrices of the blocks by Muon (Jordan et al. 2024), each step of the size
    that Adam's would have (Liu et al. 2025), all else by Adam with Nesterov's momentum, as optax has it.
    """
    if config.optimizer == "muon":
        optimizer = optax.contrib.muon(learning_rate=-1.0, weight_decay=config.weight_decay, consistent_rms=0.2,
                                       muon_weight_dimension_numbers=_dimension_numbers)
    elif config.weight_decay:
        optimizer = optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(config.weight_decay, _matrices))
    else:
        optimizer = optax.scale_by_adam()
    return optax.chain(optax.clip_by_global_norm(config.clip), optimizer)


def rate_factor(config: Config, step):
    """The share of a run's rate that step number `step`, from 0 on, takes."""
    warm = jnp.minimum(1.0, (step + 1) / (config.warmup + 1))
    if config.decay == "constant":
        return warm
    progress = jnp.maximum(step - config.warmup, 0) / max(1, config.steps - config.warmup)
    return warm * 0.5 * (1 + jnp.cos(jnp.pi * progress))


def _matrices(values: dict) -> dict[str, bool]:
    """Which parameters are matrices of the blocks: these decay, and these Muon moves."""
    return {name: name.startswith("body/h_") and name.endswith("/kernel") for name in values}


def _dimension_numbers(values: dict) -> dict:
    return {name: optax.contrib.MuonDimensionNumbers() if matrix else None for name, matrix in _matrices(values).items()}
