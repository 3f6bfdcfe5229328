"""``doctor`` on a GPU machine: over the fake CuPy, and over a map of loaded libraries."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.strict_device import plant_fake_cupy
from twostroke.backend.cuda import libraries, probe
from twostroke.measure import doctor

MAPS = """\
7f00-7f01 r-xp 0 08:01 11 /usr/lib/x86_64-linux-gnu/libcuda.so.580.1
7f02-7f03 r-xp 0 08:01 12 /v/site-packages/nvidia/cublas/lib/libcublas.so.13
7f02-7f03 r-xp 0 08:01 13 /v/site-packages/nvidia/cublas/lib/libcublasLt.so.13
7f04-7f05 r-xp 0 08:01 14 /usr/local/cuda-13.0/lib64/libnvrtc.so.13.0.88
7f04-7f05 r-xp 0 08:01 15 /v/site-packages/cupy/.data/lib/libcudart-d0da41ae.so.12
7f06-7f07 rw-p 0 00:00 0
7f06-7f07 rw-p 0 00:00 0 [heap]
"""


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, fresh_probe: None) -> Any:
    fake, _ = plant_fake_cupy(monkeypatch)
    pool = SimpleNamespace(total_bytes=lambda: 0, get_limit=lambda: 1 << 29)
    fake.get_default_memory_pool = lambda: pool
    fake.cuda.nvrtc = SimpleNamespace(getVersion=lambda: (13, 0))
    monkeypatch.setattr(probe, "cupy_wheels", lambda: ["cupy-cuda13x 14.2.0"])
    monkeypatch.setattr(doctor, "GEMM_SIZE", 8)
    for name in libraries.TF32_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return fake


def test_libraries_are_named_with_their_origin(tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    maps.write_text(MAPS)
    found = libraries.loaded_libraries(str(maps))
    assert {name: library["from"] for name, library in found.items()} == {
        "driver": "the system",
        "runtime": "the CuPy wheel",
        "cublas": "the CUDA wheels",
        "nvrtc": "a CUDA toolkit",
    }
    assert found["cublas"]["path"].endswith("/libcublas.so.13")
    assert libraries.loaded_libraries(str(tmp_path / "none")) == {}


def test_doctor_on_a_gpu_machine(gpu: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "maps").write_text(MAPS)
    original = libraries.cuda_installation
    monkeypatch.setattr(doctor, "cuda_installation", lambda: original(maps=str(tmp_path / "maps")))
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    facts = doctor.examine()
    assert facts["gpu"]["memory_free_bytes"] == 1024
    assert facts["gpu"]["nvrtc_version"] == "13.0"
    text = doctor.lines(facts)
    assert "GPU: Fake GPU, compute capability 9.0, driver for CUDA 13.0, runtime CUDA 12.9" in text
    assert "GPU memory: 1.0 GiB, 0.0 GiB free, CuPy may use 0.50 GiB" in text
    assert "TF32: off, --tf32 switches it on (NVIDIA_TF32_OVERRIDE=0 is set)" in text
    assert any(line.startswith("steps are replayed: not; call by call: ") for line in text)  # this fake has no streams
    facts["gpu"]["graphs"] = {"used": True, "reason": ""}
    assert "steps are replayed: as CUDA graphs" in doctor.lines(facts)
    assert "CUDA library: nvrtc /usr/local/cuda-13.0/lib64/libnvrtc.so.13.0.88 (a CUDA toolkit)" in text
    assert all("\n" not in line for line in text)


def test_what_cannot_be_found_out_is_left_out(gpu: Any) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no")

    del gpu.get_default_memory_pool
    gpu.cuda.nvrtc.getVersion = gpu.cuda.runtime.memGetInfo = broken
    facts = doctor.examine()
    assert "memory_free_bytes" not in facts["gpu"]
    assert "GPU memory: 1.0 GiB" in doctor.lines(facts)


def test_without_a_gpu_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "probe_cuda", lambda: probe.Probe(False, "no CUDA GPU found", "Check it."))
    facts = doctor.examine()
    assert facts["gpu"] is None
    assert not [line for line in doctor.lines(facts) if line.startswith(("GPU memory", "TF32", "CUDA library"))]
