"""Runs a command over the emulated device: python -m tests.emulated_gpu twostroke doctor"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from .build import environment, missing


def main(command: list[str]) -> None:
    reason = missing()
    if reason:
        sys.exit(reason)
    if not command:
        sys.exit("usage: python -m tests.emulated_gpu COMMAND...")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    os.execvpe(command[0], command, environment() | {"PATH": path})


if __name__ == "__main__":
    main(sys.argv[1:])
