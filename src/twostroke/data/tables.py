"""Tables: a row for each sample, a column for its class.

CSV and TSV are read by the csv module and NumPy, Parquet by pyarrow or polars.
"""

from __future__ import annotations

import csv
import io
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..files.compressed import read_whole
from .checks import bad, check_targets, check_weights
from .source import ROLES, Source, held_out, names_of, unnamed

TEXT: Final = re.compile(r".+\.(csv|tsv)(\.gz|\.xz)?", re.IGNORECASE)
PARQUET: Final = ".parquet"
DELIMITERS: Final = ",;\t|"
LABELS: Final = ("label", "labels", "class", "classes", "target", "species", "y")  # a column of this name is the class
PIXEL: Final = re.compile(r"pixel\d+|\d+x\d+", re.IGNORECASE)  # Kaggle's names of columns
SIDE: Final = 8  # of the smallest picture that a row of numbers is taken for
DARK: Final = 32  # pixels that are all below this are none
MOST_CLASSES: Final = 1000
CLASSES: Final = "classification"
NUMBERS: Final = "Numbers to be predicted? Add --task regression."
NAME_ONE: Final = "Name it: --label COLUMN."


class Table(NamedTuple):
    """The ``names`` of all columns ("0", "1", ... without a header), the ``texts`` of the class column ``target`` ([]
    without one), the ``values`` (N, D) of the columns ``features``, the ``numbers`` (N, K) of the columns ``targets``
    of a regression, and the ``weights`` (N,) of the samples; (N, 0) and None without such columns."""

    where: str
    names: list[str]
    headed: bool
    target: int | None
    features: list[int]
    texts: list[str]
    values: NDArray[np.float64]
    targets: list[int]
    numbers: NDArray[np.float64]
    weights: NDArray[np.float64] | None


def is_table(path: Path) -> bool:
    """Whether a file's name is that of a table."""
    return bool(TEXT.fullmatch(path.name)) or path.suffix.lower() == PARQUET


def within(folder: Path) -> list[Path]:
    """The tables in a folder."""
    try:
        return sorted(path for path in folder.iterdir() if is_table(path))
    except OSError:
        return []  # the reader of IDX files says why


def read(
    path: Path,
    *,
    label: str | None = None,
    drop: Sequence[str] = (),
    weight: str | None = None,
    test: str | os.PathLike[str] | None = None,
    columns: Sequence[str] = (),
    classes: Sequence[str] | None = None,
    task: str = CLASSES,
) -> Source:
    """A data set from one table, of which a fifth is held out, or from one to train on and one to ``test`` on.

    Columns that are pixels (by their names, or a square number of whole numbers of 0..255 without a header) become
    pictures of uint8. The values of any other table are numbers of different units, which a network standardises.
    """
    table = load(path, label=label, drop=drop, weight=weight, columns=columns, task=task)
    if weight is not None and not columns:  # the test part needs no weights: names say which columns are values
        columns = [table.names[k] for k in table.features]
    more = {"label": label, "drop": drop, "weight": weight, "columns": columns, "task": task}
    other = load(Path(test), **more) if test is not None else None
    if other and [other.names[k] for k in other.features] != [table.names[k] for k in table.features]:
        found, expected = (", ".join(one.names[k] for k in one.features[:9]) for one in (other, table))
        raise bad("the tables have different columns", other.where, found, expected, "Give both the same columns.")
    names, labels, how = _targets(table, other) if task != CLASSES else _classes(table, other, classes)
    weights = table.weights
    if weights is not None:
        weights, how = check_weights(weights, f"{path}[{weight}]", len(table.values)), f"{how}, weights in {weight!r}"
    if other:
        parts = table.values, labels[0], other.values, labels[1]
    else:
        kept, held = held_out(len(table.values))
        parts = table.values[kept], labels[0][kept], table.values[held], labels[0][held]
        weights = None if weights is None else weights[kept]
        how += ", a fifth of the rows held out for testing"
    where = dict.fromkeys(ROLES, table.where) | dict.fromkeys(ROLES[2:], (other or table).where)
    names_of_values = tuple(table.names[k] for k in table.features)
    if shape := _picture(names_of_values, table.headed, *parts[::2]):
        images = [part.astype(np.uint8).reshape(-1, *shape) for part in parts[::2]]
        return Source((images[0], parts[1], images[1], parts[3]), where, names, how=how, weights=weights)
    return Source(parts, where, names, names_of_values, f"{how}, columns standardised", weights)


def _classes(
    table: Table, other: Table | None, classes: Sequence[str] | None
) -> tuple[tuple[str, ...], list[NDArray[Any]], str]:
    """The names of the classes, the labels of each table, and how they were read."""
    names, column = names_of(class_texts(table), classes), repr(table.names[table.target or 0])
    if not 2 <= len(names) <= MOST_CLASSES:
        found, remedy = f"{len(names)} different values in column {column}", f"{NUMBERS} Else choose --label COLUMN."
        raise bad("not a column of classes", table.where, found, f"2..{MOST_CLASSES}", remedy)
    numbers = {name: number for number, name in enumerate(names)}
    labels = [_numbers(one, numbers) for one in (table, other) if one]
    return () if unnamed(names) else names, labels, f"table, class in column {column}"


def _targets(table: Table, other: Table | None) -> tuple[tuple[str, ...], list[NDArray[Any]], str]:
    """The same of a regression: the names of the targets, and their numbers."""
    names = tuple(table.names[k] for k in table.targets)
    labels = [check_targets(one.numbers, one.where, len(names)) for one in (table, other) if one]
    return names, labels, f"table, to predict: {', '.join(names)}"


class Wanted(NamedTuple):
    """Which column is the class, which are left out, which holds weights, which are the values, where all of those are
    there; ``unlabelled``: the class and the weights may be missing."""

    label: str | None = None
    drop: Sequence[str] = ()
    weight: str | None = None
    columns: Sequence[str] = ()
    unlabelled: bool = False
    task: str = CLASSES


def load(path: Path, **wanted: Any) -> Table:
    """Read one table, as the fields of ``Wanted`` say."""
    read_one = _read_parquet if path.suffix.lower() == PARQUET else _read_text
    return read_one(path, Wanted(**wanted))


def _read_text(path: Path, wanted: Wanted) -> Table:
    where = str(path)
    try:
        text = read_whole(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise bad(
            "not a table", where, f"{error.reason} at byte {error.start}", "text in UTF-8", "Save it as CSV."
        ) from error
    first_line = text.lstrip("\r\n").partition("\n")[0]
    delimiter = max(DELIMITERS, key=first_line.count)
    stream = io.StringIO(text, newline="")
    rows = (row for row in csv.reader(stream, delimiter=delimiter) if row)
    try:
        first, second = next(rows, []), next(rows, [])
        if not first or not second:
            raise bad("no samples", where, f"{bool(first):d} row", "a row for each sample", "Check the file.")
        headed = _is_header(first, second)
        names = [name.strip() for name in first] if headed else [str(number) for number in range(len(first))]
        chosen = _choose(names, headed, second, wanted, where)
        texts = []
        for number, row in enumerate(r for part in ([] if headed else [first], [second], rows) for r in part):
            if len(row) != len(names):
                found, expected = f"{len(row)} values in row {number}", f"{len(names)}, as in the first"
                raise bad("rows of different length", where, found, expected)
            texts += [] if chosen.target is None else [row[chosen.target].strip()]
    except csv.Error as error:
        raise bad("not a table", where, str(error), "rows of values", "Save it as CSV.") from error
    stream.seek(0)
    if headed:
        next(row for row in csv.reader(iter(stream.readline, ""), delimiter=delimiter) if row)
    try:
        values = np.loadtxt(
            stream, np.float64, comments=None, delimiter=delimiter, usecols=chosen.used, ndmin=2, quotechar='"'
        )
    except ValueError as error:
        raise _not_a_number(where, names, chosen, str(error)) from error
    return _table(where, names, headed, chosen, texts, values)


def _table(
    where: str, names: list[str], headed: bool, chosen: Chosen, texts: list[str], numbers: NDArray[np.float64]
) -> Table:
    """A table whose ``numbers`` are those of the columns ``chosen.used``."""
    first, second = len(chosen.features), len(chosen.features) + len(chosen.targets)
    values, targets, weights = np.split(numbers, [first, second], axis=1)
    return Table(
        *(where, names, headed, chosen.target, chosen.features, texts, np.ascontiguousarray(values)),
        *(chosen.targets, targets, weights[:, 0] if weights.size else None),
    )


def _not_a_number(where: str, names: list[str], chosen: Chosen, reason: str) -> DataError:
    """NumPy's reason names the row and the column, both from 0 of what it reads."""
    match = re.search(r"could not convert string (.*) to \w+ at row (\d+), column (\d+)", reason)
    if not match:
        return bad("not a table of numbers", where, reason, "a number in each column but the class")
    name = names[int(match[3]) - 1]
    found = f"{match[1]} in column {name!r}, row {match[2]}"
    what = "a value is missing" if match[1] in ("''", '""') else "not a number"
    remedy = f"Repair it, or leave the column out: --drop {name}."
    if int(match[3]) - 1 in chosen.targets:
        remedy = "Repair it. Classes, not numbers? Leave --task regression out."
    return bad(what, where, found, "a number", remedy)


def _read_parquet(path: Path, wanted: Wanted) -> Table:
    where, names, column = str(path), *_parquet(path)
    chosen = _choose(names, True, [], wanted, where)
    labels = [] if chosen.target is None else column(chosen.target).tolist()
    texts = ["" if value is None else _text(value) for value in labels]
    columns = []
    for index in chosen.used:
        values = column(index)
        if values.dtype.kind not in "uifb":
            found = f"column {names[index]!r} of {values.dtype}"
            remedy = f"Leave it out: --drop {names[index]}."
            if index in chosen.targets:
                remedy = "Classes, not numbers? Leave --task regression out."
            raise bad("not a number", where, found, "numbers", remedy)
        columns.append(values.astype(np.float64))
    return _table(where, names, True, chosen, texts, np.column_stack(columns))


def _parquet(path: Path) -> tuple[list[str], Any]:
    """The names of the columns, and the function that gives one as an array."""
    from ..files.regular_file import open_regular

    with open_regular(path) as file:
        try:
            try:
                from pyarrow import parquet

                table = parquet.read_table(file)
                return list(table.column_names), lambda index: table.column(index).to_numpy()
            except ImportError:
                import polars

                frame = polars.read_parquet(file)
                return list(frame.columns), lambda index: frame.to_series(index).to_numpy()
        except ImportError as error:
            found, remedy = "neither pyarrow nor polars is installed", "pip install pyarrow"
            raise bad("cannot read Parquet", str(path), found, "one of them", remedy) from error
        except Exception as error:  # each library's own types
            found = " ".join(str(error).split())[:200]
            raise bad("not a valid Parquet file", str(path), found, "an intact file", "Write it again.") from error


def _text(value: Any) -> str:
    """A label as text; a whole number without its .0."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _is_header(first: list[str], second: list[str]) -> bool:
    """Whether the first row names the columns: it has a word where the second has a number, or words only."""
    words = [not _is_number(cell) for cell in first]
    return all(words) or any(
        word and index < len(second) and _is_number(second[index]) for index, word in enumerate(words)
    )


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


class Chosen(NamedTuple):
    """The column of the class, if there is one, and those of the values, the targets, and the weights."""

    target: int | None
    features: list[int]
    targets: list[int]
    weight: list[int]

    @property
    def used(self) -> list[int]:
        """All columns of numbers."""
        return [*self.features, *self.targets, *self.weight]


def _choose(names: list[str], headed: bool, row: list[str], wanted: Wanted, where: str) -> Chosen:
    """The columns that are wanted; ``row`` has an example of each."""
    known = headed and bool(wanted.columns) and set(wanted.columns) <= set(names)
    lenient = known or wanted.unlabelled
    optional = wanted.weight not in names and lenient
    weight = [] if wanted.weight is None or optional else [_column(names, wanted.weight, "weight", where)]
    dropped = {_column(names, name, "drop", where) for name in wanted.drop if not lenient or name in names}
    labels = _labels(names, headed, row, wanted, dropped | set(weight), where)
    if set(labels) & set(weight):
        what, found = "one column for the weights and for what is predicted", repr(wanted.weight)
        raise bad(what, where, found, "two columns", "Check --weight.")
    others = dropped | set(weight) | set(labels)
    features = [names.index(name) for name in wanted.columns] if known else []
    if taken := [names[index] for index in features if index in others]:
        what, remedy = (
            "a column of the model's values is dropped, or is no value",
            "Check --drop, --label and --weight.",
        )
        raise bad(what, where, _some(taken), "columns that the model does not use", remedy)
    features = features or [index for index in range(len(names)) if index not in others]
    if not features:
        raise bad("no columns of values", where, f"{len(names)} columns", "at least one beside the class")
    if wanted.task != CLASSES:
        return Chosen(None, features, labels, weight)
    return Chosen(labels[0] if labels else None, features, [], weight)


def _labels(names: list[str], headed: bool, row: list[str], wanted: Wanted, others: set[int], where: str) -> list[int]:
    """The columns to be predicted: one of the class, or several of numbers; [] where they may be missing, and are."""
    given = [] if wanted.label is None else [wanted.label]
    if wanted.task != CLASSES and given and wanted.label not in names:
        given = [part.strip() for part in given[0].split(",")]
    if given and not (wanted.unlabelled and headed and not set(given) <= set(names)):
        found = [_column(names, name, "label", where) for name in given]
        if len(set(found)) < len(found):
            raise bad("a column is named twice", where, repr(wanted.label), "different columns", "Check --label.")
        return found
    target = None if wanted.unlabelled and wanted.task != CLASSES else _target(names, headed, row, others)
    if target is None and not wanted.unlabelled:
        remedy = NAME_ONE if headed else "Name it: --label 0 is the first column, --label -1 the last."
        what = "which column is the class?" if wanted.task == CLASSES else "which column is to be predicted?"
        raise bad(what, where, f"columns {_some(names)}", f"one of {', '.join(LABELS)}", remedy)
    return [] if target is None else [target]


def _target(names: list[str], headed: bool, row: list[str], dropped: set[int]) -> int | None:
    """The column of the class, where nobody says: by its name, or as the only one of words."""
    known = [index for index, name in enumerate(names) if headed and name.lower() in LABELS]
    words = [index for index, cell in enumerate(row) if not _is_number(cell) and index not in dropped]
    found = known or words
    return found[0] if len(found) == 1 else None


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:9]) + ", ..." * (len(names) > 9)


def _column(names: list[str], name: str, option: str, where: str) -> int:
    """The index of a column that is named, or numbered (from the end, if negative)."""
    if name in names:
        return names.index(name)
    if re.fullmatch(r"-?\d+", name) and -len(names) <= int(name) < len(names):
        return int(name) % len(names)
    raise bad("no such column", where, repr(name), _some(names), f"Check --{option}.")


def class_texts(table: Table) -> list[str]:
    """The texts of the class column, whole numbers without a .0."""
    for row, text in enumerate(table.texts):
        if not text:
            raise bad("a class is missing", table.where, f"an empty cell in row {row}", "a class", "Repair the data.")
    values = set(table.texts)
    if not all(_is_number(text) for text in values):
        return table.texts
    broken = next((text for text in table.texts if not float(text).is_integer()), None)
    if broken is not None:
        expected = "whole numbers or words"
        remedy = f"{NUMBERS} Else choose --label COLUMN."
        raise bad("not a column of classes", table.where, f"value {broken}", expected, remedy)
    return [str(int(float(text))) for text in table.texts]


def _numbers(table: Table, numbers: dict[str, int]) -> NDArray[np.int64]:
    labels = class_texts(table)
    for row, name in enumerate(labels):
        if name not in numbers:
            raise bad("an unknown class", table.where, f"{name!r} in row {row}", _some([*numbers]), "Repair the data.")
    return np.array([numbers[name] for name in labels], np.int64)


def as_pixels(table: Table) -> NDArray[np.uint8]:
    """The values of a table of pictures (N, D). Raises DataError if one is no pixel."""
    wrong = (table.values < 0) | (table.values > 255) | (table.values != np.floor(table.values))
    if wrong.any():
        row, column = (int(k) for k in np.argwhere(wrong)[0])
        found = f"{table.values[row, column]:g} in row {row}, column {table.names[table.features[column]]!r}"
        raise bad("not pixels", table.where, found, "whole numbers of 0..255", "The model was trained on such.")
    return table.values.astype(np.uint8)


def _picture(columns: tuple[str, ...], headed: bool, *parts: NDArray[np.float64]) -> tuple[int, int] | None:
    """The shape of the pictures that rows are, or None."""
    side = math.isqrt(len(columns))
    if side * side != len(columns) or side < SIDE or (headed and not all(PIXEL.fullmatch(name) for name in columns)):
        return None
    top = max(float(part.max(initial=0)) for part in parts)
    whole = all(((part >= 0) & (part <= 255) & (part == np.floor(part))).all() for part in parts)
    return (side, side) if whole and (headed or top >= DARK) else None
