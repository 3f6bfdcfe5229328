"""Evaluation: mean loss and accuracy of a network on labelled samples, or the errors of a regression."""

from __future__ import annotations

from typing import Any

from ..backend import Array, Backend
from .batches import batch_bounds
from .metrics import Running
from .mlp import MLP, MOST_ROWS, Inference
from .targets import Result, targets_of, unit
from .workspace import label_dtype


class Evaluation:
    """A labelled set on the device, with the arrays to evaluate it repeatedly; ``weights`` (N,) are of its losses."""

    def __init__(self, net: MLP, images: Any, labels: Any, weights: Any = None, *, keep_outputs: bool = False) -> None:
        backend, rows = net.backend, min(MOST_ROWS, len(images))
        self.net = net
        self._bounds = list(batch_bounds(len(images), rows))
        sizes = list(dict.fromkeys(stop - start for start, stop in self._bounds))  # the largest first
        with backend.active():
            self._images, self._labels = upload(backend, images, labels, net)
            pixels = self._images.dtype == "uint8"
            self._inference = Inference(net, rows, scored=True, sizes=sizes, pixels=pixels)
            self._running = Running(backend, len(images), net.dtype, unit(net))
            self._weights = None if weights is None else backend.asarray(weights / weights.mean(), net.dtype)
            self.outputs = backend.xp.empty((len(images), net.layers[-1]), net.dtype) if keep_outputs else None

    def run(self) -> Result:
        """Mean loss and accuracy with the current parameters."""
        with self.net.backend.active():
            for start, stop in self._bounds:
                buffers = self._inference.run(self._images[start:stop], self._labels[start:stop])
                self._running.update(start, buffers)
                if self.outputs is not None:
                    self.outputs[start:stop] = buffers.A[-1]
            if self._weights is not None:
                self.net.backend.xp.multiply(self._running.losses, self._weights, out=self._running.losses)
            return self._running.result(self._labels)


def evaluate(net: MLP, images: Any, labels: Any) -> Result:
    """Mean loss and accuracy of ``net`` on host arrays images (N, D) and labels (N,); or the errors of a regression,
    whose labels are targets (N, K). Raises ``DataError``."""
    return evaluate_outputs(net, images, labels, keep_outputs=False)[0]


def evaluate_outputs(net: MLP, images: Any, labels: Any, *, keep_outputs: bool = True) -> tuple[Result, Any]:
    """The result of ``evaluate``, and the outputs (N, K) of the same forward pass, on the host, in units of the
    targets."""
    images = net.inputs(images, "images")
    labels = targets_of(net, labels, "labels", len(images))
    evaluation = Evaluation(net, images, labels, keep_outputs=keep_outputs)
    result = evaluation.run()
    return result, net.in_units(net.backend.to_host(evaluation.outputs)) if keep_outputs else None


def upload(backend: Backend, images: Any, labels: Any, net: MLP) -> tuple[Array, Array]:
    """Upload samples: uint8 pixels as they are, other images in the network's dtype."""
    dtype = None if images.dtype == "uint8" else net.dtype
    with backend.active():
        kind = net.dtype if labels.ndim == 2 else label_dtype(net.layers[-1])
        return backend.asarray(images, dtype), backend.asarray(labels, kind)
