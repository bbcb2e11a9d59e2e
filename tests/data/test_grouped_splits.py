"""Images of one source stay together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.datasets.image_folder import ImageFolder
from detaux_pl.data.datasets.image_table import ImageTable
from detaux_pl.data.grouped_splits import draw_missing_groups


def _draw(labels: list[int], groups: list[int], seed: int = 0, **shares: float) -> np.ndarray:  # type: ignore[type-arg]
    splits = np.zeros(len(labels), dtype=np.int8)
    draw_missing_groups(
        splits,
        np.array(labels),
        np.array(groups),
        {"val": 0.1, "test": 0.2, **shares},
        seed,
        "'who'",
    )
    return splits


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=1, max_size=80),
    st.integers(0, 3),
)
def test_every_value_is_whole(rows: list[tuple[int, int]], seed: int) -> None:
    labels, groups = [row[0] for row in rows], [row[1] for row in rows]
    try:
        splits = _draw(labels, groups, seed)
    except UserError:  # no value can leave train without taking nearly all of a class along
        return
    for group in set(groups):
        assert len({split for split, g in zip(splits, groups, strict=True) if g == group}) == 1
    for label in set(labels):
        kept = sum(s == 0 and y == label for s, y in zip(splits, labels, strict=True))
        assert kept >= min(2, labels.count(label))
    assert {1, 2} <= set(splits)


def test_shares_are_those_of_every_class() -> None:
    rng = np.random.default_rng(0)
    labels, groups = rng.integers(0, 5, 3000), rng.integers(0, 300, 3000)
    splits = _draw(labels.tolist(), groups.tolist())
    for label in range(5):
        test, val = ((splits == split)[labels == label].mean() for split in (2, 1))
        assert test == pytest.approx(0.2, abs=0.02)
        assert val == pytest.approx(0.08, abs=0.02)  # a tenth of what is left
    assert (_draw(labels.tolist(), groups.tolist(), seed=1) != splits).any()


def test_a_large_value_is_taken_where_it_misses_the_share_least() -> None:
    splits = _draw([0, 1] * 30, [0] * 20 + [1] * 30 + [2] * 10, val=0.0, test=0.05)
    assert np.bincount(splits).tolist() == [50, 0, 10]


def _write(folder: Path, *lines: str) -> Path:
    folder.mkdir(exist_ok=True)
    for line in lines[1:]:
        Image.new("RGB", (4, 4)).save(folder / line.split(",")[0])
    (folder / "t.csv").write_text("\n".join(lines) + "\n")
    return folder / "t.csv"


def _rows(n_people: int) -> list[str]:
    return [f"{p}-{k}.png,{'ab'[k % 2]},p{p}" for p in range(n_people) for k in range(6)]


def _table(path: Path, **given: object) -> ImageTable:
    dataset = ImageTable(path, "label", **given)  # type: ignore[arg-type]
    dataset.describe()
    return dataset


def test_a_table_is_split_by_a_column(tmp_path: Path) -> None:
    rows = _rows(8)
    path = _write(
        tmp_path, "image,label,who", *rows, *(f"u{p}.png,,p{p}" for p in range(8)), "x.png,,"
    )
    dataset = _table(path, split_by="who", unlabelled=True, seed=3)
    people = [name[: name.index("-")] for name in dataset.ids[dataset.splits != 3]]
    splits = dataset.splits[dataset.splits != 3]
    by_split = [
        {person for person, split in zip(people, splits, strict=True) if split == k}
        for k in range(3)
    ]
    assert sum(map(len, by_split)) == 8
    assert [len(own) for own in by_split[1:]] == [1, 2]
    # Nor are the values that are held out among the images without a label.
    kept = set(dataset.ids[dataset.splits == 3])
    assert kept == {f"u{p}.png" for p in by_split[0]} | {"x.png"}
    plain = _table(path, unlabelled=True, seed=3)
    assert plain.fingerprint() != dataset.fingerprint()


_OWN_SPLITS = [f"{row},{'test' if k % 5 == 0 else 'train'}" for k, row in enumerate(_rows(4))]


@pytest.mark.parametrize(
    ("lines", "name", "message"),
    [
        (
            ("image,label,who", *_rows(2)), "who",
            "split_by is 'who', of which no value can be held out for val: train has 1, and nee",
        ),
        (("image,label,who", *_rows(8)), "whom", "has no column 'whom', did you mean 'who'"),
        (
            ("image,label,who", *_rows(8), "z.png,a,"), "who",
            r"no value in column 'who' of 1 row \(line 50\): fill it in or remove",
        ),
        (
            ("image,label,who,split", *_OWN_SPLITS), "who",
            "split_by is 'who', but 4 of 4 values stand in more than one of the splits that the d",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_split_by_is_named(
    lines: tuple[str, ...], name: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        _table(_write(tmp_path, *lines), split_by=name)


def test_a_folder_is_split_by_its_paths(tmp_path: Path) -> None:
    for label in "ab":
        (tmp_path / label).mkdir()
        for person in range(8):
            for k in range(3):
                Image.new("RGB", (4, 4)).save(tmp_path / label / f"s{person}_{k}.png")

    def folder(pattern: str) -> ImageFolder:
        dataset = ImageFolder(tmp_path, split_by=pattern)
        dataset.describe()
        return dataset

    dataset = folder(r"s\d+")
    splits = {}
    for name, split in zip(dataset.ids, dataset.splits, strict=True):
        splits.setdefault(name.split("/")[1][:2], set()).add(split)
    assert all(len(own) == 1 for own in splits.values())
    assert len({next(iter(own)) for own in splits.values()}) == 3
    assert folder(r"(s\d+)_\d").splits.tolist() == dataset.splits.tolist()
    with pytest.raises(
        UserError,
        match=r"split_by is '\(s3\)\|q', which is not found in 42 of 48 paths below .*: a/s0",
    ):
        folder("(s3)|q")
    with pytest.raises(
        ValueError, match=r"split_by is '\(', which is no regular expression \(missing"
    ):
        ImageFolder(tmp_path, split_by="(")
    with pytest.raises(
        ValueError, match="split_by is 'label', which is the principal label, image"
    ):
        ImageTable(tmp_path / "t.csv", "label", split_by="label")
