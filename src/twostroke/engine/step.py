"""One training step: gather a batch, forward, loss, backward, update."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..backend import Array, Captured, Steps
from .metrics import Running
from .mlp import MLP, propagate
from .optimizers import OptimizerState
from .workspace import Buffers, Workspace


class TrainingStep:
    """A step on batches of up to ``batch_size`` samples; all its arrays are allocated by the constructor.

    ``images`` (N, D) and ``labels`` (N,), or target rows (N, K), are on the device. Without ``images`` the caller
    copies each batch into A[0]. Losses and predicted classes go into ``running``, if given. ``weights`` (N,) are sample
    weights relative to the mean of their batch. With ``dropout`` the caller fills ``keys`` (N,) before each epoch.
    ``capture`` captures steps for replay; by default the backend's.
    """

    def __init__(
        self,
        net: MLP,
        images: Array | None,
        labels: Array,
        optimizer: OptimizerState,
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
            net.backend,
            net.layers,
            net.dtype,
            batch_size,
            weighted=weights is not None,
            dropout=dropout,
            **net.own_arrays,
        )
        self.keys = net.backend.xp.zeros(len(labels), "uint32") if dropout else None
        self.capture = capture or net.backend.capture

    def share(self, n: int) -> tuple[int, int]:
        """The rows (start, stop) of a batch of n samples that this process computes: here all."""
        return 0, n

    def kept(self, buffers: Buffers) -> list[tuple[Array, Array]]:
        """Per-sample results to keep: pairs of an array (N,) and the buffer (n,) that a step writes; or of (N K,) and
        (n K,), K numbers per sample."""
        if self.running is None:
            return []
        predictions = self.running.predictions.reshape(-1), buffers.predictions.reshape(-1)
        return [(self.running.losses, buffers.losses), predictions]

    def kept_by_step(self) -> list[tuple[Array, Array]]:
        """Per-step results to keep: pairs of an array with a row per step and the buffer that a step writes."""
        return []

    def learn_batch(self, buffers: Buffers, n: int) -> None:
        """A step on the samples ``buffers.indices``, this process's part of a batch of n."""
        self.gather(buffers)
        self.learn(buffers)

    def gather(self, buffers: Buffers) -> None:
        """Gather inputs, targets and weights of the samples ``buffers.indices``, and draw their dropout masks."""
        if self.images is not None:
            self.workspace.gather_inputs(self.images, buffers)
        self.workspace.gather_targets(self.labels, buffers)
        if self.weights is not None:
            self.workspace.gather_weights(self.weights, buffers)
        if self.keys is not None:
            self.workspace.draw_masks(self.keys, buffers)

    def learn(self, buffers: Buffers) -> None:
        """Forward pass, backward pass and update; A[0] and T must hold the inputs and targets."""
        optimizer, classes = self.optimizer, self.running is not None
        propagate(self.net, buffers, optimizer.target_views, *optimizer.prepare(), classes=classes)
        optimizer.update()
