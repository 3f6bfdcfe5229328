"""Systems other than Linux, by construction: a process without the names that Windows lacks trains, saves and resumes.

No test has run on Windows or macOS. What these show: the package asks for no such name without another way.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

# Packages imported first keep the system's modules: they have chosen their way by sys.platform.
TAKEN_AWAY = """
    import builtins, enum, importlib, io, os, signal, sys, types
    for name in ("filelock", "numpy", "PIL.Image", "rich.progress", "safetensors.numpy", "scipy.linalg", "typer",
                 "joblib", "sklearn.neural_network"):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:  # an extra
            pass

    def reduced(module, names):
        names = set(names.split())
        assert names <= set(vars(module)), names - set(vars(module))
        sys.modules[module.__name__] = less = types.ModuleType(module.__name__)
        vars(less).update((name, value) for name, value in vars(module).items() if name not in names)
        return less

    for name in ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty"):
        sys.modules[name] = None
    less_os = reduced(os, "O_NONBLOCK O_DIRECTORY O_NOFOLLOW O_CLOEXEC fork register_at_fork sched_getaffinity"
        " sched_setaffinity sched_yield memfd_create posix_fallocate uname getuid geteuid getgid getegid getloadavg"
        " sysconf fchmod chown mkfifo killpg setsid wait3 wait4 WNOHANG pread pwrite readv preadv sendfile")
    less_signal = reduced(signal, "SIGHUP SIGXCPU SIGPIPE SIGKILL SIGSTOP SIGCONT SIGALRM SIGUSR1 SIGUSR2 alarm"
        " setitimer pthread_sigmask sigwait siginterrupt")
    less_signal.Signals = enum.IntEnum("Signals", [("SIGINT", 2), ("SIGILL", 4), ("SIGABRT", 22), ("SIGTERM", 15)])
    less_os.supports_effective_ids = set()

    def without(function, refused):
        def call(path, *arguments, **options):
            refused(path)
            if options.get("effective_ids"):
                raise NotImplementedError("effective_ids")
            return function(path, *arguments, **options)
        return call

    def no_proc(path):
        path = os.fspath(path) if isinstance(path, (str, os.PathLike)) else ""
        if path.startswith(("/proc", "/sys", "/dev/shm")) and path != "/proc/self/maps":  # threadpoolctl's, on Linux
            raise FileNotFoundError(2, "no such file", path)

    def no_folder(path):
        no_proc(path)
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied", path)

    builtins.open = io.open = without(open, no_proc)
    less_os.open, less_os.access = without(os.open, no_folder), without(os.access, no_proc)
    less_os.listdir = without(os.listdir, no_proc)
"""


def run_without(code: str, *arguments: str) -> list[str]:
    """The lines that ``code`` prints, in a process that has lost those names."""
    script = textwrap.dedent(TAKEN_AWAY) + textwrap.dedent(code)
    command = [sys.executable, "-W", "error", "-c", script, *arguments]
    environment = {**os.environ, "TWOSTROKE_LIBRARY": "0"}  # the C library is built for Linux
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def small(tmp_path: Path) -> str:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (300, 12), dtype=np.uint8)
    labels = (images[:, 0] > 127).astype(np.uint8)
    path = tmp_path / "small.npz"
    train, test = slice(240), slice(240, None)
    np.savez(
        path, train_images=images[train], train_labels=labels[train], test_images=images[test], test_labels=labels[test]
    )
    return str(path)


def test_the_command_line_trains_saves_resumes_and_uses_a_model(small: str, tmp_path: Path) -> None:
    lines = run_without(
        """
        from twostroke.cli import main
        data, folder = sys.argv[1:]
        model = os.path.join(folder, "run", "model.safetensors")
        train = ["train", data, "--layers", "12,8,2", "--epochs", "3", "--checkpoint-every", "1"]
        train += ["--out", os.path.join(folder, "run")]
        for words in (train, [*train, "--resume"], [*train, "--dry-run"], ["evaluate", model, data],
                      ["predict", model, "--index", "0", "--data", data], ["doctor"], ["--help"]):
            print("exit code", main(words))
        """,
        small, str(tmp_path),
    )  # fmt: skip
    assert [line for line in lines if line.startswith("exit code")] == ["exit code 0"] * 7
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {"model.safetensors", "checkpoint.safetensors"}


def test_a_second_run_in_a_folder_is_refused(tmp_path: Path) -> None:
    """By filelock, as fcntl is missing."""
    lines = run_without(
        """
        from pathlib import Path
        from twostroke.errors import ConfigError
        from twostroke.runs.folder import locked
        folder = Path(sys.argv[1])
        with locked(folder, "--out"):
            try:
                with locked(folder, "--out"):
                    pass
            except ConfigError as error:
                print(error)
        with locked(folder, "--out"):
            print("free again")
        """,
        str(tmp_path),
    )
    assert len(lines) == 2
    assert "another run writes here" in lines[0]


def test_python_trains(small: str) -> None:
    lines = run_without(
        """
        import twostroke as ts
        data = ts.load_dataset(sys.argv[1])
        net = ts.MLP([12, 8, 2])
        history = ts.fit(net, data, ts.TrainConfig(epochs=2))
        print(len(history), ts.select_backend("auto").device)
        """,
        small,
    )
    assert lines == ["2 cpu"]


def test_the_estimators_fit(small: str) -> None:
    pytest.importorskip("sklearn")
    lines = run_without(
        """
        import warnings
        import numpy as np
        import twostroke as ts
        from twostroke.sklearn import MLPClassifier
        data = ts.load_dataset(sys.argv[1])
        X = data.train_images.astype(np.float64) / 255
        warnings.simplefilter("ignore")  # it has not converged yet
        net = MLPClassifier((8,), learning_rate_init=0.02, max_iter=60, random_state=0).fit(X, data.train_labels)
        print(net.score(X, data.train_labels) > 0.9)
        """,
        small,
    )
    assert lines == ["True"]
