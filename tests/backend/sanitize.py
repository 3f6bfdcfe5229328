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
# What is compiled, with which variant and how many rounds. The threads are the same in both variants.
RUNS = (("address,undefined", "avx512", 400), ("address,undefined", "avx2", 400), ("thread", "avx2", 60))
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


def compiled(name: str, variant: str, compiler: list[str], folder: Path) -> Path:
    common = [*compiler, *hatch_build.FLAGS, "-O1", "-g", *SANITIZERS[name], *hatch_build.DEFINES[variant]]
    driver, objects = Path(__file__).with_suffix(".c"), []
    for unit in (*hatch_build.UNITS, "library"):
        objects.append(str(folder / f"{name}-{variant}-{unit}.o"))
        instructions = hatch_build.INSTRUCTIONS[variant] if unit in hatch_build.UNITS else ()
        hatch_build._run(
            [*common, *instructions, "-c", str(ROOT / hatch_build.NATIVE / f"{unit}.c"), "-o", objects[-1]]
        )
    out = folder / f"{name}-{variant}"
    hatch_build._run([*common, f"-I{ROOT / hatch_build.NATIVE}", str(driver), *objects, "-lm", "-o", str(out)])
    return out


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
            done = run([str(compiled(name, variant, compiler, folder)), SEED, str(rounds)])
            print(f"{'FOUND' if done.returncode else 'clean'}: {label}: {done.stdout.strip()}")
            print(done.stderr, end="")
            found |= done.returncode
    return int(bool(found))


if __name__ == "__main__":
    raise SystemExit(main())
