"""A device's own data as arrays by name: .npz, .npy, CSV and Parquet, on this Python and on a Jetson Nano's."""

import io
import os
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

import python36
from flowerbed.dataset import DatasetError, DatasetWarning, arrays, shards

ROWS = 20
READINGS = {
    "hour": np.arange(ROWS),
    "temperature": np.arange(ROWS) / 4 - 2,
    "place": np.array(["roof", "cellar"] * (ROWS // 2)),
}


def csv(readings: dict[str, np.ndarray], separator: str = ",", header: bool = True) -> str:
    rows = [list(readings)] * header + list(zip(*readings.values(), strict=True))
    return "".join(separator.join(map(str, row)) + "\n" for row in rows)


def save(folder: Path, split: str, kind: str, data: dict[str, np.ndarray]) -> Path:
    path = folder / f"{split}.{kind}"
    if kind == "npz":
        np.savez(path, **data)
    elif kind == "parquet":
        parquet.write_table(pyarrow.table(data), path)
    else:
        path.write_text(csv(data, "\t" if kind == "tsv" else ","))
    return path


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert set(one) == set(other)
    for name in one:
        assert one[name].dtype.kind == other[name].dtype.kind
        np.testing.assert_array_equal(one[name], other[name])


def read(path: Path, content: str | bytes, names=None) -> dict[str, list]:
    """Return the columns of a CSV file with this content, without a warning."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return {name: column.tolist() for name, column in arrays.read_file(str(path), names).items()}


def refused(sentence: str, function, *arguments, **more) -> None:
    with pytest.raises(DatasetError, match=sentence):
        function(*arguments, **more)


@pytest.mark.parametrize("kind", ["npz", "csv", "tsv", "parquet"])
def test_both_splits_are_read_whatever_they_are_written_in(tmp_path, kind):
    save(tmp_path, "train", kind, READINGS)
    save(tmp_path, "heldout", "npz", {name: array[:3] for name, array in READINGS.items()})
    (tmp_path / "notes.txt").write_text("mine")
    train, heldout = arrays.read(str(tmp_path))
    same(train, READINGS)
    same(heldout, {name: array[:3] for name, array in READINGS.items()})
    assert list(arrays.read(str(tmp_path), ["temperature", "hour"])[0]) == ["temperature", "hour"]
    same(arrays.read(str(tmp_path), "hour")[1], {"hour": READINGS["hour"][:3]})


def test_without_heldout_rows_are_split_off_the_same_ones_every_time(tmp_path):
    save(tmp_path, "train", "csv", READINGS)
    for shuffle, last in ((True, False), (False, True)):
        train, heldout = arrays.read(str(tmp_path), heldout=0.2, shuffle=shuffle)
        hours = [split["hour"].tolist() for split in (train, heldout)]
        assert sorted(sum(hours, [])) == list(range(ROWS)) and len(hours[1]) == 4
        assert (hours[1] == [16, 17, 18, 19]) == last
        for split in (train, heldout):
            np.testing.assert_array_equal(split["temperature"], split["hour"] / 4 - 2)
        same(heldout, arrays.read(str(tmp_path), heldout=0.2, shuffle=shuffle)[1])
    train, heldout = arrays.read(str(tmp_path), heldout=0)
    same(train, READINGS)
    assert heldout is None


def test_one_row_is_trained_on_and_a_split_may_be_missing(tmp_path):
    np.save(tmp_path / "train.npy", np.ones((1, 5), np.float32))
    train, heldout = arrays.read(str(tmp_path))
    assert train["x"].shape == (1, 5) and heldout is None
    os.rename(tmp_path / "train.npy", tmp_path / "heldout.npy")  # as on the server, which only evaluates
    train, heldout = arrays.read(str(tmp_path))
    assert train is None and heldout["x"].shape == (1, 5)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(7, dtype=np.uint16),
        np.ones((3, 4, 5, 6), np.float16),
        np.arange(6, dtype=">f4").reshape(3, 2),
        np.asfortranarray(np.arange(6.0).reshape(3, 2)),
        np.array([True, False]),
    ],
)
def test_an_array_of_any_shape_and_type_stays_what_it_is_in_this_machines_byte_order(tmp_path, array):
    np.save(tmp_path / "train.npy", array)
    np.savez_compressed(tmp_path / "heldout.npz", x=array)
    for split in arrays.read(str(tmp_path)):
        np.testing.assert_array_equal(split["x"], array)
        assert split["x"].dtype == array.dtype.newbyteorder("=") and split["x"].dtype.isnative


@pytest.mark.parametrize(
    ("content", "columns"),
    [
        ("a,b\n1,2.5\n3,4\n", {"a": [1, 3], "b": [2.5, 4.0]}),
        ("1,2.5\n3,4\n", {"0": [1, 3], "1": [2.5, 4.0]}),
        ("7\n", {"0": [7]}),
        ("\ufeffa;b\r\n1,5;x\r\n-2,25;y\r\n", {"a": [1.5, -2.25], "b": ["x", "y"]}),
        ("1,5;2,5\n2;-3e-1\n", {"0": [1.5, 2.0], "1": [2.5, -0.3]}),
        ("a\tb\n1,5\tÄpfel\n", {"a": [1.5], "b": ["Äpfel"]}),
        ("a\tb\n1\tÄpfel\n".encode("utf-16"), {"a": [1], "b": ["Äpfel"]}),
        ('"a;1", "b\n2"\n1,"x, ""y"""\n', {"a;1": [1], "b\n2": ['x, "y"']}),
        ("\n# a, b\n\n1 , x\n , \n2,y\n\n", {"a": [1, 2], "b": ["x", "y"]}),
        (",a,b,,\n0,1,x,,\n1,2,y,,\n", {"a": [1, 2], "b": ["x", "y"]}),
        ("id,400,410\n7,0.5,0.25\n", {"id": [7], "400": [0.5], "410": [0.25]}),
        ("2026-11-01,1.5\n2026-11-02,1.75\n", {"0": ["2026-11-01", "2026-11-02"], "1": [1.5, 1.75]}),
        ("a,b\n99999999999999999999,1_0\n1,2_0\n", {"a": [1e20, 1.0], "b": ["1_0", "2_0"]}),
        ("a,b\n1e3,+inf\n.5,-Infinity\n", {"a": [1000.0, 0.5], "b": [np.inf, -np.inf]}),
        ("day;sum\n1.11.2026;1.234,5\n", {"day": ["1.11.2026"], "sum": ["1.234,5"]}),
        ("a,b\n1,\n2,x\n", {"a": [1, 2], "b": ["", "x"]}),
    ],
)
def test_a_csv_may_be_written_otherwise(tmp_path, content, columns):
    assert read(tmp_path / "train.csv", content) == columns


def test_empty_cells_are_nan_and_are_said(tmp_path):
    (tmp_path / "train.csv").write_text("hour,wet,dry\n1,,2\n2,0.5,NA\n3,nan,\n")
    with pytest.warns(DatasetWarning, match="train.csv has empty cells, which are NaN: 2 in wet, 2 in dry$"):
        data = arrays.read_file(str(tmp_path / "train.csv"))
    np.testing.assert_array_equal(data["wet"], [np.nan, 0.5, np.nan])
    np.testing.assert_array_equal(data["dry"], [2, np.nan, np.nan])
    assert data["hour"].tolist() == [1, 2, 3]


def test_more_rows_than_are_read_at_a_time_are_one_column(tmp_path):
    rows = [f"{number},{'x' * (number // 3000)}" for number in range(9000)]
    columns = read(tmp_path / "train.csv", "\n".join(["number,text", *rows]))
    assert columns["number"] == list(range(9000)) and columns["text"][8999] == "xx" and columns["text"][0] == ""


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "train.csv holds no examples"),
        ("a,b\n", "train.csv holds no examples"),
        ("a,b\n1,2\n3\n", "line 3 of .*train.csv has 1 cells, but line 1 has 2: mend or remove the wrong one"),
        ("Logger 7\n\na,b\n1,2\n", "line 3 of .*train.csv has 2 cells, but line 1 has 1"),
        ("a,b\n1,2\n" + "\0" * 9, "line 3 of .*train.csv"),
        ('a,b\n1,"2\n' + "3,4\n" * 50000, r"line \d+ of .*train.csv cannot be read \(field larger than field limit"),
        ("a,a\n1,2\n", "train.csv has two columns called a: rename one"),
        ("a;Größe\n1;2\n".encode("cp1252"), "train.csv is not text in UTF-8: save it as UTF-8"),
        (
            "a\n1.5\nERR 7\n2\n\n2\n",
            "column a of .*train.csv has ERR 7 in line 3, where most are numbers: correct it or empty it, or name",
        ),
        ("a;b\n1,5;1\n1.5;2\n", "column a of .*train.csv has numbers with a decimal point and with a comma"),
    ],
)
def test_a_csv_that_nobody_can_be_sure_of_is_refused(tmp_path, content, sentence):
    (tmp_path / "train.csv").write_bytes(content.encode() if isinstance(content, str) else content)
    refused(sentence, arrays.read, str(tmp_path))


def test_a_column_that_is_not_named_may_hold_anything(tmp_path):
    content = "a,b\n1,2\nERR,3\n4,\n5,6\n"
    refused("column a of .* has ERR", read, tmp_path / "train.csv", content)
    assert read(tmp_path / "train.csv", content.replace("4,", "4,5"), ["b"]) == {"b": [2, 3, 5, 6]}


@pytest.mark.parametrize(
    ("saved", "sentence"),
    [
        (
            {"x": np.ones((3, 2)), "y": np.ones(2)},
            r"unequal numbers of rows \(x 3, y 2\), but a row of each is an exam",
        ),
        ({"x": np.ones((3, 2)), "mean": np.float64(1)}, r"unequal numbers of rows \(mean none, x 3\)"),
        ({"mean": np.float64(1)}, r"unequal numbers of rows \(mean none\)"),
        ({"x": np.ones((0, 2))}, "train.npz holds no examples"),
        ({}, "train.npz holds no arrays"),
        ({"x": np.array([[1], [1, 2]], object)}, "x.npy in .*train.npz holds Python objects, which are pickles"),
    ],
)
def test_arrays_that_are_no_rows_of_examples_are_refused(tmp_path, saved, sentence):
    np.savez(tmp_path / "train.npz", **saved)
    refused(sentence, arrays.read, str(tmp_path))


def test_arrays_that_are_named_need_not_agree_with_the_others(tmp_path):
    np.savez(tmp_path / "train.npz", x=np.ones((3, 2)), mean=np.float64(1))
    assert arrays.read(str(tmp_path), "x")[0]["x"].shape == (2, 2)
    refused("train.npz has no y: it has mean, x$", arrays.read, str(tmp_path), ["x", "y"])
    np.save(tmp_path / "x.npy", np.ones(3))
    refused("x.npy has no y: it has x$", arrays.read_file, str(tmp_path / "x.npy"), ["y"])
    names = [f"column {number:02}" for number in range(15)]
    np.savez(tmp_path / "train.npz", **dict.fromkeys(names, np.ones(2)))
    refused("has no y: it has column 00, .*, column 11 and 3 more$", arrays.read, str(tmp_path), ["y"])


@pytest.mark.parametrize(
    ("heldout", "sentence"),
    [
        ({"x": np.ones((2, 3))}, "train.npz has y, but .*heldout.npz has not: give both the same, or name those"),
        ({"x": np.ones((2, 3)), "y": [1, 2], "z": [1, 2]}, "heldout.npz has z, but .*train.npz has not"),
        ({"x": np.ones((2, 4)), "y": [1, 2]}, r"rows of the shape \(3,\) in x, but .*heldout.npz has rows of .*\(4,\)"),
        ({"x": np.ones((2, 3)), "y": ["a", "b"]}, "train.npz has numbers in y, but .*heldout.npz has text: make them"),
    ],
)
def test_both_splits_hold_the_same(tmp_path, heldout, sentence):
    np.savez(tmp_path / "train.npz", x=np.ones((5, 3)), y=np.ones(5))
    np.savez(tmp_path / "heldout.npz", **heldout)
    refused(sentence, arrays.read, str(tmp_path))


def test_a_folder_without_such_files_is_refused(tmp_path):
    refused("gone is missing: deploy, or put this device's data there", arrays.read, str(tmp_path / "gone"))
    refused("holds nothing, but none of train.npz, train.npy, train.csv", arrays.read, str(tmp_path))
    (tmp_path / "log.csv").write_text("a\n1\n")
    refused("holds log.csv, but none of .* rename this device's data, or read it", arrays.read, str(tmp_path))
    refused("/log.txt is none of .npz .npy .csv", arrays.read_file, str(tmp_path / "log.txt"))
    for kind in ("csv", "npz"):
        save(tmp_path, "train", kind, READINGS)
    refused("holds train.csv and train.npz: leave one of them", arrays.read, str(tmp_path))


@pytest.mark.parametrize("kind", ["npz", "npy", "csv", "parquet"])
def test_only_regular_files_are_read(tmp_path, kind):
    os.mkfifo(tmp_path / f"train.{kind}")
    refused(f"train.{kind} is no regular file but a pipe", arrays.read, str(tmp_path))


@pytest.mark.parametrize("kind", ["npz", "npy", "parquet"])
@pytest.mark.parametrize("content", [b"", b"PK no such file", "truncated"])
def test_a_damaged_file_is_named(tmp_path, kind, content):
    save(tmp_path, "train", kind, READINGS) if kind != "npy" else np.save(tmp_path / "train.npy", np.ones(99))
    path = tmp_path / f"train.{kind}"
    path.write_bytes(path.read_bytes()[:-9] if content == "truncated" else content)
    refused(rf"train.{kind} is not a whole .{kind} file \(", arrays.read, str(tmp_path))


def test_no_more_is_read_than_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "limit", 1)
    sentence = r"takes more memory than dataset_limit allows \(1 MiB\)"
    for shape in ((1 << 18,), (1 << 40, 1 << 40)):
        head = io.BytesIO()
        np.lib.format.write_array_header_1_0(head, {"descr": "<f8", "fortran_order": False, "shape": shape})
        (tmp_path / "a.npy").write_bytes(head.getvalue())
        refused(sentence, arrays.read_file, str(tmp_path / "a.npy"))
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr("x.npy", head.getvalue())
        refused(sentence, arrays.read_file, str(tmp_path / "a.npz"))
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f8", "fortran_order": False, "shape": (-1,)})
    (tmp_path / "a.npy").write_bytes(head.getvalue() + bytes(80))
    refused(
        r"a.npy is not a whole .npy file \(an array of the shape \(-1,\)\)", arrays.read_file, str(tmp_path / "a.npy")
    )
    for rows in ("\n" * (1 << 20), "1\n" * (1 << 18), "x\n" * 999 + "x" * 2000, "x\n" * 999 + "x" * 900):
        (tmp_path / "a.csv").write_text("a\n" + rows)
        refused(sentence, arrays.read_file, str(tmp_path / "a.csv"))
    for column in (np.zeros(1 << 18), ["x" * 2000] + [""] * 999):
        parquet.write_table(pyarrow.table({"a": column}), tmp_path / "a.parquet")
        assert (tmp_path / "a.parquet").stat().st_size < 1 << 18
        refused(sentence, arrays.read_file, str(tmp_path / "a.parquet"))


def test_parquet_has_numbers_times_text_and_lists_of_one_length(tmp_path):
    columns = {
        "whole": pyarrow.array([1, 2, None]),
        "fraction": pyarrow.array([1.5, None, 3], "float32"),
        "flag": pyarrow.array([True, None, False]),
        "text": pyarrow.array(["a", None, "Ä"]).dictionary_encode(),
        "time": pyarrow.array([0, 1, 2], pyarrow.timestamp("s")),
        "a.b": pyarrow.array([[[1, 2]], [[3, 4]], [[5, 6]]]),
        "window": pyarrow.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], pyarrow.list_(pyarrow.float32(), 2)),
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "train.parquet")
    with pytest.warns(DatasetWarning, match="which are NaN: 1 in whole, 1 in fraction, 1 in flag$"):
        data = arrays.read_file(str(tmp_path / "train.parquet"))
    np.testing.assert_array_equal(data["whole"], [1, 2, np.nan])
    np.testing.assert_array_equal(data["flag"], [1, np.nan, 0])
    assert data["fraction"].dtype == np.float32 and data["time"].dtype == "datetime64[ms]"
    assert data["text"].tolist() == ["a", "", "Ä"] and data["text"].dtype.kind == "U"
    assert data["a.b"].tolist() == [[[1, 2]], [[3, 4]], [[5, 6]]]
    assert data["window"].tolist() == [[1, 2], [3, 4], [5, 6]]


@pytest.mark.parametrize(
    ("column", "sentence"),
    [
        ([[1], [1, 2]], "column a of .*train.parquet has lists of unequal lengths"),
        ([[1], None], "column a of .*train.parquet has lists of unequal lengths"),
        ([{"b": 1}, {"b": 2}], "column a of .*train.parquet has struct<b: int64>, which is no number, text or list"),
        ([b"1", b"2"], "has binary, which is no number"),
    ],
)
def test_what_else_a_parquet_file_has_is_left_out_if_others_are_named(tmp_path, column, sentence):
    parquet.write_table(pyarrow.table({"a": column, "b": [1, 2]}), tmp_path / "train.parquet")
    refused(sentence, arrays.read, str(tmp_path))
    assert arrays.read(str(tmp_path), "b")[0]["b"].tolist() == [1]


def test_parquet_needs_a_pyarrow_that_runs_nothing(tmp_path, monkeypatch):
    save(tmp_path, "train", "parquet", READINGS)
    monkeypatch.setattr(pyarrow, "__version__", "14.0.0")
    refused("needs pyarrow 14.0.1 or newer, .* has 14.0.0: install it, or save the data as", arrays.read, str(tmp_path))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refused("train.parquet is read by pyarrow only, which is not installed", arrays.read, str(tmp_path))


@pytest.mark.parametrize("kind", ["npz", "csv"])
def test_python_3_6_reads_the_same(tmp_path, kind):
    python = python36.find("numpy")
    save(tmp_path, "train", kind, READINGS)
    code = (
        "import json, sys; from flowerbed.dataset import arrays; splits = arrays.read(sys.argv[1]);"
        "print(json.dumps([{name: array.tolist() for name, array in split.items()} for split in splits]))"
    )
    splits = arrays.read(str(tmp_path))
    assert python36.answer(python, code, tmp_path) == [
        {name: array.tolist() for name, array in split.items()} for split in splits
    ]
