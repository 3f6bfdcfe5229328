"""What the documentation shows works: its Python runs, its commands exist."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

import twostroke as ts
from twostroke import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    return [text for found, text in BLOCK.findall(page.read_text(encoding="utf-8")) if found == language]


def environment() -> dict[str, str]:
    """The package under test, and plain wide output."""
    plain = {"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1", "MPLBACKEND": "Agg"}
    return os.environ | plain | {"PYTHONPATH": str(Path(ts.__file__).parents[1])}


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


# --- Python ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=name)
def test_the_python_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    """In order, in one namespace, in an empty folder, warnings as errors."""
    code = ""
    text = page.read_text(encoding="utf-8")
    for block in blocks(page, "python"):
        line = text[: text.index(block)].count("\n")
        code += "\n" * (line - code.count("\n")) + block  # so that a traceback names the page's line
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"exec(compile({code!r}, {name(page)!r}, 'exec'))"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=environment(),
    )
    assert run.returncode == 0, run.stderr
    assert not run.stderr


def test_the_readme_s_python_does_what_it_says(tmp_path: Path) -> None:
    """Its first block: one epoch of MNIST, five predictions beside their labels, and a file."""
    code = blocks(ROOT / "README.md", "python")[0] + "\nprint(net)\n"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path, env=environment()
    )
    epoch, answers, net = run.stdout.splitlines()
    number, loss, accuracy = epoch.split()
    assert number == "1"
    assert 0 < float(loss) < 0.5
    assert float(accuracy) > 0.95
    predicted, labels = re.findall(r"\[([\d ]+)\]", answers)
    assert labels.split() == ["7", "2", "1", "0", "4"]
    assert len(predicted.split()) == 5
    assert net.startswith("MLP(784-128-10, relu")
    assert [path.name for path in tmp_path.iterdir()] == ["digits.safetensors"]


# --- commands ----------------------------------------------------------------------------------------------------


def commands(page: Path) -> list[list[str]]:
    """The words after ``twostroke`` of each command in a page's shell blocks."""
    found = []
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            programs = [i for i, word in enumerate(words) if word == "twostroke" or word.endswith("/twostroke")]
            if programs:
                end = words.index(">") if ">" in words else len(words)
                found.append(words[programs[0] + 1 : end])
    return found


COMMANDS = [(page, words) for page in PAGES for words in commands(page)]


@cache
def help_of(command: str) -> str:
    arguments = [command, "--help"] if command else ["--help"]
    run = subprocess.run(
        [sys.executable, "-m", "twostroke", *arguments], capture_output=True, text=True, check=False, env=environment()
    )
    assert run.returncode == 0, run.stderr
    assert not run.stderr
    return run.stdout


def known_options(command: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", help_of(command)))


def test_the_readme_shows_commands() -> None:
    shown = {words[0] for page, words in COMMANDS if page.name == "README.md"}
    assert {"train", "evaluate", "predict", "doctor"} <= shown


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=[" ".join(words) for _, words in COMMANDS])
def test_a_command_shown_exists_with_its_options(page: Path, words: list[str]) -> None:
    command = words[0]
    assert re.search(rf"^\W*{re.escape(command)}\s", help_of(""), re.MULTILINE), f"{command} is not in twostroke --help"
    options = {word.partition("=")[0] for word in words if word.startswith("-")}
    assert options <= known_options(command)


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=[" ".join(words) for _, words in COMMANDS])
def test_a_command_shown_is_parsed_to_its_last_word(page: Path, words: list[str]) -> None:
    """By the command line's own parser, without running what it means."""
    group: Any = typer.main.get_command(cli.app)
    context = group.commands[words[0]].make_context(words[0], words[1:])
    assert not context.args
    with pytest.raises(Exception, match="No such option"):
        group.commands[words[0]].make_context(words[0], [*words[1:], "--no-such-option"])


def test_an_unknown_option_would_be_noticed() -> None:
    assert "--epochs" in known_options("train")
    assert "--epoch" not in known_options("train")
    assert "--no-such-option" not in known_options("train")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(BLOCK, "", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), f"{name(page)}: {target}"
