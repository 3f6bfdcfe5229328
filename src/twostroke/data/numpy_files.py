"""NumPy's files: an .npz of four arrays, or a folder of .npy or .npz files of one array each."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import TwoStrokeError
from ..files.compressed import CHUNK
from ..files.regular_file import check_size, open_regular
from .checks import bad
from .source import ROLES, Source

KERAS_NAMES: Final = ("x_train", "y_train", "x_test", "y_test")
KMNIST_NAMES: Final = ("train-imgs", "train-labels", "test-imgs", "test-labels")  # after the set's name and a dash


def read_npz(path: Path) -> Source:
    """Four arrays under Keras's names, or under those of this package and of MedMNIST."""

    def keys_of(names: Sequence[str]) -> Sequence[str]:
        keys = ROLES if set(names) >= set(ROLES) else KERAS_NAMES
        if missing := [key for key in keys if key not in names]:
            expected = f"{', '.join(KERAS_NAMES)}, or {', '.join(ROLES)}"
            what, there = f"{', '.join(missing)} missing", ", ".join(names[:9]) or "nothing"
            raise bad(what, str(path), there, expected, "Save the arrays under these names.")
        return keys

    arrays = _read_arrays(path, keys_of)
    where = {role: f"{path}[{key}]" for role, key in zip(ROLES, arrays, strict=True)}
    return Source([_without_column(role, x) for role, x in zip(ROLES, arrays.values(), strict=True)], where)


def has_arrays(folder: Path) -> bool:
    """Whether a folder holds a set as files of one array each."""
    return any(_files(folder).values())


def read_folder(folder: Path) -> Source:
    """Four ``.npy`` files, which are mapped into memory, or KMNIST's four ``.npz`` files of one array."""
    files = _files(folder)
    shown = ", ".join(path.name for there in files.values() for path in there)
    if missing := [role.replace("_", " ") for role, there in files.items() if not there]:
        expected = (
            f"{', '.join(f'{name}.npy' for name in KERAS_NAMES)}, or {', '.join(f'{name}.npy' for name in ROLES)}"
        )
        raise bad(f"{', '.join(missing)} missing", str(folder), shown, expected, "Add or rename the files.")
    if any(len(there) > 1 for there in files.values()):
        remedy = "Keep each set in a folder of its own."
        raise bad("more than one data set", str(folder), shown, "one file of each kind", remedy)
    chosen = {role: there[0] for role, there in files.items()}
    arrays = [
        _without_column(role, _mapped(path) if path.suffix == ".npy" else _only(path)) for role, path in chosen.items()
    ]
    return Source(arrays, {role: str(path) for role, path in chosen.items()})


def _files(folder: Path) -> dict[str, list[Path]]:
    """The files of each role, by all the names that it may have."""
    found: dict[str, list[Path]] = {role: [] for role in ROLES}
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix in (".npy", ".npz"))
    except OSError:
        return found  # the reader of IDX files says why
    for path in paths:
        for role, keras, kmnist in zip(ROLES, KERAS_NAMES, KMNIST_NAMES, strict=True):
            if path.name in (f"{role}.npy", f"{keras}.npy") or path.name.endswith(f"-{kmnist}.npz"):
                found[role].append(path)
    return found


def _without_column(role: str, array: NDArray[Any]) -> NDArray[Any]:
    """MedMNIST keeps its labels in a column."""
    return array[:, 0] if role.endswith("labels") and array.shape[1:] == (1,) else array


def _mapped(path: Path) -> NDArray[Any]:
    """The array of an .npy file, read where it is used. Pickles are refused."""
    with open_regular(path):
        pass  # refuses what is no file
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError) as error:
        found, remedy = f"{type(error).__name__}: {error}", "Save it again with numpy.save, as plain numbers."
        raise bad("not a valid .npy file", str(path), found, "an array of numbers", remedy) from error


def _only(path: Path) -> NDArray[Any]:
    """The one array of an .npz file."""

    def keys_of(names: Sequence[str]) -> Sequence[str]:
        if len(names) != 1:
            raise bad("more than one array", str(path), ", ".join(names[:9]), "one", "Download it again.")
        return names

    (array,) = _read_arrays(path, keys_of).values()
    return array


def _read_arrays(path: Path, keys_of: Callable[[Sequence[str]], Sequence[str]]) -> dict[str, NDArray[Any]]:
    """The arrays that ``keys_of`` chooses from their names; the others are checked for damage."""
    at = str(path)
    with open_regular(path) as file:
        try:
            stored = os.fstat(file.fileno()).st_size
            with zipfile.ZipFile(file) as archive:
                infos = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
                if len(infos) < len(archive.infolist()):
                    twice = ", ".join(sorted(info.filename for info in archive.infolist())[:9])
                    raise bad("an array is there twice", at, twice, "different names", "Save it again.")
                keys = keys_of([*infos])
                check_size(sum(info.file_size for info in infos.values()), stored, at)
                arrays = {key: _read_member(archive, infos[key], f"{at}[{key}]") for key in keys}
                for name in sorted(infos.keys() - set(keys)):  # not used, and not damaged either: zipfile compares sums
                    with _open_member(archive, infos[name], f"{at}[{name}]") as member:
                        while member.read(CHUNK):
                            pass
        except TwoStrokeError:
            raise
        except Exception as error:  # zipfile and numpy.lib.format raise a dozen types for a damaged file
            file.seek(0)
            kind = _kind(file.read(512))
            found = kind or f"{type(error).__name__}: {error}"
            remedy = "See docs/your-own-data.md." if kind else "Save it again with numpy.savez."
            expected = "an .npz file, a table (.csv, .tsv, .parquet), or a folder of IDX files, .npy files or pictures"
            raise bad("not a valid .npz file", at, found, expected, remedy) from error
    return arrays


def _kind(start: bytes) -> str:
    """What a file is that begins so, if it is no .npz; "" if that is not known."""
    if start[:2] in (b"PK", b""):
        return ""
    for magic, kind in (
        (b"\x00\x00", "one IDX file: name the folder of all four"),
        (b"\x1f\x8b", "a gzip file: unpack it, or name the folder of all four IDX files"),
        (b"\x93NUMPY", "one .npy file: name the folder of all four"),
        (b"\x89HDF", "an HDF5 file"),
        (b"\x80", "a pickle"),
        (b"PAR1", "a Parquet file without .parquet in its name"),
        (b"MATLAB", "a MATLAB file"),
        (b"\x89PNG", "a picture: name the folder of the folders of pictures"),
        (b"\xff\xd8\xff", "a picture: name the folder of the folders of pictures"),
        (b"SQLite", "an SQLite database"),
        (b"Rar!", "a RAR archive: unpack it"),
        (b"7z\xbc\xaf", "a 7z archive: unpack it"),
        (b"<", "a web page: the download failed"),
    ):
        if start.startswith(magic):
            return kind
    if start[257:262] == b"ustar":
        return "a tar archive: unpack it"
    return "text: a table is recognised by .csv or .tsv in its name" if start.isascii() and b"\0" not in start else ""


def _open_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str) -> IO[bytes]:
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others may need GiB to unpack
        found, expected = f"method {info.compress_type}", "0 (stored) or 8 (deflated)"
        raise bad("unsupported compression", where, found, expected, "Save it again with numpy.savez.")
    return archive.open(info)


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str) -> NDArray[Any]:
    """Read one array. NumPy allocates what its header claims, so the header is checked first."""
    with _open_member(archive, info, where) as member:
        version = np.lib.format.read_magic(member)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(member)
        promised, present = math.prod(shape) * dtype.itemsize, info.file_size - member.tell()
    if dtype.hasobject:
        raise bad("values of the wrong type", where, f"dtype {dtype}", "numbers", "Save plain numbers.")
    if promised != present:
        found, expected = f"{present} data bytes", f"{promised} by its header"
        raise bad("the data is truncated or padded", where, found, expected, "Save it again with numpy.savez.")
    with archive.open(info) as member:
        return np.asarray(np.lib.format.read_array(member, allow_pickle=False))
