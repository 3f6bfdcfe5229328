"""The command line, stopped in every way there is and continued: the model's bits are those of the run not stopped."""

from __future__ import annotations

import fcntl
import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors

import twostroke

pytestmark = pytest.mark.timeout(120)

COMMAND = [sys.executable, "-W", "error", "-m", "twostroke"]
CHECKPOINT, MODEL = "checkpoint.safetensors", "model.safetensors"
EPOCHS, STEPS = 1000, 14  # steps an epoch
ENDLESS = ["--epochs", "1000000"]
Process = subprocess.Popen[str]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    labels = np.arange(300, dtype=np.uint8) % 3
    images = rng.integers(0, 120, (300, 12), dtype=np.uint8)
    images[np.arange(300), 4 * labels] += 100
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    np.savez(path, x_train=images[:240], y_train=labels[:240], x_test=images[240:], y_test=labels[240:])
    return path


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Where ``twostroke`` is a command that runs this source."""
    folder = tmp_path_factory.mktemp("bin")
    script = folder / "twostroke"
    script.write_text(f'#!/bin/sh\nexec {shlex.join(COMMAND)} "$@"\n')
    script.chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ.get('PATH', '')}"
    return os.environ | {"PYTHONPATH": str(Path(twostroke.__file__).parents[1]), "PATH": path}


@pytest.fixture(scope="module")
def options(tiny: Path) -> list[str]:
    words = f"train {tiny} --device cpu --threads 1 --batch-size 16 --optimizer adam --lr 0.001".split()
    return [*words, "--layers", "12,20,3", "--epochs", str(EPOCHS), "--val-size", "24", "--seed", "5"]


@pytest.fixture(scope="module")
def go(environment: dict[str, str]) -> Iterator[Callable[..., Process]]:
    """``go(words...)``: the command line as a process of its own; what is left is killed."""
    started: list[Process] = []

    def go(*words: object, shell: bool = False) -> Process:
        command: Any = words[0] if shell else [*COMMAND, *map(str, words)]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, shell=shell, env=environment, stdout=pipe, stderr=pipe, text=True))
        return started[-1]

    yield go
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, options: list[str], go: Callable[..., Process]) -> Path:
    """The folder of a run that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    process = go(*options, "--out", folder, "-q")
    _, err = process.communicate()
    assert process.returncode == 0, err
    return folder


def tensors(folder: Path) -> dict[str, bytes]:
    with safetensors.safe_open(folder / MODEL, framework="numpy") as file:
        return {name: file.get_tensor(name).tobytes() for name in sorted(file.keys())}


def same_run(folder: Path, whole: Path) -> None:
    """The same model to the last bit, and the same history but for the time that it took."""
    assert tensors(folder) == tensors(whole)
    histories = []
    for each in (folder, whole):
        result = json.loads((each / "record.json").read_text())
        for record in result["history"]:
            for name in ("train_seconds", "samples_per_second"):
                record.pop(name, None)
        histories.append((result["history"], result["test_accuracy"], result["test_loss"]))
    assert histories[0] == histories[1]
    assert not list(folder.glob(".*.tmp"))


def until_epoch(process: Process, number: int) -> None:
    assert process.stdout
    while True:  # not every epoch has a line
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        if (found := re.match(r" +(\d+)/", line)) and int(found[1]) >= number:
            return


def end(process: Process) -> tuple[int, str, str]:
    out, err = process.communicate()
    return process.returncode, out, err


# --- signals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_at_random_instants_and_continued_by_the_printed_command(
    number: signal.Signals,
    code: int,
    options: list[str],
    whole: Path,
    tmp_path: Path,
    go: Callable[..., Process],
) -> None:
    rng = random.Random(int(number))
    stops: list[int] = []
    folder = tmp_path / "o'ut $HOME;"  # a name that a shell would take apart
    process = go(*options, "--out", folder)
    for more in (1, 40):  # a run that goes on tells of its old epochs first
        until_epoch(process, more + (stops[-1] // STEPS if stops else 0))
        time.sleep(rng.uniform(0.0, 0.02))
        process.send_signal(number)
        found, _, err = end(process)
        assert found == code, err
        assert err.count("\n") == 1
        said, command = err.strip().split(". Go on with: ")
        assert said.startswith(f"stopped by {number.name} after step ")
        stops.append(int(said.split()[-1]))
        assert not (folder / MODEL).exists()
        assert shlex.split(command) == [*COMMAND, *options, "--out", str(folder), "--resume"]
        # exec: the next signal is for the program and not for the shell around it
        process = go(f"exec {command}", shell=True)
    found, out, err = end(process)
    assert found == 0, err
    assert f": epoch {stops[-1] // STEPS + 1}, step {stops[-1]}\n" in out
    assert stops == sorted(set(stops))
    same_run(folder, whole)


def test_a_second_signal_stops_at_once(options: list[str], tmp_path: Path, go: Callable[..., Process]) -> None:
    """Both are there at once, as if the first waited for a step that hangs."""
    process = go(*options, *ENDLESS, "--out", tmp_path)
    until_epoch(process, 2)
    process.send_signal(signal.SIGSTOP)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)
    found, _, err = end(process)
    assert found in (130, 143)
    assert err in ("stopped by SIGINT\n", "stopped by SIGTERM\n")
    assert not (tmp_path / CHECKPOINT).exists()
    assert not (tmp_path / MODEL).exists()


# --- kill -9 -------------------------------------------------------------------------------------------------------


def test_killed_while_it_saves_after_every_step(
    options: list[str], whole: Path, tmp_path: Path, go: Callable[..., Process]
) -> None:
    rng = random.Random(9)
    for epoch in (3, 6, 9):
        process = go(*options, "--out", tmp_path, "--checkpoint-every", 1, "--resume")
        until_epoch(process, epoch)
        time.sleep(rng.uniform(0.0, 0.02))
        process.kill()
        found, _, err = end(process)
        assert (found, err) == (-9, "")
        assert not (tmp_path / MODEL).exists()
    for stray in tmp_path.glob(".*.tmp"):
        stray.unlink()
    process = go(*options, "--out", tmp_path, "--resume")
    found, out, err = end(process)
    assert found == 0, err
    assert "resumed from" in out
    same_run(tmp_path, whole)


# --- the options of a resumed run ----------------------------------------------------------------------------------


@pytest.fixture
def stopped(options: list[str], tmp_path: Path, go: Callable[..., Process]) -> Path:
    """The folder of a run that was stopped, with two checkpoints in it."""
    process = go(*options, "--out", tmp_path, "--checkpoint-every", 7)
    until_epoch(process, 3)
    process.send_signal(signal.SIGTERM)
    assert end(process)[0] == 143
    assert sorted(os.listdir(tmp_path)) == ["checkpoint-previous.safetensors", CHECKPOINT]
    return tmp_path


@pytest.mark.parametrize("extra", [["-q", "--checkpoint-every", "1000"], ["--json", "--debug"]])
def test_what_does_not_touch_the_mathematics_may_differ(
    extra: list[str], stopped: Path, options: list[str], whole: Path, go: Callable[..., Process]
) -> None:
    found, out, err = end(go(*options, "--out", stopped, "--resume", *extra))
    assert (found, err) == (0, "")
    if "--json" in extra:
        assert json.loads(out)["epochs"] == EPOCHS
    else:
        assert out.count("\n") == 1
    same_run(stopped, whole)


def test_what_does_touch_it_is_refused_by_name(stopped: Path, options: list[str], go: Callable[..., Process]) -> None:
    before = {file.name: file.read_bytes() for file in stopped.iterdir()}
    changes = {
        f"--seed 6 --epochs {EPOCHS + 1}": ["seed 5 there and 6 here", f"epochs {EPOCHS} there and {EPOCHS + 1} here"],
        "--layers 12,21,3 --lr 0.5": ["layers [12, 20, 3] there and [12, 21, 3] here", "lr 0.001 there and 0.5 here"],
    }
    for words, parts in changes.items():
        found, _, err = end(go(*options, "--out", stopped, "--resume", *words.split()))
        assert found == 2, err
        assert err.startswith("error: a checkpoint of another run")
        assert err.count("\n") == 1
        for part in parts:
            assert part in err
    assert {file.name: file.read_bytes() for file in stopped.iterdir()} == before


def test_without_a_checkpoint_it_says_so_and_starts(
    options: list[str], whole: Path, tmp_path: Path, go: Callable[..., Process]
) -> None:
    folder = tmp_path / "made" / "with" / "its parents"
    found, out, err = end(go(*options, "--out", folder, "--resume"))
    assert (found, err) == (0, "")
    assert f"no checkpoint in {folder}: starting from the beginning\n" in out
    same_run(folder, whole)


def test_a_run_that_is_done_is_done_again_at_no_cost(
    options: list[str], whole: Path, tmp_path: Path, go: Callable[..., Process]
) -> None:
    """Its last checkpoint is the end: the model comes from that, without another step."""
    for _ in range(2):
        found, out, err = end(go(*options, "--out", tmp_path, "--checkpoint-every", 5000, "--resume"))
        assert (found, err) == (0, "")
        same_run(tmp_path, whole)
        (tmp_path / MODEL).unlink()
    assert f"step {EPOCHS * STEPS}" in out


def test_a_damaged_newest_is_told_even_to_the_quiet(
    stopped: Path, options: list[str], whole: Path, go: Callable[..., Process]
) -> None:
    path = stopped / CHECKPOINT
    path.write_bytes(path.read_bytes()[:-9])
    found, _, err = end(go(*options, "--out", stopped, "--resume", "-q"))
    assert found == 0, err
    assert err.startswith(f"note: the model file is damaged or foreign: {path}")
    assert err.count("\n") == 1
    same_run(stopped, whole)


def test_when_both_are_damaged_it_is_exit_5(stopped: Path, options: list[str], go: Callable[..., Process]) -> None:
    for file in stopped.iterdir():
        file.write_bytes(b"")
    found, _, err = end(go(*options, "--out", stopped, "--resume"))
    assert found == 5
    assert err.startswith("error: no good checkpoint is left")
    assert err.count("\n") == 1


# --- the folder of a run -------------------------------------------------------------------------------------------


def test_two_runs_in_one_folder(options: list[str], tmp_path: Path, go: Callable[..., Process]) -> None:
    first = go(*options, *ENDLESS, "--out", tmp_path)
    until_epoch(first, 1)
    for extra in ([], ["--resume"]):
        found, _, err = end(go(*options, "--out", tmp_path, *extra))
        assert found == 2
        assert err.startswith(f"error: another run writes here: --out {tmp_path}")
        assert err.count("\n") == 1
    first.kill()
    end(first)
    # The lock went with its process.
    third = go(*options, *ENDLESS, "--out", tmp_path)
    until_epoch(third, 1)
    third.kill()


def test_the_lock_is_free_when_a_run_has_ended(whole: Path) -> None:
    descriptor = os.open(whole, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(descriptor)


def test_a_record_is_the_folder_s_newest_run_s_or_there_is_none(
    options: list[str], tmp_path: Path, go: Callable[..., Process]
) -> None:
    """A supervisor takes record.json for the end of the run that it started."""
    old, kept = tmp_path / "record.json", tmp_path / "record-previous.json"
    old.write_text("old")
    for refused in (["--lr", "-1"], ["--layers", "5,5"], ["--dry-run"]):
        end(go(*options, "--out", tmp_path, *refused))
        assert os.listdir(tmp_path) == ["record.json"]
    found, _, err = end(go(*options, "--out", tmp_path, "--optimizer", "sgd", "--lr", "1e30"))
    assert found == 6, err
    assert (old.exists(), kept.read_text()) == (False, "old")
    # Begun anew, also with --resume where there is nothing to go on from; nothing to set aside is no reason to lose it.
    assert end(go(*options, "--out", tmp_path, "--epochs", 1, "--resume", "--checkpoint-every", 3))[0] == 0
    assert kept.read_text() == "old"
    first = old.read_bytes()
    # Gone on with when it was done, the record stays; and is written again.
    assert end(go(*options, "--out", tmp_path, "--epochs", 1, "--resume"))[0] == 0
    assert kept.read_text() == "old"
    assert json.loads(old.read_bytes())["history"] == json.loads(first)["history"]
    assert end(go(*options, "--out", tmp_path, "--epochs", 1))[0] == 0
    assert kept.exists()
    assert kept.read_text() != "old"


def no_folder(tmp_path: Path, name: str) -> Any:
    if name == "under a file":
        (tmp_path / "file").write_text("a file")
        return tmp_path / "file" / "out"
    if name == "/proc":
        return Path("/proc/self/out")
    folder = tmp_path / "out"
    (folder / name).mkdir(parents=True)
    return folder


@pytest.mark.parametrize("name", ["under a file", "/proc", CHECKPOINT, "checkpoint-previous.safetensors", MODEL])
def test_an_output_folder_that_cannot_be_written_is_found_before_training(
    name: str, options: list[str], tmp_path: Path, go: Callable[..., Process]
) -> None:
    if name == "/proc" and not Path("/proc/self").is_dir():
        pytest.skip("no /proc here")
    folder = no_folder(tmp_path, name)
    before = sorted(tmp_path.rglob("*"))
    found, out, err = end(go(*options, "--out", folder, "--checkpoint-every", 1))
    assert found == 2
    assert err.startswith(f"error: cannot write to the output folder: --out {folder}: found ")
    assert err.endswith("Choose another with --out DIR.\n")
    assert err.count("\n") == 1
    assert "epoch " not in out
    assert sorted(tmp_path.rglob("*")) == before


FULL = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2)
from twostroke.cli import main
sys.exit(main())
"""


@pytest.mark.parametrize(("every", "room"), [(None, 1000), (7, 1000)])
def test_a_full_disk_leaves_the_old_files(
    every: int | None, room: int, options: list[str], tmp_path: Path, environment: dict[str, str]
) -> None:
    """The model, or the first checkpoint, does not fit."""
    (tmp_path / MODEL).write_bytes(b"precious")
    extra = ["--checkpoint-every", str(every)] if every else []
    words = [*options, "--out", str(tmp_path), "-q", *extra]
    command = [sys.executable, "-W", "error", "-c", FULL, str(room), *words]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 5, result.stderr
    assert result.stderr.startswith("error: cannot write")
    assert "File too large" in result.stderr
    assert str(tmp_path) in result.stderr
    assert result.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == [MODEL]
    assert (tmp_path / MODEL).read_bytes() == b"precious"
