"""The tape of a captured step: a list of bound calls into NumPy and BLAS, replayed without the code that made them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeAlias

import numpy as np

Tape: TypeAlias = list[Callable[[], Any]]

# NumPy's wrapper -> the ufunc method that it calls.
REDUCTIONS: Final[dict[Callable[..., Any], Callable[..., Any]]] = {np.max: np.maximum.reduce, np.sum: np.add.reduce}
SMALL: Final = 8192  # elements; for larger arrays, reading an array of constants costs more than it saves


class Recorder:
    """Wraps a module: its functions run as usual, and each call is appended to a tape.

    The tape gets the fastest call with a bit-identical result. All tapes of a backend share the cache ``constants``.
    """

    def __init__(self, module: Any, tape: Tape, constants: dict[Any, np.ndarray]) -> None:
        self._module, self._tape, self._constants = module, tape, constants

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function = getattr(self._module, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            quickest = self._quickest(function, args, kwargs)
            if quickest is not None:
                self._tape.append(quickest)
            return function(*args, **kwargs)

        return call

    def _quickest(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Callable[[], Any] | None:
        """The call for the tape; None if it would do nothing."""
        out = kwargs.get("out")
        number = len(args) == 2 and isinstance(args[1], int | float)
        if function is np.multiply and number and args[1] == 1 and out is args[0]:
            return None
        # NumPy vectorises these for two arrays; for an array and a number they are several times slower.
        if number and (function is np.maximum or (function is np.greater and args[0].size <= SMALL)):
            args = (args[0], self._constant(args[0], args[1]))
        if function in REDUCTIONS and kwargs.keys() == {"axis", "out"}:
            return partial(REDUCTIONS[function], *args, kwargs["axis"], None, out)
        return partial(function, *args, **kwargs)

    def _constant(self, like: np.ndarray, value: float) -> np.ndarray:
        key = (like.shape, like.strides, like.dtype, value)
        if key not in self._constants:
            self._constants[key] = np.full_like(like, value)
        return self._constants[key]
