"""Regression through every command: numbers of a table are learned, measured and predicted in their own units."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import twostroke as ts
from tests.commands.test_cli import refused
from tests.commands.test_own_data import run
from twostroke.runs.record import read_record, repeat_words

ALL = ["train", "houses.csv", "--task", "regression", "--drop", "id", "--device", "cpu", "--threads", "1"]
TRAIN = [*ALL, "--epochs", "15"]
MODEL = "runs/houses/model.safetensors"


@pytest.fixture(autouse=True)
def houses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """200 rows: a running number, two values, the price, the rent, and the colour."""
    rng = np.random.default_rng(0)
    rows = ["id,area,age,price,rent,colour"]
    for number in range(200):
        area, age = rng.uniform(30, 200), rng.uniform(0, 90)
        price, rent = 50_000 + 3_000 * area - 700 * age, 10 * area + rng.normal(0, 20)
        rows.append(f"{number},{area:.1f},{age:.0f},{price:.2f},{rent:.2f},{'red' if number % 2 else 'blue'}")
    (tmp_path / "houses.csv").write_text("\n".join(rows) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def values(name: str) -> Any:
    lines = [line.split(",") for line in Path("houses.csv").read_text().splitlines()]
    return np.array([float(line[lines[0].index(name)]) for line in lines[1:]])


def test_a_price_from_training_to_its_predictions(houses: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = [*TRAIN[:4], "--label", "price", "--drop", "id,rent,colour", *TRAIN[6:]]
    code, out, err = run(capsys, *one)
    assert (code, err) == (0, "")
    assert "2 float64, 1 target: price" in out
    assert "table, to predict: price, a fifth" in out
    assert "3-" not in out.partition("network:")[2].split(",")[0]
    assert "regression, relu, identity output, quadratic loss" in " ".join(out.split())
    assert "train loss, RMSE, R2" in out
    assert "accuracy" not in out
    assert all(len(line) <= 60 for line in out.splitlines() if "/15 " in line or "epoch " in line)
    record = read_record(houses / "runs/houses/record.json")
    assert record["test_r2"] > 0.9
    last, row = record["history"][-1], next(line.split() for line in out.splitlines() if "15/15" in line)
    assert row[1] == f"{last['train_loss']:.4f}"
    assert float(row[2]) == pytest.approx(last["train_rmse"], rel=0.1)
    assert row[3::3] == [f"{last['train_r2']:.4f}", f"{last['test_r2']:.4f}"]
    assert record["task"] == "regression"
    assert "test_accuracy" not in record
    assert record["history"][-1].keys() >= {"train_rmse", "test_r2", "val_rmse"}
    assert not any("accuracy" in name for name in record["history"][-1])
    # What evaluate says is what NumPy says of the predictions.
    code, out, _ = run(capsys, "evaluate", MODEL, "houses.csv", "--json")
    found = json.loads(out)
    data = ts.load_dataset("houses.csv", label="price", drop=["id", "rent", "colour"], task="regression")
    predicted = ts.load_model(MODEL).predict(data.test_images)
    errors = predicted - data.test_labels
    assert found["test_rmse"] == pytest.approx(np.sqrt(np.mean(errors**2))) == pytest.approx(record["test_rmse"])
    assert found["test_mae"] == pytest.approx(np.mean(np.abs(errors)))
    assert found["test_r2"] == pytest.approx(1 - np.mean(errors**2) / np.var(data.test_labels))
    assert found["targets"][0]["target"] == "price"
    code, out, _ = run(capsys, "evaluate", MODEL, "houses.csv")
    assert out.splitlines()[-1].startswith(f"test RMSE {found['test_rmse']:.5g}, MAE")
    # New rows, in another order, without what is to be predicted.
    Path("new.csv").write_text("age,area\n10,100\n80,50\n")
    code, out, err = run(capsys, "predict", MODEL, "new.csv", "--json")
    assert (code, err) == (0, "")
    rows = json.loads(out)["predictions"]
    assert [row["target"] for row in rows] == [None, None]
    assert rows[0]["targets"] == ["price"]
    assert rows[0]["prediction"][0] == pytest.approx(343_000, rel=0.15)
    assert rows[1]["prediction"][0] == pytest.approx(144_000, rel=0.3)
    code, out, _ = run(capsys, "predict", MODEL, "houses.csv")
    first = out.splitlines()[0]
    assert first.startswith("houses.csv row 0: price ")
    assert first.endswith(f"(is {values('price')[0]:.6g})")
    code, out, _ = run(capsys, "predict", MODEL, "--index", 0, "--data", "houses.csv")
    assert f"(is {data.test_labels[0, 0]:.6g})" in out
    # The command that the record gives repeats it.
    assert run(capsys, *repeat_words(record)[1:], "--out", "again", "-q")[0] == 0
    again = ts.load_model("again/model.safetensors")
    assert again.parameters.tobytes() == ts.load_model(MODEL).parameters.tobytes()


def test_two_targets_with_weights_validation_and_json(houses: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*TRAIN[:4], "--label", "price,rent", "--drop", "id,colour", *TRAIN[6:], "--val-size", "20"]
    code, out, err = run(capsys, *words)
    assert (code, err) == (0, "")
    assert "2 targets: price, rent" in out
    assert "val loss, R2" in out
    code, out, _ = run(capsys, "evaluate", MODEL, "houses.csv")
    assert [line.split()[0] for line in out.splitlines()[-4:-1]] == ["target", "price", "rent"]
    code, out, _ = run(capsys, *words, "--log-format", "json")
    events = [json.loads(line) for line in out.splitlines()]
    assert {"val_rmse", "val_r2", "train_loss"} <= events[0].keys()
    assert not [name for name in events[0] if "accuracy" in name]
    code, out, _ = run(capsys, *words, "--dry-run", "--json")
    assert json.loads(out)["settings"]["task"] == "regression"
    code, out, _ = run(capsys, *words, "--show-config")
    assert 'task = "regression"' in out
    (houses / "run.toml").write_text(
        'task = "regression"\nlabel = "price,rent"\ndrop = ["id", "colour"]\nweight = "age"\n'
    )
    assert run(capsys, "train", "houses.csv", "--config", "run.toml", *ALL[6:], "--epochs", "2", "-q")[0] == 0
    assert ts.load_model(MODEL).layers[-1] == 2


def test_arrays_of_numbers(houses: Path, capsys: pytest.CaptureFixture[str]) -> None:
    X = np.column_stack([values("area"), values("age")]) / 100
    y = values("price") / 1e5
    for labels in (y, y[:, None], np.column_stack([y, y])):
        np.savez("a.npz", x_train=X[:150], y_train=labels[:150], x_test=X[150:], y_test=labels[150:])
        names = ["--classes", ",".join(f"y{k}" for k in range(labels[0].size))]
        code, out, err = run(
            capsys, "train", "a.npz", "--task", "regression", "--device", "cpu", "--epochs", "2", *names
        )
        assert "y0" in out
        assert code == 0, err
    folder = houses / "arrays"
    folder.mkdir()
    for name, part in (("x_train", X[:150]), ("y_train", y[:150]), ("x_test", X[150:]), ("y_test", y[150:])):
        np.save(folder / f"{name}.npy", part)
    assert run(capsys, "train", "arrays", "--task", "regression", "--device", "cpu", "--epochs", "2", "-q")[0] == 0
    refused(run(capsys, "train", "a.npz"), 4, "labels are not 1-D", "--task regression")
    refused(run(capsys, "train", "arrays"), 4, "not a whole number", "--task regression")


def test_whole_numbers_are_classes_unless_the_task_says_otherwise(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"{x},{x % 3}" for x in range(60)]
    Path("counts.csv").write_text("\n".join(["x,label", *rows]) + "\n")
    words = ["train", "counts.csv", "--device", "cpu", "--epochs", "2", "--loss", "quadratic"]
    code, out, _ = run(capsys, *words)
    assert (code, "3 classes" in out, "sigmoid output, quadratic loss" in " ".join(out.split())) == (0, True, True)
    code, out, _ = run(capsys, *words, "--task", "regression")
    assert (code, "1 target: label" in out, "identity output" in " ".join(out.split())) == (0, True, True)
    code, out, _ = run(capsys, *words[:-1], "poisson", "--task", "regression")
    assert (code, "exp output, poisson loss" in " ".join(out.split())) == (0, True)
    assert ts.load_model("runs/counts/model.safetensors").target_scaling is None


def test_a_run_that_learned_nothing(houses: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(1)
    rows = [f"{a:.3f},{b:.3f}" for a, b in rng.normal(size=(100, 2))]
    Path("noise.csv").write_text("\n".join(["a,y", *rows]) + "\n")
    words = ["train", "noise.csv", "--task", "regression", "--label", "y", "--device", "cpu"]
    code, _, err = run(capsys, *words)
    assert (code, err.count("\n")) == (0, 1)
    assert "no better than the mean: R2 is -" in err
    assert run(capsys, *words, "--strict")[0] == 6
    code, _, err = run(capsys, "evaluate", "runs/noise/model.safetensors", "noise.csv", "--strict")
    assert (code, "no better than the mean" in err) == (5, True)


@pytest.mark.parametrize(
    ("options", "code", "parts"),
    [
        (["--label", "colour"], 4, ["not a number", "'colour'", "Leave --task regression out"]),
        ([], 4, ["which column is to be predicted?", "--label COLUMN"]),
        (["--label", "price,cost"], 4, ["no such column", "'cost'", "--label"]),
        (["--label", "price,price"], 4, ["a column is named twice", "--label"]),
        (["--label", "price", "--weight", "price"], 4, ["one column for the weights and for what is predicted"]),
        (["--label", "price", "--loss", "cross-entropy"], 2, ["a loss of classes: --loss"]),
        (["--label", "price", "--output", "softmax"], 2, ["an output of classes: --output"]),
        (["--label", "price", "--class-weight", "balanced"], 2, ["a regression has no classes: --class-weight"]),
        (["--label", "price", "--report"], 2, ["pages are for classifiers: --report", "twostroke evaluate"]),
        (["--label", "price", "--task", "ranking"], 2, ["unknown task: --task", "classification or regression"]),
        (["--label", "price", "--layers", "3,5,2"], 2, ["the network does not fit the data: --layers"]),
    ],
)
def test_a_fault_is_one_line(
    options: list[str], code: int, parts: list[str], houses: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "--report" in options:
        pytest.importorskip("matplotlib")
        pytest.importorskip("jinja2")
    words = [*ALL[:4], "--drop", "id,rent" if "colour" in options else "id,rent,colour", *ALL[6:], *options]
    refused(run(capsys, *words), code, *parts)
    assert not (houses / "runs").exists()


def test_commands_of_classes_refuse_a_model_of_numbers(houses: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = [*TRAIN[:4], "--label", "price", "--drop", "id,rent,colour", *TRAIN[6:], "-q"]
    assert run(capsys, *one)[0] == 0
    (houses / "a.png").write_bytes(b"")
    refused(run(capsys, "predict", MODEL, "a.png"), 5, "the model predicts numbers", "--index")
    refused(run(capsys, "evaluate", MODEL, "mnist"), 5, "does not fit the data", "784 inputs and 1 outputs")
    pytest.importorskip("waitress")
    refused(run(capsys, "draw", MODEL, "--no-browser"), 5, "the model predicts numbers")
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    refused(run(capsys, "report", "runs/houses"), 2, "pages are for classifiers")


def test_a_parquet_table(houses: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {name: values(name) for name in ("area", "age", "price", "rent")}
    parquet.write_table(pyarrow.table(columns | {"colour": ["red"] * 200}), "houses.parquet")
    data = ts.load_dataset("houses.parquet", label="price,rent", drop=["colour"], task="regression")
    text = ts.load_dataset("houses.csv", label="price,rent", drop=["id", "colour"], task="regression")
    np.testing.assert_array_equal(data.train_labels, text.train_labels)
    assert data.classes == ("price", "rent")
    refused(
        run(capsys, "train", "houses.parquet", "--label", "colour", "--task", "regression"),
        4,
        "not a number",
        "Leave --task regression out",
    )


def test_pictures_by_class_are_no_numbers(houses: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = pytest.importorskip("PIL.Image")
    for name in ("cat", "dog"):
        (houses / "pets" / name).mkdir(parents=True)
        for number in range(6):
            picture = image.fromarray(np.full((8, 8), 40 * number, np.uint8))
            picture.save(houses / "pets" / name / f"{number}.png")
    refused(run(capsys, "train", "pets", "--task", "regression"), 4, "no numbers to predict", "cat, dog")
