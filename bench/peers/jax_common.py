"""What the two JAX peers share. XLA's CPU pool takes its size from NPROC once, when the client starts."""

from __future__ import annotations

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bench.peers import PeerUnavailableError, Problem, pairs

VERSION = f"{jax.__version__} (jaxlib {jax.lib.__version__})"


def start_client(threads: int) -> Any:
    """The CPU device, with ``threads`` threads of XLA; ``PeerUnavailableError`` if it runs with others."""
    variables = ("PJRT_NPROC", "NPROC")
    for name in variables:
        os.environ.setdefault(name, str(threads))
        if os.environ[name] != str(threads):
            raise PeerUnavailableError(f"XLA's pool has {os.environ[name]} threads in this process, not {threads}")
    return jax.local_devices(backend="cpu")[0]


def device_of(problem: Problem) -> Any:
    """JAX's device, with products in full float32. ``PeerUnavailableError`` without that device."""
    if problem.device == "cpu":
        return start_client(problem.threads)
    # Our side lives in the same process: JAX would take three quarters of the GPU's memory when it starts.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    jax.config.update("jax_default_matmul_precision", "highest")
    try:
        return jax.local_devices(backend="gpu")[0]
    except RuntimeError as error:
        raise PeerUnavailableError(f"this JAX finds no GPU: {str(error).splitlines()[0]}") from error


def put(problem: Problem, array: Any) -> Any:
    """A host array on the problem's device."""
    return jax.device_put(array, device_of(problem))


def resident(problem: Problem) -> tuple[Any, Any, Any] | None:
    """All samples as float32, their labels, and the rows of all steps, on the device; None: batches are prepared."""
    if problem.resident is None:
        return None
    labels, order = (array.astype(np.int32) for array in (problem.resident.labels, problem.resident.order))
    return put(problem, problem.resident.floats()), put(problem, labels), put(problem, order)


def gather(array: Any, rows: Any) -> Any:
    """Rows of an array, by indices that are known to be in it."""
    return array.at[rows].get(mode="promise_in_bounds")


def mean_loss(parameters: list[Any], X: Any, y: Any) -> Any:
    """Mean cross-entropy of the batch."""
    *hidden, (W_out, b_out) = pairs(parameters)
    for W, b in hidden:
        X = jax.nn.relu(X @ W + b)
    logits = X @ W_out + b_out
    picked = jnp.take_along_axis(logits, y[:, None], axis=1)[:, 0]
    return jnp.mean(jax.nn.logsumexp(logits, axis=1) - picked)


def step(lr: float, parameters: list[Any], X: Any, y: Any) -> tuple[list[Any], Any]:
    """One step of SGD: the new parameters and the loss before it."""
    loss, gradients = jax.value_and_grad(mean_loss)(parameters, X, y)
    return [p - lr * g for p, g in zip(parameters, gradients, strict=True)], loss
