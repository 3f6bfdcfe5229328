"""Atomic writes: the file is the old or the new one after a fault in any call, a kill or a power cut."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.disk import Disk
from twostroke.files import atomic_file
from twostroke.files.atomic_file import sync_folder, write_atomically

OLD, NEW = b"old" * 1000, b"new" * 5000


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(OLD)
    return path


def content(path: Path) -> bytes:
    return path.read_bytes()


def names(path: Path) -> list[str]:
    return sorted(p.name for p in path.parent.iterdir())


def open_files() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


# --- the plain way ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"x", NEW])
def test_writes_and_replaces(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "new file"
    write_atomically(path, data)
    assert content(path) == data
    write_atomically(path, NEW)
    assert content(path) == NEW
    assert names(path) == ["new file"]


@pytest.mark.parametrize("name", ["ünïcode ✓", "a\nb", "-rf", ".hidden", "no.suffix.at.all"])
def test_any_name_is_fine(tmp_path: Path, name: str) -> None:
    write_atomically(tmp_path / name, NEW)
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("length", [250, 255])
def test_the_longest_names_are_fine(tmp_path: Path, length: int) -> None:
    write_atomically(tmp_path / ("n" * length), NEW)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600), (0, 0o666)])
def test_the_umask_decides_the_mode(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        write_atomically(tmp_path / "f", NEW)
    finally:
        os.umask(before)
    assert (tmp_path / "f").stat().st_mode & 0o777 == mode


def test_a_link_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(OLD)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    write_atomically(tmp_path / "link", NEW)
    assert content(tmp_path / "elsewhere") == OLD
    assert not (tmp_path / "link").is_symlink()
    assert content(tmp_path / "link") == NEW


def test_a_reader_keeps_the_old_file(target: Path) -> None:
    with target.open("rb") as reader:
        write_atomically(target, NEW)
        assert reader.read() == OLD


@pytest.mark.parametrize("where", ["missing/f", "file/f", "folder"])
def test_impossible_places(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_bytes(OLD)
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        write_atomically(tmp_path / where, NEW)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]
    assert list((tmp_path / "folder").iterdir()) == []
    with pytest.raises(OSError):
        sync_folder(tmp_path / "missing")


# --- every call fails once -------------------------------------------------------------------------------------


def failures(error: Callable[[], BaseException]) -> Iterator[tuple[int, BaseException]]:
    """The first call fails, then the second, ...; the caller stops when no call failed."""
    for number in range(1, 50):
        yield number, error()
    pytest.fail("50 calls to write one file")


def attempt(target: Path) -> OSError | None:
    try:
        write_atomically(target, NEW)
    except OSError as error:
        return error
    return None


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS])
def test_a_failure_at_any_call_leaves_old_or_new(target: Path, code: int) -> None:
    failed = []
    for number, error in failures(lambda: OSError(code, os.strerror(code))):
        target.write_bytes(OLD)
        files = open_files()
        with pytest.MonkeyPatch.context() as patch:
            disk = Disk(patch, number, error)
            raised = attempt(target)
        if raised is None:
            assert content(target) == NEW
            assert len(disk.calls) < number
            break
        assert raised is error
        failed.append(disk.calls[-1][0])
        assert names(target) == [target.name], f"a stray file after call {number} failed"
        assert open_files() == files, f"an open file after call {number} failed"
        replaced = "replace" in [name for name, _ in disk.calls[:-1]]
        assert content(target) == (NEW if replaced else OLD)
        # What failed is not tried again on the same descriptor (a second fsync would claim success).
        assert [name for name, _ in disk.calls].count("fsync") <= 1 + replaced
    assert failed == ["open", "write", "flush", "fsync", "replace", "open", "fsync"]


def test_an_interrupt_cleans_up_too(target: Path) -> None:
    for number in range(1, 6):
        with pytest.MonkeyPatch.context() as patch:
            Disk(patch, number, KeyboardInterrupt())
            with pytest.raises(KeyboardInterrupt):
                write_atomically(target, NEW)
        assert names(target) == [target.name]
        assert content(target) == OLD


FULL_DISK = """
import importlib.util, pathlib, resource, signal, sys
spec = importlib.util.spec_from_file_location("atomic_file", sys.argv[1])
module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    module.write_atomically(pathlib.Path(sys.argv[2]), b"new" * 5000)
except OSError as error:
    print(error.errno)
"""


def test_a_real_write_that_runs_out_of_room(target: Path) -> None:
    pytest.importorskip("resource")
    run = subprocess.run(
        [sys.executable, "-c", FULL_DISK, atomic_file.__file__, target], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == str(errno.EFBIG), run.stderr
    assert content(target) == OLD
    assert names(target) == [target.name]


# --- kill -9 ---------------------------------------------------------------------------------------------------

WRITER = """
import importlib.util, pathlib, sys
spec = importlib.util.spec_from_file_location("atomic_file", sys.argv[1])
module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)
target = pathlib.Path(sys.argv[2])
print("ready", flush=True)
while True:
    for letter in (b"a", b"b"):
        module.write_atomically(target, letter * 300_000)
"""


def test_a_killed_writer_leaves_a_whole_file(target: Path) -> None:
    """Tests the rename; the power cuts below test fsync."""
    rng = random.Random(0)
    seen = set()
    for _ in range(12):
        command = [sys.executable, "-S", "-E", "-c", WRITER, atomic_file.__file__, str(target)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            time.sleep(rng.uniform(0.005, 0.04))
            process.kill()
        found = content(target)
        seen.add(found[:1])
        assert found in (OLD, b"a" * 300_000, b"b" * 300_000)
    assert seen - {b"o"}, "no writer got as far as a single file"


# --- power cuts ------------------------------------------------------------------------------------------------


def states_after_power_cut(calls: list[tuple[str, Any]], path: str) -> set[bytes | None]:
    """Every content that ``path`` may have after a power cut here: an unsynced write may be lost or partial,
    an unsynced rename may or may not have happened."""
    synced: set[str] = set()
    written: dict[str, bytes] = {}
    possible: set[bytes | None] = {OLD}
    for name, what in calls:
        if name == "write":
            written[what[0]] = what[1]
        elif name == "fsync" and what in written:
            synced.add(what)
        elif name == "replace":
            source, target = what
            assert target == path
            data = written[source]
            arrives = {data} if source in synced else {data, data[: len(data) // 2], b"", bytes(len(data))}
            possible |= arrives
            renamed: set[bytes | None] = set(arrives)
        elif name == "fsync":  # of the folder: the rename is on the disk now
            possible = renamed
    return possible


def recorded(target: Path, without: str = "") -> list[tuple[str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(patch)
        write_atomically(target, NEW)
    return [call for call in disk.calls if not (without and call[0] == "fsync" and (call[1].endswith(without)))]


def test_a_power_cut_at_any_instant_leaves_old_or_new(target: Path) -> None:
    calls = recorded(target)
    assert [name for name, _ in calls] == ["open", "write", "flush", "fsync", "replace", "open", "fsync"]
    assert Path(calls[0][1]).parent == target.parent, "a rename works within one file system only"
    for count in range(len(calls) + 1):
        assert states_after_power_cut(calls[:count], str(target)) <= {OLD, NEW}
    assert states_after_power_cut(calls, str(target)) == {NEW}, "done means durable"


def test_the_power_cut_test_itself_bites(target: Path) -> None:
    unsynced_file = recorded(target, without=".tmp")
    assert not states_after_power_cut(unsynced_file[:4], str(target)) <= {OLD, NEW}
    unsynced_folder = recorded(target, without=target.parent.name)
    assert OLD in states_after_power_cut(unsynced_folder, str(target))
