"""The table of settings, and how a run gets them: flags over a TOML file over a preset, checked before data is read.

From ``SETTINGS`` come the options of ``twostroke train``, the keys of a TOML file, ``--show-config``, the settings in
texts, pages and records, and the command that repeats a run.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from ..data import tables
from ..data.dataset import TASKS, Dataset, check_fit, load_dataset
from ..data.scaling import Scaling
from ..engine.config import KEPT, NETWORK_DEFAULTS, TRAINING_DEFAULTS, TrainConfig
from ..engine.initializers import INITIALIZERS
from ..engine.kernels import ACTIVATIONS, LOSSES
from ..engine.kinds import Activation, Loss, Optimizer
from ..engine.mlp import DTYPES, MLP, network_settings
from ..engine.mlp import SETTINGS as NETWORK_SETTINGS
from ..engine.optimizers import OPTIMIZERS
from ..engine.schedules import SCHEDULES
from ..errors import ConfigError, TwoStrokeError
from ..files.regular_file import open_regular
from .config_file import read_config
from .own_kernel import by_name
from .presets import PRESETS, preset_for
from .start import Start, start_from

MOST_NAMES: Final = 1 << 20  # bytes of a file of names
FAST: Final = PRESETS["fast"]  # where a run starts from unless another preset is named
# Fields of TrainConfig without an option: a run of the command line always has the default.
LIBRARY_ONLY: Final = frozenset({"evaluate_test"})
DATA, NETWORK, TRAINING, RUN = "The data", "The network", "How it is trained", "The run"  # the panels of --help


def as_integer(value: Any) -> Any:
    """Text as an integer where it is one, anything else unchanged."""
    try:
        return int(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _widths(value: str | list[Any]) -> tuple[int, ...]:
    widths = [as_integer(part) for part in (re.split("[,-]", value) if isinstance(value, str) else value)]
    if not all(type(width) is int for width in widths):
        expected, remedy = (
            "whole numbers joined by commas or dashes: inputs, hidden layers, outputs",
            "For MNIST: 784,128,10.",
        )
        raise ConfigError("bad layers", where="layers", found=repr(value), expected=expected, remedy=remedy)
    return tuple(widths)


def class_weights_in(value: Any) -> Any:
    """ "balanced", or weights by class: from the text NAME=W,NAME=W."""
    if not isinstance(value, str) or value == "balanced":
        return value
    found: dict[str, float] = {}
    for part in value.split(","):
        name, sign, weight = (word.strip() for word in part.rpartition("="))
        try:
            if not sign or name in found:
                raise ValueError(part)
            found[name] = float(weight)
        except ValueError as error:
            expected = "balanced, or a weight for each class that is named: NAME=W,NAME=W"
            raise ConfigError("bad class weight", where="class_weight", found=repr(value), expected=expected) from error
    return found


def as_word(value: Any) -> str:
    """The value of a setting as the word behind its flag."""
    if isinstance(value, Mapping):
        return ",".join(f"{name}={weight}" for name, weight in value.items())
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _said(label: str, value: Any) -> str:
    return "" if value is None else f"{label} {as_word(value)}"


def names_in(value: str | Sequence[str] | None) -> list[str]:
    """Names joined by commas, a list of them, or those in a file, one a line."""
    if value is None or not isinstance(value, str):
        return [str(name) for name in value or []]
    if not os.path.isfile(os.path.expanduser(value)):
        return [name.strip() for name in value.split(",")]
    with open_regular(os.path.expanduser(value)) as file:
        text = file.read(MOST_NAMES + 1)
    try:
        if len(text) > MOST_NAMES:
            raise ValueError(f"more than {MOST_NAMES} bytes")
        return [line.strip() for line in text.decode().splitlines() if line.strip()]
    except ValueError as error:
        expected = "text in UTF-8, a name a line"
        raise ConfigError("not a file of names", where=value, found=error, expected=expected) from error


def _path(value: str) -> str:
    """A path, where no shell has put the home folder in the place of its ~."""
    return os.path.expanduser(value)


def _samples(value: float) -> float:
    """A number of samples as an integer, a fraction as it is."""
    return int(value) if value >= 1 and value % 1 == 0 else value


@dataclass(frozen=True)
class Setting:
    """One setting. ``MLP`` or ``TrainConfig`` checks it if it is theirs; the others are checked where they are used."""

    name: str  # in Python and in a TOML file; with dashes, the flag
    panel: str
    metavar: str | None
    help: str
    kinds: tuple[type, ...] = (str,)  # of its value in a TOML file; a flag's value is of the first
    default: Any = None  # the table takes it from TrainConfig or MLP if the setting is theirs
    word: str = ""  # of its flag, where Python does not allow it as a name
    label: str = ""  # on a page; else the name
    record_key: str = ""  # in a record; else the name
    aliases: tuple[str, ...] = ()
    positional: bool = False
    convert: Callable[[Any], Any] = lambda value: value  # from what was given to what is used
    follows: str | None = None  # another setting: where that is not the preset's, the preset's value of this is dropped
    phrase: Callable[[Mapping[str, Any]], str] | None = None  # in the line of settings, made from all; "" is left out

    @property
    def flag(self) -> str:
        """``--name``."""
        return f"--{self.word or self.name.replace('_', '-')}"

    @property
    def of_network(self) -> bool:
        """Whether ``MLP`` takes it."""
        return self.name in NETWORK_SETTINGS

    @property
    def of_training(self) -> bool:
        """Whether ``TrainConfig`` takes it."""
        return self.name in TRAINING_DEFAULTS

    def in_line(self, values: Mapping[str, Any]) -> str:
        """Its part of the line of settings; "" where there is nothing to say."""
        if self.phrase:
            return self.phrase(values)
        return "" if values[self.name] == self.default else f"{self.label} {values[self.name]}"


def _table(*settings: Setting) -> dict[str, Setting]:
    """By name, with the default that ``MLP`` or ``TrainConfig`` gives."""
    table = {}
    for one in settings:
        default = (NETWORK_DEFAULTS | TRAINING_DEFAULTS).get(one.name, one.default)
        label, record_key = one.label or one.name.replace("_", " "), one.record_key or one.name
        value = getattr(FAST.config, one.name, dict(FAST.network).get(one.name, default))
        text = one.help if "efault" in one.help or value in (None, False) else f"{one.help} Default: {value}."
        table[one.name] = replace(one, default=default, label=label, record_key=record_key, help=text)
    return table


_OUTPUTS = "; ".join(f"{loss}: {', '.join(outputs)}" for loss, outputs in LOSSES.items())
_RECIPES = " ".join(f"[bold]{name}[/bold]: {preset.purpose}." for name, preset in PRESETS.items())

SETTINGS: Final = _table(
    Setting("data", DATA, "mnist|PATH", "The bundled MNIST (default), a folder (IDX files, .npy files, pictures by"
            " class), an .npz file or a table (.csv, .tsv, .parquet).",
            default="mnist", positional=True, convert=_path),
    Setting("task", DATA, "|".join(TASKS), "regression: the labels are numbers to be predicted, not classes."),
    Setting("label", DATA, "COLUMN", "Of a table: the column of the class, by name or number; -1 is the last. For"
            " --task regression the number, or several: COLUMN,COLUMN."
            " Default: the one that is named label, class, target or species, or has the only words.",
            (str, int), convert=str),
    Setting("drop", DATA, "COLUMN,...", "Of a table: columns to leave out.", (str, list), convert=names_in),
    Setting("weight", DATA, "COLUMN", "Of a table: the column of the weight of each sample in the loss, >= 0.",
            (str, int), convert=str),
    Setting("test", DATA, "PATH", "Of a table: another one to test on. Default: a fifth of the rows.", convert=_path),
    Setting("classes", DATA, "NAME,...|FILE",
            "The classes' names in the order of their numbers, or a file with one a line.",
            (str, list), convert=names_in),
    Setting("preset", TRAINING, "|".join(PRESETS),
            f"A recipe to start from. {_RECIPES} Default: fast on MNIST, general on other data.", default="fast"),
    Setting("from_model", NETWORK, "MODEL", "Start from a model.safetensors: its network, weights and class names. The"
            " optimiser begins anew, and how to train is yours to set.", word="from", convert=_path),
    Setting("layers", NETWORK, "784,128,10", "Widths, inputs to outputs; the first and last are the data's."
            f" Default: 784,{FAST.hidden[0]},10 on MNIST.",
            (str, list), convert=_widths),
    Setting("activation", NETWORK, "|".join(ACTIVATIONS), "The hidden layers' activation, or your own as MODULE:NAME.",
            convert=by_name("activation", Activation)),
    Setting("loss", NETWORK, "|".join(LOSSES), "What is minimised, as a mean per sample; or your own as MODULE:NAME."
            " Default: cross-entropy, or quadratic for --task regression.",
            convert=by_name("loss", Loss), follows="task"),
    Setting("output", NETWORK, "NAME",
            f"The output's activation, one that the loss allows. {_OUTPUTS}. Default: the loss's first; identity for"
            " --task regression.",
            label="output activation", follows="loss"),
    Setting("init", NETWORK, "|".join(INITIALIZERS),
            "The initial weights. Default: the preset's, or what suits another --activation.",
            label="initial weights", follows="activation"),
    Setting("dtype", NETWORK, "|".join(DTYPES), "The precision of all arithmetic. Default: float32.",
            label="precision"),
    Setting("optimizer", TRAINING, "|".join(OPTIMIZERS), "The update of the weights, or your own as MODULE:NAME.",
            convert=by_name("optimizer", Optimizer), phrase=lambda s: s["optimizer"]),
    Setting("lr", TRAINING, "NUMBER",
            "The highest learning rate, > 0."
            f" Default: {FAST.config.lr}, the preset's, or what suits another --optimizer.",
            (float, int), aliases=("--eta",), record_key="learning_rate", label="highest learning rate",
            follows="optimizer", phrase=lambda s: f"learning rate {s['lr']:g}"),
    Setting("momentum", TRAINING, "NUMBER",
            f"For momentum and nesterov: 0 <= NUMBER < 1. Default: {FAST.config.momentum}, the preset's.", (float, int),
            phrase=lambda s: f"momentum {s['momentum']:g}" if s["optimizer"] in ("momentum", "nesterov") else ""),
    Setting("schedule", TRAINING, "|".join(SCHEDULES), "The learning rate over the run.",
            phrase=lambda s: f"schedule {s['schedule']}"
            + (f" ({s['warmup']:.0%} warm-up)" if s["schedule"] == "one-cycle" else "")),
    Setting("warmup", TRAINING, "FRACTION", "For one-cycle: the fraction of steps with a rising rate. Default: 0.2.",
            (float, int), phrase=lambda s: ""),  # said with the schedule
    Setting("l2", TRAINING, "NUMBER", "Adds NUMBER/2 * sum of W^2 to the loss, >= 0. Default: 0.", (float, int),
            label="L2 penalty", phrase=lambda s: f"l2 {s['l2']:g}"),
    Setting("dropout", TRAINING, "NUMBER",
            "Drops hidden units in each step with probability NUMBER, 0 <= NUMBER < 1. Default: 0.", (float, int)),
    Setting("batch_size", TRAINING, "N|full", "Samples per step, N >= 1; full: one step an epoch.", (str, int),
            convert=as_integer, phrase=lambda s: f"batch size {s['batch_size']}"),
    Setting("epochs", TRAINING, "N", "Passes over the training data, N >= 1.", (int,),
            phrase=lambda s: f"{s['epochs']} epoch{'' if s['epochs'] == 1 else 's'}"),
    Setting("class_weight", TRAINING, "balanced|NAME=W,...",
            "The weight of each class in the loss, by name or number; balanced: all weigh the same. Default: 1.",
            (str, dict), convert=class_weights_in, phrase=lambda s: _said("class weight", s["class_weight"])),
    Setting("val_size", TRAINING, "N", "Samples held out: a number, or a fraction below 1. Default: 0.", (float, int),
            convert=_samples, label="validation samples", phrase=lambda s: f"validation {s['val_size']:g}"),
    Setting("keep", TRAINING, "|".join(KEPT),
            "best: the model is that of the epoch with the lowest validation loss; the last one is saved beside it."
            " Default: last; with --patience the best is kept too.",
            phrase=lambda s: f"keep {s['keep']}" if s["keep"] == "best" else ""),
    Setting("patience", TRAINING, "N",
            "Stop after N epochs without a lower validation loss and keep the best; 0: never. Default: 0.", (int,),
            phrase=lambda s: f"patience {s['patience']}" if s["patience"] else "no early stopping"),
    Setting("seed", RUN, "N", "Fixes weights and order of samples, N >= 0. Default: 0.", (int,),
            phrase=lambda s: ""),  # said with the network
    Setting("device", RUN, "auto|cpu|cuda|cuda:N",
            "auto: a GPU if one works, else the CPU, and it says why. cuda never falls back. Default: auto.",
            default="auto"),
    Setting("threads", RUN, "auto|N", "Threads of the CPU, N >= 1. Default: auto, as many as pay.", (str, int),
            default="auto", convert=as_integer),
    Setting("tf32", RUN, None, "Let a GPU round factors to 10 bits: faster, less exact.", (bool,), default=False),
    Setting("strict", RUN, None, "What would only be noted is an error: data or a result that looks wrong.", (bool,),
            default=False),
    Setting("log_csv", RUN, "FILE", "Write a row for every epoch to a CSV file, as the run goes on.", convert=_path),
    Setting("out", RUN, "DIR", "Where model and record go. Default: runs/NAME-OF-THE-DATA.", convert=_path),
)  # fmt: skip
# What a record holds under the setting's own key. Of data, device and threads it holds what was found and used.
RECORDED: Final = [one for one in SETTINGS.values() if one.of_network or one.of_training or one.name == "preset"]


@dataclass(frozen=True)
class Settings:
    """The settings of one run. ``layers`` is None until the data's widths are known: the preset has only ``hidden``."""

    preset: str
    data: str
    label: str | None
    drop: list[str] | None
    weight: str | None
    test: str | None
    classes: list[str] | None
    device: str
    threads: int | str
    tf32: bool
    strict: bool
    log_csv: str | None
    out: str | None
    from_model: str | None
    start: Start | None
    layers: tuple[int, ...] | None
    hidden: tuple[int, ...]
    network: dict[str, Any]
    config: TrainConfig
    names: dict[str, str]  # of each setting, as its user wrote it
    free: frozenset[str]  # settings that the preset may suit to the data

    def suited_to(self, data: Dataset) -> Settings:
        """The same settings; where the preset says so, more steps for a data set of few samples."""
        preset, config, count = PRESETS[self.preset], self.config, len(data.train_images)
        batch, epochs = config.batch_size, config.epochs
        if preset.least_batches and "batch_size" in self.free and isinstance(batch, int):
            batch = max(1, min(batch, 2 ** int(math.log2(max(1, count // preset.least_batches)))))
        steps = math.ceil(count / batch) if isinstance(batch, int) else 1
        if "epochs" in self.free:
            epochs = max(epochs, math.ceil(preset.least_steps / steps))
        return replace(self, config=config.replace(batch_size=batch, epochs=epochs))

    def make_network(self, data: Dataset) -> MLP:
        """The network for ``data``, on the host. Raises ``ConfigError`` if --layers, or --from, does not fit."""
        if self.start:
            return self.start.network_for(data, self.names["from_model"])
        layers = self.layers or (data.n_features, *self.hidden, data.n_outputs)
        remedy = f"Try {','.join(map(str, (data.n_features, *layers[1:-1], data.n_outputs)))}."
        check_fit(layers, data, where=self.names["layers"], remedy=remedy, exact=True)
        scaling = Scaling.of(data.train_images) if data.columns else None
        net = MLP(layers, scaling=scaling, classes=data.classes, **self.network)
        if net.regression and net.output == "identity":
            net.target_scaling = Scaling.of(data.train_labels)
        return net

    @property
    def task(self) -> str:
        """What the labels are: "classification" or "regression"."""
        return str(self.network["task"])

    def load(self) -> Dataset:
        """The data set, in the form that a model to start from needs."""
        options = self.data_options
        if self.start:
            options = {"classes": self.start.net.classes or None} | options
            if tables.is_table(Path(self.data)):
                options["columns"] = self.start.columns
        return load_dataset(self.data, task=self.task, **options)

    @property
    def data_options(self) -> dict[str, Any]:
        """The options of ``load_dataset`` that were given."""
        options = {name: getattr(self, name) for name in ("label", "drop", "weight", "test", "classes")}
        return {name: value for name, value in options.items() if value}

    def folder(self, data: Dataset) -> Path:
        """The folder that the run writes to."""
        return Path(self.out or Path("runs") / (data.name.strip(".") or "data"))

    def effective(self, data: Dataset, net: MLP) -> dict[str, Any]:
        """Every setting, defaults included, with its value for this data and network."""
        values = vars(self) | settings_of(net, self.config, self.preset)
        return {name: values[name] for name in SETTINGS} | {"out": str(self.folder(data))}


def settings_of(net: MLP, config: TrainConfig, preset: str) -> dict[str, Any]:
    """The values of network and training, as they are used: the learning rate is never None."""
    values = network_settings(net) | asdict(config) | {"layers": list(net.layers), "preset": preset}
    return values | {"lr": config.learning_rate}


def resolve(flags: Mapping[str, Any], file: Path | None = None) -> Settings:
    """Settings from the flags that were given (None: not given), a configuration file and a preset.

    Raises ``ConfigError`` naming the flag, or the file and its key.
    """
    given = read_config(file, {name: one.kinds for name, one in SETTINGS.items()}) if file else {}
    for name in ("activation", "loss", "optimizer"):
        if ":" in str(given.get(name, "")):
            remedy = f"Name your own with {SETTINGS[name].flag}: a file runs no code."
            raise ConfigError(
                "a kernel of your own in a file", where=f"{file}: {name}", found=given[name], remedy=remedy
            )
    names = {name: f"{file}: {name}" if name in given else one.flag for name, one in SETTINGS.items()}
    for name, value in flags.items():
        if value is not None:
            given[name], names[name] = value, SETTINGS[name].flag
    try:
        return _settings(given, names)
    except ConfigError as error:
        raise named(error, names) from error


def _settings(given: Mapping[str, Any], names: dict[str, str]) -> Settings:
    name = given.get("preset") or preset_for(given.get("data", SETTINGS["data"].default))
    if name not in PRESETS:
        raise ConfigError("unknown preset", where="preset", found=repr(name), expected=" or ".join(PRESETS))
    preset, table = PRESETS[name], SETTINGS.values()
    values = {one.name: getattr(preset.config, one.name, one.default) for one in table} | dict(preset.network)
    values["preset"] = name
    changed = {key for key, value in given.items() if value != values[key]}
    dropped = [one.name for one in table if one.follows in changed]
    used = {key: SETTINGS[key].convert(value) for key, value in given.items()}
    values |= dict.fromkeys(dropped) | used
    start = start_from(used["from_model"], used) if "from_model" in used else None
    config = TrainConfig(**{one.name: values[one.name] for one in table if one.of_training})
    values |= network_settings(start.net) | {"seed": values["seed"]} if start else {}
    layers = values.pop("layers")
    network = {key: value for key, value in values.items() if SETTINGS[key].of_network}
    MLP(layers or (1, *preset.hidden, 1), **network)  # refuses what is wrong now, not after the data is read
    run = {key: value for key, value in values.items() if not SETTINGS[key].of_network | SETTINGS[key].of_training}
    free = frozenset({"batch_size", "epochs"} - given.keys())
    made = {"layers": layers, "hidden": preset.hidden, "network": network, "config": config, "start": start}
    return Settings(**run, **made, names=names, free=free)


def named(error: ConfigError, names: Mapping[str, str]) -> TwoStrokeError:
    """The same error, with the argument that the library names replaced by what the user wrote."""
    return error.at(names[str(error.where)]) if error.where in names else error
