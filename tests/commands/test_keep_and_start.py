"""``--keep best``: the model of the best epoch, the last one beside it. ``--from``: a run that starts from a model."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import twostroke as ts
from tests.commands.test_cli import refused
from tests.commands.test_own_data import run
from twostroke.cli import main
from twostroke.engine.kernels import ACTIVATIONS
from twostroke.engine.training import TrainingRun
from twostroke.files.atomic_file import previous
from twostroke.models.model_file import describe_model
from twostroke.runs.record import read_record, repeat_words

ALONE = ["--device", "cpu", "--threads", "1", "--quiet"]
OVERFITS = ["train", "noise.npz", "--val-size", "20", "--preset", "fast", "--layers", "6,24,3", "--batch-size", "5"]
OVERFITS += ["--optimizer", "adam", "--lr", "0.05", "--schedule", "constant", "--epochs", "7", *ALONE]
MODEL, LAST, RECORD = "model.safetensors", "last.safetensors", "record.json"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Labels without sense, which are learned by heart, and a table whose two classes lie apart."""
    rng = np.random.default_rng(0)
    X, y = rng.random((60, 6), np.float32), rng.integers(0, 3, 60)
    np.savez(tmp_path / "noise.npz", x_train=X[:40], y_train=y[:40], x_test=X[40:], y_test=y[40:])
    rows = [f"{k},{k % 2 * 5 + rng.random():.3f},{('cat', 'dog')[k % 2]}" for k in range(60)]
    (tmp_path / "pets.csv").write_text("\n".join(["id,size,kind", *rows]) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def pets(folder: Path) -> Path:
    """A model of pets.csv."""
    assert train_pets("pets", "--epochs", "4") == 0
    return Path("pets") / MODEL


def train_pets(out: str, *words: str, data: str = "pets.csv") -> int:
    return main(["train", data, "--label", "kind", "--out", out, *ALONE, *words])


def losses(out: str) -> list[float]:
    return [epoch["val_loss"] for epoch in read_record(Path(out) / RECORD)["history"]]


def parameters(file: Path) -> Any:
    return ts.load_model(file).parameters


# --- keep best ----------------------------------------------------------------------------------------------------


def test_the_best_epoch_is_the_model_and_the_last_is_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    words = [word for word in OVERFITS if word != "--quiet"]
    code, out, err = run(capsys, *words, "--keep", "best", "--out", "best")
    assert code == 0, err
    record = read_record(Path("best") / RECORD)
    best = 1 + int(np.argmin(losses("best")))
    assert best < record["epochs"], "the data must overfit for this test to say anything"
    assert (record["keep"], record["kept_epoch"]) == ("best", best)
    shown = f"{min(losses('best')):.4f}"
    assert f"          of epoch {best} of 7, with the lowest validation loss, {shown}\n" in out
    assert f"last:     best/{LAST}\n" in out
    # The last is the model of a run that keeps the last; the best that of one which ends there, at a constant rate.
    assert main([*OVERFITS, "--out", "plain"]) == 0
    assert np.array_equal(parameters(Path("best") / LAST), parameters(Path("plain") / MODEL))
    assert not (Path("plain") / LAST).exists()
    assert "kept_epoch" not in read_record(Path("plain") / RECORD)
    words = [str(best) if word == "7" else word for word in OVERFITS]
    assert main([*words, "--out", "short"]) == 0
    assert np.array_equal(parameters(Path("best") / MODEL), parameters(Path("short") / MODEL))
    # Each file's origin has its own figures.
    for name, other in ((MODEL, "short"), (LAST, "plain")):
        origin = describe_model(Path("best") / name)["origin"]
        expected = read_record(Path(other) / RECORD)
        assert origin["test_loss"] == pytest.approx(expected["test_loss"])
        assert origin["kept_epoch"] == expected["epochs"]


def test_the_last_model_of_an_earlier_run_is_set_aside() -> None:
    assert main([*OVERFITS, "--keep", "best", "--out", "run"]) == 0
    first = parameters(Path("run") / LAST)
    assert main([*OVERFITS, "--seed", "3", "--out", "run"]) == 0
    assert not (Path("run") / LAST).exists()
    assert np.array_equal(parameters(previous(Path("run") / LAST)), first)


def test_the_plan_names_the_last_model(capsys: pytest.CaptureFixture[str]) -> None:
    words = [word for word in OVERFITS if word != "--quiet"]
    _, out, _ = run(capsys, *words, "--keep", "best", "--out", "run", "--dry-run", "--json")
    assert json.loads(out)["files"] == [f"run/{name}" for name in (MODEL, LAST, RECORD)]


def test_a_run_that_is_done_keeps_the_best_when_it_is_resumed() -> None:
    words = [*OVERFITS, "--keep", "best", "--out", "run", "--checkpoint-every", "1"]
    assert main(words) == 0
    before = [(Path("run") / name).read_bytes() for name in (MODEL, LAST)]
    kept = parameters(Path("run") / MODEL), parameters(Path("run") / LAST)
    for name in (MODEL, LAST):
        (Path("run") / name).unlink()
    assert main([*words, "--resume"]) == 0
    assert before != []
    for name, expected in zip((MODEL, LAST), kept, strict=True):
        assert np.array_equal(parameters(Path("run") / name), expected)


def test_without_a_validation_part_nothing_is_best(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "noise.npz", "--keep", "best"]
    refused(run(capsys, *words), 2, "--keep", "found 'best'", "--val-size")


def test_a_run_that_was_resumed_to_its_end_is_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words, advance = [*OVERFITS, "--out", "run"], TrainingRun.advance

    def stopped(run: TrainingRun, most_steps: int | None = None) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return advance(run, most_steps)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "advance", stopped)
        assert run(capsys, *words)[0] == 143
    assert run(capsys, *words, "--resume")[0] == 0
    plan = json.loads(run(capsys, *words[:-3], *words[-2:], "--resume", "--dry-run", "--json")[1])
    assert plan["done_steps"] == plan["steps"] > 0
    before = parameters(Path("run") / MODEL)
    assert run(capsys, *words, "--resume")[0] == 0
    assert np.array_equal(parameters(Path("run") / MODEL), before)


# --- from a model -------------------------------------------------------------------------------------------------


def test_a_run_starts_from_the_model(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "pets.csv", "--label", "kind", "--from", pets, "--epochs", "3", "--lr", "0.01", *ALONE[:-1]]
    code, out, err = run(capsys, *words, "--out", "next")
    assert code == 0, err
    digest = hashlib.sha256(pets.read_bytes()).hexdigest()
    assert f"from:     {pets}, SHA-256 {digest[:12]}...\n" in out
    # The same as by hand in Python, to the bit.
    record = read_record(Path("next") / RECORD)
    assert record["from_model"] == {"path": str(pets.absolute()), "sha256": digest}
    data = ts.load_dataset("pets.csv", label="kind")
    names = ("epochs", "batch_size", "optimizer", "l2", "dropout", "schedule")
    config = ts.TrainConfig(lr=0.01, **{name: record[name] for name in names})
    net = ts.load_model(pets, backend=ts.select_backend("cpu", threads=1))
    ts.fit(net, data, config)
    found = ts.load_model(Path("next") / MODEL)
    assert np.array_equal(found.parameters, net.parameters)
    assert found.classes == net.classes == ("cat", "dog")
    assert found.scaling is not None
    assert np.array_equal(found.scaling.mean, ts.load_model(pets).scaling.mean)  # type: ignore[union-attr]
    # The record repeats it.
    assert main([*repeat_words(record)[1:], "--threads", "1", "-q", "--out", "again"]) == 0
    assert np.array_equal(parameters(Path("again") / MODEL), net.parameters)


def test_a_file_of_settings_names_the_model(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "pets.csv", "--label", "kind", "--from", pets, "--epochs", "2", *ALONE]
    assert run(capsys, *words, "--out", "one")[0] == 0
    code, out, _ = run(capsys, *words, "--out", "two", "--show-config")
    assert code == 0
    assert f'from_model = "{pets}"' in out
    Path("run.toml").write_text(out)
    assert run(capsys, "train", "--config", "run.toml", "-q")[0] == 0
    assert np.array_equal(parameters(Path("one") / MODEL), parameters(Path("two") / MODEL))


def test_columns_in_another_order_are_the_model_s(pets: Path) -> None:
    rows = [line.split(",") for line in Path("pets.csv").read_text().splitlines()]
    Path("turned.csv").write_text("\n".join(f"{size},{kind},{number}" for number, size, kind in rows) + "\n")
    for name in ("pets", "turned"):
        assert train_pets(f"from_{name}", "--from", str(pets), "--epochs", "2", data=f"{name}.csv") == 0
    assert np.array_equal(parameters(Path("from_pets") / MODEL), parameters(Path("from_turned") / MODEL))


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (
            "--layers 2,9,2",
            2,
            "--layers: found 2,9,2, expected 2,256,128,2, as in pets/model.safetensors. Leave it out",
        ),
        ("--activation tanh", 2, "--activation: found tanh, expected relu, as in pets"),
        ("--task regression", 2, "--task: found regression, expected classification"),
        ("--dtype float64", 2, "--dtype: found float64, expected float32"),
        (
            "--classes dog,cat",
            2,
            "not the model's classes: --from pets/model.safetensors: found dog, cat, expected cat",
        ),
        ("--drop id", 4, "a column of the model's values is dropped, or is no value"),
        ("--weight size", 4, "found size, expected columns that the model does not use"),
        ("--from nothere", 5, "cannot open the file"),
        ("--from pets/record.json", 5, "not a model file: "),
    ],
)
def test_what_contradicts_the_model_is_named(
    pets: Path, words: str, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(capsys, "train", "pets.csv", "--label", "kind", "--from", pets, *words.split(), "--out", "x")
    refused(found, code, said)
    assert not Path("x").exists()


def test_columns_of_other_names_are_not_the_model_s(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("other.csv").write_text(Path("pets.csv").read_text().replace("id,size", "id,weight"))
    found = run(capsys, "train", "other.csv", "--label", "kind", "--from", pets)
    refused(found, 2, "not the model's columns: --from pets/model.safetensors: found id, weight, expected id, size")


def test_what_agrees_with_the_model_may_be_said_and_a_seed_is_the_order_s(pets: Path) -> None:
    agreed = ["--layers", "2,256,128,2", "--activation", "relu"]
    assert train_pets("said", "--from", str(pets), "--seed", "7", *agreed) == 0
    assert read_record(Path("said") / RECORD)["seed"] == 7


def test_a_run_does_not_replace_the_model_that_it_starts_from(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = pets.read_bytes()
    found = run(capsys, "train", "pets.csv", "--label", "kind", "--from", pets, "--out", "pets")
    refused(
        found, 2, "this run would replace the model that it starts from: --from pets/model.safetensors", "--out DIR"
    )
    assert pets.read_bytes() == before


def test_a_resumed_run_must_have_started_from_the_same_model(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--epochs", "3", "--checkpoint-every", "2", "--from", str(pets)]
    assert train_pets("run", *words) == 0
    assert train_pets("run", *words, "--resume") == 0
    assert train_pets("other", "--epochs", "4", "--seed", "1") == 0
    words[-1] = f"other/{MODEL}"
    capsys.readouterr()
    assert train_pets("run", *words, "--resume") == 2
    assert re.search(
        "a checkpoint of another run.*from_model [0-9a-f]{64} there and [0-9a-f]{64}", capsys.readouterr().err
    )
    assert train_pets("run", *words[:4], "--resume") == 2
    assert re.search("from_model [0-9a-f]{64} there and None here", capsys.readouterr().err)


def test_a_model_of_one_s_own_activation_needs_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "keep_and_start_own.py").write_text(
        "import twostroke as ts\n"
        "def forward(xp, Z):\n    xp.multiply(Z, 0.5, out=Z)\n"
        "def backward(xp, A, dA):\n    xp.multiply(dA, 0.5, out=dA)\n"
        "half = ts.Activation('half', forward, backward, in_place=True)\n"
    )
    own = ["--activation", "keep_and_start_own:half"]
    assert "half" not in ACTIVATIONS
    assert train_pets("own", "--epochs", "2", *own) == 0
    start = ["--from", f"own/{MODEL}", "--epochs", "2"]
    refused(run(capsys, "train", "pets.csv", "--label", "kind", *start), 5, "needs an Activation that is not built in")
    assert train_pets("next", *start, *own) == 0


def test_the_last_line_names_the_epoch_of_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, *OVERFITS, "--keep", "best", "--out", "run")
    assert code == 0
    assert f" of epoch {read_record(Path('run') / RECORD)['kept_epoch']}, after 7 epochs, " in out


def test_the_help_shows_the_flag_and_not_the_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split("train --help")) == 0
    text = capsys.readouterr().out
    assert "--from " in text
    assert "from-model" not in text
