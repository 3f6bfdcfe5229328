"""Prepares a picture of a digit as the authors of MNIST prepared theirs.

"The original images were size normalized to fit in a 20x20 pixel box while preserving their aspect ratio. [They]
contain grey levels as a result of the anti-aliasing technique used by the normalization algorithm. The images
were centered in a 28x28 image by computing the center of mass of the pixels, and translating the image so as to
position this point at the center of the 28x28 field." (http://yann.lecun.com/exdb/mnist/)
"""

from __future__ import annotations

import os
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import DataError
from ..files.regular_file import absolute
from .bundled import FIELD
from .picture import read_grey

BOX: Final = 20  # longer side of the digit in pixels
SPECK: Final = 0.02  # of the ink of the largest connected part; less is no part of the digit
MIN_CONTRAST: Final = 16  # of 255; JPEG noise on an empty page is less
INK: Final = 0.2  # of the strongest ink; less is paper, shadow or JPEG noise


def prepare_digit(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """The image in ``path`` as one row (1, 784) of pixels: white ink on black, scaled and centred like MNIST.

    PNG, JPEG, BMP, GIF or TIFF; any size, colour or grey, dark on light or light on dark. Raises ``DataError``.
    """
    return prepare_grey(read_grey(path), absolute(path))


def prepare_grey(grey: NDArray[np.uint8], where: str) -> NDArray[np.uint8]:
    """As :func:`prepare_digit`, for grey values (H, W); ``where`` names them in errors."""
    ink = _without_specks(_ink(grey, where))
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    longer = max(ink.shape)
    size = (max(1, round(BOX * ink.shape[1] / longer)), max(1, round(BOX * ink.shape[0] / longer)))
    # In float32: in uint8 a thin line on a large page would be rounded to nothing.
    shrunk = np.asarray(Image.fromarray(ink).resize(size, Image.Resampling.BICUBIC)).clip(0, 1)
    digit = np.rint(shrunk * (255 / shrunk.max())).astype(np.uint8)
    field = np.zeros((FIELD, FIELD), np.uint8)
    top, left = _centred(digit.sum(axis=1)), _centred(digit.sum(axis=0))
    field[top : top + digit.shape[0], left : left + digit.shape[1]] = digit
    return field.reshape(1, -1)


def _ink(grey: NDArray[np.uint8], where: str) -> NDArray[np.float32]:
    """The amount of ink in each pixel, 0..1. The border is taken for paper, so both polarities give the same."""
    ink, paper = grey.astype(np.float32), _paper(grey)
    ink -= paper
    below, above = -float(ink.min()), float(ink.max())
    contrast = max(below, above)
    if contrast < MIN_CONTRAST:
        found, expected = f"grey values {grey.min()}..{grey.max()}", "a digit that stands out from its background"
        remedy = "Use a picture of one digit, dark on light or light on dark."
        raise DataError("the image is blank", where=where, found=found, expected=expected, remedy=remedy)
    if below > above:
        ink /= -np.maximum(paper, 1)  # relative to the paper: in shadow the contrast is lower
    ink /= ink.max()
    np.clip(ink, 0, 1, out=ink)
    ink[ink < INK] = 0
    return ink


def _without_specks(ink: NDArray[np.float32]) -> NDArray[np.float32]:
    """The ink without the parts that have far less than the largest: a speck in a corner would shrink the digit."""
    from scipy import ndimage  # imported here: prediction of samples needs none

    parts, count = ndimage.label(ink, structure=np.ones((3, 3), int))
    if count > 1:
        amounts = np.bincount(parts.ravel(), weights=ink.ravel())
        ink[(amounts < SPECK * amounts[1:].max())[parts]] = 0
    return ink


def _paper(grey: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The background, (H, W) or (1, 1): the border's median grey, or, under uneven light, a plane through the greys of
    the four sides."""
    sides = [grey[:, 0], grey[:, -1], grey[0], grey[-1]]
    paper = float(np.median(np.concatenate(sides)))
    left, right, top, bottom = (float(np.median(side)) - paper for side in sides)
    contrast = max(paper - float(grey.min()), float(grey.max()) - paper)
    # Uneven light shifts opposite sides by opposite amounts; else it is ink, such as the bar of a 7 at the edge.
    if max(abs(left + right), abs(top + bottom)) >= contrast / 4:
        return np.full((1, 1), paper, np.float32)
    down = np.linspace(top, bottom, grey.shape[0], dtype=np.float32)
    across = np.linspace(left, right, grey.shape[1], dtype=np.float32)
    plane: NDArray[np.float32] = np.add.outer(down, across) + np.float32(paper - (left + right + top + bottom) / 4)
    return plane


def _centred(mass: NDArray[np.uint64]) -> int:
    """The offset that puts a profile's centre of mass on pixel 14, as in MNIST, or as near as the field allows."""
    centre = float(np.average(np.arange(len(mass)), weights=mass))
    return min(max(round(FIELD / 2 - centre), 0), FIELD - len(mass))
