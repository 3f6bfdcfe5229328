"""The command line under a real ``mpirun``: results, refusals, and every way in which a rank can be lost.

Without mpi4py and an MPI these tests are skipped; with REQUIRE_MPI=1 in the environment that is a failure.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import twostroke

pytestmark = pytest.mark.timeout(120)

PYTHON = [sys.executable, "-W", "error"]
COMMAND = [*PYTHON, "-m", "twostroke"]
LIMIT_S = 10.0  # from the fault to the end of the job
CHECKPOINT, MODEL, RECORD = "checkpoint.safetensors", "model.safetensors", "record.json"
SAMPLES, BATCH = 203, 32  # 7 batches, the last of 11 rows
OPTIONS = ["--layers", "20,12,5", "--batch-size", str(BATCH), "--epochs", "30", "--dtype", "float64", "--device", "cpu"]

# Patches one rank's steps, then is the command line: python fault.py KIND RANK STEP WORDS...
FAULT = """
import os, signal, sys, time
from pathlib import Path
from twostroke import cli
from twostroke.ranks import data_parallel

kind, rank, at, words = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
step = data_parallel.SharedStep.run

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

data_parallel.SharedStep.run = run
sys.exit(cli.main(words))
"""


@cache
def why_not() -> str:
    """Why there is no MPI here; empty if there is one."""
    if shutil.which("mpirun", path=search_path()) is None:
        return "no mpirun"
    check = [sys.executable, "-c", "from mpi4py import MPI"]
    run = subprocess.run(check, capture_output=True, text=True, check=False, timeout=60)
    return "" if run.returncode == 0 else f"no MPI for mpi4py: {(run.stderr.splitlines() or ['?'])[-1]}"


@pytest.fixture(autouse=True)
def _mpi() -> None:
    reason = why_not()
    if reason and os.environ.get("REQUIRE_MPI", "0") not in ("", "0"):
        pytest.fail(f"MPI is required: {reason}", pytrace=False)
    if reason:
        pytest.skip(f"{reason} (pip install 'twostroke[mpi-local]')")


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


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    rng = np.random.default_rng(0)
    centres = rng.random((5, 20))
    arrays: dict[str, Any] = {}
    for part, n in (("train", SAMPLES), ("test", 41)):
        labels = rng.integers(0, 5, n)
        arrays |= {f"x_{part}": centres[labels] + 0.3 * rng.random((n, 20)), f"y_{part}": labels}
    path = tmp_path_factory.mktemp("data") / "clouds.npz"
    np.savez(path, **arrays)
    return str(path)


def tensors(folder: Path, name: str = MODEL) -> dict[str, np.ndarray]:
    return safetensors.numpy.load_file(folder / name)


def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / RECORD).read_text())
    return found


# --- results -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_two_and_three_ranks_agree_with_one_process(data: str, tmp_path: Path, optimizer: str) -> None:
    words = [data, *OPTIONS, "--optimizer", optimizer, "--l2", "0.01", "--lr", "0.05", "--val-size", "30"]
    alone = run(*COMMAND, "train", *words, "--threads", "1", "--out", str(tmp_path / "alone"))
    assert alone.returncode == 0, alone.stderr
    expected = tensors(tmp_path / "alone")
    for size in (2, 3):
        folder = tmp_path / str(size)
        result = mpirun(size, *words, "--out", str(folder))
        assert result.returncode == 0, result.stderr
        assert not [line for line in result.stderr.splitlines() if "ranks share" not in line]
        for name, tensor in tensors(folder).items():
            np.testing.assert_allclose(tensor, expected[name], rtol=1e-12, atol=1e-14)
        for ours, theirs in zip(record(folder)["history"], record(tmp_path / "alone")["history"], strict=True):
            for key in ("train_loss", "train_accuracy", "val_loss", "test_accuracy"):
                assert ours[key] == pytest.approx(theirs[key], rel=1e-12)


def test_rank_0_alone_speaks_and_writes_and_the_bits_repeat(data: str, tmp_path: Path) -> None:
    words = [data, *OPTIONS, "--dtype", "float32"]
    first, second = (mpirun(3, *words, "--out", str(tmp_path / name)) for name in "ab")
    assert first.returncode == second.returncode == 0, first.stderr
    lines = first.stdout.splitlines()
    assert sum(line.startswith("epoch") for line in lines) == 30
    assert len([line for line in lines if line.startswith(("device:", "data:", "ranks: 3 on 1 machine by "))]) == 3
    assert [line for line in lines if line.startswith("communication: ")]
    assert "\x1b" not in first.stdout
    a, b = tensors(tmp_path / "a"), tensors(tmp_path / "b")
    assert all(np.array_equal(a[name], b[name]) for name in a)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [MODEL, RECORD]
    told = record(tmp_path / "a")["distributed"]
    assert (told["ranks"], told["hosts"], told["steps"]) == (3, 1, 30 * 7)


def test_sums_through_mpi_have_the_bits_of_those_in_shared_memory(data: str, tmp_path: Path) -> None:
    words = [data, *OPTIONS, "--dtype", "float32"]
    for path, switch in (("shared memory", "1"), ("MPI", "0")):
        result = mpirun(2, *words, "--out", str(tmp_path / path), TWOSTROKE_SHARED_SUM=switch)
        assert result.returncode == 0, result.stderr
        assert f"gradients are summed by {path}" in result.stdout
        assert record(tmp_path / path)["distributed"]["gradients_summed_by"] == path
    a, b = tensors(tmp_path / "shared memory"), tensors(tmp_path / "MPI")
    assert all(np.array_equal(a[name], b[name]) for name in a)


def test_threads_are_divided_unless_they_are_given(data: str, tmp_path: Path) -> None:
    cores = len(os.sched_getaffinity(0))
    result = mpirun(cores, data, *OPTIONS, "--out", str(tmp_path / "a"))
    assert f"ranks: {cores} on" in result.stdout
    assert "1 thread each" in result.stdout
    assert mpirun(2, data, *OPTIONS, "--threads", "1", "--out", str(tmp_path / "b")).returncode == 0


def test_one_rank_is_allowed_with_a_note(data: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "twostroke", "train", data, *OPTIONS, "--distributed", "--out", str(tmp_path)]
    result = run("mpirun", "-n", "1", *command)
    assert result.returncode == 0, result.stderr
    assert "note: --distributed has one rank" in result.stderr
    assert (tmp_path / RECORD).exists()
    assert "communication: none, 1 rank" in result.stdout


CROWDED = """
import os, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
"""


@pytest.mark.parametrize("switch", ["0", "1"], ids=["mpi", "shared"])
def test_ranks_that_share_a_core_do_not_crawl(
    tmp_path: Path, figure: Callable[[str, float], None], switch: str
) -> None:
    """MPICH alone takes a third of a second for a sum here, our way a millisecond."""
    script = tmp_path / "sums.py"
    script.write_text(
        f"{CROWDED}\n"
        "import time\n"
        "from twostroke import select_backend\n"
        "from twostroke.ranks.mpi import joined\n"
        "with joined(distributed=True) as ranks:\n"
        "    array, total, add_up, path = select_backend('cpu', 1).summing(100_000, 'float32', ranks)\n"
        "    array.fill(1)\n"
        "    ranks.barrier()\n"
        "    began = time.perf_counter()\n"
        "    for _ in range(20): add_up(); array[:] = total\n"
        "    assert ranks.allgather_obj(ranks.rank) == [0, 1] and array[0] == 2.0**20\n"
        "    if ranks.rank == 0: print((time.perf_counter() - began) / 20)\n"
    )
    variables = {"PRTE_MCA_hwloc_default_binding_policy": "none", "TWOSTROKE_SHARED_SUM": switch}
    result = run("mpirun", "-n", "2", *PYTHON, str(script), "--distributed", **variables)
    assert result.returncode == 0, result.stderr
    how = "in shared memory" if switch == "1" else "through MPI"
    figure(f"seconds for a sum of 400 kB over 2 ranks on one core, {how}", float(result.stdout))
    assert float(result.stdout) < 0.1


def test_ranks_that_share_a_core_are_told_so_once(data: str, tmp_path: Path) -> None:
    script = tmp_path / "crowded.py"
    script.write_text(f"{CROWDED}\nfrom twostroke import cli\nsys.exit(cli.main(sys.argv[1:]))\n")
    words = ["train", data, *OPTIONS, "--distributed", "--out", str(tmp_path / "a")]
    more = {"PRTE_MCA_hwloc_default_binding_policy": "none"}
    result = run("mpirun", "-n", "2", *PYTHON, str(script), *words, **more)
    assert result.returncode == 0, result.stderr
    assert result.stderr == "note: 2 ranks share 1 core and wait for each other: 1 would be faster\n"
    assert re.search(r"^communication: .*; 2 ranks share 1 core: fewer are faster$", result.stdout, re.MULTILINE)


def test_json_is_rank_0_s_alone(data: str, tmp_path: Path) -> None:
    result = mpirun(2, data, *OPTIONS, "--json", "--out", str(tmp_path))
    assert json.loads(result.stdout)["distributed"]["ranks"] == 2


def test_a_dry_run_of_ranks_writes_nothing(data: str, tmp_path: Path) -> None:
    result = mpirun(2, data, *OPTIONS, "--dry-run", "--out", str(tmp_path / "no"))
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1].startswith("dry run")
    assert not (tmp_path / "no").exists()


# --- refusals ----------------------------------------------------------------------------------------------------


def refused(result: subprocess.CompletedProcess[str], code: int, *texts: str) -> None:
    assert result.returncode == code, result.stderr
    errors = [line for line in result.stderr.splitlines() if "error: " in line]
    assert len(errors) == 1, result.stderr
    for text in texts:
        assert text in errors[0]
    assert "Traceback" not in result.stderr


def test_several_processes_without_the_flag(data: str, tmp_path: Path) -> None:
    result = run("mpirun", "-n", "2", *COMMAND, "train", data, *OPTIONS, "--out", str(tmp_path / "no"))
    refused(result, 2, "[rank 0] error: an MPI launcher started several processes", "found 2 processes without it")
    assert not (tmp_path / "no").exists()


def test_another_mpi_s_launcher(data: str) -> None:
    """As one sees it: each process is the only one of its own MPI, the launcher's environment says two."""
    library = subprocess.run(
        [sys.executable, "-c", "from mpi4py import MPI; print(MPI.Get_library_version())"],
        capture_output=True, text=True, check=True, timeout=60,
    ).stdout  # fmt: skip
    other = "OMPI_COMM_WORLD" if "MPICH" in library else "PMI"
    result = run(*COMMAND, "train", data, *OPTIONS, "--distributed", **{f"{other}_SIZE": "2", f"{other}_RANK": "0"})
    refused(result, 2, "mpirun belongs to another MPI", "expected 2 by the launcher")


def test_ranks_with_different_options(data: str, tmp_path: Path) -> None:
    train = [*COMMAND, "train", data, *OPTIONS, "--out", str(tmp_path / "no"), "--distributed"]
    result = run("mpirun", "-n", "1", *train, "--lr", "0.1", ":", "-n", "1", *train, "--lr", "0.2", "--l2", "0.5")
    refused(result, 2, "the ranks do not have the same run", "lr 0.1 on rank 0 and 0.2 on rank 1", "l2 0.0 on rank 0")
    assert not (tmp_path / "no" / MODEL).exists()


@pytest.mark.parametrize("flag", ["--dry-run", "--show-config", "--tf32", "--resume"])
def test_ranks_that_would_do_different_things(data: str, tmp_path: Path, flag: str) -> None:
    train = [*COMMAND, "train", data, *OPTIONS, "--out", str(tmp_path / "no"), "--distributed"]
    result = run("mpirun", "-n", "1", *train, ":", "-n", "1", *train, flag, TWOSTROKE_WATCHDOG="5")
    refused(result, 2, "the ranks do not have the same run", f"{flag} False on rank 0 and True on rank 1")


def test_ranks_with_different_data(data: str, tmp_path: Path) -> None:
    with np.load(data) as arrays:
        changed = dict(arrays)
    changed["x_train"] = changed["x_train"] + 1e-9
    folder = tmp_path / "other"
    folder.mkdir()
    other = str(folder / "clouds.npz")
    np.savez(other, **changed)
    options = [*OPTIONS, "--out", str(tmp_path / "no"), "--distributed"]
    result = run(
        "mpirun", "-n", "1", *COMMAND, "train", data, *options, ":", "-n", "1", *COMMAND, "train", other, *options
    )
    refused(result, 2, "train_images (203, 20) float64")


def test_an_unknown_option_is_said_once(data: str) -> None:
    """Before MPI has started: nobody can end the others before they speak."""
    refused(mpirun(2, data, "--no-such-option"), 2, "[rank 0] error: No such option: --no-such-option")


def test_a_missing_mpi4py_is_said_once(data: str, tmp_path: Path) -> None:
    script = tmp_path / "without.py"
    script.write_text(
        "import sys\nsys.modules['mpi4py'] = None\nfrom twostroke import cli\nsys.exit(cli.main(sys.argv[1:]))\n"
    )
    result = run("mpirun", "-n", "2", *PYTHON, str(script), "train", data, "--distributed")
    refused(result, 2, "[rank 0] error: --distributed needs mpi4py")


def test_what_is_not_training_is_refused_and_help_is_not(tmp_path: Path) -> None:
    result = run("mpirun", "-n", "2", *COMMAND, "evaluate", str(tmp_path / MODEL))
    refused(
        result, 2, "[rank 0] error: an MPI launcher started several processes that would each do the same: evaluate"
    )
    for words in (["--version"], ["evaluate", "--help"]):
        assert run("mpirun", "-n", "2", *COMMAND, *words).returncode == 0


def test_a_bad_option_is_said_once(data: str) -> None:
    refused(mpirun(3, data, "--lr", "-1"), 2, "--lr", "found -1")
    refused(mpirun(2, data + "nowhere"), 4, "nowhere")


def test_divergence_is_said_once(data: str, tmp_path: Path) -> None:
    result = mpirun(2, data, *OPTIONS, "--optimizer", "sgd", "--lr", "1e200", "--out", str(tmp_path))
    refused(result, 6, "training diverged: epoch 1")


# --- losses ------------------------------------------------------------------------------------------------------


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
