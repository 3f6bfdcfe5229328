"""The commands that the documentation shows exist, with their options, to the last word."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from tests.support.documentation import Command, blocks, prose
from tests.support.pages import ENGLISH, PAGES, python
from twostroke import cli


def spans(page: Path) -> Iterator[list[str]]:
    """Commands in running text: `twostroke train --help`."""
    for text in re.findall(r"`twostroke ([a-z][^`]*)`", prose(page)):
        yield text.split()


COMMANDS = [(page, command) for page in PAGES for block in blocks(page) for command in block.commands]
SPANS = [(page, words) for page in PAGES for words in spans(page)]


@cache
def help_of(command: str) -> str:
    run = python("-m", "twostroke", *([command] if command else []), "--help")
    assert run.returncode == 0, run.stderr
    assert not run.stderr
    return run.stdout


@cache
def known_options(command: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", help_of(command)))


def known_commands() -> set[str]:
    group: Any = typer.main.get_command(cli.app_of([]))
    return set(group.commands)


def test_the_readme_shows_commands() -> None:
    shown = {command.words[0] for page, command in COMMANDS if page == ENGLISH}
    assert {"train", "evaluate", "predict", "doctor"} <= shown


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=[str(command) for _, command in COMMANDS])
def test_a_command_shown_is_parsed_to_its_last_word(page: Path, command: Command) -> None:
    """By the command line's own parser, without running what it means."""
    first, *rest = command.words
    if first.startswith("-"):
        assert first in known_options("")
        return
    group: Any = typer.main.get_command(cli.app_of([]))
    context = group.commands[first].make_context(first, rest)
    assert not context.args
    with pytest.raises(Exception, match="No such option"):
        group.commands[first].make_context(first, [*rest, "--no-such-option"])


COMMAND_LINES = [(page, command.words) for page, command in COMMANDS if command.words[0][0] != "-"] + SPANS


@pytest.mark.parametrize(("page", "words"), COMMAND_LINES, ids=[" ".join(words) for _, words in COMMAND_LINES])
def test_a_command_named_exists_with_its_options(page: Path, words: list[str]) -> None:
    command = words[0]
    assert command in known_commands()
    assert re.search(rf"^\W*{re.escape(command)}\s", help_of(""), re.MULTILINE), f"{command} is not in twostroke --help"
    options = {word.partition("=")[0] for word in words if word.startswith("-")}
    assert options <= known_options(command)


def test_an_unknown_option_would_be_noticed() -> None:
    assert "--epochs" in known_options("train")
    assert "--epoch" not in known_options("train")
    assert "--no-such-option" not in known_options("train")
