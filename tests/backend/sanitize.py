"""The C library under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer: `make sanitize`.

A sanitizer that this compiler lacks is SKIPPED with the reason. Exit code 1: something was found.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
import hatch_build  # noqa: E402

SANITIZERS = {
    "address,undefined": ("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    "thread": ("-fsanitize=thread",),
}
# What is compiled, with which variant and how many rounds, for each type of element. The threads are the same in all.
RUNS = (("address,undefined", "avx512", 300), ("address,undefined", "avx2", 300), ("thread", "avx2", 40))
TYPES = {"float32": (), "float64": ("-DTWOSTROKE_DOUBLE",)}
SEED = os.environ.get("SEED", "1")


def run(command: list[str], limit_s: int = 300) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)


def lacks(compiler: list[str], flags: tuple[str, ...], folder: Path) -> str:
    """Why programs of this sanitizer do not run here; "" where they do."""
    source = folder / "hello.c"
    source.write_text("int main(void) { return 0; }\n")
    built = run([*compiler, *flags, str(source), "-o", str(folder / "hello")])
    done = built if built.returncode else run([str(folder / "hello")])
    said = (done.stderr.strip() or "no message").splitlines()
    return said[0] if done.returncode else ""


def compiled(name: str, variant: str, compiler: list[str], folder: Path) -> list[Path]:
    """A program for each type of element."""
    flags, sources = ("-O1", "-g", *SANITIZERS[name]), ROOT / hatch_build.NATIVE
    *units, _ = hatch_build.commands(variant, compiler, sources, folder, folder / "library.so", *flags)
    for command in units:
        hatch_build._run(command)
    objects, driver = [command[-1] for command in units], str(Path(__file__).with_suffix(".c"))
    programs = []
    for dtype, defines in TYPES.items():
        programs.append(folder / f"{name}-{variant}-{dtype}")
        common = [*compiler, *hatch_build.FLAGS, *flags, *defines, f"-I{sources}"]
        hatch_build._run([*common, driver, *objects, "-lm", "-o", str(programs[-1])])
    return programs


def main() -> int:
    try:
        compiler = hatch_build._compiler()
    except hatch_build.NotBuilt as error:
        print(f"SKIPPED: {error}")
        return 0
    found = 0
    with tempfile.TemporaryDirectory(prefix="twostroke-") as scratch:
        folder = Path(scratch)
        for name, variant, rounds in RUNS:
            label = f"{name}, {variant}"
            reason = lacks(compiler, SANITIZERS[name], folder)
            if not reason and variant == "avx512" and " avx512dq " not in Path("/proc/cpuinfo").read_text():
                reason = "this processor has no AVX-512"
            if reason:
                print(f"SKIPPED: {label}: {reason}")
                continue
            for dtype, program in zip(TYPES, compiled(name, variant, compiler, folder), strict=True):
                done = run([str(program), SEED, str(rounds)])
                print(f"{'FOUND' if done.returncode else 'clean'}: {label}, {dtype}: {done.stdout.strip()}")
                print(done.stderr, end="")
                found |= done.returncode
    return int(bool(found))


if __name__ == "__main__":
    raise SystemExit(main())
