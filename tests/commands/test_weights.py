"""Weights of samples and classes through every command: they change the training, and what is said of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import twostroke as ts
from tests.commands.test_cli import refused
from tests.commands.test_own_data import run
from twostroke.runs.record import read_record, repeat_words

TRAIN = ["train", "trees.csv", "--device", "cpu", "--threads", "1", "--epochs", "30"]
MODEL = "runs/trees/model.safetensors"


@pytest.fixture(autouse=True)
def trees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """60 rows of two values, a weight between them, and the class."""
    rng = np.random.default_rng(0)
    kinds = np.where(np.arange(60) % 5 == 0, "yew", "ash")
    rows = [
        f"{rng.normal(6 * (kind == 'yew'), 1):.3f},{number % 4},{rng.normal():.3f},{kind}"
        for number, kind in enumerate(kinds)
    ]
    (tmp_path / "trees.csv").write_text("\n".join(["height,trust,girth,kind", *rows]) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_column_of_weights(trees: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, *TRAIN, "--weight", "trust")
    assert (code, err) == (0, "")
    assert "2 float64, 2 classes: ash, yew" in out
    assert "class in column 'kind', weights in 'trust'" in out
    record = read_record(trees / "runs/trees/record.json")
    assert record["columns"] == ["height", "girth"]
    assert record["data_options"] == {"weight": "trust"}
    # The command that repeats it gives the same network; without weights it is another one.
    parameters = ts.load_model(MODEL).parameters.tobytes()
    assert run(capsys, *repeat_words(record)[1:], "--out", "again", "-q")[0] == 0
    assert ts.load_model("again/model.safetensors").parameters.tobytes() == parameters
    assert run(capsys, *TRAIN, "--drop", "trust", "--out", "without", "-q")[0] == 0
    assert ts.load_model("without/model.safetensors").parameters.tobytes() != parameters
    # The weights are no values: the model is evaluated on tables with and without them.
    code, with_weights, _ = run(capsys, "evaluate", MODEL, "trees.csv", "--json")
    assert code == 0
    lines = [line.split(",") for line in Path("trees.csv").read_text().splitlines()]
    Path("bare.csv").write_text("\n".join(f"{girth},{kind},{height}" for height, _, girth, kind in lines) + "\n")
    code, without, _ = run(capsys, "evaluate", MODEL, "bare.csv", "--json")
    assert json.loads(with_weights)["test_loss"] == json.loads(without)["test_loss"]
    for table in ("trees.csv", "bare.csv"):
        code, out, _ = run(capsys, "predict", MODEL, table, "--json")
        assert (code, len(json.loads(out)["predictions"])) == (0, 60)
    # So is a test table.
    code, out, _ = run(capsys, *TRAIN, "--weight", "trust", "--test", "bare.csv")
    assert (code, "60 training and 60 test samples" in out) == (0, True)
    data = ts.load_dataset("trees.csv", weight="trust", test="bare.csv")
    assert data.sample_weight is not None
    np.testing.assert_array_equal(data.sample_weight, np.arange(60) % 4)
    np.testing.assert_array_equal(data.train_images, data.test_images)


def test_a_column_of_weights_by_number_and_in_parquet(capsys: pytest.CaptureFixture[str]) -> None:
    whole = ts.load_dataset("trees.csv", weight="trust")
    lines = Path("trees.csv").read_text().splitlines()[1:]
    Path("bare.csv").write_text("\n".join(lines) + "\n")
    numbered = ts.load_dataset("bare.csv", label="-1", weight="1")
    for data in (numbered,):
        np.testing.assert_array_equal(data.sample_weight, whole.sample_weight)
        np.testing.assert_array_equal(data.train_images, whole.train_images)
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [line.split(",") for line in lines]
    table = {name: [row[k] for row in rows] for k, name in enumerate(("height", "trust", "girth", "kind"))}
    numbers = {name: values if name == "kind" else [float(one) for one in values] for name, values in table.items()}
    parquet.write_table(pyarrow.table(numbers), "trees.parquet")
    columnar = ts.load_dataset("trees.parquet", label="kind", weight="trust")
    np.testing.assert_array_equal(columnar.sample_weight, whole.sample_weight)
    np.testing.assert_array_equal(columnar.train_images, whole.train_images)


def test_class_weights(trees: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, *TRAIN, "--weight", "trust", "--class-weight", "yew=4,ash=0.5", "--dry-run", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["settings"]["class_weight"] == {"yew": 4.0, "ash": 0.5}
    code, out, err = run(capsys, *TRAIN, "--weight", "trust", "--class-weight", "yew=4,ash=0.5", "--val-size", "8")
    assert (code, err) == (0, "")
    assert "class weight yew=4.0,ash=0.5" in " ".join(out.split())
    assert read_record(trees / "runs/trees/record.json")["class_weight"] == {"yew": 4.0, "ash": 0.5}
    (trees / "run.toml").write_text('class_weight = { yew = 4, ash = 0.5 }\nweight = "trust"\nval_size = 8\n')
    assert run(capsys, *TRAIN, "--config", "run.toml", "--out", "filed", "-q")[0] == 0
    assert ts.load_model("filed/model.safetensors").parameters.tobytes() == ts.load_model(MODEL).parameters.tobytes()
    code, out, _ = run(capsys, *TRAIN, "--class-weight", "balanced")
    assert (code, "class weight balanced" in " ".join(out.split())) == (0, True)


def test_the_page_shows_class_weights(trees: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    assert run(capsys, *TRAIN, "--class-weight", "yew=4", "--report", "-q")[0] == 0
    page = (trees / "runs/trees/report.html").read_text()
    assert "class weight" in page
    assert "--class-weight yew=4.0" in page


@pytest.mark.parametrize(
    ("options", "code", "parts"),
    [
        (["--weight", "mass"], 4, ["no such column", "'mass'", "--weight"]),
        (
            ["--weight", "kind", "--label", "kind"],
            4,
            ["one column for the weights and for what is predicted", "--weight"],
        ),
        (["--class-weight", "oak=2"], 2, ["no such class: --class-weight: found 'oak', expected ash, yew"]),
        (["--class-weight", "yew"], 2, ["bad class weight: --class-weight: found 'yew'", "NAME=W,NAME=W"]),
        (["--class-weight", "yew=2,yew=3"], 2, ["bad class weight: --class-weight"]),
        (["--class-weight", "yew=-2"], 2, ["bad class weight: --class-weight", "weights >= 0"]),
        (["--class-weight", "yew=nan"], 2, ["bad class weight: --class-weight", "weights >= 0"]),
    ],
)
def test_a_bad_weight_is_one_line(
    options: list[str], code: int, parts: list[str], trees: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(run(capsys, *TRAIN, *options), code, *parts)
    assert not (trees / "runs").exists()


@pytest.mark.parametrize(
    ("cell", "parts"),
    [
        ("-1", ["a weight is negative, infinite or NaN", "trees.csv[trust]", "value -1.0 at index 2"]),
        ("nan", ["a weight is negative, infinite or NaN", "value nan at index 2"]),
        ("heavy", ["not a number", "'heavy' in column 'trust', row 2"]),
        ("", ["a value is missing", "column 'trust', row 2"]),
    ],
)
def test_a_bad_cell_of_weights(cell: str, parts: list[str], trees: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = (trees / "trees.csv").read_text().splitlines()
    first, _, *rest = lines[3].split(",")
    lines[3] = ",".join([first, cell, *rest])
    (trees / "trees.csv").write_text("\n".join(lines) + "\n")
    refused(run(capsys, *TRAIN, "--weight", "trust"), 4, *parts)


def test_mnist_has_no_columns(capsys: pytest.CaptureFixture[str]) -> None:
    refused(run(capsys, "train", "--weight", "trust", "--device", "cpu"), 4, "weight and test are for tables", "mnist")
