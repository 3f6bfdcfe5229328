"""Synchronous data parallelism: each rank computes part of every batch's gradient; an all-reduce per step sums them.

Batch sizes are global. Rank r of p takes rows r b // p to (r + 1) b // p of a batch of b and scales its residual by
1 / b, so the sum over ranks is the gradient of the whole batch: the same configuration computes the same, up to
rounding, on any number of ranks. A part may be empty; its rank still makes every collective call.
"""

from __future__ import annotations

import time
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from ..backend import Array, Backend, CallByCall, Captured, Steps
from ..data.dataset import Dataset
from ..engine.config import TrainConfig
from ..engine.evaluation import Evaluation
from ..engine.layers import layer_views
from ..engine.metrics import Running
from ..engine.mlp import MLP, propagate
from ..engine.optimizers import OptimizerState
from ..engine.step import TrainingStep
from ..engine.targets import Result, unit
from ..engine.training import EpochRecord, Kit, TrainingRun
from ..engine.workspace import Buffers
from ..errors import DeviceError
from .communicator import Communicator, agree


class Stop:
    """``wanted``: this rank asks to stop. ``agreed``: all ranks stop after this step."""

    def __init__(self) -> None:
        self.wanted = self.agreed = False


class SharedRunning(Running):
    """Each rank stores results of its own samples; ``merge`` gives every rank those of all samples."""

    def __init__(self, communicator: Communicator, backend: Backend, n: int, dtype: str, deviation: Any = None) -> None:
        super().__init__(backend, n, dtype, deviation)
        self._communicator = communicator
        self._merged = 0

    def begin(self, start: int = 0) -> None:
        """Reset the results from sample ``start`` on."""
        self.losses[start:].fill(0)
        self.predictions[start:].fill(0)
        self._merged = start

    def merge(self, stop: int) -> None:
        """All-reduce the results up to sample ``stop``: each rank holds zeros for samples of other ranks."""
        for array in (self.losses, self.predictions):
            self.backend.sum_through_host(array[self._merged : stop], self._communicator)
        self._merged = stop

    def result(self, labels: Array) -> Result:
        self.merge(len(self.losses))
        # Rank 0's result for all: CPUs may round a mean differently, and all ranks must decide alike.
        return Result(*self._communicator.bcast_obj(tuple(super().result(labels))))


class SharedEvaluation(Evaluation):
    """An evaluation whose batches are distributed over the ranks."""

    def __init__(self, communicator: Communicator, net: MLP, *arrays: Any) -> None:
        super().__init__(net, *arrays)
        self._bounds = self._bounds[communicator.rank :: communicator.size]
        self._running = self._notes = SharedRunning(communicator, net.backend, len(arrays[0]), net.dtype, unit(net))

    def run(self) -> Result:
        with self.net.backend.active():
            self._notes.begin()
        return super().run()


class SharedStep(TrainingStep):
    """A step in two captured halves, gradient and update, with an all-reduce between them.

    The gradient is multiplied by the optimiser's factor before the all-reduce, so the sum is added to the target as it
    is. One more element after the parameters counts the ranks that want to stop.
    """

    def __init__(
        self,
        communicator: Communicator,
        stop: Stop,
        net: MLP,
        images: Array,
        labels: Array,
        optimizer: OptimizerState,
        batch_size: int,
        running: Running | None = None,
        **options: Any,
    ) -> None:
        most, backend, count = -(-batch_size // communicator.size), net.backend, len(net.parameters)
        # The all-reduce in every step cannot be captured, so whole steps run call by call; the halves are captured.
        options["capture"] = partial(CallByCall, backend.xp)
        super().__init__(net, images, labels, optimizer, most, running, **options)
        self.steps, self.seconds, self.summing_seconds = 0, 0.0, 0.0
        self._communicator, self._stop = communicator, stop
        message, total, self._all_reduce, self.path = backend.summing(count + 1, net.dtype, communicator)
        self._gradient, self._flag = message[:count], message[count:]
        self._total, self._flags = total[:count], total[count:]
        self._gradient_views = layer_views(self._gradient, net.layers)
        self._to_gradient: dict[int, Captured] = {}
        self._from_gradient = backend.capture([Steps(self._update)])

    def share(self, n: int) -> tuple[int, int]:
        rank, size = self._communicator.rank, self._communicator.size
        return rank * n // size, (rank + 1) * n // size

    def learn_batch(self, buffers: Buffers, n: int) -> None:
        began = time.perf_counter()
        backend = self.net.backend
        if len(buffers.indices):
            if n not in self._to_gradient:
                steps = Steps(partial(self._accumulate, buffers, n), scratch=buffers.passing)
                self._to_gradient[n] = backend.capture([steps])
            self._to_gradient[n].run()
        else:
            self._gradient.fill(0)
        self._flag.fill(self._stop.wanted)
        backend.synchronize()
        half = time.perf_counter()
        with self._communicator.watched():
            self._all_reduce()
            self._stop.agreed = bool(backend.to_host(self._flags)[0])
        reduced = time.perf_counter()
        self._from_gradient.run()
        self.steps += 1
        self.summing_seconds += reduced - half
        self.seconds += time.perf_counter() - began

    def _accumulate(self, buffers: Buffers, n: int) -> None:
        """This rank's part of the gradient for a batch of n."""
        self.gather(buffers)
        factor, classes = self.optimizer.factor, self.running is not None
        propagate(self.net, buffers, self._gradient_views, factor, 0.0, 0.0, 1.0 / n, classes=classes)

    def _update(self) -> None:
        self.optimizer.accumulate(self._total)
        self.optimizer.update()


class DistributedRun(TrainingRun):
    """A training run on all ranks. Every rank must make the same calls, with the same arguments.

    All ranks start with rank 0's parameters, and have the same state and history after ``advance``. Setting
    ``stopping`` on any rank stops all ranks after the same step; it reads as true only then. Raises ``ConfigError`` on
    every rank if network, configuration, data or the caller's ``facts`` differ between ranks.
    """

    def __init__(
        self,
        net: MLP,
        data: Dataset,
        config: TrainConfig,
        backend: Backend | None = None,
        *,
        communicator: Communicator,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        agree(communicator, {**_facts(net, data, config), **(facts or {})})
        check_own_device(communicator, backend or net.backend)
        self.communicator = communicator
        self._stop = Stop()
        kit = Kit(
            step=partial(SharedStep, communicator, self._stop),
            running=partial(SharedRunning, communicator),
            evaluation=partial(SharedEvaluation, communicator),
        )
        super().__init__(net, data, config, backend, kit=kit)
        self.share_state()

    @property
    def stopping(self) -> bool:
        """Whether all ranks have agreed to stop; setting it makes this rank ask for that."""
        return self._stop.agreed

    @stopping.setter
    def stopping(self, wanted: bool) -> None:
        self._stop.wanted = wanted
        self._stop.agreed &= wanted

    def share_state(self) -> None:
        """Broadcast rank 0's arrays to all ranks."""
        backend = self.net.backend
        with backend.active():
            for array in self.state.values():
                host = backend.to_host(array)
                self.communicator.bcast_(host)
                backend.xp.copyto(array, backend.asarray(host))

    def _advance(self, most_steps: int | None) -> EpochRecord | None:
        assert isinstance(self.running, SharedRunning)
        with self.net.backend.active():
            self.running.begin(self.bounds[self.batch][0])
            record = super()._advance(most_steps)
            if record is None:
                self.running.merge(self.bounds[self.batch][0])
                return None
        self.history[-1] = self.communicator.bcast_obj(record)
        # MPI does not guarantee the same rounding of an all-reduce on every rank.
        bits = zlib.crc32(self.net.backend.to_host(self.net.parameters).data)
        if len(set(self.communicator.allgather_obj(bits))) > 1:
            warnings.warn(f"the ranks' weights differed after epoch {self.epoch}: rank 0's were taken", stacklevel=2)
            self.share_state()
        return self.history[-1]

    def describe(self) -> dict[str, Any]:
        """The ranks, the path of the all-reduce, and this rank's seconds in steps and in all-reduces."""
        assert isinstance(self._step, SharedStep)
        step = self._step
        times = {"steps": step.steps, "step_seconds": step.seconds, "summing_seconds": step.summing_seconds}
        return {**self.communicator.describe(), "gradients_summed_by": step.path, **times}


def _facts(net: MLP, data: Dataset, config: TrainConfig) -> dict[str, Any]:
    """What must be equal on all ranks: an all-reduce of arrays of different lengths would corrupt memory."""
    names = ("layers", "activation", "output", "loss", "dtype", "task")
    facts = {name: getattr(net, name) for name in names} | asdict(config)
    facts = {name: str(value) if isinstance(value, str) else value for name, value in facts.items()}
    for name in ("train_images", "train_labels", "test_images", "test_labels", "sample_weight"):
        array = np.ascontiguousarray(() if getattr(data, name) is None else getattr(data, name))
        facts[name] = f"{array.shape} {array.dtype} {zlib.crc32(array.data):08x}"
    return facts


def check_own_device(communicator: Communicator, backend: Backend) -> None:
    """Raise ``DeviceError`` on all ranks if two ranks use the same GPU."""
    devices = communicator.allgather_obj(backend.unit)
    taken = [device for device in devices if device is not None]
    if len(set(taken)) < len(taken):
        raise DeviceError(
            "more ranks than GPUs",
            where="--distributed",
            found=f"{len(taken)} ranks on {len(set(taken))} GPU(s)",
            expected="a GPU for each rank",
            remedy="Start fewer ranks (mpirun -n), or choose --device cpu.",
        )


def share(run: DistributedRun) -> None:
    """Broadcast rank 0's arrays, position and history. Every rank must call this."""
    run.share_state()
    run.position, run.history[:] = run.communicator.bcast_obj((run.position, run.history))
