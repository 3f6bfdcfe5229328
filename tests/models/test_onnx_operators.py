"""The table of ONNX operators. Needs no onnx."""

from __future__ import annotations

from twostroke.engine import kernels
from twostroke.engine.mlp import OUTPUTS
from twostroke.models.onnx import OPERATORS


def test_every_activation_and_output_has_its_operator() -> None:
    assert set(OPERATORS) == {*kernels.ACTIVATIONS, *(name for outputs in OUTPUTS.values() for name in outputs)}
