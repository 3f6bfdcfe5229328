"""All arrays of a pass over a batch, allocated once, so that a step allocates nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..backend import Array, Backend
from . import kernels


class Buffers(NamedTuple):
    """A workspace's arrays for exactly n rows. A[0] is the input X, A[-1] the output; dA[l] belongs to A[l + 1].

    ``T`` (targets) and the arrays of the output layer are in Fortran order: each class is contiguous, so a reduction
    over the few classes of each row runs as vector operations of length n.
    """

    A: list[Array]  # (n, width) of each layer
    dA: list[Array]  # (n, width) of each layer but the input; holds dZ after activation backward
    T: Array  # (n, K)
    losses: Array  # (n,)
    scratch: Array  # (n, K)
    rows: Array  # (n,), scratch for row reductions
    ones: Array  # (1, n)
    pixels: Array  # (n, D) uint8
    labels: Array  # (n,)
    indices: Array  # (n,) int64, the batch's samples
    predictions: Array  # (n,) int64, the most probable class; of a regression (n, K), the outputs
    weights: Array  # (n,), sample weights relative to the batch's mean; (0,) without sample weights
    target_rows: Array  # (n, K) in C order, aliases scratch: gathered target rows before they are copied to T
    keys: Array  # (n,) uint32, a random number per sample, for dropout
    masks: list[Array]  # (n, width) of each hidden layer, 0 or 1 / keep; [] without dropout
    bits: list[Array]  # two (n, width) uint32 per mask, scratch
    keep: Array  # (1, 1), the probability that a unit is kept
    Z: list[Array] = []  # noqa: RUF012 # (n, width) of each hidden layer, where its activation does not overwrite it
    spare: list[Array] = []  # noqa: RUF012 # one (n, K), scratch, for a user's loss

    @property
    def passing(self) -> list[Array]:
        """The arrays that hold nothing between two steps: all but ``ones`` and ``keep``."""
        layers = (*self.A, *self.dA, *self.masks, *self.bits, *self.Z, *self.spare)
        samples = (self.losses, self.rows, self.labels, self.indices, self.predictions, self.weights, self.keys)
        return [*layers, *samples, self.T, self.scratch, self.pixels, self.target_rows]


class Workspace:
    """The arrays for batches of up to ``capacity`` rows through layers of these ``widths``.

    Without ``training`` only the arrays for inference are allocated. ``weighted``: there are sample weights.
    ``dropout`` is the probability that a hidden unit is dropped. ``regression``: predictions are rows of outputs.
    ``keeps_input`` and ``spare``: there is a Z, a spare.
    """

    def __init__(
        self,
        backend: Backend,
        widths: Sequence[int],
        dtype: str,
        capacity: int,
        *,
        training: bool = True,
        weighted: bool = False,
        dropout: float = 0.0,
        regression: bool = False,
        keeps_input: bool = False,
        spare: bool = False,
    ) -> None:
        xp, empty = backend.xp, backend.empty
        self.backend = backend
        self.widths = tuple(widths)
        self.capacity = capacity
        n_in, n_out = widths[0], widths[-1]
        backward = capacity if training else 0
        self._A = [empty(capacity * width, dtype) for width in widths]
        self._dA = [empty(backward * width, dtype) for width in widths[1:]]
        self._T = empty(capacity * n_out, dtype)
        self._scratch = empty(capacity * n_out, dtype)
        self._losses, self._rows = empty(capacity, dtype), empty(capacity, dtype)
        self._ones = empty(backward, dtype)
        xp.copyto(self._ones, 1.0)
        self._pixels = empty(capacity * n_in, "uint8")
        self._labels = empty(capacity, label_dtype(n_out))
        self._indices, self._regression = empty(capacity, "int64"), regression
        self._predictions = empty(capacity * n_out, dtype) if regression else empty(capacity, "int64")
        self._classes = xp.arange(n_out, dtype=self._labels.dtype).reshape(1, n_out)
        self._weights = empty(capacity if weighted else 0, dtype)
        hidden = self.widths[1:-1] if dropout else ()
        self._keys = empty(capacity if dropout else 0, "uint32")
        self._masks = [empty(capacity * width, dtype) for width in hidden]
        self._bits = [empty(capacity * max(hidden, default=0), "uint32") for _ in range(2)]
        # A Weyl sequence: every unit of the network gets a different number.
        self._units = [
            (xp.arange(sum(hidden[:layer]), sum(hidden[: layer + 1]), dtype="uint32") * 0x9E3779B9).reshape(1, -1)
            for layer in range(len(hidden))
        ]
        self._keep, self._scale = empty((1, 1), dtype), empty((1, 1), dtype)
        xp.copyto(self._keep, 1.0 - dropout)
        xp.copyto(self._scale, 1.0 / (1.0 - dropout))
        self._threshold = round(dropout * 2**32)
        # In the arrays' dtype: uint8 / 255 with a Python 255 would be computed in float64.
        self._white = xp.dtype(dtype).type(255)
        self._Z = [empty(capacity * width, dtype) for width in self.widths[1:-1] if keeps_input]
        self._spare = [empty(capacity * n_out, dtype)] if spare else []
        self._views: dict[int, Buffers] = {}

    def rows(self, n: int) -> Buffers:
        """The arrays for a batch of n <= capacity rows: contiguous views, cached for each n."""
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
            predictions=by_row(self._predictions, self.widths[-1]) if self._regression else self._predictions[:n],
            weights=self._weights[:n],
            target_rows=by_row(self._scratch, self.widths[-1]),
            keys=self._keys[:n],
            masks=list(map(by_row, self._masks, self.widths[1:-1])),
            bits=[by_row(bits, width) for width in self.widths[1 : len(self._masks) + 1] for bits in self._bits],
            keep=self._keep,
            Z=list(map(by_row, self._Z, self.widths[1:-1])),
            spare=list(map(by_class, self._spare)),
        )

    def gather_inputs(self, source: Array, buffers: Buffers) -> None:
        """X <- the rows ``indices`` of the device array ``source`` (uint8 pixels, or floats of X's dtype)."""
        if source.dtype == buffers.pixels.dtype:
            self.backend.take_rows(source, buffers.indices, buffers.pixels)
            self.load_inputs(buffers.pixels, buffers)
        else:
            self.backend.take_rows(source, buffers.indices, buffers.A[0])

    def load_inputs(self, rows: Array, buffers: Buffers) -> None:
        """X <- rows (n, D): uint8 pixels scaled to 0..1, floats unchanged."""
        if rows.dtype == buffers.pixels.dtype:
            self.backend.elementwise(kernels.scale_pixels)(rows, buffers.A[0], self._white)
        else:
            self.backend.xp.copyto(buffers.A[0], rows)

    def gather_targets(self, source: Array, buffers: Buffers) -> None:
        """T <- the targets ``indices`` of the device array ``source``: labels (N,), or rows (N, K) of T's dtype."""
        gathered = buffers.labels if source.ndim == 1 else buffers.target_rows
        self.backend.take_rows(source, buffers.indices, gathered)
        self.load_targets(gathered, buffers)

    def load_targets(self, targets: Array, buffers: Buffers) -> None:
        """T <- labels (n,) as one-hot rows, or rows (n, K) unchanged."""
        if targets.ndim == 1:
            self.backend.elementwise(kernels.one_hot)(targets[:, None], self._classes, buffers.T)
        else:
            self.backend.elementwise(kernels.copy_to)(targets, buffers.T)

    def gather_weights(self, weights: Array, buffers: Buffers) -> None:
        """weights (n,) <- the entries ``indices`` of the device array ``weights`` (N,)."""
        self.backend.take_rows(weights, buffers.indices, buffers.weights)

    def draw_masks(self, keys: Array, buffers: Buffers) -> None:
        """Draw the dropout masks of one pass, from the entries ``indices`` of the device array ``keys`` (N,) uint32."""
        self.backend.take_rows(keys, buffers.indices, buffers.keys)
        draw = self.backend.elementwise(kernels.dropout_mask)
        for layer, (units, mask) in enumerate(zip(self._units, buffers.masks, strict=True)):
            bits, shifted = buffers.bits[2 * layer : 2 * layer + 2]
            draw(buffers.keys[:, None], units, mask, bits, shifted, self._threshold, self._scale)


def label_dtype(n_classes: int) -> str:
    """The dtype of labels on the device."""
    return "uint8" if n_classes <= 256 else "int32"
