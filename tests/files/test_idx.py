"""The IDX reader: every fault is refused with one line that names it."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import random
import struct
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from tests.support.memory import peak_of
from twostroke.errors import DataError
from twostroke.files import compressed, idx, regular_file
from twostroke.files.idx import parse_idx, read_bytes, read_idx

Array = NDArray[Any]

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}
# Preset 0 of xz: the dictionary of the default preset would be 8 MiB of memory to unpack a few bytes.
PACK: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "xz": lambda data: lzma.compress(data, preset=0),
}
MIB = 1 << 20


def header(code: int, *dims: int) -> bytes:
    return struct.pack(f">BBBB{len(dims)}I", 0, 0, code, len(dims), *dims)


def encode(array: Array) -> bytes:
    code = CODES[array.dtype.str[1:]]
    return header(code, *array.shape) + array.astype(array.dtype.newbyteorder(">")).tobytes()


def refused(path: str | Path, *parts: str, ndim: int | None = None) -> str:
    """The DataError of read_idx: one line with the file, the values found and expected, and a remedy."""
    with pytest.raises(DataError) as caught:
        read_idx(path, ndim)
    return check_message(str(caught.value), str(path), *parts)


def check_message(message: str, where: str, *parts: str) -> str:
    assert "\n" not in message
    assert f": {where}: found " in message
    assert ", expected " in message
    assert message.endswith((".", "?"))
    assert ". " in message, "no next step"
    for part in parts:
        assert part in message
    return message


def write(tmp_path: Path, data: bytes | bytearray, name: str = "train-images-idx3-ubyte") -> Path:
    path = tmp_path / name
    path.write_bytes(data)
    return path


IMAGES = np.arange(5 * 3 * 4, dtype=np.uint8).reshape(5, 3, 4)
GOOD = encode(IMAGES)


# What is sound is read.


@pytest.mark.parametrize("pack", PACK)
@pytest.mark.parametrize("kind", CODES)
def test_reads_every_type_to_native_values_in_own_memory(tmp_path: Path, kind: str, pack: str) -> None:  # row 14
    array = np.array([[0, 1, 2], [3, 100, 127]], dtype=kind)
    if kind != "u1":
        array[0, 0] = -7
    path = write(tmp_path, PACK[pack](encode(array)))
    result = read_idx(path)
    assert result.dtype == np.dtype(kind)
    assert result.dtype.isnative
    np.testing.assert_array_equal(result, array)
    path.write_bytes(b"")  # no mapping of the file: what was read stays
    np.testing.assert_array_equal(result, array)


def test_hand_written_bytes() -> None:
    data = b"\0\0\x0b\x02\0\0\0\x02\0\0\0\x01\x01\x02\xff\xfe"
    np.testing.assert_array_equal(parse_idx(data, "x"), np.array([[258], [-2]], dtype=np.int16))


def test_parsing_bytes_copies_them() -> None:
    result = parse_idx(GOOD, "x")
    result[0, 0, 0] = 99
    assert bytes(encode(IMAGES)) == GOOD


@pytest.mark.parametrize("pack", PACK)
@pytest.mark.parametrize("name", ["a.gz", "a.xz", "a", "Bilder für alle.gz", "a\nb"])
def test_the_first_bytes_decide_not_the_name(tmp_path: Path, pack: str, name: str) -> None:  # row 21
    np.testing.assert_array_equal(read_idx(write(tmp_path, PACK[pack](GOOD), name), 3), IMAGES)


def test_a_name_in_the_gzip_header_is_skipped(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with gzip.GzipFile("some-name", "wb", fileobj=buffer) as file:
        file.write(GOOD)
    np.testing.assert_array_equal(read_idx(write(tmp_path, buffer.getvalue())), IMAGES)


@pytest.mark.parametrize("pack", PACK)
def test_no_samples_are_loadable_for_inspection(tmp_path: Path, pack: str) -> None:  # row 8: the data set refuses them
    assert read_idx(write(tmp_path, PACK[pack](header(8, 0, 28, 28)))).shape == (0, 28, 28)


def test_data_larger_than_one_chunk(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (3 * compressed.CHUNK + 5,), dtype=np.uint8)
    for name, pack in PACK.items():
        np.testing.assert_array_equal(read_idx(write(tmp_path, pack(encode(array)), name)), array)


@pytest.mark.parametrize("chunk", [1, 2, 3, 7])
@pytest.mark.parametrize("pack", PACK)
def test_pieces_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: str, chunk: int) -> None:
    path = write(tmp_path, PACK[pack](GOOD))
    monkeypatch.setattr(idx, "CHUNK", chunk)
    monkeypatch.setattr(compressed, "CHUNK", chunk)
    np.testing.assert_array_equal(read_idx(path), IMAGES)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    array=hnp.arrays(
        st.sampled_from([np.dtype(kind) for kind in CODES]),
        hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=6),
    ),
    pack=st.sampled_from(sorted(PACK)),
)
def test_round_trip(tmp_path: Path, array: Array, pack: str) -> None:
    result = read_idx(write(tmp_path, PACK[pack](encode(array))), array.ndim)
    assert result.dtype == array.dtype
    assert result.tobytes() == array.tobytes()  # NaN payloads too
    assert result.shape == array.shape


# What is not sound is refused.


@pytest.mark.parametrize("pack", PACK)
def test_swapped_images_and_labels(tmp_path: Path, pack: str) -> None:  # row 1
    path = write(tmp_path, PACK[pack](GOOD), "train-labels-idx1-ubyte")
    refused(
        path,
        "magic 0x00000803 is a 3-D ubyte file (images)",
        "expected 0x00000801 (labels)",
        "Were images and labels swapped?",
        ndim=1,
    )
    refused(write(tmp_path, PACK[pack](header(8, 1) + b"\1")), "0x00000801", "expected 0x00000803", ndim=3)


FAULTS: dict[str, tuple[bytes, list[str]]] = {
    "little-endian magic": (b"\x03\x08\0\0" + GOOD[4:], ["magic 0x03080000", "two zero bytes"]),  # row 1
    "html": (b"<!DOCTYPE html><html>no</html>", ["<!DOCTYPE", "Download it again"]),  # row 2
    "zip": (b"PK\x03\x04" + bytes(40), ["PK", "Download it again"]),
    "type 0x0A": (b"\0\0\x0a\x03" + GOOD[4:], ["0x0A", "0x08 ubyte", "0x0E double"]),  # row 3
    "ndim 0": (b"\0\0\x08\0" + GOOD[4:], ["found 0", "1 to 4"]),  # row 4
    "ndim 5": (header(8, 1, 1, 1, 1, 1) + b"a", ["found 5", "1 to 4"]),
    "ndim 255": (b"\0\0\x08\xff" + GOOD[4:], ["found 255", "1 to 4"]),
    "dims 2^32-1": (header(8, *[2**32 - 1] * 3), [str((2**32 - 1) ** 3)]),  # row 6
    "product wraps to 0": (header(8, *[65536] * 4), [str(2**64)]),
    "dim 2^31": (header(8, 2**31) + b"a", ["2147483648"]),  # row 7
    "empty but huge": (header(14, 0, *[2**32 - 1] * 3), [str(8 * (2**32 - 1) ** 3)]),
    "rows 0": (header(8, 5, 0, 4), ["shape (5, 0, 4)"]),  # row 9
    "cols 0": (header(8, 5, 3, 0), ["shape (5, 3, 0)"]),
    "short by 1": (GOOD[:-1], ["59 data bytes", "60 by its header"]),  # row 10
    "no data": (GOOD[:16], ["0 data bytes", "60 by its header"]),
    "extra 1": (GOOD + b"\0", ["1 extra bytes", "60 by its header"]),  # row 11
}


@pytest.mark.parametrize("pack", PACK)
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_header_and_length(tmp_path: Path, fault: str, pack: str) -> None:
    data, parts = FAULTS[fault]
    path = write(tmp_path, PACK[pack](data))
    peak = peak_of(lambda: refused(path, *parts if pack == "plain" else []))
    assert peak < 2 * MIB  # row 6: nothing is allocated on a header's word
    if pack == "plain":
        with pytest.raises(DataError) as caught:
            parse_idx(data, "these bytes")
        check_message(str(caught.value), "these bytes", *parts)


def test_many_extra_bytes_are_counted(tmp_path: Path) -> None:  # row 11
    refused(write(tmp_path, GOOD + bytes(16)), "16 extra bytes after the data", "Download it again")


@pytest.mark.parametrize("pack", PACK)
@pytest.mark.parametrize("size", range(16))
def test_header_cut_at_every_byte(tmp_path: Path, size: int, pack: str) -> None:  # row 5
    path = write(tmp_path, PACK[pack](GOOD[:size]))
    empty = pack == "plain" and size == 0
    needs = "at least 4" if size < 4 else "16"
    refused(path, f"found {size} bytes", "an IDX file" if empty else f"expected {needs}", "Download it again")


@pytest.mark.parametrize("kind", ["gzip", "xz"])
def test_compressed_data_cut_anywhere(tmp_path: Path, kind: str) -> None:  # rows 15, 18
    noise = np.random.default_rng(1).integers(0, 256, (400, 10, 10), dtype=np.uint8)
    data = PACK[kind](encode(noise))
    cuts = sorted({*range(6, 24), *random.Random(0).sample(range(6, len(data)), 50), len(data) - 1})
    for cut in cuts:
        refused(write(tmp_path, data[:cut]), f"the {kind} data is truncated", f"byte {cut}", "Download it again")
    for cut in range(6):
        refused(write(tmp_path, data[:cut]), f"found {'0 bytes' if cut == 0 else ''}")


@pytest.mark.parametrize("position", range(1, 9))
@pytest.mark.parametrize("bit", [0, 7])
def test_gzip_checksum_and_size_flipped(tmp_path: Path, position: int, bit: int) -> None:  # row 16
    data = bytearray(gzip.compress(GOOD))
    data[-position] ^= 1 << bit
    which = "incorrect length check" if position <= 4 else "incorrect data check"
    refused(write(tmp_path, data), "the gzip data is damaged", which, "Download it again")


@pytest.mark.parametrize("kind", ["gzip", "xz"])
def test_any_flipped_byte_is_harmless_or_refused(tmp_path: Path, kind: str) -> None:  # row 17
    data = PACK[kind](encode(np.random.default_rng(2).integers(0, 9, 300, dtype=np.uint8)))
    refusals = 0
    for i in range(len(data)):
        flipped = bytearray(data)
        flipped[i] ^= 0xFF
        try:
            assert read_idx(write(tmp_path, flipped)).shape == (300,)
        except DataError as error:
            check_message(str(error), str(tmp_path / "train-images-idx3-ubyte"))
            refusals += 1
    assert refusals >= len(data) - 8  # gzip's time stamp and two of its flags say nothing about the data


def test_zlib_error_is_mapped(tmp_path: Path) -> None:  # row 17
    data = gzip.compress(GOOD)[:10] + b"\xff" * 40
    with pytest.raises(zlib.error):
        gzip.decompress(data)
    refused(write(tmp_path, data), "the gzip data is damaged", "invalid block type", "Download it again")


def test_empty_file_named_gz(tmp_path: Path) -> None:  # row 18
    refused(write(tmp_path, b"", "a.gz"), "the file is empty", "0 bytes", "Download it again")


@pytest.mark.parametrize("kind", ["gzip", "xz"])
@pytest.mark.parametrize("tail", ["zero", "zeros", "garbage", "same", "empty member"])
def test_anything_after_the_member(
    tmp_path: Path, kind: str, tail: str
) -> None:  # row 19: Python's gzip ignores most of it in silence
    data = PACK[kind](GOOD)
    more = {"zero": b"\0", "zeros": bytes(5000), "garbage": b"abc", "same": data, "empty member": PACK[kind](b"")}
    refused(write(tmp_path, data + more[tail]), f"{len(more[tail])} extra bytes", "one member", "Download it again")
    refused(write(tmp_path, data + bytes(2 * compressed.CHUNK)), f"{2 * compressed.CHUNK} extra bytes")


def bomb(kind: str, start: bytes, mib: int) -> bytes:
    """``start`` and many zeros, compressed piece by piece."""
    packer = zlib.compressobj(9, wbits=31) if kind == "gzip" else lzma.LZMACompressor(preset=0)
    parts = [packer.compress(start), *(packer.compress(bytes(MIB)) for _ in range(mib)), packer.flush()]
    return b"".join(parts)


@pytest.mark.parametrize("kind", ["gzip", "xz"])
@pytest.mark.parametrize(
    ("start", "part"),
    [
        (b"", "0x00"),  # zeros only: no such type
        (header(8, 5, 3, 4), "extra bytes"),
        (header(8, 256 * MIB - 16), "promises too much"),  # honest, and yet a bomb
        (header(8, 2**32 - 1, 2**32 - 1), "promises too much"),
        (header(8, 2**32 - 1), "promises too much"),
    ],
)
def test_bomb(tmp_path: Path, kind: str, start: bytes, part: str) -> None:  # row 20
    path = write(tmp_path, bomb(kind, start, 256))
    assert peak_of(lambda: refused(path, part)) < 8 * MIB


def test_compressed_twice(tmp_path: Path) -> None:  # row 20
    for outer in ("gzip", "xz"):
        for inner in ("gzip", "xz"):
            refused(write(tmp_path, PACK[outer](PACK[inner](GOOD))), "not an IDX file", "Unpack it once")


def test_xz_that_asks_for_much_memory(tmp_path: Path) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 64 << 20}]
    data = bytearray(lzma.compress(GOOD, filters=filters))
    # The block header: size, flags, filter id, size of properties, dictionary size code, padding, CRC32.
    assert data[12:16] == bytes([2, 0, 0x21, 1])
    data[16] = 40  # 4 GiB
    data[20:24] = struct.pack("<I", zlib.crc32(data[12:20]))
    refused(write(tmp_path, data), "the xz data is damaged", "emory")


def test_file_cut_while_being_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # row 22
    path = write(tmp_path, encode(np.zeros(5 * MIB, np.uint8)))
    original = regular_file.check_size

    def cut_now(*args: Any) -> None:
        os.truncate(path, 2 * MIB)
        original(*args)

    monkeypatch.setattr(idx, "check_size", cut_now)
    refused(path, "the data is truncated", f"{2 * MIB - 8} data bytes", f"{5 * MIB} by its header")


def test_file_grown_while_being_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # row 22
    path = write(tmp_path, GOOD)
    original = regular_file.check_size

    def grow_now(*args: Any) -> None:
        with open(path, "ab") as file:
            file.write(b"more")
        original(*args)

    monkeypatch.setattr(idx, "check_size", grow_now)
    refused(path, "bytes after the data")


@pytest.mark.timeout(20)
def test_not_a_regular_file(tmp_path: Path) -> None:  # row 23
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    link = tmp_path / "link"
    link.symlink_to(fifo)
    for path in (fifo, link, tmp_path, "/dev/zero", "/dev/null"):
        refused(path, "not a regular file", "Name the file itself")


@pytest.mark.timeout(20)
def test_fifo_put_in_place_after_the_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # row 23
    path = write(tmp_path, GOOD)
    looked = os.stat(path)
    path.unlink()
    os.mkfifo(path)
    monkeypatch.setattr(os, "stat", lambda _: looked)
    refused(path, "not a regular file")


def test_missing_unreadable_and_impossible_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(tmp_path / "none", "No such file or directory", "Check the path")
    refused(tmp_path / ("x" * 300), "File name too long", "Check the path")
    refused(str(tmp_path) + "/a\0b", "null", "Check the path")
    path = write(tmp_path, GOOD)
    monkeypatch.setattr(os, "open", raising(PermissionError(13, "Permission denied")))
    refused(path, "Permission denied", "Check the path")


def test_read_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, GOOD)
    monkeypatch.setattr(os, "fstat", raising(OSError(5, "Input/output error")))
    with pytest.raises(DataError, match="Input/output error"):
        read_idx(path)
    monkeypatch.undo()
    monkeypatch.setattr(idx, "_fill", raising(OSError(5, "Input/output error")))
    refused(path, "cannot read the file", "Input/output error")


def raising(error: Exception) -> Callable[..., Any]:
    def function(*_: object) -> None:
        raise error

    return function


def test_relative_paths_are_named_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, GOOD[:-1], "a")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught:
        read_idx("a")
    check_message(str(caught.value), str(tmp_path / "a"))


def test_bytes_are_the_uncompressed_file(tmp_path: Path) -> None:
    for pack in PACK.values():
        assert read_bytes(write(tmp_path, pack(GOOD))) == GOOD


def test_threads_read_the_same(tmp_path: Path) -> None:
    path = write(tmp_path, gzip.compress(GOOD))
    results = []
    threads = [threading.Thread(target=lambda: results.append(read_idx(path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    assert all(np.array_equal(result, IMAGES) for result in results)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=400)
@given(
    data=st.one_of(
        st.binary(max_size=200),
        st.builds(lambda code, dims, rest: header(code, *dims) + rest, st.sampled_from(sorted(CODES.values())),
                  st.lists(st.integers(0, 3) | st.integers(0, 2**32 - 1), min_size=1, max_size=4),
                  st.binary(max_size=64)),
        st.builds(lambda i, b: GOOD[:i] + b + GOOD[i:], st.integers(0, len(GOOD)), st.binary(max_size=2)),
    ),
    pack=st.sampled_from(sorted(PACK)),
    cut=st.none() | st.integers(0, 100),
)  # fmt: skip
def test_any_bytes_parse_or_are_refused(tmp_path: Path, data: bytes, pack: str, cut: int | None) -> None:
    path = write(tmp_path, PACK[pack](data)[:cut])
    try:
        result = read_idx(path)
    except DataError as error:
        check_message(str(error), str(path))
    else:
        assert encode(result) == data
