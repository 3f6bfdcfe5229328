"""``python -m tests.fuzz NAME [--seconds N] [--engine atheris|random]``: fuzz one reader; stops at the first fault."""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
import time
from typing import Any

from .targets import TARGETS, folder, fuzz


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--engine", choices=["atheris", "random"], default="random")
    arguments = parser.parse_args()
    if arguments.engine == "random":
        end, executions, largest = time.monotonic() + arguments.seconds, 0, 0
        while time.monotonic() < end:
            largest = max(largest, fuzz(arguments.name, 1000, seed=executions))
            executions += 1000
        print(f"{arguments.name}: {executions:,} executions, no fault; at most {largest / 2**20:.1f} MiB for one")
        return
    atheris: Any = importlib.import_module("atheris")  # optional: see docs/reliability.md

    target = TARGETS[arguments.name]
    corpus = folder() / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(target.seeds()):
        (corpus / str(number)).write_bytes(seed)
    atheris.instrument_all()
    limits = [f"-max_total_time={arguments.seconds}", "-rss_limit_mb=2048", "-timeout=5", "-max_len=16384"]
    limits += [f"-artifact_prefix={tempfile.gettempdir()}/fuzz-{arguments.name}-"]
    atheris.Setup([sys.argv[0], str(corpus), *limits, "-print_final_stats=1"], target.fuzz_one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
