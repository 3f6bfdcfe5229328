"""A save that is killed, that fails at any call, that loses its power: always the old state or the new one."""

from __future__ import annotations

import errno
import itertools
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import twostroke as ts
from tests.support.disk import Disk
from twostroke.backend import select_backend
from twostroke.engine.config import TrainConfig
from twostroke.engine.training import TrainingRun
from twostroke.errors import ModelError
from twostroke.files.atomic_file import previous
from twostroke.models.checkpoint import restore, save_checkpoint
from twostroke.models.model_file import describe_model

KILLS = int(os.environ.get("TWOSTROKE_KILLS", "200"))  # 1000 for the long version
FLIPS = 2000
SOURCE = str(Path(ts.__file__).parents[1])
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([SOURCE, str(Path(__file__).parents[1])])}
Note = Callable[[str, float], None]

# --- a run whose every number is its step --------------------------------------------------------------------------


def data_set(n: int = 4000) -> ts.Dataset:
    images = np.arange(n * 4, dtype=np.uint32).reshape(n, 4).astype(np.uint8)
    labels = np.resize(np.arange(3, dtype=np.uint8), n)
    return ts.Dataset.from_arrays(images, labels, images[:3], labels[:3], name="steps")


DATA = data_set()


def new_run(hidden: int = 20) -> TrainingRun:
    net = ts.MLP((4, hidden, 3), seed=0, backend=select_backend("cpu", threads=1))
    return TrainingRun(net, DATA, TrainConfig(epochs=1, batch_size=1))


def put_at(run: TrainingRun, step: int) -> TrainingRun:
    """As if ``step`` steps were done: a state of which half comes from another step is not mistaken for a whole."""
    run.batch = run.steps = step
    for array in run.state.values():
        array.fill(step)
    return run


def step_of(run: TrainingRun) -> int:
    """The step that a whole state is of."""
    for name, array in run.state.items():
        assert (array == run.steps).all(), f"{name} is not of step {run.steps}"
    assert run.batch == run.steps
    return run.steps


def restored(path: Path, hidden: int = 20) -> int:
    run = new_run(hidden)
    assert restore(run, DATA, path), "nothing there"
    return step_of(run)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint.safetensors"


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


# --- kill -9 -------------------------------------------------------------------------------------------------------

HIDDEN = 1500
KILLER = """
import os, random, signal, sys, time, warnings
from pathlib import Path
from tests import test_crash as here
import twostroke as ts
from twostroke.models.checkpoint import previous, restore, save_checkpoint

warnings.simplefilter("ignore", DeprecationWarning)  # fork beside the idle threads of BLAS: they take no part
kind, folder, kills = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
path, rng = folder / "checkpoint.safetensors", random.Random(0)
run = here.put_at(here.new_run(here.HIDDEN), 0)

def save():
    if kind == "model":
        ts.save_model(run.net, path)
    else:
        save_checkpoint(run, here.DATA, path)

def load(file):
    if kind == "model":
        values = set(ts.load_model(file).parameters.tolist())
        assert len(values) == 1, "torn"
        return int(values.pop())
    again = here.new_run(here.HIDDEN)
    assert restore(again, here.DATA, file)
    return here.step_of(again)

save()
new = during = files = 0
for number in range(kills):
    first = load(path)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        for step in range(first + 1, first + 2000):
            here.put_at(run, step % 4000)
            save()
            os.write(writer, b".")
        os._exit(1)
    os.close(writer)
    time.sleep(rng.uniform(0.0, 0.015))
    os.kill(child, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1]), "the writer ended by itself"
    done = first
    while told := os.read(reader, 4096):
        done += len(told)
    os.close(reader)
    found = load(path)
    assert found in (done % 4000, (done + 1) % 4000), f"kill {number}: step {found} after step {done}"
    new += found != done % 4000
    for file in (path, previous(path)):
        if file.exists():  # not only the one that is taken
            assert load(file) in ((done - 1) % 4000, done % 4000, (done + 1) % 4000), file
            files += 1
    strays = list(folder.glob(".*.tmp"))
    during += bool(strays) or not path.exists()
    for stray in strays:
        stray.unlink()
print(kills, during, new, files)
"""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["model", "checkpoint"])
def test_a_killed_save_leaves_the_old_or_the_new(kind: str, tmp_path: Path, figure: Note) -> None:
    """At random instants of a loop of saves. (Proves the renames; what fsync is for is proven by the power cuts.)"""
    command = [sys.executable, "-W", "error", "-c", KILLER, kind, str(tmp_path), str(KILLS)]
    result = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    kills, during, new, files = map(int, result.stdout.split())
    assert kills == KILLS
    assert files >= kills
    assert during > kills // 20, "hardly a kill met a save"
    figure(f"{kind}: kills of a loop of saves, none torn", kills)
    figure(f"{kind}: kills that met a save half done", during)
    figure(f"{kind}: kills after which the new state was there, its writer not knowing", new)


# --- a call that fails ---------------------------------------------------------------------------------------------


def faults(kind: Callable[[], BaseException]) -> Iterator[tuple[int, BaseException]]:
    """For the first call, the second, ...: the caller stops when nothing failed any more."""
    for number in range(1, 60):
        yield number, kind()
    pytest.fail("60 calls for one save")


def attempt(save: Callable[[], object]) -> BaseException | None:
    try:
        save()
    except (ModelError, KeyboardInterrupt) as error:
        return error
    return None


ERRORS = [
    *(pytest.param(code, id=errno.errorcode[code]) for code in (errno.ENOSPC, errno.EIO, errno.EROFS)),
    pytest.param(0, id="KeyboardInterrupt"),
]


def fault(code: int) -> BaseException:
    return OSError(code, os.strerror(code)) if code else KeyboardInterrupt()


@pytest.mark.parametrize("code", ERRORS)
def test_a_fault_at_every_call_of_save_model(code: int, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    failed: list[str] = []
    old, new = (ts.MLP((4, 3, 2), seed=seed) for seed in (1, 2))
    for number, error in faults(lambda: fault(code)):
        ts.save_model(old, path)
        with pytest.MonkeyPatch.context() as patch:
            disk = Disk(patch, number, error)
            raised = attempt(lambda: ts.save_model(new, path))
        if raised is None:
            assert len(disk.calls) < number
            break
        assert error in (raised, raised.__cause__)
        failed.append(disk.calls[-1][0])
        assert names(tmp_path) == [path.name], f"a stray file after call {number} failed"
        found = ts.load_model(path)
        replaced = "replace" in [name for name, _ in disk.calls[:-1]]
        assert found.parameters.tobytes() == (new if replaced else old).parameters.tobytes()
    assert failed == ["open", "write", "flush", "fsync", "replace", "open", "fsync"]


@pytest.mark.parametrize("code", ERRORS)
@pytest.mark.parametrize("earlier", [1, 2, 3])
def test_a_fault_at_every_call_of_save_checkpoint(code: int, earlier: int, path: Path, figure: Note) -> None:
    """After one, two and three earlier saves: with nothing kept yet, and with one more."""
    failed: list[tuple[str, Any]] = []
    for number, error in faults(lambda: fault(code)):
        for file in path.parent.iterdir():
            file.unlink()
        for step in range(1, earlier + 1):
            save_checkpoint(put_at(new_run(), step), DATA, path)
        with pytest.MonkeyPatch.context() as patch:
            disk = Disk(patch, number, error)
            raised = attempt(lambda: save_checkpoint(put_at(new_run(), earlier + 1), DATA, path))
        if len(disk.calls) < number:
            assert raised is None
            break
        failed.append(disk.calls[number - 1])
        # An old file that cannot be read is not kept, and that need not end the run.
        assert raised is not None or failed[-1] == ("open", str(path))
        assert raised is None or error in (raised, raised.__cause__)
        assert not [name for name in names(path.parent) if name.endswith(".tmp")]
        assert restored(path) in (earlier, earlier + 1)
        for file in (path, previous(path)):
            assert not file.exists() or restored(file) in (earlier - 1, earlier, earlier + 1), "one of the pair is bad"
        # The run tries again later, and then nothing of the failure is left.
        save_checkpoint(put_at(new_run(), earlier + 2), DATA, path)
        assert restored(path) == earlier + 2
    calls = [name for name, _ in failed]
    assert calls == ["open", "replace", "open", "write", "flush", "fsync", "replace", "open", "fsync"]
    figure("calls of a save_checkpoint, each failed once", len(failed))


FULL = """
import resource, signal, sys
from pathlib import Path
from tests import test_crash as here
from twostroke.models.checkpoint import save_checkpoint
run = here.put_at(here.new_run(), 2)
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
try:
    save_checkpoint(run, here.DATA, Path(sys.argv[1]))
except here.ModelError as error:
    print(error)
"""


def test_a_real_write_that_runs_out_of_room(path: Path) -> None:
    save_checkpoint(put_at(new_run(), 1), DATA, path)
    assert path.stat().st_size > 8192
    command = [sys.executable, "-W", "error", "-c", FULL, str(path)]
    result = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "cannot write" in result.stdout
    assert str(path) in result.stdout
    assert os.strerror(errno.EFBIG) in result.stdout
    assert restored(path) == 1
    assert set(names(path.parent)) <= {path.name, previous(path).name}


# --- a system call that fails, or never returns --------------------------------------------------------------------

# The in-process faults above come with every error; here the long version adds one.
INJECTED = ["signal=SIGKILL", "error=EIO", *(["error=ENOSPC"] if KILLS > 200 else [])]
STRACED = """
import sys
from pathlib import Path
from tests import test_crash as here
from twostroke.models.checkpoint import save_checkpoint
run = here.put_at(here.new_run(), 3)
try:
    save_checkpoint(run, here.DATA, Path(sys.argv[1]))
except here.ModelError as error:
    sys.exit(f"refused: {error}")
"""


def straced(path: Path, syscalls: str, what: str, number: int) -> subprocess.CompletedProcess[str]:
    strace = ["strace", "-f", "-qq", "-o", str(path.parent / "trace"), "-e", f"trace={syscalls}"]
    inject = ["-e", f"inject={syscalls}:{what}:when={number}"] if what else []
    command = [*strace, *inject, sys.executable, "-W", "error", "-c", STRACED, str(path)]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="session")
def strace(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skips where there is no strace, or where it may not trace."""
    if shutil.which("strace") is None:
        pytest.skip("no strace: install it for the faults injected into system calls")
    folder = tmp_path_factory.mktemp("strace")
    command = ["strace", "-f", "-qq", "-o", str(folder / "trace"), "-e", "trace=fsync", "true"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        pytest.skip(f"strace does not work here: {result.stderr.strip()}")


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("what", INJECTED)
def test_a_fault_in_every_system_call_of_a_save(path: Path, what: str, figure: Note) -> None:
    fired = 0
    for syscalls, last in (("write", 1), ("fsync", 2), ("/^rename", 2)):
        for number in range(1, last + 1):
            for file in path.parent.iterdir():
                file.unlink()
            for step in (1, 2):
                save_checkpoint(put_at(new_run(), step), DATA, path)
            result = straced(path, syscalls, what, number)
            trace = (path.parent / "trace").read_text()
            killed = what.startswith("signal")
            assert killed or "(INJECTED)" in trace, f"{syscalls} {number} never came: {result.stderr}"
            fired += 1
            assert result.returncode == (-9 if killed else 1), result.stderr
            assert killed or "refused: " in result.stderr
            assert restored(path) in (2, 3), f"after {what} in {syscalls} {number}"
            for file in (path, previous(path)):
                assert not file.exists() or restored(file) in (1, 2, 3), "one of the pair is bad"
            strays = [name for name in names(path.parent) if name.endswith(".tmp")]
            assert killed or not strays
    figure(f"system calls of a save that failed with {what}", fired)


# --- power cuts ----------------------------------------------------------------------------------------------------

Calls = list[tuple[str, Any]]
State = dict[str, bytes]


class PowerCut:
    """What may be on the disk if the power goes now. A rename that is not yet synced may or may not have happened,
    whatever became of the others; the content of a file that is not synced may be there, lost, torn or zeroed."""

    def __init__(self, durable: State) -> None:
        self.names: dict[str, int] = {}  # on the disk for certain: which content
        self.contents: list[tuple[bytes, bool]] = []  # and whether it is synced
        self.live: dict[str, int] = {}
        self.pending: list[tuple[str, str | None, int]] = []  # target, source, content
        for name, content in durable.items():
            self.names[name] = self._add(content, True)
        self.live = dict(self.names)

    def _add(self, content: bytes, synced: bool) -> int:
        self.contents.append((content, synced))
        return len(self.contents) - 1

    def apply(self, call: tuple[str, Any], folder: str) -> None:
        name, what = call
        if name == "write":
            self.live[what[0]] = self._add(what[1], False)
            self.pending.append((what[0], None, self.live[what[0]]))
        elif name == "replace":
            source, target = what
            self.live[target] = self.live.pop(source)
            self.pending.append((target, source, self.live[target]))
        elif name == "fsync" and what == folder:
            self.names, self.pending = dict(self.live), []
        elif name == "fsync":
            number = self.live[what]
            self.contents[number] = (self.contents[number][0], True)

    def states(self) -> Iterator[State]:
        for happened in itertools.product((False, True), repeat=len(self.pending)):
            found = dict(self.names)
            for yes, (target, source, content) in zip(happened, self.pending, strict=True):
                if yes:
                    found[target] = content
                    if source is not None:
                        found.pop(source, None)
            visible = {name: number for name, number in found.items() if not name.endswith(".tmp")}
            choices = []
            for number in visible.values():
                data, synced = self.contents[number]
                choices.append([data] if synced else [data, b"", data[: len(data) // 2], bytes(len(data))])
            for contents in itertools.product(*choices):
                yield dict(zip(visible, contents, strict=True))


def recorded(path: Path, step: int) -> tuple[State, Calls]:
    """What is there before a save, and its calls."""
    before = {str(file): file.read_bytes() for file in path.parent.iterdir()}
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(patch)
        save_checkpoint(put_at(new_run(), step), DATA, path)
    return before, [call for call in disk.calls if call[0] not in ("open", "flush")]


def cut_power(before: State, calls: Calls, path: Path, scene: Path) -> tuple[int, list[str]]:
    """Load every state that any instant of these calls may leave; the number of states, and what was wrong.

    Wrong is a file that is torn (though the other one may be good), a state of neither step, and a save that had
    returned and is not there.
    """
    wrong, seen = [], set()
    disk, old = PowerCut(before), 2
    for count in range(len(calls) + 1):
        if count:
            disk.apply(calls[count - 1], str(path.parent))
        for state in disk.states():
            key = (count == len(calls), tuple(sorted(state.items())))
            if key in seen:
                continue
            seen.add(key)
            shutil.rmtree(scene, ignore_errors=True)
            scene.mkdir()
            for name, content in state.items():
                (scene / Path(name).name).write_bytes(content)
            try:
                found = restored(scene / path.name)
                for name in state:
                    restored(scene / Path(name).name)
            except (ModelError, UserWarning, AssertionError) as error:
                wrong.append(f"after {count} calls: {error!r}")
                continue
            if found not in ((old + 1,) if count == len(calls) else (old, old + 1)):
                wrong.append(f"after {count} calls: step {found}")
    return len(seen), wrong


@pytest.fixture
def saved_twice(path: Path, tmp_path: Path) -> Path:
    inner = tmp_path / "out" / path.name
    inner.parent.mkdir()
    for step in (1, 2):
        save_checkpoint(put_at(new_run(), step), DATA, inner)
    return inner


def test_a_power_cut_at_any_instant_of_a_save(saved_twice: Path, tmp_path: Path, figure: Note) -> None:
    before, calls = recorded(saved_twice, 3)
    assert [name for name, _ in calls] == ["replace", "write", "fsync", "replace", "fsync"]
    states, wrong = cut_power(before, calls, saved_twice, tmp_path / "scene")
    assert not wrong
    assert states >= 5
    figure("states of the disk after a power cut, all good", states)


@pytest.mark.parametrize("without", ["file", "folder", "rename"])
def test_the_power_cut_test_itself_bites(saved_twice: Path, tmp_path: Path, without: str) -> None:
    """The save as it would be without either fsync, or written in place."""
    before, calls = recorded(saved_twice, 3)
    keep, write, sync_file, _, sync_folder = calls
    if without == "rename":
        path = str(saved_twice)
        calls = [keep, ("write", (path, write[1][1])), ("fsync", path), sync_folder]
    else:
        calls.remove(sync_file if without == "file" else sync_folder)
    _, wrong = cut_power(before, calls, saved_twice, tmp_path / "scene")
    assert wrong


# --- bits that flip ------------------------------------------------------------------------------------------------


def flipped(data: bytes, rng: random.Random) -> tuple[bytes, int]:
    damaged, position = bytearray(data), rng.randrange(len(data))
    damaged[position] ^= 1 << rng.randrange(8)
    return bytes(damaged), position


def test_flips_anywhere_in_a_model_file(tmp_path: Path, figure: Note) -> None:
    """Settings, tensors and origin: the digest covers all."""
    path, rng = tmp_path / "model.safetensors", random.Random(0)
    ts.save_model(ts.MLP((20, 15, 10), seed=1), path, {"data": "steps", "input": "uint8"})
    data = path.read_bytes()
    header = int.from_bytes(data[:8], "little") + 8
    for number in range(FLIPS):
        # Half in the header, where the tensors' digest alone would not see them.
        damaged, _ = flipped(data[:header], rng) if number % 2 else flipped(data[header:], rng)
        path.write_bytes(damaged + data[header:] if number % 2 else data[:header] + damaged)
        for read in (ts.load_model, describe_model):
            with pytest.raises(ModelError):
                read(path)
    figure("model file: flips anywhere, all found", FLIPS)


def test_flips_anywhere_in_a_checkpoint(path: Path, figure: Note) -> None:
    rng, run = random.Random(0), put_at(new_run(2), 7)
    save_checkpoint(run, DATA, path)
    data = path.read_bytes()
    header = int.from_bytes(data[:8], "little") + 8
    assert header > 1000
    for number in range(FLIPS):
        # Half in the header: it is small and would hardly be met.
        damaged, _ = flipped(data[:header], rng) if number % 2 else flipped(data[header:], rng)
        path.write_bytes(damaged + data[header:] if number % 2 else data[:header] + damaged)
        with pytest.raises(ModelError):
            restore(run, DATA, path)
        assert step_of(run) == 7
    figure("checkpoint: flips anywhere, all found", FLIPS)


@pytest.mark.parametrize("damage", ["zeroed", "cut", "stale"])
def test_pages_that_were_not_written(path: Path, damage: str) -> None:
    """Zeroed, missing from there on, or still those of the file before."""
    save_checkpoint(put_at(new_run(), 1), DATA, path)
    old = path.read_bytes()
    save_checkpoint(put_at(new_run(), 2), DATA, path)
    data = path.read_bytes()
    previous(path).unlink()
    pages = range(0, len(data), 4096)
    assert len(pages) > 10
    for start in pages:
        end = min(start + 4096, len(data))
        middle = {"zeroed": bytes(end - start), "cut": b"", "stale": old[start:end]}[damage]
        content = data[:start] + middle + (b"" if damage == "cut" else data[end:])
        if content != data:
            path.write_bytes(content)
            with pytest.raises(ModelError):
                restore(new_run(), DATA, path)
