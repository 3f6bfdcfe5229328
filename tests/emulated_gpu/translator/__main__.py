"""python -m tests.emulated_gpu.translator FILE.ptx FILE.so"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from .module import Module
from .values import UnknownError

HERE = Path(__file__).parent
# No contraction: PTX says where a product and a sum are one rounding. -O1: a kernel runs for a moment.
GCC = (
    *("gcc", "-w", "-O1", "-std=gnu11", "-shared", "-fPIC", "-fvisibility=hidden", "-fno-strict-aliasing", "-fwrapv"),
    *("-ffp-contract=off", "-fno-math-errno", "-mfma", "-mavx2", f"-I{HERE}", f"-I{HERE.parent / 'device'}"),
)


def main(source: str, target: str) -> int:
    """Translate and compile. The C text is kept beside the PTX."""
    try:
        code = Module(Path(source).read_text().rstrip("\0")).translate()
    except (UnknownError, KeyError, IndexError) as error:
        print(f"{source}: cannot be translated: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    written, built = Path(f"{target}.{os.getpid()}.c"), Path(f"{target}.{os.getpid()}.so")
    written.write_text(code)
    done = subprocess.run([*GCC, written, "-o", built, "-lm"], capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{source}: gcc refuses its C, {written}: {done.stderr[:2000]}", file=sys.stderr)
        return 1
    written.replace(Path(source).with_suffix(".c"))
    built.replace(target)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
