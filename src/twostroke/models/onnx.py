"""Exports a network as an ONNX model, which runs without Python and without this package.

    input (batch, D) -> [Cast, Div by 255: pixels only] -> Gemm, activation, ... -> probabilities (batch, K)
                                                                                 -> ArgMax -> label (batch,)

A network of tables standardises its input instead: Sub mean, Div deviation. A regression has one output, ``values``
(batch, K) in the units of its targets: Mul target_deviation, Add target_mean in place of ArgMax.

Needs operator set 17 and IR version 8 (ONNX 1.12, 2022). The package ``onnx`` is imported when it is used.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from ..engine.mlp import MLP, network_settings
from ..errors import ConfigError, ModelError, missing
from ..files.atomic_file import write_atomically
from ..version import __version__
from .model_file import TARGET_SCALING, host_tensors

OPSET: Final = 17
IR_VERSION: Final = 8
# Protocol buffers are limited to 2 GiB. The graph takes kilobytes, the origin 1 MiB at most (a model file's limit).
MOST_BYTES: Final = 2**31 - 2**22
_INPUT: Final = {"pixels": "pixels 0..255", "scaled": "values already scaled"}
INPUTS: Final = tuple(_INPUT)


def import_onnx() -> Any:
    """The package ``onnx``. Raises ``MissingExtra``."""
    try:
        import onnx
    except ImportError as error:
        raise missing("onnx", "ONNX export", error) from error
    return onnx


def export_onnx(
    net: MLP,
    path: str | os.PathLike[str],
    *,
    inputs: str = "pixels",
    classes: Sequence[str | int] | None = None,
    origin: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Check ``net`` with ONNX's checker and write it to ``path`` atomically; return a description of the file.

    The model's input is ``input`` (batch, D): uint8 0..255 with ``inputs="pixels"``, which the model scales as
    ``predict_proba`` does, or values already scaled, of the network's dtype, with ``inputs="scaled"``. Its outputs
    are ``label`` (batch,), the most probable class, and ``probabilities`` (batch, K), what ``predict_proba``
    returns; of a regression ``values`` (batch, K), what ``predict`` returns, in the network's dtype. ``classes`` names
    the K classes, as strings or integers, in the order of the outputs; without it label k is the integer k. ``origin``
    (how the network was trained) goes into the metadata.

    Raises ``ConfigError`` (an argument, or the package onnx is missing) and ``ModelError`` (weights, the file).
    """
    path = Path(path)
    onnx = import_onnx()
    if inputs not in INPUTS:
        raise ConfigError("unknown kind of input", where="inputs", found=repr(inputs), expected=" or ".join(INPUTS))
    names = class_names(list(net.classes) or None if classes is None else classes, net.layers[-1])
    if net.scaling and inputs == "pixels":
        found, expected = "pixels, of a network of tables", "scaled"
        raise ConfigError("not a network of pixels", where="inputs", found=found, expected=expected)
    tensors = host_tensors(net, path)
    size = sum(tensor.nbytes for tensor in tensors.values())
    if size > MOST_BYTES:
        found, expected, remedy = f"{size:,} bytes", f"<= {MOST_BYTES:,}", "Move the safetensors file instead."
        raise ModelError("too large for ONNX", where=path, found=found, expected=expected, remedy=remedy)
    model = onnx.helper.make_model(
        _graph(onnx, net, tensors, inputs == "pixels", names),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="twostroke",
        producer_version=__version__,
    )
    metadata = {
        "twostroke": __version__,
        "settings": network_settings(net),
        "input": _INPUT[inputs] if net.scaling is None else "values as in the table, standardised inside",
        "classes": list(range(net.layers[-1])) if names is None else names,
        "origin": origin or {},
    }
    texts = {
        key: value if isinstance(value, str) else json.dumps(value, default=str) for key, value in metadata.items()
    }
    onnx.helper.set_model_props(model, texts)
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # the checker's, and the type inference's
        raise ModelError("ONNX refuses the model", where=path, found=error) from error
    data = model.SerializeToString(deterministic=True)
    try:
        write_atomically(path, data)
    except (OSError, ValueError) as error:  # ValueError: a zero byte, or no file name
        reason = getattr(error, "strerror", None) or error
        raise ModelError("cannot write the model", where=path.absolute(), found=reason) from error
    return {
        "onnx": str(path),
        "bytes": len(data),
        "opset": OPSET,
        "ir_version": IR_VERSION,
        "inputs": _shapes(onnx, model.graph.input),
        "outputs": _shapes(onnx, model.graph.output),
        **{key: metadata[key] for key in ("input", "settings", "classes", "origin")},
    }


def _graph(onnx: Any, net: MLP, tensors: dict[str, np.ndarray], pixels: bool, names: list[Any] | None) -> Any:
    """The forward pass as nodes. Tensors keep the names that they have in the safetensors file."""
    make = onnx.helper.make_node
    number = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(net.dtype))
    constants, nodes, values = dict(tensors), [], "input"
    if pixels:
        constants["white"] = np.array(255, net.dtype)
        nodes.append(make("Cast", ["input"], ["X"], "cast", to=number))
        nodes.append(make("Div", ["X", "white"], ["A0"], "scale"))
        values = "A0"
    if net.scaling:  # in float64: the mean of a column may be large beside its deviation
        constants |= net.scaling._asdict()
        nodes.append(make("Cast", ["input"], ["X"], "widen", to=onnx.TensorProto.DOUBLE))
        nodes.append(make("Sub", ["X", "mean"], ["centred"], "centre"))
        nodes.append(make("Div", ["centred", "deviation"], ["standardised"], "standardise"))
        nodes.append(make("Cast", ["standardised"], ["A0"], "cast", to=number))
        values = "A0"
    operators = _operators(net)
    for layer, operator in enumerate(operators, start=1):
        last = layer == len(operators)
        end = "probabilities" if not net.regression else "standardised_values" if net.target_scaling else "values"
        Z, A = f"Z{layer}", end if last else f"A{layer}"
        # The outputs need their name even where nothing is applied.
        affine = Z if operator else A
        nodes.append(make("Gemm", [values, f"W{layer}", f"b{layer}"], [affine], f"affine{layer}"))
        if operator:
            # Softmax: over the last axis, its default.
            nodes.append(make(operator, [Z], [A], f"{operator.lower()}{layer}"))
        values = A
    tensor = onnx.helper.make_tensor_value_info
    D, K = net.layers[0], net.layers[-1]
    inputs = [tensor("input", onnx.TensorProto.UINT8 if pixels else number, ["batch", D])]
    if net.regression:
        if net.target_scaling:  # in float64, as the input
            constants |= dict(zip(TARGET_SCALING, net.target_scaling, strict=True))
            nodes.append(make("Cast", [values], ["wide_values"], "widen_values", to=onnx.TensorProto.DOUBLE))
            nodes.append(make("Mul", ["wide_values", TARGET_SCALING[1]], ["scaled_values"], "scale_values"))
            nodes.append(make("Add", ["scaled_values", TARGET_SCALING[0]], ["moved_values"], "move_values"))
            nodes.append(make("Cast", ["moved_values"], ["values"], "cast_values", to=number))
        initializers = [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
        outputs = [tensor("values", number, ["batch", K])]
        return onnx.helper.make_graph(nodes, "twostroke", inputs, outputs, initializers)
    kind = onnx.TensorProto.INT64
    index = "label" if names is None else "index"
    nodes.append(make("ArgMax", ["probabilities"], [index], "most_probable", axis=1, keepdims=0))
    initializers = [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
    if names is not None:
        texts = [name.encode() for name in names if isinstance(name, str)]
        kind = onnx.TensorProto.STRING if texts else kind
        initializers.append(onnx.helper.make_tensor("classes", kind, [len(names)], texts or names))
        nodes.append(make("Gather", ["classes", "index"], ["label"], "name_of_class", axis=0))
    outputs = [tensor("label", kind, ["batch"]), tensor("probabilities", number, ["batch", K])]
    return onnx.helper.make_graph(nodes, "twostroke", inputs, outputs, initializers)


def _operators(net: MLP) -> list[str]:
    """The operator of each layer's activation; "": none is needed. Raises ``ConfigError`` where there is none."""
    found = []
    for operator in [*(activation.onnx for activation in net.layer_activations[:-1]), net.loss_kernels.onnx]:
        if operator is None:
            remedy = "Give it one: Activation(..., onnx=NAME)."
            what = "the activation has no ONNX operator"
            raise ConfigError(what, where="activation", found=repr(net.activation), remedy=remedy)
        found.append(operator)
    return found


def class_names(classes: Sequence[str | int] | None, count: int) -> list[Any] | None:
    """Check the names; return a list of strings or of integers."""
    if classes is None:
        return None
    names = [name if isinstance(name, str) else int(name) for name in classes]
    if len(names) != count or len(set(names)) != count or len({type(name) for name in names}) != 1:
        expected = f"{count} different names, all strings or all integers: one for each output"
        raise ConfigError("bad names of classes", where="classes", found=", ".join(map(repr, names)), expected=expected)
    return names


def _shapes(onnx: Any, values: Any) -> dict[str, dict[str, Any]]:
    """The name of each input or output, with its dtype and its shape."""
    found = {}
    for value in values:
        tensor = value.type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)  # NumPy has no type of its own for text
        shape = [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]
        found[value.name] = {"dtype": "text" if dtype.hasobject else dtype.name, "shape": shape}
    return found
