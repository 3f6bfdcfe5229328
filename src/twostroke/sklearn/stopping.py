"""When sgd and adam stop, as scikit-learn decides it: the history of losses and validation scores."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning


class Stopping:
    """The part of ``Estimator`` that notes each epoch. Its arguments (``tol``, ``n_iter_no_change``) are attributes."""

    solver: str
    learning_rate: str
    learning_rate_init: float
    power_t: float
    max_iter: int
    tol: float
    verbose: bool
    early_stopping: bool
    n_iter_no_change: float
    loss_: float
    n_iter_: int
    t_: int
    _rate: float

    def _begin_history(self) -> None:
        self.loss_curve_: list[float] = []
        self._no_improvement_count = 0
        self.validation_scores_: Any = None
        self.best_validation_score_: Any = None
        self.best_loss_: Any = None

    def _begin_watching(self) -> None:
        """Begin to note what decides when to stop, at first, or where ``early_stopping`` or the solver was changed."""
        if not hasattr(self, "loss_curve_"):  # lbfgs before
            self._begin_history()
        if self.early_stopping and self.validation_scores_ is None:
            self.validation_scores_, self.best_validation_score_, self.best_loss_ = [], -np.inf, None
        if not self.early_stopping and self.best_loss_ is None:
            self.validation_scores_, self.best_validation_score_, self.best_loss_ = None, None, np.inf

    def _note_loss(self, loss: float, n: int) -> None:
        """Update the history with the loss of an epoch of ``n`` samples."""
        self.loss_ = loss
        self.n_iter_ += 1
        self.t_ += n
        self.loss_curve_.append(loss)
        self._say(f"Iteration {self.n_iter_}, loss = {loss:.8f}")
        if not self.early_stopping:
            self._count(loss > self.best_loss_ - self.tol)
            self.best_loss_ = min(self.best_loss_, loss)
        if self.solver == "sgd" and self.learning_rate == "invscaling":
            self._rate = self.learning_rate_init / (self.t_ + 1) ** self.power_t

    def _note_score(self, score: float) -> bool:
        """Update the history with a validation score. Returns whether it is the best so far."""
        self.validation_scores_.append(score)
        self._say(f"Validation score: {score:f}")
        self._count(score < self.best_validation_score_ + self.tol)
        better = bool(score > self.best_validation_score_)
        self.best_validation_score_ = score if better else self.best_validation_score_
        return better

    def _count(self, no_better: bool) -> None:
        self._no_improvement_count = self._no_improvement_count + 1 if no_better else 0

    def _is_done(self, incremental: bool) -> bool:
        if self._no_improvement_count > self.n_iter_no_change and self._is_stuck():
            return True
        if incremental or self.n_iter_ < self.max_iter:
            return incremental
        message = f"the solver reached max_iter={self.max_iter} and has not converged yet"
        warnings.warn(message, ConvergenceWarning, stacklevel=5)
        return True

    def _say(self, line: str) -> None:
        if self.verbose:
            print(line)

    def _is_stuck(self) -> bool:
        """After too many epochs without improvement: lower an adaptive rate and return False; else return True."""
        watched = "Validation score" if self.early_stopping else "Training loss"
        message = (
            f"{watched} did not improve more than tol={self.tol:f} for {self.n_iter_no_change} consecutive epochs."
        )
        adaptive = self.solver == "sgd" and self.learning_rate == "adaptive"
        if not adaptive or self._rate <= 1e-6:
            self._say(f"{message} {'Learning rate too small. ' if adaptive else ''}Stopping.")
            return True
        self._rate /= 5.0
        self._no_improvement_count = 0
        self._say(f"{message} Setting learning rate to {self._rate:f}")
        return False
