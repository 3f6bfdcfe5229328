"""Markdown rows from duels, for docs/benchmarks.md: a pair of columns, with MNIST's zeros and without, for each file.

    python bench/tables.py results/MACHINE/duel-A.json results/MACHINE/duel-B.json

A ``~`` marks a row that claims nothing (noisy); what was not measured is ``-``. The last column is how near our step is
to what the machine allows, in the first file, without zeros.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def cell(row: Row | None) -> str:
    """The ratio and its interval."""
    if row is None or row["ratio"] is None:
        return "-"
    low, high = row["interval"]
    return f"{'' if row['status'] == 'ok' else '~'}{row['ratio']:.2f} [{low:.2f}, {high:.2f}]"


def table(documents: Sequence[dict[str, Any]]) -> list[str]:
    """The rows of the cells of the first document, in its order."""
    by_key: list[dict[tuple[Any, ...], Row]] = []
    for document in documents:
        by_key.append({(*row["layers"], row["batch_size"], row["noise"]): row for row in document["rows"]})
    lines = []
    for key in dict.fromkeys(each[:-1] for each in by_key[0]):
        *layers, batch = key
        cells = [cell(found.get((*key, noise))) for found in by_key for noise in (False, True)]
        bare = by_key[0].get((*key, True)) or by_key[0].get((*key, False)) or {}
        limit = (bare.get("limit") or {}).get("text", "-")
        lines.append(f"| {'-'.join(map(str, layers))}, {batch} | {' | '.join(cells)} | {limit} |")
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Print the rows of the files."""
    files = sys.argv[1:] if argv is None else argv
    if not files:
        raise SystemExit("tables: found no file, expected the JSON of duels")
    print("\n".join(table([json.loads(Path(file).read_text(encoding="utf-8")) for file in files])))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
