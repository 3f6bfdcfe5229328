"""The seam: the interface of a device (``base``), its choice (``select``), and the two devices (``cpu``, ``cuda``).

All code above this folder is written once, for NumPy and CuPy arrays. A ``Backend``, chosen once, decides where new
arrays are allocated; ``array_module(x)`` tells which module an existing array belongs to.
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
    check_backend,
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
    "check_backend",
    "cuda_installation",
    "cuda_version",
    "cupy_wheels",
    "host_backend",
    "probe_cuda",
    "select_backend",
    "to_host",
]
