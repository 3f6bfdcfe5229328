"""Checkpoints: a run resumes with the bits of an uninterrupted run; any other file is refused with its name."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import signal
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import twostroke as ts
from tests.support.strict_device import StrictBackend
from twostroke.backend import Backend
from twostroke.engine.config import TrainConfig
from twostroke.engine.optimizers import OPTIMIZERS
from twostroke.engine.training import EpochRecord, TrainingRun
from twostroke.errors import ConfigError, ModelError
from twostroke.files.atomic_file import previous
from twostroke.models.checkpoint import identity, restore, save_checkpoint

LAYERS = (6, 5, 3)
Header = dict[str, Any]
Text = dict[str, Any]


def blobs(n: int = 50, seed: int = 1) -> ts.Dataset:
    """Noisy samples of three classes, which cannot be learnt perfectly."""
    rng = np.random.default_rng(seed)
    parts = []
    for count in (n, 20):
        labels = rng.integers(0, 3, count).astype(np.uint8)
        images = rng.integers(0, 120, (count, LAYERS[0])).astype(np.uint8)
        images[np.arange(count), 2 * labels] += 100
        parts += [images, labels]
    return ts.Dataset.from_arrays(*parts, n_classes=3, name="blobs")


DATA = blobs()


def start(
    backend: Backend | None = None, config: dict[str, Any] | None = None, data: ts.Dataset = DATA, **network: Any
) -> TrainingRun:
    """A run of 3 epochs of 7 steps, the last one short."""
    backend = backend or ts.select_backend("cpu", threads=1)
    settings: dict[str, Any] = {"seed": 3, "backend": backend} | network
    layers = settings.pop("layers", LAYERS)
    net = ts.MLP(layers, **settings)
    options: dict[str, Any] = {"epochs": 3, "batch_size": 8} | (config or {})
    return TrainingRun(net, data, TrainConfig(**options))


def advance(run: TrainingRun, steps: int) -> TrainingRun:
    """Exactly so many steps."""
    end = run.steps + steps
    while run.steps < end:
        run.advance(end - run.steps)
    return run


def finish(run: TrainingRun) -> TrainingRun:
    while not run.done:
        run.advance()
    return run


def arrays(run: TrainingRun) -> dict[str, bytes]:
    host = run.net.backend.to_host
    return {name: np.array(host(array)).tobytes() for name, array in run.state.items()}


def facts(run: TrainingRun) -> dict[str, Any]:
    """The whole state of a run except its times."""
    records = [replace(record, train_seconds=0.0, samples_per_second=0.0) for record in run.history]
    names = ("epoch", "batch", "steps", "waited", "first_loss", "best_loss", "done")
    position = {name: getattr(run, name) for name in names}
    return {**arrays(run), **position, "history": records}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint.safetensors"


# --- there and back ------------------------------------------------------------------------------------------------

KINDS = [
    *({"optimizer": name} for name in OPTIMIZERS),
    *({"optimizer": name, "l2": 1e-3} for name in OPTIMIZERS),
    {"val_size": 0.2},
    {"val_size": 10, "patience": 1, "lr": 2.0},
    {"val_size": 10, "keep": "best", "lr": 2.0},
    {"val_size": 10, "patience": 3, "optimizer": "adam"},
    {"schedule": "cosine", "momentum": 0.5, "batch_size": "full", "epochs": 9},
    {"schedule": "step", "warmup": 0.5, "batch_size": 50, "evaluate_test": False},
]


@pytest.mark.parametrize("config", KINDS, ids=lambda config: "-".join(map(str, config.values())))
@pytest.mark.parametrize("steps", [0, 1, 9])
def test_round_trip_keeps_every_bit(backend: Backend, path: Path, config: dict[str, Any], steps: int) -> None:
    run = advance(start(backend, config), min(steps, 3 if config.get("batch_size") else 20))
    assert save_checkpoint(run, DATA, path) == path
    again = start(backend, config)
    before = again.state
    notes = restore(again, DATA, path)
    assert notes == [f"resumed from {path}: epoch {run.epoch + 1}, step {run.steps}"]
    assert facts(again) == facts(run)
    assert again.history == run.history
    assert again.seconds == run.seconds
    # A recorded step knows its arrays by their addresses: they are written into, not replaced.
    assert all(again.state[name] is array for name, array in before.items())
    assert facts(finish(again)) == facts(finish(run))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_array_that_an_optimizer_moves_is_in_the_state(name: str) -> None:
    """Overwrites every array outside the state, so that a step that needs one fails."""
    one, two = (advance(start(config={"optimizer": name, "l2": 1e-3}), 5) for _ in range(2))
    kept = list(two.state.values())
    for array in vars(two.optimizer).values():
        if isinstance(array, np.ndarray) and not any(array is each for each in kept):
            array.fill(np.nan if not two.optimizer.l2 else 7.0)
    assert arrays(finish(one)) == arrays(finish(two))


def test_from_any_step_the_run_ends_in_the_same_bits(path: Path) -> None:
    """Every step of two runs: in mid-epoch, at every epoch's end, before the first step, after the last."""
    resumed = 0
    for config in ({"optimizer": "momentum"}, {"optimizer": "adam", "l2": 1e-3, "val_size": 10, "patience": 2}):
        whole = facts(finish(start(config=config)))
        for steps in range(whole["steps"] + 1):
            stopped = advance(start(config=config), steps)
            save_checkpoint(stopped, DATA, path)
            again = start(config=config)
            restore(again, DATA, path)
            assert again.steps == steps
            assert facts(finish(again)) == whole, f"from step {steps}"
            resumed += 1
    assert resumed >= 30


def test_many_stops_are_as_good_as_none(backend: Backend, path: Path) -> None:
    config = {"optimizer": "nesterov", "val_size": 10, "patience": 2, "epochs": 4}
    whole, rng = facts(finish(start(backend, config))), random.Random(0)
    run, stops = start(backend, config), 0
    while not run.done:
        run.advance(rng.randrange(1, 4))
        save_checkpoint(run, DATA, path)
        run, stops = start(backend, config), stops + 1
        restore(run, DATA, path)
    assert facts(run) == whole
    assert stops > 8


def test_a_stop_from_within_a_step_is_a_stop_after_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a signal's handler does it."""
    run = start()
    captured = run._steps._captured
    real = captured.run

    def step(first: int, stop: int) -> None:
        run.stopping = run.epoch * len(run.bounds) + first == 8
        real(first, stop)
        monkeypatch.setattr(captured, "at_once", 1)  # steps one by one

    monkeypatch.setattr(captured, "run", step)
    while not run.stopping:
        run.advance()
    assert (run.steps, run.epoch, run.batch) == (9, 1, 2)
    save_checkpoint(run, DATA, path)
    again = start()
    restore(again, DATA, path)
    assert facts(finish(again)) == facts(finish(start()))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_from_one_device_to_another(path: Path, dtype: str) -> None:
    """The state is equal to the bit; the next steps have the other device's rounding."""
    there = advance(start(StrictBackend(), dtype=dtype), 9)
    save_checkpoint(there, DATA, path)
    here = start(dtype=dtype)
    restore(here, DATA, path)
    assert facts(here) == facts(there)
    assert here.net.parameters.dtype == dtype
    assert type(here.net.parameters) is np.ndarray
    save_checkpoint(advance(here, 2), DATA, path)
    back = start(StrictBackend(), dtype=dtype)
    restore(back, DATA, path)
    assert facts(back) == facts(here)


def test_special_values_survive(path: Path) -> None:
    run = advance(start(), 2)
    run.net.parameters[:4] = [-0.0, 1e-45, 3.4e38, -1.1754944e-38]
    run.running.losses[3] = np.nan  # of an epoch that is not done: nobody has judged it yet
    run.history += [replace(finish(start()).history[0], test_loss=math.inf)]
    run.epoch, run.batch, run.steps = 1, 0, 7
    save_checkpoint(run, DATA, path)
    again = start()
    restore(again, DATA, path)
    assert facts(again) == facts(run)
    assert again.history[0].test_loss == math.inf


def test_only_one_file_is_written_and_one_is_kept(path: Path) -> None:
    run = start()
    for _ in range(4):
        save_checkpoint(advance(run, 1), DATA, path)
    assert sorted(file.name for file in path.parent.iterdir()) == [previous(path).name, path.name]
    steps = []
    for file in (path, previous(path)):
        again = start()
        restore(again, DATA, file)
        steps.append(again.steps)
    assert steps == [4, 3]


def test_the_order_of_files_is_by_name_and_not_by_clock(path: Path) -> None:
    run = start()
    for _ in range(2):
        save_checkpoint(advance(run, 1), DATA, path)
    os.utime(path, (0, 0))
    again = start()
    restore(again, DATA, path)
    assert again.steps == 2


# --- no checkpoint -------------------------------------------------------------------------------------------------


def test_without_a_file_nothing_is_restored(path: Path) -> None:
    run = start()
    before = facts(run)
    assert restore(run, DATA, path) == []
    assert restore(run, DATA, path.parent / "missing" / path.name) == []
    assert restore(run, DATA, path.parent / ("n" * 300)) == []
    assert facts(run) == before


# --- of another run ------------------------------------------------------------------------------------------------


def other(**config: Any) -> Callable[[], tuple[TrainingRun, ts.Dataset]]:
    return lambda: (start(config=config), DATA)


def relabelled() -> ts.Dataset:
    labels = DATA.train_labels.copy()
    labels[17] = (labels[17] + 1) % 3
    return replace(DATA, train_labels=labels)


def repainted() -> ts.Dataset:
    images = DATA.train_images.copy()
    images[49, 5] ^= 1
    return replace(DATA, train_images=images)


def with_data(data: ts.Dataset) -> Callable[[], tuple[TrainingRun, ts.Dataset]]:
    return lambda: (start(data=data), data)


def with_net(**network: Any) -> Callable[[], tuple[TrainingRun, ts.Dataset]]:
    return lambda: (start(**network), DATA)


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (other(epochs=4), ["epochs 3 there and 4 here"]),
        (other(batch_size=9), ["batch_size 8 there and 9 here"]),
        (other(batch_size="full"), ["batch_size 8 there and full here"]),
        (other(seed=1), ["seed 0 there and 1 here"]),
        (other(optimizer="adam"), ["optimizer momentum there and adam here"]),
        (other(lr=0.1), ["lr None there and 0.1 here"]),
        (other(momentum=0.8), ["momentum 0.9 there and 0.8 here"]),
        (other(l2=0.5), ["l2 0.0 there and 0.5 here"]),
        (other(dropout=0.5), ["dropout 0.0 there and 0.5 here"]),
        (other(schedule="cosine"), ["schedule one-cycle there and cosine here"]),
        (other(warmup=0.3), ["warmup 0.2 there and 0.3 here"]),
        (other(val_size=0.5, patience=2), ["val_size 0 there and 0.5 here", "patience 0 there and 2 here"]),
        (other(evaluate_test=False), ["evaluate_test True there and False here"]),
        (with_net(seed=4), ["weights_seed 3 there and 4 here"]),
        (with_net(layers=(6, 4, 3)), ["layers [6, 5, 3] there and [6, 4, 3] here"]),
        (with_net(activation="tanh"), ["activation relu there and tanh here", "init he there and glorot here"]),
        (with_net(loss="quadratic"), ["loss cross-entropy there and quadratic here", "output softmax there and "]),
        (with_net(init="normal"), ["init he there and normal here"]),
        (with_net(dtype="float64"), ["dtype float32 there and float64 here"]),
        (with_data(relabelled()), [" there and blobs "]),
        (with_data(repainted()), [" there and blobs "]),
        (with_data(replace(DATA, name="other")), [" there and other "]),
    ],
    ids=lambda value: value[0][:20] if isinstance(value, list) else "",
)
def test_a_checkpoint_of_another_run_is_refused_by_every_key(
    path: Path, make: Callable[[], tuple[TrainingRun, ts.Dataset]], parts: list[str]
) -> None:
    save_checkpoint(advance(start(), 9), DATA, path)
    run, data = make()
    before = facts(run)
    with pytest.raises(ConfigError, match="a checkpoint of another run") as caught:
        restore(run, data, path)
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert str(path) in message
    for part in parts:
        assert part in message
    assert message.count(" there and ") == len(parts)
    assert facts(run) == before
    assert run.history == []


def test_the_identity_holds_every_setting_of_both(path: Path) -> None:
    """There are two seeds, of the weights and of the order; both are compared."""
    run = start()
    ours = identity(run, DATA)
    assert {"layers", "activation", "output", "loss", "init", "dtype", "data"} <= set(ours)
    for name, value in asdict(run.config).items():
        assert ours[name] == value
    assert (ours["seed"], ours["weights_seed"]) == (0, 3)


def test_the_data_are_recognised_by_their_values_not_their_object(path: Path) -> None:
    save_checkpoint(advance(start(), 9), DATA, path)
    twin = blobs()
    assert twin is not DATA
    assert restore(start(data=twin), twin, path)


# --- broken off ----------------------------------------------------------------------------------------------------


def broken_after(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, how: Callable[[], object]) -> None:
    """After each call of ``owner.name``, before its caller has noted that it was done."""
    real = getattr(owner, name)

    def work(*arguments: Any) -> Any:
        result = real(*arguments)
        how()
        return result

    monkeypatch.setattr(owner, name, work)


@pytest.mark.parametrize("where", ["steps", "result", "evaluation", "upload"])
def test_an_interrupt_leaves_a_run_that_goes_on_to_the_same_bits(
    path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Ctrl-C raised KeyboardInterrupt between the work and the note that it was done: a step was done twice."""
    config = {"val_size": 10, "optimizer": "momentum"}
    run, whole = start(config=config), facts(finish(start(config=config)))
    owners = {
        "steps": (run._steps._captured, "run"),
        "result": (run.running, "result"),
        "evaluation": (run._evaluations["val"], "run"),
        "upload": (run._steps, "begin"),
    }
    broken_after(monkeypatch, *owners[where], lambda: signal.raise_signal(signal.SIGINT))
    interrupts = 0
    while not run.done:
        try:
            run.advance(2)
        except KeyboardInterrupt:
            interrupts += 1
        assert not run.stopping
        save_checkpoint(run, DATA, path)
        restore(again := start(config=config), DATA, path)
        assert facts(again) == facts(run)
    assert interrupts >= 3
    assert facts(run) == whole
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_run_that_was_broken_off_within_a_step_does_not_go_on(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by an exception of the caller's own signal handler: how far the step came is not known."""
    run, before = start(), facts(finish(start()))
    save_checkpoint(advance(run, 3), DATA, path)

    def end() -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        broken_after(patch, run._steps._captured, "run", end)
        with pytest.raises(SystemExit):
            run.advance()
    kept = path.read_bytes()
    for use in (run.advance, lambda: save_checkpoint(run, DATA, path)):
        with pytest.raises(ts.TwoStrokeError, match=r"broken off within a step: epoch 1\. Restore a checkpoint"):
            use()
    assert path.read_bytes() == kept
    restore(run, DATA, path)
    assert facts(finish(run)) == before


# --- older than a setting ------------------------------------------------------------------------------------------

AT_ITS_DEFAULT = ["optimizer", "lr", "momentum", "l2", "dropout", "schedule", "warmup", "val_size", "patience", "dtype"]


@pytest.mark.parametrize("name", AT_ITS_DEFAULT)
def test_a_checkpoint_that_lacks_a_setting_is_resumed(path: Path, good: bytes, name: str) -> None:
    header, text, tensors = take_apart(good)
    del text["identity"][name]
    path.write_bytes(put_together(header, text, tensors))
    run = start()
    assert restore(run, DATA, path) == [f"resumed from {path}: epoch 2, step 9"]
    assert facts(finish(run)) == facts(finish(start()))


def test_a_setting_that_the_checkpoint_lacks_may_not_be_another_than_its_default(path: Path, good: bytes) -> None:
    header, text, tensors = take_apart(good)
    del text["identity"]["dropout"]
    path.write_bytes(put_together(header, text, tensors))
    with pytest.raises(ConfigError, match=r"found dropout 0\.0 there and 0\.5 here\. Use"):
        restore(start(config={"dropout": 0.5}), DATA, path)


# --- damage --------------------------------------------------------------------------------------------------------


def take_apart(data: bytes) -> tuple[Header, Text, dict[str, bytes]]:
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    body = data[8 + size :]
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            tensors[name] = body[first:last]
    return header, json.loads(header["__metadata__"]["run"]), tensors


def put_together(header: Header, text: Any, tensors: dict[str, bytes]) -> bytes:
    """A forged file with a valid checksum: every other check must work without it."""
    meta = header["__metadata__"]
    meta |= {"run": text if isinstance(text, str) else json.dumps(text, sort_keys=True)}
    meta.pop("sha256", None)
    body = b""
    for name, content in tensors.items():
        header[name]["data_offsets"] = [len(body), len(body) + len(content)]
        body += content
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode() + body)
    if meta.get("format_version") == "1":
        digest = hashlib.sha256(meta["run"].encode("utf-8", "surrogatepass"))
        for name in sorted(tensors):
            digest.update(name.encode() + tensors[name])
    meta["sha256"] = digest.hexdigest()
    packed = json.dumps(header).encode()
    packed += b" " * (-len(packed) % 8)
    return len(packed).to_bytes(8, "little") + packed + body


def older(header: Header, text: Text, tensors: dict[str, bytes]) -> tuple[Header, Text, dict[str, bytes]]:
    """The same in format version 1, which kept the history as JSON."""
    header["__metadata__"]["format_version"] = "1"
    names = [field.name for field in fields(EpochRecord)][:12]  # there were no others
    rows = np.frombuffer(tensors.pop("history")).reshape(header.pop("history")["shape"]).tolist()
    values = [[*map(int, row[:3]), *(None if x == -math.inf else x for x in row[3:])] for row in rows]
    text["history"] = [dict(zip(names, row, strict=True)) for row in values]
    return header, text, tensors


def refused(path: Path, *parts: str) -> str:
    """The one-line ModelError of a restore that changes nothing."""
    run = start()
    before = facts(run)
    with pytest.raises(ModelError) as caught:
        restore(run, DATA, path)
    message = str(caught.value)
    assert caught.value.exit_code == 5
    assert str(path.absolute()) in message
    assert "\n" not in message
    assert "Start without --resume." in message
    for part in parts:
        assert part in message
    assert facts(run) == before
    return message


@pytest.fixture
def good(path: Path) -> bytes:
    """A checkpoint in the second epoch, alone."""
    save_checkpoint(advance(start(), 9), DATA, path)
    return path.read_bytes()


def test_the_builder_of_these_tests_builds_good_files(path: Path, good: bytes) -> None:
    for parts in (take_apart(good), older(*take_apart(good))):
        path.write_bytes(put_together(*parts))
        run = start()
        restore(run, DATA, path)
        assert facts(run) == facts(advance(start(), 9))


@pytest.mark.parametrize("damage", [b"", b"x", b"half", b"gone", b"pickle"])
def test_a_damaged_newest_gives_way_to_the_one_before_it_and_says_so(path: Path, damage: bytes) -> None:
    run = start()
    for steps in (8, 1):
        save_checkpoint(advance(run, steps), DATA, path)
    content = path.read_bytes()
    path.write_bytes(
        content[: len(content) // 2] if damage == b"half" else b"\x80\x04." if damage == b"pickle" else damage
    )
    again = start()
    if damage == b"gone":  # between the two renames of a save
        path.unlink()
        notes = restore(again, DATA, path)
    else:
        with pytest.warns(UserWarning, match="The previous checkpoint is used") as caught:
            notes = restore(again, DATA, path)
        assert len(caught) == 1
        assert str(path) in str(caught[0].message)
    assert notes == [f"resumed from {previous(path)}: epoch 2, step 8"]
    assert facts(finish(again)) == facts(finish(start()))


def test_a_damaged_newest_never_replaces_the_last_good_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A save that kept every newest file would replace it; a full disk or a kill right after would lose the run."""
    run = start()
    for steps in (8, 1):
        save_checkpoint(advance(run, steps), DATA, path)
    path.write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="The previous checkpoint"):
        restore(again := start(), DATA, path)
    advance(again, 1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("twostroke.files.sealed_file.write_atomically", full)
        with pytest.raises(ModelError, match="No space left"):
            save_checkpoint(again, DATA, path)
    with pytest.warns(UserWarning, match="The previous checkpoint"):
        restore(third := start(), DATA, path)
    assert third.steps == 8
    save_checkpoint(again, DATA, path)
    restore(third := start(), DATA, path)
    assert third.steps == 9


def test_when_both_are_damaged_each_is_named(path: Path) -> None:
    run = start()
    for _ in range(2):
        save_checkpoint(advance(run, 1), DATA, path)
    path.write_bytes(path.read_bytes()[:-1])
    previous(path).write_bytes(b"")
    refused(path, "no good checkpoint is left", str(previous(path)), "damaged or foreign")


def test_a_damaged_newest_over_one_of_another_run(path: Path) -> None:
    """The message about the other run still names the damage."""
    save_checkpoint(advance(start(config={"seed": 1}), 1), DATA, path)
    save_checkpoint(advance(start(), 1), DATA, path)
    path.write_bytes(b"damaged")
    refused(path, "no good checkpoint is left", "not a model file", "found text", "seed 1 there and 0 here")


@pytest.mark.parametrize("kind", ["model", "other", "folder", "pipe", "loop", "dangling"])
def test_something_else_in_its_place(path: Path, tmp_path: Path, kind: str) -> None:
    if kind == "model":
        ts.save_model(ts.MLP(LAYERS), path)
    elif kind == "other":
        path.write_bytes(b"PK\x03\x04" + bytes(100))
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path if kind == "loop" else tmp_path / "missing")
    words = {"model": "not a checkpoint", "other": "ZIP", "folder": "not a regular file", "pipe": "not a regular file"}
    refused(path, words.get(kind, "cannot open the file"))


def test_a_link_to_a_checkpoint_is_one(path: Path, tmp_path: Path, good: bytes) -> None:
    """The checkpoint is a link to a moved file; a save replaces the link and leaves the file."""
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    run = start()
    assert restore(run, DATA, path)
    save_checkpoint(advance(run, 1), DATA, path)
    assert not path.is_symlink()
    assert (tmp_path / "elsewhere").read_bytes() == good


def test_a_checkpoint_is_no_model(path: Path, good: bytes) -> None:
    with pytest.raises(ModelError, match="not a model of twostroke"):
        ts.load_model(path)


@pytest.mark.parametrize("name", ["parameters", "losses", "predictions", "optimizer.velocity"])
@pytest.mark.parametrize("fault", ["missing", "dtype", "shape", "longer", "renamed"])
def test_tensors_that_do_not_fit_the_run(path: Path, good: bytes, name: str, fault: str) -> None:
    """Each with a right checksum."""
    header, text, tensors = take_apart(good)
    entry, size = header[name], len(tensors[name])
    if fault == "missing":
        del header[name], tensors[name]
    elif fault == "dtype":
        entry["dtype"] = {"F32": "I32", "I64": "F64"}[entry["dtype"]]
    elif fault == "shape":
        entry["shape"] = [*entry["shape"], 1]
    elif fault == "longer":
        entry["shape"] = [2 * entry["shape"][0]]
        tensors[name] *= 2
    else:
        header[f"{name}x"], tensors[f"{name}x"] = header.pop(name), tensors.pop(name)
    path.write_bytes(put_together(header, text, tensors))
    refused(path, "tensors", "expected")
    assert size


@pytest.mark.parametrize("name", ["best", "W1", "optimizer.mean", "optimizer.", "optimizer.velocity.x"])
def test_extra_tensors(path: Path, good: bytes, name: str) -> None:
    header, text, tensors = take_apart(good)
    header[name], tensors[name] = dict(header["parameters"]), tensors["parameters"]
    path.write_bytes(put_together(header, text, tensors))
    refused(path, "tensors", name)


@pytest.mark.parametrize("name", ["parameters", "optimizer.velocity"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(path: Path, good: bytes, name: str, value: float) -> None:
    header, text, tensors = take_apart(good)
    array = np.frombuffer(tensors[name], "<f4").copy()
    array[3] = value
    tensors[name] = array.tobytes()
    path.write_bytes(put_together(header, text, tensors))
    refused(path, name, "not finite")


@pytest.mark.parametrize("name", ["parameters", "optimizer.velocity"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_diverged_run_never_replaces_a_good_one(backend: Backend, path: Path, name: str, value: float) -> None:
    run = advance(start(backend), 9)
    save_checkpoint(run, DATA, path)
    before = path.read_bytes()
    run.state[name][3] = value
    with pytest.raises(ModelError, match=f"not finite: {name}") as caught:
        save_checkpoint(run, DATA, path)
    assert f"{path} was not touched" in str(caught.value)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("version", ["3", "0", "", "one", None, 1])
def test_other_format_versions(path: Path, good: bytes, version: Any) -> None:
    header, text, tensors = take_apart(good)
    header["__metadata__"]["format_version"] = version
    path.write_bytes(put_together(header, text, tensors))
    refused(path, "unknown format version")


def change(text: Text, key: str, value: Any) -> None:
    part, _, name = key.partition(".")
    if not name:
        text[part] = value
    elif part == "history" and name.isdecimal():
        text[part][int(name)] = value
    elif part == "history":
        text[part][0][name] = value
    else:
        text[part][name] = value


def some(*values: Any) -> tuple[Any, ...]:
    return values


NUMBERS: list[Any] = ["1", None, True, [], {}, -1, 1.5, math.nan, math.inf, 10**9, 10**400]
FAULTS: list[tuple[str, Any]] = [
    *((f"position.{name}", value) for name in ("epoch", "batch", "steps", "waited") for value in NUMBERS),
    *(("position.optimizer_steps", value) for value in NUMBERS),
    *(("position.seconds", value) for value in some("1", None, True, [], math.nan, 10**400)),
    *(("position.first_loss", value) for value in some("1", True, [], math.nan, 10**400)),
    ("position.epoch", 0), ("position.batch", 7), ("position.batch", 3), ("position.steps", 8),
    ("position", None), ("position", []), ("position", "x"), ("position", {}), ("position", 5),
    ("history", None), ("history", {}), ("history", "x"), ("history", []), ("history", 5), ("history", [[]]),
    ("history", [None]), ("history", ["x"]), ("history", [{}]), ("history", [{"epoch": 1}]),
    *((f"history.{name}", value) for name in ("epoch", "steps", "epochs") for value in some("1", None, 1.5, True)),
    *((f"history.{name}", value) for name in ("train_loss", "learning_rate") for value in some("1", None, [], 10**400)),
    ("history.test_loss", "1"), ("history.val_accuracy", []), ("history.epoch", 2), ("history.surplus", 1),
    ("identity", None), ("identity", []), ("identity", "x"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), FAULTS, ids=lambda value: repr(value)[:24])
def test_a_position_or_a_history_that_makes_no_sense(path: Path, good: bytes, key: str, value: Any) -> None:
    """Each with a right checksum."""
    header, text, tensors = take_apart(good)
    if key.startswith("history"):
        header, text, tensors = older(header, text, tensors)
    assert (text["position"]["epoch"], text["position"]["batch"], text["position"]["steps"]) == (1, 2, 9)
    change(text, key, value)
    path.write_bytes(put_together(header, text, tensors))
    refused(path, "damaged or foreign")


def put(column: int, value: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda rows: np.where(np.arange(12) == column, value, rows)


HISTORIES: list[Callable[[np.ndarray], np.ndarray]] = [
    lambda rows: rows[:0], lambda rows: np.vstack([rows, rows]), lambda rows: rows[:, 1:], lambda rows: rows.ravel(),
    lambda rows: rows.astype("f4"), put(0, 2.0), put(0, math.nan), put(1, math.inf), put(1, -1.0), put(2, 0.5),
    put(2, 2.0**53), put(4, -math.inf), put(11, -math.inf),
]  # fmt: skip


@pytest.mark.parametrize("change", HISTORIES)
def test_a_history_that_is_none(path: Path, good: bytes, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Each with a right checksum."""
    header, text, tensors = take_apart(good)
    rows = change(np.frombuffer(tensors["history"]).reshape(1, 12))
    header["history"] |= {"shape": list(rows.shape), "dtype": {4: "F32", 8: "F64"}[rows.itemsize]}
    tensors["history"] = rows.tobytes()
    path.write_bytes(put_together(header, text, tensors))
    refused(path, "no readable position")


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.0, 5e-324, None])
def test_a_history_keeps_every_value(path: Path, value: float | None) -> None:
    run = advance(start(), 15)
    run.history[0] = replace(run.history[0], test_loss=value, steps=2**53 - 1)
    save_checkpoint(run, DATA, path)
    restore(again := start(), DATA, path)
    assert repr(again.history) == repr(run.history)


def test_a_long_history_is_read_again(path: Path) -> None:
    """It stood in the header: after some 3,000 epochs that was too large to be read."""
    run = advance(start(config={"epochs": 10_000}), 7)
    run.history = [replace(run.history[0], epoch=number, epochs=10_000) for number in range(1, 9_001)]
    run.epoch, run.steps = 9_000, 9_000 * 7
    save_checkpoint(run, DATA, path)
    restore(again := start(config={"epochs": 10_000}), DATA, path)
    assert again.history == run.history


def test_what_could_not_be_read_again_is_not_written(path: Path, good: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the newest file nor the one before it is touched."""
    save_checkpoint(run := advance(start(), 10), DATA, path)
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    for limit in ("MAX_HEADER_BYTES", "MAX_FILE_BYTES"):
        advance(run, 1)
        with monkeypatch.context() as patch:
            patch.setattr(f"twostroke.files.sealed_file.{limit}", 1000)
            patch.setattr("twostroke.models.checkpoint._is_sound", lambda _: True)
            with pytest.raises(ModelError, match="could not be read again") as caught:
                save_checkpoint(run, DATA, path)
        assert str(path) in str(caught.value)
        assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before


@pytest.mark.parametrize("part", ["position", "history", "identity"])
def test_a_part_that_is_missing(path: Path, good: bytes, part: str) -> None:
    header, text, tensors = older(*take_apart(good))
    del text[part]
    path.write_bytes(put_together(header, text, tensors))
    refused(path, "damaged or foreign")


@pytest.mark.parametrize("key", ["epochs", "seed", "data", "surplus"])
def test_an_identity_that_lies_is_another_run_s(path: Path, good: bytes, key: str) -> None:
    header, text, tensors = take_apart(good)
    text["identity"][key] = "__import__('os').system('true')\n"
    path.write_bytes(put_together(header, text, tensors))
    with pytest.raises(ConfigError, match=key) as caught:
        restore(start(), DATA, path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "{", "5", "[]", "null", "[" * 50_000, "{}", '{"position": 1, "position": 1}', "\ud800"]
)
def test_texts_that_are_none(path: Path, good: bytes, text: str) -> None:
    header, _, tensors = take_apart(good)
    path.write_bytes(put_together(header, text, tensors))
    refused(path)


def test_an_edited_text_is_found_by_the_checksum(path: Path, good: bytes) -> None:
    header, text, tensors = take_apart(good)
    sha256 = header["__metadata__"]["sha256"]
    text["position"]["seconds"] += 1.0
    header, _, _ = take_apart(put_together(header, text, tensors))
    header["__metadata__"]["sha256"] = sha256
    raw = json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + b"".join(tensors.values()))
    refused(path, "SHA-256")


# --- places that cannot be written ---------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["missing/c.safetensors", "file/c.safetensors", "folder", "n" * 300, "nul\0byte", ""])
def test_impossible_places(tmp_path: Path, where: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(ModelError) as caught:
        save_checkpoint(start(), DATA, tmp_path / where if where else Path(""))
    assert "\n" not in str(caught.value)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "folder"]


def test_when_the_old_one_cannot_be_kept_it_stays(path: Path, good: bytes) -> None:
    previous(path).mkdir()
    with pytest.raises(ModelError, match="cannot keep the old checkpoint"):
        save_checkpoint(advance(start(), 10), DATA, path)
    assert path.read_bytes() == good
