"""The command line under a real ``mpirun``: results and refusals.

Without mpi4py and an MPI these tests are skipped; with REQUIRE_MPI=1 in the environment that is a failure.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.support.mpi_jobs import (
    COMMAND,
    MODEL,
    OPTIONS,
    PYTHON,
    RECORD,
    mpirun,
    record,
    refused,
    run,
    tensors,
)

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("mpi")]


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
    first, second = (
        mpirun(3, *words, "--out", str(tmp_path / name), "--log-csv", str(tmp_path / f"{name}.csv")) for name in "ab"
    )
    assert first.returncode == second.returncode == 0, first.stderr
    lines = first.stdout.splitlines()
    assert sum(bool(re.match(" +[0-9]+/30 ", line)) for line in lines) == 30
    assert len([line for line in lines if re.match("device: |data: |ranks: +3 on 1 machine by ", line)]) == 3
    assert [line for line in lines if line.startswith("communication: ")]
    assert "\x1b" not in first.stdout
    a, b = tensors(tmp_path / "a"), tensors(tmp_path / "b")
    assert all(np.array_equal(a[name], b[name]) for name in a)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [MODEL, RECORD]
    log = (tmp_path / "a.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in log] == ["epoch", *map(str, range(1, 31))]
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
    assert re.search(f"^ranks: +{cores} on", result.stdout, re.MULTILINE)
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
    refused(result, 2, "the ranks do not have the same run", "lr 0.1 on rank 0 and 0.2 on rank 1", "l2 0.1 on rank 0")
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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--distributed", "--no-such-option"], "No such option: --no-such-option"),
        ([], "an MPI launcher started several processes"),
    ],
)
def test_an_error_of_one_rank_before_mpi_ends_all(data: str, tmp_path: Path, words: list[str], message: str) -> None:
    """The others wait for it in MPI's initialisation."""
    train = [*COMMAND, "train", data, *OPTIONS, "--out", str(tmp_path / "no")]
    for wrong in (0, 1):
        both = [[*train, "--distributed"], [*train, *words]]
        first, second = both if wrong else both[::-1]
        result = run("mpirun", "-n", "1", *first, ":", "-n", "1", *second)
        refused(result, 2, f"[rank {wrong}] error: {message}")
    assert not (tmp_path / "no").exists()


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
