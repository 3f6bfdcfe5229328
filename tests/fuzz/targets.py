"""What is fuzzed: every reader of files. Each target takes the bytes of a file; only a documented error may leave it.

``TARGETS[name]`` has ``fuzz_one(data)`` and ``seeds()``. ``tests/test_hostile_input.py`` runs them for a moment,
``python -m tests.fuzz NAME`` for as long as you like.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import lzma
import os
import random
import tempfile
import tracemalloc
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

import twostroke as ts
from twostroke.engine.config import TrainConfig
from twostroke.engine.training import TrainingRun
from twostroke.errors import ConfigError, DataError, DivergenceError, ModelError
from twostroke.files.idx import read_idx
from twostroke.models.checkpoint import restore, save_checkpoint

LAYERS = (6, 5, 3)


@cache
def folder() -> Path:
    """Where inputs lie while they are read: in memory where that is possible."""
    memory = Path("/dev/shm")
    home = memory if os.access(memory, os.W_OK) else None
    kept = tempfile.TemporaryDirectory(prefix="twostroke-fuzz-", dir=home)
    _KEPT.append(kept)
    return Path(kept.name)


_KEPT: list[tempfile.TemporaryDirectory[str]] = []


@cache
def data_set() -> ts.Dataset:
    """The data of the run whose checkpoint is fuzzed."""
    rng = np.random.default_rng(0)
    labels = np.resize(np.arange(3, dtype=np.uint8), 24)
    images = rng.integers(0, 256, (24, LAYERS[0]), dtype=np.uint8)
    return ts.Dataset.from_arrays(images, labels, images[:6], labels[:6], name="fuzz")


def new_run() -> TrainingRun:
    """A run that has not begun."""
    return TrainingRun(ts.MLP(LAYERS, seed=1), data_set(), TrainConfig(epochs=2, batch_size=8))


def _file(name: str, data: bytes) -> Path:
    path = folder() / name
    path.write_bytes(data)
    return path


# --- targets -------------------------------------------------------------------------------------------------------


def idx(data: bytes) -> None:
    """An IDX file, plain or packed."""
    try:
        array = read_idx(_file("idx", data))
    except DataError:
        return
    assert array.dtype.isnative
    assert array.nbytes <= max(len(data), 64 << 20)


def npz(data: bytes) -> None:
    """A data set of arrays in a ZIP."""
    try:
        loaded = ts.load_dataset(_file("data.npz", data))
    except DataError:
        return
    assert loaded.train_images.shape == (len(loaded.train_labels), loaded.n_features)
    assert loaded.test_images.shape == (len(loaded.test_labels), loaded.n_features)
    assert loaded.train_labels.min() >= 0
    assert loaded.train_labels.max() < loaded.n_classes


def model(data: bytes) -> None:
    """A model file."""
    try:
        net = ts.load_model(_file("model.safetensors", data))
    except ModelError:
        return
    assert np.isfinite(net.parameters).all()
    assert net.parameters.nbytes <= len(data)


def checkpoint(data: bytes) -> None:
    """A checkpoint, of this run or any other; what is restored can be trained on."""
    run = _run()
    before = run.net.parameters.tobytes()
    path = _file("checkpoint.safetensors", data)
    try:
        notes = restore(run, data_set(), path)
    except (ModelError, ConfigError):
        assert run.net.parameters.tobytes() == before
        assert run.steps == 0
        return
    assert notes
    assert np.isfinite(run.net.parameters).all()
    _run.cache_clear()
    # Atheris finds right digests (it sees what they are compared with), and then any finite numbers.
    with contextlib.suppress(DivergenceError), np.errstate(all="ignore"):
        if not run.done:
            run.advance()


@cache
def _run() -> TrainingRun:
    return new_run()


# --- files to begin with -------------------------------------------------------------------------------------------


def _idx_seeds() -> list[bytes]:
    plain = [
        bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 3]) + bytes(12),
        bytes([0, 0, 8, 1, 0, 0, 0, 4, 1, 2, 3, 4]),
        bytes([0, 0, 0x0D, 2, 0, 0, 0, 1, 0, 0, 0, 2]) + np.array([1.5, -2.0], ">f4").tobytes(),
    ]
    return plain + [gzip.compress(each, mtime=0) for each in plain[:2]] + [lzma.compress(plain[0])]


def _npz_seeds() -> list[bytes]:
    data, seeds = data_set(), []
    for save in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        images, labels = data.train_images, data.train_labels
        save(file, x_train=images[:4], y_train=labels[:4], x_test=images[:3], y_test=labels[:3])
        seeds.append(file.getvalue())
    return seeds


def _model_seeds() -> list[bytes]:
    seeds = []
    for dtype in ("float32", "float64"):
        path = folder() / "seed.safetensors"
        ts.save_model(ts.MLP((3, 2), seed=1, dtype=dtype), path, {"data": "fuzz"})
        seeds.append(path.read_bytes())
    return seeds


def _checkpoint_seeds() -> list[bytes]:
    seeds = []
    for steps in (1, 4):
        run, path = new_run(), folder() / f"seed-{steps}.safetensors"
        while run.steps < steps:
            run.advance(steps - run.steps)
        save_checkpoint(run, data_set(), path)
        seeds.append(path.read_bytes())
    return seeds


class Target(NamedTuple):
    """One reader."""

    fuzz_one: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]


TARGETS = {
    "idx": Target(idx, _idx_seeds),
    "npz": Target(npz, _npz_seeds),
    "model": Target(model, _model_seeds),
    "checkpoint": Target(checkpoint, _checkpoint_seeds),
}

# --- a plain mutator, for where atheris is not ---------------------------------------------------------------------

WORDS = [
    b"\0", b"\xff", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\x08\x03", b"{}", b"[]", b"null",
    b'"', b"\\", b"1e999", b"NaN", b"-1", b"99999999999999999999", b'"F32"', b'"F64"', b'"BF16"', b'"__metadata__":',
    b'"data_offsets":[0,0]', b'"shape":[0]', b"PK\x03\x04", b"PK\x01\x02", b"\x93NUMPY\x01\0", b"\x1f\x8b\x08",
    b"\x80\x04.", b"\xed\xa0\x80", b"\\ud800", b"[" * 2000,
]  # fmt: skip


def mutated(rng: random.Random, seeds: list[bytes]) -> bytes:
    """One of ``seeds`` after a few small changes, or a few bytes of nothing."""
    if rng.random() < 0.02:
        return rng.randbytes(rng.randrange(64))
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at, kind = rng.randrange(len(data) + 1), rng.randrange(6)
        end = min(len(data), at + rng.choice((1, 2, 4, 8, 64)))
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at:end] = rng.choice(WORDS)
        elif kind == 2:
            data[at:at] = rng.choice(WORDS)
        elif kind == 3:
            del data[at:end]
        elif kind == 4:
            other = rng.choice(seeds)
            first = rng.randrange(len(other))
            data[at:end] = other[first : first + end - at]
        else:
            data[at:end] = rng.randbytes(end - at)
    return bytes(data)


def fuzz(name: str, executions: int, seed: int = 0) -> int:
    """Run a target so often on mutated files; returns the largest memory that one of them took, in bytes."""
    target, rng = TARGETS[name], random.Random(f"{name} {seed}")
    seeds, largest = target.seeds(), 0
    for data in seeds:
        target.fuzz_one(data)
    tracemalloc.start()
    try:
        for number in range(executions):
            data = mutated(rng, seeds)
            tracemalloc.reset_peak()
            base = tracemalloc.get_traced_memory()[0]
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    target.fuzz_one(data)
            except BaseException as error:
                raise AssertionError(f"{name}, execution {number}: {error!r} for {data.hex()}") from error
            largest = max(largest, tracemalloc.get_traced_memory()[1] - base)
    finally:
        tracemalloc.stop()
    return largest
