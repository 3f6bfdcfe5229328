"""PyTorch with ``torch.compile``: forward, gradient and update as one graph (``torch.func.grad_and_value``).

``cpp_wrapper`` takes the graph's own Python away: 53 against 84 us at 784-128-10 batch 1, the best mode found
on the CPU; on a GPU the default mode. The weights are marked as inputs whose address does not change: Inductor makes no
CUDA graph of a step that writes into other inputs.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from bench.peers import PeerUnavailableError, Problem, Side, pairs
from bench.peers.torch_common import batches, finish, host, put, resident, torch_threads

VERSION = torch.__version__
WARM_UP = 3  # steps: CUDA graphs are recorded at the second and replayed from the third on


class TorchCompile:
    granularity = 1

    def __init__(self, problem: Problem, **how: Any) -> None:
        lr = problem.lr
        if not how and problem.device == "cpu":
            how = {"options": {"cpp_wrapper": True}}
        self.mode = f"torch.compile of the whole step (func.grad_and_value + in-place update), fullgraph, {how}"
        self.problem, self.threads = problem, problem.threads
        self.parameters = [put(problem, array) for array in problem.weights]
        for parameter in self.parameters:
            torch._dynamo.mark_static_address(parameter, guard=False)

        def mean_loss(parameters: list[Any], X: Any, y: Any) -> Any:
            *hidden, (W_out, b_out) = pairs(parameters)
            for W, b in hidden:
                X = torch.addmm(b, X, W).relu()
            return F.cross_entropy(torch.addmm(b_out, X, W_out), y)

        def step(parameters: list[Any], X: Any, y: Any) -> Any:
            gradients, loss = torch.func.grad_and_value(mean_loss)(parameters, X, y)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.sub_(gradient, alpha=lr)
            return loss

        def gather_and_step(parameters: list[Any], samples: Any, labels: Any, rows: Any) -> Any:
            return step(parameters, torch.index_select(samples, 0, rows), torch.index_select(labels, 0, rows))

        data = resident(problem)
        self._step = torch.compile(gather_and_step if data else step, fullgraph=True, **how)
        if data:
            self.mode += ", samples gathered inside it"
            samples, labels, order = data
            for tensor in (samples, labels):
                torch._dynamo.mark_static_address(tensor, guard=False)
            inputs: list[tuple[Any, ...]] = [(samples, labels, rows) for rows in order]
        else:
            inputs = list(batches(problem))
        self._inputs = cycle(inputs)
        skips = _skipped()
        try:
            with self.active(), torch.no_grad():
                for each in inputs[:WARM_UP]:
                    self._step(self.parameters, *each)
                for parameter, array in zip(self.parameters, problem.weights, strict=True):
                    parameter.copy_(torch.from_numpy(array))
        except Exception as error:  # whatever Dynamo, Inductor or the compiler say
            line = (str(error).strip().splitlines() or [""])[0][:200]
            raise PeerUnavailableError(f"torch.compile failed: {type(error).__name__}: {line}") from error
        if problem.device != "cpu":
            self.mode += f"; {_graphs(_skipped() - skips)}"

    def active(self) -> AbstractContextManager[object]:
        return torch_threads(self.threads)

    @torch.no_grad()  # type: ignore[untyped-decorator,unused-ignore]
    def run(self, n_steps: int) -> None:
        step, parameters = self._step, self.parameters
        for inputs in islice(self._inputs, n_steps):
            step(parameters, *inputs)
        finish(self.problem)

    def weights(self) -> list[np.ndarray]:
        return [host(parameter) for parameter in self.parameters]


def _skipped() -> int:
    """How many graphs of Inductor's became no CUDA graph so far."""
    return int(torch._dynamo.utils.counters["inductor"]["cudagraph_skips"])


def _graphs(skipped: int) -> str:
    """Whether CUDA graphs were recorded, as far as PyTorch's private parts tell it."""
    try:
        from torch._inductor.cudagraph_trees import get_manager

        manager = get_manager(torch.cuda.current_device(), create_if_none_exists=False)
        count = 0 if manager is None else len(list(manager.get_roots()))
    except Exception as error:  # another PyTorch has other private parts
        return f"CUDA graphs: not known ({type(error).__name__})"
    return f"CUDA graphs: {count} recorded, {skipped} skipped"


def make(problem: Problem) -> Side:
    return TorchCompile(problem)
