"""What a reader of files finds: four arrays that are still to be checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..randomness import generator

ROLES: Final = ("train_images", "train_labels", "test_images", "test_labels")
HELD_OUT: Final = 5  # one sample in so many is for testing, where a source has no test part


class Source(NamedTuple):
    """``arrays`` in the order of ``ROLES``, and where each is from.

    ``classes`` are the names of labels 0, 1, ... if they have names, ``columns`` those of a table whose values are to
    be standardised. ``how`` says how it was read. ``weights`` are those of the training samples, if they have any.
    """

    arrays: Sequence[Any]
    where: Mapping[str, str]
    classes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    how: str = ""
    weights: Any = None


def held_out(count: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """The indices of the training and of the test part of ``count`` samples: always the same, whatever a run's seed."""
    order = generator(0, "hold-out").permutation(count)
    tested = max(1, count // HELD_OUT)
    return np.sort(order[tested:]), np.sort(order[:tested])


def names_of(labels: Sequence[str], classes: Sequence[str] | None) -> tuple[str, ...]:
    """The classes' names in the order of their numbers: those given, else the labels', whole numbers by their size."""
    if classes:
        return tuple(classes)
    found = set(labels)
    if all(name.lstrip("-").isdecimal() for name in found):
        return tuple(sorted(found, key=int))
    return tuple(sorted(found))


def unnamed(classes: tuple[str, ...]) -> bool:
    """Whether the names are just the numbers of the classes."""
    return classes == tuple(map(str, range(len(classes))))
