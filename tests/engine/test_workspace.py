"""What the workspace puts in place: targets that are rows, weights, and the masks of dropout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.support.strict_device import StrictBackend
from twostroke import MLP, Dataset, TrainConfig, select_backend, train
from twostroke.backend import Backend
from twostroke.engine.batches import dropout_keys
from twostroke.engine.mlp import forward
from twostroke.engine.training import TrainingRun
from twostroke.engine.workspace import Buffers, Workspace

LAYERS = [3, 64, 50, 2]
Down = Callable[[Any], np.ndarray]
Up = Callable[..., Any]


def masks(backend: Backend, dropout: float, keys: np.ndarray, indices: Any, dtype: str = "float32") -> list[np.ndarray]:
    """The masks for the samples ``indices``, on the host, as 0 and 1."""
    workspace = Workspace(backend, LAYERS, dtype, len(indices) + 3, dropout=dropout)
    buffers = workspace.rows(len(indices))
    backend.xp.copyto(buffers.indices, backend.asarray(np.asarray(indices, "int64")))
    workspace.draw_masks(backend.asarray(keys), buffers)
    found = [np.array(backend.to_host(mask)) for mask in buffers.masks]
    scale = np.dtype(dtype).type(1 / (1 - dropout))
    assert all(np.isin(mask, [0, scale]).all() for mask in found)
    return [mask / scale for mask in found]


@pytest.mark.parametrize("dropout", [0.1, 0.5, 0.9])
def test_masks_look_like_chance(dropout: float) -> None:
    """Within five standard errors: the share that stays, of each sample and unit; pairs of units, of samples, of
    layers, of epochs go together as often as independent ones."""
    n, keep = 4000, 1 - dropout
    cpu = select_backend("cpu", 1)
    first, second = masks(cpu, dropout, dropout_keys(n, 0, 0), np.arange(n))
    (other, _) = masks(cpu, dropout, dropout_keys(n, 0, 1), np.arange(n))

    def check(agreements: np.ndarray, share: float, count: int) -> None:
        error = np.sqrt(share * (1 - share) / count)
        assert np.abs(np.asarray(agreements) - share).max() <= 5 * error

    for mask in (first, second):
        check(mask.mean(axis=0), keep, n)
        check(mask.mean(axis=1), keep, mask.shape[1])
        check(np.asarray(mask.mean()), keep, mask.size)
        check((mask[:, 1:] * mask[:, :-1]).mean(axis=0), keep**2, n)
        check(np.asarray((mask[1:] * mask[:-1]).mean()), keep**2, mask[1:].size)
    check((first[:, :50] * second).mean(axis=0), keep**2, n)
    check((first * other).mean(axis=0), keep**2, n)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_masks_are_the_same_on_every_device_and_in_every_batch(backend: Backend, dtype: str) -> None:
    keys = dropout_keys(40, 5, 2)
    expected = masks(select_backend("cpu", 1), 0.3, keys, np.arange(40))
    order = np.random.default_rng(0).permutation(40)
    for start, stop in ((0, 16), (16, 39), (39, 40)):
        found = masks(backend, 0.3, keys, order[start:stop], dtype)
        for mask, whole in zip(found, expected, strict=True):
            assert np.array_equal(mask, whole[order[start:stop]])


def test_keys_follow_seed_and_epoch() -> None:
    drawn = [dropout_keys(100, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len({keys.tobytes() for keys in drawn}) == 4
    assert np.array_equal(drawn[0], dropout_keys(100, 0, 0))
    assert drawn[0].dtype == np.uint32


def test_hidden_activations_are_masked_and_scaled(backend: Backend, down: Down) -> None:
    """By hand, in plain NumPy, layer by layer; the outputs have no mask."""
    net = MLP(LAYERS, "relu", "cross-entropy", dtype="float64", backend=backend)
    X = np.random.default_rng(0).standard_normal((6, 3))
    workspace = Workspace(backend, LAYERS, "float64", 6, dropout=0.25)
    buffers = workspace.rows(6)
    backend.xp.copyto(buffers.indices, backend.asarray(np.arange(6)))
    workspace.draw_masks(backend.asarray(dropout_keys(6, 0, 0)), buffers)
    backend.xp.copyto(buffers.A[0], backend.asarray(X))
    forward(net, buffers)
    A = X
    for index, layer in enumerate(net.views):
        A = A @ down(layer.W) + down(layer.b)
        if index < 2:
            A = np.maximum(A, 0) * down(buffers.masks[index])
        assert np.allclose(down(buffers.A[index + 1]), A, rtol=1e-12, atol=1e-12)
    assert not np.allclose(down(net.infer(X)), A)  # inference drops nothing


def data(n: int = 60) -> Dataset:
    rng = np.random.default_rng(0)
    X, y = rng.random((n, 3), dtype="float32"), rng.integers(0, 2, n)
    return Dataset.from_arrays(X, y, X[:9], y[:9], n_classes=2)


def trained(backend: Backend, **changes: Any) -> np.ndarray:
    net = MLP(LAYERS, seed=1, dtype="float64")
    list(
        train(net, data(), TrainConfig(**({"epochs": 3, "batch_size": 16, "dropout": 0.4} | changes)), backend=backend)
    )
    return np.array(backend.to_host(net.parameters))


def test_a_run_with_dropout_is_the_same_on_the_strict_device_and_unlike_others() -> None:
    cpu = select_backend("cpu", 1)
    ours = trained(cpu)
    assert trained(StrictBackend()).tobytes() == ours.tobytes()
    assert trained(cpu).tobytes() == ours.tobytes()
    for changes in ({"dropout": 0.0}, {"dropout": 0.41}, {"seed": 1}):
        assert not np.allclose(trained(cpu, **changes), ours)


def test_stopping_within_an_epoch_changes_no_mask() -> None:
    config = TrainConfig(epochs=3, batch_size=16, dropout=0.4)
    run = TrainingRun(MLP(LAYERS, seed=1, dtype="float64"), data(), config, select_backend("cpu", 1))
    while not run.done:
        run.advance(1)
    assert run.net.parameters.tobytes() == trained(select_backend("cpu", 1)).tobytes()


def loaded(backend: Backend, source: Any) -> Buffers:
    workspace = Workspace(backend, [1, 2, 3], "float64", 7, weighted=True)
    buffers = workspace.rows(4)
    backend.xp.copyto(buffers.indices, backend.asarray(np.array([4, 0, 0, 2])))
    workspace.gather_targets(backend.asarray(source), buffers)
    workspace.gather_weights(backend.asarray(np.arange(5.0)), buffers)
    return buffers


def test_targets_that_are_rows_and_weights_are_gathered(backend: Backend, down: Down) -> None:
    rows = np.random.default_rng(0).random((5, 3))
    buffers = loaded(backend, rows)
    assert np.array_equal(down(buffers.T), rows[[4, 0, 0, 2]])
    assert down(buffers.weights).tolist() == [4, 0, 0, 2]


def test_labels_and_their_one_hot_rows_are_the_same_targets(backend: Backend, down: Down) -> None:
    labels = np.array([2, 0, 1, 1, 0], "uint8")
    assert np.array_equal(down(loaded(backend, labels).T), down(loaded(backend, np.eye(3)[labels]).T))
