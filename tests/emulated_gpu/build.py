"""Builds the emulated libraries for the CuPy of this Python, once, into a cache; and the environment to run over it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sysconfig
import tempfile
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parent
CUPY = "14.2.0"  # also in requirements.txt
HOME = "EMULATED_GPU_HOME"  # a folder for what is built and compiled; by default one in the user's cache
FLAGS = (
    *("-O2", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", "-Wno-missing-field-initializers"),
    *("-fPIC", "-shared", "-fvisibility=hidden", "-D_GNU_SOURCE"),
)
LIBRARIES = ("libcuda.so.1", "libcublas.so.12", "libcublasLt.so.12")
REFUSAL = """#include <stdio.h>
#define REFUSES(f) __attribute__((visibility("default"))) int f(void) {{ \\
    fputs("emulated GPU: " #f " is not emulated\\n", stderr); return 15; }}
{}
"""


def missing() -> str | None:
    """Why the emulated device cannot be built here; None where it can."""
    if os.uname().sysname != "Linux" or os.uname().machine != "x86_64":
        return f"the emulated GPU needs Linux on x86-64, this is {os.uname().sysname} on {os.uname().machine}"
    lacking = [tool for tool in ("gcc", "nm") if not shutil.which(tool)]
    if lacking:
        return f"the emulated GPU needs {' and '.join(lacking)}"
    try:
        found = metadata.version("cupy-cuda12x")
    except metadata.PackageNotFoundError:
        found = ""
    if found != CUPY:
        return f"the emulated GPU needs cupy-cuda12x {CUPY}, found {found or 'none'}"
    if not (site() / "nvidia/cuda_nvrtc").is_dir():
        return "the emulated GPU needs the CUDA wheels: pip install -r tests/emulated_gpu/requirements.txt"
    return None


def site() -> Path:
    return Path(sysconfig.get_path("purelib"))


def home() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(HOME) or Path(cache) / "twostroke-emulated-gpu").absolute()


def digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def texts(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.rglob("*")) if path.suffix in (".c", ".h", ".py")]


def libraries() -> Path:
    """The folder of the three libraries, which are built if they are not there yet."""
    wheels = sorted(f"{dist.name} {dist.version}" for dist in metadata.distributions() if "cu" in (dist.name or ""))
    key = digest(*texts(HERE / "device"), *texts(HERE / "translator"), Path(__file__).read_bytes(), str(HERE).encode(),
                 str(site()).encode(), *(wheel.encode() for wheel in wheels))  # fmt: skip
    folder = home() / f"lib-{key}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            built = Path(temporary) / "lib"
            built.mkdir()
            build(built)
            try:
                built.rename(folder)
            except OSError:
                if not folder.is_dir():  # else another process was quicker
                    raise
    return folder


def build(folder: Path) -> None:
    device = HERE / "device"
    sources = sorted(path for path in device.glob("*.c") if path.name != "blas.c")
    headers = [f"-I{device}/headers", f"-I{site()}/nvidia/cuda_runtime/include", f"-I{site()}/nvidia/cublas/include"]
    translator = HERE / "translator"
    names = [f'-DPROJECT="{HERE.parents[1]}"', f'-DTRANSLATOR_STAMP="{digest(*texts(translator))}"']
    cuda, cublas, cublas_lt = (folder / name for name in LIBRARIES)
    gcc(cuda, *headers, *names, *map(str, sources), "-ldl", "-lpthread")
    refusals = folder / "refusals.c"
    refusals.write_text(REFUSAL.format("\n".join(f"REFUSES({name})" for name in not_emulated(device / "blas.c"))))
    version = folder / "version.map"
    version.write_text("libcublas.so.12 { global: cublas*; local: *; };\n")
    gcc(cublas, *headers, str(device / "blas.c"), str(refusals), f"-Wl,--version-script={version}", str(cuda),
        "-Wl,-rpath,$ORIGIN")  # fmt: skip
    # CuPy 14 opens it before it takes cuBLAS, and calls nothing of it.
    empty = folder / "empty.c"
    empty.write_text("extern int emulated_gpu_has_no_cublas_lt;\nint emulated_gpu_has_no_cublas_lt;\n")
    gcc(cublas_lt, str(empty))


def gcc(library: Path, *arguments: str) -> None:
    subprocess.run(["gcc", *FLAGS, *arguments, "-o", str(library), f"-Wl,-soname,{library.name}"], check=True)


def not_emulated(blas: Path) -> list[str]:
    """The functions of cuBLAS that CuPy's extension links to, or asks for, and ``blas.c`` does not hold."""
    (extension,) = (site() / "cupy_backends/cuda/libs").glob("cublas*.so")
    symbols = subprocess.run(["nm", "-D", extension], capture_output=True, text=True, check=True).stdout.split()
    wanted = {name.partition("@")[0] for name in symbols if name.startswith("cublas")} | {"cublasGetProperty"}
    text = blas.read_text()
    return sorted(name for name in wanted if f"{name}(" not in text)


def environment(**settings: str) -> dict[str, str]:
    """The environment of a process over the emulated device: ``environment(QUEUE="late")`` sets EMULATED_GPU_QUEUE."""
    folder = libraries()
    kernels = home() / "kernels"
    kernels.mkdir(parents=True, exist_ok=True)
    return {
        **os.environ,
        "LD_PRELOAD": " ".join(str(folder / name) for name in LIBRARIES),
        "EMULATED_GPU_KERNELS": str(kernels),
        "CUPY_COMPILE_WITH_PTX": "1",  # machine code cannot be translated
        "CUPY_CACHE_DIR": str(home() / "cupy"),
        **{f"EMULATED_GPU_{name}": value for name, value in settings.items()},
    }
