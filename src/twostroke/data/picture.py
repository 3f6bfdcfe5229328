"""Reads a picture as grey values, whatever its format, colours and transparency."""

from __future__ import annotations

import os
import warnings
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import DataError
from ..files.regular_file import absolute, open_regular

FORMATS: Final = ("PNG", "JPEG", "BMP", "GIF", "TIFF")  # decoded by Pillow itself, without other programs
MAX_PIXELS: Final = 50_000_000
# A picture of more pixels than both of these is taken for a decompression bomb.
MAX_RATIO, MAX_UNASKED = 100, 16_000_000


def read_grey(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Decode a picture: rotate by EXIF, put transparency on paper, convert to grey (H, W). Raises ``DataError``."""
    with open_regular(path) as file:
        return _decode(file, absolute(path), os.fstat(file.fileno()).st_size)


def _decode(file: BinaryIO, where: str, stored: int) -> NDArray[np.uint8]:
    most = min(MAX_PIXELS, max(MAX_UNASKED, MAX_RATIO * stored))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large and unusual files; the size is checked here
            with Image.open(file, formats=FORMATS) as image:
                pixels = image.width * image.height
                if pixels > most:
                    found = f"{image.width} x {image.height} pixels from {stored:,} bytes"
                    expected = f"at most {most:,} pixels"
                    remedy = "Scale it down or crop it to the digit."
                    raise DataError(
                        "the image is too large", where=where, found=found, expected=expected, remedy=remedy
                    )
                upright = ImageOps.exif_transpose(image)
                if upright.has_transparency_data:
                    return _on_paper(upright.convert("RGBA"))
                if upright.mode.startswith(("I", "F")):  # 16 bits and more, which convert("L") would clip
                    return _stretched(np.asarray(upright, np.float32))
                return np.asarray(upright.convert("L"))
    except DataError:
        raise
    except Exception as error:  # Pillow raises a dozen types for damaged files
        reason = "another kind of file" if isinstance(error, UnidentifiedImageError) else str(error)
        found, remedy = reason or type(error).__name__, "Open it in an image program and save it as PNG."
        expected = f"an intact {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file"
        raise DataError("cannot read the image", where=where, found=found, expected=expected, remedy=remedy) from error


def _on_paper(image: Image.Image) -> NDArray[np.uint8]:
    """Composite on white, or on black if the contrast is higher there (light ink, transparent background)."""
    papers = (Image.new("RGBA", image.size, name) for name in ("white", "black"))
    return max((np.asarray(Image.alpha_composite(paper, image).convert("L")) for paper in papers), key=np.ptp)


def _stretched(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    low, high = values.min(), values.max()
    return np.asarray(np.rint((values - low) * (255 / ((high - low) or 1))), np.uint8)
