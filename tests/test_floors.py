"""The house plan held against the code: who may import whom, who may name a device, what is not in the code at all."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import twostroke

PACKAGE = Path(twostroke.__file__).parent
# The order is the reading order: a file imports only from lower floors, or from files before it on its own.
FLOORS = (
    ("errors", "version", "atomic_file", "randomness", "backend", "idx", "initializers", "sealed_file"),
    ("kernels", "dataset"),
    ("workspace", "mlp", "optimizers", "batches", "metrics"),
    ("shared_sum", "communicator", "train_config", "replay", "training", "data_parallel", "model_file", "checkpoint"),
    ("classic", "presets", "settings", "run_folder", "record", "verification", "crossover", "benchmark", "chart",
     "report", "past_run", "findings", "pictures", "page", "digit_image", "solvers", "estimator", "sklearn",
     "onnx_export", "drawing"),
    ("options", "doctor", "terminal", "commands", "cli", "__main__"),
)  # fmt: skip
BACKEND_ORDER = (
    "__init__", "blas", "native", "products", "threads", "tape", "program", "numpy_backend", "cublas", "capture",
    "nccl", "cupy_backend", "probe",
)  # fmt: skip
COMPUTE = ("kernels", "workspace", "mlp", "optimizers", "batches", "metrics")
DEVICE_LIBRARIES = {"cupy", "cupyx", "cupy_backends", "scipy", "threadpoolctl"}
HEAVY = (
    "cupy", "matplotlib", "sklearn", "mpi4py", "onnx", "typer", "rich", "scipy", "PIL", "threadpoolctl", "pandas",
    "torch", "jax", "pytest", "multiprocessing", "unittest", "jinja2", "waitress",
)  # fmt: skip
LONGEST_FILE, LARGEST = 400, 2200
RANK = {name: (floor, place) for floor, names in enumerate(FLOORS) for place, name in enumerate(names)}

SOURCES = {
    path.relative_to(PACKAGE).with_suffix("").as_posix(): path.read_text(encoding="utf-8")
    for path in sorted(PACKAGE.rglob("*.py"))
}


def imports(source: str, package: str = "twostroke") -> Iterator[tuple[str, int]]:
    """(absolute dotted name, line) of every import, those in functions included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            start = parents[: len(parents) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)


def package_of(name: str) -> str:
    return f"twostroke.{name.partition('/')[0]}" if "/" in name else "twostroke"


def own_imports(name: str, source: str) -> Iterator[tuple[str, int]]:
    """The files of this package that a file imports, as names on a floor."""
    for dotted, line in imports(source, package_of(name)):
        root, _, rest = dotted.partition(".")
        if root == "twostroke":
            yield rest.split(".")[0], line


def upward_imports(name: str, source: str) -> list[str]:
    """What a file imports from its own or a higher floor."""
    here = name.partition("/")[0]
    return [
        f"{name}:{line} imports {other}"
        for other, line in own_imports(name, source)
        if other != here and (other not in RANK or RANK[other] >= RANK[here])
    ]


def foreign_imports(name: str, source: str) -> list[str]:
    """Libraries that this file may not import."""
    banned = set() if name.startswith("backend/") else set(DEVICE_LIBRARIES)
    banned |= {"numpy", "cupy"} if name in COMPUTE else set()
    found = [(dotted, line) for dotted, line in imports(source) if dotted.split(".")[0] in banned]
    # SciPy is a device's library for its BLAS; its minimisers are none of that.
    return [f"{name}:{line} imports {dotted}" for dotted, line in found if not dotted.startswith("scipy.optimize.")]


def device_questions(name: str, source: str) -> list[str]:
    """Comparisons that ask which device this is: of ``backend.name``, or with the name of a module or class."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            parts: list[ast.expr] = [node.left, *node.comparators]
        elif isinstance(node, ast.Match):
            parts = [node.subject]
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("isinstance", "hasattr"):
            parts = list(node.args)
        else:
            continue
        inner = [child for part in parts for child in ast.walk(part)]
        attributes = [(ast.unparse(child.value), child.attr) for child in inner if isinstance(child, ast.Attribute)]
        words = {child.id for child in inner if isinstance(child, ast.Name)} | {attr for _, attr in attributes}
        of_backend = any(attr in ("name", "device") and "backend" in owner for owner, attr in attributes)
        if of_backend or words & {"numpy", "cupy", "NumpyBackend", "CupyBackend"} or "__name__" in words:
            found.append(f"{name}:{node.lineno} asks which device: {ast.unparse(node)}")
    dotted_names = [dotted.split(".") for dotted, _ in imports(source, package_of(name))]
    if any({"numpy_backend", "cupy_backend"} & set(dotted) for dotted in dotted_names):
        found.append(f"{name} imports a backend by name")
    return found


def dangers(name: str, source: str) -> list[str]:
    """Ways to run what a file says: none of them is in this package."""
    found = [
        f"{name}:{line} imports {dotted}"
        for dotted, line in imports(source)
        if dotted.split(".")[0] in {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml"}
    ]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            called = getattr(node.func, "id", None) or getattr(node.func, "attr", None)
            bad = called in {"extractall", "system", "popen"}
            bad |= isinstance(node.func, ast.Name) and called in {"eval", "exec", "compile", "__import__"}
            for keyword in node.keywords:
                true = not (isinstance(keyword.value, ast.Constant) and not keyword.value.value)
                bad |= keyword.arg in ("allow_pickle", "shell") and true
            if bad:
                found.append(f"{name}:{node.lineno}: {ast.unparse(node)}")
    return found


def lines_of_code(source: str) -> int:
    """Lines that hold code: not blank, not a comment, not part of a docstring."""
    skip = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    docstrings = {
        (body[0].lineno, body[0].col_offset)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and isinstance((body := node.body)[0] if node.body else None, ast.Expr)
        and isinstance(getattr(body[0], "value", None), ast.Constant)
    }
    lines: set[int] = set()
    for token in tokenize.generate_tokens(iter(source.splitlines(keepends=True)).__next__):
        if token.type not in skip and token.start not in docstrings:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines)


# --- the checks ----------------------------------------------------------------------------------------------


def test_every_file_has_its_place() -> None:
    files = {name for name in SOURCES if "/" not in name} - {"__init__"}
    assert files <= RANK.keys(), "a new file: give it a place in FLOORS"
    assert {name.partition("/")[0] for name in SOURCES if "/" in name} == {"backend", "commands"}
    assert {name.partition("/")[2] for name in SOURCES if name.startswith("backend/")} <= set(BACKEND_ORDER)


@pytest.mark.parametrize("name", SOURCES)
def test_imports_go_down(name: str) -> None:
    if name == "__init__":
        assert not {other for other, _ in own_imports(name, SOURCES[name])} & set(FLOORS[-1])
    else:
        assert not upward_imports(name, SOURCES[name])


def test_imports_go_down_inside_the_backend_too() -> None:
    """At the top of the files; ``select_backend`` and the probe import a backend when they need it."""
    for name in BACKEND_ORDER:
        tree = ast.parse(SOURCES[f"backend/{name}"])
        top = ast.unparse(ast.Module([n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)], []))
        for dotted, _ in imports(top, "twostroke.backend"):
            if dotted.startswith("twostroke.backend."):
                other = dotted.split(".")[2]
                if other in BACKEND_ORDER:
                    assert BACKEND_ORDER.index(other) < BACKEND_ORDER.index(name), f"{name} imports {other}"


CHECKS: list[Callable[[str, str], list[str]]] = [foreign_imports, dangers]


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: str(check.__name__))
def test_nothing_forbidden(check: Callable[[str, str], list[str]], name: str) -> None:
    assert not check(name, SOURCES[name])


@pytest.mark.parametrize("name", [name for name in SOURCES if not name.startswith("backend/")])
def test_nothing_outside_the_backend_asks_for_the_device(name: str) -> None:
    assert not device_questions(name, SOURCES[name])


FAULTS: list[tuple[Callable[[str, str], list[str]], str, str]] = [
    (upward_imports, "kernels", "from .mlp import MLP"),
    (upward_imports, "kernels", "from . import dataset"),
    (upward_imports, "kernels", "from twostroke.training import train"),
    (upward_imports, "kernels", "import twostroke.training"),
    (upward_imports, "kernels", "def f():\n    from . import cli"),
    (upward_imports, "workspace", "from .mlp import MLP"),
    (upward_imports, "backend/probe", "from ..kernels import relu_forward"),
    (upward_imports, "errors", "from .version import __version__"),
    (upward_imports, "commands/train", "from ..cli import main"),
    (upward_imports, "mlp", "from .unheard_of import x"),
    (foreign_imports, "kernels", "import numpy as np"),
    (foreign_imports, "mlp", "def f():\n    from numpy import linalg"),
    (foreign_imports, "training", "def f():\n    import cupy.cuda"),
    (foreign_imports, "report", "from scipy.linalg import blas"),
    (foreign_imports, "solvers", "import scipy"),
    (foreign_imports, "cli", "import threadpoolctl"),
    (foreign_imports, "benchmark", "import cupy_backends.cuda"),
    (device_questions, "training", "if net.backend.name == 'cupy': pass"),
    (device_questions, "training", "if backend.device != 'cpu': pass"),
    (device_questions, "training", "if xp.__name__ == 'numpy': pass"),
    (device_questions, "training", "x = 1 if array_module(x) is cupy else 2"),
    (device_questions, "training", "isinstance(backend, CupyBackend)"),
    (device_questions, "training", "match backend.name:\n    case 'cupy': pass"),
    (device_questions, "training", "from .backend.cupy_backend import CupyBackend"),
    (dangers, "model_file", "import pickle"),
    (dangers, "model_file", "np.load(path, allow_pickle=True)"),
    (dangers, "model_file", "np.load(path, allow_pickle=flag)"),
    (dangers, "dataset", "tar.extractall()"),
    (dangers, "cli", "eval('1')"),
    (dangers, "cli", "exec(text)"),
    (dangers, "cli", "subprocess.run(x, shell=True)"),
]


@pytest.mark.parametrize(("check", "name", "source"), FAULTS)
def test_the_checks_see_a_fault(check: Callable[[str, str], list[str]], name: str, source: str) -> None:
    assert check(name, source)


@pytest.mark.parametrize(
    ("check", "name", "source"),
    [
        (upward_imports, "mlp", "from . import kernels\nfrom .workspace import Buffers\nimport math"),
        (upward_imports, "backend/probe", "from ..errors import DeviceError\nfrom . import Backend"),
        (foreign_imports, "training", "import numpy as np"),
        (foreign_imports, "backend/blas", "from scipy.linalg import blas"),
        (device_questions, "training", "print(backend.name, backend.device)\nif device == 'auto': pass"),
        (dangers, "dataset", "np.load(path, allow_pickle=False)\nre.compile('x')"),
    ],
)
def test_the_checks_let_good_code_pass(check: Callable[[str, str], list[str]], name: str, source: str) -> None:
    assert not check(name, source)


def test_lines_of_code() -> None:
    source = '"""Doc\nstring."""\n\n# comment\nx = 1  # here\n\n\ndef f():\n    """Doc."""\n    return """a\nb"""\n'
    assert lines_of_code(source) == 4


def test_the_budget(figure: Callable[[str, float], None]) -> None:
    """The maths and the training (floors 0 to 3 but for devices and ranks) read in one sitting, what is behind the seam
    in another, what several processes need in a third: lines of code. A file: all its lines. The rest is reported."""
    code = {name: lines_of_code(source) for name, source in SOURCES.items()}
    total = sum(source.count("\n") for source in SOURCES.values())
    figure("lines of the package, with comments, docstrings and blank lines", total)
    devices = sum(code[name] for name in SOURCES if name.startswith("backend/"))
    ranks = code["shared_sum"] + code["communicator"] + code["data_parallel"]
    below = sum(code[name] for name in SOURCES if RANK.get(name.partition("/")[0], (9, 9)) < (4, 0))
    engine = below - devices - ranks
    figure("lines of code of the package", sum(code.values()))
    figure("lines of code of the engine, floors 0 to 3 without devices and ranks", engine)
    figure("lines of code of the devices, in Python", devices)
    figure("lines of code of the ranks", ranks)
    long = {name: source.count("\n") for name, source in SOURCES.items() if source.count("\n") > LONGEST_FILE}
    assert not long, f"over {LONGEST_FILE} lines: what could leave?"
    assert max(engine, devices, ranks) <= LARGEST, sorted(code.items(), key=lambda item: -item[1])


def run_python(code: str, *options: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    command = [sys.executable, *options, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=120)


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md", "docs/design.md"])
def test_the_pages_place_every_file(page: str) -> None:
    """The README's tables on its floor; the plan's by its name."""
    path = Path(__file__).parents[1] / page
    if not path.exists():
        pytest.skip(f"this copy of the project has no {page}")
    text = path.read_text(encoding="utf-8")
    names = [set(floor) - {"__main__"} for floor in FLOORS]
    if page.startswith("README"):
        rows = re.findall(r"^\| (\d) \| (`.*?) \|", text, re.MULTILINE)
        found = [set(re.findall(r"`(\w+)/?`", " ".join(f for n, f in rows if int(n) == floor))) for floor in range(6)]
        assert found == names
    else:
        inside = {name.rpartition("/")[2] for name in SOURCES if name.startswith("backend/")}
        missing = [name for name in set().union(*names, inside) if not re.search(rf"\b{name}(\.py|/)", text)]
        assert not missing


def test_importing_is_quiet_and_light() -> None:
    """A fresh process with every warning an error: nothing printed, nothing heavy loaded, no device looked for."""
    found = f"sorted(set({HEAVY!r}) & set(sys.modules))"
    result = run_python(f"import sys, twostroke; sys.exit(', '.join({found}) or 0)", "-W", "error")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_every_public_name_is_there() -> None:
    assert len(set(twostroke.__all__)) == len(twostroke.__all__)
    for name in twostroke.__all__:
        assert getattr(twostroke, name) is not None


def test_training_on_the_cpu_loads_no_device_library() -> None:
    result = run_python(
        "import sys, twostroke as ts, numpy as np\n"
        "ts.MLP([3, 2], backend=ts.select_backend('cpu')).predict(np.zeros((1, 3), 'float32'))\n"
        "sys.exit('cupy' in sys.modules)",
        "-W",
        "error",
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
