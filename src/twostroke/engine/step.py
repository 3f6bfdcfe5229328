"""One training step: gather a batch, forward, loss, backward, update."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..backend import Array, Captured, Steps
from .metrics import Running
from .mlp import MLP, propagate
from .optimizers import Optimizer
from .workspace import Buffers, Workspace


class TrainingStep:
    """A step on batches of up to ``batch_size`` samples; every array that it needs is allocated here.

    ``images`` (N, D) and ``labels`` (N,), or target rows (N, K), are on the device. Without ``images`` the caller puts
    each batch into A[0]; with ``running`` losses and predicted classes are kept there. ``weights`` (N,) are sample
    weights relative to the mean of their batch. With ``dropout`` the caller fills ``keys`` (N,) before each epoch.
    ``capture`` makes steps ready to be run many times; by default it is the backend's.
    """

    def __init__(
        self,
        net: MLP,
        images: Array | None,
        labels: Array,
        optimizer: Optimizer,
        batch_size: int,
        running: Running | None = None,
        *,
        weights: Array | None = None,
        dropout: float = 0.0,
        capture: Callable[[Sequence[Steps]], Captured] | None = None,
    ) -> None:
        self.net, self.images, self.labels, self.weights = net, images, labels, weights
        self.optimizer, self.running = optimizer, running
        self.workspace = Workspace(
            net.backend, net.layers, net.dtype, batch_size, weighted=weights is not None, dropout=dropout
        )
        self.keys = net.backend.xp.zeros(len(labels), "uint32") if dropout else None
        self.capture = capture or net.backend.capture

    def share(self, n: int) -> tuple[int, int]:
        """The rows of a batch of n samples that this process takes: all of them."""
        return 0, n

    def kept(self, buffers: Buffers) -> list[tuple[Array, Array]]:
        """What is kept of every sample: an array (N,), and where a step leaves it for its batch (n,)."""
        if self.running is None:
            return []
        return [(self.running.losses, buffers.losses), (self.running.predictions, buffers.predictions)]

    def kept_by_step(self) -> list[tuple[Array, Array]]:
        """What is kept of every step: an array with a row for each, and where a step leaves it."""
        return []

    def learn_batch(self, buffers: Buffers, n: int) -> None:
        """A step on the samples ``buffers.indices``: this process's share of a batch of n."""
        self.gather(buffers)
        self.learn(buffers)

    def gather(self, buffers: Buffers) -> None:
        """Inputs, targets, weights and dropout masks of the samples ``buffers.indices``."""
        if self.images is not None:
            self.workspace.gather_inputs(self.images, buffers)
        self.workspace.gather_targets(self.labels, buffers)
        if self.weights is not None:
            self.workspace.gather_weights(self.weights, buffers)
        if self.keys is not None:
            self.workspace.draw_masks(self.keys, buffers)

    def learn(self, buffers: Buffers) -> None:
        """Both strokes and the update, for inputs A[0] and targets T that are in place."""
        optimizer, classes = self.optimizer, self.running is not None
        propagate(self.net, buffers, optimizer.target_views, *optimizer.prepare(), classes=classes)
        optimizer.update()
