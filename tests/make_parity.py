"""Makes the arrays that test_parity compares with where torch is not installed: `python -m tests.make_parity`.

For each activation a tiny GPT-2 of transformers with weights drawn by numpy: inputs, the last hidden states, the
attention maps; and for one, a full model's gradients by what is trained, and the values after one clipped Adam step.
Where torch is installed, test_parity also compares several steps of which some are clipped, which one step cannot show:
the first that Adam takes is the same whatever the gradient is scaled by.
"""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from fpt.gpt2 import ACTIVATIONS, GPT2
from fpt.gpt2_config import write_geometry
from fpt.checkpoint import theirs
from fpt.model import body_table

FOLDER = Path(__file__).parent / "parity"
SMALL = {"layers": 2, "width": 16, "heads": 2, "positions": 12, "vocabulary": 3}
BATCH, TOKENS, WIDTH, CLASSES = 3, 7, 5, 4
RATE, FIRST_BATCH = 1e-3, 2


def weights(geometry: Geometry, seed: int = 0) -> dict[str, np.ndarray]:
    """A body in which nothing is near its initialisation, so that every term of the arithmetic shows."""
    draw = np.random.default_rng(seed)
    scale = {"kernel": 1.5 / np.sqrt(geometry.width), "bias": 0.3, "scale": 0.3, "wpe": 0.5}
    return {
        name: ((name.endswith("scale")) + scale[name.rsplit("/", 1)[-1]] * draw.standard_normal(shape)).astype(np.float32)
        for name, shape in body_table(geometry).items()
    }


def ends(geometry: Geometry, seed: int = 1) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    shapes = {"input/kernel": (WIDTH, geometry.width), "input/bias": (geometry.width,),
              "output/kernel": (geometry.width, CLASSES), "output/bias": (CLASSES,)}
    return {name: (0.3 * draw.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}


def batch(seed: int = FIRST_BATCH) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    return draw.standard_normal((BATCH, TOKENS, WIDTH), np.float32), draw.integers(0, CLASSES, (BATCH, 1)).astype(np.int32)


def torch_body(geometry: Geometry, values: dict[str, np.ndarray]):
    """transformers' own GPT-2 with these weights, without dropout."""
    import torch
    from transformers import GPT2Config, GPT2Model

    settings = write_geometry(geometry) | {"embd_pdrop": 0, "attn_pdrop": 0, "resid_pdrop": 0, "bos_token_id": None,
                                           "eos_token_id": None}
    model = GPT2Model(GPT2Config(**settings, attn_implementation="eager"))
    state = {theirs(name): torch.from_numpy(value) for name, value in values.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert set(missing) <= {"wte.weight"} and not unexpected
    return model


def looked_at(geometry: Geometry, values: dict[str, np.ndarray], embeds: np.ndarray) -> dict[str, np.ndarray]:
    """Hidden states [B, T, D] and maps [L, B, H, T, T] as torch computes them."""
    import torch

    with torch.no_grad():
        out = torch_body(geometry, values)(inputs_embeds=torch.from_numpy(embeds), output_attentions=True)
    return {"hidden": out.last_hidden_state.numpy(), "maps": torch.stack(out.attentions).numpy()}


def stepped(geometry: Geometry, body: dict[str, np.ndarray], layers: dict[str, np.ndarray], steps: int = 1,
            clip: float = 1.0) -> tuple[dict[str, np.ndarray], list[float]]:
    """Steps of torch's Adam on the fpt set, each after clipping to a joint norm; and those norms before they were clipped.

    `gradient/NAME` is the first step's, `after/NAME` the value after the last; each step has a batch of its own.
    """
    import torch

    from fpt.roles import parse

    model = torch_body(geometry, body)
    first, last = torch.nn.Linear(WIDTH, geometry.width), torch.nn.Linear(geometry.width, CLASSES)
    for layer, name in ((first, "input"), (last, "output")):
        layer.weight.data = torch.from_numpy(layers[f"{name}/kernel"].T.copy())
        layer.bias.data = torch.from_numpy(layers[f"{name}/bias"].copy())
    named = dict(model.named_parameters())
    trained = {name: named[theirs(name)] for name in body if name in parse("fpt")}
    for parameter in named.values():
        parameter.requires_grad = any(parameter is one for one in trained.values())
    trained |= {"input/kernel": first.weight, "input/bias": first.bias,
                "output/kernel": last.weight, "output/bias": last.bias}
    optimizer = torch.optim.Adam(trained.values(), lr=RATE)
    host = lambda tensor: tensor.detach().numpy()
    turned = lambda name, tensor: host(tensor).T if name in ("input/kernel", "output/kernel") else host(tensor)
    found, norms = {}, []
    for number in range(steps):
        tokens, targets = batch(FIRST_BATCH + number)
        optimizer.zero_grad()
        logits = last(model(inputs_embeds=first(torch.from_numpy(tokens))).last_hidden_state[:, -1])
        torch.nn.functional.cross_entropy(logits, torch.from_numpy(targets[:, 0]).long()).backward()
        if not number:
            found = {f"gradient/{name}": turned(name, parameter.grad).copy() for name, parameter in trained.items()}
        norms.append(torch.nn.utils.clip_grad_norm_(trained.values(), clip).item())
        optimizer.step()
    return found | {f"after/{name}": turned(name, parameter).copy() for name, parameter in trained.items()}, norms


def reference(activation: str) -> dict[str, np.ndarray]:
    """All arrays of one activation."""
    geometry = GPT2(**SMALL, activation=activation)
    embeds = np.random.default_rng(3).standard_normal((2, 9, geometry.width), np.float32)
    found = looked_at(geometry, weights(geometry), embeds)
    return found | (stepped(geometry, weights(geometry), ends(geometry))[0] if activation == "gelu_new" else {})


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for kind in ACTIVATIONS:
        save_file({name: np.ascontiguousarray(value) for name, value in reference(kind).items()}, FOLDER / f"{kind}.safetensors")
