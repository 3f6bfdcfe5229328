"""What a row of the tables of activations, losses and optimisers is. A user's own row is made of the same classes.

A row is a text, its name, that carries functions: settings, records and files hold the name and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final

from ..backend import Array, Kernel
from ..errors import ConfigError

NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")


class Named(str):
    """A name with functions. Equal names are equal; copies are the object itself; pickled by its functions' names."""

    __slots__ = ()
    taken: ClassVar[frozenset[str]] = frozenset()  # the names of the built-in rows
    said: ClassVar[str] = "an Activation, a Loss or an Optimizer"
    _given: dict[str, Any]

    def __new__(cls, name: str, *functions: Any, **options: Any) -> Named:
        if not isinstance(name, str) or not NAME.fullmatch(name):
            expected = "a letter, then at most 63 letters, digits, - or _"
            raise ConfigError(f"bad name of {cls.said}", where="name", found=repr(name), expected=expected)
        if name in cls.taken:
            remedy = "Choose another name."
            raise ConfigError(f"{cls.said} of this name is built in", where="name", found=repr(name), remedy=remedy)
        return str.__new__(cls, name)

    def _check(self, **functions: Any) -> None:
        for argument, function in functions.items():
            if not callable(function):
                raise ConfigError("not a function", where=f"{self}: {argument}", found=repr(function))

    def __copy__(self) -> Named:
        return self

    def __deepcopy__(self, memo: Any) -> Named:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (type(self), self._given)


def _again(kind: type[Named], given: dict[str, Any]) -> Named:
    return kind(**given)


class Activation(Named):
    """An elementwise activation of the hidden layers, for ``MLP(activation=...)``: a name and two functions.

    ``forward(xp, Z, out)`` writes f(Z) into ``out``. ``backward(xp, Z, A, dA)`` multiplies dA by f'(Z), in place; A is
    f(Z), Z as ``forward`` left it, and both may be overwritten. All arrays are (n, units) of one dtype.

    With ``in_place`` the network keeps no Z, which saves an array for each layer: ``forward(xp, Z)`` overwrites Z
    with f(Z), and ``backward(xp, A, dA)`` finds f' from A = f(Z), as for the sigmoid, f' = A (1 - A).

    ``xp`` is NumPy's or CuPy's ufuncs. A function calls them with ``out=``, and does nothing else: no operator
    (``Z * 2``), no indexing, no condition on values, no array of its own. So its calls can be noted once and replayed.

    ``init`` is the default initialiser, "he", "glorot", "normal" or "scaled-normal". ``onnx`` is the ONNX operator
    that computes f ("": none is needed; None: there is none). Raises ``ConfigError``, also for a built-in's name.
    """

    said = "an Activation"
    biased_forward: Kernel  # (xp, Z, b) with in_place, else (xp, Z, b, out): f(Z + b), b (1, units)

    def __init__(
        self,
        name: str,
        forward: Kernel,
        backward: Kernel,
        *,
        init: str = "glorot",
        onnx: str | None = None,
        in_place: bool = False,
    ) -> None:
        self._check(forward=forward, backward=backward)
        options = {"init": init, "onnx": onnx, "in_place": in_place}
        self._given = {"name": str(name), "forward": forward, "backward": backward, **options}
        self.forward, self.backward, self.init, self.onnx, self.in_place = forward, backward, init, onnx, in_place

        def biased_forward(xp: Any, Z: Array, b: Array, *out: Array) -> None:
            xp.add(Z, b, out=Z)
            forward(xp, Z, *out)

        biased_forward.__name__ = f"biased_{name}_forward"
        self.biased_forward = biased_forward


class Loss(Named):
    """A loss that is a sum over the outputs, for ``MLP(loss=...)``: a name and two functions.

    ``forward(xp, A, T, out, scratch)`` writes each output's term of the loss into ``out``; ``backward(xp, A, T, out,
    scratch)`` its derivative with respect to A. A are the outputs, T the targets, all (n, K) of one dtype; A and T are
    only read, ``scratch`` may be overwritten. The engine sums a row's terms, divides by the batch size and multiplies
    by the derivative of the output's activation. The rules for the functions are those of ``Activation``.

    ``output`` is the default output activation: "identity", "sigmoid", "tanh", "relu" or "softmax". A network may
    choose another of them. Raises ``ConfigError``, also for a built-in's name.
    """

    said = "a Loss"
    rows: dict[str, Any]  # by output; made by ``kernels.loss_rows``

    def __init__(self, name: str, forward: Kernel, backward: Kernel, *, output: str = "identity") -> None:
        self._check(forward=forward, backward=backward)
        self._given = {"name": str(name), "forward": forward, "backward": backward, "output": output}
        self.forward, self.backward, self.output = forward, backward, output
        self.rows = {}

        def gradient(xp: Any, A: Array, T: Array, out: Array, scale: Any, scratch: Array) -> None:
            backward(xp, A, T, out, scratch)
            xp.multiply(out, scale, out=out)

        self.gradient = gradient


def _rate(lr: float, step: int) -> tuple[float, ...]:
    return (lr,)


class Optimizer(Named):
    """An update of the parameters, for ``TrainConfig(optimizer=...)``: a name and a function.

    ``update(xp, p, g, *state, *scratch, *numbers)`` changes the parameters p in place. All arrays are flat: p and its
    gradient g (with L2 in it; g may be overwritten), an array for each name in ``state``, which is zero at the first
    step and kept in checkpoints, and ``scratch`` arrays, whose content is lost. ``numbers(lr, step)`` gives the numbers
    that change from step to step (counted from 1), by default the learning rate alone; ``update`` gets them as arrays
    of one element, to be used as operands. The rules for the function are those of ``Activation``.

    ``lr`` is the default learning rate. Raises ``ConfigError``, also for a built-in's name.
    """

    said = "an Optimizer"

    def __init__(
        self,
        name: str,
        update: Kernel,
        *,
        state: Sequence[str] = (),
        scratch: int = 0,
        numbers: Callable[[float, int], tuple[float, ...]] = _rate,
        lr: float = 1e-3,
    ) -> None:
        self._check(update=update, numbers=numbers)
        state = (state,) if isinstance(state, str) else tuple(state)
        if len(set(state)) != len(state) or not all(isinstance(one, str) and NAME.fullmatch(one) for one in state):
            raise ConfigError("bad names of arrays", where=f"{name}: state", found=state, expected="different names")
        if type(scratch) is not int or scratch < 0:
            raise ConfigError("bad number of arrays", where=f"{name}: scratch", found=scratch, expected=">= 0")
        options = {"state": state, "scratch": scratch, "numbers": numbers, "lr": lr}
        self._given = {"name": str(name), "update": update, **options}
        self.update, self.state, self.scratch, self.numbers, self.lr = update, state, scratch, numbers, lr


def chosen(argument: str, value: Any, kind: type[Named], table: Any) -> Any:
    """``value`` as it is kept: a user's own row, or the name of a row of ``table``. Raises ``ConfigError``."""
    if isinstance(value, kind) and value not in table:
        return value
    if isinstance(value, str) and type(value) in (str, kind) and value in table:
        return str(value)
    expected, found = " or ".join(table), repr(value)
    if isinstance(value, Named):
        expected, found = f"{expected}, or {kind.said}", f"{value.said} {value!r}"
    raise ConfigError(f"unknown {argument}", where=argument, found=found, expected=expected)
