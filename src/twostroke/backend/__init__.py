"""The seam: what a device offers (``base``), which device is used (``select``), and both devices (``cpu``, ``cuda``).

Everything above this folder is written once, for arrays of either module. Two questions have two answers: *where shall
new data live?* is a ``Backend``, chosen once; *where does this array live?* is ``array_module(x)``.
"""

from .base import (
    Array,
    Backend,
    CallByCall,
    Captured,
    Kernel,
    Move,
    Ranks,
    Scalars,
    Steps,
    Summing,
    array_module,
    to_host,
)
from .cuda.libraries import cuda_installation
from .cuda.probe import cuda_version, cupy_wheels, probe_cuda
from .select import host_backend, select_backend

__all__ = [
    "Array",
    "Backend",
    "CallByCall",
    "Captured",
    "Kernel",
    "Move",
    "Ranks",
    "Scalars",
    "Steps",
    "Summing",
    "array_module",
    "cuda_installation",
    "cuda_version",
    "cupy_wheels",
    "host_backend",
    "probe_cuda",
    "select_backend",
    "to_host",
]
