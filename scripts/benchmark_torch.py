"""Trains `transformers.GPT2Model` on demand, as torch's side of the benchmark.  Arguments: task,
batch, body, dtype, runs."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable

import tasks
from fpt.gpt2 import BODIES
from fpt.gpt2_config import write_geometry


def serve(steps: Callable[[int], None], ready: dict[str, float]) -> None:
    """Serves a benchmark over standard input and output, in lines of JSON.

    Prints `ready`; then, for each line of input, takes that number of steps and prints the seconds
    per step; and at the end of the input prints the peak memory.
    """
    print(json.dumps(ready), flush=True)
    for line in sys.stdin:
        begun = time.perf_counter()
        steps(int(line))
        print(json.dumps({"seconds": (time.perf_counter() - begun) / int(line)}), flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"peak_bytes": peak}), flush=True)


def main() -> None:
    try:
        import torch
        from transformers import GPT2Config, GPT2Model
    except ImportError:
        sys.exit("error: no torch here; pip install -e '.[parity]', or torch==2.13.0 for its CPU "
                 "build")
    name, batch, body, dtype, _ = sys.argv[1:]
    asked, batch, geometry = tasks.find(name)().interface, int(batch), BODIES[body]
    torch.set_num_threads(os.cpu_count())
    torch.manual_seed(0)
    gpt2 = GPT2Model(GPT2Config(**write_geometry(geometry), attn_implementation="sdpa")).train()
    first = torch.nn.Linear(asked.width, geometry.width)
    last = torch.nn.Linear(geometry.width, asked.answers_per_query * asked.classes)
    dropout = torch.nn.Dropout(0.1)
    trained = [*first.parameters(), *last.parameters()]
    for parameter_name, parameter in gpt2.named_parameters():
        if "ln_" in parameter_name or "wpe" in parameter_name:
            trained.append(parameter)
        else:
            parameter.requires_grad = False
            if dtype == "bfloat16":
                parameter.data = parameter.data.bfloat16()
    optimizer = torch.optim.Adam(trained, lr=1e-3)
    inputs = torch.randn(batch, asked.tokens, asked.width)
    targets = torch.randint(0, asked.classes, (batch * asked.answers,))

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
            hidden = gpt2(inputs_embeds=dropout(first(inputs)), use_cache=False).last_hidden_state
            logits = last(hidden[:, -asked.queries:])
        loss = torch.nn.functional.cross_entropy(logits.float().reshape(-1, asked.classes), targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        loss.item()

    def steps(count: int) -> None:
        for _ in range(count):
            step()

    step()
    serve(steps, {"first_step_at": time.time()})


if __name__ == "__main__":
    main()
