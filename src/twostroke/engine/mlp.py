"""The network: its parameters in one flat buffer, and the forward and backward pass.

``MLP`` holds the parameters, a ``Workspace`` the arrays of a pass; ``forward``, ``loss_forward`` and ``backward``
call the kernels layer by layer.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Final, Literal

from ..backend import Array, Backend, Steps, check_backend, host_backend
from ..data.checks import check_images
from ..data.dataset import TASKS
from ..data.scaling import Scaling
from ..errors import ConfigError, DataError
from . import kernels
from .arguments import check_layers, check_names, check_scaling, check_seed, check_task, choice
from .initializers import INITIALIZERS, initial_parameters
from .kinds import Activation, Loss, chosen
from .layers import Layer, layer_views, parameter_count
from .workspace import Buffers, Workspace

DTYPES: Final = ("float32", "float64")
MOST_ROWS: Final = 2048  # of a forward pass: enough for products to be fast, few enough for the cache
MOST_SIZES: Final = 16  # numbers of rows whose pass is kept captured
MOST_KEPT: Final = 1 << 26  # bytes of activations that a network keeps between two predictions


class MLP:
    """A multilayer perceptron.

    ``layers`` are the widths from input to output, e.g. [784, 128, 10]. ``activation`` is that of the hidden
    layers: "relu", "sigmoid", "tanh", "identity" or an ``Activation`` of your own. ``loss`` is "cross-entropy" (output
    softmax, or sigmoid), "quadratic" (output sigmoid, tanh, relu, identity or softmax), "poisson" (counts; output exp)
    or a ``Loss`` of your own; ``output`` is the output layer's activation, by default softmax for cross-entropy,
    sigmoid for quadratic. ``init`` is "he", "glorot", "normal" or "scaled-normal", by default "he" for
    ReLU, else "glorot". The weights are drawn with ``seed``, or taken from the flat host array ``parameters``.

    ``task`` is "classification", or "regression": the outputs are numbers. Its loss is "quadratic" (the default then,
    with output identity) or "poisson".

    ``scaling`` standardises every input row, as suits a table: ``Scaling.of(samples)``. ``target_scaling`` does that to
    the targets of a regression with output identity: ``Scaling.of(targets)``; ``predict`` returns to their units.
    ``classes`` are the names of the outputs. All three are kept in model files.

    ``dtype`` is "float32" or "float64"; ``backend`` is the device that holds the parameters, by default the CPU.
    Parameters and inputs must be finite: ``0 * inf`` and ``0 * nan`` count as 0 in the CPU's C library and may be NaN
    elsewhere.

    Raises ``ConfigError`` for anything else.
    """

    def __init__(
        self,
        layers: Sequence[int],
        activation: Literal["relu", "sigmoid", "tanh", "identity"] | Activation = "relu",
        loss: Literal["cross-entropy", "quadratic", "poisson"] | Loss | None = None,
        seed: int = 0,
        dtype: Literal["float32", "float64"] = "float32",
        *,
        output: Literal["softmax", "sigmoid", "tanh", "relu", "identity", "exp"] | None = None,
        init: Literal["he", "glorot", "normal", "scaled-normal"] | None = None,
        parameters: Any = None,
        scaling: Scaling | None = None,
        classes: Sequence[str] = (),
        task: Literal["classification", "regression"] = "classification",
        target_scaling: Scaling | None = None,
        backend: Backend | None = None,
    ) -> None:
        self.layers = check_layers(layers)
        self.task = choice("task", task, TASKS)
        self.regression = task == "regression"
        loss = ("quadratic" if self.regression else "cross-entropy") if loss is None else loss
        if self.regression and loss == "quadratic":
            output = output or "identity"
        self.scaling, self.classes = check_scaling(scaling, self.layers[0]), check_names(classes, self.layers[-1])
        self.target_scaling = check_scaling(target_scaling, self.layers[-1], "target_scaling")
        self.activation: str = chosen("activation", activation, Activation, kernels.ACTIVATIONS)
        self.loss: str = chosen("loss", loss, Loss, kernels.LOSSES)
        losses, hidden = kernels.loss_rows(self.loss), kernels.ACTIVATIONS.get(self.activation, activation)
        assert isinstance(hidden, Activation)
        self.output = choice("output", output or next(iter(losses)), losses)
        check_task(self.task, self.loss, self.output, target_scaling)
        self.init = choice("init", init or hidden.init, INITIALIZERS)
        self.dtype = choice("dtype", getattr(dtype, "name", dtype), DTYPES)  # NumPy's dtypes have a name
        self.seed = check_seed(seed)
        self.backend = check_backend(backend or host_backend())
        # The last layer computes logits; the loss turns them into outputs.
        self.layer_activations = [hidden] * (len(self.layers) - 2) + [kernels.ACTIVATIONS["identity"]]
        self.loss_kernels = losses[self.output]
        if parameters is None:
            self.parameters = self.backend.copy_of(initial_parameters(self.layers, self.init, seed), self.dtype)
        else:
            self.parameters = self.backend.asarray(parameters, self.dtype)

    @property
    def parameters(self) -> Array:
        """All weights and biases in one flat array; ``weights`` and ``biases`` are views of it."""
        return self._parameters

    @parameters.setter
    def parameters(self, flat: Array) -> None:
        self.backend.check(flat, "parameters")
        found = (flat.shape, str(flat.dtype), flat.flags.c_contiguous)
        expected = ((parameter_count(self.layers),), self.dtype, True)
        if found != expected:
            raise DataError("wrong parameters", where="shape, dtype, contiguous", found=found, expected=expected)
        self._parameters = flat
        self.views = layer_views(flat, self.layers)
        self._inference: list[Inference] = []  # at most one; not in the list while a thread uses it

    @property
    def own_arrays(self) -> dict[str, bool]:
        """What a workspace must have beside the usual: for a regression, or a user's own activation or loss."""
        keeps_input = not all(activation.in_place for activation in self.layer_activations)
        return {"regression": self.regression, "keeps_input": keeps_input, "spare": self.loss_kernels.spare}

    @property
    def weights(self) -> list[Array]:
        """W of each layer, (fan_in, fan_out), as views."""
        return [layer.W for layer in self.views]

    @property
    def biases(self) -> list[Array]:
        """b of each layer, (1, fan_out), as views."""
        return [layer.b for layer in self.views]

    def to(self, backend: Backend) -> MLP:
        """Move the parameters to ``backend``, in place, and return self."""
        if check_backend(backend) is not self.backend:
            host = self.backend.to_host(self.parameters)
            self.backend = backend
            self.parameters = backend.copy_of(host, self.dtype)
        return self

    def predict_proba(self, X: Any) -> Any:
        """The output layer's activations, (N, K) on the host, for X (N, D): uint8 pixels or scaled floats.

        Raises ``DataError`` for anything else.
        """
        if self.regression:
            found, expected = "a regression network", "a network of classes"
            raise ConfigError("numbers have no probabilities", found=found, expected=expected, remedy="Use predict(X).")
        return self.outputs(X)

    def outputs(self, X: Any) -> Any:
        """The output layer's activations as in ``predict_proba``; of a regression in the units of its targets."""
        with self.backend.active(captured=True):
            return self.in_units(self.backend.to_host(self.infer(self.inputs(X, "X"))))

    def in_units(self, outputs: Any) -> Any:
        """Activations (N, K) on the host, in the units of the targets, if those were standardised."""
        return outputs if self.target_scaling is None else self.target_scaling.undo(outputs)

    def inputs(self, X: Any, where: str) -> Any:
        """Checked and standardised host rows (N, D), as the first layer takes them. Raises ``DataError``, which names
        the array ``where``."""
        images = check_images(X, where, self.layers[0], self.backend.largest_magnitude)
        return images if self.scaling is None else self.scaling(images, self.dtype)

    def infer(self, X: Any) -> Array:
        """The output layer's activations (N, K) on the device, for X (N, D) on the device or on the host; host rows
        are uploaded in chunks. ``X`` needs only ``len`` and slicing. Several threads may call this at a time."""
        rows, kept, xp = min(MOST_ROWS, len(X)), self._inference, self.backend.xp
        inference = kept.pop() if kept else None
        if inference is None or inference.capacity < rows:
            # A weak reference: a cycle would hold device memory until Python looks for cycles.
            inference = Inference(weakref.proxy(self), min(MOST_ROWS, 1 << (rows - 1).bit_length()))
        if len(X) == rows and isinstance(X, xp.ndarray):  # half of the time of the loop below
            found = inference.run(X).A[-1].copy("C")
        else:
            found = xp.empty((len(X), self.layers[-1]), self.dtype)
            for start in range(0, len(X), rows):
                part, out = X[start : start + rows], found[start : start + rows]
                out[...] = inference.run(part if isinstance(part, xp.ndarray) else self.backend.asarray(part)).A[-1]
        if not kept and inference.nbytes <= MOST_KEPT:
            kept.append(inference)
        return found

    def predict(self, X: Any) -> Any:
        """The class of each row of X, (N,) int64 on the host: the most probable one; with one output, 1 above 0.5.

        Of a regression: the numbers (N, K), in the units of the targets.
        """
        found = self.outputs(X)
        if self.regression:
            return found
        return (found[:, 0] > 0.5).astype("int64") if found.shape[1] == 1 else found.argmax(axis=1)

    def summary(self) -> str:
        """A table of the layers: widths, activation and number of parameters."""
        rows = [("layer", "in", "out", "activation", "parameters")]
        names = [*[self.activation] * (len(self.layers) - 2), self.output]
        for number, ((fan_in, fan_out), name) in enumerate(zip(pairwise(self.layers), names, strict=True), 1):
            rows.append((str(number), f"{fan_in:,}", f"{fan_out:,}", name, f"{(fan_in + 1) * fan_out:,}"))
        rows.append(("all", "", "", f"{self.loss} loss", f"{parameter_count(self.layers):,}"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if column in (0, 3) else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        )

    def __deepcopy__(self, memo: Any) -> MLP:
        """A network with parameters of its own, on the same device."""
        return _made(*self._parts(), backend=self.backend)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled with its parameters on the host; unpickled on the CPU."""
        return _made, self._parts()

    def _parts(self) -> tuple[Any, ...]:
        """What a copy is made from."""
        kept = {"scaling": self.scaling, "classes": self.classes, "target_scaling": self.target_scaling}
        return network_settings(self) | kept, self.backend.to_host(self.parameters).copy()

    def __repr__(self) -> str:
        shape = "-".join(map(str, self.layers))
        return (
            f"MLP({shape}, {self.activation}, {self.output} output, {self.loss}, {self.dtype}, {self.backend.device})"
        )


def forward(net: MLP, buffers: Buffers) -> None:
    """Compute A[1] ... A[-1] (n, K) from A[0] (n, D). A[-1] holds logits; the loss turns them into outputs.

    With dropout, hidden activations are multiplied by their masks.
    """
    backend, masks = net.backend, buffers.masks
    for index, (layer, activation) in enumerate(zip(net.views, net.layer_activations, strict=True)):
        A_in, A_out = buffers.A[index : index + 2]
        Z, out = (A_out, ()) if activation.in_place else (buffers.Z[index], (A_out,))
        kernels.affine_forward(backend, A_in, layer.W, Z)
        backend.elementwise(activation.biased_forward)(Z, layer.b, *out)
        if index < len(masks):
            backend.elementwise(kernels.times)(A_out, masks[index], A_out)


class Inference:
    """Forward passes over up to ``capacity`` rows, captured for each number of rows.

    With ``scored`` they also compare the outputs with labels. ``sizes`` are numbers of rows to capture at once: rows
    of ``pixels``, or of floats.
    """

    def __init__(
        self, net: MLP, capacity: int, *, scored: bool = False, sizes: Collection[int] = (), pixels: bool = False
    ) -> None:
        self.capacity, self.nbytes = capacity, capacity * sum(net.layers) * net.parameters.itemsize
        self._net, self._scored = net, scored
        self._workspace = Workspace(net.backend, net.layers, net.dtype, capacity, training=False, **net.own_arrays)
        # By the number of rows, and whether they are pixels; those used last come last.
        self._captured: dict[tuple[int, bool], Callable[[Array], None]] = {}
        if sizes:
            self._capture(sizes, pixels)

    def run(self, rows: Array, labels: Array | None = None) -> Buffers:
        """The arrays of a pass over rows (n, D) on the device: outputs (n, K) in A[-1]; with ``labels`` (n,), or
        targets (n, K), also losses and predictions. The next pass overwrites them."""
        n, backend = len(rows), self._net.backend
        buffers = self._workspace.rows(n)
        if labels is not None and labels.ndim == 2:
            self._workspace.load_targets(labels, buffers)
        elif labels is not None:
            backend.xp.copyto(buffers.labels, labels)
        key = n, bool(rows.dtype == buffers.pixels.dtype)
        if key not in self._captured:
            self._capture([n], key[1])
        run = self._captured[key] = self._captured.pop(key)
        run(rows)
        return buffers

    def _capture(self, sizes: Collection[int], pixels: bool) -> None:
        parts, net = [], self._net
        for n in sizes:
            buffers = self._workspace.rows(n)
            source = buffers.pixels if pixels else buffers.A[0]
            targets = [] if net.regression else [buffers.T]
            arrays = *buffers.A[pixels ^ 1 : -1], *buffers.Z, *buffers.spare, *targets, buffers.scratch, buffers.rows
            parts.append(Steps(partial(self._pass, buffers, source), scratch=arrays, source=source))
        captured = self._net.backend.capture(parts)
        self._captured |= {(n, pixels): partial(captured.run_on, part) for part, n in enumerate(sizes)}
        while len(self._captured) > MOST_SIZES:
            del self._captured[next(iter(self._captured))]

    def _pass(self, buffers: Buffers, source: Array) -> None:
        net = self._net
        if source is buffers.pixels:
            self._workspace.load_inputs(source, buffers)
        if self._scored:
            if not net.regression:  # its targets are loaded before
                self._workspace.load_targets(buffers.labels, buffers)
            score(net, buffers)
        else:
            forward(net, buffers)
            net.loss_kernels.outputs(net.backend, buffers.A[-1], buffers.rows)


def loss_forward(net: MLP, buffers: Buffers) -> None:
    """After ``forward``: losses (n,) <- one loss per row, given the targets T; A[-1] <- the outputs.

    Each loss is multiplied by its sample weight, if there are any.
    """
    losses = buffers.losses
    net.loss_kernels.losses(
        net.backend, buffers.A[-1], buffers.T, losses, buffers.scratch, buffers.rows, *buffers.spare
    )
    if len(buffers.weights):
        net.backend.elementwise(kernels.times)(losses, buffers.weights, losses)


def predict_classes(net: MLP, buffers: Buffers) -> None:
    """predictions (n,) <- the most probable class; of a regression (n, K) <- the outputs.

    Call after ``loss_forward``, before ``backward`` clobbers A[-1].
    """
    if net.regression:
        net.backend.elementwise(kernels.copy_to)(buffers.A[-1], buffers.predictions)
        return
    net.backend.xp.argmax(buffers.A[-1], axis=1, out=buffers.predictions)


def loss_backward(net: MLP, buffers: Buffers, scale: Any = None) -> None:
    """dA[-1] <- dZ of the output layer (BP1), for the mean loss of the batch. A[-1] is overwritten.

    ``scale`` is 1 / batch size; needed where these rows are only part of a batch.
    """
    backend, A, dZ, row = net.backend, buffers.A[-1], buffers.dA[-1], net.loss_kernels
    scale = 1.0 / A.shape[0] if scale is None else scale
    backend.elementwise(row.gradient or kernels.residual)(
        A, buffers.T, dZ, scale, *([buffers.scratch] if row.spare else [])
    )
    if len(buffers.weights):
        backend.elementwise(kernels.times)(dZ, buffers.weights[:, None], dZ)
    row.delta(backend, A, dZ, buffers.scratch, buffers.rows)


def backward(
    net: MLP, buffers: Buffers, targets: list[Layer], alpha: float, beta: float, beta_b: float, scale: Any = None
) -> None:
    """After ``loss_forward``: target <- alpha * gradient + beta * target for each layer (beta_b for its biases).

    Goes from the last layer to the first: dZ gives the gradient of W and b, and dX, the dA of the layer before. The
    first layer needs no dX. A and dA are overwritten.
    """
    backend = net.backend
    loss_backward(net, buffers, scale)
    for index in reversed(range(len(targets))):
        A, dZ, target = buffers.A[index], buffers.dA[index], targets[index]
        # dX first: it reads W, which the update below changes where target.W is W itself.
        if index > 0:
            kernels.affine_backward_input(backend, dZ, net.views[index].W, buffers.dA[index - 1])
        kernels.affine_backward_parameters(backend, A, dZ, buffers.ones, target.W, target.b, alpha, beta, beta_b)
        if index > 0:
            dA = buffers.dA[index - 1]
            if buffers.masks:
                backend.elementwise(kernels.dropout_backward)(buffers.masks[index - 1], buffers.keep, A, dA)
            activation = net.layer_activations[index - 1]
            Z = () if activation.in_place else (buffers.Z[index - 1],)
            backend.elementwise(activation.backward)(*Z, A, dA)


def score(net: MLP, buffers: Buffers, *, classes: bool = True) -> None:
    """The forward pass and the losses (n,); with ``classes`` also the most probable class of each row."""
    forward(net, buffers)
    loss_forward(net, buffers)
    if classes:
        predict_classes(net, buffers)


def propagate(net: MLP, buffers: Buffers, targets: list[Layer], *factors: Any, classes: bool = False) -> None:
    """``score``, then ``backward`` into ``targets``. ``factors`` are alpha, beta, beta_b (and scale)."""
    score(net, buffers, classes=classes)
    backward(net, buffers, targets, *factors)


def add_squares(net: MLP, out: Array, beta: float) -> None:
    """out (1, 1) <- the sum of all squared weights (not biases) + beta * out."""
    for layer in net.views:
        net.backend.gemm(layer.W.reshape(1, -1), layer.W.reshape(-1, 1), out, 1.0, beta)
        beta = 1.0


SETTINGS: Final = ("layers", "activation", "output", "loss", "init", "seed", "dtype", "task")


def network_settings(net: MLP) -> dict[str, Any]:
    """The arguments that ``MLP`` needs to build ``net`` again, except its parameters."""
    return {name: getattr(net, name) for name in SETTINGS}


def _made(settings: dict[str, Any], parameters: Any, *, backend: Backend | None = None) -> MLP:
    return MLP(**settings, parameters=parameters, backend=backend)
