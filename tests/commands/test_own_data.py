"""People's own data through every command: names of classes, standardisation and options travel with the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import twostroke as ts
from tests.commands.test_cli import refused
from twostroke.cli import main

SPECIES = ("setosa", "versicolor", "virginica")


@pytest.fixture
def flowers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """60 rows: a running number, two values of very different size, the class as a word."""
    rng = np.random.default_rng(0)
    lines = ["id,length,mass,species"]
    for number in range(60):
        kind = number % 3
        lines.append(
            f"{number},{5 + kind + rng.normal(0, 0.1):.3f},{1e6 * (kind + 1) + rng.normal(0, 1e4):.0f},{SPECIES[kind]}"
        )
    (tmp_path / "flowers.csv").write_text("\n".join(lines) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *words: Any) -> tuple[int, str, str]:
    code = main([*map(str, words)])
    return code, *capsys.readouterr()


def test_a_table_from_training_to_its_predictions(flowers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = ["train", "flowers.csv", "--drop", "id", "--device", "cpu", "--threads", "1"]
    code, out, err = run(capsys, *train)
    assert (code, err) == (0, "")
    assert "2 float64, 3 classes: setosa, versicolor, virginica" in out
    assert "class in column 'species', a fifth of the rows held out" in out
    assert "preset general, adamw" in out
    assert "test accuracy 100.00%" in out
    model = "runs/flowers/model.safetensors"
    code, out, _ = run(capsys, "evaluate", model, "flowers.csv")  # --drop is the run's
    assert code == 0
    assert [line.split()[0] for line in out.splitlines() if line.strip().startswith(SPECIES)] == [*SPECIES]
    code, out, _ = run(capsys, "predict", model, "--index", 0, "--data", "flowers.csv")
    assert code == 0
    assert ": right)" in out
    # New rows, in another order of columns, without the class.
    Path("new.csv").write_text("mass,length,colour\n3000000,7.0,red\n1000000,5.0,blue\n")
    code, out, _ = run(capsys, "predict", model, "new.csv", "--json")
    found = json.loads(out)["predictions"]
    assert [SPECIES[one["prediction"]] for one in found] == ["virginica", "setosa"]
    assert found[0]["classes"] == [*SPECIES]
    record = json.loads(Path("runs/flowers/record.json").read_text())
    assert (record["data_options"], record["columns"]) == ({"drop": ["id"]}, ["length", "mass"])
    assert record["class_names"] == [*SPECIES]


def test_the_model_standardises_in_python_and_in_onnx(flowers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    assert run(capsys, "train", "flowers.csv", "--drop", "id", "--device", "cpu", "-q")[0] == 0
    net = ts.load_model("runs/flowers/model.safetensors")
    data = ts.load_dataset("flowers.csv", drop=["id"])
    assert net.scaling is not None
    np.testing.assert_array_equal(net.scaling.mean, data.train_images.mean(axis=0))
    assert ts.evaluate(net, data.test_images, data.test_labels).accuracy == 1.0
    assert run(capsys, "export", "runs/flowers/model.safetensors", "flowers.onnx")[0] == 0
    session = onnxruntime.InferenceSession("flowers.onnx")
    labels, outputs = session.run(None, {"input": data.test_images.astype(np.float32)})
    assert labels.tolist() == [SPECIES[k] for k in net.predict(data.test_images)]
    np.testing.assert_allclose(outputs, net.predict_proba(data.test_images), atol=1e-3)
    refused(
        run(capsys, "export", "runs/flowers/model.safetensors", "p.onnx", "--inputs", "pixels"), 2, "--inputs", "tables"
    )


def test_what_a_table_lacks_is_named(flowers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = ["train", "flowers.csv", "--device", "cpu"]
    refused(run(capsys, *train, "--label", "colour"), 4, "flowers.csv", "'colour'", "id, length, mass, species")
    refused(run(capsys, *train, "--drop", "colour"), 4, "'colour'", "--drop")
    refused(run(capsys, *train, "--test", "no.csv"), 4, "no.csv")
    np.savez("set.npz", x_train=np.eye(3), y_train=[0, 1, 2], x_test=np.eye(3), y_test=[0, 1, 2])
    refused(run(capsys, "train", "set.npz", "--label", "x"), 4, "for tables", "Leave them out")
    assert run(capsys, *train, "--drop", "id", "-q")[0] == 0
    Path("short.csv").write_text("length,species\n5.0,setosa\n")
    refused(run(capsys, "predict", "runs/flowers/model.safetensors", "short.csv"), 4, "short.csv", "1 columns", "2")


def test_a_table_to_test_on_is_found_from_another_folder(
    flowers: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = Path("flowers.csv").read_text().splitlines()
    Path("test.csv").write_text("\n".join(lines[:7]) + "\n")
    words = ["train", "flowers.csv", "--drop", "id", "--test", "test.csv", "--device", "cpu", "--epochs", 2]
    code, out, _ = run(capsys, *words)
    assert code == 0
    assert "60 training and 6 test samples" in out
    (flowers / "elsewhere").mkdir()
    monkeypatch.chdir(flowers / "elsewhere")
    code, out, _ = run(capsys, "evaluate", "../runs/flowers/model.safetensors", "../flowers.csv")
    assert code == 0
    assert "60 training and 6 test samples" in out


def test_a_table_s_settings_in_a_file_and_repeated(flowers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "flowers.csv", "--drop", "id", "--device", "cpu", "--threads", "1", "--epochs", "3"]
    code, out, _ = run(capsys, *words, "--show-config")
    assert code == 0
    assert 'drop = ["id"]' in out
    Path("run.toml").write_text(out)
    assert run(capsys, *words, "--out", "one", "-q")[0] == 0
    assert run(capsys, "train", "--config", "run.toml", "--out", "two", "-q")[0] == 0
    one, two = (ts.load_model(f"{name}/model.safetensors") for name in ("one", "two"))
    np.testing.assert_array_equal(one.parameters, two.parameters)
    from twostroke.runs.record import repeat_words

    repeated = repeat_words(json.loads(Path("one/record.json").read_text()))
    assert repeated[:5] == ["twostroke", "train", str(flowers / "flowers.csv"), "--drop", "id"]


def test_a_picture_is_predicted_as_those_of_the_folder_were_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Light and dark pictures of 28 x 28: prepared like a digit both would be blank."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name, grey in (("dark", 40), ("light", 200)):
        Path("pictures", name).mkdir(parents=True)
        for number in range(20):
            noise = rng.integers(-20, 20, (28, 28)) + grey
            Image.fromarray(noise.astype(np.uint8)).save(f"pictures/{name}/{number}.png")
    assert run(capsys, "train", "pictures", "--device", "cpu", "-q")[0] == 0
    Image.new("RGB", (640, 480), (210, 190, 200)).save("new.jpg")
    Image.new("L", (28, 28), 30).save("old.png")
    code, out, _ = run(capsys, "predict", "runs/pictures/model.safetensors", "new.jpg", "old.png")
    assert code == 0
    assert "new.jpg: light" in out
    assert "old.png: dark" in out


def test_a_row_that_holds_no_pixels_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (30, 64))
    lines = ["label," + ",".join(f"pixel{k}" for k in range(64))]
    lines += [f"{k % 2}," + ",".join(map(str, row)) for k, row in enumerate(pixels)]
    Path("digits.csv").write_text("\n".join(lines))
    assert run(capsys, "train", "digits.csv", "--device", "cpu", "--epochs", 1, "-q")[0] == 0
    assert run(capsys, "predict", "runs/digits/model.safetensors", "digits.csv", "--json")[0] == 0
    Path("new.csv").write_text(lines[0] + "\n" + lines[1].replace(",", ",256.5,", 1).rpartition(",")[0] + "\n")
    refused(run(capsys, "predict", "runs/digits/model.safetensors", "new.csv"), 4, "not pixels", "256.5", "'pixel0'")


@pytest.mark.parametrize("given", ["red,green,blue", "names.txt"])
def test_names_for_data_without_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, given: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("names.txt").write_text("red\ngreen\n\nblue\n")
    rng = np.random.default_rng(0)
    X, y = rng.random((60, 4)), np.arange(60) % 3
    np.savez("set.npz", x_train=X, y_train=y, x_test=X[:9], y_test=y[:9])
    code, out, _ = run(capsys, "train", "set.npz", "--classes", given, "--device", "cpu", "--epochs", 1)
    assert code == 0
    assert "3 classes: red, green, blue" in out
    assert ts.load_model("runs/set/model.safetensors").classes == ("red", "green", "blue")
    refused(run(capsys, "train", "set.npz", "--classes", "red,green", "--device", "cpu"), 4, "out of range", "0..1")
    refused(
        run(capsys, "train", "set.npz", "--classes", "a,b,a", "--device", "cpu"), 2, "names of classes", "'a', 'b', 'a'"
    )


def test_few_samples_are_visited_more_often(flowers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "flowers.csv", "--drop", "id", "--device", "cpu", "--dry-run", "--json"]
    plan = json.loads(run(capsys, *words)[1])
    assert (plan["settings"]["batch_size"], plan["steps_per_epoch"]) == (4, 12)
    assert plan["steps"] >= 1500
    given = json.loads(run(capsys, *words, "--epochs", 2, "--batch-size", 16)[1])
    assert (given["settings"]["epochs"], given["settings"]["batch_size"]) == (2, 16)
    other = json.loads(run(capsys, *words, "--preset", "fast")[1])
    assert other["settings"]["epochs"] == 4


def test_of_many_epochs_some_are_shown(flowers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "flowers.csv", "--drop", "id", "--device", "cpu", "--epochs"]
    shown = [line for line in run(capsys, *words, 300)[1].splitlines() if "/300 " in line]
    assert 20 <= len(shown) <= 60
    assert shown[-1].strip().startswith("300/300")
    assert len([line for line in run(capsys, *words, 12)[1].splitlines() if "/12 " in line]) == 12
