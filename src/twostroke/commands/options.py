"""The options of the command line: their names, values and help texts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from ..runs.presets import PRESETS

NETWORK, TRAINING, RUN = "The network", "How it is trained", "The run"


def _option(panel: str, metavar: str | None, text: str, *names: str) -> Any:
    words = _words(metavar)
    return typer.Option(
        *names, metavar=metavar, show_default=False, rich_help_panel=panel, help=text, autocompletion=words
    )


def _argument(metavar: str, text: str) -> Any:
    return typer.Argument(metavar=metavar, show_default=False, help=text, autocompletion=_words(metavar))


def _words(metavar: str | None) -> Callable[[str], list[str]] | None:
    """What a shell may complete: the metavar's small words. Where there is none, it completes names of files."""
    words = [word for word in (metavar or "").split("|") if word.islower()]
    return (lambda incomplete: [word for word in words if word.startswith(incomplete)]) if words else None


_INPUTS = "pixels: uint8 0..255, scaled inside. scaled: numbers as they are. Default: as the training data was."

Text: TypeAlias = str | None
Data = Annotated[Text, _argument("mnist|PATH", "The bundled MNIST (default), a folder of IDX files, or an .npz file.")]
Model = Annotated[Path, _argument("MODEL", "A model.safetensors written by: twostroke train.")]
Target = Annotated[Path, _argument("TARGET", "The file to write: NAME.onnx.")]
Inputs = Annotated[Text, _option(RUN, "pixels|scaled", _INPUTS)]
Classes = Annotated[Text, _option(RUN, "NAME,NAME,...", "What the label is called, for each output. Default: 0,1,...")]
Verification = Annotated[
    str,
    _argument(
        "grad|parity|resume",
        "grad: back-propagation against differences. parity: the device against one CPU thread. resume: byte for byte.",
    ),
]
Images = Annotated[
    list[Path] | None,
    _argument("IMAGE", "PNG or JPEG files of one digit each: any size, colour or grey, dark on light or the reverse."),
]

_RECIPES = " ".join(f"[bold]{name}[/bold]: {preset.purpose}." for name, preset in PRESETS.items())
_LR = "The highest learning rate, > 0. Default: the preset's, or what suits another --optimizer."
_INIT = "The initial weights. Default: the preset's, or what suits another --activation."
_OUTPUT = "The output's activation: softmax or sigmoid; with quadratic also tanh, relu or identity."
_PATIENCE = "Stop after N epochs without a lower validation loss and keep the best; 0: never. Default: 0."
_DEVICE = "auto: a GPU if one works, else the CPU, and it says why. cuda never falls back. Default: auto."
_CONFIG = "Options from a file, one a line: lr = 0.3. Flags win over the file, the file over the preset."

Preset = Annotated[Text, _option(TRAINING, "|".join(PRESETS), f"A recipe to start from. {_RECIPES} Default: fast.")]
Config = Annotated[Path | None, _option(TRAINING, "FILE.toml", _CONFIG)]
ShowConfig = Annotated[
    bool,
    _option(TRAINING, None, "Print all of the run's settings as a --config file, and do nothing.", "--show-config"),
]
Layers = Annotated[
    Text, _option(NETWORK, "784,128,10", "Widths, inputs to outputs; the first and last are the data's.")
]
Activation = Annotated[Text, _option(NETWORK, "relu|sigmoid|tanh|identity", "The hidden layers' activation.")]
Loss = Annotated[Text, _option(NETWORK, "cross-entropy|quadratic|poisson", "What is minimised, as a mean per sample.")]
Output = Annotated[Text, _option(NETWORK, "NAME", _OUTPUT)]
Init = Annotated[Text, _option(NETWORK, "he|glorot|normal|scaled-normal", _INIT)]
Dtype = Annotated[Text, _option(NETWORK, "float32|float64", "The precision of all arithmetic. Default: float32.")]
Optimizer = Annotated[Text, _option(TRAINING, "sgd|momentum|nesterov|adam|adamw", "How the weights move.")]
Lr = Annotated[float | None, _option(TRAINING, "NUMBER", _LR, "--lr", "--eta")]
Momentum = Annotated[
    float | None, _option(TRAINING, "NUMBER", "For momentum and nesterov: 0 <= NUMBER < 1. Default: 0.9.")
]
L2 = Annotated[float | None, _option(TRAINING, "NUMBER", "Adds NUMBER/2 * sum of W^2 to the loss, >= 0. Default: 0.")]
Dropout = Annotated[
    float | None,
    _option(
        TRAINING, "NUMBER", "Leaves hidden units out of each step with probability NUMBER, 0 <= NUMBER < 1. Default: 0."
    ),
]
Schedule = Annotated[Text, _option(TRAINING, "constant|one-cycle|step|cosine", "The learning rate over the run.")]
Warmup = Annotated[
    float | None, _option(TRAINING, "FRACTION", "Of one-cycle: the share of steps with a rising rate. Default: 0.2.")
]
BatchSize = Annotated[Text, _option(TRAINING, "N|full", "Samples per step, N >= 1; full: one step an epoch.")]
Epochs = Annotated[int | None, _option(TRAINING, "N", "Passes over the training data, N >= 1.")]
ValSize = Annotated[
    float | None, _option(TRAINING, "N", "Samples held out: a number, or a fraction below 1. Default: 0.")
]
Patience = Annotated[int | None, _option(TRAINING, "N", _PATIENCE)]
Seed = Annotated[int | None, _option(RUN, "N", "Fixes weights and order of samples, N >= 0. Default: 0.")]
Device = Annotated[Text, _option(RUN, "auto|cpu|cuda|cuda:N", _DEVICE)]
Threads = Annotated[Text, _option(RUN, "auto|N", "BLAS threads of the CPU, N >= 1. Default: auto, one a core.")]
TF32 = Annotated[bool | None, _option(RUN, None, "Let a GPU round factors to 10 bits: faster, less exact.", "--tf32")]
Out = Annotated[Text, _option(RUN, "DIR", "Where model and record go. Default: runs/NAME-OF-THE-DATA.")]
CheckpointEvery = Annotated[
    int | None,
    _option(RUN, "N", "Save a checkpoint in DIR every N steps, N >= 1. Default: only when a signal stops the run."),
]
Resume = Annotated[
    bool, _option(RUN, None, "Go on from the checkpoint in DIR, if there is one, bit for bit.", "--resume")
]
_DISTRIBUTED = "Train together with the other processes of: mpirun -n N twostroke train --distributed."
Distributed = Annotated[bool, _option(RUN, None, _DISTRIBUTED, "--distributed")]
DryRun = Annotated[
    bool, _option(RUN, None, "Check everything, say what would be done, train and write nothing.", "--dry-run")
]
LogFormat = Annotated[Text, _option(RUN, "text|json", "json: one object a line, for each epoch and the result.")]
Report = Annotated[
    bool, _option(RUN, None, "Write DIR/report.html too: the run as one web page. Needs the extra plot.", "--report")
]
DrawModel = Annotated[
    Path | None,
    _argument("MODEL", "A model of images of 28 x 28. Default: runs/mnist/model.safetensors, which train writes."),
]
Port = Annotated[int, _option(RUN, "N", "Where the page is, on 127.0.0.1. 0: any port that is free. Default: 8028.")]
NoBrowser = Annotated[bool, _option(RUN, None, "Do not open the page: only say where it is.", "--no-browser")]
RunFolder = Annotated[Path, _argument("RUN", "The folder that a run wrote to: model.safetensors and record.json.")]
ReportData = Annotated[Text, _option(RUN, "mnist|PATH", "Other data to test on. Default: what the run used.", "--data")]
ReportOut = Annotated[Path | None, _option(RUN, "DIR", "Where report.html and pictures go. Default: RUN.", "--out")]
Png = Annotated[bool, _option(RUN, None, "Write the pictures as PNG files too.", "--png")]
Json = Annotated[bool, _option(RUN, None, "Print one JSON object and nothing else.", "--json")]
Quiet = Annotated[bool, _option(RUN, None, "Print the last line only.", "--quiet", "-q")]
Debug = Annotated[bool, _option(RUN, None, "Show the traceback of an error.", "--debug")]
Index = Annotated[int | None, _option(RUN, "I", "Instead of an image: a sample of the test part of --data, from 0.")]
IndexData = Annotated[Text, _option(RUN, "mnist|PATH", "Where --index looks. Default: mnist.", "--data")]
BenchLayers = Annotated[
    Text, _option(NETWORK, "784,128,10", "Widths, inputs to outputs. Default: 784,128,10.", "--layers")
]
BatchSizes = Annotated[
    Text, _option(TRAINING, "1,16,128,...", "Samples per step. Default: 1,4,16,64,128,256,1024,4096.")
]
Devices = Annotated[
    Text, _option(RUN, "auto|cpu,cuda:N", "What to measure. auto: the CPU and every GPU that works. Default: auto.")
]
Seconds = Annotated[float | None, _option(RUN, "S", "About how long, for each device, S > 0. Default: 10.")]
BenchOut = Annotated[Text, _option(RUN, "DIR", "Where bench.json and bench.png go. Default: runs/bench.", "--out")]
BenchJson = Annotated[bool, _option(RUN, None, "Print one JSON list of records and nothing else.", "--json")]
