"""Makes up runs as studies record them."""

import json


def run(accuracies=(0.5, 0.8), test=0.8, floor=0.51, task="bit-memory", loss=0.3, **settings):
    """Makes a run from its accuracies on validation, ten steps apart, and that on test."""
    config = {"task": task, "sizes": {"bits": 4}, "body": "bodies/tiny", "load": "body",
              "train": "fpt", "lr": 1e-3, "seed": 0, "birth": "weights",
              "steps": 10 * (len(accuracies) - 1), "batch": 2} | settings
    curve = [{"step": 10 * number,
              "validation": {"accuracy": value, "slices": {"hidden": value / 2}}}
             for number, value in enumerate(accuracies)]
    result = {"floors": {"majority": floor, "hidden/vote": 0.69},
              "validation": {"accuracy": max(accuracies), "loss": loss},
              "test": {"accuracy": test, "slices": {"hidden": test / 2}}}
    name = "-".join(map(str, config.values()))
    return {"run": name, "config": config, "curve": curve, "result": result}


def leave(out, made, *missing):
    """Writes the folder of a made-up run as training leaves it, and returns the folder.

    missing: the names of files that are not written.
    """
    folder = out / made["run"].replace("/", "-")
    folder.mkdir(parents=True)
    files = {"config.json": json.dumps(made["config"]), "result.json": json.dumps(made["result"]),
             "metrics.jsonl": "".join(json.dumps(line) + "\n" for line in made["curve"])}
    for name in files.keys() - {*missing}:
        (folder / name).write_text(files[name])
    return folder
