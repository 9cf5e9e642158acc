"""CSV and TSV tables."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuros_data.reading import read


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_columns_are_channels_and_text_is_a_label(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "time,LFP_1,LFP_2,state\n0,1,2,a\n0.1,3,n/a,a\n0.2,4,5,b\n")
    recording = read(path)
    lfp = recording.modalities["lfp"]
    np.testing.assert_array_equal(lfp.data, [[1, 2], [3, np.nan], [4, 5]])
    assert lfp.valid.tolist() == [[True, True], [True, False], [True, True]]
    assert lfp.rate == 10.0
    assert recording.behaviour["state"].columns["label"].tolist() == ["a", "b"]


def test_a_table_without_names_numbers_its_columns(tmp_path: Path) -> None:
    fmri = read(write(tmp_path / "a.txt", "1 2\n3 4\n5 7\n"), "fmri", rate=0.5).modalities["fmri"]
    assert (fmri.channels, fmri.rate) == (("0", "1"), 0.5)


def test_named_columns_are_behaviour(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "stamp\tx\tspeed\n5\t1\t9\n6\t2\t8\n7\t4\t7\n")
    recording = read(path, "lfp", times="stamp", behaviour=["speed"], unit="mV", scale=2.0)
    assert recording.behaviour["speed"].data.ravel().tolist() == [9, 8, 7]
    assert recording.modalities["lfp"].data.ravel().tolist() == [0.002, 0.004, 0.008]


def test_repair_sorts_rows(tmp_path: Path, read: Callable[..., Any]) -> None:
    path = write(tmp_path / "a.csv", "t,x\n0,1\n2,3\n1,2\n")
    assert read(path, "lfp", repair=True)[0].modalities["lfp"].data.ravel().tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "is empty; a table needs"),
        ("a,b\n", {}, "a row of names and no row of values"),
        ("a,b\n1,2\n3\n", {}, "has 1 cells in row 3, expected 2 .* truncated there"),
        ("a,b\n1,2\n", {}, "no time column .* pass rate= in Hz or times= one of its columns: 'a'"),
        ("a,b\n1,2\n", {"times": "c"}, "no column 'c'; it has 'a', 'b'"),
        ("a,b\n1,2\n", {"rate": 1.0, "behaviour": ["c"]}, "no column 'c'; it has 'a', 'b'"),
        ("time,b\nnoon,2\n", {}, "column 'time' holds 'noon', times need numbers"),
        ("time,b\n0,x\n1,y\n", {}, "no column of numbers besides time and behaviour"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(
    tmp_path: Path, text: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read(write(tmp_path / "a.csv", text), "lfp", **options)


def test_a_table_of_bytes_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(ValueError, match="is not a table of text in UTF-8"):
        read(path, "lfp")
