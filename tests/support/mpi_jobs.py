"""Jobs of ``twostroke train --distributed`` under a real ``mpirun``, and what they left."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

import twostroke

PYTHON = [sys.executable, "-W", "error"]
COMMAND = [*PYTHON, "-m", "twostroke"]
LIMIT_S = 10.0  # from the fault to the end of the job
CHECKPOINT, MODEL, RECORD = "checkpoint.safetensors", "model.safetensors", "record.json"
SAMPLES, BATCH = 203, 32  # 7 batches, the last of 11 rows
OPTIONS = ["--layers", "20,12,5", "--batch-size", str(BATCH), "--epochs", "30", "--dtype", "float64", "--device", "cpu"]


@cache
def why_not() -> str:
    """Why there is no MPI here; empty if there is one."""
    if shutil.which("mpirun", path=search_path()) is None:
        return "no mpirun"
    check = [sys.executable, "-c", "from mpi4py import MPI"]
    run = subprocess.run(check, capture_output=True, text=True, check=False, timeout=60)
    return "" if run.returncode == 0 else f"no MPI for mpi4py: {(run.stderr.splitlines() or ['?'])[-1]}"


def search_path() -> str:
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def environment(**more: str) -> dict[str, str]:
    """Open MPI, too, may run as root and start more ranks than there are cores; MPICH ignores its variables."""
    open_mpi = {
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    }
    ours = {"PATH": search_path(), "PYTHONPATH": str(Path(twostroke.__file__).parents[1]), "OPENBLAS_NUM_THREADS": "1"}
    return {**os.environ, **open_mpi, **ours, **more}


@contextmanager
def started(*command: str, **more: str) -> Iterator[subprocess.Popen[str]]:
    """A process with its output in pipes; at the end its whole group is gone."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=pipe,
        stderr=pipe,
        text=True,
        env=environment(**more),
        start_new_session=True,
    )
    try:
        yield process
    finally:
        for pid in [process.pid, *descendants(process.pid)]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate()


def descendants(pid: int) -> list[int]:
    """Also those whose parent has ended meanwhile: found by the job's environment."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            stat = (entry / "stat").read_text()
        except OSError:
            continue
        children.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry.name))
    found, waiting = [], [pid]
    while waiting:
        for child in children.get(waiting.pop(), []):
            found.append(child)
            waiting.append(child)
    return found


def rank_pids(launcher: int) -> dict[int, int]:
    """The process of each rank."""
    found = {}
    for pid in descendants(launcher):
        try:
            content = (Path("/proc") / str(pid) / "environ").read_bytes().decode(errors="replace")
            words = (Path("/proc") / str(pid) / "cmdline").read_bytes()
        except OSError:
            continue
        rank = re.search(r"(?:OMPI_COMM_WORLD_RANK|PMI_RANK)=(\d+)\x00", content)
        if rank and b"--distributed" in words:
            found[int(rank[1])] = pid
    return found


def run(*command: str, **more: str) -> subprocess.CompletedProcess[str]:
    with started(*command, **more) as process:
        out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def mpirun(size: int, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    return run("mpirun", "-n", str(size), *COMMAND, "train", *words, "--distributed", **more)


def tensors(folder: Path, name: str = MODEL) -> dict[str, np.ndarray]:
    return safetensors.numpy.load_file(folder / name)


def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / RECORD).read_text())
    return found


def refused(result: subprocess.CompletedProcess[str], code: int, *texts: str) -> None:
    """One rank says one error, which holds these texts."""
    assert result.returncode == code, result.stderr
    errors = [line for line in result.stderr.splitlines() if "error: " in line]
    assert len(errors) == 1, result.stderr
    for text in texts:
        assert text in errors[0]
    assert "Traceback" not in result.stderr
