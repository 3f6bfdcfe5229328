"""The C library: how it is built, which files are refused, and what happens without it."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from twostroke.backend.cpu import library as native
from twostroke.backend.cpu.backend import NumpyBackend
from twostroke.backend.cpu.blas import Pools, ThreadCount

ROOT = Path(__file__).parents[2]
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


def _module() -> Any:
    path = ROOT / "hatch_build.py"
    if not path.exists():
        pytest.skip("this copy of the project has no hatch_build.py")
    spec = importlib.util.spec_from_file_location("hatch_build", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in (native.SWITCH, "CC"):
        monkeypatch.delenv(name, raising=False)
    native.library.cache_clear()
    yield
    native.library.cache_clear()


@pytest.fixture
def hook() -> Any:
    """The build hook, with a compiler."""
    module = _module()
    if shutil.which("cc") is None or (sys.platform, os.uname().machine) != ("linux", "x86_64"):
        pytest.skip("needs a C compiler, on Linux and x86-64")
    return module


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A copy of the C sources that a test may change."""
    return Path(shutil.copytree(native.FOLDER, tmp_path / "sources", ignore=shutil.ignore_patterns("*.so", "*.json")))


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the library that the tests run with, which `library()` now looks for."""
    needs_library()
    folder = Path(shutil.copytree(native.FOLDER, tmp_path / "built"))
    monkeypatch.setattr(native, "FOLDER", folder)
    return folder


def needs_library() -> None:
    found = native.library()
    native.library.cache_clear()
    if found.native is None:
        pytest.skip(f"no C library here: {found.reason}")


def build_answers(hook: Any, sources: Path, folder: Path, *flags: str) -> None:
    """Libraries that answer what is asked first, and can do nothing else."""
    folder.mkdir()
    names = ("play", "product_float", "product_double", "largest", "set_threads", "threads", "latency")
    (sources / "rest.c").write_text("".join(f"void twostroke_{name}(void) {{}}\n" for name in names))
    digests = {}
    for variant in native.VARIANTS:
        path = folder / f"_native_{variant}.so"
        units = [str(sources / name) for name in ("library.c", "rest.c")]
        hook._run(["cc", "-shared", "-fPIC", *hook.DEFINES[variant], *flags, *units, "-o", str(path)])
        digests[path.name] = hook.hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / native.BUILT).write_text(json.dumps({"compiler": "cc", "sha256": digests}))


def refused(folder: Path) -> str:
    """Why the library in this folder is not used."""
    try:
        native.FOLDER, before = folder, native.FOLDER
        native.library.cache_clear()
        found = native.library()
    finally:
        native.FOLDER = before
    assert found.native is None
    assert "\n" not in found.reason
    return found.reason


# --- loading ---------------------------------------------------------------------------------------------------


def test_the_library_of_this_installation(built: Path) -> None:
    compiler = json.loads((built / native.BUILT).read_text())["compiler"]
    found = native.library()
    assert found.reason in [f"{variant} library built by {compiler}" for variant in native.VARIANTS]


def test_the_switch(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.SWITCH, "0")
    assert native.library() == (None, "TWOSTROKE_LIBRARY=0")
    for value in ("1", "avx2"):
        native.library.cache_clear()
        monkeypatch.setenv(native.SWITCH, value)
        assert native.library().native is not None
    assert native.library().reason.startswith("avx2 library")


@pytest.mark.parametrize("fault", ["truncated", "empty", "one byte", "gone", "a folder"])
def test_a_damaged_file_is_refused(built: Path, fault: str) -> None:
    """Before it is mapped: the pages that a truncated file lacks would end the process with SIGBUS."""
    path = built / f"_native_{native.VARIANTS[0]}.so"
    content = path.read_bytes()
    path.unlink()
    if fault == "a folder":
        path.mkdir()
    elif fault != "gone":
        middle = len(content) // 2
        changed = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        path.write_bytes({"truncated": content[:4096], "empty": b"", "one byte": changed}[fault])
    reason = refused(built)
    assert str(path) in reason
    assert reason.endswith("Reinstall twostroke.")
    if path.is_file():
        assert f"{path.stat().st_size} bytes that are not the file that was built" in reason


@pytest.mark.parametrize("text", ["", "[]", "{}", "7", '{"compiler": "cc", "sha256": {}}', '{"sha256": 7}', "\udcff"])
def test_a_damaged_note_of_the_build_is_refused(built: Path, text: str) -> None:
    (built / native.BUILT).write_bytes(text.encode(errors="surrogateescape"))
    reason = refused(built)
    assert str(built) in reason
    assert reason.endswith("Reinstall twostroke.")


def test_a_copy_that_was_not_built_says_how(tmp_path: Path) -> None:
    assert refused(tmp_path) == "the C library was not built: pip install -e ., or python hatch_build.py"


def test_a_file_without_our_functions_is_refused(built: Path, hook: Any, tmp_path: Path) -> None:
    """A digest that fits and another content: nothing that this build makes, but a clear line all the same."""
    path = built / f"_native_{native.VARIANTS[0]}.so"
    (tmp_path / "other.c").write_text("int nothing;")
    hook._run(["cc", "-shared", "-fPIC", "-o", str(path), str(tmp_path / "other.c")])
    note = json.loads((built / native.BUILT).read_text())
    note["sha256"][path.name] = hook.hashlib.sha256(path.read_bytes()).hexdigest()
    (built / native.BUILT).write_text(json.dumps(note))
    assert "undefined symbol: twostroke_play. Reinstall" in refused(built)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("    word rows, columns, depth;\n", "    word depth, rows, columns;\n"),
        ("word before, after, first, steps; }", "word before, after, steps, first; }"),
        ("enum { UFUNC, TAKE,", "enum { UFUNC, ANOTHER, TAKE,"),
        ("word bytes; } copy_call;", "word bytes, more[20]; } copy_call;"),
    ],
)
def test_a_library_with_other_structures_is_refused(
    hook: Any, sources: Path, tmp_path: Path, before: str, after: str
) -> None:
    header = sources / "library.h"
    text = header.read_text()
    assert text.count(before) == 1
    header.write_text(text.replace(before, after))
    build_answers(hook, sources, tmp_path / "made")
    assert "other structures than those of library.py. Reinstall twostroke." in refused(tmp_path / "made")


def test_a_processor_without_the_instructions(hook: Any, sources: Path, tmp_path: Path) -> None:
    """As if CPUID said so: the library is built with another answer of the compiler's function."""
    build_answers(hook, sources, tmp_path / "none", "-D__builtin_cpu_supports(name)=0")
    expected = "this processor cannot run the C library, which needs avx512 or avx2"
    assert refused(tmp_path / "none") == expected
    without_avx512 = '-D__builtin_cpu_supports(name)=(__builtin_strncmp(name, "avx512", 6) != 0)'
    build_answers(hook, sources, tmp_path / "avx2", without_avx512)
    assert native.load(tmp_path / "avx2").reason.startswith("avx2 library")


# --- building --------------------------------------------------------------------------------------------------


def reason_of(hook: Any, target: Path) -> str:
    """Why the build made no library; the files of an earlier build are gone."""
    (target / "_native_avx2.so").write_bytes(b"of an earlier build")
    assert [path.name for path in hook.build(native.FOLDER, target)] == [native.BUILT]
    assert [path.name for path in target.iterdir()] == [native.BUILT]
    reason: str = json.loads((target / native.BUILT).read_text())["reason"]
    with pytest.raises(native.Unusable, match=re.escape(f"the package was built without its C library: {reason}")):
        native.load(target)
    return reason


def test_a_build(hook: Any, tmp_path: Path) -> None:
    """Both variants, whatever this processor is; nothing is visible but the interface, nothing needed but libc."""
    paths = hook.build(native.FOLDER, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in paths)
    for variant in native.VARIANTS:
        path = tmp_path / f"_native_{variant}.so"
        if shutil.which("nm") and shutil.which("readelf"):
            names = hook._run(["nm", "-D", "--defined-only", str(path)]).split()[2::3]
            assert names == sorted(f"twostroke_{name}" for name, *_ in native.FUNCTIONS)
            needed = [line for line in hook._run(["readelf", "-d", str(path)]).splitlines() if "NEEDED" in line]
            assert {line.split("[")[1] for line in needed} <= {
                "libc.so.6]",
                "libpthread.so.0]",
                "ld-linux-x86-64.so.2]",
            }


def test_what_was_built_is_kept_while_it_is_intact(
    hook: Any, sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compiled() -> bool:
        """With a compiler that leaves its mark."""
        mark = tmp_path / "mark"
        mark.unlink(missing_ok=True)
        compiler = tmp_path / "compiler"
        compiler.write_text(
            f'#!/bin/sh\n[ "$1" = --version ] && exit\ntouch {mark}\nfor last; do :; done; : >"$last"\n'
        )
        compiler.chmod(0o755)
        monkeypatch.setenv("CC", str(compiler))
        hook.build(sources, tmp_path / "made")
        return mark.exists()

    assert compiled()
    assert not compiled()
    (sources / "tiles.h").write_text("/* another */")
    assert compiled()
    for path in (tmp_path / "made").iterdir():
        assert not compiled()
        path.write_bytes(b"damaged")
        assert compiled(), path


def test_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hook = _module()
    for value in ("no-such-compiler", ""):
        monkeypatch.setenv("CC", value)
        assert reason_of(hook, tmp_path) == "no C compiler found (cc, or the one in CC)"
    monkeypatch.setenv(native.SWITCH, "1")
    with pytest.raises(hook.NotBuilt, match="no C compiler found"):
        hook.build(native.FOLDER, tmp_path)


def test_the_switch_of_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.SWITCH, "0")
    assert reason_of(_module(), tmp_path) == "TWOSTROKE_LIBRARY=0"


@pytest.mark.parametrize(
    ("script", "reason"),
    [("echo 'in file'; echo 'error: no space left' >&2; exit 1", "failed: error: no space left"),
     ("exit 3", "failed: no message")],
    ids=["it complains", "it says nothing"],
)  # fmt: skip
def test_a_compiler_that_fails(tmp_path: Path, script: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "a compiler"
    compiler.write_text(f"#!/bin/sh\n{script}\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", f"'{compiler}'")
    (tmp_path / "made").mkdir()
    assert reason_of(_module(), tmp_path / "made").endswith(reason)


def test_another_platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hook = _module()
    monkeypatch.setattr(hook.platform, "machine", lambda: "aarch64")
    assert reason_of(hook, tmp_path).endswith("not for linux on aarch64")


# --- running ---------------------------------------------------------------------------------------------------


def run_python(code: str, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *arguments],
        env={**os.environ, **environment}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def trained(dtype: str, switch: str) -> tuple[float, str]:
    total, how = run_python(STEP, dtype, TWOSTROKE_LIBRARY=switch).split(" ", 1)
    return float(total), how


def test_training_works_with_it_and_without_it() -> None:
    """To rounding: without it the products are BLAS's."""
    needs_library()
    for dtype, limit in (("float64", 1e-12), ("float32", 1e-4)):
        with_it, how = trained(dtype, "avx2")
        without, why = trained(dtype, "0")
        assert how.startswith("played, avx2 library built by ")
        assert why == "replayed from Python: TWOSTROKE_LIBRARY=0"
        assert abs(with_it - without) <= limit


def test_numpy_knows_the_limits_of_its_types_within_a_step() -> None:
    """Some of NumPy is imported when it is first used, and asks for them."""
    script = """
        import numpy as np
        import twostroke as ts
        with ts.select_backend("cpu", 1).active():
            np.ma.masked_array([1.0, 2.0], mask=[True, False]).sum()
            found = [np.finfo(kind).smallest_subnormal for kind in ("float32", "float64")]
        print(*(float(x).hex() for x in found))
    """
    assert run_python(script) == "0x1.0000000000000p-149 0x0.0000000000001p-1022"


def test_a_weight_that_is_not_finite_ends_the_training() -> None:
    """Also where only zeros meet it, which our products skip: with the library and without it, by the same error."""
    script = """
        import numpy as np
        import twostroke as ts
        images, labels = np.full((64, 20), 200, np.uint8), (np.arange(64) % 5).astype(np.uint8)
        images[:, 0] = 0  # what the first weight meets
        data = ts.Dataset.from_arrays(images, labels, images, labels)
        for bad in (np.inf, np.nan):
            net = ts.MLP([20, 30, 5])
            net.parameters[0] = bad
            try:
                list(ts.train(net, data, ts.TrainConfig(epochs=1, batch_size=32), backend=ts.select_backend("cpu", 1)))
            except ts.DivergenceError:
                print("refused")
    """
    for switch in ("1", "0"):
        assert run_python(script, TWOSTROKE_LIBRARY=switch).split() == ["refused"] * 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_can_multiply() -> None:
    """Also a child that is forked while other threads multiply: their locks and workspaces are lost, not waited for."""
    needs_library()
    script = """
        import os, threading
        import numpy as np
        from twostroke.backend.cpu.library import Products, library
        native = library().native
        products = Products(native)
        a = np.ones((300, 300))

        def multiply(times):
            native.set_threads(3)
            c = np.zeros_like(a)
            for _ in range(times):
                products.product(1.0, a, a, 0.0, c)
                assert (c == 300).all()

        multiply(1)
        stop = threading.Event()
        others = [threading.Thread(target=lambda: [multiply(1) for _ in iter(stop.is_set, True)]) for _ in range(3)]
        for thread in others:
            thread.start()
        for _ in range(10):
            child = os.fork()
            if not child:
                multiply(5)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        stop.set()
        for thread in others:
            thread.join()
        multiply(5)
        print("all")
    """
    # Python 3.12 warns of a fork beside threads, which is what is tested.
    quiet = "import warnings\nwarnings.simplefilter('ignore', DeprecationWarning)\n"
    assert run_python(quiet + textwrap.dedent(script)) == "all"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("threads", ["None", "1", "2", "'auto'"])
def test_a_fork_beside_threads_that_predict_can_predict(threads: str) -> None:
    """In float32, whose products are the library's own. None: the default of a network."""
    needs_library()
    script = f"""
        import os, threading, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        import numpy as np
        import twostroke as ts
        threads = {threads}
        if isinstance(threads, int):
            threads = min(threads, len(os.sched_getaffinity(0)))
        net = ts.MLP([784, 128, 10], backend=None if threads is None else ts.select_backend("cpu", threads))
        X = np.random.default_rng(0).integers(0, 256, (64, 784), dtype=np.uint8)
        expected, stop = net.predict_proba(X), threading.Event()
        predict = lambda: [net.predict_proba(X) for _ in iter(stop.is_set, True)]
        others = [threading.Thread(target=predict) for _ in range(2)]
        for thread in others:
            thread.start()
        for _ in range(20):
            child = os.fork()
            if not child:
                os._exit(not all(np.array_equal(net.predict_proba(X), expected) for _ in range(5)))
            assert os.waitpid(child, 0)[1] == 0
        stop.set()
        for thread in others:
            thread.join()
        print("all")
    """
    assert run_python(textwrap.dedent(script)) == "all"


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no list of a process's threads here")
def test_a_fork_starts_its_own_workers() -> None:
    """A child has none of its parent's: it starts as many as it wants, and does not compute on one thread unseen."""
    needs_library()
    script = """
        import os, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        import numpy as np
        import twostroke as ts
        cores, found, workers = len(os.sched_getaffinity(0)), [], []
        net = ts.MLP([784, 128, 10], backend=ts.select_backend("cpu", cores))
        X = np.random.default_rng(0).integers(0, 256, (640, 784), dtype=np.uint8)
        with net.backend.active():
            for generation in range(2):
                found.append(net.predict_proba(X).tobytes())
                workers.append(len(os.listdir("/proc/self/task")))
                if generation == 0 and (child := os.fork()):
                    raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        print("all" if len(set(found)) == 1 and min(workers) >= cores else workers, flush=True)
    """
    assert run_python(textwrap.dedent(script)) == "all"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_beside_threads_that_set_blas_threads_can_set_them() -> None:
    """OpenBLAS starts its threads while it sets their number: of 1,000 children forked meanwhile some hung for ever."""
    script = """
        import os, signal, threading, time, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        from twostroke.backend.cpu.blas import scipy_blas
        pool, stop = scipy_blas().pool, threading.Event()

        def toggle():
            while not stop.is_set():
                pool.enter(1)
                pool.leave()

        others = [threading.Thread(target=toggle) for _ in range(2)]
        for thread in others:
            thread.start()
        for _ in range(1000):
            child = os.fork()
            if not child:
                signal.alarm(20)
                pool.enter(1)
                pool.leave()
                os._exit(0)
            if os.waitpid(child, 0)[1]:
                break
        else:
            print("all")
        stop.set()
    """
    assert run_python(script) == "all"


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_worker_threads_block_every_signal() -> None:
    """A signal reaches a thread of the program, never a worker."""
    needs_library()
    blocked = run_python("""
        import os, signal
        from twostroke.backend.cpu.library import library
        before = set(os.listdir("/proc/self/task"))
        library().native.set_threads(4)
        workers = sorted(set(os.listdir("/proc/self/task")) - before)
        for worker in workers:
            lines = open(f"/proc/self/task/{worker}/status").read().splitlines()
            print(next(int(line.split()[1], 16) for line in lines if line.startswith("SigBlk")))
        assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])
    """).split()
    every = sum(1 << number - 1 for number in range(1, 65) if number not in (9, 19, 32, 33))  # KILL, STOP, glibc's own
    assert len(blocked) == 3
    assert all(int(mask) & every == every for mask in blocked)


# --- the number of threads of the process -------------------------------------------------------------------------


def test_float64_has_the_same_bits_in_every_thread() -> None:
    """Its products are OpenBLAS's, whose one number of threads belongs to the process: also beside a fit of two threads
    that ends meanwhile."""
    found = run_python("""
        import threading
        import numpy as np
        import twostroke as ts

        rng = np.random.default_rng(0)
        X, y = rng.random((600, 784)), rng.integers(0, 10, 600)
        data = ts.Dataset.from_arrays(X, y, X[:100], y[:100])

        def trained(threads, found):
            net = ts.MLP([784, 300, 10], dtype="float64")
            ts.fit(net, data, ts.TrainConfig(epochs=1, batch_size=200), backend=ts.select_backend("cpu", threads))
            found.append(np.asarray(net.parameters).copy())

        alone, found, other = [], [], []
        trained(1, alone)
        for _ in range(5):
            both = [threading.Thread(target=trained, args=arguments) for arguments in ((1, found), (2, other))]
            for thread in both:
                thread.start()
            for thread in both:
                thread.join()
        print(all(np.array_equal(one, alone[0]) for one in found))
    """)
    assert found == "True"


def test_the_smallest_wanted_number_holds_and_the_one_from_before_comes_back() -> None:
    set_to = [4]
    pools = Pools([ThreadCount(lambda: set_to[-1], set_to.append)])

    def other() -> None:
        pools.enter(1)
        entered.set()
        leave.wait()
        pools.leave()

    pools.enter(3)
    pools.enter(2)
    pools.leave()
    pools.change(5)
    assert set_to == [4, 3, 2, 3, 5]
    entered, leave = threading.Event(), threading.Event()
    thread = threading.Thread(target=other)
    thread.start()
    entered.wait()
    assert set_to[-1] == 1
    pools.change(8)
    assert set_to[-1] == 1
    leave.set()
    thread.join()
    assert set_to[-1] == 8
    pools.leave()
    assert set_to[-1] == 4


def test_the_latency_between_two_cores() -> None:
    """Light takes a nanosecond for a foot; a processor that is not there cannot answer. Affinity stays as it was."""
    before = os.sched_getaffinity(0)
    found = native.core_latency_ns()
    assert os.sched_getaffinity(0) == before
    if len(before) == 1:
        assert found is None
        return
    assert found is not None
    assert 1 < found < 1e6
    try:
        os.sched_setaffinity(0, {min(before)})
        assert native.core_latency_ns() is None
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [1, 2, 15, 784, 65_535, 65_536, 100_003, 32 * 32_768 + 5])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_largest_magnitude(dtype: str, size: int, threads: int) -> None:
    """Compared with NumPy's, wherever a larger number, an infinity or a NaN lies."""
    needs_library()
    backend, rng = NumpyBackend(threads), np.random.default_rng(size)
    assert backend.largest_magnitude is not None
    array = rng.standard_normal(size).astype(dtype)
    with backend.active():
        for at in {0, size // 2, size - 1, *rng.integers(size, size=8).tolist()}:
            for value in (np.nan, -np.nan, np.inf, -np.inf, -np.finfo(dtype).max, 7.25, -1e30):
                kept, array[at] = array[at], value
                expected, found = np.abs(array).max(), backend.largest_magnitude(array)
                array[at] = kept
                assert found == expected or (np.isnan(found) and np.isnan(expected))
        assert backend.largest_magnitude(-np.zeros(size, dtype)) == 0
