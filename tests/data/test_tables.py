"""Tables: CSV, TSV and Parquet as people have them, and every fault in one line."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from twostroke.data import tables
from twostroke.data.dataset import load_dataset
from twostroke.data.scaling import Scaling
from twostroke.errors import DataError

ROWS = [(5.1, 3.5, "setosa"), (7.0, 3.2, "versicolor"), (6.3, 3.3, "virginica")] * 10


def written(path: Path, rows: Any, header: str | None = "length,width,species", delimiter: str = ",") -> Path:
    lines = [header.replace(",", delimiter)] if header else []
    path.write_text("\n".join([*lines, *(delimiter.join(map(str, row)) for row in rows)]) + "\n", encoding="utf-8")
    return path


def refused(path: Path, *parts: str, **options: Any) -> None:
    with pytest.raises(DataError) as caught:
        load_dataset(path, **options)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    for part in parts:
        assert part in message, message


@pytest.mark.parametrize(
    ("name", "delimiter"), [("a.csv", ","), ("a.CSV", ";"), ("a.tsv", "\t"), ("a.csv", "|"), ("a.csv", "\t")]
)
def test_a_table_with_words_as_classes(tmp_path: Path, name: str, delimiter: str) -> None:
    data = load_dataset(written(tmp_path / name, ROWS, delimiter=delimiter))
    assert (data.name, data.n_classes, data.columns) == ("a", 3, ("length", "width"))
    assert data.classes == ("setosa", "versicolor", "virginica")
    assert (len(data.train_images), len(data.test_images)) == (24, 6)
    # Each row of both parts still has its own class, and none is lost.
    values = np.concatenate([data.train_images, data.test_images])
    labels = np.concatenate([data.train_labels, data.test_labels])
    found = sorted((*map(float, row), data.classes[label]) for row, label in zip(values, labels, strict=True))
    assert found == sorted(ROWS)
    assert "'species'" in data.how


def test_the_same_rows_are_held_out_at_every_reading(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", ROWS)
    np.testing.assert_array_equal(load_dataset(path).test_images, load_dataset(path).test_images)


def test_packed_with_a_byte_order_mark_quotes_and_blank_lines(tmp_path: Path) -> None:
    text = '\ufefflength,"the width",species\n\n' + "".join(f'{a},{b},"{c}"\n\n' for a, b, c in ROWS)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(text.encode()))
    data = load_dataset(tmp_path / "a.csv.gz")
    assert (data.columns, len(data.train_images)) == (("length", "the width"), 24)


@pytest.mark.parametrize("header", ["length,width,class", "Label,length,width", "a,b,TARGET"])
def test_the_class_is_the_column_of_that_name(tmp_path: Path, header: str) -> None:
    where = [name.lower() in tables.LABELS for name in header.split(",")].index(True)
    rows = [[k + 1 if column == where else 10.5 * k for column in range(3)] for k in range(3) for _ in range(4)]
    data = load_dataset(written(tmp_path / "a.csv", rows, header))
    assert data.classes == ("1", "2", "3")
    assert sorted(np.concatenate([data.train_labels, data.test_labels])) == sorted([0, 1, 2] * 4)


def test_the_class_by_name_by_number_and_from_the_end(tmp_path: Path) -> None:
    rows = [(k % 2, k, 1 - k % 2) for k in range(20)]
    path = written(tmp_path / "a.csv", rows, "first,x,last")
    refused(path, "which column is the class?", "first, x, last", "--label")
    for label, column in (("first", 0), ("0", 0), ("last", 2), ("-1", 2)):
        data = load_dataset(path, label=label)
        expected = [row[column] for row in rows]
        assert data.columns == tuple(name for k, name in enumerate(("first", "x", "last")) if k != column)
        labels = np.concatenate([data.train_labels, data.test_labels])
        assert sorted(labels) == sorted(expected)
        assert data.classes == ()  # 0 and 1 are numbers already
    refused(path, "no such column", "'colour'", label="colour")
    refused(path, "no such column", "'3'", label="3")


def test_without_a_header(tmp_path: Path) -> None:
    data = load_dataset(written(tmp_path / "a.csv", ROWS, None))
    assert (data.columns, data.n_classes, len(data.train_images)) == (("0", "1"), 3, 24)
    numbers = written(tmp_path / "b.csv", [(k % 3, k, 2 * k) for k in range(12)], None)
    refused(numbers, "which column is the class?", "--label 0", "--label -1")
    assert load_dataset(numbers, label="0").n_classes == 3


def test_columns_are_left_out(tmp_path: Path) -> None:
    rows = [(k, "red", *row) for k, row in enumerate(ROWS)]
    path = written(tmp_path / "a.csv", rows, "id,colour,length,width,species")
    refused(path, "not a number", "'red'", "column 'colour'", "row 0", "--drop colour")
    assert load_dataset(path, drop=["id", "colour"]).columns == ("length", "width")
    refused(path, "no such column", "'size'", "--drop", drop=["size"])
    refused(path, "no columns of values", drop=["id", "colour", "length", "width"])


def test_a_table_to_test_on(tmp_path: Path) -> None:
    path = written(tmp_path / "train.csv", ROWS)
    test = written(tmp_path / "test.csv", ROWS[:4])
    data = load_dataset(path, test=test)
    assert (len(data.train_images), len(data.test_images)) == (30, 4)
    assert [data.classes[k] for k in data.test_labels] == [row[2] for row in ROWS[:4]]
    with pytest.raises(DataError, match=r"different columns.*length, breadth.*length, width"):
        load_dataset(path, test=written(tmp_path / "b.csv", ROWS, "length,breadth,species"))
    with pytest.raises(DataError, match=r"an unknown class.*'rosa' in row 1.*setosa, versicolor, virginica"):
        load_dataset(path, test=written(tmp_path / "c.csv", [ROWS[0], (1, 2, "rosa")]))


def test_names_of_classes_fix_their_numbers(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", ROWS)
    data = load_dataset(path, classes=["virginica", "setosa", "versicolor", "rosa"])
    assert (data.n_classes, data.classes[0]) == (4, "virginica")
    refused(path, "an unknown class", "'virginica'", classes=["setosa", "versicolor"])


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        ([*ROWS, (1.0, "", "setosa")], ["a value is missing", "column 'width'", "row 30", "--drop width"]),
        ([*ROWS, (1.0, 2.0)], ["rows of different length", "2 values in row 30", "3"]),
        ([*ROWS, (1.0, 2.0, "")], ["a class is missing", "row 30"]),
        ([*ROWS, ("nan", 2.0, "setosa")], ["NaN"]),
        ([*ROWS, ("1e999", 2.0, "setosa")], ["NaN or infinite"]),
        ([*ROWS, ("a, b", 2.0, "setosa")], ["rows of different length"]),
        ([(1, 2, "a")] * 9, ["not a column of classes", "1 different values"]),
        ([(1, 2, k / 2) for k in range(9)], ["not a column of classes", "value 0.5", "--task regression"]),
        ([(1, 2, k) for k in range(2000)], ["not a column of classes", "2000 different values"]),
        ([], ["no samples"]),
    ],
)
def test_faults(tmp_path: Path, rows: Any, parts: list[str]) -> None:
    refused(written(tmp_path / "a.csv", rows), *parts)


@pytest.mark.parametrize(
    "content", [b"", b"\n\n", b"\xff\xfe\x00", b"a,b\n" + b'"' + b"x" * 200_000 + b"\n1,2\n", b"\x00" * 64]
)
def test_what_is_no_table(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    refused(path)


def test_pixels_by_kaggle_s_names_and_by_their_values(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (20, 64))
    rows = [(k % 4, *row) for k, row in enumerate(pixels)]
    for header in ("label," + ",".join(f"pixel{k}" for k in range(64)), None):
        path = written(tmp_path / "a.csv", rows, header)
        data = load_dataset(path, label="0")
        assert (str(data.train_images.dtype), data.image_shape, data.columns) == ("uint8", (8, 8), ())
        both = np.concatenate([data.train_images, data.test_images])
        assert sorted(map(tuple, both)) == sorted(map(tuple, pixels))
    headed = written(tmp_path / "b.csv", rows, "label," + ",".join(f"x{k}" for k in range(64)))
    assert load_dataset(headed).columns[:2] == ("x0", "x1")  # other names: a table


def test_options_of_tables_are_refused_for_other_data(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x_train=np.zeros((2, 3)), y_train=[0, 1], x_test=np.zeros((2, 3)), y_test=[0, 1])
    refused(tmp_path / "a.npz", "for tables", label="x")


def test_a_folder_of_tables_is_named(tmp_path: Path) -> None:
    written(tmp_path / "test.csv", ROWS)
    path = written(tmp_path / "train.csv", ROWS)
    refused(tmp_path, "a folder of tables", "test.csv, train.csv", f"Name the table: {path.with_name('test.csv')}")


def test_parquet_by_either_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path, columns = tmp_path / "a.parquet", list(zip(*ROWS, strict=True))
    table = pyarrow.table(dict(zip(("length", "width", "species"), columns, strict=True)))
    parquet.write_table(table, path)
    data = load_dataset(path)
    same = load_dataset(written(tmp_path / "a.csv", ROWS))
    np.testing.assert_array_equal(data.train_images, same.train_images)
    assert (data.classes, data.columns) == (same.classes, same.columns)
    parquet.write_table(table.append_column("when", pyarrow.array([None] * len(ROWS), pyarrow.float64())), path)
    refused(path, "NaN")
    parquet.write_table(table.append_column("note", pyarrow.array(["x"] * len(ROWS))), path)
    refused(path, "not a number", "'note'", "--drop note")
    path.write_bytes(path.read_bytes()[:50])
    refused(path, "not a valid Parquet file")


def test_without_a_library_parquet_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pyarrow", "polars"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    refused(tmp_path / "a.parquet", "neither pyarrow nor polars", "pip install pyarrow")


def test_scaling_standardises_in_float64() -> None:
    rng = np.random.default_rng(0)
    samples = rng.normal(1e9, [1.0, 100.0, 0.0], (500, 3))  # in float32 the first column would be constant
    scaled = Scaling.of(samples)(samples, np.float32)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled[:, :2].mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(scaled[:, :2].std(axis=0), 1, rtol=1e-6)
    np.testing.assert_array_equal(scaled[:, 2], 0)
