"""twostroke: multilayer perceptrons in matrix form, one source of maths on a CUDA GPU (CuPy) and on a CPU (NumPy).

>>> import twostroke as ts
>>> backend = ts.select_backend("auto")
>>> data = ts.load_dataset("mnist")
>>> net = ts.MLP([784, 128, 10], activation="relu", loss="cross-entropy", seed=0)
>>> for record in ts.train(net, data, ts.TrainConfig(epochs=4, batch_size=128), backend=backend):
...     print(record.epoch, record.test_accuracy)  # doctest: +SKIP
"""

import signal
import sys

if any(word == "-m" or word.rpartition("/")[2] == "twostroke" for word in sys.argv[:1]):
    # The command: until it handles signals itself, SIGINT ends it without a traceback from the middle of an import.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from .data.bundled import read_ahead

    read_ahead(sys.argv[1:])

from .backend import Backend, array_module, select_backend, to_host
from .classic import Network
from .data.dataset import Dataset, load_dataset
from .data.scaling import Scaling
from .engine.config import TrainConfig
from .engine.evaluation import evaluate
from .engine.kinds import Activation, Loss, Optimizer
from .engine.mlp import MLP
from .engine.training import EpochRecord, fit, train
from .errors import (
    ConfigError,
    DataError,
    DeviceError,
    DivergenceError,
    ModelError,
    PeerError,
    TwoStrokeError,
    VerificationError,
)
from .models.model_file import load_model, save_model
from .models.onnx import export_onnx
from .version import __version__

__all__ = [
    "MLP",
    "Activation",
    "Backend",
    "ConfigError",
    "DataError",
    "Dataset",
    "DeviceError",
    "DivergenceError",
    "EpochRecord",
    "Loss",
    "ModelError",
    "Network",
    "Optimizer",
    "PeerError",
    "Scaling",
    "TrainConfig",
    "TwoStrokeError",
    "VerificationError",
    "__version__",
    "array_module",
    "evaluate",
    "export_onnx",
    "fit",
    "load_dataset",
    "load_model",
    "save_model",
    "select_backend",
    "to_host",
    "train",
]
