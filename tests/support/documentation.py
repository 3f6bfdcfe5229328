"""A page of the documentation as a list of code blocks, and a way to run it as its reader would.

    python tests/support/documentation.py docs/tutorial/1-the-bowl.md    in a folder that it may write to
    python tests/support/documentation.py --update PAGE                  take quoted sources over from the code
    python tests/support/documentation.py --shell README.md              print its shell lines, for a shell to run

Python blocks run in order in one namespace. A ``text`` block right after one is what it prints, to the letter. The
``twostroke`` lines of shell blocks run in the same folder, between the Python around them; other shell lines do not.
A comment on the line above a block changes that:

    <!-- not run: REASON -->             it needs a GPU, minutes, or another program; its commands are still parsed
    <!-- needs: module module -->        it needs optional packages: without them the test skips the page
    <!-- source: package.name -->        it is the source of that object, and a test compares the two
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
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
    r"(?:^<!-- *(?P<note>[^\n]*?) *-->\n)?^```(?P<language>\w*)(?P<rest>[^\n]*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


class Command(NamedTuple):
    """The words after ``twostroke`` on a line of a shell block, and the file that its output goes to."""

    words: list[str]
    output: str | None

    def __str__(self) -> str:
        return shlex.join(["twostroke", *self.words])


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
    def commands(self) -> list[Command]:
        """Each ``twostroke`` line of a shell block."""
        found = []
        for line in self.text.replace("\\\n", " ").splitlines() if self.language in SHELLS else []:
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words and words[0].rpartition("/")[2] == "twostroke":
                end = words.index(">") if ">" in words else len(words)
                found.append(Command(words[1:end], words[end + 1] if end < len(words) else None))
        return found


def blocks(page: Path) -> list[Block]:
    """The page's fenced blocks, in order."""
    text = page.read_text(encoding="utf-8")
    found = list(_BLOCK.finditer(text))
    parts = []
    for match, following in zip(found, [*found, None][1:], strict=True):
        output = None
        if following and (match["language"], following["language"]) == ("python", "text"):
            output = following["text"] if not text[match.end() : following.start()].strip() else None
        line = text.count("\n", 0, match.start("text")) + 1
        parts.append(Block(match["language"], match["text"], line, match["note"] or "", output))
    return parts


def prose(page: Path) -> str:
    """The page without its blocks."""
    return _BLOCK.sub("", page.read_text(encoding="utf-8"))


def source_of(note: str) -> str:
    """What a block noted ``source: package.module.name`` must hold."""
    module, _, name = note.removeprefix("source:").strip().rpartition(".")
    return inspect.getsource(getattr(importlib.import_module(module), name))


def update_sources(page: Path) -> None:
    """Bring the quoted sources of a page up to date."""
    text = page.read_text(encoding="utf-8")
    for block in blocks(page):
        if block.note.startswith("source:"):
            text = text.replace(block.text, source_of(block.note))
    page.write_text(text, encoding="utf-8")


def shell_lines(page: Path) -> str:
    """Its shell blocks but for those that are not run, in order."""
    return "".join(block.text for block in blocks(page) if block.language in SHELLS and block.runs)


def run(page: Path) -> dict[str, object]:
    """Run a page in the current folder and return its Python's namespace. Raises what its blocks raise.

    ``AssertionError``: a block printed something else than the page says, or a command failed.
    """
    namespace: dict[str, object] = {"__name__": "__page__"}
    for block in blocks(page):
        place = f"{page}:{block.line}"
        if not block.runs:
            continue
        if block.language == "python":
            code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")  # a traceback names the page's line
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(code, namespace)
            if block.output not in (None, printed.getvalue()):
                raise AssertionError(f"{place}: the page says\n{block.output}but it prints\n{printed.getvalue()}")
        for command in block.commands:
            words = [sys.executable, "-m", "twostroke", *command.words]
            done = subprocess.run(words, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
            if done.returncode:
                raise AssertionError(f"{place}: {command}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
            if command.output:
                Path(command.output).write_text(done.stdout, encoding="utf-8")
    return namespace


if __name__ == "__main__":
    *options, last = sys.argv[1:]
    if options == ["--update"]:
        update_sources(Path(last))
    elif options == ["--shell"]:
        print(shell_lines(Path(last)), end="")
    else:
        try:
            run(Path(last))
        except Exception:
            traceback.print_exc()
            sys.exit(1)
