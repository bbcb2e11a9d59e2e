from __future__ import annotations

import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.datasets.image_table import ImageTable
from tests.data.written import CORNERS, write_table


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_table(tmp_path, n=12)


def _described(path: Path, principal: str = "label", **given: Any) -> ImageTable:
    dataset = ImageTable(path, principal, **given)
    dataset.describe()
    return dataset


def _write(path: Path, *lines: str, encoding: str = "utf-8") -> Path:
    path.write_text("\n".join(lines) + "\n", encoding=encoding)
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of a.png to f.png."""
    for letter in "abcdef":
        Image.new("RGB", (4, 4), (ord(letter), 0, 0)).save(tmp_path / f"{letter}.png")
    return tmp_path


def test_columns_become_factors(path: Path, tmp_path: Path) -> None:
    dataset = ImageTable(path, "label", image_size=8, cache_dir=tmp_path / "cache")
    dataset.setup()
    assert dataset.factor_names == ("label", "corner")  # weight is all different, note incomplete
    assert dataset.factor_sizes == (3, 4)
    assert dataset.value_names == {
        "label": ("bird", "cat", "dog"),
        "corner": tuple(sorted(CORNERS)),
    }
    assert dataset.ids[[0, 35]].tolist() == ["images/000.png", "images/035.png"]
    assert dataset.labels.tolist() == [0, 1, 2] * 12
    assert dataset.factor("corner")[[0, 3, 6, 9]].tolist() == [1, 0, 2, 3]
    assert np.bincount(dataset.splits).tolist() == [27, 3, 6]  # of a class: 2 of 12, 1 of 10
    assert dataset.pixels is not None
    tint = dataset.pixels.float().mean((2, 3)).numpy()
    assert (tint.argmax(axis=1) == dataset.labels).all()


def test_any_column_can_be_principal_and_others_be_chosen(path: Path) -> None:
    assert _described(path, "corner").factor_names == ("corner", "label")
    dataset = _described(path, "corner", columns=["weight"])
    assert dataset.factor_names == ("corner", "weight")
    assert dataset.factor_sizes == (4, 36)
    assert dataset.value_names["weight"][:3] == ("0.5", "1.5", "2.5")
    assert _described(path, columns=[]).factor_names == ("label",)


def test_numbers_are_sorted_as_numbers(images: Path) -> None:
    table = _write(images / "t.csv", "image,k,s", "a.png,10,x10", "b.png,9,x9", "c.png,-1,x1")
    dataset = _described(table, "k", columns=["s"])
    assert dataset.value_names == {"k": ("-1", "9", "10"), "s": ("x1", "x10", "x9")}
    assert dataset.factors.tolist() == [[2, 1], [1, 2], [0, 0]]


@pytest.mark.parametrize(
    ("mark", "encoding"), [(",", "utf-8"), (";", "utf-8-sig"), ("\t", "utf-8"), (", ", "utf-8")]
)
def test_marks_and_byte_order(images: Path, mark: str, encoding: str) -> None:
    rows = (("image", "größe"), ("b.png", "groß"), ("a.png", '"klein; rot, und\tmehr"'))
    table = _write(images / "t.csv", *(mark.join(row) for row in rows), "", encoding=encoding)
    dataset = _described(table, "größe")
    assert dataset.ids.tolist() == ["a.png", "b.png"]
    assert dataset.value_names["größe"] == ("groß", "klein; rot, und\tmehr")
    assert dataset.labels.tolist() == [1, 0]


def test_split_column(images: Path) -> None:
    lines = ("image,label,split", "a.png,x,train", "b.png,y,Train", "c.png,x,validation",
             "d.png,y,test", "e.png,x,train", "f.png,y,val")  # fmt: skip
    table = _write(images / "t.csv", *lines)
    dataset = _described(table)
    assert dataset.splits.tolist() == [0, 0, 1, 2, 0, 1]
    assert dataset.factor_names == ("label",)
    drawn = _described(table, split_column=None, val_share=0.0, test_share=0.4, columns=[])
    assert np.bincount(drawn.splits).tolist() == [4, 0, 2]
    _write(images / "u.csv", *(line.replace("split", "fold") for line in lines))
    assert _described(images / "u.csv", split_column="fold").splits.tolist() == [0, 0, 1, 2, 0, 1]


def test_missing_splits_are_drawn_from_train(path: Path) -> None:
    lines = path.read_text().splitlines()
    split = ["split", *(["test"] * 6), *(["train"] * 30)]
    _write(path, *(f"{line},{part}" for line, part in zip(lines, split, strict=True)))
    dataset = _described(path)
    assert np.flatnonzero(dataset.splits == 2).tolist() == [0, 1, 2, 3, 4, 5]
    assert np.bincount(dataset.splits).tolist() == [27, 3, 6]


def test_paths_start_from_the_table_or_the_root(path: Path, tmp_path: Path) -> None:
    moved = tmp_path / "tables" / "labels.csv"
    moved.parent.mkdir()
    path.rename(moved)
    with pytest.raises(
        UserError, match=r"36 of 36 .*\(line 2: .*tables/images/000\.png; .*and 31 m"
    ):
        _described(moved)
    dataset = _described(moved, root=tmp_path)
    assert dataset.index.paths[0] == tmp_path / "images" / "000.png"
    absolute = _write(tmp_path / "t.csv", "image,label", f"{tmp_path}/images/000.png,x")
    assert _described(absolute).index.paths == [tmp_path / "images" / "000.png"]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_accents_of_another_form_and_backslashes_are_found(tmp_path: Path, form: Any) -> None:
    other = "NFD" if form == "NFC" else "NFC"
    there = tmp_path / unicodedata.normalize(form, "über") / unicodedata.normalize(form, "Mäd.png")
    there.parent.mkdir()
    Image.new("RGB", (4, 4)).save(there)
    written = unicodedata.normalize(other, "über\\Mäd.png")
    dataset = _described(_write(tmp_path / "t.csv", "image,label", f"{written},x"))
    assert dataset.index.paths == [there]
    assert dataset.ids.tolist() == [written.replace("\\", "/")]


def _parquet(path: Path, columns: dict[str, Any]) -> Path:
    arrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(arrow.table(columns), path)
    return path


def test_parquet(images: Path) -> None:
    table = _parquet(
        images / "t.parquet",
        {
            "image": ["b.png", "a.png", "c.png", "d.png"],
            "label": [10, 9, 10, 9],
            "flag": [True, False, True, True],
            "holes": ["x", None, "x", "y"],
            "bytes": [b"\x00", b"\x01", b"\x00", b"\x01"],
            "box": [[1, 2], [1, 2], [3], [3]],
        },
    )
    dataset = _described(table)
    assert dataset.ids.tolist() == ["a.png", "b.png", "c.png", "d.png"]
    assert dataset.value_names == {"label": ("9", "10"), "flag": ("False", "True")}
    assert dataset.labels.tolist() == [0, 1, 1, 0]
    with pytest.raises(UserError, match=r"no label in column 'holes' of 1 row \(row 1\): fill"):
        _described(table, "holes")


def test_bad_parquet_is_named(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    with pytest.raises(
        UserError, match=r"t\.parquet cannot be read as parquet \(.*\): save it anew"
    ):
        _described(_write(images / "t.parquet", "image,label"))
    with pytest.raises(
        UserError, match=r"u\.parquet has no row: give a table with a row per image"
    ):
        _described(_parquet(images / "u.parquet", {"image": [], "label": []}))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        UserError, match=r't\.parquet needs pyarrow: pip install "detaux_pl\[parquet'
    ):
        _described(images / "t.parquet")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ("image,lable", "a.png,x"),
            r"no column 'label', did you mean 'lable'\?: it has 'image', 'l",
        ),
        (("file,label", "a.png,x"), r"no column 'image': it has 'file', 'label'\."),
        (
            ("image,label", "a.png,x", "b.png,"),
            r"no label in column 'label' of 1 row \(line 3\): f",
        ),
        (("image,label", ",x"), r"no path in column 'image' of 1 row \(line 2\)"),
        (
            ("image,label", "a.png,x", "no.png,y"),
            r"1 of 2 images that do not .*\(line 3: .*/no\.png",
        ),
        (
            ("image,label", "a.png,x", "./a.png,y"),
            r"a\.png twice, in line 2 and line 3: remove one",
        ),
        (
            ("image,label", "a.png,x,y"),
            r"t\.csv, line 2: there are 3 values, but 2 columns in the h",
        ),
        (("image,label", 'a.png,"x"y'), r"t\.csv, line 2: this is no proper CSV"),
        (("image,label", 'a.png,"x'), r"t\.csv, line 2: this is no proper CSV"),
        (("image,label,label", "a.png,x,y"), r"t\.csv has two columns 'label': rename one"),
        (("image,label",), r"t\.csv has no row: give a table with a header and a row per image"),
        (("",), r"t\.csv has no row"),
        (
            ("image,label,split", "a.png,x,fold"),
            r"line 2: the split 'fold' is none of train, val, tes",
        ),
        (("image,label,split", "a.png,x,"), r"no split in column 'split' of 1 row \(line 2\)"),
        (("image,label,split", "a.png,x,test"), r"has no row whose 'split' is train"),
        (("image,label", f"{'n' * 300}.png,x"), r"1 of 1 images that do not exist"),
        (("image,label", "a\0.png,x"), r"1 of 1 images that do not exist"),
    ],
)
def test_what_does_not_fit_is_named(images: Path, lines: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        _described(_write(images / "t.csv", *lines))
    assert "\n" not in str(caught.value)


def test_columns_that_are_asked_for_must_be_complete(path: Path) -> None:
    with pytest.raises(
        UserError, match=r"no label in column 'note' of 35 rows \(line 3; .*and 30 mo"
    ):
        _described(path, columns=["note"])
    with pytest.raises(
        UserError,
        match=r"has no column 'fold': it has 'image', 'label', 'corner', .*another as split_column",
    ):
        _described(path, split_column="fold")
    for given in ({"image_column": "file"}, {"principal": "age"}, {"split_by": "who"}):
        with pytest.raises(UserError, match=f"Give another as {next(iter(given))}\\."):
            _described(path, **given)
    with pytest.raises(UserError, match=r"has no column 'hue'.*Give another as columns\."):
        _described(path, columns=["hue"])


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_other_encodings_are_named(images: Path, encoding: str) -> None:
    table = _write(images / "t.csv", "image,label", "a.png,groß", encoding=encoding)
    with pytest.raises(
        UserError, match=r"t\.csv is not UTF-8 \(byte \d+ of it\): save it as CSV in"
    ):
        _described(table)


def test_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"none\.csv does not exist: give the path of a CSV or parq"
    ):
        _described(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: ImageTable(Path("t.xlsx"), "label"),
            r"path is t\.xlsx: give a file ending in \.csv",
        ),
        (lambda: ImageTable(Path("t.csv"), "image"), "column 'image' cannot hold labels"),
        (
            lambda: ImageTable(Path("t.csv"), "x", columns=["split"]),
            "column 'split' cannot hold lab",
        ),
        (
            lambda: ImageTable(Path("t.csv"), "x", "f", "f"),
            "image_column and split_column are both",
        ),
        (lambda: ImageTable(Path("t.csv"), "x", test_share=2), "the share of test is 2"),
    ],
)
def test_arguments_are_checked(make: Callable[[], ImageTable], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_rows_without_a_label(images: Path) -> None:
    lines = ("image,label,room,split", "a.png,x,1,train", "b.png,y,2,0", "c.png,x,3,val",
             "d.png,,2,", "e.png,,,whatever", "f.png,,9,test")  # fmt: skip
    table = _write(images / "t.csv", *lines)
    dataset = _described(table, columns=["room"], unlabelled=True)
    assert dataset.splits.tolist() == [0, 0, 1, 3, 3, 3]
    assert dataset.labels.tolist() == [0, 1, 0, -1, -1, -1]
    assert dataset.factor("room").tolist() == [0, 1, 2, 1, -1, -1]  # no labelled row has 9
    assert dataset.value_names == {"label": ("x", "y"), "room": ("1", "2", "3")}
    dataset.check()
    kept = _described(table, columns=["room"], unlabelled=True, leave_out=["test"])
    assert kept.ids.tolist() == ["a.png", "b.png", "c.png", "d.png", "e.png"]
    alike = _write(images / "all.csv", *lines[:4])
    with_labels = [_described(alike, columns=[], unlabelled=each) for each in (True, False)]
    assert with_labels[0].fingerprint() == with_labels[1].fingerprint()

    for label, what in (("room", "no label in column 'room' of 1 row"), ("label", "of 3 rows")):
        with pytest.raises(UserError, match=what) as caught:
            _described(table, label, columns=[])
        assert str(caught.value).endswith(
            "With unlabelled: true clusters are found among them, too."
        )
        assert "leave_out: []" not in str(caught.value)
    lacking = _write(images / "t.csv", *lines[:3], "c.png,x,,val", *lines[4:])
    with pytest.raises(
        UserError, match=r"'room' of 1 row \(line 4\): fill it in or remove them\.$"
    ):
        _described(lacking, columns=["room"], unlabelled=True)
    bare = _write(images / "t.csv", lines[0], *lines[4:])
    with pytest.raises(
        UserError, match=r"has 3 images without a label of 'label', and no training"
    ):
        _described(bare, columns=[], unlabelled=True)
    wrong = _write(images / "t.csv", *lines[:3], "c.png,x,3,dev2", *lines[4:])
    with pytest.raises(UserError, match="line 4: the split 'dev2' is none of train, val, test, 0"):
        _described(wrong, columns=[], unlabelled=True)
