"""This machine's processor and cores."""

from __future__ import annotations

import os
import platform


def own_cores() -> set[int]:
    """The ids of the cores that this process may run on (its CPU affinity)."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def available_cores() -> int:
    """The number of cores that this process may run on."""
    return len(own_cores())


def processor_name() -> str:
    """The processor's model name, from the operating system."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
