"""The estimators' base class: checks, fitting and attributes, compatible with scikit-learn's perceptrons."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from itertools import chain, pairwise
from numbers import Integral, Real
from typing import Any, Final

import numpy as np

from ..backend import Backend, host_backend, select_backend
from ..engine.kinds import Activation
from ..engine.layers import layer_views
from ..engine.mlp import DTYPES, MLP
from ..engine.workspace import label_dtype
from ..errors import ConfigError, DataError, DivergenceError, missing
from .solvers import (
    DenseRows,
    Epochs,
    FullBatch,
    Samples,
    is_device_array,
    make_solver_optimizer,
    minimise,
    on_host,
    upload_rows,
)

try:
    from sklearn.base import BaseEstimator
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import accuracy_score, r2_score
    from sklearn.model_selection import train_test_split
    from sklearn.utils import check_array, check_random_state
    from sklearn.utils.metaestimators import available_if
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise missing("sklearn", "twostroke.sklearn", error) from error

from .stopping import Stopping  # after the check: it needs scikit-learn, too

ACTIVATIONS: Final[dict[str, Any]] = {"identity": "identity", "logistic": "sigmoid", "tanh": "tanh", "relu": "relu"}
# out_activation_ -> the engine's loss and output
OUTPUTS: Final[dict[str, tuple[Any, Any]]] = {
    "softmax": ("cross-entropy", "softmax"),
    "logistic": ("cross-entropy", "sigmoid"),
    "identity": ("quadratic", "identity"),
    "exp": ("poisson", "exp"),
}
CHOICES: Final = {
    "activation": tuple(ACTIVATIONS),
    "solver": ("lbfgs", "sgd", "adam"),
    "learning_rate": ("constant", "invscaling", "adaptive"),
    "loss": ("squared_error", "poisson"),
    "dtype": ("auto", *DTYPES),
}
SOLVER_SETTINGS: Final = ("solver", "alpha", "momentum", "nesterovs_momentum", "beta_1", "beta_2", "epsilon")
NO_Y: Final = "no_validation"  # scikit-learn's marker for "no y expected"; y=None means that the user forgot it
SWITCHES: Final = ("shuffle", "warm_start", "nesterovs_momentum", "early_stopping")
NUMBERS: Final[dict[str, tuple[Any, str]]] = {
    **dict.fromkeys(("alpha", "power_t", "tol"), (Real, "[0, inf)")),
    **dict.fromkeys(("learning_rate_init", "epsilon"), (Real, "(0, inf)")),
    **dict.fromkeys(("validation_fraction", "beta_1", "beta_2", "dropout"), (Real, "[0, 1)")),
    **dict.fromkeys(("max_iter", "max_fun"), (Integral, "[1, inf)")),
    "n_iter_no_change": (Real, "[1, inf]"),
    "momentum": (Real, "[0, 1]"),
}


class Estimator(Stopping, BaseEstimator):  # type: ignore[misc] # scikit-learn has no types
    """Base class of the classifier and the regressor."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None, X_val: Any = None, y_val: Any = None) -> Any:
        """Train on X (N, D) and y (N,) or (N, K), and return self.

        X is array-like, a sparse matrix, or a CuPy array, which stays on the GPU. ``sample_weight`` is (N,), >= 0.
        With ``early_stopping``, X_val and y_val, if given, are the validation set; else a part of the training data is
        held out. Raises ``ValueError`` for invalid input, ``DeviceError``, and ``DivergenceError`` if weights become
        infinite or NaN.
        """
        return self._fit(X, y, sample_weight, X_val, y_val)

    def _is_stochastic(self) -> bool:
        if self.solver not in ("sgd", "adam"):
            raise AttributeError(f"partial_fit is for the solvers sgd and adam, {self.solver} is not stochastic")
        return True

    @available_if(_is_stochastic)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Train one more epoch, on X (N, D) and y. Returns self."""
        return self._fit(X, y, sample_weight, incremental=True)

    def _fit(
        self, X: Any, y: Any, sample_weight: Any, X_val: Any = None, y_val: Any = None, *, incremental: bool = False
    ) -> Any:
        hidden = self._check_parameters()
        if incremental and self.early_stopping:
            raise ConfigError("partial_fit does not stop early", where="early_stopping", found=True, expected=False)
        if (X_val is None) != (y_val is None) or (X_val is not None and not self.early_stopping):
            expected = "both or neither, and early_stopping=True with them"
            raise ConfigError("a validation set that is not used", where="X_val, y_val", expected=expected)
        backend = select_backend(self.device, self.threads)
        self.device_, self.device_reason_ = backend.device, backend.reason
        with backend.active():
            first = not hasattr(self, "coefs_") or not (self.warm_start or incremental)
            X, y = self._validate(backend, X, y, reset=first)
            y, targets = self._encode(y, first=first, incremental=incremental)
            self.n_outputs_ = targets.shape[1] if targets.ndim == 2 else len(self.classes_)
            layers = (self.n_features_in_, *hidden, self.n_outputs_)
            self._random_state = check_random_state(self.random_state)
            if first:
                self._begin(layers, self._dtypes(X, first=True))
            net = self._network(backend, layers)
            on_device = backend.asarray(targets, net.dtype if targets.ndim == 2 else label_dtype(self.n_outputs_))
            samples = Samples(upload_rows(backend, X, net.dtype), on_device, self._weights(y, sample_weight))
            if X_val is not None:
                X_val, y_val = self._validate(backend, X_val, y_val)
            if self.solver == "lbfgs":
                self._minimise(net, samples)
            else:
                self._descend(net, samples, y, X_val, y_val, incremental=incremental)
            self._keep(net)
        return self

    # --- checks of arguments and data

    def _check_parameters(self) -> tuple[int, ...]:
        """Check the constructor's arguments; returns the hidden widths. Raises ``ConfigError``."""
        given = self.get_params(deep=False)
        for name in given.keys() & CHOICES.keys():
            own = name == "activation" and isinstance(given[name], Activation)
            if not own and not (isinstance(given[name], str) and given[name] in CHOICES[name]):
                _refuse(name, given[name], " or ".join(CHOICES[name]))
        for name in SWITCHES:
            if not isinstance(given[name], bool | np.bool_):
                _refuse(name, given[name], "True or False")
        for name, (kind, interval) in NUMBERS.items():
            if not _is_number(given[name], kind, interval):
                _refuse(name, given[name], f"{'an integer' if kind is Integral else 'a number'} in {interval}")
        if self.batch_size != "auto" and not _is_number(self.batch_size, Integral, "[1, inf)"):
            _refuse("batch_size", self.batch_size, "auto or an integer >= 1")
        sizes = self.hidden_layer_sizes
        hidden: Sequence[Any] = tuple(sizes) if isinstance(sizes, Iterable) else (sizes,)
        if not all(_is_number(width, Integral, "[1, inf)") for width in hidden):
            _refuse("hidden_layer_sizes", sizes, "integers >= 1")
        return tuple(int(width) for width in hidden)

    def _dtypes(self, X: Any = None, *, first: bool = False) -> Any:
        """The dtypes allowed for X; or, for a given X, the name of the network's dtype (see ``dtype``)."""
        if self.dtype != "auto":
            allowed = [self.dtype]
        else:
            allowed = ["float64", "float32"] if first else [self.coefs_[0].dtype.name]
        if X is None:
            return [np.dtype(name) for name in allowed]
        return X.dtype.name if X.dtype.name in allowed else allowed[0]

    def _validate(self, backend: Backend, X: Any, y: Any = NO_Y, *, reset: bool = False) -> tuple[Any, Any]:
        """Check X and y and convert them to arrays on the host; an X on the device stays there."""
        without = isinstance(y, str) and y == NO_Y
        if not is_device_array(X):
            options = {"accept_sparse": "csr", "dtype": self._dtypes(first=reset), "reset": reset}
            if without:
                return validate_data(self, X, **options), None
            numeric = "loss" in self.get_params(deep=False)  # a regressor
            X, y = validate_data(self, X, on_host(y), multi_output=True, y_numeric=numeric, **options)
            return X, y
        backend.check(X, "X")
        if X.ndim != 2 or not X.size:
            raise DataError("not an array of samples", where="X", found=f"shape {X.shape}", expected="(N, D)")
        if reset:
            self.n_features_in_ = X.shape[1]
        elif X.shape[1] != self.n_features_in_:
            raise DataError("wrong number of features", where="X", found=X.shape[1], expected=self.n_features_in_)
        if not bool(backend.to_host(backend.xp.isfinite(X).all())):
            raise DataError("NaN or infinite values", where="X", expected="finite values", remedy="Repair the data.")
        if not without:
            y = check_array(on_host(y), ensure_2d=False, dtype=None, input_name="y")
            if len(y) != len(X):
                raise DataError("X and y differ in number", where="y", found=len(y), expected=len(X))
        return X, y

    def _weights(self, y: Any, sample_weight: Any) -> np.ndarray | None:
        """The sample weights (N,), checked; or None."""
        weights = None
        if isinstance(sample_weight, Real):
            sample_weight = np.full(len(y), sample_weight)
        if sample_weight is not None:
            given = check_array(on_host(sample_weight), ensure_2d=False, dtype=np.float64, input_name="sample_weight")
            if given.shape != (len(y),):
                found, expected = f"shape {given.shape}", f"({len(y)},), one for each sample"
                raise DataError("wrong number of weights", where="sample_weight", found=found, expected=expected)
            if given.min() < 0 or not given.any():
                what = "negative weights" if given.min() < 0 else "all weights are zero"
                raise DataError(what, where="sample_weight", expected="weights >= 0, one at least above 0")
            weights = given
        return weights

    # --- the network

    def _begin(self, layers: tuple[int, ...], dtype: str) -> None:
        """New weights and biases, drawn as scikit-learn does: uniform (Glorot & Bengio 2010). Resets the history."""
        self.n_iter_ = self.t_ = 0
        self.n_layers_ = len(layers)
        self.coefs_, self.intercepts_ = [], []
        for fan_in, fan_out in pairwise(layers):
            limit = np.sqrt((2.0 if self.activation == "logistic" else 6.0) / (fan_in + fan_out))
            self.coefs_.append(self._random_state.uniform(-limit, limit, (fan_in, fan_out)).astype(dtype))
            self.intercepts_.append(self._random_state.uniform(-limit, limit, fan_out).astype(dtype))
        self._optimizer_state: dict[str, Any] = {}
        if self.solver != "lbfgs":
            self._begin_history()

    def to_mlp(self) -> MLP:
        """The fitted network on the CPU, for ``save_model``, ``export_onnx`` and whatever else takes an ``MLP``.

        Its outputs are those of ``predict_proba`` (one column for two classes); a regressor's ``predict`` returns its
        values (N, K).
        """
        check_is_fitted(self, "coefs_")
        return self._network(host_backend())

    def _network(self, backend: Backend, layers: tuple[int, ...] | None = None) -> MLP:
        """A network with the fitted weights on ``backend``."""
        found = (self.coefs_[0].shape[0], *(W.shape[1] for W in self.coefs_))
        if layers not in (None, found):
            raise ConfigError("other layers than before", where="hidden_layer_sizes", found=layers, expected=found)
        flat = np.concatenate([part.ravel() for part in chain(*zip(self.coefs_, self.intercepts_, strict=True))])
        loss, output = OUTPUTS[self.out_activation_]
        dtype: Any = flat.dtype.name if self.dtype == "auto" else self.dtype
        hidden: Any = ACTIVATIONS.get(self.activation, self.activation)
        task: Any = "classification" if loss == "cross-entropy" else "regression"
        return MLP(found, hidden, loss, dtype=dtype, output=output, parameters=flat, task=task, backend=backend)

    def _keep(self, net: MLP) -> None:
        """Download the trained weights into ``coefs_`` and ``intercepts_``. Raises ``DivergenceError``."""
        flat = np.array(net.backend.to_host(net.parameters))
        if not np.isfinite(flat).all():
            remedy = "Scale the inputs, or lower learning_rate_init."
            raise DivergenceError("training diverged", where="coefs_", found="weights not finite", remedy=remedy)
        views = layer_views(flat, net.layers)
        self.coefs_, self.intercepts_ = [layer.W for layer in views], [layer.b.ravel() for layer in views]

    # --- the solvers

    def _minimise(self, net: MLP, samples: Samples) -> None:
        objective = FullBatch(net, samples, float(self.alpha), output_mean=self.out_activation_ == "identity")
        tell = (lambda loss: print(f"loss = {loss:.8f}")) if self.verbose else None
        result = minimise(objective, max_iter=self.max_iter, max_fun=self.max_fun, tol=self.tol, tell=tell)
        if result.status != 0:
            warnings.warn(f"lbfgs failed to converge: {result.message}", ConvergenceWarning, stacklevel=4)
        self.n_iter_, self.loss_ = min(int(result.nit), int(self.max_iter)), float(result.fun)

    def _descend(self, net: MLP, samples: Samples, y: Any, X_val: Any, y_val: Any, *, incremental: bool) -> None:
        """Train with sgd or adam until the loss, or the validation score, stops improving."""
        backend, xp = net.backend, net.backend.xp
        optimizer = make_solver_optimizer(net, **{name: getattr(self, name) for name in SOLVER_SETTINGS})
        steps = 0
        before = self._optimizer_state
        if incremental and before.keys() == {"steps", *optimizer.state}:  # not where another optimiser was set since
            steps = before["steps"]
            for name, array in optimizer.state.items():
                xp.copyto(array, backend.asarray(before[name], net.dtype))
        else:
            self._rate = float(self.learning_rate_init)
        order, weight_val = np.arange(len(samples.targets)), None
        if self.early_stopping and X_val is None:
            order, X_val, y_val, weight_val = self._hold_out(net, samples, order, y)
        most = 200 if self.batch_size == "auto" else int(self.batch_size)
        if self.batch_size != "auto" and most > len(order):
            warnings.warn(f"batch_size {most} is larger than the {len(order)} samples: using these", stacklevel=4)
        epochs = Epochs(
            net, samples, len(order), optimizer, min(most, len(order)), float(self.alpha), steps=steps,
            dropout=float(self.dropout),
            seed=int(self._random_state.randint(2**31 - 1)) if self.dropout else 0,
            output_mean=self.out_activation_ == "identity",
        )  # fmt: skip
        best = net.parameters.copy() if self.early_stopping else None
        self._begin_watching()
        self.n_iter_, done = 0, False
        try:
            while not done:
                if self.shuffle:  # as sklearn.utils.shuffle draws it, without its checks, which cost more than a step
                    turned = np.arange(len(order))
                    self._random_state.shuffle(turned)
                    order = order[turned]
                self._note_loss(epochs.run(order, self._rate), len(order))
                if best is not None and self._note_score(self._judge(net, X_val, y_val, weight_val)):
                    xp.copyto(best, net.parameters)
                done = self._is_done(incremental)
        except KeyboardInterrupt:
            warnings.warn("Training interrupted by user.", stacklevel=4)
        if best is not None:
            xp.copyto(net.parameters, best)
        state = {name: np.array(backend.to_host(array)) for name, array in optimizer.state.items()}
        self._optimizer_state = {"steps": epochs.steps, **state}

    def _hold_out(self, net: MLP, samples: Samples, order: np.ndarray, y: Any) -> tuple[np.ndarray, Any, Any, Any]:
        """Split: indices of the training samples; X, y, weights of the validation set. Stratified for two classes."""
        order, held = train_test_split(
            order,
            random_state=self._random_state,
            test_size=self.validation_fraction,
            stratify=y if hasattr(self, "classes_") and self.n_outputs_ == 1 else None,
        )
        if len(held) < 2:
            found, expected = f"{len(held)} samples", "at least 2"
            raise ConfigError(
                "the validation set is too small", where="validation_fraction", found=found, expected=expected
            )
        indices = net.backend.asarray(held)
        X_val = samples.X[held] if samples.sparse else net.backend.xp.take(samples.X, indices, axis=0)
        return order, X_val, y[held], None if samples.weights is None else samples.weights[held]

    def _judge(self, net: MLP, X: Any, y: Any, sample_weight: Any) -> float:
        """The score on the validation set; NaN if outputs are not finite."""
        found = net.backend.to_host(net.infer(DenseRows(X, net.dtype) if hasattr(X, "toarray") else X))
        if not np.isfinite(found).all():
            return float("nan")
        score = accuracy_score if hasattr(self, "classes_") else r2_score
        return float(score(y, self._decide(found), sample_weight=sample_weight))

    # --- prediction

    def _outputs(self, X: Any) -> np.ndarray:
        """The output layer's activations (N, K) on the host."""
        check_is_fitted(self, "coefs_")
        backend = select_backend(self.device, self.threads)
        with backend.active():
            X, _ = self._validate(backend, X)
            net = self._network(backend)
            X = upload_rows(backend, X, net.dtype) if is_device_array(X) else X
            found = net.infer(DenseRows(X, net.dtype) if hasattr(X, "toarray") else X)
            return np.array(backend.to_host(found))

    def predict(self, X: Any) -> np.ndarray:
        """For each row of X (N, D): the class, the labels (N, K) of 0 and 1, or the values; on the host."""
        found: np.ndarray = self._decide(self._outputs(X))
        return found

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def _is_number(value: Any, kind: Any, interval: str) -> bool:
    """Whether ``value`` has type ``kind`` and lies in an interval such as "(0, 1]"."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, kind):
        return False
    low, high = map(float, interval[1:-1].split(","))
    above = value >= low if interval[0] == "[" else value > low
    return bool(above and (value <= high if interval[-1] == "]" else value < high))


def _refuse(name: str, found: Any, expected: str) -> None:
    raise ConfigError(f"bad {name}", where=name, found=repr(found), expected=expected)
