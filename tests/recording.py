"""Runs as studies record them, made up."""


def run(accuracies=(0.5, 0.8), test=0.8, floor=0.51, task="bit-memory", loss=0.3, **settings):
    """A run by its accuracies on validation, ten steps apart, and that on test."""
    config = {"task": task, "sizes": {"bits": 4}, "body": "bodies/tiny", "load": "body", "train": "fpt", "lr": 1e-3, "seed": 0,
              "birth": "weights", "steps": 10 * (len(accuracies) - 1), "batch": 2} | settings
    curve = [{"step": 10 * number, "validation": {"accuracy": value, "slices": {"hidden": value / 2}}}
             for number, value in enumerate(accuracies)]
    result = {"floors": {"majority": floor, "hidden/vote": 0.69}, "validation": {"accuracy": max(accuracies), "loss": loss},
              "test": {"accuracy": test, "slices": {"hidden": test / 2}}}
    return {"run": "-".join(map(str, config.values())), "config": config, "curve": curve, "result": result}
