"""What a body is: the geometries by name, those with weights in the package, and what a checkpoint's configuration states."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fpt.errors import UserError, nearest

# Beyond these a number is a mistake, and one that takes long to fail.
MOST = {"layers": 1_000, "width": 2**17, "heads": 2**12, "positions": 2**22, "inner": 2**20, "vocabulary": 2**24}
ACTIVATIONS = ("gelu_new", "gelu", "relu", "silu")


@dataclass(frozen=True)
class Geometry:
    """The shape of a GPT-2 body, and what of its configuration changes what it computes."""

    layers: int
    width: int
    heads: int
    positions: int = 1024
    inner: int | None = None  # width of the feed-forward layer; None: four times the width
    vocabulary: int = 50_257  # rows of the token table: counted, and held only where the role `token` is
    activation: str = "gelu_new"
    epsilon: float = 1e-5
    embedding_dropout: float = 0.1
    attention_dropout: float = 0.1
    residual_dropout: float = 0.1

    def __post_init__(self):
        """Raises UserError for what no body can be."""
        for name in ("layers", "width", "heads", "positions", "inner", "vocabulary"):
            value = getattr(self, name)
            if not (isinstance(value, int) and 0 < value <= MOST[name]) and not (name == "inner" and value is None):
                raise UserError(f"a body's {name} must be a whole number from 1 to {MOST[name]:,}, not {value!r}")
        for name in ("embedding_dropout", "attention_dropout", "residual_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"a body's {name.replace('_', ' ')} must be at least 0 and below 1, not {getattr(self, name)!r}")
        if not 0 < self.epsilon < 1:
            raise UserError(f"a body's epsilon must be above 0 and below 1, not {self.epsilon!r}")
        if self.width % self.heads:
            raise UserError(f"a body's width must be a multiple of its heads, not {self.width} with {self.heads}")
        if self.activation not in ACTIVATIONS:
            raise nearest(self.activation, ACTIVATIONS, "activation")
        if self.inner is None:
            object.__setattr__(self, "inner", 4 * self.width)


GEOMETRIES = {
    "gpt2-mini": Geometry(layers=6, width=256, heads=8, vocabulary=8_192),
    "gpt2": Geometry(layers=12, width=768, heads=12),
    "gpt2-medium": Geometry(layers=24, width=1024, heads=16),
    "gpt2-large": Geometry(layers=36, width=1280, heads=20),
    "gpt2-xl": Geometry(layers=48, width=1600, heads=25),
}

SHIPPED = Path(__file__).parent / "weights"

# Attention that this body does not compute: key of config.json -> the value that GPT-2's own attention has.
REFUSED = {"scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False, "scale_attn_weights": True}


def weights_digest(digests: Iterable[str]) -> str:
    """Identifies weights by the sha256 of each of their files, in order of name: 32 hex digits."""
    return hashlib.sha256("".join(digests).encode()).hexdigest()[:32]


def shipped() -> list[str]:
    """The names of the bodies whose weights come with the package."""
    return sorted(file.parent.name for file in SHIPPED.glob("*/config.json"))


def read_geometry(path: Path) -> Geometry:
    """The geometry stated by a GPT-2 `config.json`, read through transformers' GPT2Config.

    Raises UserError for a file that is missing or not JSON, another architecture, and attention that we do not implement.
    """
    # Without torch it says on import that models won't be available: nothing that concerns who reads a configuration.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers import GPT2Config

    try:
        stated = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"no config.json in {path.parent}; a checkpoint is config.json and model.safetensors") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not readable as JSON ({error}); fetch the checkpoint again") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; make it readable") from None
    if not isinstance(stated, dict) or stated.get("model_type", "gpt2") != "gpt2":
        kind = stated.get("model_type") if isinstance(stated, dict) else type(stated).__name__
        raise UserError(f"{path} describes {kind!r}; only GPT-2 checkpoints can be loaded")
    try:
        config = GPT2Config.from_dict(stated)
    except Exception as error:  # transformers checks types in a way of its own, over several lines
        raise UserError(f"{path} is not a GPT-2 configuration: {' '.join(str(error).split())}") from error
    for key, ours in REFUSED.items():
        if getattr(config, key, ours) != ours:
            raise UserError(f"{path}: {key}={getattr(config, key)!r} is not implemented; only {ours!r} is")
    try:
        return Geometry(
            layers=config.n_layer, width=config.n_embd, heads=config.n_head, positions=config.n_positions,
            inner=config.n_inner, vocabulary=config.vocab_size, activation=config.activation_function,
            epsilon=config.layer_norm_epsilon, embedding_dropout=config.embd_pdrop,
            attention_dropout=config.attn_pdrop, residual_dropout=config.resid_pdrop,
        )
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def write_geometry(geometry: Geometry) -> dict:
    """The content of a `config.json` that transformers reads back as this geometry."""
    return {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_layer": geometry.layers,
        "n_embd": geometry.width, "n_head": geometry.heads, "n_positions": geometry.positions, "n_inner": geometry.inner,
        "vocab_size": geometry.vocabulary, "activation_function": geometry.activation,
        "layer_norm_epsilon": geometry.epsilon, "embd_pdrop": geometry.embedding_dropout,
        "attn_pdrop": geometry.attention_dropout, "resid_pdrop": geometry.residual_dropout,
        "bos_token_id": None, "eos_token_id": None,
    }
