"""A disk that fails: every call by which a file changes is noted, and the n-th raises."""

from __future__ import annotations

import os
from typing import Any

import pytest

from twostroke.files import atomic_file


class Disk:
    """Wraps every call that ``atomic_file`` makes, as long as ``patch`` holds; ``calls`` are (name, what)."""

    def __init__(self, patch: pytest.MonkeyPatch, fail_at: int = 0, error: BaseException | None = None) -> None:
        self.calls: list[tuple[str, Any]] = []
        self._fail_at, self._error = fail_at, error
        self._names: dict[int, str] = {}
        real_open, real_fsync, real_replace = os.open, os.fsync, os.replace

        def fake_open(path: Any, flags: int, mode: int = 0o777) -> int:
            self.note("open", os.fspath(path))
            if flags & (os.O_WRONLY | os.O_RDWR):
                assert flags & os.O_EXCL, "a temporary file must be new"
                assert flags & os.O_CREAT
            descriptor = real_open(path, flags, mode)
            self._names[descriptor] = os.fspath(path)
            return descriptor

        def fake_fsync(descriptor: int) -> None:
            self.note("fsync", self._names[descriptor])
            real_fsync(descriptor)

        def fake_replace(source: Any, target: Any) -> None:
            self.note("replace", (os.fspath(source), os.fspath(target)))
            real_replace(source, target)

        def file_open(descriptor: int, mode: str) -> Any:
            return _File(self, open(descriptor, mode), self._names[descriptor])

        patch.setattr(os, "open", fake_open)
        patch.setattr(os, "fsync", fake_fsync)
        patch.setattr(os, "replace", fake_replace)
        patch.setattr(atomic_file, "open", file_open, raising=False)

    def note(self, name: str, what: Any) -> None:
        self.calls.append((name, what))
        if len(self.calls) == self._fail_at:
            assert self._error is not None
            raise self._error


class _File:
    """A file whose write may fail halfway."""

    def __init__(self, disk: Disk, inner: Any, name: str) -> None:
        self._disk, self._inner, self._name = disk, inner, name

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: object) -> None:
        self._inner.close()

    def write(self, data: bytes) -> None:
        self._inner.write(data[: len(data) // 2])
        self._inner.flush()
        self._disk.note("write", (self._name, data))
        self._inner.write(data[len(data) // 2 :])

    def flush(self) -> None:
        self._disk.note("flush", self._name)
        self._inner.flush()

    def fileno(self) -> int:
        return int(self._inner.fileno())
