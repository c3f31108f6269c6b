"""Makes the arrays that test_parity compares with where torch is not installed.

`python -m tests.make_parity` computes with a tiny GPT-2 of transformers, whose weights NumPy draws:
for each activation the last hidden states and the attention maps; and for one a full model's
gradients by the trained parameters, and their values after one clipped Adam step.  Where torch is
installed, test_parity also compares several steps of which some are clipped, which one step cannot
show: Adam's first is the same however the gradient is scaled.
"""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from fpt.checkpoint import theirs
from fpt.gpt2 import ACTIVATIONS, GPT2
from fpt.gpt2_config import write_geometry
from fpt.model import body_table
from fpt.roles import parse

FOLDER = Path(__file__).parent / "parity"
SMALL = {"layers": 2, "width": 16, "heads": 2, "positions": 12, "vocabulary": 3}
BATCH, TOKENS, WIDTH, CLASSES = 3, 7, 5, 4
RATE, FIRST_BATCH = 1e-3, 2


def weights(geometry: GPT2, seed: int = 0) -> dict[str, np.ndarray]:
    """Draws a body far from its initialisation, so that every term of the arithmetic shows."""
    draw, found = np.random.default_rng(seed), {}
    scale = {"kernel": 1.5 / np.sqrt(geometry.width), "bias": 0.3, "scale": 0.3, "wpe": 0.5}
    for name, parameter in sorted(body_table(geometry).items()):
        noise = scale[name.rpartition("/")[2]] * draw.standard_normal(parameter.shape)
        found[name] = np.float32(name.endswith("scale") + noise)
    return found


def ends(geometry: GPT2, seed: int = 1) -> dict[str, np.ndarray]:
    """Draws input and output layer."""
    draw = np.random.default_rng(seed)
    shapes = {"input/kernel": (WIDTH, geometry.width), "input/bias": (geometry.width,),
              "output/kernel": (geometry.width, CLASSES), "output/bias": (CLASSES,)}
    return {name: np.float32(0.3 * draw.standard_normal(shape)) for name, shape in shapes.items()}


def batch(seed: int = FIRST_BATCH) -> tuple[np.ndarray, np.ndarray]:
    """Draws the inputs and the targets of a batch."""
    draw = np.random.default_rng(seed)
    inputs = draw.standard_normal((BATCH, TOKENS, WIDTH), np.float32)
    return inputs, np.int32(draw.integers(0, CLASSES, (BATCH, 1)))


def torch_body(geometry: GPT2, values: dict[str, np.ndarray]):
    """Makes transformers' own GPT-2 with these weights, without dropout."""
    import torch
    from transformers import GPT2Config, GPT2Model

    settings = write_geometry(geometry) | {"embd_pdrop": 0, "attn_pdrop": 0, "resid_pdrop": 0,
                                           "bos_token_id": None, "eos_token_id": None}
    model = GPT2Model(GPT2Config(**settings, attn_implementation="eager"))
    state = {theirs(name): torch.from_numpy(value) for name, value in values.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert set(missing) <= {"wte.weight"} and not unexpected
    return model


def looked_at(geometry: GPT2, values: dict[str, np.ndarray], embeds: np.ndarray
              ) -> dict[str, np.ndarray]:
    """Computes the last hidden states [B, T, D] and the maps [L, B, H, T, T] with torch."""
    import torch

    body = torch_body(geometry, values)
    with torch.no_grad():
        out = body(inputs_embeds=torch.from_numpy(embeds), output_attentions=True)
    return {"hidden": out.last_hidden_state.numpy(), "maps": torch.stack(out.attentions).numpy()}


def stepped(geometry: GPT2, body: dict[str, np.ndarray], layers: dict[str, np.ndarray],
            steps: int = 1, clip: float = 1.0) -> tuple[dict[str, np.ndarray], list[float]]:
    """Takes steps of torch's Adam on the fpt set, each on a batch of its own, clipped by its norm.

    Gives the first step's `gradient/NAME` and the last step's `after/NAME`, and the norms of all
    steps before they were clipped.
    """
    import torch

    model = torch_body(geometry, body)
    first = torch.nn.Linear(WIDTH, geometry.width)
    last = torch.nn.Linear(geometry.width, CLASSES)
    for layer, name in ((first, "input"), (last, "output")):
        layer.weight.data = torch.from_numpy(layers[f"{name}/kernel"].T.copy())
        layer.bias.data = torch.from_numpy(layers[f"{name}/bias"].copy())
    named, parameters = dict(model.named_parameters()), body_table(geometry)
    trained = {name: named[theirs(name)] for name in body if parse("fpt").holds(parameters[name])}
    for parameter in named.values():
        parameter.requires_grad = any(parameter is one for one in trained.values())
    trained |= {"input/kernel": first.weight, "input/bias": first.bias,
                "output/kernel": last.weight, "output/bias": last.bias}
    optimizer = torch.optim.Adam(trained.values(), lr=RATE)
    host = lambda tensor: tensor.detach().numpy()
    turned = lambda name, tensor: (
        host(tensor).T if name in ("input/kernel", "output/kernel") else host(tensor)).copy()
    found, norms = {}, []
    for number in range(steps):
        tokens, targets = batch(FIRST_BATCH + number)
        optimizer.zero_grad()
        states = model(inputs_embeds=first(torch.from_numpy(tokens))).last_hidden_state
        answers = torch.from_numpy(targets[:, 0]).long()
        torch.nn.functional.cross_entropy(last(states[:, -1]), answers).backward()
        if not number:
            found = {f"gradient/{name}": turned(name, one.grad) for name, one in trained.items()}
        norms.append(torch.nn.utils.clip_grad_norm_(trained.values(), clip).item())
        optimizer.step()
    return found | {f"after/{name}": turned(name, one) for name, one in trained.items()}, norms


def reference(activation: str) -> dict[str, np.ndarray]:
    """Computes all arrays of one activation."""
    geometry = GPT2(**SMALL, activation=activation)
    embeds = np.random.default_rng(3).standard_normal((2, 9, geometry.width), np.float32)
    found = looked_at(geometry, weights(geometry), embeds)
    if activation == "gelu_new":
        found |= stepped(geometry, weights(geometry), ends(geometry))[0]
    return found


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for kind in ACTIVATIONS:
        arrays = {name: np.ascontiguousarray(value) for name, value in reference(kind).items()}
        save_file(arrays, FOLDER / f"{kind}.safetensors")
