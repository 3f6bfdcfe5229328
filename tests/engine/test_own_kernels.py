"""A user's own activation, loss and optimiser in the engine, on every backend."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import twostroke as ts
from tests.support import own_kernels as own
from twostroke.backend.base import Backend, CallByCall
from twostroke.engine.training import TrainingRun
from twostroke.models.checkpoint import restore, save_checkpoint


def blobs() -> ts.Dataset:
    rng = np.random.default_rng(5)
    labels = np.arange(130) % 3
    X = (rng.normal(size=(3, 6))[labels] + 0.6 * rng.normal(size=(130, 6))).astype("float32")
    return ts.Dataset.from_arrays(X[:100], labels[:100], X[100:], labels[100:], name="blobs")


def trained(backend: Backend, config: ts.TrainConfig, **network: Any) -> tuple[Any, list[float]]:
    """The parameters and the losses after a run."""
    net = ts.MLP([6, 8, 7, 3], **network)
    records = list(ts.train(net, blobs(), config, backend=backend))
    return backend.to_host(net.parameters).copy(), [record.train_loss for record in records]


OWN: dict[str, Any] = {"activation": own.swish, "loss": own.huber}
CONFIG = ts.TrainConfig(epochs=3, batch_size=16, optimizer=own.rmsprop, l2=1e-3, lr=0.01)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_it_learns(backend: Backend, dropout: float) -> None:
    net = ts.MLP([6, 16, 3], **OWN)
    records = list(ts.train(net, blobs(), CONFIG.replace(epochs=20, dropout=dropout), backend=backend))
    assert records[-1].train_loss < 0.5 * records[0].train_loss
    assert records[-1].test_accuracy is not None
    assert records[-1].test_accuracy > 0.8


@pytest.mark.parametrize(
    ("network", "built_in", "optimizer", "same"),
    [
        ({"activation": own.my_tanh}, {"activation": "tanh"}, "momentum", "momentum"),
        ({"loss": own.my_quadratic}, {"loss": "quadratic"}, "sgd", "sgd"),
        ({}, {}, own.my_nesterov, "nesterov"),
        ({"loss": own.my_quadratic, "output": "softmax"}, {"loss": "quadratic", "output": "softmax"}, "adam", "adam"),
    ],
)
@pytest.mark.parametrize("captured", [True, False])
def test_a_repeated_formula_has_the_bits_of_the_built_in(
    backend: Backend,
    monkeypatch: pytest.MonkeyPatch,
    network: Any,
    built_in: Any,
    optimizer: Any,
    same: Any,
    captured: bool,
) -> None:
    if not captured:
        monkeypatch.setattr(type(backend), "capture", lambda self, parts: CallByCall(self.xp, parts))
    config = ts.TrainConfig(epochs=2, batch_size=16, l2=1e-3, optimizer=optimizer)
    parameters, losses = trained(backend, config, **{"activation": "tanh"} | network)
    expected, expected_losses = trained(backend, config.replace(optimizer=same), **{"activation": "tanh"} | built_in)
    np.testing.assert_array_equal(parameters, expected)
    assert losses == expected_losses


def test_captured_steps_have_the_bits_of_plain_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = ts.select_backend("cpu", 1)
    captured, losses = trained(cpu, CONFIG, **OWN)
    monkeypatch.setattr(type(cpu), "capture", lambda self, parts: CallByCall(self.xp, parts))
    plain, plain_losses = trained(cpu, CONFIG, **OWN)
    np.testing.assert_array_equal(captured, plain)
    assert losses == plain_losses


def test_a_resumed_run_has_the_bits_of_an_unbroken_one(backend: Backend, tmp_path: Path) -> None:
    def run() -> TrainingRun:
        return TrainingRun(ts.MLP([6, 8, 3], **OWN), blobs(), CONFIG, backend)

    first, whole, second = run(), run(), run()
    assert "optimizer.square" in first.state
    first.advance(4)
    restore(second, blobs(), save_checkpoint(first, blobs(), tmp_path / "c.safetensors"))
    for one in (whole, second):
        while not one.done:
            one.advance()
    for name, array in whole.state.items():
        np.testing.assert_array_equal(backend.to_host(array), backend.to_host(second.state[name]), err_msg=name)


def test_a_checkpoint_of_another_kernel_is_refused(tmp_path: Path) -> None:
    first = TrainingRun(ts.MLP([6, 8, 3], **OWN), blobs(), CONFIG)
    path = save_checkpoint(first, blobs(), tmp_path / "c.safetensors")
    other = TrainingRun(ts.MLP([6, 8, 3], loss=own.huber, activation=own.my_tanh), blobs(), CONFIG)
    with pytest.raises(ts.ConfigError, match="activation swish there and my-tanh here"):
        restore(other, blobs(), path)


def test_copies_keep_their_kernels() -> None:
    net = ts.MLP([6, 8, 3], **OWN)
    X = blobs().test_images
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), pickle.loads(pickle.dumps(net, 0))):
        assert other.activation == "swish"
        np.testing.assert_array_equal(other.predict_proba(X), net.predict_proba(X))
        other.parameters[0] += 1
        assert other.parameters[0] != net.parameters[0]
    config = pickle.loads(pickle.dumps(CONFIG))
    assert config == CONFIG
    assert config.optimizer.update is own.rmsprop_update
    assert copy.deepcopy(CONFIG).optimizer is own.rmsprop
    assert config.learning_rate == 0.01
    assert config.replace(lr=None).learning_rate == own.rmsprop.lr


def test_its_arrays_are_allocated_only_where_they_are_used() -> None:
    assert ts.MLP([6, 8, 3]).own_arrays == {"regression": False, "keeps_input": False, "spare": False}
    assert ts.MLP([6, 8, 3], **OWN).own_arrays == {"regression": False, "keeps_input": True, "spare": True}


@pytest.mark.parametrize("kind", [ts.Activation, ts.Loss, ts.Optimizer])
@pytest.mark.parametrize("name", ["", "a b", "a:b", "1st", "../x", 5, None, "x" * 65])
def test_a_bad_name_is_refused(kind: Any, name: Any) -> None:
    functions = [own.swish_forward, own.swish_backward][: 1 if kind is ts.Optimizer else 2]
    with pytest.raises(ts.ConfigError, match=f"^bad name of an? {kind.__name__}: name: found"):
        kind(name, *functions)


@pytest.mark.parametrize(
    ("kind", "name"), [(ts.Activation, "relu"), (ts.Loss, "quadratic"), (ts.Optimizer, "sgd"), (ts.Optimizer, "adamw")]
)
def test_a_built_in_is_not_shadowed(kind: Any, name: str) -> None:
    functions = [own.swish_forward, own.swish_backward][: 1 if kind is ts.Optimizer else 2]
    with pytest.raises(ts.ConfigError, match=r"of this name is built in: name: found .*\. Choose another name\."):
        kind(name, *functions)


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: ts.Activation("a", 1, own.swish_backward), "not a function: a: forward: found 1"),
        (lambda: ts.Loss("a", own.huber_forward, None), "not a function: a: backward: found None"),
        (lambda: ts.Optimizer("a", own.rmsprop_update, scratch=-1), "bad number of arrays: a: scratch: found -1"),
        (lambda: ts.Optimizer("a", own.rmsprop_update, state=["m", "m"]), "bad names of arrays: a: state: found"),
        (lambda: ts.MLP([2, 2], activation=own.huber), "unknown activation: activation: found a Loss 'huber'"),
        (lambda: ts.MLP([2, 2], loss=own.swish), "unknown loss: loss: found an Activation 'swish'"),
        (lambda: ts.MLP([2, 2], loss=own.huber, output="exp"), "unknown output: output: found 'exp'"),
        (lambda: ts.TrainConfig(optimizer=own.swish), "bad optimizer: optimizer: found 'swish'"),
        (lambda: ts.MLP([2, 3, 2], activation=ts.Activation("a", id, id, init="zero")), "unknown init"),
    ],
)
def test_what_is_wrong_is_one_line(make: Any, line: str) -> None:
    with pytest.raises(ts.ConfigError) as caught:
        make()
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)
