"""Makes the parts of a study as jobs of a cluster, or of this machine, through submitit."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fpt.errors import UserError, nearest

CLUSTERS = ("slurm", "local")


def submitted(arguments: Sequence[str], cluster: str, jobs: int, settings: Sequence[str],
              folder: Path) -> None:
    """Submits `python -m scripts.study` with these arguments as an array of jobs, and waits.

    Each job makes one part of the study.  settings: of submitit's executor, such as
    timeout_min=600.  folder: holds what the jobs print.  Raises UserError where submitit or the
    cluster is not there, or a job fails: the same command takes up what it left.
    """
    if cluster not in CLUSTERS:
        raise nearest(cluster, CLUSTERS, "--cluster")
    if jobs < 1:
        raise UserError(f"--jobs must be at least 1, not {jobs}")
    try:
        import submitit
    except ImportError:
        raise UserError("--cluster needs submitit: pip install -e '.[cluster]'") from None
    try:
        executor = submitit.AutoExecutor(folder=folder.absolute(), cluster=cluster)
        executor.update_parameters(**dict(map(_setting, settings)))
    except (RuntimeError, NameError, ValueError, TypeError) as error:
        raise UserError(f"--cluster {cluster}: {error}") from None
    parts = [[*arguments, "--shard", f"{number}/{jobs}"] for number in range(1, jobs + 1)]
    running = executor.map_array(part, parts)
    print(f"{jobs} jobs: {', '.join(job.job_id for job in running)}; they print to {folder}",
          flush=True)
    try:
        failed = {job.job_id: error for job in running if (error := job.exception())}
    except KeyboardInterrupt:
        for job in running:
            with contextlib.suppress(Exception):  # it may have ended meanwhile
                job.cancel()
        raise KeyboardInterrupt("the jobs are cancelled; the same command goes on from their last "
                                "states") from None
    for name, error in failed.items():
        last = str(error).strip().splitlines()[-1]
        raise UserError(f"{len(failed)} of {jobs} jobs failed, first {name}: {last}; the same "
                        "command takes up what is left")


def part(arguments: list[str]) -> None:
    """Makes a part of a study, in a job."""
    from scripts.study import main

    main(arguments)


def _setting(text: str) -> tuple[str, Any]:
    """Reads NAME=VALUE, whose value is a whole number or a word."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise UserError(f"--job takes settings like timeout_min=600, not {text!r}")
    return name, int(value) if value.isdecimal() else value
