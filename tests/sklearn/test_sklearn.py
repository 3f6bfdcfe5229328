"""The estimators: scikit-learn's own checks, its networks weight by weight, and a device that nothing leaves."""

from __future__ import annotations

import importlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install 'twostroke[sklearn]'")

import joblib
from scipy import sparse
from sklearn import datasets
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.neural_network import MLPClassifier as TheirClassifier
from sklearn.neural_network import MLPRegressor as TheirRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from tests.support.strict_device import StrictBackend, traffic
from tests.test_floors import run_python
from twostroke import ConfigError, DataError, DivergenceError, TwoStrokeError, load_model, save_model
from twostroke.sklearn import MLPClassifier, MLPRegressor, estimator
from twostroke.sklearn.solvers import Epochs

HERE: dict[str, Any] = {"device": "cpu", "threads": 1}
quiet = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
pytestmark = quiet


def scaled(X: np.ndarray) -> np.ndarray:
    return np.asarray(StandardScaler().fit_transform(X))


DIGITS = datasets.load_digits(return_X_y=True)
DIGITS = (DIGITS[0][:600] / 16, DIGITS[1][:600])
CANCER = (scaled(datasets.load_breast_cancer().data), datasets.load_breast_cancer().target)
DIABETES = (scaled(datasets.load_diabetes().data), datasets.load_diabetes().target)
TWO_VALUES = (DIABETES[0], np.stack([DIABETES[1], -DIABETES[1]], axis=1) / 100)
LABELS = datasets.make_multilabel_classification(n_samples=200, n_classes=4, random_state=0)


@parametrize_with_checks([MLPClassifier(max_iter=100, **HERE), MLPRegressor(max_iter=100, **HERE)])  # type: ignore[untyped-decorator]
def test_scikit_learns_own_checks(estimator: Any, check: Any) -> None:
    """All of them; none is expected to fail."""
    check(estimator)


# --- the same network as scikit-learn's, weight by weight ---------------------------------------------------------

CASES: dict[str, tuple[type, type, Any, dict[str, Any]]] = {
    "adam": (MLPClassifier, TheirClassifier, DIGITS, {"max_iter": 15}),
    "nesterov": (MLPClassifier, TheirClassifier, DIGITS, {"solver": "sgd", "max_iter": 10, "learning_rate_init": 0.1}),
    "momentum, invscaling": (
        MLPClassifier, TheirClassifier, DIGITS,
        {"solver": "sgd", "nesterovs_momentum": False, "learning_rate": "invscaling", "learning_rate_init": 0.5,
         "max_iter": 8},
    ),
    "sgd, adaptive": (
        MLPClassifier, TheirClassifier, DIGITS,
        {"solver": "sgd", "momentum": 0, "learning_rate": "adaptive", "learning_rate_init": 0.2, "tol": 0.02,
         "n_iter_no_change": 2, "max_iter": 60},
    ),
    "lbfgs": (MLPClassifier, TheirClassifier, DIGITS, {"solver": "lbfgs", "max_iter": 8}),
    "stops by itself": (MLPClassifier, TheirClassifier, DIGITS, {"tol": 0.05, "n_iter_no_change": 2}),
    "early stopping": (MLPClassifier, TheirClassifier, CANCER, {"early_stopping": True}),
    "early stopping, ten classes": (
        MLPClassifier, TheirClassifier, DIGITS, {"early_stopping": True, "max_iter": 15}),
    "not shuffled, no decay": (MLPClassifier, TheirClassifier, DIGITS, {"shuffle": False, "alpha": 0.0, "max_iter": 5}),
    "logistic": (
        MLPClassifier, TheirClassifier, DIGITS,
        {"activation": "logistic", "hidden_layer_sizes": (20, 10), "max_iter": 10},
    ),
    "no hidden layer": (
        MLPClassifier, TheirClassifier, DIGITS, {"hidden_layer_sizes": (), "batch_size": 50, "max_iter": 5}),
    "two classes": (MLPClassifier, TheirClassifier, CANCER, {"activation": "tanh", "max_iter": 20}),
    "multilabel": (MLPClassifier, TheirClassifier, LABELS, {"max_iter": 20, "alpha": 1.0}),
    "regression": (MLPRegressor, TheirRegressor, DIABETES, {"max_iter": 20}),
    "several values": (MLPRegressor, TheirRegressor, TWO_VALUES, {"max_iter": 20, "beta_1": 0.8, "epsilon": 1e-3}),
    "several values, lbfgs": (MLPRegressor, TheirRegressor, TWO_VALUES, {"solver": "lbfgs", "max_iter": 10}),
    "poisson": (MLPRegressor, TheirRegressor, DIABETES, {"loss": "poisson", "max_iter": 20}),
    "regression, early stopping": (
        MLPRegressor, TheirRegressor, DIABETES, {"early_stopping": True, "learning_rate_init": 0.1}),
}  # fmt: skip


def assert_same(ours: Any, theirs: Any, limit: float = 1e-9) -> None:
    """Every weight and every other attribute of a fitted pair."""
    for found, expected in zip(ours.coefs_ + ours.intercepts_, theirs.coefs_ + theirs.intercepts_, strict=True):
        assert found.shape == expected.shape
        assert np.linalg.norm(found - expected) <= limit * np.linalg.norm(expected)
    for name in ("n_iter_", "t_", "n_layers_", "n_outputs_", "n_features_in_", "out_activation_"):
        assert getattr(ours, name) == getattr(theirs, name), name
    for name in ("loss_", "loss_curve_", "best_loss_", "validation_scores_", "best_validation_score_"):
        assert hasattr(ours, name) == hasattr(theirs, name), name
        expected = getattr(theirs, name, None)
        if expected is not None:
            assert_allclose(getattr(ours, name), expected, rtol=max(limit, 1e-7) * 10)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_the_network_is_scikit_learns(case: str, weighted: bool) -> None:
    ours, theirs, (X, y), settings = CASES[case]
    weights = np.random.default_rng(0).integers(1, 4, len(X)).astype(float) if weighted else None
    mine = ours(random_state=3, **settings, **HERE).fit(X, y, weights)
    reference = theirs(random_state=3, **settings).fit(X, y, weights)
    assert_same(mine, reference)
    assert_allclose(mine.predict(X), reference.predict(X), rtol=1e-8)
    assert abs(mine.score(X, y, weights) - reference.score(X, y, weights)) < 1e-9
    if hasattr(mine, "classes_"):
        assert np.array_equal(mine.classes_, reference.classes_)
        assert_allclose(mine.predict_proba(X), reference.predict_proba(X), rtol=1e-7, atol=1e-12)
        assert_allclose(mine.predict_log_proba(X), reference.predict_log_proba(X), rtol=1e-6, atol=1e-9)


def test_a_wrong_update_would_be_seen() -> None:
    """Ten epochs with another epsilon, everything else equal."""
    X, y = DIGITS
    mine = MLPClassifier(random_state=3, max_iter=10, epsilon=1e-6, **HERE).fit(X, y)
    with pytest.raises(AssertionError):
        assert_same(mine, TheirClassifier(random_state=3, max_iter=10).fit(X, y))


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_partial_fit_and_warm_start_go_on_as_scikit_learn_does(solver: str) -> None:
    X, y = DIGITS
    mine, theirs = (
        kind(random_state=5, solver=solver, learning_rate_init=0.01, max_iter=4, **more)
        for kind, more in ((MLPClassifier, HERE), (TheirClassifier, {}))
    )
    for estimator_ in (mine, theirs):
        for start in (0, 200, 400, 0):
            estimator_.partial_fit(X[start : start + 200], y[start : start + 200], classes=np.arange(10))
    assert_same(mine, theirs)
    for estimator_ in (mine, theirs):
        estimator_.set_params(warm_start=True).fit(X, y)
    assert_same(mine, theirs)


def test_partial_fit_goes_on_after_a_pickle() -> None:
    """The optimiser's state is part of what is fitted."""
    X, y = CANCER
    straight = MLPClassifier(random_state=0, **HERE)
    for _ in range(4):
        straight.partial_fit(X, y, classes=[0, 1])
    stopped = MLPClassifier(random_state=0, **HERE).partial_fit(X, y, classes=[0, 1]).partial_fit(X, y)
    stopped = pickled(stopped)
    stopped.partial_fit(X, y).partial_fit(X, y)
    for a, b in zip(straight.coefs_, stopped.coefs_, strict=True):
        assert np.array_equal(a, b)


def pickled(model: Any) -> Any:
    file = io.BytesIO()
    joblib.dump(model, file)
    file.seek(0)
    return joblib.load(file)


# --- where scikit-learn's tools use it -----------------------------------------------------------------------------


def test_pipeline_grid_search_cross_validation_clone_and_pickle() -> None:
    X, y = datasets.load_wine(return_X_y=True)
    settings: dict[str, Any] = {
        "hidden_layer_sizes": (20,),
        "max_iter": 60,
        "learning_rate_init": 0.02,
        "random_state": 0,
    }
    pipe, theirs = (
        make_pipeline(StandardScaler(), model)
        for model in (MLPClassifier(**settings, **HERE), TheirClassifier(**settings))
    )
    scores = cross_val_score(pipe, X, y, cv=3)
    assert scores.mean() > 0.9
    assert_allclose(scores, cross_val_score(theirs, X, y, cv=3))
    grid = GridSearchCV(pipe, {"mlpclassifier__alpha": [1e-4, 1.0], "mlpclassifier__dropout": [0.0, 0.2]}, cv=2)
    grid.fit(X, y)
    assert grid.best_score_ > 0.9
    best = grid.best_estimator_
    again = pickled(best)
    assert np.array_equal(again.predict_proba(X), best.predict_proba(X))
    copy = clone(best)
    with pytest.raises(NotFittedError):
        copy.predict(X)
    assert np.array_equal(copy.fit(X, y).predict_proba(X), best.predict_proba(X))


def test_in_worker_processes() -> None:
    X, y = CANCER
    model = MLPClassifier((5,), max_iter=3, random_state=0, **HERE)
    assert np.array_equal(cross_val_score(model, X, y, cv=2, n_jobs=2), cross_val_score(model, X, y, cv=2))


@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array])
def test_sparse_rows_give_the_same_network(form: Any) -> None:
    X, y = DIGITS
    for settings in ({"max_iter": 3}, {"max_iter": 3, "early_stopping": True}, {"solver": "lbfgs", "max_iter": 3}):
        dense, thin = (MLPClassifier(random_state=1, **settings, **HERE).fit(data, y) for data in (X, form(X)))
        assert_same(thin, dense, 1e-12)
        assert_allclose(thin.predict_proba(form(X)), dense.predict_proba(X), rtol=1e-12)


def test_lbfgs_in_several_passes_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = DIGITS
    weights = np.random.default_rng(1).uniform(0, 2, len(X))
    for given in (None, weights):
        whole = MLPClassifier(solver="lbfgs", max_iter=4, random_state=1, **HERE).fit(X, y, given)
        with monkeypatch.context() as patch:
            patch.setattr("twostroke.sklearn.solvers.FULL_BATCH_ROWS", 250)
            parts = MLPClassifier(solver="lbfgs", max_iter=4, random_state=1, **HERE).fit(X, y, given)
        assert_same(parts, whole)


# --- what scikit-learn's own class has not ------------------------------------------------------------------------


def test_class_weights_are_sample_weights() -> None:
    X, y = CANCER
    by_class = MLPClassifier(class_weight={0: 3.0, 1: 0.5}, random_state=0, max_iter=10, **HERE).fit(X, y)
    by_sample = MLPClassifier(random_state=0, max_iter=10, **HERE).fit(X, y, np.where(y == 0, 3.0, 0.5))
    assert_same(by_class, by_sample, 1e-15)
    balanced = MLPClassifier(class_weight="balanced", random_state=0, max_iter=10, **HERE).fit(X, y)
    shares = len(y) / (2 * np.bincount(y))
    assert_same(balanced, MLPClassifier(random_state=0, max_iter=10, **HERE).fit(X, y, shares[y]), 1e-14)
    both = MLPClassifier(class_weight={0: 2.0}, random_state=0, max_iter=10, **HERE).fit(X, y, np.full(len(y), 1.5))
    assert_same(both, MLPClassifier(random_state=0, max_iter=10, **HERE).fit(X, y, np.where(y == 0, 3.0, 1.5)), 1e-15)


def test_a_weight_of_zero_leaves_a_sample_out() -> None:
    """One batch: the same as without these samples."""
    X, y = CANCER
    kept = np.arange(len(y)) % 3 != 0
    settings: dict[str, Any] = {"batch_size": len(y), "max_iter": 10, "shuffle": False, "random_state": 0, **HERE}
    zero = MLPClassifier(**settings).fit(X, y, kept.astype(float))
    settings["batch_size"] = int(kept.sum())
    assert_same_weights(zero, MLPClassifier(**settings).fit(X[kept], y[kept]))


def assert_same_weights(a: Any, b: Any, limit: float = 1e-10) -> None:
    for found, expected in zip(a.coefs_ + a.intercepts_, b.coefs_ + b.intercepts_, strict=True):
        assert_allclose(found, expected, rtol=limit, atol=limit)


def test_a_batch_of_weight_zero_teaches_nothing() -> None:
    X, y = CANCER
    weights = (np.arange(len(y)) >= 200).astype(float)  # the first batch of 200 weighs nothing
    model = MLPClassifier(random_state=0, max_iter=5, shuffle=False, **HERE).fit(X, y, weights)
    assert np.isfinite(model.loss_curve_).all()
    rest = MLPClassifier(random_state=0, max_iter=5, shuffle=False, **HERE).fit(X[200:], y[200:])
    assert_same_weights(model, rest)


def test_own_validation_set() -> None:
    """The one that is split off, given by hand: the same scores, the same network."""
    X, y = CANCER
    split: dict[str, Any] = {"early_stopping": True, "max_iter": 30, "shuffle": False, **HERE}
    theirs = MLPClassifier(random_state=4, **split).fit(X, y)
    state = np.random.RandomState(4)
    for W, b in zip(theirs.coefs_, theirs.intercepts_, strict=True):
        state.uniform(size=W.size), state.uniform(size=b.size)
    kept, held = train_test_split(np.arange(len(y)), random_state=state, test_size=0.1, stratify=y)
    given = MLPClassifier(random_state=4, **split).fit(X[kept], y[kept], X_val=X[held], y_val=y[held])
    assert given.validation_scores_ == theirs.validation_scores_
    assert_same(given, theirs, 1e-15)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_dropout(solver: str) -> None:
    X, y = DIGITS
    rate = {"adam": 0.01, "sgd": 0.2}[solver]
    settings: dict[str, Any] = {"solver": solver, "learning_rate_init": rate, "max_iter": 40, "random_state": 2, **HERE}
    without, half, again = (MLPClassifier(dropout=p, **settings).fit(X, y) for p in (0.0, 0.5, 0.5))
    assert half.loss_ > without.loss_  # of a network that is cut up
    assert half.score(X, y) > 0.95  # of the whole one
    for a, b, c in zip(half.coefs_, again.coefs_, without.coefs_, strict=True):
        assert np.array_equal(a, b)
        assert not np.allclose(a, c)


def test_float32_follows_x_or_the_argument() -> None:
    X, y = DIGITS
    for data, dtype, expected in (
        (X, "auto", "float64"), (X.astype("float32"), "auto", "float32"), (X, "float32", "float32"),
        (X.astype("float32"), "float64", "float64"), ((16 * X).astype("uint8"), "auto", "float64"),
    ):  # fmt: skip
        model = MLPClassifier(dtype=dtype, max_iter=3, random_state=0, **HERE).fit(data, y)
        assert {part.dtype.name for part in model.coefs_ + model.intercepts_} == {expected}
        assert model.predict_proba(data).dtype.name == expected
        assert model.predict_proba(X if data.dtype != "uint8" else data).shape == (len(y), 10)


def test_small_integers_are_not_taken_for_pixels() -> None:
    """uint8 means 0..255 here, as everywhere in scikit-learn; the engine's own scaling is not applied."""
    X, y = (16 * DIGITS[0]).astype("uint8"), DIGITS[1]
    bytes_, floats = (MLPClassifier(max_iter=3, random_state=0, **HERE).fit(data, y) for data in (X, X.astype(float)))
    assert_same(bytes_, floats, 1e-15)


# --- the device ----------------------------------------------------------------------------------------------------


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> StrictBackend:
    backend = StrictBackend()
    monkeypatch.setattr(estimator, "select_backend", lambda device, threads: backend)
    return backend


SETTINGS: dict[str, dict[str, Any]] = {
    "adam": {}, "dropout": {"dropout": 0.3}, "sgd": {"solver": "sgd"}, "early": {"early_stopping": True},
    "lbfgs": {"solver": "lbfgs"}, "no decay": {"alpha": 0.0},
}  # fmt: skip


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("case", SETTINGS)
def test_device_arrays_stay_on_the_device(strict: StrictBackend, case: str, weighted: bool) -> None:
    """X is an array of a device that refuses every implicit copy; the network is the CPU's."""
    X, y = DIGITS
    weights = np.random.default_rng(0).uniform(0, 2, len(y)) if weighted else None
    settings: dict[str, Any] = {"max_iter": 3, "random_state": 0, **SETTINGS[case]}
    there = strict.asarray(X)
    model = MLPClassifier(**settings).fit(there, strict.asarray(y), weights)
    assert (model.device_, model.device_reason_) == ("strict:0", "a test asked for it")
    found, score = model.predict_proba(there), model.score(there, strict.asarray(y))
    host = MLPClassifier(**settings, **HERE)
    with pytest.MonkeyPatch.context() as patch:
        patch.undo()
        patch.setattr(estimator, "select_backend", importlib.import_module("twostroke.backend").select_backend)
        host.fit(X, y, weights)
        assert_same(model, host, 1e-10)
        assert_allclose(found, host.predict_proba(X), rtol=1e-8, atol=1e-12)
        assert score == host.score(X, y)


def test_what_crosses_does_not_grow_with_the_samples_width_or_the_steps(strict: StrictBackend) -> None:
    """Uploads and downloads of a fit on a device array: as many for batches of 20 as for one batch."""
    X, y = strict.asarray(DIGITS[0]), DIGITS[1]
    counts = []
    for batch_size in (20, 600):
        before = traffic.counts()
        MLPClassifier(max_iter=4, batch_size=batch_size, dropout=0.2, random_state=0).fit(X, y)
        counts.append([after - was for after, was in zip(traffic.counts()[:2], before[:2], strict=True)])
    assert counts[0] == counts[1]
    assert sum(counts[0]) < 40


def test_regression_on_the_device(strict: StrictBackend) -> None:
    X, y = TWO_VALUES
    model = MLPRegressor(max_iter=3, random_state=0).fit(strict.asarray(X.astype("float32")), strict.asarray(y))
    assert model.coefs_[0].dtype == np.float32
    assert model.predict(strict.asarray(X)).shape == y.shape  # float64 on the device becomes the network's float32


def test_device_arrays_are_checked(strict: StrictBackend) -> None:
    X, y = DIGITS
    bad = X.copy()
    bad[3, 4] = np.nan
    with pytest.raises(DataError, match=r"NaN or infinite values: X"):
        MLPClassifier().fit(strict.asarray(bad), y)
    with pytest.raises(DataError, match="X and y differ in number: y: found 599, expected 600"):
        MLPClassifier().fit(strict.asarray(X), y[1:])
    with pytest.raises(DataError, match=r"not an array of samples: X: found shape \(600,\)"):
        MLPClassifier().fit(strict.asarray(X[:, 0]), y)
    model = MLPClassifier(max_iter=1, random_state=0).fit(strict.asarray(X), y)
    with pytest.raises(DataError, match="wrong number of features: X: found 63, expected 64"):
        model.predict(strict.asarray(X[:, 1:]))


def test_an_array_of_another_device_is_refused_by_name() -> None:
    there = StrictBackend().asarray(DIGITS[0])
    with pytest.raises(
        DataError, match=r"array of the wrong device: X: found strict_xp.StrictArray, expected an array"
    ):
        MLPClassifier(**HERE).fit(there, DIGITS[1])


def test_a_gpu_gives_the_cpus_network(cuda: Any) -> None:
    import cupy

    X, y = DIGITS
    for case in SETTINGS.values():
        settings: dict[str, Any] = {"max_iter": 5, "random_state": 0, **case}
        on_gpu = MLPClassifier(**settings, device="cuda").fit(cupy.asarray(X), cupy.asarray(y))
        on_cpu = MLPClassifier(**settings, **HERE).fit(X, y)
        assert on_gpu.device_ == cuda.device
        assert_same(on_gpu, on_cpu, 1e-8)
        assert_allclose(on_gpu.predict_proba(cupy.asarray(X)), on_cpu.predict_proba(X), rtol=1e-6, atol=1e-9)


# --- bad input ---------------------------------------------------------------------------------------------------

BAD: list[tuple[dict[str, Any], str]] = [
    ({"activation": "sigmoid"}, "activation: found 'sigmoid', expected identity or logistic or tanh or relu"),
    ({"activation": ["relu"]}, "activation"),
    ({"solver": "rmsprop"}, "solver"),
    ({"alpha": -1}, r"bad alpha: alpha: found -1, expected a number in \[0, inf\)"),
    ({"alpha": float("nan")}, "alpha"),
    ({"alpha": True}, "alpha"),
    ({"alpha": np.array([1.0, 2.0])}, "alpha"),
    ({"batch_size": 0}, "batch_size: found 0, expected auto or an integer >= 1"),
    ({"batch_size": "full"}, "batch_size"),
    ({"learning_rate": "cosine"}, "learning_rate"),
    ({"learning_rate_init": 0}, r"learning_rate_init: found 0, expected a number in \(0, inf\)"),
    ({"max_iter": 1.5}, r"max_iter: found 1.5, expected an integer in \[1, inf\)"),
    ({"hidden_layer_sizes": (10, 0)}, "hidden_layer_sizes"),
    ({"hidden_layer_sizes": "100"}, "hidden_layer_sizes"),
    ({"momentum": 1.1}, "momentum"),
    ({"dropout": 1.0}, "dropout"),
    ({"validation_fraction": 1}, "validation_fraction"),
    ({"shuffle": "yes"}, "shuffle: found 'yes', expected True or False"),
    ({"dtype": "float16"}, "dtype: found 'float16', expected auto or float32 or float64"),
    ({"device": "tpu"}, "unknown device: device: found 'tpu'"),
    ({"threads": 0}, "bad number of threads: threads: found 0"),
    ({"early_stopping": True, "validation_fraction": 0.001}, "the validation set is too small: validation_fraction"),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "message"), BAD, ids=[str(settings) for settings, _ in BAD])
def test_a_bad_argument_is_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        MLPClassifier(**(HERE | settings)).fit(*DIGITS)
    assert isinstance(caught.value, TwoStrokeError)
    assert "\n" not in str(caught.value)


def test_bad_data_is_one_line() -> None:
    X, y = DIGITS
    model = MLPClassifier(max_iter=1, random_state=0, **HERE)
    for weights, message in (
        (np.zeros(len(y)), "all weights are zero: sample_weight"),
        (-np.ones(len(y)), "negative weights: sample_weight"),
        (np.ones(3), r"wrong number of weights: sample_weight: found shape \(3,\), expected \(600,\)"),
    ):
        with pytest.raises(DataError, match=message):
            model.fit(X, y, weights)
    for validation in ({"X_val": X}, {"y_val": y}, {"X_val": X, "y_val": y}):
        with pytest.raises(
            ValueError, match="a validation set that is not used: X_val, y_val: expected both or neither"
        ):
            model.fit(X, y, **validation)
    with pytest.raises(ValueError, match="partial_fit does not stop early"):
        MLPClassifier(early_stopping=True, **HERE).partial_fit(X, y, classes=np.arange(10))
    with pytest.raises(ValueError, match="the first call of partial_fit needs all classes"):
        MLPClassifier(**HERE).partial_fit(X, y)
    with pytest.raises(ValueError, match="class_weight: found balanced"):
        MLPClassifier(class_weight="balanced", **HERE).partial_fit(X, y, classes=np.arange(10))
    for class_weight in (
        "foo",
        3,
        {0: "heavy"},
        {0: -1.0},
        {0: np.nan},
        {7: 1.0, 11: 2.0},
        dict.fromkeys(range(10), 0.0),
    ):
        with pytest.raises(ConfigError, match="class_weight: found") as caught:
            MLPClassifier(class_weight=class_weight, **HERE).fit(X, y)
        assert "\n" not in str(caught.value)
    model.fit(X, y).set_params(warm_start=True)
    with pytest.raises(DataError, match="other classes than before: y"):
        model.fit(X[y < 5], y[y < 5])
    with pytest.raises(ValueError, match="other classes than before: classes"):
        model.partial_fit(X, y, classes=[0, 1])
    with pytest.raises(ValueError, match="other layers than before: hidden_layer_sizes"):
        model.set_params(hidden_layer_sizes=(7,)).fit(X, y)
    with pytest.raises(DataError, match="negative values: y: found -1"):
        MLPRegressor(loss="poisson", **HERE).fit(X, y - 1)
    with pytest.raises(AttributeError, match="partial_fit"):
        MLPClassifier(solver="lbfgs").partial_fit  # noqa: B018


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({"solver": "sgd", "momentum": 0.9}, {"solver": "adam"}),
        ({"solver": "adam"}, {"solver": "sgd", "momentum": 0.5}),
        ({"solver": "sgd", "momentum": 0.0}, {"momentum": 0.9}),
        ({"solver": "sgd", "momentum": 0.9}, {"momentum": 0.0}),
        ({"solver": "lbfgs"}, {"solver": "adam"}),
        ({"early_stopping": True}, {"early_stopping": False}),
    ],
)
def test_partial_fit_goes_on_after_other_settings(first: dict[str, Any], then: dict[str, Any]) -> None:
    """Another optimiser begins anew, with the weights as they are."""
    X, y = CANCER
    model = MLPClassifier((8,), max_iter=5, random_state=0, **HERE, **first).fit(X, y)
    before = model.score(X, y)
    model.set_params(**then)
    for _ in range(20):
        model.partial_fit(X, y)
    assert model.score(X, y) >= min(before, 0.95)


@pytest.mark.parametrize("stopping", [True, False])
def test_warm_start_goes_on_where_early_stopping_was_changed(stopping: bool) -> None:
    X, y = CANCER
    settings = {"warm_start": True, "max_iter": 5, "random_state": 0, **HERE}
    model = MLPClassifier((8,), early_stopping=stopping, **settings).fit(X, y)
    model.set_params(early_stopping=not stopping).fit(X, y)
    assert len(model.loss_curve_) == 10
    assert (model.validation_scores_ is None) is stopping
    assert (model.best_loss_ is None) is not stopping


def test_a_weight_for_all_is_a_number() -> None:
    X, y = CANCER
    plain, weighted = (MLPClassifier((8,), max_iter=3, random_state=0, **HERE).fit(X, y, w) for w in (None, 1.0))
    for a, b in zip(plain.coefs_, weighted.coefs_, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
def test_a_fitted_estimator_is_a_network(kind: Any, tmp_path: Path) -> None:
    """Saved, loaded and exported as one."""
    X, y = DIGITS
    model = kind(hidden_layer_sizes=(8,), max_iter=3, random_state=0, dtype="float32", **HERE).fit(X, y)
    save_model(model.to_mlp(), tmp_path / "model.safetensors")
    net = load_model(tmp_path / "model.safetensors")
    expected = model.predict_proba(X) if kind is MLPClassifier else model.predict(X)[:, None]
    found = net.outputs(X.astype("float32"))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    if kind is MLPRegressor:
        np.testing.assert_array_equal(net.predict(X.astype("float32")), found)
    with pytest.raises(NotFittedError):
        kind().to_mlp()


def test_divergence_is_named() -> None:
    X, y = DIABETES
    assert issubclass(DivergenceError, ValueError)
    with pytest.raises(DivergenceError, match="training diverged: coefs_: found weights not finite"):
        MLPRegressor(solver="sgd", learning_rate_init=1e6, random_state=0, **HERE).fit(1e6 * X, y)


def test_warnings() -> None:
    X, y = CANCER
    with pytest.warns(ConvergenceWarning, match="max_iter=2 and has not converged"):
        MLPClassifier(max_iter=2, random_state=0, **HERE).fit(X, y)
    with pytest.warns(ConvergenceWarning, match="lbfgs failed to converge"):
        MLPClassifier(max_iter=2, solver="lbfgs", random_state=0, **HERE).fit(X, y)
    with pytest.warns(UserWarning, match="batch_size 1000 is larger than the 569 samples"):
        MLPClassifier(max_iter=2, batch_size=1000, random_state=0, **HERE).fit(X, y)
    with pytest.warns(DataConversionWarning):
        MLPClassifier(max_iter=2, random_state=0, **HERE).fit(X, y[:, None])


def test_verbose_prints_as_scikit_learn_does(capsys: pytest.CaptureFixture[str]) -> None:
    X, y = DIGITS
    settings: dict[str, Any] = {
        "solver": "sgd", "learning_rate": "adaptive", "learning_rate_init": 0.5, "tol": 0.05, "n_iter_no_change": 1,
        "random_state": 0, "verbose": True, "max_iter": 12,
    }  # fmt: skip
    printed = []
    for model in (MLPClassifier(**settings, **HERE), TheirClassifier(**settings)):
        model.fit(X, y)
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert "Setting learning rate to" in printed[0]


def test_an_interrupt_keeps_what_was_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Epochs.run

    def interrupted(self: Any, *arguments: Any) -> float:
        if self.epoch == 3:
            raise KeyboardInterrupt
        return run(self, *arguments)

    monkeypatch.setattr(Epochs, "run", interrupted)
    with pytest.warns(UserWarning, match="interrupted"):
        model = MLPClassifier(random_state=0, **HERE).fit(*DIGITS)
    monkeypatch.undo()
    assert_same(model, MLPClassifier(random_state=0, max_iter=3, **HERE).fit(*DIGITS), 1e-15)


def test_without_scikit_learn_one_line_says_what_to_install() -> None:
    code = """
import sys
sys.modules["sklearn.base"] = None
try:
    import twostroke.sklearn
except ImportError as error:
    print(error)
"""
    result = run_python(code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("\n") == 1
    assert "pip install 'twostroke[sklearn]'" in result.stdout
