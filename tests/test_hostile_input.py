"""Files written by an enemy: only the documented errors, memory like the file's, nothing run and nothing written."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import twostroke as ts
from tests.fuzz import targets
from tests.support.audit import require_harmless
from tests.support.memory import peak_of
from twostroke.engine.config import TrainConfig
from twostroke.engine.training import TrainingRun
from twostroke.errors import ConfigError, DataError, ModelError
from twostroke.files import sealed_file
from twostroke.files.atomic_file import previous
from twostroke.files.idx import read_idx
from twostroke.models.checkpoint import restore, save_checkpoint
from twostroke.models.model_file import describe_model

MIB = 1 << 20
Note = Callable[[str, float], None]


def refuse(path: Path) -> str:
    """What a restore says when there is no good checkpoint left."""
    with pytest.raises(ModelError) as caught:
        restore(targets.new_run(), targets.data_set(), path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint.safetensors"


@pytest.fixture
def good(path: Path) -> bytes:
    run = targets.new_run()
    run.advance(2)
    save_checkpoint(run, targets.data_set(), path)
    return path.read_bytes()


# --- a moment of fuzzing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "executions"), [("idx", 3000), ("npz", 1500), ("model", 2000), ("checkpoint", 2000)])
def test_only_documented_errors_leave_a_reader(name: str, executions: int, figure: Note) -> None:
    """The same inputs every time. ``python -m tests.fuzz`` goes on for as long as you like."""
    largest = targets.fuzz(name, executions)
    assert largest < 64 * MIB
    figure(f"fuzz {name}: executions, no fault", executions)
    figure(f"fuzz {name}: MiB, the most that one input took", largest / MIB)


def test_the_fuzz_targets_bite(monkeypatch: pytest.MonkeyPatch) -> None:
    """An undocumented error is reported with its input."""

    def careless(data: bytes) -> None:
        if len(data) % 7 == 0:
            raise KeyError("careless")

    monkeypatch.setitem(targets.TARGETS, "idx", targets.Target(careless, targets.TARGETS["idx"].seeds))
    with pytest.raises((KeyError, AssertionError), match="careless"):
        targets.fuzz("idx", 200)


@pytest.mark.parametrize("name", targets.TARGETS)
def test_the_seeds_of_every_target_are_good_files(name: str, tmp_path: Path) -> None:
    """A fuzzer that begins with refused files sees nothing but the first check."""
    for number, seed in enumerate(targets.TARGETS[name].seeds()):
        file = tmp_path / f"{number}.npz"
        file.write_bytes(seed)
        if name == "idx":
            assert read_idx(file).size
        elif name == "npz":
            assert ts.load_dataset(file).n_classes == 3
        elif name == "model":
            assert ts.load_model(file).layers == (3, 2)
        else:
            assert restore(targets.new_run(), targets.data_set(), file)


# --- more than there is --------------------------------------------------------------------------------------------


def sparse(path: Path, start: bytes, size: int) -> Path:
    """A file of ``size`` bytes that takes no room on the disk."""
    with path.open("wb") as file:
        file.write(start)
        file.truncate(size)
    return path


STARTS = {
    "zeros": b"",
    "a header beyond the limit": (1 << 30).to_bytes(8, "little"),
    "a ZIP": b"PK\x03\x04",
    "a pickle": b"\x80\x04\x95",
}


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS.keys())
def test_a_huge_file_that_is_no_model_is_not_read(path: Path, start: bytes) -> None:
    """8 GiB that take no room on the disk: the first bytes are enough to refuse them."""
    for size in (8 << 30, sealed_file.MAX_FILE_BYTES + 1):
        sparse(path, start, size)
        assert peak_of(lambda: refuse(path)) < MIB
        with pytest.raises(ModelError):
            ts.load_model(path)


@pytest.mark.parametrize("size", [8 << 30, sealed_file.MAX_FILE_BYTES])
def test_a_good_file_made_longer_is_not_read(path: Path, good: bytes, size: int) -> None:
    """Its header says where its tensors end."""
    model = path.with_name("model.safetensors")
    ts.save_model(ts.MLP((3, 2)), model)
    for file, read in ((path, lambda: refuse(path)), (model, lambda: refused_model(model))):
        os.truncate(file, size)
        assert peak_of(read) < MIB


def refused_model(path: Path) -> None:
    for read in (ts.load_model, describe_model):
        with pytest.raises(ModelError, match="of header and"):
            read(path)


def header_of(data: bytes) -> tuple[dict[str, Any], bytes]:
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def packed(header: dict[str, Any], body: bytes) -> bytes:
    raw = json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + body


@pytest.mark.parametrize("shape", [[2**40], [2**62, 2**62], [10**9] * 8, [0], [0, 2**40], [-1], [2**64]])
@pytest.mark.parametrize("name", ["parameters", "extra"])
def test_a_checkpoint_whose_header_lies_allocates_nothing(path: Path, good: bytes, name: str, shape: list[int]) -> None:
    header, body = header_of(good)
    header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [0, 4 * int(np.prod(shape, dtype=object))]}
    path.write_bytes(packed(header, body))
    assert peak_of(lambda: refuse(path)) < 4 * MIB


def test_an_identity_that_promises_a_huge_network_allocates_nothing(path: Path, good: bytes) -> None:
    """It is compared with the run, and nothing is built from it."""
    header, body = header_of(good)
    text = json.loads(header["__metadata__"]["run"])
    text["identity"]["layers"] = [10**9] * 1000
    text["position"]["epoch"] = 10**12
    header["__metadata__"] |= {"run": json.dumps(text)}
    del header["__metadata__"]["sha256"]
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode() + body)
    header["__metadata__"] |= {"sha256": digest.hexdigest()}
    path.write_bytes(packed(header, body))

    def other() -> None:
        with pytest.raises(ConfigError, match="layers"):
            restore(targets.new_run(), targets.data_set(), path)

    assert peak_of(other) < 4 * MIB


def test_restoring_takes_memory_like_the_file_s(path: Path) -> None:
    data = targets.data_set()
    big = TrainingRun(ts.MLP((6, 20_000, 3), seed=1), data, TrainConfig(epochs=2, batch_size=8))
    save_checkpoint(big, data, path)
    size = path.stat().st_size
    assert size > MIB
    assert peak_of(lambda: restore(big, data, path)) < 5 * size


def test_a_model_in_a_bomb_is_not_unpacked(path: Path) -> None:
    """A ZIP of 100 MiB of zeros, which other tools' model files are."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("weights.npy", bytes(100 * MIB))
    assert path.stat().st_size < MIB
    assert peak_of(lambda: refuse(path)) < 4 * MIB
    with pytest.raises(ModelError, match="ZIP"):
        ts.load_model(path)
    with pytest.raises(DataError):
        ts.load_dataset(path)


# --- not a file, or another one ------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/full", "/dev/null"])
def test_devices_behind_a_link_are_not_read(path: Path, device: str) -> None:
    """Reading /dev/zero has no end."""
    path.symlink_to(device)
    assert "not a regular file" in refuse(path)
    with pytest.raises(ModelError, match="not a regular file"):
        ts.load_model(path)
    with pytest.raises(DataError, match="not a regular file"):
        read_idx(path)


def test_pipes_in_the_place_of_both_checkpoints(path: Path) -> None:
    """Opening one would wait for ever."""
    os.mkfifo(path)
    os.mkfifo(previous(path))
    assert refuse(path).count("not a regular file") == 2


def test_a_save_writes_through_no_link(path: Path, tmp_path: Path) -> None:
    """Neither to where the target points, nor to where the kept one does, nor through a temporary name."""
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    path.symlink_to(precious)
    previous(path).symlink_to(precious)
    for _ in range(3):
        save_checkpoint(targets.new_run(), targets.data_set(), path)
    assert precious.read_bytes() == b"precious"
    assert not path.is_symlink()
    assert not previous(path).is_symlink()


class Canary:
    """Unpickling this makes a folder."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (self.folder,)


def disguises(canary: Path) -> dict[str, bytes]:
    """Pickles that other loaders would run."""
    bomb = Canary(str(canary))
    npz, npy = io.BytesIO(), io.BytesIO()
    np.savez(npz, allow_pickle=True, parameters=np.array([bomb], dtype=object))
    np.save(npy, np.array([bomb], dtype=object), allow_pickle=True)
    raw = pickle.dumps(bomb)
    return {
        "pickle": raw,
        "old pickle": pickle.dumps(bomb, 0),
        "npz": npz.getvalue(),
        "npy": npy.getvalue(),
        "after a header": packed({"__metadata__": {"format": "twostroke-checkpoint", "format_version": "1"}}, raw),
        "in the text": packed({"__metadata__": {"format": "twostroke-checkpoint", "run": raw.decode("latin1")}}, b""),
    }


KINDS = ["pickle", "old pickle", "npz", "npy", "after a header", "in the text"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_pickle_in_disguise_is_not_opened(path: Path, tmp_path: Path, kind: str) -> None:
    canary = tmp_path / "canary"
    path.write_bytes(disguises(canary)[kind])
    refuse(path)
    with pytest.raises(ModelError):
        ts.load_model(path)
    assert not canary.exists()


READER = """
import warnings
from pathlib import Path
from tests.fuzz import targets
from twostroke.errors import ModelError as refusal
from twostroke.models.checkpoint import restore
data, run = targets.data_set(), targets.new_run()
targets.new_run().advance()
warnings.simplefilter("default", UserWarning)
warnings.warn("what this imports, it may import before")
def read(path):
    return restore(run, data, Path(path))
def right(notes):
    return run.steps == 2 and len(notes) == 1
"""


def test_restoring_runs_imports_and_writes_nothing(path: Path, good: bytes, tmp_path: Path) -> None:
    header, body = header_of(good)
    renamed = json.loads(json.dumps(header))
    renamed["__metadata__"]["run"] = renamed["__metadata__"]["run"].replace("momentum", "os.system")
    hostile = [
        *disguises(tmp_path / "canary").values(),
        packed(renamed, body),
        packed({"a": [[[[]]]]}, body),
        good[:-1],
        good[:-1] + b"\x01",
        b"",
    ]
    require_harmless(READER, path, hostile, tmp_path)
    assert not (tmp_path / "canary").exists()
