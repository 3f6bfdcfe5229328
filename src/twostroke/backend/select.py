"""The choice of the device."""

from __future__ import annotations

from functools import cache

from ..errors import ConfigError
from .base import Backend


@cache
def host_backend() -> Backend:
    """The CPU with one thread, repeatable bit for bit: a network's default backend."""
    from .cpu.backend import NumpyBackend

    return NumpyBackend(1, reason="the default of a network that was not moved")


def select_backend(
    device: str = "auto", threads: int | str = "auto", *, tf32: bool = False, local_rank: int = 0, local_size: int = 1
) -> Backend:
    """The backend for ``device``: "auto", "cpu", "cuda" (or "gpu") or "cuda:N".

    "auto" takes a CUDA GPU if it passes a functional test, else the CPU; ``reason`` says why. "cuda" never falls back
    but raises ``DeviceError`` with the cause. ``threads`` is the number of threads on the CPU; "auto" tunes it during
    training, at most what ``OMP_NUM_THREADS``, ``threadpoolctl`` or joblib allow. ``tf32`` lets a GPU round GEMM inputs
    to 10 mantissa bits.
    If ``local_size`` > 1 processes share this machine, each takes the GPU with the index ``local_rank``.
    """
    wanted = device.lower().replace("gpu", "cuda", 1)
    kind, _, index = wanted.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (index and not (kind == "cuda" and index.isdecimal())):
        raise ConfigError("unknown device", where="device", found=repr(device), expected="auto, cpu, cuda or cuda:N")
    from .cpu.backend import NumpyBackend
    from .machine import available_cores

    cores = available_cores()
    if threads != "auto" and not (isinstance(threads, int) and 1 <= threads <= cores):
        raise ConfigError(
            "bad number of threads", where="threads", found=threads, expected=f"auto or 1..{cores} (cores)"
        )
    if kind == "cpu":
        return NumpyBackend(threads, reason="cpu was asked for")
    from .cuda.probe import gpu_of, probe_cuda

    number = int(index) if index else gpu_of(local_rank, local_size)
    probe = probe_cuda(number)
    if not probe.usable:
        if kind == "cuda":
            raise probe.error()
        return NumpyBackend(threads, reason=probe.reason)
    from .cuda.backend import CupyBackend

    reason = probe.reason if kind == "auto" else f"{wanted} was asked for; {probe.reason}"
    return CupyBackend(number, reason=reason, tf32=tf32)
