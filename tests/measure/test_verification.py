"""``twostroke verify``: it passes here, it sees planted faults, and it says what it did not do."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.strict_device import StrictBackend
from twostroke import ConfigError, VerificationError, select_backend
from twostroke.backend import Backend
from twostroke.backend.cpu.backend import NumpyBackend
from twostroke.cli import main
from twostroke.engine import kernels
from twostroke.measure import gradients, resume, verification
from twostroke.measure.checks import Check, Report, relative_error
from twostroke.measure.verification import verify
from twostroke.models.checkpoint import restore


@pytest.fixture
def cpu() -> Backend:
    return select_backend("cpu", 1)


# --- the reports ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", verification.VERIFICATIONS)
def test_every_verification_passes_on_every_device(name: str, backend: Backend, figure: Any) -> None:
    if isinstance(backend, NumpyBackend):
        backend = select_backend("cpu", 1)  # with threads "auto" a resumed run is not promised to be exact
    report = verify(name, backend)
    assert report.passed, "\n".join(report.lines())
    report.require()
    figure(f"verify {name}: worst error", max(check.error for check in report.checks))
    assert report.lines()[-1] == f"verify {name}: all {len(report.checks)} checks passed on {backend.device}"


def test_gradients_cover_every_kind_of_network_and_equation(cpu: Backend) -> None:
    report = verify("grad", cpu)
    kinds = {check.where for check in report.checks}
    pairs = [(loss, output) for loss, outputs in kernels.LOSSES.items() for output in outputs]
    assert kinds == {f"{name}, {loss}, {output} output" for name in kernels.ACTIVATIONS for loss, output in pairs}
    assert {"relu, cross-entropy, softmax output", "tanh, quadratic, relu output"} <= kinds
    rows = [row.what for row in report.rows]
    assert rows == [f"layer {n}  {equation}" for n in (1, 2) for equation in ("BP2", "BP3", "BP4")] + [
        f"layer 3  {equation}" for equation in ("BP1", "BP3", "BP4")
    ]
    text = "\n".join(report.lines())
    for formula, _ in gradients.EQUATIONS.values():
        assert formula in text
        assert formula in (kernels.__doc__ or "")
    assert all(check.limit == 1e-7 for check in report.checks)


TARGETS = {"tanh_backward": 2, "residual": 3, "affine_backward_parameters": 5}  # the argument that is written
PLANTED = {"tanh_backward": "BP2", "residual": "BP1", "affine_backward_parameters": "BP3"}


@pytest.mark.parametrize("kernel", PLANTED)
def test_a_wrong_kernel_fails_under_its_equation(monkeypatch: pytest.MonkeyPatch, cpu: Backend, kernel: str) -> None:
    original = getattr(kernels, kernel)

    def wrong(*arguments: Any) -> None:
        original(*arguments)
        arguments[TARGETS[kernel]][...] *= 1.00001

    wrong.__name__ = kernel
    if kernel == "tanh_backward":
        monkeypatch.setattr(kernels.ACTIVATIONS["tanh"], "backward", wrong)
    else:
        monkeypatch.setattr(kernels, kernel, wrong)
    report = verify("grad", NumpyBackend(1))
    assert not report.passed
    failed = {check.what.split()[-1] for check in report.checks if not check.passed}
    assert PLANTED[kernel] in failed
    if kernel == "affine_backward_parameters":
        assert failed == {"BP3"}
    with pytest.raises(VerificationError, match=r"^verify grad failed on cpu: layer .* expected <= 1e-07\. "):
        report.require()
    assert "FAILED" in report.lines()[-1]


def test_parity_says_that_no_gpu_was_compared(cpu: Backend) -> None:
    report = verify("parity", cpu)
    assert report.lines()[-2] == "NO GPU WAS COMPARED: the CPU with itself only (cpu was asked for)"
    assert {"float32  dZ1", "float64  dW3", "float32  W2 after 10 steps", "float64  outputs"} <= {
        check.what for check in report.checks
    }
    assert {check.limit for check in report.checks} == {5e-6, 1e-12}
    assert any(check.where.endswith("not captured") for check in report.checks)


class Rounded(StrictBackend):
    """A device that rounds what goes into its float32 products to 10 bits, as TF32 does."""

    def gemm(self, a: Any, b: Any, out: Any, alpha: float = 1.0, beta: float = 0.0) -> None:
        if str(out.dtype) == "float32":
            a, b = (self.asarray(ten_bits(self.to_host(x))) for x in (a, b))
        super().gemm(a, b, out, alpha, beta)


def ten_bits(x: np.ndarray) -> np.ndarray:
    bits = np.ascontiguousarray(x).view(np.uint32)
    return ((bits + 0x1000) & np.uint32(0xFFFFE000)).view(np.float32)


def test_tf32_fails_parity_in_float32_alone() -> None:
    report = verify("parity", Rounded())
    failed = {check.what.split()[0] for check in report.checks if not check.passed}
    assert failed == {"float32"}
    assert not report.closing  # another device than the CPU was compared


def test_resume_covers_every_optimiser_and_sees_a_lost_byte(monkeypatch: pytest.MonkeyPatch, cpu: Backend) -> None:
    report = verify("resume", cpu)
    assert {row.what.split()[0] for row in report.rows} == {"sgd", "momentum", "nesterov", "adam", "adamw"}
    assert len(report.rows) == 10

    def forgets(run: Any, data: Any, path: Path) -> list[str]:
        notes = restore(run, data, path)
        run.net.parameters[0] += np.float32(1e-3)
        return notes

    monkeypatch.setattr(resume, "restore", forgets)
    report = verify("resume", cpu)
    assert sum(check.error > 0 for check in report.checks) > 10
    with pytest.raises(VerificationError, match=r"^verify resume failed on cpu: .* expected <= 0"):
        report.require()


def test_nan_passes_no_limit(cpu: Backend) -> None:
    assert not Check("x", "y", math.nan, 1.0).passed
    for found, expected in (([np.nan], [0.0]), ([0.0], [np.nan]), ([np.nan], [np.nan]), ([np.inf], [np.inf])):
        assert math.isnan(relative_error(found, expected))
    assert relative_error([0.0], [0.0]) == 0
    report = Report("x", cpu, "u", [], [Check("a", "b", 0.5, 1.0), Check("a", "c", math.nan, 1.0)])
    assert [row.where for row in report.rows] == ["c"]
    assert not report.passed
    assert not Report("x", cpu, "u", [], []).passed


def test_an_unknown_check(cpu: Backend) -> None:
    with pytest.raises(ConfigError, match=r"^unknown check: CHECK: found 'x', expected grad or parity or resume"):
        verify("x", cpu)


# --- the command ---------------------------------------------------------------------------------------------


def test_the_command_prints_a_table_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "grad", "--device", "cpu"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("device:   cpu, 1 thread")
    assert out[-1].startswith("verify grad: all ")
    assert main(["verify", "resume", "--device", "cpu", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["passed"] is True
    assert record["threads"] == 1
    assert {"device", "reason", "checks", "machine", "versions"} <= record.keys()


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_failure_is_exit_7(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    monkeypatch.setattr(gradients, "GRADIENT_LIMIT", 0.0)
    assert main(["verify", "grad", "--device", "cpu", *options]) == 7
    out, err = capsys.readouterr()
    assert err.startswith("error: verify grad failed on cpu: layer ")
    assert err.count("\n") == 1
    assert json.loads(out)["passed"] is False if options else "FAILED" in out


def test_bad_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "everything"]) == 2
    assert main(["verify", "grad", "--device", "tpu"]) == 2
    assert capsys.readouterr().err.count("\n") == 2
