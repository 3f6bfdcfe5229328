"""``twostroke doctor``."""

from __future__ import annotations

from ..measure import doctor as examination
from ..provenance import to_json
from . import options
from .terminal import say


def doctor(json: options.Json = False, debug: options.Debug = False) -> None:
    """Show what this machine has, which device is chosen, why, and how fast it is."""
    facts = examination.examine()
    for line in [to_json(facts)] if json else examination.lines(facts):
        say(line)
