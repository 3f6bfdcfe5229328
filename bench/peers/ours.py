"""twostroke: the steps of ``train``, or ``TrainingStep.learn`` on prepared inputs; one-hot targets inside the step.

Of prepared inputs, small steps are captured as one round of all prepared batches, as the peers' scans are and as
``train`` plays many steps at a time: Python is outside the loop.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial
from itertools import cycle, islice

import numpy as np

from bench.peers import PeerUnavailableError, Problem, Side, step_flops
from twostroke import MLP, DeviceError, __version__, select_backend
from twostroke.backend import Array, Steps
from twostroke.engine.epoch import Epoch
from twostroke.engine.evaluation import upload
from twostroke.engine.optimizers import SGD
from twostroke.engine.step import TrainingStep
from twostroke.engine.workspace import label_dtype

VERSION = __version__
SMALL = 5e8  # floating-point operations of a step: some 4 ms on a core, where Python beside it no longer counts


class Ours:
    """The engine's own step, recorded as ``train`` records it; A[0] are the prepared batches, not a gathered copy."""

    granularity = 1
    mode = "TrainingStep.learn, recorded for each prepared batch; SGD; targets one-hot inside the step"

    def __init__(self, problem: Problem) -> None:
        self.backend = select_backend(problem.device, problem.threads)
        self.lr = problem.lr
        with self.backend.active():
            self.net = MLP(problem.layers, backend=self.backend)
            flat = np.concatenate([a.ravel() for a in problem.weights])
            self.net.parameters = self.backend.copy_of(flat, self.net.dtype)
            upload = self.backend.asarray
            data = [
                (self.backend.copy_of(X, self.net.dtype), upload(y, label_dtype(problem.layers[-1])))
                for X, y in problem.batches
            ]
            self.step = TrainingStep(self.net, *data[0], SGD(self.net), problem.batch_size)
            self._works = [partial(self._learn, X, labels) for X, labels in data]
            steps = [self.backend.capture([Steps(work)]) for work in self._works]
            self.step.optimizer.begin_step(0.0)  # the first run captures; at this rate it moves nothing
            for step in steps:
                step.run()
            self._steps = cycle(steps)

    def _learn(self, X: Array, labels: Array) -> None:
        buffers = self.step.workspace.rows(len(X))
        buffers = buffers._replace(A=[X, *buffers.A[1:]])
        self.step.workspace.load_targets(labels, buffers)
        self.step.learn(buffers)

    def active(self) -> AbstractContextManager[object]:
        return self.backend.active()

    def run(self, n_steps: int) -> None:
        self.step.optimizer.begin_step(self.lr)
        for step in islice(self._steps, n_steps):
            step.run()
        self.backend.synchronize()

    def weights(self) -> list[np.ndarray]:
        host = self.backend.to_host
        return [array.copy() for layer in self.net.views for array in (host(layer.W), host(layer.b).ravel())]

    def describe(self) -> dict[str, object]:
        """The device, for the row."""
        return self.backend.describe()


class OursInRounds(Ours):
    """A round of all batches at once; steps of another number one by one."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.granularity = len(self._works)
        self.mode = f"TrainingStep.learn on {len(self._works)} prepared batches, recorded as one; SGD; one-hot inside"
        with self.backend.active():
            self._round = self.backend.capture([Steps(self._all)])
            for _ in range(2):  # a GPU captures at the second run
                self._round.run()

    def _all(self) -> None:
        for work in self._works:
            work()

    def run(self, n_steps: int) -> None:
        rounds, rest = divmod(n_steps, self.granularity)
        self.step.optimizer.begin_step(self.lr)
        for _ in range(rounds):
            self._round.run()
        super().run(rest)


class OursAsTrained(Ours):
    """Steps as ``train`` runs them: each gathers its samples from all of them, uint8 pixels where they are resident."""

    def __init__(self, problem: Problem) -> None:
        self.backend = select_backend(problem.device, problem.threads)
        self.lr, self._next = problem.lr, 0
        self.granularity, size = problem.round_steps, problem.batch_size
        with self.backend.active():
            self.net = MLP(problem.layers, backend=self.backend)
            flat = np.concatenate([a.ravel() for a in problem.weights])
            self.net.parameters = self.backend.copy_of(flat, self.net.dtype)
            if problem.resident is not None:
                kind, order = "uint8 samples", problem.resident.order.ravel()
                images, targets = upload(self.backend, problem.resident.pixels, problem.resident.labels, self.net)
            else:
                images, labels = (np.concatenate(arrays) for arrays in zip(*problem.batches, strict=True))
                kind, order = "float32 samples", np.arange(len(labels))
                images = self.backend.copy_of(images, self.net.dtype)
                targets = self.backend.asarray(labels, label_dtype(problem.layers[-1]))
            self.mode = f"Epoch of {len(order) // size} batches, {kind} gathered by index; SGD; one-hot inside"
            self._order = order
            self._bounds = [(start, start + size) for start in range(0, len(order), size)]
            self.step = TrainingStep(self.net, images, targets, SGD(self.net), size)
            self._epoch = Epoch(self.step, self._bounds)
            self._begin(0.0)
            self._epoch.run(0, min(2, len(self._bounds)))  # compiles and captures; at this rate it moves nothing
            self._begin(self.lr)

    def _begin(self, lr: float) -> None:
        numbers = self.step.optimizer.numbers(lr, 1, 0.0)
        self._epoch.begin(self._order, [numbers] * len(self._bounds))

    def run(self, n_steps: int) -> None:
        while n_steps:
            stop = min(len(self._bounds), self._next + n_steps)
            self._epoch.run(self._next, stop)
            n_steps -= stop - self._next
            self._next = stop % len(self._bounds)
        self.backend.synchronize()


def make(problem: Problem) -> Side:
    try:
        if problem.device != "cpu" or problem.resident is not None:
            return OursAsTrained(problem)
        in_rounds = step_flops(problem.layers, problem.batch_size) <= SMALL
        return (OursInRounds if in_rounds else Ours)(problem)
    except DeviceError as error:
        raise PeerUnavailableError(str(error)) from error
