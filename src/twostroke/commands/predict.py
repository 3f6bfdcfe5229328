"""``twostroke predict``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from ..data import picture_folder, tables
from ..data.bundled import FIELD
from ..data.digit_image import prepare_digit
from ..engine.metrics import check_finite
from ..engine.mlp import MLP
from ..errors import ConfigError, DataError, ModelError
from ..models.model_file import describe_model, load_model
from ..provenance import to_json
from ..runs import record
from ..runs.own_kernel import own_kernels
from ..show import text
from . import DATA_OPTIONS, load_for, newest_unless, no_pictures, options, select
from .terminal import complain, encodes, hush, program, say

Sample: TypeAlias = tuple[str, Any, Any]  # a title, pixels (1, D), and the label, or targets (K,), if it is known


def predict(
    model: options.OptionalModel = None,
    images: options.Images = None,
    index: options.Index = None,
    data: options.IndexData = None,
    device: options.PredictDevice = None,
    json: options.Json = False,
    kernel: options.Kernels = None,
    debug: options.Debug = False,
) -> None:
    """Predict which digit a picture shows, with the probability of each class.

    A picture is prepared like MNIST's, and shown in that form: the ink, light on black, is scaled into a box of
    20 x 20 pixels, and its centre of mass is put at the centre of a field of 28 x 28. A model of a folder of pictures
    gets it as those were: in grey, and in their size. A table is predicted row by row. A regression predicts numbers.
    """
    if model and (model.suffix.lower() in picture_folder.SUFFIXES or tables.is_table(model)):
        images = [model, *(images or [])]
        model = None
    if bool(images) == (index is not None):
        what = "both images and --index" if images else "neither an image nor --index"
        raise ConfigError(
            "bad arguments", found=what, expected="one of them", remedy=f"See: {program()} predict --help."
        )
    if data is not None and index is None:
        raise ConfigError("--data without --index", where="--data", found=repr(data), remedy="Add --index I.")
    tell = hush if json else say
    if model is None:
        model = newest_unless(model)
        tell(f"model: {model}")
    net = load_model(model, backend=select(device or "cpu", "1"), kernels=own_kernels(kernel))
    if device:
        tell(text.device_line(net.backend))
    shape: tuple[int, ...] = (FIELD, FIELD)
    unread: list[DataError] = []
    if index is None and images and all(map(tables.is_table, images)):
        samples = [sample for path in images for sample in _rows(net, model, path)]
        shape = net.layers[:1]
    elif index is None:
        no_pictures(net, model)
        prepare, shape = _preparation(net, model)
        samples, unread = _pictures(images or [], prepare)
    else:
        source = load_for(net, model, data or "mnist")
        if not 0 <= index < len(source.test_images):
            last = len(source.test_images) - 1
            raise ConfigError("no such sample", where="--index", found=index, expected=f"0..{last} in {source.name}")
        name, shape = f"{source.name} test sample {index}", source.image_shape
        label = source.test_labels[index]
        samples = [(name, source.test_images[index : index + 1], label if net.regression else int(label))]
    plain = not encodes(text.BLOCKS)
    predictions = []
    for title, pixels, label in samples:
        outputs = net.outputs(pixels)[0]
        check_finite(model, outputs)
        of_task = record.values_record if net.regression else record.prediction_record
        predictions.append(of_task(title, outputs, label, net.classes))
        for line in text.prediction_lines(predictions[-1], pixels.reshape(shape), plain=plain):
            tell(line)
    if json:
        found = {"model": str(model), "device": net.backend.device, "output": net.output, "predictions": predictions}
        say(to_json(found))
    _refuse(unread)


def _rows(net: MLP, model: Path, path: Path) -> list[Sample]:
    """The rows of a table with the columns that the model was trained on; the class may be there or not."""
    origin = describe_model(model)["origin"]
    used = {name: value for name, value in (origin.get("data_options") or {}).items() if name in DATA_OPTIONS[:3]}
    table = tables.load(path, columns=origin.get("columns") or (), unlabelled=True, task=net.task, **used)
    if table.values.shape[1] != net.layers[0]:
        found, expected = f"{table.values.shape[1]} columns of values", f"{net.layers[0]}"
        remedy = "Give the columns of the table that it was trained on."
        raise DataError("the table does not fit the model", where=path, found=found, expected=expected, remedy=remedy)
    labels: list[Any] = [None] * len(table.values)
    if table.numbers.shape[1] == net.layers[-1]:
        labels = list(table.numbers)
    elif table.texts:
        names = list(net.classes) or [str(k) for k in range(net.layers[-1])]
        labels = [names.index(name) if name in names else None for name in tables.class_texts(table)]
    values = tables.as_pixels(table) if origin.get("input") == "uint8" else table.values
    return [(f"{path} row {number}", values[number : number + 1], labels[number]) for number in range(len(values))]


def _preparation(net: MLP, model: Path) -> tuple[Callable[[Path], Any], tuple[int, ...]]:
    """How a picture becomes a row for this model, and the shape (H, W) in which it is shown: as the pictures of the
    folder that it was trained on, else as MNIST's digits."""
    origin = describe_model(model)["origin"]
    read_as, size = origin.get("read_as"), origin.get("shape")
    if isinstance(read_as, str) and read_as.startswith(picture_folder.HOW) and isinstance(size, list):
        height, width = map(int, size)
        if height * width == net.layers[0]:
            return partial(picture_folder.prepare, size=(height, width)), (height, width)
    _check_takes_images(net, model)
    return prepare_digit, (FIELD, FIELD)


def _pictures(paths: Sequence[Path], prepare: Callable[[Path], Any]) -> tuple[list[Sample], list[DataError]]:
    """The pictures that can be read, and the errors of the others."""
    samples: list[Sample] = []
    unread = []
    for path in paths:
        try:
            samples.append((str(path), prepare(path), None))
        except DataError as error:
            unread.append(error)
    if not samples:
        _refuse(unread)
    return samples, unread


def _refuse(unread: Sequence[DataError]) -> None:
    """Say every error; raise the last."""
    for error in unread[:-1]:
        complain(f"error: {error}")
    if unread:
        raise unread[-1]


def _check_takes_images(net: MLP, model: Path) -> None:
    if net.layers[0] != FIELD * FIELD:
        raise ModelError(
            "the model takes no pictures of 28 x 28",
            where=model,
            found=f"{net.layers[0]} inputs",
            expected=f"{FIELD * FIELD}",
            remedy="Use --index I --data PATH.",
        )
