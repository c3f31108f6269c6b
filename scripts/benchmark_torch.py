"""Trains GPT-2 as transformers has it, as torch's side of the benchmark.

It trains the number of steps that each line of standard input asks for, and prints the seconds a
step took.  Its argument is a `benchmark.Work` as JSON.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import tasks
from fpt.gpt2 import BODIES
from fpt.gpt2_config import write_geometry
from scripts.benchmark import Work

if TYPE_CHECKING:
    import torch


def host_peak() -> int:
    """Measures the most memory in bytes that this process has had on the host."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def serve(steps: Callable[[int], None], ready: dict[str, Any],
          peak: Callable[[], int] = host_peak) -> None:
    """Serves a benchmark over standard input and output, in lines of JSON.

    Prints `ready`; then, for each line of input, takes that number of steps and prints the seconds
    per step; and at the end of the input prints the peak memory, in bytes.
    """
    print(json.dumps(ready), flush=True)
    for line in sys.stdin:
        begun = time.perf_counter()
        steps(int(line))
        print(json.dumps({"seconds": (time.perf_counter() - begun) / int(line)}), flush=True)
    print(json.dumps({"peak_bytes": peak()}), flush=True)


def frozen(work: Work) -> tuple[Callable[[], torch.Tensor], list, torch.optim.Optimizer]:
    """Builds a frozen body between trained layers: its loss, what is trained, and Adam."""
    import torch
    from transformers import GPT2Config, GPT2Model

    asked, geometry = tasks.find(work.task)().interface, BODIES[work.body]
    gpt2 = GPT2Model(GPT2Config(**write_geometry(geometry), attn_implementation="sdpa")).train()
    first = torch.nn.Linear(asked.width, geometry.width)
    last = torch.nn.Linear(geometry.width, asked.answers_per_query * asked.classes)
    dropout = torch.nn.Dropout(0.1)
    trained = [*first.parameters(), *last.parameters()]
    for name, parameter in gpt2.named_parameters():
        if "ln_" in name or "wpe" in name:
            trained.append(parameter)
        else:
            parameter.requires_grad = False
            if work.dtype == "bfloat16":
                parameter.data = parameter.data.bfloat16()
    inputs = torch.randn(work.batch, asked.tokens, asked.width)
    targets = torch.randint(0, asked.classes, (work.batch * asked.answers,))

    def loss() -> torch.Tensor:
        hidden = gpt2(inputs_embeds=dropout(first(inputs)), use_cache=False).last_hidden_state
        logits = last(hidden[:, -asked.queries:])
        return torch.nn.functional.cross_entropy(logits.float().reshape(-1, asked.classes), targets)

    return loss, trained, torch.optim.Adam(trained, lr=1e-3)


def language_model(work: Work) -> tuple[Callable[[], torch.Tensor], list, torch.optim.Optimizer]:
    """Builds a language model without dropout: its loss, its parameters, and AdamW."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    asked = tasks.find(work.task)().interface
    sizes = write_geometry(BODIES[work.body]) | {"vocab_size": asked.vocabulary}
    sizes |= dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), 0.0)
    model = GPT2LMHeadModel(GPT2Config(**sizes, attn_implementation="sdpa")).train()
    trained = [*model.parameters()]
    matrices = [one for name, one in model.named_parameters()
                if one.ndim == 2 and "wte" not in name and "wpe" not in name]
    others = [one for one in trained if not any(one is matrix for matrix in matrices)]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1},
                                   {"params": others, "weight_decay": 0.0}], lr=1e-3)
    inputs = torch.randint(0, asked.classes, (work.batch, asked.tokens))
    targets = torch.randint(0, asked.classes, (work.batch * asked.tokens,))

    def loss() -> torch.Tensor:
        logits = model(input_ids=inputs, use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.float().reshape(-1, asked.classes), targets)

    return loss, trained, optimizer


def main() -> None:
    work = Work(**json.loads(sys.argv[1]))
    try:
        import torch
        import transformers  # noqa: F401 - a missing one is reported here
    except ImportError:
        sys.exit("error: no torch here; pip install -e '.[parity]', or torch==2.13.0 for its CPU "
                 "build")
    on_gpu = work.platform == "gpu"
    device = "cuda" if on_gpu else "cpu"
    torch.set_num_threads(os.cpu_count())
    torch.set_default_device(device)
    torch.manual_seed(0)
    tied = tasks.find(work.task)().interface.tied
    loss, trained, optimizer = (language_model if tied else frozen)(work)
    if work.compiled:
        loss = torch.compile(loss)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device, dtype=torch.bfloat16, enabled=work.dtype == "bfloat16"):
            value = loss()
        value.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        value.item()

    def steps(count: int) -> None:
        for _ in range(count):
            step()

    step()
    ready = {"first_step_at": time.time(), "software": f"torch {torch.__version__}"}
    serve(steps, ready, torch.cuda.max_memory_allocated if on_gpu else host_peak)


if __name__ == "__main__":
    main()
