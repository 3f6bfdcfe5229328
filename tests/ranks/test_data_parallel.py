"""Ranks are threads here: what the mathematics needs, on the CPU and on the strict stand-in device."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.strict_device import StrictBackend
from tests.support.thread_ranks import ThreadRank, on_ranks
from twostroke import MLP, ConfigError, DeviceError, DivergenceError, TrainConfig, select_backend
from twostroke.backend import Backend
from twostroke.data.dataset import Dataset
from twostroke.engine.optimizers import OPTIMIZERS
from twostroke.engine.training import EpochRecord, TrainingRun
from twostroke.models.checkpoint import restore, save_checkpoint
from twostroke.ranks.data_parallel import DistributedRun, share

LAYERS = [12, 9, 7, 4]
CONFIG = TrainConfig(epochs=3, batch_size=32, val_size=20, evaluate_test=True)  # batches of 32, 32, 17: ragged
SIZES = [1, 2, 3, 5]
Make = Callable[[], Backend]


def make_data(n: int = 101, seed: int = 5) -> Dataset:
    rng = np.random.default_rng(seed)

    def part(count: int) -> tuple[Any, Any]:
        return rng.random((count, LAYERS[0])), rng.integers(0, LAYERS[-1], count)

    return Dataset(*part(n), *part(23), n_classes=LAYERS[-1], image_shape=(3, 4), name="made up")


DATA = make_data()


def host() -> Backend:
    return select_backend("cpu", 1)


def net(seed: int = 3) -> MLP:
    return MLP(LAYERS, dtype="float64", seed=seed)


def to_the_end(run: TrainingRun, most: int | None = None) -> TrainingRun:
    """Advance in pieces of ``most`` steps."""
    while not run.done:
        run.advance(most)
    return run


def distributed(ranks: ThreadRank, config: TrainConfig = CONFIG, make: Make = host) -> DistributedRun:
    # A rank's own weights and seed of weights do not matter: rank 0's are taken.
    return DistributedRun(net(3 + ranks.rank), DATA, config, make(), communicator=ranks)


def weights(run: TrainingRun) -> np.ndarray:
    return np.array(run.net.backend.to_host(run.net.parameters))


def numbers(history: list[EpochRecord]) -> np.ndarray:
    """All of the records but times."""
    rows = [
        {k: v for k, v in record.values.items() if k not in ("train_seconds", "samples_per_second")}
        for record in history
    ]
    return np.array([list(row.values()) for row in rows], float)


def assert_alike(found: TrainingRun, expected: TrainingRun) -> None:
    for name in expected.state:
        a, b = (np.array(run.net.backend.to_host(run.state[name])) for run in (found, expected))
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14, err_msg=name)
    np.testing.assert_allclose(numbers(found.history), numbers(expected.history), rtol=1e-12)


@pytest.mark.parametrize("l2", [0.0, 0.02])
@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_any_number_of_ranks_is_the_same_mathematics(optimizer: str, l2: float) -> None:
    """Weights, the optimiser's state, the notes of every sample, the records: float64, 1e-12, with ragged parts."""
    config = CONFIG.replace(optimizer=optimizer, l2=l2, lr=0.05)
    one = to_the_end(TrainingRun(net(), DATA, config, host()))
    for size in SIZES:
        runs = on_ranks(size, lambda ranks: to_the_end(distributed(ranks, config)))
        for run in runs:
            assert_alike(run, one)
            assert np.array_equal(weights(run), weights(runs[0]))
            assert run.history == runs[0].history


def test_more_ranks_than_rows(figure: Callable[[str, float], None]) -> None:
    """With batches of 3 rows five ranks have empty parts at every step, and make no call less."""
    config = CONFIG.replace(batch_size=3, epochs=1)
    one = to_the_end(TrainingRun(net(), DATA, config, host()))

    def work(ranks: ThreadRank) -> tuple[DistributedRun, int]:
        run = distributed(ranks, config)
        before = ranks.calls
        return to_the_end(run), ranks.calls - before  # type: ignore[return-value]

    found = on_ranks(5, work)
    for run, calls in found:
        assert_alike(run, one)
        assert calls == len(run.bounds) + 2 + 2 * 2  # a sum a step; losses and predictions of the epoch, val, test
    figure(
        "five ranks against one, float64, largest difference of a weight",
        np.abs(weights(found[0][0]) - weights(one)).max(),
    )


def test_dropout_leaves_out_the_same_units_on_any_number_of_ranks() -> None:
    config = CONFIG.replace(dropout=0.4)
    one = to_the_end(TrainingRun(net(), DATA, config, host()))
    for size in (2, 3):
        for run in on_ranks(size, lambda ranks: to_the_end(distributed(ranks, config))):
            assert_alike(run, one)


@pytest.mark.parametrize("make", [host, StrictBackend], ids=["numpy", "strict"])
def test_on_a_device_whose_arrays_mpi_cannot_read(make: Make) -> None:
    """The strict device's arrays refuse NumPy: what is summed has crossed by name."""
    one = to_the_end(TrainingRun(net(), DATA, CONFIG, host()))
    for run in on_ranks(3, lambda ranks: to_the_end(distributed(ranks, make=make))):
        assert_alike(run, one)


def test_the_same_number_of_ranks_is_the_same_bits() -> None:
    config = CONFIG.replace(optimizer="adam")
    first, second = (on_ranks(3, lambda ranks: to_the_end(distributed(ranks, config))) for _ in range(2))
    assert np.array_equal(weights(first[0]), weights(second[0]))
    assert np.array_equal(numbers(first[0].history), numbers(second[0].history))


def test_interrupted_and_continued_in_pieces() -> None:
    """Every boundary of ``advance`` completes the notes: pieces of one, two and four steps change nothing."""
    whole = on_ranks(2, lambda ranks: to_the_end(distributed(ranks)))[0]
    for most in (1, 2, 4):
        pieces = on_ranks(2, lambda ranks, most=most: to_the_end(distributed(ranks), most))[0]  # type: ignore[misc]
        assert np.array_equal(weights(pieces), weights(whole))
        assert np.array_equal(numbers(pieces.history), numbers(whole.history))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_resumed_on_another_number_of_ranks(tmp_path: Path, size: int) -> None:
    """Stopped by two ranks in the middle of an epoch; rank 0 alone reads the checkpoint."""
    config = CONFIG.replace(optimizer="momentum", l2=0.01, patience=5)
    path = tmp_path / "checkpoint.safetensors"
    whole = on_ranks(2, lambda ranks: to_the_end(distributed(ranks, config)))[0]

    def begin(ranks: ThreadRank) -> None:
        run = distributed(ranks, config)
        run.advance()
        run.advance(2)
        if ranks.rank == 0:
            save_checkpoint(run, DATA, path)

    def go_on(ranks: ThreadRank) -> DistributedRun:
        run = distributed(ranks, config)
        if ranks.rank == 0:
            assert restore(run, DATA, path)
        share(run)
        assert (run.epoch, run.batch, run.steps, len(run.history)) == (1, 2, 5, 1)
        return to_the_end(run)  # type: ignore[return-value]

    on_ranks(2, begin)
    for run in on_ranks(size, go_on):
        assert_alike(run, whole)
        if size == 2:
            assert np.array_equal(weights(run), weights(whole))
    alone = TrainingRun(net(), DATA, config, host())  # without ranks at all
    assert restore(alone, DATA, path)
    assert_alike(to_the_end(alone), whole)


def test_one_rank_s_wish_stops_all_after_the_same_step() -> None:
    def work(ranks: ThreadRank) -> tuple[int, bool, Any]:
        run = distributed(ranks)
        run.advance(1)
        run.stopping = ranks.rank == 1
        assert not run.stopping  # a wish, until all have heard it
        record = run.advance()
        return run.steps, run.stopping, record

    assert on_ranks(3, work) == [(2, True, None)] * 3


def test_divergence_is_found_by_all_and_named_alike() -> None:
    config = CONFIG.replace(lr=1e200, optimizer="sgd")
    messages = []

    def work(ranks: ThreadRank) -> None:
        try:
            to_the_end(distributed(ranks, config))
        except DivergenceError as error:
            messages.append(str(error))

    on_ranks(3, work)
    with pytest.raises(DivergenceError) as alone:
        to_the_end(TrainingRun(net(), DATA, config, host()))
    assert len(messages) == 3
    assert set(messages) == {str(alone.value)}


@pytest.mark.parametrize("kept", [{"patience": 2}, {"keep": "best", "epochs": 8}])
def test_patience_and_keep_end_all_ranks_with_the_same_parameters(kept: dict[str, Any]) -> None:
    config = CONFIG.replace(**{"epochs": 40, "lr": 0.5} | kept)
    one = to_the_end(TrainingRun(net(), DATA, config, host()))
    assert len(one.history) < 40
    for run in on_ranks(2, lambda ranks: to_the_end(distributed(ranks, config))):
        assert_alike(run, one)


def test_what_differs_between_ranks_is_named_on_all_of_them() -> None:
    found = []

    def work(ranks: ThreadRank) -> None:
        odd = ranks.rank == 1
        labels = DATA.train_labels.copy()
        labels[7] = (labels[7] + 1) % 4
        data = replace(DATA, train_labels=labels) if odd else DATA
        try:
            config = CONFIG.replace(lr=0.1 if odd else 0.2)
            DistributedRun(net(), data, config, host(), communicator=ranks, facts={"numpy": "1" if odd else "2"})
        except ConfigError as error:
            found.append(str(error))

    on_ranks(2, work)
    assert len(set(found)) == 1
    assert len(found) == 2
    for text in ("lr 0.2 on rank 0 and 0.1 on rank 1", "numpy 2 on rank 0 and 1 on rank 1", "train_labels (101,)"):
        assert text in found[0]
    assert "train_images" not in found[0]


def test_weights_that_drift_apart_are_noticed_and_mended() -> None:
    def work(ranks: ThreadRank) -> np.ndarray:
        run = distributed(ranks)
        run.advance(1)
        if ranks.rank == 1:
            run.net.parameters[0] += 1e-6
        run.advance()
        return weights(run)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        first, second = on_ranks(2, work)
    assert np.array_equal(first, second)
    assert any("differed after epoch 1" in str(warning.message) for warning in caught)


def test_two_ranks_on_one_gpu_are_refused() -> None:
    class Gpu(StrictBackend):
        unit = property(lambda self: "GPU-1")

    with pytest.raises(DeviceError, match=r"more ranks than GPUs.*2 ranks on 1 GPU"):
        on_ranks(2, lambda ranks: distributed(ranks, make=Gpu))
    on_ranks(1, lambda ranks: distributed(ranks, make=Gpu))


def test_a_run_that_is_not_distributed_takes_the_step_of_one_process() -> None:
    run = TrainingRun(net(), DATA, CONFIG, host())
    assert type(run._step).__name__ == "TrainingStep"
    assert type(run.running).__name__ == "Running"


def test_what_is_told_of_the_work() -> None:
    for run in on_ranks(2, lambda ranks: to_the_end(distributed(ranks))):
        assert isinstance(run, DistributedRun)
        told = run.describe()
        assert told["ranks"] == 2
        assert told["steps"] == 9
        assert 0 < told["summing_seconds"] < told["step_seconds"]
        assert told["gradients_summed_by"] == "MPI"
