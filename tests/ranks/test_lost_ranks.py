"""Every way in which a rank of a job under a real ``mpirun`` can be lost.

Without mpi4py and an MPI these tests are skipped; with REQUIRE_MPI=1 in the environment that is a failure.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.mpi_jobs import (
    CHECKPOINT,
    COMMAND,
    LIMIT_S,
    MODEL,
    OPTIONS,
    PYTHON,
    RECORD,
    mpirun,
    rank_pids,
    record,
    refused,
    run,
    started,
    tensors,
)

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("mpi")]

# Patches one rank's steps, then is the command line: python fault.py KIND RANK STEP WORDS...
FAULT = """
import os, signal, sys, time
from pathlib import Path
from twostroke import cli
from twostroke.ranks import data_parallel

kind, rank, at, words = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
step = data_parallel.SharedStep.learn_batch

def run(self, *arguments):
    if self._communicator.rank == rank and self.steps == at:
        Path(os.environ["FAULT_AT"]).write_text(str(time.time()))
        if kind == "exception":
            raise ValueError("a fault on purpose")
        if kind == "sys.exit":
            sys.exit(3)
        if kind == "os._exit":
            os._exit(3)
        os.kill(os.getpid(), getattr(signal, kind))
    step(self, *arguments)

data_parallel.SharedStep.learn_batch = run
sys.exit(cli.main(words))
"""


def checkpointed(data: str, folder: Path) -> list[str]:
    return ["train", data, *OPTIONS, "--checkpoint-every", "5", "--out", str(folder), "--distributed"]


def resume_and_compare(data: str, folder: Path, tmp_path: Path) -> None:
    """What was saved before the fault is whole: the run goes on from it and ends in the bits of one not stopped."""
    words = checkpointed(data, folder)
    result = run("mpirun", "-n", "2", *COMMAND, *words, "--resume")
    assert result.returncode == 0, result.stderr
    assert "resumed from" in result.stdout
    whole = run("mpirun", "-n", "2", *COMMAND, *checkpointed(data, tmp_path / "whole"))
    assert whole.returncode == 0
    ours, theirs = tensors(folder), tensors(tmp_path / "whole")
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("kind", ["exception", "sys.exit", "os._exit", "SIGKILL", "SIGSTOP"])
def test_the_loss_of_a_rank_ends_the_job(
    data: str, tmp_path: Path, kind: str, rank: int, figure: Callable[[str, float], None]
) -> None:
    script, mark, folder = tmp_path / "fault.py", tmp_path / "mark", tmp_path / "run"
    script.write_text(FAULT)
    limit = 2.0
    words = [*PYTHON, str(script), kind, str(rank), "23", *checkpointed(data, folder)]
    result = run("mpirun", "-n", "2", *words, FAULT_AT=str(mark), TWOSTROKE_WATCHDOG=str(limit))
    seconds = time.time() - float(mark.read_text())
    figure(f"seconds from {kind} of rank {rank} of 2 to the end of the job", seconds)
    assert result.returncode != 0
    assert seconds < (limit + 5 if kind == "SIGSTOP" else LIMIT_S)
    assert not (folder / RECORD).exists()
    if kind == "exception":
        assert f"[rank {rank}] error: unexpected ValueError: a fault on purpose" in result.stderr
    if kind == "sys.exit":
        assert f"[rank {rank}]" in result.stderr
    if kind == "SIGSTOP":
        assert f"[rank {1 - rank}] error: another rank does not answer" in result.stderr
        assert result.returncode == 75
    resume_and_compare(data, folder, tmp_path)


@pytest.mark.parametrize("rank", [0, 1])
def test_sigterm_to_one_rank_stops_all_after_the_same_step(data: str, tmp_path: Path, rank: int) -> None:
    script, folder = tmp_path / "fault.py", tmp_path / "run"
    script.write_text(FAULT)
    words = [*PYTHON, str(script), "SIGTERM", str(rank), "23", *checkpointed(data, folder)]
    result = run("mpirun", "-n", "2", *words, FAULT_AT=str(tmp_path / "mark"))
    assert result.returncode == 143, result.stderr
    errors = [line for line in result.stderr.splitlines() if "stopped by SIGTERM" in line]
    assert len(errors) == 1
    assert errors[0].startswith("[rank 0] stopped by SIGTERM after step 24. Go on with: mpirun -n 2 twostroke train ")
    resume_and_compare(data, folder, tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_rank_whose_peer_is_frozen(data: str, tmp_path: Path, number: signal.Signals) -> None:
    """Rank 0 waits in a sum, and would do so for the watchdog's ten minutes."""
    script, mark = tmp_path / "fault.py", tmp_path / "mark"
    script.write_text(f"from twostroke.ranks import watchdog\nwatchdog.HURRY_S = 1.0\n{FAULT}")
    words = [*PYTHON, str(script), "SIGSTOP", "1", "23", *checkpointed(data, tmp_path / "run")]
    with started("mpirun", "-n", "2", *words, FAULT_AT=str(mark)) as process:
        pids = wait_for(lambda: mark.exists() and rank_pids(process.pid))
        time.sleep(1)
        os.kill(pids[0], number)
        _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 128 + number
    lines = [line for line in err.splitlines() if "stopped by" in line]
    assert lines == [
        f"[rank 0] stopped by {number.name} while another rank did not answer. Go on from the checkpoint with --resume."
    ]
    assert tensors(tmp_path / "run", CHECKPOINT)


@pytest.mark.parametrize("size", [3, 0])
def test_stopped_on_two_ranks_and_gone_on_with_on_another_number(data: str, tmp_path: Path, size: int) -> None:
    """On three, and on one process without MPI: the weights of a run that was never stopped, in float64."""
    script, folder = tmp_path / "fault.py", tmp_path / "run"
    script.write_text(FAULT)
    stopped = [*PYTHON, str(script), "SIGTERM", "1", "23", *checkpointed(data, folder)]
    assert run("mpirun", "-n", "2", *stopped, FAULT_AT=str(tmp_path / "mark")).returncode == 143
    words = [*checkpointed(data, folder), "--resume"]
    launcher = ["mpirun", "-n", str(size)] if size else []
    result = run(*launcher, *COMMAND, *(words if size else [word for word in words if word != "--distributed"]))
    assert result.returncode == 0, result.stderr
    assert "resumed from" in result.stdout
    alone = ["train", data, *OPTIONS, "--threads", "1", "--out", str(tmp_path / "whole")]
    assert run(*COMMAND, *alone).returncode == 0
    ours, theirs = tensors(folder), tensors(tmp_path / "whole")
    for name, tensor in theirs.items():
        np.testing.assert_allclose(ours[name], tensor, rtol=1e-12, atol=1e-14)
    assert len(record(folder)["history"]) == 30


def test_an_old_record_is_not_taken_for_that_of_a_job_that_failed(data: str, tmp_path: Path) -> None:
    assert mpirun(2, data, *OPTIONS, "--out", str(tmp_path)).returncode == 0
    old = record(tmp_path)
    refused(mpirun(2, data, *OPTIONS, "--lr", "1e200", "--optimizer", "sgd", "--out", str(tmp_path)), 6, "diverged")
    assert sorted(path.name for path in tmp_path.iterdir()) == [MODEL, "record-previous.json"]
    assert json.loads((tmp_path / "record-previous.json").read_text()) == old


def test_sigterm_to_the_launcher_leaves_nobody_behind(data: str, tmp_path: Path) -> None:
    options = ["--layers", "20,12,5", "--batch-size", "8", "--epochs", "1000000", "--device", "cpu"]
    words = [data, *options, "--checkpoint-every", "5", "--out", str(tmp_path), "--distributed"]
    with started("mpirun", "-n", "2", *COMMAND, "train", *words) as process:
        pids = wait_for(lambda: (tmp_path / CHECKPOINT).exists() and rank_pids(process.pid))
        assert sorted(pids) == [0, 1]
        process.send_signal(signal.SIGTERM)
        began = time.time()
        process.communicate(timeout=LIMIT_S)
        assert process.returncode != 0
        wait_for(lambda: not any(alive(pid) for pid in pids.values()), LIMIT_S - (time.time() - began))
    assert tensors(tmp_path, CHECKPOINT)


def alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    end = time.time() + seconds
    while time.time() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    pytest.fail("it did not happen in time")


def test_a_frozen_rank_at_the_very_end_is_noticed(data: str, tmp_path: Path) -> None:
    """After the last step: rank 0 writes, then all meet once more. The result is whole, the exit code is not 0."""
    script = tmp_path / "fault.py"
    script.write_text(
        "import os, signal, sys\n"
        "from twostroke import cli\n"
        "from twostroke.ranks import mpi\n"
        "close = mpi.MPIProcess.close\n"
        "def frozen(self):\n"
        "    if self.rank == 1:\n"
        "        os.kill(os.getpid(), signal.SIGSTOP)\n"
        "    close(self)\n"
        "mpi.MPIProcess.close = frozen\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )
    began = time.time()
    words = [*PYTHON, str(script), *checkpointed(data, tmp_path / "run")]
    result = run("mpirun", "-n", "2", *words, TWOSTROKE_WATCHDOG="2")
    assert time.time() - began < 30
    assert result.returncode != 0
    assert record(tmp_path / "run")["epochs"] == 30
