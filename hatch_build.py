"""Builds the C library of the CPU with the package: one shared object for AVX2 and one for AVX-512.

hatchling runs it for every wheel, editable installs included; `python hatch_build.py` builds in a copy of the source.
Without a C compiler, or on another platform than Linux on x86-64, the package is pure Python and says why
(`twostroke doctor`).
TWOSTROKE_LIBRARY=0 builds no library; with TWOSTROKE_LIBRARY=1 a library that cannot be built is an error.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

NATIVE = Path("src/twostroke/backend/cpu/native")
PRODUCTS = ("tiles", "blocks", "rows", "products")  # compiled for float32 and for float64
UNITS = (*PRODUCTS, *(f"{unit}-double" for unit in PRODUCTS), "gather", "latency", "magnitude", "player", "threads")
EVERYWHERE = ("library",)  # compiled for every x86-64 processor
SWITCH = "TWOSTROKE_LIBRARY"
# No -march=native: what is built here runs on other processors. No contraction: the compiler fuses no multiplication
# with an addition unless the source does, so the bits do not depend on the compiler.
FLAGS = ("-std=gnu11", "-O2", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-pthread")
# -mtune: by default gcc schedules the inner loop of a tile for older processors, and products take a tenth longer.
AVX2 = ("-mavx2", "-mfma", "-mbmi", "-mbmi2", "-mpopcnt", "-mtune=haswell")
AVX512 = (*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl")
DEFINES = {"avx2": (), "avx512": ("-DTWOSTROKE_AVX512",)}
INSTRUCTIONS = {"avx2": AVX2, "avx512": AVX512}
LIMIT_S = 120


class NotBuilt(Exception):
    """Why there is no library."""


def commands(
    variant: str, compiler: list[str], sources: Path, scratch: Path, out: Path, *flags: str
) -> list[list[str]]:
    """What compiles and links one variant; ``flags`` are further ones."""
    common = [*compiler, *FLAGS, *flags, *DEFINES[variant]]
    objects, compile_all = {}, []
    for unit in (*UNITS, *EVERYWHERE):
        source, _, double = unit.partition("-")
        objects[unit] = str(scratch / f"{variant}-{unit}.o")
        what = (*(INSTRUCTIONS[variant] if unit in UNITS else ()), *(("-DTWOSTROKE_DOUBLE",) if double else ()))
        compile_all.append([*common, *what, "-c", str(sources / f"{source}.c"), "-o", objects[unit]])
    return [*compile_all, [*common, "-shared", "-Wl,-z,defs,-z,noexecstack", *objects.values(), "-o", str(out)]]


def build(sources: Path, target: Path) -> list[Path]:
    """Build into ``target`` and return the files written: the libraries and built.json, or built.json alone.

    What was built from the same sources by the same commands is kept.
    """
    built: dict[str, Any]
    made: dict[str, bytes] = {}
    try:
        compiler = _compiler()
        version = _run([*compiler, "--version"]).partition("\n")[0] or shlex.join(compiler)
        key = hashlib.sha256(repr((version, compiler, FLAGS, INSTRUCTIONS, DEFINES)).encode())
        for path in sorted(sources.glob("*.[ch]")):
            key.update(path.read_bytes())
        if kept := _kept(target, key.hexdigest()):
            return kept
        with tempfile.TemporaryDirectory(prefix="twostroke-") as folder:
            for variant in INSTRUCTIONS:
                path = Path(folder, f"_native_{variant}.so")
                for command in commands(variant, compiler, sources, Path(folder), path):
                    _run(command)
                made[path.name] = path.read_bytes()
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in made.items()}
        built = {"compiler": version, "sha256": digests, "key": key.hexdigest()}
    except NotBuilt as error:
        if os.environ.get(SWITCH) == "1":
            raise
        made, built = {}, {"reason": str(error)}
    made["built.json"] = json.dumps(built, indent=1).encode()
    target.mkdir(parents=True, exist_ok=True)
    for old in target.glob("_native_*.so"):
        if old.name not in made:
            old.unlink()
    for name, content in made.items():
        # Renamed into place: a process that has mapped the old file keeps it.
        fresh = target / f".{name}.{os.getpid()}"
        fresh.write_bytes(content)
        fresh.replace(target / name)
    return [target / name for name in made]


def _kept(target: Path, key: str) -> list[Path]:
    """The files of an earlier build with this key, if they are intact."""
    try:
        built = json.loads((target / "built.json").read_bytes())
        intact = built["key"] == key and all(
            hashlib.sha256((target / name).read_bytes()).hexdigest() == digest
            for name, digest in built["sha256"].items()
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return []
    return [*(target / name for name in built["sha256"]), target / "built.json"] if intact else []


def _compiler() -> list[str]:
    if os.environ.get(SWITCH) == "0":
        raise NotBuilt(f"{SWITCH}=0")
    if (sys.platform, platform.machine()) != ("linux", "x86_64") or sys.maxsize < 2**32:
        raise NotBuilt(f"it is written for Linux on x86-64, not for {sys.platform} on {platform.machine()}")
    words = shlex.split(os.environ.get("CC", "cc"))
    if not words or shutil.which(words[0]) is None:
        raise NotBuilt("no C compiler found (cc, or the one in CC)")
    return words


def _run(command: list[str]) -> str:
    """What it prints. Raises ``NotBuilt``."""
    try:
        done = subprocess.run(command, capture_output=True, timeout=LIMIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotBuilt(f"{command[0]}: {error}") from error
    if done.returncode:
        complaint = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        first = next((line for line in complaint if "error" in line), complaint[0])
        raise NotBuilt(f"{command[0]} failed: {first}")
    return done.stdout.decode(errors="replace")


def get_build_hook() -> type:
    """The class that hatchling runs."""
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface

    class Library(BuildHookInterface):  # type: ignore[misc, type-arg, unused-ignore]
        PLUGIN_NAME = "custom"

        def initialize(self, version: str, build_data: dict[str, Any]) -> None:
            sources = Path(self.root) / NATIVE
            self.scratch = tempfile.TemporaryDirectory(prefix="twostroke-wheel-")
            target = sources if version == "editable" else Path(self.scratch.name)
            paths = build(sources, target)
            if version != "editable":
                inside = NATIVE.relative_to("src")
                build_data["force_include"].update({str(path): str(inside / path.name) for path in paths})
            if len(paths) > 1:
                build_data["pure_python"] = False
                build_data["tag"] = (
                    "py3-none-linux_x86_64"  # only libc and libpthread: `auditwheel` says which manylinux
                )
            else:
                reason = json.loads(paths[0].read_bytes())["reason"]
                self.app.display_warning(f"twostroke is built without its C library: {reason}")

        def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
            self.scratch.cleanup()

    return Library


if __name__ == "__main__":
    os.chdir(Path(__file__).parent)
    for path in build(NATIVE, NATIVE):
        print(path)
    print((NATIVE / "built.json").read_text(encoding="utf-8"))
