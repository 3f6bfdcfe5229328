"""Files of an enemy, read in a process that watches itself by audit hooks: nothing is run, imported or written."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import twostroke

WATCH = """
import os, sys
from twostroke.errors import TwoStrokeError
good, folder = sys.argv[1:]
hostile = sorted(os.path.join(folder, name) for name in os.listdir(folder))
allowed = {good, *hostile}
harmless = {"object.__getattr__", "builtins.id", "sys._getframe", "gc.get_referrers", "sys._current_frames"}
forbidden = ("import", "exec", "compile", "pickle.", "marshal.", "subprocess.", "os.", "shutil.", "socket.", "ctypes.",
             "pty.", "sys.addaudithook", "code.", "builtins.", "cpython.", "glob.", "tempfile.", "webbrowser.")
seen, watching = [], False
def hook(event, arguments):
    if not watching:
        return
    if event == "open":
        path, mode, flags = arguments
        wrapped = isinstance(path, int) and mode == "r"  # os.fdopen of what was opened just before
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        if writes or not (wrapped or str(path) in allowed):
            seen.append((event, arguments))
    elif event.startswith(forbidden) and event not in harmless:
        seen.append((event, arguments))
sys.addaudithook(hook)
watching, refused = True, 0
for path in hostile:
    try:
        read(path)
    except TwoStrokeError as error:
        refused += type(error) is refusal
found = read(good)
watching = False
assert not seen, seen
watching = True
os.mkdir(os.path.join(folder, "proof"))
watching = False
assert [event for event, _ in seen] == ["os.mkdir"], "the hook sees nothing"
assert right(found), found
print(refused)
"""


def require_harmless(reader: str, good: Path, hostile: Sequence[bytes], folder: Path) -> None:
    """All of ``hostile`` are refused, and nothing but the files is touched; ``good`` is read.

    ``reader`` is Python that imports all it needs and defines ``read(path)``, the ``refusal`` that it raises, and
    ``right(found)``: whether ``good`` was read.
    """
    (folder / "hostile").mkdir()
    for number, content in enumerate(hostile):
        (folder / "hostile" / f"{number}.safetensors").write_bytes(content)
    script = [sys.executable, "-W", "error", "-c", reader + WATCH]
    search = os.pathsep.join([str(Path(twostroke.__file__).parents[1]), str(Path(__file__).parents[2])])
    run = subprocess.run(
        [*script, str(good.absolute()), str(folder / "hostile")],
        capture_output=True, text=True, check=False, cwd=folder, env=os.environ | {"PYTHONPATH": search},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == str(len(hostile))
