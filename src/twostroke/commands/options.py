"""The options of the command line: those of the table of settings, and each command's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

import typer
from typer.core import TyperCommand, TyperGroup

from ..ranks.mpi import COMMAND
from ..runs.settings import NETWORK, RUN, SETTINGS, TRAINING, Setting

PRINTED: Final = "What it prints"
WIDEST: Final = 20  # a column of choices that is wider would be broken in the middle of a word

# Two for each command, below its help.
EXAMPLES: Final = {
    "train": ["--layers 784,512,10 --epochs 10", "table.csv --drop id --out runs/mine"],
    "evaluate": ["runs/mnist/model.safetensors", "runs/mine/model.safetensors digits.npz --json"],
    "predict": ["seven.png", "runs/mine/model.safetensors rows.csv"],
    "draw": ["", "letters.safetensors --classes a,b,c --port 0"],
    "report": ["runs/mnist --png --out page", "runs/mnist runs/mine"],
    "export": ["runs/mnist/model.safetensors digits.onnx", "letters.safetensors letters.onnx --classes a,b,c"],
    "bench": ["--seconds 3", "--layers 784,512,512,10 --devices cpu,cuda:0"],
    "verify": ["grad", "parity --device cuda"],
    "doctor": ["", "--json"],
}


def _without_types(flags: list[Any]) -> list[Any]:
    """The options of a command; beside a flag its help shows no <bool>."""
    for one in flags:
        if getattr(one, "is_flag", False):
            one.metavar = ""
    return flags


class Command(TyperCommand):
    """A command with plain flags."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_types(super().get_params(ctx))


class Group(TyperGroup):
    """All commands, with plain flags."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_types(super().get_params(ctx))


def add(app: typer.Typer, command: Callable[..., None]) -> None:
    """Register a command. Its help is its docstring, wrapped anew, and its examples."""
    paragraphs = (inspect.getdoc(command) or "").split("\n\n")
    examples = [f"twostroke {command.__name__} {words}".strip() for words in EXAMPLES[command.__name__]]
    text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    app.command(cls=Command, help=text, epilog="\n\n".join(["For example:", *examples]))(command)


def _option(panel: str, metavar: str | None, text: str, *names: str) -> Any:
    words = _words(metavar)
    if metavar and words and len(metavar) > WIDEST:
        what, default, value = text.partition(" Default:")
        text, metavar = f"{what} One of {metavar.replace('|', ', ')}.{default}{value}", "NAME"
    return typer.Option(
        *names, metavar=metavar, show_default=False, rich_help_panel=panel, help=text, autocompletion=words
    )


def _argument(metavar: str | None, text: str) -> Any:
    return typer.Argument(metavar=metavar, show_default=False, help=text, autocompletion=_words(metavar))


def _words(metavar: str | None) -> Callable[[str], list[str]] | None:
    """What a shell completes: the words in small letters of the metavar. Without any, it completes names of files."""
    words = [word for word in (metavar or "").split("|") if word.islower()]
    return (lambda incomplete: [word for word in words if word.startswith(incomplete)]) if words else None


def _setting(one: Setting) -> Any:
    """A setting's option, or argument."""
    if one.positional:
        return _argument(one.metavar, one.help)
    return _option(one.panel, one.metavar, one.help, one.flag, *one.aliases)


def takes_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give ``command(context, *, ..., **flags)`` an option for every setting in place of ``**flags``.

    Typer reads a command's signature. A flag that is not given is None.
    """
    context, *own, _ = inspect.signature(command, eval_str=True).parameters.values()
    table = [
        inspect.Parameter(
            one.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[one.kinds[0] | None, _setting(one)],
        )
        for one in SETTINGS.values()
    ]
    command.__signature__ = inspect.Signature([context, *table, *own])  # type: ignore[attr-defined]
    return command


_INPUTS = "pixels: uint8 0..255, scaled inside. scaled: numbers as they are. Default: as the training data was."
_CONFIG = "Options from a file, one a line: lr = 0.3. Flags win over the file, the file over the preset."
_DISTRIBUTED = f"Train together with the other processes of: {COMMAND}."
_ONE_BY_ONE = "Where the network is computed, as for evaluate. Default: cpu, the quickest for one picture at a time."
_SUPPOSED = "Without a GPU here: from which batch would one pay, whose step takes US + B / RATE? Default: an H100."
_WIDTHS = "Widths, inputs to outputs. Default: 784,128,10."

Text: TypeAlias = str | None
Strict = Annotated[bool, _setting(SETTINGS["strict"])]
Data = Annotated[Text, _setting(SETTINGS["data"])]
Device = Annotated[Text, _setting(SETTINGS["device"])]
Threads = Annotated[Text, _setting(SETTINGS["threads"])]
_OWN = "Your own activation, loss or optimiser, from a module in this folder or installed. May be repeated."
Kernels = Annotated[list[str] | None, _option(RUN, "MODULE:NAME", _OWN, "--kernel")]
OwnKernel = Annotated[
    Text, _option(RUN, "MODULE:NAME", "With grad: check this activation, loss or optimiser of your own.", "--kernel")
]
Label = Annotated[Text, _setting(SETTINGS["label"])]
Drop = Annotated[Text, _setting(SETTINGS["drop"])]
Test = Annotated[Text, _setting(SETTINGS["test"])]
PredictDevice = Annotated[Text, _option(RUN, SETTINGS["device"].metavar, _ONE_BY_ONE, "--device")]
Model = Annotated[Path, _argument("MODEL", "A model.safetensors written by: twostroke train.")]
OptionalModel = Annotated[
    Path | None,
    _argument("MODEL", "A model.safetensors written by: twostroke train. Default: the newest run's in runs/."),
]
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

Config = Annotated[Path | None, _option(TRAINING, "FILE.toml", _CONFIG)]
ShowConfig = Annotated[
    bool,
    _option(TRAINING, None, "Print all of the run's settings as a --config file, and do nothing.", "--show-config"),
]
CheckpointEvery = Annotated[
    int | None,
    _option(RUN, "N", "Save a checkpoint in DIR every N steps, N >= 1. Default: only when a signal stops the run."),
]
Resume = Annotated[
    bool, _option(RUN, None, "Go on from the checkpoint in DIR, if there is one, bit for bit.", "--resume")
]
Distributed = Annotated[bool, _option(RUN, None, _DISTRIBUTED, "--distributed")]
DryRun = Annotated[
    bool, _option(RUN, None, "Check everything, say what would be done, train and write nothing.", "--dry-run")
]
LogFormat = Annotated[Text, _option(PRINTED, "text|json", "json: one object a line, for each epoch and the result.")]
Report = Annotated[
    bool, _option(RUN, None, "Write DIR/report.html too: the run as one web page. Needs the extra plot.", "--report")
]
DrawModel = Annotated[
    Path | None,
    _argument("MODEL", "A model of images of 28 x 28. Default: that of the newest run in runs/."),
]
Port = Annotated[int, _option(RUN, "N", "Where the page is, on 127.0.0.1. 0: any port that is free. Default: 8028.")]
NoBrowser = Annotated[bool, _option(RUN, None, "Do not open the page: only say where it is.", "--no-browser")]
RunFolders = Annotated[
    list[Path],
    _argument("RUN...", "The folder that a run wrote to: model.safetensors and record.json. Several: compared."),
]
ReportData = Annotated[Text, _option(RUN, "mnist|PATH", "Other data to test on. Default: what the run used.", "--data")]
ReportOut = Annotated[Path | None, _option(RUN, "DIR", "Where pages and pictures go. Default: the first RUN.", "--out")]
Png = Annotated[bool, _option(RUN, None, "Write the pictures as PNG files too.", "--png")]
Card = Annotated[Path | None, _option(RUN, "FILE.png", "Write a picture of 1200 x 630 pixels to share, too.", "--card")]
Json = Annotated[bool, _option(PRINTED, None, "Print one JSON object and nothing else.", "--json")]
Quiet = Annotated[bool, _option(PRINTED, None, "Print the last line only.", "--quiet", "-q")]
Debug = Annotated[bool, _option(PRINTED, None, "Show the traceback of an error.", "--debug")]
Index = Annotated[int | None, _option(RUN, "I", "Instead of an image: a sample of the test part of --data, from 0.")]
IndexData = Annotated[Text, _option(RUN, "mnist|PATH", "Where --index looks. Default: mnist.", "--data")]
BenchLayers = Annotated[Text, _option(NETWORK, SETTINGS["layers"].metavar, _WIDTHS, "--layers")]
BatchSizes = Annotated[
    Text, _option(TRAINING, "1,16,128,...", "Samples per step. Default: 1,4,16,64,128,256,1024,4096.")
]
Devices = Annotated[
    Text, _option(RUN, "auto|cpu,cuda:N", "What to measure. auto: the CPU and every GPU that works. Default: auto.")
]
Seconds = Annotated[float | None, _option(RUN, "S", "About how long, for each device, S > 0. Default: 10.")]
SupposedGpu = Annotated[Text, _option(RUN, "US,RATE", _SUPPOSED, "--gpu")]
BenchOut = Annotated[Text, _option(RUN, "DIR", "Where bench.json and bench.png go. Default: runs/bench.", "--out")]
BenchJson = Annotated[bool, _option(PRINTED, None, "Print one JSON list of records and nothing else.", "--json")]
