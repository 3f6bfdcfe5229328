"""``twostroke bench``: its table, files, notes and refusals."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib import util
from pathlib import Path

import pytest

from tests.measure.test_throughput import check_record
from twostroke.backend.cuda.probe import Probe
from twostroke.cli import main
from twostroke.measure import throughput as benchmark

NEEDS_MATPLOTLIB = pytest.mark.skipif(
    util.find_spec("matplotlib") is None, reason="matplotlib is not installed: pip install matplotlib"
)
QUICK = [
    "bench",
    "--layers",
    "6,5,3",
    "--batch-sizes",
    "4,1",
    "--devices",
    "cpu",
    "--seconds",
    "0.01",
    "--threads",
    "1",
]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """``run(words...) -> (exit code, stdout, stderr)`` in an empty folder, with short blocks."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(benchmark, "LEAST_BLOCK_S", 2e-4)

    def run(*words: str) -> tuple[int, str, str]:
        code = main(list(words))
        return code, *capsys.readouterr()

    return run


def test_the_command_prints_a_table_and_writes_a_file(run: Run, tmp_path: Path) -> None:
    code, out, _ = run(*QUICK)
    assert code == 0
    assert "samples/s" in out
    assert "fit cpu: t(B) = " in out
    assert "no GPU was measured: no crossover" in out
    result = json.loads((tmp_path / "runs/bench/bench.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert [record["batch_size"] for record in result["records"]] == [1, 4]


def test_without_a_gpu_it_says_from_which_batch_one_would_pay(run: Run) -> None:
    assert " would pay from batch 1\n" in run(*QUICK, "--gpu", "0,1e12")[1]
    found = run(*QUICK, "--gpu", "1e6,1e12")[1]
    assert "; a GPU with a step of 1,000,000 us and a rate of 1,000,000,000,000 samples/s would " in found


def test_the_last_line_of_json_is_the_list_of_records(run: Run, tmp_path: Path) -> None:
    code, out, _ = run(*QUICK, "--out", str(tmp_path / "o"), "--json")
    assert code == 0
    records = json.loads(out, parse_constant=pytest.fail)
    assert out.count("\n") == 1
    for record, size in zip(records, (1, 4), strict=True):
        check_record(record, "cpu", size)
    assert json.loads((tmp_path / "o/bench.json").read_text(encoding="utf-8"))["records"] == records


def test_a_gpu_that_is_not_there_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "probe_cuda", lambda index: Probe(False, "no driver", "Install it."))
    words = ["bench", "--layers", "6,3", "--batch-sizes", "1", "--seconds", "0.01"]
    assert "not measured: cuda: no driver. Install it.\n" in run(*words)[1]
    code, out, err = run(*words, "--json")
    assert (code, out.count("\n")) == (0, 1)
    assert "not measured: cuda: no driver. Install it.\n" in err


def test_without_matplotlib_there_is_a_note_and_no_picture(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, _, err = run(*QUICK, "--out", str(tmp_path))
    assert code == 0
    assert err.count("\n") == 1
    assert err.startswith("note: bench.png needs matplotlib")
    assert "pip install 'twostroke[plot]'" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bench.json"]


@NEEDS_MATPLOTLIB
def test_the_command_writes_the_picture(run: Run, tmp_path: Path) -> None:
    code, out, err = run(*QUICK, "--out", str(tmp_path))
    assert (code, err) == (0, "")
    assert str(tmp_path / "bench.png") in out
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["--layers", "5"], 2, ["--layers", "found 5", "1..1048576"]),
        (["--layers", "5,0"], 2, ["--layers", "found 5,0", "1..1048576"]),
        (["--layers", "a,b"], 2, ["--layers", "'a,b'", "whole numbers"]),
        (["--layers", ""], 2, ["--layers", "''", "whole numbers"]),
        (["--batch-sizes", "0,1"], 2, ["--batch-sizes", "found 0,1", "1..1048576"]),
        (["--batch-sizes", "full"], 2, ["--batch-sizes", "'full'", "whole numbers"]),
        (["--seconds", "0"], 2, ["--seconds", "found 0", "> 0 and <= 3600"]),
        (["--seconds", "nan"], 2, ["--seconds", "found nan", "> 0 and <= 3600"]),
        (["--seconds", "soon"], 2, ["--seconds"]),
        (["--threads", "0"], 2, ["--threads", "found 0", "auto or 1.."]),
        (["--threads", "many"], 2, ["--threads", "found many", "auto or 1.."]),
        (["--devices", "tpu"], 2, ["--devices", "'tpu'", "cpu, cuda or cuda:N"]),
        (["--devices", "cpu,auto"], 2, ["--devices", "'cpu,auto'", "cuda:N joined by commas"]),
        (["--devices", "cuda:4096"], 3, ["the GPU cannot be used"]),
        (["--out", "/dev/null/x"], 2, ["--out /dev/null/x"]),
        (["--gpu", "59"], 2, ["--gpu", "'59'", "59,40e6"]),
        (["--gpu", "fast,1"], 2, ["--gpu", "'fast,1'", "59,40e6"]),
        (["--gpu", "nan,1"], 2, ["--gpu", "found nan,1", "59,40e6"]),
        (["--gpu", "1,0"], 2, ["--gpu", "found 1,0", "59,40e6"]),
        (["--rounds", "5"], 2, ["--rounds", "twostroke bench --help"]),
    ],
)
def test_bad_options(run: Run, words: list[str], code: int, expected: list[str], tmp_path: Path) -> None:
    found, out, err = run("bench", *words)
    assert (found, out) == (code, ""), err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    for text in expected:
        assert text in err
    assert not any(tmp_path.iterdir())
