"""Reads and writes the `config.json` of GPT-2 checkpoints."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fpt.errors import UserError
from fpt.gpt2 import GPT2

# Attention that the body does not compute: key of config.json -> its value in GPT-2 itself.
REFUSED = {"scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False,
           "scale_attn_weights": True}
# What nearly every config.json states, and the types of it.
PLAIN = {
    "n_layer": int, "n_embd": int, "n_head": int, "n_positions": int, "vocab_size": int,
    "activation_function": str, "layer_norm_epsilon": int | float, "embd_pdrop": int | float,
    "attn_pdrop": int | float, "resid_pdrop": int | float,
}
# Names that transformers also knows for some of it.
OTHER_NAMES = {"num_hidden_layers", "hidden_size", "num_attention_heads", "max_position_embeddings"}


def read_geometry(path: Path) -> GPT2:
    """Reads the body that a GPT-2 `config.json` describes.

    Raises UserError for a file that is missing or not JSON, for another architecture, and for
    attention that the body does not compute.
    """
    try:
        stated = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"no config.json in {path.parent}; a checkpoint is config.json and "
                        "model.safetensors") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not readable as JSON ({error}); fetch the checkpoint "
                        "again") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; make it readable") from None
    if not isinstance(stated, dict) or stated.get("model_type", "gpt2") != "gpt2":
        kind = stated.get("model_type") if isinstance(stated, dict) else type(stated).__name__
        raise UserError(f"{path} describes {kind!r}; only GPT-2 checkpoints can be loaded")
    config = _parsed(stated, path)
    for key, ours in REFUSED.items():
        if getattr(config, key, ours) != ours:
            raise UserError(f"{path}: {key}={getattr(config, key)!r} is not implemented; only "
                            f"{ours!r} is")
    try:
        return GPT2(
            layers=config.n_layer, width=config.n_embd, heads=config.n_head,
            positions=config.n_positions, inner=getattr(config, "n_inner", None),
            vocabulary=config.vocab_size, activation=config.activation_function,
            epsilon=config.layer_norm_epsilon, embedding_dropout=config.embd_pdrop,
            attention_dropout=config.attn_pdrop, residual_dropout=config.resid_pdrop)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _parsed(stated: dict, path: Path) -> Any:
    """Gives a configuration's values as attributes, those that it leaves out as transformers does.

    To import transformers takes a third of the time to a run's first step: it is left to
    configurations that leave something out, or use another name for it.
    """
    plain = all(isinstance(stated.get(key), kind) for key, kind in PLAIN.items())
    if plain and not stated.keys() & OTHER_NAMES:
        return SimpleNamespace(**stated)
    # Without torch, transformers says on import that it has no models: of no concern to a reader.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers import GPT2Config

    try:
        return GPT2Config.from_dict(stated)
    except Exception as error:  # transformers checks types in a way of its own, over several lines
        said = " ".join(str(error).split())
        raise UserError(f"{path} is not a GPT-2 configuration: {said}") from error


def write_geometry(geometry: GPT2) -> dict:
    """Makes the content of a `config.json` from which transformers reads this body."""
    return {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_layer": geometry.layers,
        "n_embd": geometry.width, "n_head": geometry.heads, "n_positions": geometry.positions,
        "n_inner": geometry.inner, "vocab_size": geometry.vocabulary,
        "activation_function": geometry.activation, "layer_norm_epsilon": geometry.epsilon,
        "embd_pdrop": geometry.embedding_dropout, "attn_pdrop": geometry.attention_dropout,
        "resid_pdrop": geometry.residual_dropout, "bos_token_id": None, "eos_token_id": None,
    }
