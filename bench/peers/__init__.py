"""One module per peer, one shape: the same training step by other means.

A module has a ``VERSION`` and a function ``make(problem) -> Side``. All sides train the same network the same way:
ReLU hidden layers, softmax and cross-entropy of the batch's mean, plain SGD, float32; each step computes the loss.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import cycle, pairwise
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


FORMS: Final = ("resident", "prepared")
LARGE: Final = 1e10  # floating-point operations of a step: some 50 ms on two cores
ROWS: Final = 60_000  # samples of the resident form: as many as MNIST has
MOST_STEPS, ROUND_FLOPS = 256, 2e9  # of a round of the resident form: some 10 ms or more, so that a call costs nothing


class Resident(NamedTuple):
    """Samples as a training holds them, and the order of its steps: each gathers its rows."""

    pixels: np.ndarray  # (ROWS, D) uint8; a sample is pixels / 255
    labels: np.ndarray  # (ROWS,) int64
    order: np.ndarray  # (steps, N) int64: the rows of each step, those of whole permutations; whole rounds
    round_steps: int  # what a side may take in one call

    def floats(self) -> np.ndarray:
        """The samples as a library without uint8 keeps them: (ROWS, D) float32 in 0..1, a new array."""
        samples = self.pixels.astype(np.float32)
        samples /= np.float32(255)
        return samples


class Problem(NamedTuple):
    """What every side is given. All arrays are on the host, C-contiguous, and shared: nobody writes into them."""

    layers: tuple[int, ...]
    weights: list[np.ndarray]  # W1, b1, W2, b2, ...: float32, W (fan_in, fan_out), b (fan_out,)
    batches: list[tuple[np.ndarray, np.ndarray]]  # X (N, D) float32, labels (N,) int64; none where resident
    lr: float
    threads: int
    device: str = "cpu"  # or "cuda"
    resident: Resident | None = None

    @property
    def batch_size(self) -> int:
        """Samples in each batch."""
        return len(self.batches[0][0]) if self.resident is None else self.resident.order.shape[1]

    @property
    def round_steps(self) -> int:
        """How many steps a side may take in one call."""
        return len(self.batches) if self.resident is None else self.resident.round_steps


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
    form: str = "prepared",
) -> Problem:
    """Seeded He weights and samples: MNIST for 784 inputs and 10 classes, else random numbers of its mean square.

    ``noise``: random numbers always. They have no zeros, and four of five of MNIST's pixels are. ``form``: "resident",
    all samples and an order, or "prepared", batches of float32. ``n_batches``: those of a round of the latter, by
    default 64, or 8 where they would take many seconds.
    """
    from twostroke.engine.initializers import initial_parameters
    from twostroke.engine.layers import layer_views

    flat = initial_parameters(layers, "he", seed=0).astype(np.float32)
    weights = [np.ascontiguousarray(a) for layer in layer_views(flat, layers) for a in (layer.W, layer.b.ravel())]
    if form == "resident":
        return Problem(tuple(layers), weights, [], lr, threads, device, _resident(layers, batch_size, noise))
    n_batches = n_batches or (64 if step_flops(layers, batch_size) < LARGE else 8)
    n = batch_size * n_batches
    images, labels = _samples(layers, n, noise)
    batches = []
    for start in range(0, n, batch_size):
        batches.append((images[start : start + batch_size], labels[start : start + batch_size]))
    return Problem(tuple(layers), weights, batches, lr, threads, device)


def _resident(layers: Sequence[int], batch_size: int, noise: bool) -> Resident:
    rng = np.random.default_rng(0)
    if (layers[0], layers[-1]) == (784, 10) and not noise:
        from twostroke import load_dataset

        data = load_dataset("mnist")
        pixels, labels = data.train_images, data.train_labels.astype(np.int64)
    else:  # 1..145: no zeros, and the mean square of 0.33 that MNIST's pixels have
        pixels = rng.integers(1, 146, (ROWS, layers[0]), dtype=np.uint8)
        labels = rng.integers(0, layers[-1], ROWS)
    by_work = int(ROUND_FLOPS / step_flops(layers, batch_size))
    steps = max(1, min(MOST_STEPS, len(labels) // batch_size, by_work))
    count = math.ceil(len(labels) / (steps * batch_size)) * steps * batch_size
    order = np.concatenate([rng.permutation(len(labels)) for _ in range(math.ceil(count / len(labels)))])
    return Resident(pixels, labels, order[:count].reshape(-1, batch_size), steps)


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


def stream(problem: Problem, *, hot: bool = False) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The batches, round and round: prepared, or gathered by ``np.take`` into one array. ``hot``: one-hot labels."""

    def targets(labels: np.ndarray) -> np.ndarray:
        return one_hot(labels, problem.layers[-1]) if hot else labels

    if problem.resident is None:
        return cycle([(X, targets(y)) for X, y in problem.batches])
    return _gathered(problem.resident, targets(problem.resident.labels))


def _gathered(resident: Resident, targets: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    samples = resident.floats()
    X = np.empty((resident.order.shape[1], samples.shape[1]), np.float32)
    for rows in cycle(list(resident.order)):
        yield np.take(samples, rows, axis=0, out=X, mode="clip"), targets[rows]


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
