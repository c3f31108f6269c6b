"""Offers frozen pretrained transformers: `from fpt import Config, load_body, load_run, train`."""

__all__ = ["Config", "UserError", "load_body", "load_run", "train"]

_HOMES = {"Config": "config", "UserError": "errors", "load_body": "load", "load_run": "load",
          "train": "run"}


def __getattr__(name: str):
    """Imports a public name when it is used, so that the commands print their help without jax."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fpt' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"fpt.{_HOMES[name]}"), name)
