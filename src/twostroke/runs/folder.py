"""The folder that a run writes to: checked before training starts, and locked by one run at a time."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ..errors import ConfigError, TwoStrokeError
from ..files.atomic_file import previous, sync_folder, write_atomically

MODEL: Final = "model.safetensors"
LAST: Final = "last.safetensors"  # the last epoch's model, where that of the best one was kept
RECORD: Final = "record.json"
CHECKPOINT: Final = "checkpoint.safetensors"
PAGE: Final = "report.html"
LOCK: Final = ".lock"  # on Windows
FILES: Final = (MODEL, LAST, RECORD, CHECKPOINT, PAGE, *(previous(Path(n)).name for n in (LAST, RECORD, CHECKPOINT)))


def writable_folder(folder: Path, argument: str) -> Path:
    """Make the folder and try to write to it, before an hour of training depends on it. Raises ``ConfigError``."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        problem = _blocked(folder)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        problem = getattr(error, "strerror", None) or str(error)
    if problem:
        raise _unwritable(folder, argument, problem)
    return folder


def would_be_writable(folder: Path, argument: str) -> Path:
    """The folder, if its nearest existing parent can be written to; makes nothing. Raises ``ConfigError``."""
    try:
        nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        problem = _blocked(folder)
        if not nearest.is_dir():
            problem = f"{nearest} is not a folder"
        elif not os.access(nearest, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
            problem = f"{nearest}: permission denied"
    except (OSError, ValueError) as error:
        problem = getattr(error, "strerror", None) or str(error)
    if problem:
        raise _unwritable(folder, argument, problem)
    return folder


def newest_model(root: Path = Path("runs")) -> Path | None:
    """The model that was written last into a folder of ``root``, where runs write by default."""
    return max(root.glob(f"*/{MODEL}"), key=lambda path: path.stat().st_mtime, default=None)


def write_file(path: Path, data: bytes, what: str, error: type[TwoStrokeError] = ConfigError, remedy: str = "") -> None:
    """Write ``data`` atomically; raise ``error`` "cannot write ``what``"."""
    try:
        write_atomically(path, data)
    except OSError as fault:
        raise error(f"cannot write {what}", where=path, found=fault.strerror, remedy=remedy or None) from fault


def set_aside(path: Path, argument: str) -> None:
    """Rename a file of an earlier run: from now on a file of its name is this run's."""
    try:
        os.replace(path, previous(path))
        sync_folder(path.parent)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise _unwritable(path.parent, argument, error.strerror or str(error)) from error


def _blocked(folder: Path) -> str | None:
    blocked = any((folder / name).is_dir() for name in FILES)
    return f"a folder in the place of {' or '.join(FILES)}" if blocked else None


def _unwritable(folder: Path, argument: str, problem: str) -> ConfigError:
    where, remedy = f"{argument} {folder}", "Choose another with --out DIR."
    return ConfigError("cannot write to the output folder", where=where, found=problem, remedy=remedy)


@contextlib.contextmanager
def locked(folder: Path, argument: str) -> Iterator[None]:
    """Lock the folder; ``ConfigError`` if another process has locked it. The lock ends with the process.

    Correctness does not depend on it: some network file systems ignore locks, and files are written atomically.
    """
    with contextlib.ExitStack() as held:
        try:
            _lock(folder, held)
        except (BlockingIOError, TimeoutError) as error:
            where = f"{argument} {folder}"
            raise ConfigError("another run writes here", where=where, remedy="Choose another, or wait.") from error
        except (OSError, NotImplementedError):  # a file system without locks
            pass
        yield


def _lock(folder: Path, held: contextlib.ExitStack) -> None:
    """Lock until ``held`` ends. flock locks the folder itself and leaves no file; Windows needs a file to lock."""
    try:
        import fcntl
    except ImportError:
        from filelock import FileLock

        held.enter_context(FileLock(folder / LOCK, timeout=0))
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    held.callback(os.close, descriptor)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
