"""The plan of the house held against the code: who may import whom, who may name a device, how long a room may be."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import twostroke

PACKAGE = Path(twostroke.__file__).parent
# A room, and the rooms below it that it may import. A file that lies at the top of the package is a room of its own.
MAY_IMPORT: dict[str, set[str]] = {
    **{name: set() for name in ("errors", "version", "randomness", "signals")},
    "provenance": {"version"},
    "files": {"errors"},
    "data": {"errors", "files", "randomness"},
    "backend": {"errors", "backend.cpu", "backend.cuda"},  # a device itself is imported when it is chosen
    "backend.cpu": {"errors", "backend"},
    "backend.cuda": {"errors", "backend"},
    "engine": {"errors", "randomness", "signals", "data", "backend"},
    "models": {"errors", "version", "files", "data", "backend", "engine"},
    "ranks": {"errors", "signals", "data", "backend", "engine"},
    "runs": {"errors", "version", "provenance", "files", "data", "backend", "engine", "models"},
    "measure": {"errors", "provenance", "data", "backend", "engine", "models"},
    "show": {"errors", "provenance", "data", "backend", "engine", "runs"},
    "classic": {"errors", "data", "backend", "engine"},
    "sklearn": {"errors", "data", "backend", "engine"},
    "commands": {
        *("errors", "provenance", "signals", "files", "data", "backend", "engine", "models", "ranks", "runs"),
        *("measure", "show"),
    },
    "cli": {"errors", "version", "commands"},
    "__main__": {"cli"},
    "twostroke": {"errors", "version", "data", "backend", "engine", "models", "classic"},
}
# All lines of a room's Python files; "rest" is every room that is not named. Half of backend.cuda compiles a step into
# kernels: 4.5 times as quick as the same step captured call by call (docs/gpu.md). Half of data reads people's own
# files. C grew by what is compiled twice, for float32 and float64, by the threads' own rows of the weights, by one
# sample's products, by what is done together (rows through several calls, velocities added by their product), and by
# the check of rows to predict, which took a fifth of the time.
MOST_LINES = {
    "engine": 2665,
    "backend.cpu": 1229,
    "backend.cuda": 1875,
    "ranks": 820,
    "sklearn": 965,
    "show": 1715,
    "measure": 1500,
    "commands": 1470,
    "data": 1674,
    "rest": 3273,
}
LONGEST_FILE, MOST_C_LINES = 400, 1528
# The maths knows no array module: it is given one.
COMPUTE = ("engine.kernels", "engine.workspace", "engine.mlp", "engine.optimizers", "engine.batches")
# A library that only some rooms may name.
OWNERS = {
    "scipy": ("backend.cpu",),
    "threadpoolctl": ("backend.cpu",),
    "cupy": ("backend.cuda",),
    "cupyx": ("backend.cuda",),
    "cupy_backends": ("backend.cuda",),
    "ctypes": ("backend.cpu", "backend.cuda"),
    "mpi4py": ("ranks",),
    "sklearn": ("sklearn",),
}
HEAVY = (
    "cupy", "matplotlib", "sklearn", "mpi4py", "onnx", "typer", "rich", "scipy", "PIL", "threadpoolctl", "pandas",
    "torch", "jax", "pytest", "multiprocessing", "unittest", "jinja2", "waitress",
)  # fmt: skip


def module_name(path: Path) -> str:
    """A file's dotted name below the package; "" for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))}
FOLDERS = {module_name(path) for path in PACKAGE.rglob("__init__.py")}


def room_of(module: str) -> str:
    """The room that a module lies in."""
    first, second, *_ = [*module.split("."), "", ""]
    if first == "backend" and second in ("cpu", "cuda"):
        return f"backend.{second}"
    return first or "twostroke"


def imports(source: str, module: str) -> Iterator[tuple[str, int]]:
    """(absolute dotted name, line) of every import, those inside functions included."""
    package = ["twostroke", *module.split(".")] if module else ["twostroke"]
    if module not in FOLDERS:
        package.pop()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)


def own_imports(source: str, module: str) -> Iterator[tuple[str, int]]:
    """The modules of this package that a file imports."""
    for dotted, line in imports(source, module):
        root, _, name = dotted.partition(".")
        if root == "twostroke":
            # "engine.mlp.MLP" is a name in engine.mlp, "engine.mlp" a module.
            parent = name.rpartition(".")[0]
            yield (name if name in SOURCES else parent if parent in SOURCES else name), line


def forbidden_rooms(module: str, source: str) -> list[str]:
    """Imports of a room that is not below this one."""
    here = room_of(module)
    return [
        f"{module}:{line} imports {other}"
        for other, line in own_imports(source, module)
        if room_of(other) != here and room_of(other) not in MAY_IMPORT[here]
    ]


def forbidden_libraries(module: str, source: str) -> list[str]:
    """Libraries that another room owns; and array modules in the maths."""
    banned = {library for library, owners in OWNERS.items() if room_of(module) not in owners}
    banned |= {"numpy"} if module in COMPUTE else set()
    found = [(dotted, line) for dotted, line in imports(source, module) if dotted.split(".")[0] in banned]
    # SciPy is a device's library for its BLAS; its minimisers and its work on pictures are none of that.
    others = ("scipy.optimize.", "scipy.ndimage")
    return [f"{module}:{line} imports {dotted}" for dotted, line in found if not dotted.startswith(others)]


def circles(sources: dict[str, str]) -> list[list[str]]:
    """Modules that import each other in a circle."""
    below = {module: {other for other, _ in own_imports(source, module)} for module, source in sources.items()}
    while leaves := [module for module, others in below.items() if not others & (below.keys() - {module})]:
        for module in leaves:
            del below[module]
    return [sorted(below)] if below else []


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
    rooms = {room_of(other) for other, _ in own_imports(source, name)}
    found += [f"{name} imports {room}" for room in rooms & {"backend.cpu", "backend.cuda"}]
    return found


def dangers(name: str, source: str) -> list[str]:
    """Ways to run what a file says: none of them is in this package."""
    found = [
        f"{name}:{line} imports {dotted}"
        for dotted, line in imports(source, name)
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


# --- the checks ----------------------------------------------------------------------------------------------


def test_every_file_lies_in_a_room() -> None:
    assert {room_of(module) for module in SOURCES} == MAY_IMPORT.keys()


def test_no_circles() -> None:
    assert not circles(SOURCES)
    assert circles(SOURCES | {"files.regular_file": "from . import sealed_file"})


CHECKS: list[Callable[[str, str], list[str]]] = [forbidden_rooms, forbidden_libraries, dangers]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: str(check.__name__))
def test_nothing_forbidden(check: Callable[[str, str], list[str]]) -> None:
    assert not [fault for module, source in SOURCES.items() for fault in check(module, source)]


def test_nothing_outside_the_backend_asks_for_the_device() -> None:
    above = {module: source for module, source in SOURCES.items() if not module.startswith("backend")}
    assert not [fault for module, source in above.items() for fault in device_questions(module, source)]


FAULTS: list[tuple[Callable[[str, str], list[str]], str, str]] = [
    (forbidden_rooms, "engine.kernels", "from ..runs import record"),
    (forbidden_rooms, "engine.kernels", "from twostroke.models.checkpoint import restore"),
    (forbidden_rooms, "engine.kernels", "import twostroke.models.checkpoint"),
    (forbidden_rooms, "engine.kernels", "def f():\n    from .. import cli"),
    (forbidden_rooms, "backend.cpu.backend", "from ..cuda.probe import probe_cuda"),
    (forbidden_rooms, "backend.cuda.probe", "from ...engine.kernels import relu_forward"),
    (forbidden_rooms, "errors", "from .version import __version__"),
    (forbidden_rooms, "commands.train", "from ..cli import main"),
    (forbidden_rooms, "show.text", "from ..measure import throughput"),
    (forbidden_rooms, "measure.parity", "from ..show.text import result_line"),
    (forbidden_rooms, "engine.mlp", "from ..unheard_of import x"),
    (forbidden_libraries, "engine.kernels", "import numpy as np"),
    (forbidden_libraries, "engine.mlp", "def f():\n    from numpy import linalg"),
    (forbidden_libraries, "engine.training", "def f():\n    import cupy.cuda"),
    (forbidden_libraries, "backend.cpu.backend", "import cupy"),
    (forbidden_libraries, "backend.cuda.backend", "from scipy.linalg import blas"),
    (forbidden_libraries, "show.text", "from scipy.linalg import blas"),
    (forbidden_libraries, "sklearn.solvers", "import scipy"),
    (forbidden_libraries, "cli", "import threadpoolctl"),
    (forbidden_libraries, "engine.training", "import ctypes"),
    (forbidden_libraries, "measure.throughput", "import cupy_backends.cuda"),
    (device_questions, "engine.training", "if net.backend.name == 'cupy': pass"),
    (device_questions, "engine.training", "if backend.device != 'cpu': pass"),
    (device_questions, "engine.training", "if xp.__name__ == 'numpy': pass"),
    (device_questions, "engine.training", "x = 1 if array_module(x) is cupy else 2"),
    (device_questions, "engine.training", "isinstance(backend, CupyBackend)"),
    (device_questions, "engine.training", "match backend.name:\n    case 'cupy': pass"),
    (device_questions, "engine.training", "from ..backend.cuda.backend import CupyBackend"),
    (dangers, "models.model_file", "import pickle"),
    (dangers, "models.model_file", "np.load(path, allow_pickle=True)"),
    (dangers, "models.model_file", "np.load(path, allow_pickle=flag)"),
    (dangers, "data.dataset", "tar.extractall()"),
    (dangers, "cli", "eval('1')"),
    (dangers, "cli", "exec(text)"),
    (dangers, "cli", "subprocess.run(x, shell=True)"),
]


@pytest.mark.parametrize(("check", "module", "source"), FAULTS)
def test_the_checks_see_a_fault(check: Callable[[str, str], list[str]], module: str, source: str) -> None:
    assert check(module, source)


@pytest.mark.parametrize(
    ("check", "module", "source"),
    [
        (forbidden_rooms, "engine.mlp", "from . import kernels\nfrom .workspace import Buffers\nimport math"),
        (forbidden_rooms, "backend.cuda.probe", "from ...errors import DeviceError\nfrom ..base import Backend"),
        (forbidden_libraries, "engine.training", "import numpy as np"),
        (forbidden_libraries, "backend.cpu.blas", "from scipy.linalg import blas"),
        (device_questions, "engine.training", "print(backend.name, backend.device)\nif device == 'auto': pass"),
        (dangers, "data.dataset", "np.load(path, allow_pickle=False)\nre.compile('x')"),
    ],
)
def test_the_checks_let_good_code_pass(check: Callable[[str, str], list[str]], module: str, source: str) -> None:
    assert not check(module, source)


def test_the_budget(figure: Callable[[str, float], None]) -> None:
    """Rooms that can be read: all lines of their Python files, and of the C library."""
    lines = {module: source.count("\n") for module, source in SOURCES.items()}
    assert not {module: count for module, count in lines.items() if count > LONGEST_FILE}, "what could leave?"
    rooms = dict.fromkeys(MOST_LINES, 0)
    for module, count in lines.items():
        rooms[room_of(module) if room_of(module) in rooms else "rest"] += count
    rooms["C"] = sum(path.read_text().count("\n") for path in (PACKAGE / "backend/cpu/native").glob("*.[ch]"))
    for room, count in rooms.items():
        figure(f"lines of {room}", count)
    most = MOST_LINES | {"C": MOST_C_LINES}
    over = [f"{room} has {count}, at most {most[room]}" for room, count in rooms.items() if count > most[room]]
    assert not over, f"lines of a room: {'; '.join(over)}. Delete some first; MOST_LINES grows only with a reason"


def run_python(code: str, *options: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    command = [sys.executable, *options, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=120)


def test_the_design_names_every_room_from_the_ground_up() -> None:
    path = Path(__file__).parents[1] / "docs/design.md"
    if not path.exists():
        pytest.skip("this copy of the project has no docs/design.md")
    rows = re.findall(r"^\| `(\w+)/` \|", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(rows) == sorted(folder for folder in FOLDERS if folder and "." not in folder)
    for place, room in enumerate(rows):
        above = {other for other in MAY_IMPORT[room] if other in rows} - set(rows[:place])
        assert not above, f"{room}/ imports {above}, which the table has further down"


def test_the_plan_names_every_file() -> None:
    path = Path(__file__).parents[1] / "docs/design.md"
    if not path.exists():
        pytest.skip("this copy of the project has no docs/design.md")
    house = path.read_text(encoding="utf-8").partition("```\nsrc/twostroke/")[2].partition("```")[0]
    named = set(re.findall(r"\b\w+\.py\b", house.partition("\ntests/")[0]))
    files = {f"{module.rpartition('.')[2]}.py" for module in SOURCES.keys() - FOLDERS}
    assert files <= named, f"{path.name}, section The house: name {sorted(files - named)}"
    assert named <= files, f"{path.name}, section The house: there is no {sorted(named - files)}"


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
