"""The estimators take a user's own activation."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

import twostroke as ts
from tests.support import own_kernels as own

pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install 'twostroke[sklearn]'")

from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from twostroke.sklearn import MLPClassifier


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_an_own_activation_equals_the_built_in_that_it_repeats(solver: str) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    X = rng.normal(size=(3, 4))[y] + 0.3 * rng.normal(size=(90, 4))
    given: Any = {"solver": solver, "hidden_layer_sizes": (6,), "max_iter": 30, "tol": 0.0, "random_state": 0}
    mine = MLPClassifier(activation=own.my_tanh, device="cpu", **given)
    assert clone(mine).activation is own.my_tanh
    with pytest.warns(ConvergenceWarning):
        mine.fit(X, y)
    with pytest.warns(ConvergenceWarning):
        theirs = MLPClassifier(activation="tanh", device="cpu", **given).fit(X, y)
    np.testing.assert_array_equal(mine.predict_proba(X), theirs.predict_proba(X))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(mine)).predict(X), mine.predict(X))


def test_another_kind_is_refused() -> None:
    with pytest.raises(ts.ConfigError, match="activation: found 'huber'"):
        MLPClassifier(activation=own.huber).fit(np.zeros((4, 2)), [0, 1, 0, 1])
