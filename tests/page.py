"""A page of the documentation as a list of code blocks, and a way to run it as its reader would.

    python tests/page.py docs/tutorial.md      in the folder that it may write to

Python blocks run in order in one namespace. A ``text`` block right after one is what it prints, to the letter. The
``twostroke`` lines of shell blocks run in the same folder, between the Python around them; other shell lines do not.
A comment on the line above a block changes that:

    <!-- not run: REASON -->             it needs a GPU, minutes, or another program; commands are still parsed
    <!-- source: package.name -->        it is the source of that object, which a test compares
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Final, NamedTuple

SHELLS: Final = ("sh", "bash", "console")
_BLOCK: Final = re.compile(
    r"(?:^<!-- *(?P<note>[^\n]*?) *-->\n)?^```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)


class Block(NamedTuple):
    """One fenced block. ``line`` is that of its first line on the page, from 1; ``output`` what it shall print."""

    language: str
    text: str
    line: int
    note: str
    output: str | None

    @property
    def runs(self) -> bool:
        """Whether it is run: not if a comment above it says otherwise."""
        return not self.note.startswith(("not run:", "source:"))

    @property
    def commands(self) -> list[list[str]]:
        """The words after ``twostroke`` of each command in a shell block."""
        found = []
        for line in self.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            programs = [i for i, word in enumerate(words) if word == "twostroke" or word.endswith("/twostroke")]
            if programs:
                found.append(words[programs[0] + 1 :])
        return found


def blocks(page: Path) -> list[Block]:
    """The page's fenced blocks, in order."""
    text = page.read_text(encoding="utf-8")
    found = list(_BLOCK.finditer(text))
    parts = []
    for match, following in zip(found, [*found[1:], None], strict=True):
        output = None
        if match["language"] == "python" and following and following["language"] == "text":
            if not text[match.end() : following.start()].strip():
                output = following["text"]
        line = text.count("\n", 0, match.start("text")) + 1
        parts.append(Block(match["language"], match["text"], line, match["note"] or "", output))
    return parts


def prose(page: Path) -> str:
    """The page without its blocks."""
    return _BLOCK.sub("", page.read_text(encoding="utf-8"))


def run(page: Path, name: str | None = None) -> dict[str, object]:
    """Run a page in the current folder and return its Python's namespace. Raises what its blocks raise.

    ``AssertionError``: a block printed something else than the page says, or a command failed. ``name`` is the
    page's in tracebacks.
    """
    name = name or str(page)
    namespace: dict[str, object] = {"__name__": "__page__"}
    for block in blocks(page):
        if not block.runs:
            continue
        if block.language == "python":
            printed = io.StringIO()
            code = compile("\n" * (block.line - 1) + block.text, name, "exec")  # so that a traceback names the line
            with contextlib.redirect_stdout(printed):
                exec(code, namespace)
            if block.output is not None and printed.getvalue() != block.output:
                raise AssertionError(
                    f"{name}:{block.line}: the page says\n{block.output}but it prints\n{printed.getvalue()}"
                )
        elif block.language in SHELLS:
            for words in block.commands:
                done = subprocess.run(
                    [sys.executable, "-m", "twostroke", *words], capture_output=True, text=True, check=False
                )
                if done.returncode:
                    said = f"twostroke {shlex.join(words)}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
                    raise AssertionError(f"{name}:{block.line}: {said}")
    return namespace


if __name__ == "__main__":
    try:
        run(Path(sys.argv[1]), " ".join(sys.argv[2:]) or None)
    except Exception:
        traceback.print_exc()
        sys.exit(1)
