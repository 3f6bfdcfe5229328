"""The compiled library: where it comes from, where it is kept, and what happens without it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from twostroke.backend.cpu import library as native

STEP = textwrap.dedent("""
    import os, sys
    import numpy as np
    import twostroke as ts
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (300, 20), np.uint8), rng.integers(0, 5, 300).astype(np.uint8)
    data = ts.Dataset.from_arrays(images, labels, images[:50], labels[:50])
    net = ts.MLP([20, 30, 5], dtype=sys.argv[1])
    backend = ts.select_backend("cpu", 1)
    for record in ts.train(net, data, ts.TrainConfig(epochs=2, batch_size=32), backend=backend):
        pass
    print(net.parameters.sum(dtype=float), net.backend.describe()["steps"])
""")


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    native.library.cache_clear()
    yield
    native.library.cache_clear()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(native.SWITCH, raising=False)
    monkeypatch.delenv("CC", raising=False)
    return tmp_path / "cache" / "twostroke"


def compiler(folder: Path, script: str) -> str:
    """A compiler of our own making."""
    path = folder / "a compiler"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return f"'{path}'"


def needs_cc() -> None:
    found = native.library()
    native.library.cache_clear()
    if found.native is None:
        pytest.skip(f"no compiled library here: {found.reason}")


def test_it_is_compiled_once_and_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_cc()
    files = list(cache.iterdir())
    assert [path.suffix for path in files] == [".so"]
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("compiled again"))
    assert native.library().native is not None
    assert native.library().reason.startswith("compiled by /")


def test_another_processor_or_compiler_flag_is_another_file(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_cc()
    for change in (("_processor", lambda: b"another"), ("FLAGS", ("-g", *native.FLAGS))):
        before = set(cache.iterdir())
        monkeypatch.setattr(native, *change)
        native.library.cache_clear()
        assert native.library().native is not None
        assert len(set(cache.iterdir()) - before) == 1


@pytest.mark.parametrize("fault", ["others may write", "a link", "a file", "no home"])
def test_a_folder_that_is_not_ours_alone_is_not_used(cache: Path, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is compiled for this process only."""
    needs_cc()
    for path in cache.iterdir():
        path.unlink()
    elsewhere = cache.parent / "elsewhere"
    elsewhere.mkdir()
    if fault == "others may write":
        cache.chmod(0o777)
    else:
        cache.rmdir()
        if fault == "a link":
            cache.symlink_to(elsewhere)
        elif fault == "a file":
            cache.write_text("")
        else:
            monkeypatch.delenv("XDG_CACHE_HOME")
            monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert native.library().native is not None
    assert not any(elsewhere.iterdir())
    assert not cache.is_dir() or not any(cache.iterdir())


@pytest.mark.parametrize(
    ("script", "reason"),
    [("echo 'no space left' >&2; exit 1", "failed: no space left"), ("exit 3", "failed: no message"),
     ("for last; do :; done; echo rubbish >\"$last\"", "")],
    ids=["it complains", "it says nothing", "it writes rubbish"],
)  # fmt: skip
def test_a_compiler_that_fails(
    cache: Path, tmp_path: Path, script: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", compiler(tmp_path, script))
    found = native.library()
    assert found.native is None
    assert reason in found.reason
    assert "\n" not in found.reason


def test_no_compiler_and_the_switch(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("no-such-compiler", ""):
        monkeypatch.setenv("CC", value)
        native.library.cache_clear()
        assert native.library() == (None, "no C compiler found (cc, or the one in CC)")
    monkeypatch.setenv(native.SWITCH, "0")
    native.library.cache_clear()
    assert native.library() == (None, "TWOSTROKE_COMPILE=0")
    assert not cache.exists()


def trained(dtype: str, **environment: str) -> tuple[float, str]:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", STEP, dtype],
        env={**os.environ, **environment}, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    total, how = done.stdout.strip().split(" ", 1)
    return float(total), how


def test_training_works_with_it_and_without_it(cache: Path) -> None:
    """In float64, where every product is BLAS's, to the same bits; in float32 to rounding."""
    needs_cc()
    for dtype, limit in (("float64", 0.0), ("float32", 1e-4)):
        with_it, how = trained(dtype)
        without, why = trained(dtype, TWOSTROKE_COMPILE="0")
        assert how.startswith("played, compiled by ")
        assert why == "replayed from Python: TWOSTROKE_COMPILE=0"
        assert abs(with_it - without) <= limit


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_can_multiply(cache: Path) -> None:
    needs_cc()
    script = textwrap.dedent("""
        import os
        import numpy as np
        from twostroke.backend.cpu.library import library
        from twostroke.backend.cpu.library import Products
        native = library().native
        native.set_threads(3)
        a = np.ones((300, 300), np.float32)
        c = np.zeros_like(a)
        Products(native.product).product(1.0, a, a, 0.0, c)
        child = os.fork()
        c[:] = 0
        for _ in range(50):
            native.set_threads(3)
            Products(native.product).product(1.0, a, a, 0.0, c)
        assert (c == 300).all()
        if child:
            assert os.waitpid(child, 0)[1] == 0
            print("both")
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "both\n"), done.stderr
