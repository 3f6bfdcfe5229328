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
from .checks import bad, check_weights
from .source import ROLES, Source, held_out, names_of, unnamed

TEXT: Final = re.compile(r".+\.(csv|tsv)(\.gz|\.xz)?", re.IGNORECASE)
PARQUET: Final = ".parquet"
DELIMITERS: Final = ",;\t|"
LABELS: Final = ("label", "labels", "class", "classes", "target", "species", "y")  # a column of this name is the class
PIXEL: Final = re.compile(r"pixel\d+|\d+x\d+", re.IGNORECASE)  # Kaggle's names of columns
SIDE: Final = 8  # of the smallest picture that a row of numbers is taken for
DARK: Final = 32  # pixels that are all below this are none
MOST_CLASSES: Final = 1000
NAME_ONE: Final = "Name it: --label COLUMN."


class Table(NamedTuple):
    """The ``names`` of all columns ("0", "1", ... without a header), the ``texts`` of the class column ``target`` ([]
    without one), the ``values`` (N, D) of the columns ``features``, and the ``weights`` (N,) of the samples, if any."""

    where: str
    names: list[str]
    headed: bool
    target: int | None
    features: list[int]
    texts: list[str]
    values: NDArray[np.float64]
    weights: NDArray[np.float64] | None = None


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
) -> Source:
    """A data set from one table, of which a fifth is held out, or from one to train on and one to ``test`` on.

    Columns that are pixels (by their names, or a square number of whole numbers of 0..255 without a header) become
    pictures of uint8. The values of any other table are numbers of different units, which a network standardises.
    """
    table = load(path, label=label, drop=drop, weight=weight, columns=columns)
    if weight is not None and not columns:  # the test part needs no weights: names say which columns are values
        columns = [table.names[k] for k in table.features]
    other = load(Path(test), label=label, drop=drop, weight=weight, columns=columns) if test is not None else None
    if other and [other.names[k] for k in other.features] != [table.names[k] for k in table.features]:
        found, expected = (", ".join(one.names[k] for k in one.features[:9]) for one in (other, table))
        raise bad("the tables have different columns", other.where, found, expected, "Give both the same columns.")
    names, column = names_of(class_texts(table), classes), repr(table.names[table.target or 0])
    if not 2 <= len(names) <= MOST_CLASSES:
        found = f"{len(names)} different values in column {column}"
        raise bad(
            "not a column of classes", table.where, found, f"2..{MOST_CLASSES}", "Choose another: --label COLUMN."
        )
    numbers = {name: number for number, name in enumerate(names)}
    labels = [_numbers(one, numbers) for one in (table, other) if one]
    how = f"table, class in column {column}"
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
    shown = () if unnamed(names) else names
    if shape := _picture(names_of_values, table.headed, *parts[::2]):
        images = [part.astype(np.uint8).reshape(-1, *shape) for part in parts[::2]]
        return Source((images[0], parts[1], images[1], parts[3]), where, shown, how=how, weights=weights)
    return Source(parts, where, shown, names_of_values, f"{how}, columns standardised", weights)


class Wanted(NamedTuple):
    """Which column is the class, which are left out, which holds weights, which are the values, where all of those are
    there; ``unlabelled``: the class and the weights may be missing."""

    label: str | None = None
    drop: Sequence[str] = ()
    weight: str | None = None
    columns: Sequence[str] = ()
    unlabelled: bool = False


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
        target, features, weight = _choose(names, headed, second, wanted, where)
        texts = []
        for number, row in enumerate(r for part in ([] if headed else [first], [second], rows) for r in part):
            if len(row) != len(names):
                found, expected = f"{len(row)} values in row {number}", f"{len(names)}, as in the first"
                raise bad("rows of different length", where, found, expected)
            texts += [] if target is None else [row[target].strip()]
    except csv.Error as error:
        raise bad("not a table", where, str(error), "rows of values", "Save it as CSV.") from error
    stream.seek(0)
    if headed:
        next(row for row in csv.reader(iter(stream.readline, ""), delimiter=delimiter) if row)
    used = [*features, *weight]
    try:
        values = np.loadtxt(
            stream, np.float64, comments=None, delimiter=delimiter, usecols=used, ndmin=2, quotechar='"'
        )
    except ValueError as error:
        raise _not_a_number(where, names, features, str(error)) from error
    return _table(where, names, headed, target, features, texts, values)


def _table(
    where: str,
    names: list[str],
    headed: bool,
    target: int | None,
    features: list[int],
    texts: list[str],
    numbers: NDArray[np.float64],
) -> Table:
    """A table of the ``numbers`` of its features and, in a further column, of its weights."""
    count = len(features)
    weights = numbers[:, count] if numbers.shape[1] > count else None
    return Table(where, names, headed, target, features, texts, np.ascontiguousarray(numbers[:, :count]), weights)


def _not_a_number(where: str, names: list[str], features: list[int], reason: str) -> DataError:
    """NumPy's reason names the row and the column, both from 0 of what it reads."""
    match = re.search(r"could not convert string (.*) to \w+ at row (\d+), column (\d+)", reason)
    if not match:
        return bad("not a table of numbers", where, reason, "a number in each column but the class")
    name = names[int(match[3]) - 1]
    found = f"{match[1]} in column {name!r}, row {match[2]}"
    what = "a value is missing" if match[1] in ("''", '""') else "not a number"
    return bad(what, where, found, "a number", f"Repair it, or leave the column out: --drop {name}.")


def _read_parquet(path: Path, wanted: Wanted) -> Table:
    where, names, column = str(path), *_parquet(path)
    target, features, weight = _choose(names, True, [], wanted, where)
    texts = [] if target is None else ["" if value is None else _text(value) for value in column(target).tolist()]
    columns = []
    for index in [*features, *weight]:
        values = column(index)
        if values.dtype.kind not in "uifb":
            found = f"column {names[index]!r} of {values.dtype}"
            raise bad("not a number", where, found, "numbers", f"Leave it out: --drop {names[index]}.")
        columns.append(values.astype(np.float64))
    return _table(where, names, True, target, features, texts, np.column_stack(columns))


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


def _choose(
    names: list[str], headed: bool, row: list[str], wanted: Wanted, where: str
) -> tuple[int | None, list[int], list[int]]:
    """The columns of the class, of the values, of which ``row`` has an example, and of the weights, if there is one."""
    known = headed and bool(wanted.columns) and set(wanted.columns) <= set(names)
    optional = wanted.weight not in names and (known or wanted.unlabelled)
    weight = [] if wanted.weight is None or optional else [_column(names, wanted.weight, "weight", where)]
    if known and (wanted.unlabelled or wanted.label is None or wanted.label in names):
        target = names.index(wanted.label) if wanted.label in names else _target(names, headed, row, set(weight))
        return target, [names.index(name) for name in wanted.columns], weight
    dropped = {_column(names, name, "drop", where) for name in wanted.drop if not wanted.unlabelled or name in names}
    dropped |= set(weight)
    if wanted.label is None or (wanted.unlabelled and wanted.label not in names and headed):
        target = _target(names, headed, row, dropped)
    else:
        target = _column(names, wanted.label, "label", where)
    if target is None and not wanted.unlabelled:
        remedy = NAME_ONE if headed else "Name it: --label 0 is the first column, --label -1 the last."
        raise bad("which column is the class?", where, f"columns {_some(names)}", f"one of {', '.join(LABELS)}", remedy)
    features = [index for index in range(len(names)) if index != target and index not in dropped]
    if target in weight:
        raise bad("a column is the class and the weights", where, repr(wanted.weight), "two columns", "Check --weight.")
    if not features:
        raise bad("no columns of values", where, f"{len(names)} columns", "at least one beside the class")
    return target, features, weight


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
        remedy = "Values to be predicted, not classes? See twostroke.sklearn.MLPRegressor. Else choose --label COLUMN."
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
