"""``twostroke export``."""

from __future__ import annotations

from ..errors import ConfigError
from ..models.model_file import describe_model, load_model
from ..models.onnx import export_onnx, import_onnx
from ..provenance import to_json
from ..runs.own_kernel import own_kernels
from ..runs.settings import named, names_in
from ..show import text
from . import options
from .terminal import hush, say

SUFFIX = ".onnx"


def export(
    model: options.Model,
    target: options.Target,
    inputs: options.Inputs = None,
    classes: options.Classes = None,
    json: options.Json = False,
    kernel: options.Kernels = None,
    debug: options.Debug = False,
) -> None:
    """Write a model as ONNX, which onnxruntime and many other programs run. A TARGET that exists is replaced."""
    if target.suffix != SUFFIX:
        found = repr(target.suffix) if target.suffix else "none"
        raise ConfigError(
            "unknown kind of file", where=target, found=found, expected=SUFFIX, remedy="Name it model.onnx, say."
        )
    import_onnx()
    net, origin = load_model(model, kernels=own_kernels(kernel)), describe_model(model)["origin"]
    if target.exists() and target.samefile(model):
        raise ConfigError("the model would be replaced", where=target, remedy="Choose another name.")
    trained_on = "pixels" if origin.get("input", "uint8") == "uint8" else "scaled"
    names = names_in(classes) or None
    try:
        written = export_onnx(net, target, inputs=inputs or trained_on, classes=names, origin=origin)
    except ConfigError as error:
        raise named(error, {"inputs": "--inputs", "classes": "--classes"}) from error
    for line in [text.network_line(net), *text.onnx_lines(written)]:
        (hush if json else say)(line)
    if json:
        say(to_json({"model": str(model), **written}))
