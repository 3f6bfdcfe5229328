"""Duels on a GPU, as far as they can be proven without one: our side over a fake CuPy, refusals, the peers' step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from bench import duel
from bench.peers import ON_CUDA, PEERS, PeerUnavailableError, Problem, load_peer

from fake_graphs import FakeGraphs, plant_fake_graphs
from twostroke.backend.probe import probe_cuda

LAYERS, BATCH, BATCHES = (6, 5, 3), 4, 3


def problem(device: str) -> Problem:
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal(shape).astype("float32") for shape in ((6, 5), (5,), (5, 3), (3,))]
    batches = [(rng.random((BATCH, 6), "float32"), rng.integers(0, 3, BATCH)) for _ in range(BATCHES)]
    return Problem(LAYERS, weights, batches, 0.1, 1, device)


def weights_after(side: Any, steps: Sequence[int]) -> Any:
    with side.active():
        for count in steps:
            side.run(count)
    return np.concatenate([array.ravel() for array in side.weights()])


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, fresh_probe: None) -> FakeGraphs:
    _, gpu = plant_fake_graphs(monkeypatch)
    monkeypatch.setattr("twostroke.backend.probe.cupy_wheels", lambda: ["cupy-cuda12x 14.2.0"])
    return gpu


def test_our_side_runs_a_round_by_one_launch(gpu: FakeGraphs) -> None:
    """In rounds, in single steps and in both, as on the CPU."""
    ours = load_peer("ours")
    side = ours.make(problem("cuda"))
    assert side.granularity == BATCHES
    before = gpu.graph_launches
    found = weights_after(side, [2 * BATCHES])
    assert gpu.graph_launches == before + 2
    expected = weights_after(ours.make(problem("cpu")), [2 * BATCHES])
    assert np.linalg.norm(found - expected) <= 5e-6 * np.linalg.norm(expected)
    mixed = weights_after(ours.make(problem("cuda")), [BATCHES, 2])
    expected = weights_after(ours.make(problem("cpu")), [BATCHES + 2])
    assert np.linalg.norm(mixed - expected) <= 5e-6 * np.linalg.norm(expected)


def test_a_peer_of_the_cpu_is_not_timed_on_a_gpu() -> None:
    for name in set(PEERS) - ON_CUDA:
        row = duel.Row(name, list(LAYERS), BATCH, 1, "cuda")
        duel.duel(row, 2, 0.001, 0)
        assert (row.status, row.reason) == ("unavailable", "knows the CPU only")


def test_without_a_gpu_a_duel_says_so() -> None:
    if probe_cuda().usable:
        pytest.skip("this machine has a GPU")
    with pytest.raises(PeerUnavailableError, match="the GPU cannot be used"):
        load_peer("ours").make(problem("cuda"))


@pytest.mark.parametrize("name", ["torch-eager", "torch-manual", "torch-compile", "torch-autotune", "torch-graph"])
def test_a_pytorch_peer_without_a_gpu_says_so(name: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: its peers cannot be asked")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(PeerUnavailableError, match="finds no GPU"):
        load_peer(name).make(problem("cuda"))


@pytest.mark.parametrize("name", ["torch-eager", "torch-manual", "jax-step", "jax-scan"])
def test_a_peer_learns_what_we_learn(name: str) -> None:
    """On the CPU: the step that a GPU is given is the same code."""
    pytest.importorskip(name.partition("-")[0], reason="the peer is not installed")
    row = duel.Row(name, list(LAYERS), BATCH, 1)
    assert duel.check_agreement(row, load_peer("ours"), load_peer(name), problem("cpu")), row.reason
