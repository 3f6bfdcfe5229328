"""PyTorch's step by hand (``torch_manual``), all batches captured as one CUDA graph: no Python between the steps.

The strongest form found: forward, loss, backward and update of every batch are in the graph. A GPU only.
"""

from __future__ import annotations

import gc

import torch

from bench.peers import PeerUnavailableError, Problem, Side
from bench.peers.torch_common import batches, finish
from bench.peers.torch_manual import VERSION, TorchManual

__all__ = ["VERSION", "make"]


class TorchGraph(TorchManual):
    def __init__(self, problem: Problem) -> None:
        if problem.device == "cpu":
            raise PeerUnavailableError("CUDA graphs need a GPU")
        if problem.resident is not None:
            raise PeerUnavailableError("the graph has its batches inside: --form prepared")
        super().__init__(problem)
        self.granularity = len(problem.batches)
        self.mode = f"torch_manual's step on {self.granularity} batches as one torch.cuda.CUDAGraph"
        self._capture()

    @torch.inference_mode()  # type: ignore[untyped-decorator,unused-ignore]
    def _capture(self) -> None:
        """The warm-up that PyTorch asks for, on another stream, then the capture; the weights are put back."""
        data = batches(self.problem)
        before = [parameter.clone() for parameter in self.parameters]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self.learn(data[:3])
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        collecting = gc.isenabled()
        gc.disable()  # the other side's garbage may hold what waits for the device, which ends a capture
        try:
            with torch.cuda.graph(self._graph):
                self.learn(data)
        finally:
            if collecting:
                gc.enable()
        for parameter, value in zip(self.parameters, before, strict=True):
            parameter.copy_(value)
        self._held = data

    @torch.inference_mode()  # type: ignore[untyped-decorator,unused-ignore]
    def run(self, n_steps: int) -> None:
        rounds, rest = divmod(n_steps, self.granularity)
        for _ in range(rounds):
            self._graph.replay()
        super().run(rest)
        finish(self.problem)


def make(problem: Problem) -> Side:
    return TorchGraph(problem)
