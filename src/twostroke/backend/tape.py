"""A step as a list of bound calls into NumPy and BLAS: replaying them leaves out all of Python in between."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeAlias

import numpy as np

Tape: TypeAlias = list[Callable[[], Any]]

# What NumPy's wrappers end in.
REDUCTIONS: Final[dict[Callable[..., Any], Callable[..., Any]]] = {np.max: np.maximum.reduce, np.sum: np.add.reduce}
SMALL: Final = 8192  # elements: beyond it the memory traffic of an array of constants costs more than it saves


class Recorder:
    """A module whose functions run as ever and also put themselves, with their arguments, on a tape.

    What is played later is the quickest call with the same result to the bit. ``constants`` is shared by the tapes
    of a backend.
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
        """The call to play; None where there is nothing to do."""
        out = kwargs.get("out")
        number = len(args) == 2 and isinstance(args[1], int | float)
        if function is np.multiply and number and args[1] == 1 and out is args[0]:
            return None
        # Vectorised for two arrays, several times slower for an array and a number.
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
