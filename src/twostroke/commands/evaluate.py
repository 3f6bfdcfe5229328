"""``twostroke evaluate``."""

from __future__ import annotations

from ..data.doubts import input_doubts, learned_nothing
from ..engine.evaluation import evaluate_outputs
from ..engine.metrics import check_finite
from ..errors import ModelError
from ..models.model_file import load_model
from ..provenance import to_json
from ..runs import record
from ..runs.own_kernel import own_kernels
from ..show import text
from ..show.findings import class_counts, errors_by_target
from . import doubt, load_for, options, select
from .terminal import hush, say


def evaluate(
    model: options.Model,
    data: options.Data = None,
    device: options.Device = None,
    threads: options.Threads = None,
    label: options.Label = None,
    drop: options.Drop = None,
    test: options.Test = None,
    strict: options.Strict = False,
    json: options.Json = False,
    kernel: options.Kernels = None,
    debug: options.Debug = False,
) -> None:
    """Measure a model on the test part of a data set: loss, accuracy, errors by class; or RMSE, MAE, R2."""
    tell = hush if json else say
    backend = select(device, threads)
    net = load_model(model, backend=backend, kernels=own_kernels(kernel))
    source = load_for(net, model, data or "mnist", label=label, drop=drop, test=test)
    for line in (text.device_line(backend), *text.data_lines(source), text.network_line(net)):
        tell(line)
    doubt(input_doubts(source), strict=strict)
    found, outputs = evaluate_outputs(net, source.test_images, source.test_labels)
    check_finite(model, found.loss)
    if net.regression:
        rows = errors_by_target(net, outputs, source.test_labels)
        lines = text.target_table(rows) if len(rows) > 1 else []
    else:
        rows = class_counts(source.test_labels, outputs.argmax(axis=1), net.layers[-1])
        lines = text.class_table(rows, net.classes)
    for line in lines:
        tell(line)
    result = record.evaluation_record(net, source, found, rows, model)
    said = text.outcome_words if net.regression else text.evaluation_line
    say(to_json(result) if json else said(result))
    doubt(learned_nothing(found, source.test_labels), strict=strict, error=ModelError)
