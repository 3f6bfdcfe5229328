"""What the PyTorch peers share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from typing import Any

import numpy as np
import torch

from bench.peers import PeerUnavailableError, Problem


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """PyTorch's intra-op threads (OpenMP, MKL and oneDNN take their number from it)."""
    torch.set_num_threads(threads)
    yield


def device_of(problem: Problem) -> Any:
    """PyTorch's device, with products in full float32. ``PeerUnavailableError`` without that device."""
    if problem.device != "cpu" and not torch.cuda.is_available():
        raise PeerUnavailableError(f"this PyTorch ({torch.__version__}) finds no GPU")
    torch.backends.cuda.matmul.allow_tf32 = False
    return torch.device(problem.device)


def put(problem: Problem, array: np.ndarray) -> Any:
    """A copy of a host array as a tensor on the problem's device."""
    return torch.tensor(array, device=device_of(problem))


def batches(problem: Problem) -> list[tuple[Any, Any]]:
    """All batches on the device; on the CPU the host's arrays themselves."""
    if problem.device == "cpu":
        return [(torch.from_numpy(X), torch.from_numpy(y)) for X, y in problem.batches]
    return [(put(problem, X), put(problem, y)) for X, y in problem.batches]


def resident(problem: Problem) -> tuple[Any, Any, list[Any]] | None:
    """All samples as float32, their labels, and each step's rows, on the device; None where batches are prepared."""
    if problem.resident is None:
        return None
    floats, labels = problem.resident.floats(), problem.resident.labels
    arrays = [torch.from_numpy(array).to(device_of(problem)) for array in (floats, labels, problem.resident.order)]
    return arrays[0], arrays[1], list(arrays[2])


def stream(problem: Problem) -> Iterator[tuple[Any, Any]]:
    """The batches, round and round: prepared, or gathered by ``index_select`` into one tensor."""
    data = resident(problem)
    return cycle(batches(problem)) if data is None else _gathered(*data)


def _gathered(samples: Any, labels: Any, order: list[Any]) -> Iterator[tuple[Any, Any]]:
    X = torch.empty((len(order[0]), samples.shape[1]), device=samples.device)
    for rows in cycle(order):
        yield torch.index_select(samples, 0, rows, out=X), torch.index_select(labels, 0, rows)


def finish(problem: Problem) -> None:
    """Return when the device has done all it was given."""
    if problem.device != "cpu":
        torch.cuda.synchronize()


def host(tensor: Any) -> np.ndarray:
    """A copy on the host."""
    array: np.ndarray = tensor.detach().cpu().numpy().copy()
    return array
