"""scikit-learn's ``MLPClassifier`` and ``MLPRegressor`` on this engine: same names, on a CPU or a CUDA GPU.

>>> from twostroke.sklearn import MLPClassifier
>>> MLPClassifier((128,), device="cpu", random_state=0).fit(X, y).score(X, y)  # doctest: +SKIP

In float64 the same ``random_state`` gives the same network as scikit-learn, up to rounding: initial weights, splits and
the order of samples are drawn in the same way. Fitted attributes are NumPy arrays on the host.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..engine.workspace import label_dtype
from ..errors import ConfigError, DataError
from .estimator import Estimator
from .solvers import on_host

# isort: split
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import column_or_1d
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import type_of_target, unique_labels

__all__ = ["MLPClassifier", "MLPRegressor"]


class MLPClassifier(ClassifierMixin, Estimator):  # type: ignore[misc]
    """A multilayer perceptron for classification: binary, multiclass or multilabel.

    The arguments are those of scikit-learn's class, with the same defaults, and these:

    ``device``: "auto" (a GPU if one works, else the CPU), "cpu", "cuda" or "cuda:N"; ``device_`` is the one used,
    ``device_reason_`` says why. ``dtype``: "float32", "float64", or "auto" (float32 if X is float32, else float64).
    ``dropout``: the probability, 0 <= p < 1, that a hidden unit is dropped in a step (sgd and adam). ``threads``: the
    number of threads; "auto" tunes it, at most what joblib or ``OMP_NUM_THREADS`` allow. ``class_weight``: a dictionary
    from class to weight, or "balanced"; multiplies the sample weights. ``activation`` may be an ``Activation`` too.

    The attributes are scikit-learn's: ``classes_``, ``coefs_`` (D, K) and ``intercepts_`` (K,) of each layer,
    ``loss_``, ``loss_curve_``, ``best_loss_``, ``validation_scores_``, ``best_validation_score_``, ``n_iter_``, ``t_``,
    ``n_layers_``, ``n_outputs_``, ``out_activation_``, ``n_features_in_``, ``feature_names_in_``.
    """

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: str = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        class_weight: Any = None,
        dropout: float = 0.0,
        device: str = "auto",
        dtype: str = "auto",
        threads: int | str = "auto",
    ) -> None:
        for name, value in locals().copy().items():
            if name != "self":
                setattr(self, name, value)

    @available_if(Estimator._is_stochastic)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> Any:
        """Train one more epoch, on X (N, D) and y. Returns self.

        The first call needs ``classes``: all classes that y will contain in any call.
        """
        if self.class_weight == "balanced":
            remedy = "Give the weights as a dictionary."
            raise ConfigError("not known before all of y is", where="class_weight", found="balanced", remedy=remedy)
        known = getattr(self, "classes_", None)
        if known is None:
            if classes is None:
                raise ConfigError("the first call of partial_fit needs all classes", where="classes", found=None)
            self._label_binarizer = LabelBinarizer()
            self._label_binarizer.fit(y if type_of_target(y).startswith("multilabel") else classes)
            self.classes_ = self._label_binarizer.classes_
        elif classes is not None and not np.array_equal(known, unique_labels(classes)):
            raise ConfigError("other classes than before", where="classes", found=classes, expected=known)
        return self._fit(X, y, sample_weight, incremental=True)

    def _encode(self, y: Any, *, first: bool, incremental: bool) -> tuple[Any, np.ndarray]:
        """y as used for scoring, and as training targets: labels (N,), or rows (N, K) of 0 and 1."""
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if not incremental and (first or not hasattr(self, "classes_")):
            self._label_binarizer = LabelBinarizer()
            self._label_binarizer.fit(y)
            self.classes_ = self._label_binarizer.classes_
        else:
            found = unique_labels(y)
            unknown = np.setdiff1d(found, self.classes_)
            if len(unknown) or (self.warm_start and not incremental and len(found) != len(self.classes_)):
                raise DataError("other classes than before", where="y", found=found, expected=self.classes_)
        if self._label_binarizer.y_type_ == "multiclass":
            self.out_activation_ = "softmax"
            return y, np.searchsorted(self.classes_, y).astype(label_dtype(len(self.classes_)))
        self.out_activation_ = "logistic"
        return y, self._label_binarizer.transform(y)

    def _weights(self, y: Any, sample_weight: Any) -> np.ndarray | None:
        """``sample_weight`` times the class weights, (N,); None without either."""
        weights = super()._weights(y, sample_weight)
        if self.class_weight is None:
            return weights
        problem = ConfigError(
            "bad weights of classes",
            where="class_weight",
            found=repr(self.class_weight),
            expected='"balanced", or a dictionary of weights >= 0 of classes in y, one above 0',
        )
        try:
            by_class = np.asarray(compute_sample_weight(self.class_weight, y), np.float64)
        except (ValueError, TypeError) as error:
            raise problem from error
        if not (np.isfinite(by_class).all() and by_class.min() >= 0 and by_class.any()):
            raise problem
        return by_class if weights is None else weights * by_class

    def _decide(self, outputs: np.ndarray) -> np.ndarray:
        found: np.ndarray = self._label_binarizer.inverse_transform(
            outputs.ravel() if self.n_outputs_ == 1 else outputs
        )
        return found

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of each class, (N, K) on the host, in the order of ``classes_``, for X (N, D)."""
        found = self._outputs(X)
        return np.hstack([1 - found, found]) if self.n_outputs_ == 1 else found

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """The logarithm of ``predict_proba``."""
        with np.errstate(divide="ignore"):  # a probability may round to 0
            found: np.ndarray = np.log(self.predict_proba(X))
        return found

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The mean accuracy on X (N, D) and y (N,) or (N, K)."""
        return float(super().score(X, on_host(y), sample_weight))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


class MLPRegressor(RegressorMixin, Estimator):  # type: ignore[misc]
    """A multilayer perceptron for regression with one or several outputs.

    ``loss`` is "squared_error", or "poisson" for counts y >= 0. The other arguments and the attributes are those of
    ``MLPClassifier``, without ``class_weight`` and ``classes_``.
    """

    def __init__(
        self,
        loss: str = "squared_error",
        hidden_layer_sizes: Any = (100,),
        activation: str = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        dropout: float = 0.0,
        device: str = "auto",
        dtype: str = "auto",
        threads: int | str = "auto",
    ) -> None:
        for name, value in locals().copy().items():
            if name != "self":
                setattr(self, name, value)

    def _encode(self, y: Any, *, first: bool, incremental: bool) -> tuple[Any, np.ndarray]:
        """y as used for scoring, and as training targets: rows (N, K)."""
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        self.out_activation_ = "exp" if self.loss == "poisson" else "identity"
        rows = y.reshape(len(y), -1)
        if self.loss == "poisson" and rows.min() < 0:
            raise DataError("negative values", where="y", found=rows.min(), expected="y >= 0 for the Poisson loss")
        return y, rows

    def _decide(self, outputs: np.ndarray) -> np.ndarray:
        return outputs.ravel() if self.n_outputs_ == 1 else outputs

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The coefficient of determination R^2 on X (N, D) and y (N,) or (N, K)."""
        return float(super().score(X, on_host(y), sample_weight))
