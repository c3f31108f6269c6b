"""Makes the mistakes that `tests.mutants` lists, one at a time, and says which of them the tests notice.

`python -m tests.mutations` makes them all, `python -m tests.mutations dropout counts.py` those that mention one of the words.
Each is made in a copy of the working tree, where the tests named beside it run until one fails.  The exit code is 1 if a
mistake was not noticed, or if the text that it changes is not there any more.
"""

import argparse
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutants import MUTANTS, Mutant

ROOT = Path(__file__).parent.parent


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=__doc__.partition("\n")[0])
    parser.add_argument("words", nargs="*", help="only mistakes whose file, tests or description hold one of these")
    parser.add_argument("--list", action="store_true", help="list them, and run nothing")
    parser.add_argument("--processes", type=int, default=1, help="how many to run at once")
    parser.add_argument("--seconds", type=int, default=600, help="the most that the tests of one may take")
    options = parser.parse_args()
    chosen = [one for one in MUTANTS if not options.words or any(word in said(one) for word in options.words)]
    if options.list:
        print("\n".join(map(said, chosen)))
        return 0
    with tempfile.TemporaryDirectory() as top, ThreadPoolExecutor(options.processes) as threads:
        places = queue.SimpleQueue()  # a folder for each process that runs at once
        for number in range(options.processes):
            places.put(Path(top) / str(number))
        verdicts = []
        for one, (verdict, seconds, by) in zip(chosen, threads.map(lambda one: run(one, places, options.seconds), chosen)):
            print(f"{verdict:<8} {seconds:4.0f} s  {said(one)}{by and f'  <- {by}'}", flush=True)
            verdicts.append(verdict)
    print(", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in dict.fromkeys(verdicts)))
    return int(set(verdicts) != {"caught"})


def said(mutant: Mutant) -> str:
    return f"{mutant.file}: {mutant.breaks} ({mutant.tests})"


def run(mutant: Mutant, places: "queue.SimpleQueue[Path]", seconds: int) -> tuple[str, float, str]:
    """What became of a mistake, the seconds that it took, and the test that noticed it."""
    begun, place = time.monotonic(), places.get()
    try:
        if (ROOT / mutant.file).read_text().count(mutant.before) != 1:
            return "stale", 0.0, ""
        copy, compiled = place / "tree", place / "compiled"
        shutil.rmtree(copy, ignore_errors=True)
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
        for name in listed.split("\0"):
            if not (ROOT / name).is_file():  # deleted, or the end of the list
                continue
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
        file = copy / mutant.file
        file.write_text(file.read_text().replace(mutant.before, mutant.after))
        verdict, by = tested(copy, named(mutant.tests), compiled, seconds)
        return verdict, time.monotonic() - begun, by
    finally:
        places.put(place)


def named(tests: str) -> list[str]:
    """The tests of a mutant as pytest is told them.  Raises ValueError where there is none of that name."""
    found = []
    for part in tests.split():
        name, _, word = part.partition(":")
        file = f"tests/test_{name}.py"
        tests_of = re.findall(r"^def (test_\w+)", (ROOT / file).read_text(), re.M)
        if not any(word in test for test in tests_of):
            raise ValueError(f"no test in {file} has {word!r} in its name")
        found += [f"{file}::{test}" for test in tests_of if word in test] if word else [file]
    return found


def tested(copy: Path, tests: list[str], compiled: Path, seconds: int) -> tuple[str, str]:
    """Runs tests of a copy until one fails: whether they noticed, and which of them."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider", *tests]
    # What is compiled depends on the program alone: mutants may share it.
    environment = os.environ | {"PYTHONPATH": str(copy), "FPT_TEST_COMPILED": str(compiled)}
    try:
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return "SURVIVED", f"no answer within {seconds} seconds"
    if done.returncode == 0:
        return "SURVIVED", ""
    found = re.search(r"^(?:FAILED|ERROR) \S*?::(\S+)", done.stdout, re.M)
    if done.returncode == 1 and found:
        return "caught", found[1]
    return "broken", (done.stdout + done.stderr).strip().splitlines()[-1]  # nothing was tested


if __name__ == "__main__":
    sys.exit(main())
