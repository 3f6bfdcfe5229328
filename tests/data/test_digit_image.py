"""Pictures of digits: prepared like MNIST's, for any size and polarity."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from twostroke.data.dataset import Dataset, load_dataset
from twostroke.data.digit_image import prepare_digit
from twostroke.data.picture import MAX_PIXELS
from twostroke.engine.config import TrainConfig
from twostroke.engine.mlp import MLP
from twostroke.engine.training import train
from twostroke.errors import DataError


@pytest.fixture(scope="module")
def mnist() -> Dataset:
    return load_dataset("mnist")


@pytest.fixture(scope="module")
def net(mnist: Dataset) -> MLP:
    net = MLP([784, 32, 10])
    list(train(net, mnist, TrainConfig(epochs=1, evaluate_test=False)))
    return net


def digit(mnist: Dataset, index: int) -> Image.Image:
    return Image.fromarray(mnist.test_images[index].reshape(28, 28))


def large(image: Image.Image) -> Image.Image:
    return image.resize((280, 280), Image.Resampling.BICUBIC)


def inverted(image: Image.Image) -> Image.Image:
    return Image.fromarray(255 - np.asarray(image))


def on_nothing(image: Image.Image, grey: int) -> Image.Image:
    """Ink of one grey, and transparency."""
    ink = np.asarray(large(image))
    return Image.fromarray(np.dstack([np.full((280, 280, 3), grey, np.uint8), ink]))


def transparent(image: Image.Image) -> Image.Image:
    return on_nothing(image, 0)


def lit(image: Image.Image, left: float, right: float) -> Image.Image:
    """A photograph of ink on paper under uneven light, with sensor noise; rotated to turn the light."""
    page = np.full((480, 480), 235.0)
    page[100:380, 100:380] -= 0.8 * np.asarray(large(image.rotate(-90) if right < left else image))
    page *= np.linspace(left, right, 480)
    return Image.fromarray(np.clip(page + np.random.default_rng(1).normal(0, 3, page.shape), 0, 255).astype(np.uint8))


def sixteen_bits(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(large(image)).astype(np.uint16) * 200)


def on_a_wide_page(image: Image.Image) -> Image.Image:
    page = Image.new("RGB", (900, 500), (250, 240, 200))
    page.paste(Image.merge("RGB", [inverted(large(image))] * 3).point(lambda v: min(v, 240)), (500, 100))
    return page


VARIANTS: dict[str, tuple[Any, str]] = {
    "as it is": (lambda image: image, "png"),
    "280 x 280": (large, "png"),
    "black on white": (lambda image: inverted(large(image)), "png"),
    "JPEG": (lambda image: inverted(large(image)), "jpg"),
    "small JPEG": (lambda image: image, "jpg"),
    "transparent": (transparent, "png"),
    "palette": (lambda image: large(image).convert("P"), "png"),
    "16 bits": (sixteen_bits, "png"),
    "light ink on nothing": (lambda image: on_nothing(image, 255), "png"),
    "palette and nothing": (lambda image: on_nothing(image, 255).quantize(), "png"),
    "light from the left": (lambda image: lit(image, 0.45, 1.0), "jpg"),
    "light from below": (lambda image: lit(image, 1.0, 0.55).transpose(Image.Transpose.ROTATE_90), "jpg"),
    "1 bit": (lambda image: large(image).convert("1"), "png"),
    "colour page": (on_a_wide_page, "jpg"),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_digit_is_prepared_to_nearly_the_same_picture_and_class(
    variant: str, mnist: Dataset, net: MLP, tmp_path: Path
) -> None:
    change, suffix = VARIANTS[variant]
    prepared = []
    for index in range(30):
        path = tmp_path / f"{index}.{suffix}"
        change(digit(mnist, index)).save(path)
        prepared.append(prepare_digit(path))
        assert prepared[-1].shape == (1, 784)
        assert prepared[-1].dtype == np.uint8
    found = np.concatenate(prepared)
    # A picture moved by one pixel differs by 15 of 255 on average, another digit by 40.
    assert np.abs(found.astype(float) - mnist.test_images[:30]).mean() < 10
    assert np.count_nonzero(net.predict(found) == net.predict(mnist.test_images[:30])) >= 28


def spotted(page: Any, what: str) -> Any:
    """A page with a digit, and what a scanner adds."""
    rng = np.random.default_rng(2)
    if what == "a pixel in the corner":
        page[0, 0] = 0
    elif what == "specks":
        for y, x in rng.integers(0, 396, (30, 2)):
            page[y : y + 2, x : x + 2] = 30
    else:
        page[rng.random(page.shape) < 0.001] = 0
    return page


@pytest.mark.parametrize("what", ["a pixel in the corner", "specks", "pepper"])
def test_specks_are_not_ink(what: str, mnist: Dataset, net: MLP, tmp_path: Path) -> None:
    right = 0
    for index in range(60):
        page = np.full((400, 400), 255, np.uint8)
        page[60:340, 60:340] = 255 - np.asarray(large(digit(mnist, index)))
        Image.fromarray(spotted(page, what)).save(tmp_path / "page.png")
        right += int(net.predict(prepare_digit(tmp_path / "page.png"))[0] == net.predict(mnist.test_images[[index]])[0])
    assert right >= 57


def test_the_digit_fills_the_box_and_its_mass_is_centred(tmp_path: Path) -> None:
    page = np.full((400, 300), 255, np.uint8)
    page[10:110, 20:40] = 0  # a bar of 100 x 20, far from the middle
    Image.fromarray(page).save(tmp_path / "bar.png")
    field = prepare_digit(tmp_path / "bar.png").reshape(28, 28)
    rows, columns = np.flatnonzero(field.any(axis=1)), np.flatnonzero(field.any(axis=0))
    assert (rows[0], rows[-1] + 1) == (4, 24)
    assert (columns[0], columns[-1] + 1) == (12, 16)
    assert set(np.unique(field)) == {0, 255}


def test_a_lopsided_digit_stays_whole_in_the_field(tmp_path: Path) -> None:
    page = np.zeros((100, 100), np.uint8)
    page[10:90, 10:18] = page[10:18, 10:90] = 255
    Image.fromarray(page).save(tmp_path / "corner.png")
    field = prepare_digit(tmp_path / "corner.png").reshape(28, 28)
    # Its mass lies 6 pixels from its left and its top, so that it would end at pixel 28.
    assert field.any(axis=0).tolist() == field.any(axis=1).tolist() == [False] * 8 + [True] * 20


def test_exif_orientation_is_followed(mnist: Dataset, tmp_path: Path) -> None:
    image = inverted(large(digit(mnist, 0)))
    image.save(tmp_path / "upright.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise when shown
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.jpg", exif=exif)
    upright, turned = prepare_digit(tmp_path / "upright.jpg"), prepare_digit(tmp_path / "turned.jpg")
    assert np.abs(upright.astype(float) - turned).mean() < 3


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("grey", [0, 128, 255])
def test_a_blank_page_is_refused(grey: int, suffix: str, tmp_path: Path) -> None:
    Image.new("L", (60, 60), grey).save(tmp_path / f"blank.{suffix}")
    with pytest.raises(DataError, match=rf"blank.*blank\.{suffix}.*{grey}\.\.{grey}.*one digit"):
        prepare_digit(tmp_path / f"blank.{suffix}")


def header_of(width: int, height: int) -> bytes:
    """A PNG whose header has this size, without pixels."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


@pytest.mark.parametrize("side", [8_000, 60_000])  # the second is beyond Pillow's own limit
def test_a_huge_image_is_refused_before_it_is_unpacked(side: int, tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    path.write_bytes(header_of(side, side) + b"\0\0\0\0IDAT")
    assert side * side > MAX_PIXELS
    with pytest.raises(DataError, match=r"huge\.png.*pixels"):
        prepare_digit(path)


def test_what_is_no_image_is_refused(mnist: Dataset, tmp_path: Path) -> None:
    digit(mnist, 0).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    for name, content in {
        "empty": b"",
        "text": b"hello",
        "cut": whole[: len(whole) // 2],
        "eps": b"%!PS-Adobe-3.0 EPSF",
    }.items():
        path = tmp_path / f"{name}.png"
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"cannot read the image.*{name}\.png.*save it as PNG"):
            prepare_digit(path)


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path, tmp_path / "pipe.png", tmp_path / "missing.png"):
        with pytest.raises(DataError, match=path.name):
            prepare_digit(path)


def test_a_thin_line_on_a_large_page_is_as_black_as_mnist_s(tmp_path: Path) -> None:
    """Scaled as uint8, one pixel in two thousand would keep a hundredth of its ink."""
    Image.fromarray(np.eye(2000, dtype=np.uint8) * 255).save(tmp_path / "line.png")
    field = prepare_digit(tmp_path / "line.png").reshape(28, 28)
    assert field.max() == 255
    assert np.diagonal(field)[5:22].min() > 200


@pytest.mark.parametrize("turns", range(4))
def test_a_digit_that_fills_one_edge_is_still_ink(turns: int, tmp_path: Path) -> None:
    """A 7 cropped to its bar: the border's majority is paper."""
    page = np.full((120, 90), 255, np.uint8)
    page[:20, :] = page[:100, 50:70] = 0
    Image.fromarray(np.rot90(page, turns)).save(tmp_path / "tight.png")
    field = np.rot90(prepare_digit(tmp_path / "tight.png").reshape(28, 28), -turns)
    rows, columns = np.flatnonzero(field.any(axis=1)), np.flatnonzero(field.any(axis=0))
    assert (len(rows), len(columns)) == (20, 18)
    assert field[rows[0], columns].min() == 255
    assert not field[rows[-1], columns[:8]].any()


def test_a_blank_page_under_uneven_light_is_refused(tmp_path: Path) -> None:
    page = np.tile(np.linspace(120, 230, 300), (200, 1)).astype(np.uint8)
    Image.fromarray(page).save(tmp_path / "blank.png")
    with pytest.raises(DataError, match=r"blank.*120\.\.230"):
        prepare_digit(tmp_path / "blank.png")
