"""A launcher's environment, what is refused, and a watchdog that bites. MPI itself: test_distributed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import twostroke
from tests.support.thread_ranks import on_ranks
from twostroke import ConfigError, cli
from twostroke.ranks.communicator import SingleProcess, agree
from twostroke.ranks.mpi import MPIProcess, current, import_mpi, joined, launched
from twostroke.ranks.watchdog import WATCHDOG, WATCHDOG_S, watchdog_limit


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "PMI_RANK", "PMI_SIZE", WATCHDOG):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", ["OMPI_COMM_WORLD", "PMI"])
def test_launched(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert launched() == (0, 1)
    monkeypatch.setenv(f"{name}_SIZE", "4")
    assert launched() == (0, 1)
    monkeypatch.setenv(f"{name}_RANK", "2")
    assert launched() == (2, 4)
    monkeypatch.setenv(f"{name}_RANK", "two")
    assert launched() == (0, 1)


def test_a_scheduler_s_variables_are_no_launcher_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job script of Slurm has SLURM_NTASKS, whether or not anything was started by it."""
    monkeypatch.setenv("SLURM_NTASKS", "8")
    monkeypatch.setenv("SLURM_PROCID", "0")
    assert launched() == (0, 1)


def test_one_process_is_alone_and_changes_nothing() -> None:
    alone = SingleProcess()
    array = np.arange(3.0)
    alone.allreduce_(array)
    alone.bcast_(array)
    alone.barrier()
    alone.abort(3)
    alone.close()
    with alone.watched():
        pass
    assert array.tolist() == [0, 1, 2]
    assert (alone.rank, alone.size, alone.local_rank, alone.local_size) == (0, 1, 0, 1)
    assert alone.bcast_obj("x") == "x"
    assert alone.allgather_obj("x") == ["x"]
    assert alone.cores >= 1
    assert alone.describe() == {"ranks": 1}


def test_not_distributed() -> None:
    with joined(False) as ranks:
        assert ranks is current()
        assert isinstance(ranks, SingleProcess)


def test_not_distributed_under_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setenv("PMI_SIZE", "3")
    with pytest.raises(ConfigError, match=r"found 3 processes without it.*mpirun -n N"), joined(False):
        pass


@pytest.mark.parametrize("command", ["evaluate", "predict", "draw", "report", "export", "bench", "verify", "doctor"])
def test_only_training_is_for_several_processes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setenv("PMI_SIZE", "2")
    assert cli.main([command]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.count("\n") == 1
    assert err.startswith(
        f"[rank 0] error: an MPI launcher started several processes that would each do the same: "
        f"{command}: found 2 processes"
    )
    assert cli.main([command, "--help"]) == 0
    assert cli.main(["--help"]) == cli.main(["--version"]) == 0
    monkeypatch.setenv("PMI_SIZE", "1")
    capsys.readouterr()
    cli.main([command, "--no-such-option"])
    assert "No such option" in capsys.readouterr().err


def test_without_mpi4py(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(ConfigError, match=r"needs mpi4py: .*pip install 'twostroke\[mpi\]'.*\[mpi-local\]"):
        import_mpi()


def test_with_mpi4py_and_no_mpi(monkeypatch: pytest.MonkeyPatch) -> None:
    """mpi4py's own import succeeds there, and its module MPI raises RuntimeError."""

    class NoLibrary(ModuleType):
        rc = ModuleType("rc")

        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("cannot load MPI library")

    monkeypatch.setitem(sys.modules, "mpi4py", NoLibrary("mpi4py"))
    with pytest.raises(ConfigError, match="needs an MPI library: found cannot load MPI library"):
        import_mpi()


def test_the_command_line_without_mpi4py(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    assert cli.main(["train", "--distributed", "--out", str(tmp_path / "no")]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.count("\n") == 1
    assert "pip install 'twostroke[mpi]'" in err
    assert not (tmp_path / "no").exists()


def test_training_alone_imports_no_mpi(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "d.npz", x_train=np.zeros((9, 3)), y_train=np.arange(9) % 2, x_test=np.zeros((2, 3)), y_test=[0, 1]
    )
    code = (
        "import sys; from twostroke import cli\n"
        f"code = cli.main(['train', {str(tmp_path / 'd.npz')!r}, '--epochs', '1', '-q', '--out', {str(tmp_path)!r}])\n"
        "sys.exit(code or int('mpi4py' in sys.modules))"
    )
    assert python(code).returncode == 0


def test_watchdog_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert watchdog_limit() == WATCHDOG_S == 600
    monkeypatch.setenv(WATCHDOG, "2.5")
    assert watchdog_limit() == 2.5
    for bad in ("soon", "0", "-1", "nan", "inf"):
        monkeypatch.setenv(WATCHDOG, bad)
        with pytest.raises(ConfigError, match="TWOSTROKE_WATCHDOG"):
            watchdog_limit()


def python(code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(twostroke.__file__).parents[1])}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=environment,
    )


def test_the_watchdog_ends_a_process_that_waits_too_long() -> None:
    began = time.monotonic()
    result = python(
        "import time; from twostroke.ranks.watchdog import Watchdog\n"
        "dog = Watchdog(0.5, 3); dog.begin(); time.sleep(30)"
    )
    assert time.monotonic() - began < 20
    assert result.returncode == 75
    assert result.stderr.startswith("[rank 3] error: another rank does not answer: rank 3: found no answer for 0.5 s.")
    assert result.stderr.count("\n") == 1


def test_the_watchdog_leaves_those_alone_that_work() -> None:
    """Long work outside of calls, and many short calls one after the other."""
    result = python(
        "import time; from twostroke.ranks.watchdog import Watchdog\n"
        "dog = Watchdog(0.4, 0); dog.begin(); dog.end(); time.sleep(1.2)\n"
        "end = time.monotonic() + 1.2\n"
        "while time.monotonic() < end: dog.begin(); time.sleep(0.01)\n"
        "dog.end()"
    )
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("moment", ["during the wait", "just before it"])
def test_a_signal_ends_a_wait_for_a_frozen_rank_soon(moment: str) -> None:
    """Inside MPI no handler of Python's runs: here it is C's pause, begun again after each signal."""
    send = "os.kill(os.getpid(), signal.SIGTERM)"
    when = (
        f"threading.Timer(0.3, lambda: {send}).start(); dog.begin()" if "during" in moment else f"{send}; dog.begin()"
    )
    began = time.monotonic()
    result = python(
        "import ctypes, os, signal, threading\n"
        "from twostroke.ranks import watchdog\n"
        "watchdog.HURRY_S = 0.6\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('handled', flush=True))\n"
        "dog = watchdog.Watchdog(40, 1)\n"
        f"{when}\n"
        "for _ in range(2): ctypes.CDLL(None).sleep(15)\n"
    )
    assert time.monotonic() - began < 15
    assert result.returncode == 143
    assert result.stderr.startswith("[rank 1] stopped by SIGTERM while another rank did not answer. Go on from")
    assert result.stderr.count("\n") == 1


def test_a_signal_does_not_shorten_the_waits_after_the_next_one() -> None:
    """Ranks that have agreed to stop wait for rank 0 to save, as long as it takes."""
    result = python(
        "import os, signal, time\n"
        "from twostroke.ranks import watchdog\n"
        "watchdog.HURRY_S = 0.4\n"
        "signal.signal(signal.SIGTERM, lambda *_: None)\n"
        "dog = watchdog.Watchdog(40, 1)\n"
        "dog.begin(); os.kill(os.getpid(), signal.SIGTERM); time.sleep(0.1); dog.end()\n"
        "dog.begin(); time.sleep(1.5); dog.end()\n"
        "os.kill(os.getpid(), signal.SIGTERM); dog.begin(); time.sleep(0.1); dog.end()\n"
        "dog.begin(); time.sleep(1.5); dog.end()\n"
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_agree() -> None:
    on_ranks(3, lambda ranks: agree(ranks, {"a": 1, "b": [2]}))
    with pytest.raises(ConfigError, match="a 0 on rank 0 and 1 on rank 1; a 0 on rank 0 and 2 on rank 2"):
        on_ranks(3, lambda ranks: agree(ranks, {"a": ranks.rank, "b": 5}))
    with pytest.raises(ConfigError, match="late None on rank 0 and 1 on rank 1"):
        on_ranks(2, lambda ranks: agree(ranks, {"late": 1} if ranks.rank else {}))


class Request:
    """Done after a few tests."""

    def __init__(self) -> None:
        self.left = 3

    def Test(self) -> bool:
        self.left -= 1
        return self.left < 0


class FakeMPI:
    """As much of the module as a communicator of two ranks on one host takes, seen from rank 0; notes its calls."""

    IN_PLACE, COMM_TYPE_SHARED = "in place", "shared"
    Exception = ArithmeticError
    rank, size = 0, 2

    def __init__(self, library: str, cores: int) -> None:
        self.library, self.cores = library, cores
        self.calls: list[str] = []
        self.COMM_WORLD = self

    def Get_library_version(self) -> str:
        return self.library

    def Split_type(self, _: str) -> FakeMPI:
        return self

    def allgather(self, value: Any) -> list[Any]:
        self.calls.append("allgather")
        return [set(range(self.cores))] * 2 if isinstance(value, set) else [value, (False, *value[1:])]

    def bcast(self, value: Any) -> Any:
        self.calls.append("bcast")
        return value

    def __getattr__(self, name: str) -> Any:
        def call(*_: Any) -> Request:
            self.calls.append(name)
            return Request()

        return call


@pytest.mark.parametrize(
    ("library", "cores", "polls"),
    [
        ("MPICH Version:      5.0.2", 8, True),
        ("MPICH Version:      5.0.2", 1, True),
        ("Open MPI v5.0.11, package", 8, False),
        ("Open MPI v5.0.11, package", 1, True),
    ],
)
def test_a_wait_that_would_spin_gives_its_core_away(
    monkeypatch: pytest.MonkeyPatch, library: str, cores: int, polls: bool
) -> None:
    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setenv("PMI_SIZE", "2")
    mpi = FakeMPI(library, cores)
    ranks = MPIProcess(mpi)
    signal.set_wakeup_fd(-1)
    assert ranks.crowded == (cores < 2)
    assert ranks.describe()["cores_of_host"] == cores
    mpi.calls.clear()
    ranks.allreduce_(np.zeros(3))
    ranks.bcast_(np.zeros(3))
    ranks.bcast_obj(1)
    ranks.barrier()
    blocking = ["Allreduce", "Bcast", "bcast", "Barrier"]
    assert mpi.calls == (["Iallreduce", "Ibcast", "Ibarrier", "bcast", "Ibarrier"] if polls else blocking)


@pytest.mark.parametrize(
    ("affinities", "expected"),
    [
        ([{0, 1}, {0, 1}], [1, 1]),  # left to share them
        ([{0}, {1}], [1, 1]),  # bound by the launcher
        ([set(range(8))] * 2, [4, 4]),
        ([{0, 1}] * 3, [1, 1, 1]),  # more ranks than cores
        ([{0, 1, 2, 3}, {4}], [2, 1]),
    ],
)
def test_ranks_divide_the_cores_of_their_machine(affinities: list[set[int]], expected: list[int]) -> None:
    for rank, cores in enumerate(expected):
        process = MPIProcess.__new__(MPIProcess)
        process._host_cores, process.local_rank, process.local_size = affinities, rank, len(affinities)
        assert process.cores == cores
