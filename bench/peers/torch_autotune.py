"""PyTorch with ``torch.compile(mode="max-autotune")``: it times kernels against each other; CUDA graphs if it can."""

from __future__ import annotations

from bench.peers import Problem, Side
from bench.peers.torch_compile import VERSION, TorchCompile

__all__ = ["VERSION", "make"]


def make(problem: Problem) -> Side:
    return TorchCompile(problem, mode="max-autotune")
