"""The command line as its users meet it: exit codes, one line per failure, JSON on the last line, signals, pipes."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.main import get_command

import twostroke
from twostroke.backend import Backend
from twostroke.cli import COMMANDS as ALL_COMMANDS
from twostroke.cli import app_of, main
from twostroke.commands import report as report_command
from twostroke.commands import training_job as train_command
from twostroke.commands.terminal import Stopped, live_epochs, program, stoppable_after_work
from twostroke.data.bundled import FIELD
from twostroke.data.digit_image import BOX
from twostroke.engine.evaluation import evaluate
from twostroke.engine.mlp import MLP
from twostroke.engine.training import TrainingRun
from twostroke.measure.throughput import BenchConfig
from twostroke.models.model_file import describe_model, load_model, save_model
from twostroke.runs.folder import locked
from twostroke.runs.settings import SETTINGS, Settings, resolve
from twostroke.signals import uninterrupted

COMMAND = [sys.executable, "-m", "twostroke"]
# Absolute, because some run in another folder.
# As a user's, whose output is buffered: what is left in a buffer of a closed stream matters at the end.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
ENVIRONMENT["PYTHONPATH"] = str(Path(twostroke.__file__).parents[1])


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three easy classes of 28 x 28 pictures: a bright band at the top, in the middle, at the bottom."""
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    images = rng.integers(0, 40, (300, 28, 28), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[9 * label : 9 * label + 9] += 200
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    np.savez(path, x_train=images[:240], y_train=labels[:240], x_test=images[240:], y_test=labels[240:])
    return str(path)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, tiny: str) -> Path:
    folder = tmp_path_factory.mktemp("model")
    assert (
        main(["train", tiny, "--device", "cpu", "--epochs", "2", "--batch-size", "16", "--out", str(folder), "-q"]) == 0
    )
    return folder / "model.safetensors"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    """``run(words...) -> (exit code, stdout, stderr)`` in this process."""

    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(word) for word in words])
        return code, *capsys.readouterr()

    return run


def process(*words: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **({"env": ENVIRONMENT} | options),
    )


def refused(result: tuple[int, str, str], code: int, *words: str) -> None:
    """The exit code, nothing on stdout, one line on stderr that holds all ``words``."""
    found, _, err = result
    assert found == code, err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    for word in words:
        assert word in err


# --- train -----------------------------------------------------------------------------------------------


def test_a_run_says_what_it_does_and_saves_a_model(run: Any, tiny: str, tmp_path: Path) -> None:
    code, out, err = run(
        "train", tiny, "--device", "cpu", "--threads", 1, "--epochs", 3, "--batch-size", 16, "--out", tmp_path
    )
    assert (code, err) == (0, "")
    lines = out.splitlines()
    heads = [
        "device:   cpu, 1 thread: cpu was ",
        "data:     tiny, 240 ",
        "network:  784-",
        "settings: preset general, ",
    ]
    heads += [
        "  epoch train loss, acc  test loss, acc  seconds left",
        "    1/3  ",
        "    2/3  ",
        "    3/3  ",
        "model:    ",
        "next:     twostroke evaluate ",
        "          twostroke predict ",
    ]
    heads += ["test accuracy 100.00%, "]
    assert len(lines) == len(heads)
    for line, head in zip(lines, heads, strict=True):
        assert line.startswith(head)
    assert "learning rate " in lines[3]
    net = load_model(tmp_path / "model.safetensors")
    assert (net.layers[0], net.layers[-1]) == (784, 3)
    assert describe_model(tmp_path / "model.safetensors")["origin"]["test_accuracy"] == 1.0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors", "record.json"]


def test_json_is_all_of_stdout_and_the_record(run: Any, tiny: str, tmp_path: Path) -> None:
    code, out, err = run(
        "train", tiny, "--device", "cpu", "--epochs", 2, "--batch-size", 16, "--out", tmp_path, "--json"
    )
    assert (code, err) == (0, "")
    assert out.count("\n") == 1
    found = json.loads(out, parse_constant=pytest.fail)
    assert found == json.loads((tmp_path / "record.json").read_text())
    assert found["model"] == str(tmp_path / "model.safetensors")
    assert (found["backend"], found["device"], found["epochs"], found["batch_size"]) == ("numpy", "cpu", 2, 16)
    assert [one["epoch"] for one in found["history"]] == [1, 2]


def test_quiet_prints_one_line(run: Any, tiny: str, tmp_path: Path) -> None:
    code, out, _ = run("train", tiny, "--device", "cpu", "--epochs", 1, "--out", tmp_path, "-q")
    assert (code, out.count("\n")) == (0, 1)
    assert out.startswith("test accuracy ")


def test_a_batch_larger_than_the_data_is_a_note(run: Any, tiny: str, tmp_path: Path) -> None:
    code, _, err = run("train", tiny, "--device", "cpu", "--epochs", 1, "--batch-size", 999, "--out", tmp_path, "-q")
    assert code == 0
    assert err.startswith("note: batch_size 999 is larger than the 240 samples")
    assert err.count("\n") == 1


def test_patience_reports_the_model_that_was_kept(run: Any, tiny: str, tmp_path: Path) -> None:
    words = [
        "--val-size",
        60,
        "--patience",
        1,
        "--epochs",
        50,
        "--lr",
        3,
        "--optimizer",
        "sgd",
        "--schedule",
        "constant",
        "--preset",
        "fast",
        "--layers",
        "784,192,3",
    ]
    code, out, _ = run("train", tiny, "--device", "cpu", *words, "--batch-size", 20, "--out", tmp_path, "--json")
    assert code == 0
    found = json.loads(out)
    assert found["epochs"] == len(found["history"]) < 50
    again = run("evaluate", tmp_path / "model.safetensors", tiny, "--device", "cpu", "--json")
    assert json.loads(again[1])["test_loss"] == pytest.approx(found["test_loss"], rel=1e-5)


def test_real_mnist_with_no_argument_but_epochs(tmp_path: Path) -> None:
    done = process("train", "--epochs", 1, "--device", "auto", "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["test_accuracy"] > 0.95
    assert found["model"] == "runs/mnist/model.safetensors"
    assert found["reason"]
    assert (tmp_path / found["model"]).is_file()


BAD_OPTIONS = {
    "--epochs -1": ["--epochs", "-1", "integer >= 1"],
    "--epochs 0": ["--epochs", "0", "integer >= 1"],
    "--epochs two": ["--epochs", "train --help"],
    "--lr nan": ["--lr", "nan", "> 0"],
    "--lr inf": ["--lr", "inf", "> 0"],
    "--eta 0": ["--lr", "0.0", "> 0"],
    "--batch-size 0": ["--batch-size", "0", ">= 1"],
    "--batch-size half": ["--batch-size", "half", "full"],
    "--layers=": ["--layers", "''", "784,128,10"],
    "--layers 784,0,10": ["--layers", "784, 0, 10", "1..1048576"],
    "--layers 784,1000000000,10": ["--layers", "1000000000", "1..1048576"],
    "--layers 784,1e9,10": ["--layers", "1e9", "784,128,10"],
    "--layers 784": ["--layers", "784", "two widths"],
    "--activation swish": ["--activation", "swish", "relu"],
    "--loss hinge": ["--loss", "hinge", "quadratic"],
    "--output tanh": ["--output", "tanh", "softmax"],
    "--init zeros": ["--init", "zeros", "glorot"],
    "--dtype float16": ["--dtype", "float16", "float32"],
    "--optimizer lion": ["--optimizer", "lion", "adam"],
    "--schedule never": ["--schedule", "never", "cosine"],
    "--warmup 1": ["--warmup", "1.0", "< 1"],
    "--momentum 1": ["--momentum", "1.0", "< 1"],
    "--l2 -1": ["--l2", "-1.0", ">= 0"],
    "--seed -1": ["--seed", "-1", ">= 0"],
    "--val-size nan": ["--val-size", "nan", "fraction"],
    "--patience 2": ["--patience", "2", "validation"],
    "--preset best": ["--preset", "best", "nielsen"],
    "--threads 0": ["--threads", "0", "auto or 1.."],
    "--threads some": ["--threads", "some", "auto"],
    "--device tpu": ["--device", "tpu", "cuda:N"],
    "--epoch 3": ["--epoch", "--epochs", "train --help"],
}


@pytest.mark.parametrize("words", BAD_OPTIONS)
def test_a_bad_option_is_refused_before_data_is_read(words: str, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Settings, "load", lambda _: pytest.fail("data was read"))
    refused(run("train", *words.split(" ")), 2, *BAD_OPTIONS[words])


def test_layers_must_fit_the_data(run: Any, tiny: str) -> None:
    result = run("train", tiny, "--device", "cpu", "--layers", "784,20,10")
    refused(result, 2, "--layers", "784,20,10", "3 outputs", "784,20,3")


def test_a_split_that_leaves_nothing_names_the_flag(run: Any, tiny: str, tmp_path: Path) -> None:
    refused(
        run("train", tiny, "--device", "cpu", "--val-size", 240, "--out", tmp_path), 2, "--val-size", "240", "1..239"
    )


def test_missing_data_is_exit_4(run: Any) -> None:
    refused(run("train", "/no/such/set", "--device", "cpu"), 4, "/no/such/set", "mnist")


def test_an_absent_gpu_is_exit_3(tiny: str) -> None:
    done = process("train", tiny, "--device", "cuda:77")
    refused((done.returncode, done.stdout, done.stderr), 3, "GPU", "--device auto or cpu")


def test_out_of_memory_is_exit_3(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(_: Settings) -> None:
        raise MemoryError("Unable to allocate 8.00 TiB")

    monkeypatch.setattr(Settings, "load", explode)
    refused(run("train", "--device", "cpu"), 3, "out of memory", "8.00 TiB", "--batch-size")


@pytest.mark.parametrize("blocker", ["", "model.safetensors"])
def test_a_bad_output_folder_is_found_before_training(
    blocker: str, run: Any, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_command, "TrainingRun", lambda *_, **__: pytest.fail("training began"))
    if blocker:
        (tmp_path / "out" / blocker).mkdir(parents=True)
    else:
        (tmp_path / "out").write_text("a file")
    refused(run("train", tiny, "--device", "cpu", "--out", tmp_path / "out"), 2, f"--out {tmp_path}/out", "--out DIR")


def test_divergence_is_exit_6_and_leaves_the_old_model(run: Any, tiny: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"precious")
    result = run("train", tiny, "--device", "cpu", "--lr", "1e30", "--epochs", 3, "--out", tmp_path, "-q")
    refused(result, 6, "diverged", "epoch 1", "--lr")
    assert (tmp_path / "model.safetensors").read_bytes() == b"precious"
    assert os.listdir(tmp_path) == ["model.safetensors"]


def test_an_unexpected_error_is_one_line_and_debug_shows_more(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(_: Settings) -> None:
        raise ZeroDivisionError("a bug\nof ours")

    monkeypatch.setattr(Settings, "load", explode)
    result = run("train", "--device", "cpu")
    refused(result, 1, "unexpected ZeroDivisionError: a bug of ours", "--debug")
    code, _, err = run("train", "--device", "cpu", "--debug")
    assert code == 1
    assert "Traceback" in err
    assert "in explode" in err


@pytest.mark.parametrize("name", ["plain", "Zahlen ö 数字", "a b", "new\nline", "quote'\"", "-dash", "x" * 200])
def test_any_output_path_works(name: str, run: Any, tiny: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    code, out, _ = run("train", tiny, "--device", "cpu", "--epochs", 1, "--out", folder)
    assert code == 0
    assert (folder / "model.safetensors").is_file()
    command = next(line for line in out.splitlines() if line.startswith("next: ")).removeprefix("next:     twostroke ")
    words = subprocess.run(["bash", "-c", f"printf '%s\\0' {command}"], capture_output=True, check=True).stdout
    assert words.decode().split("\0")[:3] == ["evaluate", str(folder / "model.safetensors"), tiny]


def test_a_path_too_long_is_a_clear_error(run: Any, tiny: str, tmp_path: Path) -> None:
    refused(run("train", tiny, "--device", "cpu", "--out", tmp_path / ("x" * 300)), 2, "--out", "too long", "--out DIR")


def test_a_missing_extra_is_one_line(run: Any, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    result = run("export", model, tmp_path / "model.onnx")
    refused(result, 2, "ONNX export needs onnx", "pip install 'twostroke[onnx]'")
    assert os.listdir(tmp_path) == []


# --- the record as it grows ------------------------------------------------------------------------------


def test_a_log_of_json_lines(run: Any, tiny: str, tmp_path: Path) -> None:
    words = ["train", tiny, "--device", "cpu", "--epochs", 3, "--batch-size", 16, "--out", tmp_path]
    code, out, err = run(*words, "--log-format", "json")
    assert (code, err) == (0, "")
    *epochs, result = [json.loads(line, parse_constant=pytest.fail) for line in out.splitlines()]
    assert [(one["event"], one["epoch"]) for one in epochs] == [("epoch", 1), ("epoch", 2), ("epoch", 3)]
    assert result.pop("event") == "result"
    assert result == json.loads((tmp_path / "record.json").read_text())
    assert result["history"] == [{key: value for key, value in one.items() if key != "event"} for one in epochs]
    assert json.loads(run(*words, "--log-format", "json", "-q")[1])["event"] == "result"
    assert run(*words, "--log-format", "text")[1].startswith("device:   cpu")
    refused(run(*words, "--log-format", "xml"), 2, "--log-format", "'xml'", "text or json")
    refused(run(*words, "--log-format", "json", "--json"), 2, "--json and --log-format json", "train --help")


def test_json_lines_appear_while_the_run_goes_on(tiny: str, tmp_path: Path) -> None:
    words = ["train", tiny, "--device", "cpu", "--epochs", "1000000", "--log-format", "json", "--out", str(tmp_path)]
    with subprocess.Popen(
        [*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT, text=True
    ) as child:
        assert child.stdout
        assert json.loads(child.stdout.readline())["epoch"] == 1
        child.terminate()
        assert child.communicate()[1].startswith("stopped by SIGTERM after step ")


# --- before a run ----------------------------------------------------------------------------------------


def test_a_dry_run_writes_nothing(run: Any, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrainingRun, "advance", lambda *_: pytest.fail("training began"))
    words = ["train", tiny, "--device", "cpu", "--epochs", 3, "--batch-size", 100, "--val-size", 0.25, "--dry-run"]
    code, out, err = run(*words, "--out", tmp_path / "new" / "folder")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [line.split(":")[0] for line in lines[:4]] == ["device", "data", "network", "settings"]
    assert lines[4] == "steps:    2 an epoch, 6 in all, on 180 samples"
    assert lines[5].startswith("memory: ")
    assert str(tmp_path / "new" / "folder" / "model.safetensors") in lines[6]
    assert lines[-1] == "dry run: nothing was trained, nothing was written"
    assert os.listdir(tmp_path) == []
    (tmp_path / "record.json").write_text("old")
    found = json.loads(run(*words, "--out", tmp_path, "--json")[1], parse_constant=pytest.fail)
    assert (found["steps_per_epoch"], found["steps"], found["training_samples"]) == (2, 6, 180)
    assert found["parameters"] == 784 * 256 + 256 + 256 * 128 + 128 + 128 * 3 + 3
    assert found["replaced"] == [str(tmp_path / "record.json")]
    assert found["settings"]["layers"] == [784, 256, 128, 3]
    assert json.loads(run(*words, "--out", tmp_path, "--log-format", "json")[1]) == found
    assert run(*words, "--out", tmp_path, "-q")[1].count("\n") == 1
    out = run(*words, "--out", tmp_path, "--resume", "--checkpoint-every", 5)[1]
    assert f"no checkpoint in {tmp_path}: starting from the beginning" in out
    assert f", {tmp_path / 'checkpoint.safetensors'}" in out
    assert os.listdir(tmp_path) == ["record.json"]


def test_a_dry_run_finds_what_a_run_would(run: Any, tiny: str, tmp_path: Path) -> None:
    words = ["train", tiny, "--device", "cpu", "--dry-run"]
    (tmp_path / "file").write_text("")
    refused(run(*words, "--out", tmp_path / "file" / "x"), 2, f"--out {tmp_path}/file/x", "is not a folder")
    (tmp_path / "out" / "model.safetensors").mkdir(parents=True)
    refused(run(*words, "--out", tmp_path / "out"), 2, "a folder in the place of model.safetensors")
    refused(run(*words, "--out", tmp_path / ("x" * 300)), 2, "--out", "too long", "--out DIR")
    refused(run(*words, "--val-size", 240), 2, "--val-size", "240", "1..239")
    refused(run(*words, "--layers", "784,5,4"), 2, "--layers", "3 outputs")
    refused(run("train", "/no/such/set", "--device", "cpu", "--dry-run"), 4, "/no/such/set")
    with locked(tmp_path, "--out"):
        refused(run(*words, "--out", tmp_path), 2, "another run writes here")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_dry_run_sees_a_folder_that_is_closed(run: Any, tiny: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    refused(run("train", tiny, "--device", "cpu", "--dry-run", "--out", tmp_path / "x"), 2, "permission denied")
    tmp_path.chmod(0o700)


def test_a_dry_run_of_a_resumed_run_says_where_it_stands(
    run: Any, tiny: str, tmp_path: Path, training: subprocess.Popen[str]
) -> None:
    training.terminate()
    training.communicate()
    words = ["train", tiny, "--device", "cpu", "--epochs", "1000000", "--out", tmp_path, "--resume", "--dry-run"]
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    code, out, _ = run(*words)
    assert code == 0
    assert " of them done, on 240 samples" in out
    assert json.loads(run(*words, "--json")[1])["done_steps"] > 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# --- settings --------------------------------------------------------------------------------------------


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_flag_wins_over_the_file_and_the_file_over_the_preset(tmp_path: Path) -> None:
    file = write(
        tmp_path / "run.toml", 'preset = "nielsen"\nlr = 1\nbatch-size = 7\nlayers = [784, 5, 10]\nthreads = 1'
    )
    settings = resolve({"lr": 2.0, "epochs": None}, file)
    assert (settings.config.lr, settings.config.batch_size, settings.config.epochs) == (2.0, 7, 30)
    assert (settings.preset, settings.layers, settings.threads) == ("nielsen", (784, 5, 10), 1)
    assert settings.network["activation"] == "sigmoid"


def test_a_preset_s_rate_and_weights_go_with_its_optimizer_and_activation() -> None:
    settings = resolve({"optimizer": "adam", "activation": "sigmoid", "loss": "quadratic"})
    assert settings.config.learning_rate == 2e-3
    assert MLP((1, 1), **settings.network).init == "glorot"
    assert MLP((1, 1), **settings.network).output == "sigmoid"
    assert resolve({"optimizer": "adam", "lr": 0.01}).config.learning_rate == 0.01


@pytest.mark.parametrize("value", ["500", "0.25"])
def test_val_size_is_a_number_or_a_fraction(value: str) -> None:
    found = resolve({"val_size": float(value)}).config.val_size
    assert repr(found) == value


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_bytes(b"\xef\xbb\xbflr = 0.25\r\n")
    assert resolve({}, file).config.lr == 0.25


def test_the_home_folder_in_a_file_and_behind_an_equals_sign(
    run: Any, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    data = Path(shutil.copy(tiny, tmp_path))
    write(tmp_path / "run.toml", f'data = "~/{data.name}"\nout = "~/a"\nepochs = 1\ndevice = "cpu"')
    assert run("train", "--config=~/run.toml", "-q")[0] == 0
    assert run("train", f"~/{data.name}", "--device", "cpu", "--epochs", 1, "--out=~/b", "-q")[0] == 0
    assert {path.parent.name for path in tmp_path.glob("*/model.safetensors")} == {"a", "b"}
    assert run("evaluate", "~/b/model.safetensors", data, "--device", "cpu")[0] == 0


def test_layers_as_the_run_prints_them(tmp_path: Path) -> None:
    file = write(tmp_path / "run.toml", 'layers = "784-30-10"')
    assert resolve({"layers": "784-128-10"}).layers == (784, 128, 10)
    assert resolve({}, file).layers == (784, 30, 10)
    assert BenchConfig.parse(layers="6-5-3").layers == (6, 5, 3)


BAD_FILES = {
    "rate = 1": ["rate", "unknown setting", "lr"],
    'lr = "fast"': ["lr", "'fast'", "a number"],
    "epochs = true": ["epochs", "True", "whole number"],
    "epochs = 1.5": ["epochs", "1.5", "whole number"],
    "lr = nan": ["run.toml: lr", "nan", "> 0"],
    "layers = [784, 1.5, 10]": ["run.toml: layers", "1.5", "784,128,10"],
    "batch-size = 0": ["run.toml: batch_size", "found 0", ">= 1"],
    "threads = 0": ["run.toml: threads", "found 0", "auto or 1.."],
    "[lr]\nx = 1": ["lr", "a number"],
    "lr 0.3": ["not a TOML file", "lr = 0.3"],
    "#" * 65_537: ["not a TOML file", "more than 65536 bytes"],
    "lr = " + "[" * 199 + "]" * 199: ["lr", "a number"],
    "lr = " + "[" * 5_000: ["not a TOML file", "more than 200 dots or brackets in a line"],
    "lr = " + "[\n" * 30_000: ["not a TOML file", "recursion"],
    ".".join("a" * 30_000) + " = 1": ["not a TOML file", "more than 200 dots or brackets in a line"],
    "[" + ".".join("a" * 30_000) + "]": ["not a TOML file", "more than 200 dots or brackets in a line"],
    "lr = {" + ".".join("a" * 30_000) + " = 1}": ["not a TOML file", "more than 200 dots or brackets in a line"],
    "a" * 60_000 + " = 1": ["unknown setting", "aaa"],
    "lr = 0x" + "f" * 20_000: ["run.toml: lr", "found 0xfff", "a number"],
    "device = 0x" + "f" * 20_000: ["run.toml: device", "found 0xfff", "text"],
    "epochs = " + "9" * 20_000: ["not a TOML file"],
    "epochs = " + "9" * 4_000: ["run.toml: epochs", "a whole number"],
    "epochs = 9223372036854775808": ["run.toml: epochs", "a whole number"],
    "epochs = '" + "x" * 60_000 + "'": ["epochs", "xxx"],
}


@pytest.mark.parametrize("text", BAD_FILES, ids=lambda text: f"{text[:20]!r}{len(text)}")
def test_a_bad_configuration_names_file_and_key(text: str, run: Any, tmp_path: Path) -> None:
    file = write(tmp_path / "run.toml", text)
    found = run("train", "--device", "cpu", "--config", file)
    refused(found, 2, str(file), *BAD_FILES[text])
    assert len(found[2]) < 1_000 + len(str(file))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["pipe", "/dev/zero", "folder", "not text"])
def test_what_is_no_file_of_text_is_no_configuration(kind: str, run: Any, tmp_path: Path) -> None:
    """A pipe waits for ever, and /dev/zero has no end."""
    file = tmp_path / "run.toml"
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind == "not text":
        file.write_bytes(b"lr = 0.3 # \xff")
    else:
        file.symlink_to(kind)
    words = ["not a TOML file"] if kind == "not text" else ["cannot read the configuration", "--config"]
    refused(run("train", "--config", file), 2, str(file), *words)


def test_settings_that_could_not_be_read_again_are_not_shown(run: Any, tiny: str) -> None:
    layers = ",".join(["784", *"1" * 22_000, "3"])
    refused(run("train", tiny, "--layers", layers, "--show-config"), 2, "could not be read again", "65336")


def test_a_missing_configuration_is_exit_2(run: Any, tmp_path: Path) -> None:
    refused(run("train", "--config", tmp_path / "no.toml"), 2, "no.toml", "--config")


# --- evaluate and predict --------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["evaluate", "predict", "predict --json", "report"])
def test_outputs_that_overflow_are_an_error(run: Any, tiny: str, model: Path, tmp_path: Path, command: str) -> None:
    """Finite weights may give NaN: it was shown as a loss, with exit code 0, or ended in a ValueError."""
    net = MLP([784, 16, 3])
    net.parameters[:] = 3e38
    file = save_model(net, tmp_path / "model.safetensors")
    words: dict[str, list[Any]] = {"evaluate": [tiny], "predict": ["--index", 0, "--data", tiny]}
    if command == "report":
        pytest.importorskip("matplotlib")
        shutil.copy(model.with_name("record.json"), tmp_path)
        code, _, err = run("report", tmp_path, "--device", "cpu")
    else:
        name, *flags = command.split()
        code, _, err = run(name, file, *words[name], *flags)
    assert (code, err.count("\n")) == (5, 1), err
    assert err.startswith("error: the model's outputs overflow: ")
    assert ("tiny" if command == "report" else str(file)) in err
    assert not (tmp_path / "report.html").exists()


def test_evaluate_shows_errors_by_class(run: Any, tiny: str, model: Path) -> None:
    code, out, err = run("evaluate", model, tiny, "--device", "cpu")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[3].split()[:3] == ["class", "samples", "errors"]
    assert lines[4].split()[:3] == ["0", "20", "0"]
    assert lines[-1].startswith("test accuracy 100.0% (0 errors in 60), 95% interval 94.0% to 100.0%, test loss ")
    code, out, _ = run("evaluate", model, tiny, "--device", "cpu", "--threads", 1, "--json")
    found = json.loads(out)
    assert (found["test_accuracy"], found["errors"], found["samples"], found["threads"]) == (1.0, 0, 60, 1)
    assert len(found["classes"]) == 3


def test_a_model_that_does_not_fit_is_exit_5(run: Any, tiny: str, model: Path, tmp_path: Path) -> None:
    refused(run("evaluate", model, "mnist", "--device", "cpu"), 5, str(model), "3 outputs", "10 outputs", "trained on")
    small = save_model(MLP([4, 3]), tmp_path / "small.safetensors")
    refused(run("evaluate", small, tiny, "--device", "cpu"), 5, "4 inputs", "784 inputs")
    refused(run("predict", small, "any.png"), 5, str(small), "4 inputs", "--index")
    refused(run("evaluate", tmp_path / "none", tiny, "--device", "cpu"), 5, "none", "Check the path")
    refused(run("evaluate", model, tiny, "--device", "tpu"), 2, "--device", "tpu")


def test_predict_shows_a_test_sample_and_sorted_bars(run: Any, tiny: str, model: Path) -> None:
    code, out, err = run("predict", model, "--index", 4, "--data", tiny)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert "█" * 28 in lines[6]
    assert lines[14] == "tiny test sample 4: 1 (labelled 1: right)"
    assert lines[15].split()[0] == "1"
    shares = [float(line.split()[1].rstrip("%")) for line in lines[15:]]
    assert shares == sorted(shares, reverse=True)
    found = json.loads(run("predict", model, "--index", 4, "--data", tiny, "--json")[1])["predictions"]
    assert [(one["prediction"], one["label"]) for one in found] == [(1, 1)]
    assert sum(found[0]["probabilities"]) == pytest.approx(1)


def test_predict_reads_images(run: Any, model: Path, tmp_path: Path) -> None:
    paths = [tmp_path / "a.png", tmp_path / "b.jpg"]
    for path in paths:
        page = Image.new("L", (90, 90), 255)
        page.paste(0, (40, 10, 50, 80))
        page.save(path)
    code, out, _ = run("predict", model, *paths, "--json")
    assert code == 0
    assert [one["source"] for one in json.loads(out)["predictions"]] == [str(path) for path in paths]
    paths[1].write_bytes(b"no image")
    refused(run("predict", model, *paths), 4, "b.jpg", "PNG")


def test_predict_answers_for_the_pictures_that_it_can_read(run: Any, model: Path, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.png", "no.png", "b.png", "none.png")]
    for path in paths[::2]:
        page = np.full((60, 60), 255, np.uint8)
        page[10:50, 25:35] = 0
        Image.fromarray(page).save(path)
    paths[1].write_text("no picture")
    code, out, err = run("predict", model, *paths)
    assert code == 4
    assert out.count("a.png") == out.count("b.png") == 1
    lines = err.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["error", "error"]
    assert "cannot read the image" in lines[0]
    assert "none.png" in lines[1]
    code, out, err = run("predict", model, *paths, "--json")
    assert (code, len(json.loads(out)["predictions"]), len(err.splitlines())) == (4, 2, 2)


def test_predict_computes_where_it_is_told(run: Any, tiny: str, model: Path) -> None:
    words = ["predict", model, "--index", 4, "--data", tiny]
    assert run(*words)[1].splitlines()[14].startswith("tiny test sample 4: ")  # no line about the device
    code, out, err = run(*words, "--device", "cpu")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "device:   cpu, 1 thread: cpu was asked for"
    assert json.loads(run(*words, "--json")[1])["device"] == "cpu"
    assert out.splitlines()[1:] == run(*words)[1].splitlines()
    refused(run(*words, "--device", "tpu"), 2, "--device", "'tpu'", "cuda:N")
    refused(run(*words, "--device", "cuda:77"), 3, "GPU")


def test_a_gpu_predicts_what_the_cpu_does(cuda: Backend, run: Any, tiny: str, model: Path) -> None:
    for device in ("auto", "cuda", cuda.device):
        code, out, err = run("predict", model, "--index", 4, "--data", tiny, "--device", device, "--json")
        assert (code, err) == (0, "")
        found, here = json.loads(out), json.loads(run("predict", model, "--index", 4, "--data", tiny, "--json")[1])
        assert (found["device"], here["device"]) == (cuda.device, "cpu")
        there, here = (one["predictions"][0]["probabilities"] for one in (found, here))
        assert there == pytest.approx(here, abs=1e-6)


def test_predict_s_help_says_how_a_picture_is_prepared(run: Any) -> None:
    code, out, _ = run("predict", "--help")
    assert code == 0
    for words in (f"a box of {BOX} x {BOX}", "centre of mass", f"a field of {FIELD} x {FIELD}"):
        assert words in " ".join(out.split())


def test_predict_takes_the_model_of_the_newest_run(
    run: Any, tiny: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    picture = Image.new("L", (90, 90), 255)
    picture.paste(0, (40, 10, 50, 80))
    picture.save("a.PNG")
    refused(run("predict", "a.PNG"), 5, "no model yet", "runs/*/model.safetensors", "twostroke train", "MODEL")
    for age, name in enumerate(["new", "old"]):
        (tmp_path / "runs" / name).mkdir(parents=True)
        target = tmp_path / "runs" / name / "model.safetensors"
        target.write_bytes(model.read_bytes() if name == "new" else b"not a model")
        os.utime(target, (1e9 - age, 1e9 - age))
    code, out, err = run("predict", "a.PNG", "a.PNG")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "model: runs/new/model.safetensors"
    assert out.count("\na.PNG: ") == 2
    found = json.loads(run("predict", "a.PNG", "--json")[1])
    assert (found["model"], len(found["predictions"])) == ("runs/new/model.safetensors", 1)
    assert run("predict", "--index", 4, "--data", tiny)[1].startswith("model: runs/new/model.safetensors\n")


def test_predict_wants_one_kind_of_thing(run: Any, tiny: str, model: Path) -> None:
    refused(run("predict", model), 2, "neither", "predict --help")
    refused(run("predict", model, "a.png", "--index", 1), 2, "both", "predict --help")
    refused(run("predict", model, "a.png", "--data", tiny), 2, "--data", "--index")
    for index in (-1, 60):
        refused(run("predict", model, "--index", index, "--data", tiny), 2, "--index", str(index), "0..59")


def test_a_terminal_without_blocks_gets_ascii(tiny: str, model: Path) -> None:
    done = process("predict", model, "--index", 0, "--data", tiny, env=ENVIRONMENT | {"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0
    assert "#" * 28 in done.stdout


# --- doctor, help, version -------------------------------------------------------------------------------


def test_doctor_tells_what_is_there(run: Any) -> None:
    code, out, err = run("doctor")
    assert (code, err) == (0, "")
    for head in ("twostroke ", "processor: ", "libraries: NumPy ", "products: ", "CuPy: ", "NVIDIA driver: ", "GPU: "):
        assert f"\n{head}" in f"\n{out}"
    assert "chosen device: " in out
    assert "bundled MNIST: intact" in out
    assert " GFLOP/s on " in out
    facts = json.loads(run("doctor", "--json")[1])
    assert facts["gemm_gflops"] > 0
    assert facts["reason"]
    assert facts["gpu_usable"] or facts["remedy"]


def test_alone_it_shows_help_and_version(run: Any) -> None:
    code, out, err = run()
    assert (code, err) == (0, "")
    for word in ("train", "evaluate", "predict", "doctor"):
        assert word in out
    code, out, _ = run("--version")
    assert (code, out.split()[0]) == (0, "twostroke")
    refused(run("trian"), 2, "trian", "train", "twostroke --help")
    refused(run("evaluate"), 2, "MODEL", "evaluate --help")


def test_every_option_is_explained(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = run("train", "--help")
    assert code == 0
    for one in SETTINGS.values():
        assert one.positional or one.flag in out
    for flag in ("--eta", "--config", "--json", "--quiet", "-q", "--debug"):
        assert flag in out


def test_the_help_of_train_tells_what_is_chosen_and_breaks_no_word(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = [line.strip("│ ").split("  ")[-1].strip() for line in run("train", "--help")[1].splitlines()]
    text = " ".join(" ".join(shown).split())
    known = "One of sgd, momentum, nesterov, adam, adamw. Default: momentum."
    assert f"The update of the weights, or your own as MODULE:NAME. {known}" in text
    assert "One of constant, one-cycle, step, cosine. Default: one-cycle." in text
    assert "full: one step an epoch. Default: 192." in text
    assert "N >= 1. Default: 4." in text
    assert "Default: 0.5, the preset's," in text
    assert "Default: 784,160,10 on MNIST." in text


COMMANDS = {one.name or "": one for one in get_command(app_of([])).commands.values()}  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_no_flag_has_a_type(name: str, run: Any) -> None:
    code, out, _ = run(*[name] * bool(name), "--help")
    assert code == 0
    assert "--help" in out
    assert "bool" not in out


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_of_a_command_s_help_can_be_typed(name: str, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    _, found = run(name, "--help")[1].split(" For example:")
    lines = found.split("\n")
    examples = [line.strip() for line in lines if line.strip()]
    assert len(examples) == 2
    for line in examples:
        first, second, *words = shlex.split(line)
        assert (first, second) == ("twostroke", name)
        context = COMMANDS[name].make_context(name, words, obj=words)
        assert not context.args


def test_importing_the_package_does_not_import_the_command_line_s_libraries() -> None:
    program = "import sys, twostroke; print({'typer', 'rich', 'PIL', 'cupy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_training_imports_nothing_that_it_does_not_use() -> None:
    code = "import sys; from twostroke.commands import train; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not {"rich.progress", "matplotlib", "scipy", "concurrent.futures"} & set(done.stdout.split())


def test_a_command_imports_no_other() -> None:
    """The seconds before the first epoch are imports, for a part; without a command, its help names all."""
    code = "import sys; from twostroke import cli; cli.main(['export', '--help']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "twostroke.commands.export" in loaded
    assert not {f"twostroke.commands.{name}" for name in ("train", "bench", "draw", "report")} & loaded
    names = list(get_command(app_of(["--version"])).commands)  # type: ignore[attr-defined]
    assert names == list(ALL_COMMANDS)


# --- completion ------------------------------------------------------------------------------------------

COMPLETIONS = {
    "ev": {"evaluate"},
    "train --opti": {"--optimizer"},
    "train --optimizer a": {"adam", "adamw"},
    "train --preset ": {"fast", "general", "nielsen", "seed"},
    "train --device c": {"cpu", "cuda"},
    "train mn": {"mnist"},
    "verify ": {"grad", "parity", "resume"},
}
COMPLETE = """
source ~/.bashrc
COMP_WORDS=(twostroke "$@") COMP_CWORD=$#
"$(complete -p twostroke | sed 's/.* -F \\([^ ]*\\) .*/\\1/')" twostroke
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a new user's bash who asked for completion, with ``twostroke`` on the path."""
    home = tmp_path_factory.mktemp("home")
    program = home / "bin" / "twostroke"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m twostroke "$@"\n')
    program.chmod(0o755)
    environment = ENVIRONMENT | {"HOME": str(home), "PATH": f"{program.parent}:{os.environ['PATH']}"}
    # The shell is found among the parents: `true` keeps bash from becoming the program itself.
    words = ["bash", "-c", "twostroke --version; twostroke --install-completion && true"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "bash completion installed in " in done.stdout
    return environment


@pytest.mark.parametrize("line", COMPLETIONS)
def test_bash_completes(line: str, home: dict[str, str]) -> None:
    words = ["bash", "-c", COMPLETE, "bash", *line.split(" ")]
    done = subprocess.run(words, env=home, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert set(done.stdout.split()) == COMPLETIONS[line]


def test_nothing_is_installed_unasked(tmp_path: Path) -> None:
    for words in ([], ["--version"], ["--show-completion"]):
        line = f"{' '.join([*COMMAND, *words])} && true"
        environment = ENVIRONMENT | {"HOME": str(tmp_path)}
        done = subprocess.run(["bash", "-c", line], env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout
        assert os.listdir(tmp_path) == []


# --- pipes and signals -----------------------------------------------------------------------------------


@pytest.mark.timeout(60)
def test_a_closed_pipe_ends_quietly(tiny: str, tmp_path: Path) -> None:
    words = ["train", tiny, "--device", "cpu", "--epochs", "100000", "--out", str(tmp_path)]
    child = subprocess.Popen(
        [*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT, text=True
    )
    assert child.stdout
    assert child.stderr
    assert child.stdout.readline().startswith("device: ")
    child.stdout.close()
    assert child.wait() == 141
    assert child.stderr.read() == ""
    child.stderr.close()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("words", [[], ["--help"], ["--version"], ["doctor", "--json"]])
def test_a_pipe_closed_at_once_ends_quietly(words: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*COMMAND, *words], stdout=writing, stderr=subprocess.PIPE, env=ENVIRONMENT, text=True, timeout=60, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_an_error_that_nobody_can_read_has_its_exit_code(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [*COMMAND, "evaluate", str(tmp_path / "none.safetensors")]
    done = subprocess.run(command, stderr=writing, env=ENVIRONMENT, timeout=60, check=False)
    os.close(writing)
    assert done.returncode == twostroke.ModelError.exit_code


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk_behind_stdout_is_an_error() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, "--version"], stdout=full, stderr=subprocess.PIPE, env=ENVIRONMENT, text=True, check=False
        )
    refused((done.returncode, "", done.stderr), 1, "standard output", "No space left")


@pytest.fixture
def training(tiny: str, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A long run in its second epoch or later, over an older model."""
    (tmp_path / "model.safetensors").write_bytes(b"old")
    words = ["train", tiny, "--device", "cpu", "--epochs", "1000000", "--out", str(tmp_path)]
    child = subprocess.Popen(
        [*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT, text=True
    )
    assert child.stdout
    while not (line := child.stdout.readline()).startswith("      2/1000000 "):
        assert line
    yield child
    child.kill()
    child.communicate()


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGXCPU, 152)]
)
def test_a_signal_ends_training_with_nothing_half_written(
    number: signal.Signals, code: int, training: subprocess.Popen[str], tmp_path: Path
) -> None:
    training.send_signal(number)
    _, err = training.communicate()
    assert training.returncode == code
    assert err.startswith(f"stopped by {number.name} after step ")
    assert isinstance(training.args, list)
    words = " ".join(map(str, training.args[3:]))
    assert err.endswith(f" Go on with: {shlex.join(COMMAND)} {words} --resume\n")
    assert sorted(os.listdir(tmp_path)) == ["checkpoint.safetensors", "model.safetensors"]
    assert (tmp_path / "model.safetensors").read_bytes() == b"old"


@pytest.mark.timeout(60)
def test_under_nohup_a_closed_terminal_ends_nothing(tiny: str, tmp_path: Path) -> None:
    words = ["train", tiny, "--device", "cpu", "--epochs", "1000000", "--log-format", "json", "--out", str(tmp_path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(["nohup", *COMMAND, *words], stdin=pipe, stdout=pipe, stderr=pipe, env=ENVIRONMENT) as child:
        assert child.stdout
        child.stdout.readline()
        child.send_signal(signal.SIGHUP)
        for _ in range(50):
            assert child.stdout.readline().startswith(b'{"event": "epoch"')
        child.terminate()
        assert b"stopped by SIGTERM after step " in child.communicate()[1]


def test_the_cpu_s_limit_is_said_again_and_again_and_heard_once() -> None:
    heard: list[int] = []
    with stoppable_after_work(heard.append):
        for _ in range(3):
            signal.raise_signal(signal.SIGXCPU)
        with pytest.raises(Stopped, match="SIGTERM"):
            signal.raise_signal(signal.SIGTERM)
    assert heard == [signal.SIGXCPU]


@pytest.mark.timeout(60)
def test_a_closed_terminal_saves(tiny: str, tmp_path: Path) -> None:
    """The terminal of a run with its bar is gone in the middle of a line."""
    pty = pytest.importorskip("pty")
    words = ["train", tiny, "--device", "cpu", "--epochs", "1000000", "--out", str(tmp_path)]
    child, terminal = pty.fork()
    if not child:
        os.execve(COMMAND[0], [*COMMAND, *words], ENVIRONMENT | {"TERM": "xterm"})
    seen = b""
    while b"  3/1000000" not in seen:
        seen += os.read(terminal, 4096)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 129
    assert os.listdir(tmp_path) == ["checkpoint.safetensors"]
    done = process(*words, "--resume", "--dry-run")
    assert " of them done, on 240 samples" in done.stdout


@pytest.mark.timeout(60)
def test_in_a_terminal_the_accuracies_are_bold(tiny: str, tmp_path: Path) -> None:
    """Weight is no colour: NO_COLOR leaves it."""
    pty = pytest.importorskip("pty")
    words = ["train", tiny, "--device", "cpu", "--epochs", "2", "--out", str(tmp_path)]
    child, terminal = pty.fork()
    if not child:
        os.execve(COMMAND[0], [*COMMAND, *words], ENVIRONMENT | {"TERM": "xterm", "NO_COLOR": "1", "COLUMNS": "100"})
    seen = b""
    with contextlib.suppress(OSError):  # at the end of a terminal Linux has an error, others nothing
        while part := os.read(terminal, 4096):
            seen += part
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    (line,) = (line for line in seen.split(b"\n") if b" 1/2 " in line)
    assert len(re.findall(rb"\x1b\[1m[0-9.]+%\x1b\[0m", line)) == 2  # train and test
    assert not re.search(rb"\x1b\[[0-9;]*3[0-9][;m]", line)
    assert "\x1b" not in process(*words).stdout


# --- how the command was called --------------------------------------------------------------------------


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """The command as pip installs it."""
    path = tmp_path / "a venv" / "bin" / "twostroke"
    path.parent.mkdir(parents=True)
    path.write_text(f"#!{sys.executable}\nimport sys\nfrom twostroke.cli import main\nsys.exit(main())\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("called", "said"),
    [
        ("twostroke", "twostroke"),
        ("'a venv/bin/twostroke'", "'a venv/bin/twostroke'"),
        ("a\\ venv/../a\\ venv/bin/twostroke", "'a venv/../a venv/bin/twostroke'"),
        ("python -m twostroke", "python -m twostroke"),
        ("python -W error -m twostroke", "python -W error -m twostroke"),
    ],
)
def test_what_to_do_next_is_said_as_the_command_was_called(
    called: str, said: str, tiny: str, script: Path, tmp_path: Path
) -> None:
    on_path = [str(Path(sys.executable).parent), os.environ["PATH"]]
    environment = ENVIRONMENT | {"PATH": ":".join([str(script.parent)] * (called == "twostroke") + on_path)}
    environment |= {"DATA": tiny}

    def shell(line: str) -> tuple[int, str, str]:
        words = ["bash", "-c", line]
        done = subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    code, out, err = shell(f"{called} train $DATA --device cpu --epochs 1")
    assert (code, err) == (0, "")
    evaluate, predict = (line[10:] for line in out.splitlines()[-3:-1])
    assert evaluate == f"{said} evaluate runs/tiny/model.safetensors {tiny}"
    assert shell(evaluate)[0] == 0
    assert predict == f"{said} predict runs/tiny/model.safetensors IMAGE.png"
    assert shell(f"{called} trian")[2].endswith(f" See: {said} --help\n")
    assert shell(f"{called} evaluate")[2].endswith(f" See: {said} evaluate --help\n")
    assert shell(f"{called} predict")[2].endswith(f" See: {said} predict --help.\n")


def test_a_command_that_uv_started_is_named_by_its_path(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """uvx and ``uv run`` put their folder before the PATH of the shell that called them, which cannot find it."""
    monkeypatch.setattr(sys, "argv", [str(script)])
    monkeypatch.setattr(sys, "prefix", str(script.parents[1]))
    monkeypatch.setenv("PATH", f"{script.parent}:/usr/bin")
    monkeypatch.delenv("UV", raising=False)
    assert program() == "twostroke"
    monkeypatch.setenv("UV", "/usr/bin/uv")
    assert program() == shlex.quote(str(script))
    monkeypatch.setenv("PATH", f"{script.parent}:{script.parent}")  # in an activated environment
    assert program() == "twostroke"


@pytest.mark.timeout(60)
def test_a_signal_waits_for_the_save(run: Any, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: Any) -> Path:
        signal.raise_signal(signal.SIGTERM)
        return save_model(*arguments)

    monkeypatch.setattr(train_command, "save_model", interrupted)
    monkeypatch.setattr(train_command, "evaluate", after_a_signal(evaluate))
    code, _, err = run("train", tiny, "--device", "cpu", "--epochs", 1, "--out", tmp_path, "-q")
    assert (code, err) == (143, "stopped by SIGTERM\n")  # by the second one
    assert sorted(os.listdir(tmp_path)) == ["model.safetensors", "record.json"]
    load_model(tmp_path / "model.safetensors")


def after_a_signal(work: Callable[..., Any]) -> Callable[..., Any]:
    def signalled(*arguments: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return work(*arguments)

    return signalled


@pytest.mark.parametrize("name", ["evaluate", "save_model", "_write_record", "write_page", "examine"])
def test_a_signal_after_the_last_step_changes_nothing(
    run: Any, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    pytest.importorskip("matplotlib")
    module = report_command if name == "write_page" else train_command
    monkeypatch.setattr(module, name, after_a_signal(getattr(module, name)))
    code, out, err = run("train", tiny, "--device", "cpu", "--epochs", 1, "--out", tmp_path, "-q", "--report")
    assert (code, err) == (0, "")
    assert out.startswith("test accuracy")
    assert sorted(os.listdir(tmp_path)) == ["model.safetensors", "record.json", "report.html"]


IMPORTING = """
import os, signal, sys, threading
sys.argv[0] = {name!r}
sys.path.insert(0, {folder!r})
import twostroke.cli
"""


@pytest.mark.parametrize(("name", "code"), [("-m", -signal.SIGINT), ("/bin/twostroke", -signal.SIGINT), ("x.py", 1)])
def test_sigint_while_the_command_is_imported_shows_no_traceback(tmp_path: Path, name: str, code: int) -> None:
    """Another program that imports the package still gets its KeyboardInterrupt."""
    (tmp_path / "typer.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")
    script = IMPORTING.format(name=name, folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", script], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == code or (code == 1 and done.returncode == -signal.SIGINT)
    assert ("KeyboardInterrupt" in done.stderr) == (code == 1)


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with uninterrupted():
        assert signal.getsignal(signal.SIGTERM) is not before
    main(["--version"])
    assert signal.getsignal(signal.SIGTERM) is before
    assert not issubclass(Stopped, Exception)


def _told(master: int) -> str:
    """What a terminal was told until its other end was closed; the terminal may hand it over in parts."""
    seen = io.BytesIO()
    try:
        while part := os.read(master, 4096):
            seen.write(part)
    except OSError:  # Linux says EIO where the other end is closed
        pass
    os.close(master)
    return seen.getvalue().decode()


def test_the_bar_moves_within_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks how far the run is; no epoch has been told."""
    pty = pytest.importorskip("pty")
    master, slave = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    asked = threading.Event()

    def done() -> float:
        asked.set()
        return 2.5

    with os.fdopen(slave, "w") as screen:
        monkeypatch.setattr(sys, "stdout", screen)
        with live_epochs(4, done):
            assert asked.wait(20)
    assert "2/4" in _told(master)


def test_a_live_bar_only_on_a_terminal(tiny: str, tmp_path: Path, run: Any) -> None:
    pty = pytest.importorskip("pty")
    master, slave = pty.openpty()
    words = ["train", tiny, "--device", "cpu", "--epochs", "2", "--out", str(tmp_path)]
    environment = ENVIRONMENT | {"TERM": "xterm", "COLUMNS": "60"}
    child = subprocess.Popen([*COMMAND, *words], stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    text = _told(master)
    assert child.wait() == 0
    assert "\x1b[" in text
    assert "epochs" in text
    assert "epochs, left" in text
    assert "    2/2  " in text
    assert all(len(line) <= 60 for line in text.split("model: ")[0].split("\r\n") if "\x1b" not in line)
    assert "\x1b[" not in run(*words)[1]
