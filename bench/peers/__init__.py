"""One module per peer, one shape: the same training step by other means.

A module has a ``VERSION`` and a function ``make(problem) -> Side``. All sides train the same network the same way:
ReLU hidden layers, softmax and cross-entropy of the batch's mean, plain SGD, float32; each step computes the loss.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import pairwise
from typing import Any, Final, NamedTuple, Protocol

import numpy as np

# In the order of tables; the module to import for each.
PEERS: Final[dict[str, str]] = {
    "ours": "ours",
    "torch-eager": "torch_eager",
    "torch-manual": "torch_manual",
    "torch-compile": "torch_compile",
    "torch-autotune": "torch_autotune",
    "torch-graph": "torch_graph",
    "jax-step": "jax_step",
    "jax-scan": "jax_scan",
    "sklearn": "sklearn_mlp",
    "thinc": "thinc_mlp",
    "numpy-out": "numpy_out",
    "seed-loop": "seed_loop",
}

# The others know the CPU only.
ON_CUDA: Final = frozenset(name for name in PEERS if name == "ours" or name.startswith(("torch", "jax")))


LARGE: Final = 1e10  # floating-point operations of a step: some 50 ms on two cores


class Problem(NamedTuple):
    """What every side is given. All arrays are on the host, C-contiguous, and shared: nobody writes into them."""

    layers: tuple[int, ...]
    weights: list[np.ndarray]  # W1, b1, W2, b2, ...: float32, W (fan_in, fan_out), b (fan_out,)
    batches: list[tuple[np.ndarray, np.ndarray]]  # X (N, D) float32, labels (N,) int64
    lr: float
    threads: int
    device: str = "cpu"  # or "cuda"

    @property
    def batch_size(self) -> int:
        """Samples in each batch."""
        return len(self.batches[0][0])


class Side(Protocol):
    """One side of a duel."""

    granularity: int  # ``run`` is fastest, or only possible, in multiples of this many steps
    mode: str  # how it does it, in words

    def active(self) -> AbstractContextManager[object]:
        """Entered around runs, outside the clock: sets the number of threads."""

    def run(self, n_steps: int) -> None:
        """Train on the next ``n_steps`` batches, round and round; all work is done at return."""

    def weights(self) -> list[np.ndarray]:
        """W1, b1, W2, b2, ... as they are now, in ``Problem``'s shapes."""


class PeerUnavailableError(Exception):
    """A peer that is installed but cannot run here, with the reason."""


class Peer(NamedTuple):
    """An imported peer module."""

    name: str
    version: str
    make: Callable[[Problem], Side]


def load_peer(name: str) -> Peer:
    """Import the peer. Raises ``ImportError`` if its library is not installed."""
    module = importlib.import_module(f"bench.peers.{PEERS[name]}")
    return Peer(name, module.VERSION, module.make)


def make_problem(
    layers: Sequence[int],
    batch_size: int,
    threads: int,
    *,
    lr: float = 0.01,
    n_batches: int | None = None,
    device: str = "cpu",
    noise: bool = False,
) -> Problem:
    """Seeded He weights and batches: MNIST for 784 inputs and 10 classes, else normal numbers of its mean square.

    ``noise``: normal numbers always. They have no zeros, and four of five of MNIST's pixels are. ``n_batches``: those
    of a round, by default 64, or 8 where they would take many seconds.
    """
    from twostroke.engine.initializers import initial_parameters
    from twostroke.engine.mlp import layer_views

    flat = initial_parameters(layers, "he", seed=0).astype(np.float32)
    weights = [np.ascontiguousarray(a) for layer in layer_views(flat, layers) for a in (layer.W, layer.b.ravel())]
    n_batches = n_batches or (64 if step_flops(layers, batch_size) < LARGE else 8)
    n = batch_size * n_batches
    images, labels = _samples(layers, n, noise)
    batches = []
    for start in range(0, n, batch_size):
        batches.append((images[start : start + batch_size], labels[start : start + batch_size]))
    return Problem(tuple(layers), weights, batches, lr, threads, device)


def _samples(layers: Sequence[int], n: int, noise: bool) -> tuple[np.ndarray, np.ndarray]:
    if (layers[0], layers[-1]) == (784, 10) and not noise:
        from twostroke import load_dataset

        data = load_dataset("mnist")
        order = np.arange(n) % len(data.train_images)
        images = data.train_images[order].astype(np.float32)
        images /= np.float32(255)
        return images, data.train_labels[order].astype(np.int64)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((n, layers[0]), dtype=np.float32)
    images *= np.float32(0.33)
    return images, rng.integers(0, layers[-1], n)


def step_flops(layers: Sequence[int], batch_size: int) -> int:
    """Floating-point operations of the matrix products of one step; the first layer needs no dX."""
    products = sum(fan_in * fan_out for fan_in, fan_out in pairwise(layers))
    return 2 * batch_size * (3 * products - layers[0] * layers[1])


def one_hot(labels: np.ndarray, n_classes: int) -> np.ndarray:
    """(N, K) float32."""
    rows: np.ndarray = np.eye(n_classes, dtype=np.float32)[labels]
    return rows


def blas_threads(threads: int) -> AbstractContextManager[object]:
    """Every BLAS in the process limited to ``threads``."""
    import threadpoolctl

    limits: AbstractContextManager[object] = threadpoolctl.threadpool_limits(threads, user_api="blas")
    return limits


def pairs(arrays: list[Any]) -> list[tuple[Any, Any]]:
    """[W1, b1, W2, b2] -> [(W1, b1), (W2, b2)]."""
    return list(zip(arrays[::2], arrays[1::2], strict=True))
