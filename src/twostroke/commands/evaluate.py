"""``twostroke evaluate``."""

from __future__ import annotations

from ..data.dataset import load_dataset
from ..data.doubts import guessing, input_doubts
from ..engine.metrics import check_finite
from ..engine.training import evaluate_outputs
from ..errors import ModelError
from ..models.model_file import load_model
from ..provenance import to_json
from ..runs import record
from ..show import text
from ..show.findings import class_counts
from . import check_model, doubt, options, select
from .terminal import hush, say


def evaluate(
    model: options.Model,
    data: options.Data = None,
    device: options.Device = None,
    threads: options.Threads = None,
    strict: options.Strict = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Measure a model on the test part of a data set: loss, accuracy, errors by class."""
    tell = hush if json else say
    backend = select(device, threads)
    net, source = load_model(model, backend=backend), load_dataset(data or "mnist")
    check_model(net, source, model)
    for line in (text.device_line(backend), text.data_line(source), text.network_line(net)):
        tell(line)
    doubt(input_doubts(source), strict=strict)
    test, outputs = evaluate_outputs(net, source.test_images, source.test_labels)
    check_finite(model, test.loss)
    classes = class_counts(source.test_labels, outputs.argmax(axis=1), net.layers[-1])
    for line in text.class_table(classes):
        tell(line)
    result = record.evaluation_record(net, source, test, classes, model)
    errors = f"{result['errors']:,} errors in {result['samples']:,}"
    last = f"test accuracy {test.accuracy:.2%} ({errors}), test loss {test.loss:.4f}"
    say(to_json(result) if json else last)
    doubt(guessing(test.accuracy, source.test_labels), strict=strict, error=ModelError)
