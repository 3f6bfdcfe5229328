"""Every array that a pass over a batch needs, allocated once: a step allocates nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from . import kernels
from .backend import Array, Backend


class Buffers(NamedTuple):
    """A workspace's arrays for exactly n rows. A[0] is the input X, A[-1] the output; dA[l] belongs to A[l + 1].

    ``T`` (targets) and the arrays of the output layer are in Fortran order, class by class: a reduction over
    the few classes of a row then runs along the long axis. Same maths, other layout.
    """

    A: list[Array]  # (n, width) of each layer
    dA: list[Array]  # the same without the input; after activation backward it holds dZ
    T: Array  # (n, K)
    losses: Array  # (n,)
    scratch: Array  # (n, K)
    rows: Array  # (n,), scratch for row reductions
    ones: Array  # (1, n)
    pixels: Array  # (n, D) uint8
    labels: Array  # (n,)
    indices: Array  # (n,) int64, the samples of the batch
    predictions: Array  # (n,) int64, the most probable class


class Workspace:
    """The arrays for batches of up to ``capacity`` rows through layers of these ``widths``.

    Without ``training`` only what inference needs is allocated.
    """

    def __init__(
        self, backend: Backend, widths: Sequence[int], dtype: str, capacity: int, *, training: bool = True
    ) -> None:
        xp = backend.xp
        self.backend = backend
        self.widths = tuple(widths)
        self.capacity = capacity
        n_in, n_out = widths[0], widths[-1]
        backward = capacity if training else 0
        self._A = [xp.empty(capacity * width, dtype) for width in widths]
        self._dA = [xp.empty(backward * width, dtype) for width in widths[1:]]
        self._T = xp.empty(capacity * n_out, dtype)
        self._scratch = xp.empty(capacity * n_out, dtype)
        self._losses, self._rows = xp.empty(capacity, dtype), xp.empty(capacity, dtype)
        self._ones = xp.ones(backward, dtype)
        self._pixels = xp.empty(capacity * n_in, "uint8")
        self._labels = xp.empty(capacity, label_dtype(n_out))
        self._indices, self._predictions = xp.empty(capacity, "int64"), xp.empty(capacity, "int64")
        self._classes = xp.arange(n_out, dtype=self._labels.dtype).reshape(1, n_out)
        # Of the arrays' type: a Python 255 would make uint8 / 255 compute in float64.
        self._white = xp.dtype(dtype).type(255)
        self._views: dict[int, Buffers] = {}

    def rows(self, n: int) -> Buffers:
        """The arrays for a batch of n <= capacity rows: contiguous views, made once for each n."""
        buffers = self._views.get(n)
        if buffers is None:
            buffers = self._views[n] = self._make_views(n)
        return buffers

    def _make_views(self, n: int) -> Buffers:
        def by_row(flat: Array, width: int) -> Array:
            return flat[: n * width].reshape(-1, width)

        def by_class(flat: Array) -> Array:
            return flat[: n * self.widths[-1]].reshape(self.widths[-1], -1).T

        return Buffers(
            A=[*map(by_row, self._A[:-1], self.widths[:-1]), by_class(self._A[-1])],
            dA=[*map(by_row, self._dA[:-1], self.widths[1:-1]), by_class(self._dA[-1])],
            T=by_class(self._T),
            losses=self._losses[:n],
            scratch=by_class(self._scratch),
            rows=self._rows[:n],
            ones=self._ones[:n].reshape(1, -1),
            pixels=by_row(self._pixels, self.widths[0]),
            labels=self._labels[:n],
            indices=self._indices[:n],
            predictions=self._predictions[:n],
        )

    def gather_inputs(self, source: Array, buffers: Buffers) -> None:
        """X <- the rows ``indices`` of the device array ``source`` (uint8 pixels, or floats of our dtype)."""
        if source.dtype == buffers.pixels.dtype:
            self.backend.take_rows(source, buffers.indices, buffers.pixels)
            self.load_inputs(buffers.pixels, buffers)
        else:
            self.backend.take_rows(source, buffers.indices, buffers.A[0])

    def load_inputs(self, rows: Array, buffers: Buffers) -> None:
        """X <- rows (n, D), uint8 pixels scaled to 0..1 or floats as they are."""
        if rows.dtype == buffers.pixels.dtype:
            self.backend.elementwise(kernels.scale_pixels)(rows, buffers.A[0], self._white)
        else:
            self.backend.xp.copyto(buffers.A[0], rows)

    def gather_targets(self, labels: Array, buffers: Buffers) -> None:
        """T <- one-hot rows of the labels ``indices`` of the device array ``labels``."""
        self.backend.take_rows(labels, buffers.indices, buffers.labels)
        self.load_targets(buffers.labels, buffers)

    def load_targets(self, labels: Array, buffers: Buffers) -> None:
        """T <- one-hot rows of labels (n,)."""
        self.backend.elementwise(kernels.one_hot)(labels[:, None], self._classes, buffers.T)


def label_dtype(n_classes: int) -> str:
    """The type labels have on the device."""
    return "uint8" if n_classes <= 256 else "int32"
