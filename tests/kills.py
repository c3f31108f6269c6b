"""Stops real commands at random moments and looks at what is left: `python -m tests.kills --kills 100`.

Training, pretraining, generation of data, evaluation and export are each stopped several times by SIGKILL, SIGTERM or
SIGINT, then run to their end.  They must end in the same bytes as without a stop, leave no process running and touch no
file of their user's.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

KILLS_A_ROUND = 5
SECONDS_TO_END = 5  # in which all processes of a stopped command must be gone
USERS = (".mine/notes", ".copy.mine/weights", ".hidden", "runs/.ipynb_checkpoints/x")  # a user's own, beside what is written


@dataclass(frozen=True)
class Scenario:
    """A command, and the files that it must end in, relative to the folder that it runs in."""

    name: str
    arguments: tuple[str, ...]
    result: tuple[str, ...]  # patterns


def scenarios(body: Path, run: Path) -> list[Scenario]:
    """The five kinds; `run` is a finished run to evaluate and to export."""
    tiny = ("--bits", "3", "--body", str(body), "--batch", "8", "--eval-every", "500")
    return [
        Scenario("training", ("train", "bit-xor", *tiny, "--steps", "4000", "--seed", "0", "1", "--out", "runs"),
                 ("runs/*/trainable.safetensors", "runs/*/metrics.jsonl")),
        Scenario("pretraining", ("pretrain", "task", "bit-xor", *tiny, "--steps", "1500", "--out", "runs", "--to", "copy"),
                 ("copy/model.safetensors", "copy/config.json", "runs/*/trainable.safetensors")),
        Scenario("generation", ("data", "listops", "--train-examples", "6000", "--held-out", "500"), ("cache/**/*listops*",)),
        Scenario("evaluation", ("evaluate", str(run), "--predictions", "predictions.jsonl"), ("predictions.jsonl",)),
        Scenario("export", ("evaluate", str(run), "--export", "copy"), ("copy/model.safetensors", "copy/config.json")),
    ]


def start(scenario: Scenario, home: Path) -> subprocess.Popen:
    """Starts the command in a session of its own."""
    project = Path(__file__).parent.parent
    environment = os.environ | {"PYTHONPATH": str(project), "FPT_CACHE": str(home / "cache"), "PYTHONUNBUFFERED": "1",
                                "HF_HUB_OFFLINE": "1", "JAX_COMPILATION_CACHE_DIR": str(home.parent / "xla")}
    module, *rest = scenario.arguments
    return subprocess.Popen([sys.executable, "-m", f"scripts.{module}", *rest], cwd=home, env=environment,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def processes(session: int) -> list[int]:
    """The processes of a session that are there, zombies left out."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def content(scenario: Scenario, home: Path) -> dict[str, str]:
    """The digests of the files that a command ends in; of curves without their times."""
    found = {}
    for path in sorted(path for pattern in scenario.result for path in home.glob(pattern) if path.is_file()):
        data = path.read_bytes()
        if path.name == "metrics.jsonl":
            lines = [json.loads(line) for line in data.decode().splitlines()]
            data = json.dumps([{k: v for k, v in line.items() if k != "seconds"} for line in lines]).encode()
        found[str(path.relative_to(home))] = hashlib.sha256(data).hexdigest()
    return found


def prepared(home: Path) -> Path:
    """An empty folder in which lies what is a user's own."""
    for name in USERS:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("mine")
    return home


def hidden(home: Path) -> list[str]:
    """What is left of unfinished writing: temporary files and folders beside their targets."""
    theirs = {Path(name).parts[0] for name in USERS} | {Path(name).parts[1] for name in USERS if name.startswith("runs")}
    return [str(path.relative_to(home)) for path in home.rglob(".*")
            if not {*path.relative_to(home).parts} & theirs and path.name != ".lock" and "xla" not in path.parts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw, killed, faults = random.Random(options.seed), 0, []
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        import jax

        from fpt import Config, checkpoint, train
        from fpt.model import draw_body
        from tasks.bits import BitXor
        from tests.conftest import (
            TINY,  # which also has Ctrl-C heard again where a shell has it ignored
        )

        checkpoint.write(root / "tiny", TINY, draw_body(TINY, jax.random.key(5)))
        train(Config(BitXor(bits=10), str(root / "tiny"), steps=2, batch=4, lr=1e-2, eval_every=2), root / "done", quiet=True)
        expected, seconds = {}, {}
        every = scenarios(root / "tiny", next((root / "done").iterdir()))
        for scenario in every * 2:  # the second time everything is compiled
            home = prepared(root / f"once-{scenario.name}")
            shutil.rmtree(home)
            begun, process = time.monotonic(), start(scenario, prepared(home))
            said, _ = process.communicate()
            if process.returncode:
                raise SystemExit(f"{scenario.name} fails undisturbed: {said}")
            expected[scenario.name], seconds[scenario.name] = content(scenario, home), time.monotonic() - begun
        print({name: round(value, 1) for name, value in seconds.items()}, flush=True)
        number = told = 0
        while killed < options.kills:
            scenario = every[number % len(every)]
            home = prepared(root / f"{number}-{scenario.name}")
            number += 1
            for _ in range(KILLS_A_ROUND):
                process = start(scenario, home)
                time.sleep(draw.uniform(0, seconds[scenario.name]))
                sent = draw.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
                if process.poll() is None:
                    process.send_signal(sent)
                    killed += 1
                said, _ = process.communicate()
                deadline = time.monotonic() + SECONDS_TO_END
                while (left := processes(process.pid)) and time.monotonic() < deadline:
                    time.sleep(0.05)
                if left:
                    faults.append(f"{home.name}: {len(left)} processes left after {sent.name}")
                    os.killpg(process.pid, signal.SIGKILL)
                if "Traceback" in said and "import" not in said:  # a stop while Python itself starts is not ours
                    faults.append(f"{home.name}: a traceback after {sent.name}: {said[-600:]}")
            process = start(scenario, home)
            said, _ = process.communicate()
            again = scenario.name == "export" and "already holds" in said  # it had ended before it was stopped
            if process.returncode and not again:
                faults.append(f"{home.name}: ends with {process.returncode}: {said[-600:]}")
            if (found := content(scenario, home)) != expected[scenario.name]:
                faults.append(f"{home.name}: other bytes: {sorted(found.items() ^ expected[scenario.name].items())}")
            if any((home / name).read_text() != "mine" for name in USERS):
                faults.append(f"{home.name}: a file of its user's was touched")
            if (left := hidden(home)):
                faults.append(f"{home.name}: left behind: {left}")
            print("\n".join([*faults[told:], f"{killed} kills, {len(faults)} faults"]), flush=True)
            told = len(faults)
            shutil.rmtree(home)
    print(f"{len(faults)} faults" if faults else "every command ended in the same bytes; nothing was left running or touched")
    raise SystemExit(bool(faults))


if __name__ == "__main__":
    main()
