from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.datasets.faces import FACES
from tests.data.written import write_faces


def _dataset(root: Path, **given: Any) -> FACES:
    return FACES(root, image_size=16, cache_dir=root.parent / "cache", **given)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_faces(tmp_path / "faces", n_persons=10)
    return tmp_path / "faces"


def test_factors_are_those_of_the_names(root: Path) -> None:
    dataset = _dataset(root)
    dataset.setup()
    assert dataset.factor_names == ("expression", "age", "gender", "set", "person")
    assert dataset.factor_sizes == (6, 3, 2, 2, 10)
    assert dataset.image_shape == (3, 16, 16)
    row = dataset.ids.tolist().index("004_y_m_h_b.jpg")
    values = dict(zip(dataset.factor_names, dataset.factors[row].tolist(), strict=True))
    names = {name: dataset.value_names[name][value] for name, value in values.items()}
    assert names == {
        "expression": "happiness", "age": "young", "gender": "male", "set": "b", "person": "004",
    }  # fmt: skip
    assert np.bincount(dataset.labels).tolist() == [20] * 6
    assert dataset.pixels is not None
    # The colour is the expression's: anger is red, disgust yellow, fear green, and so on.
    tint = dataset.pixels.float().mean((2, 3)).numpy()
    means = np.stack([tint[dataset.labels == value].mean(axis=0) for value in range(6)])
    assert (means > means.mean()).astype(int).tolist() == [
        [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1],
    ]  # fmt: skip


def test_longer_side_is_cut(tmp_path: Path) -> None:
    image = np.zeros((20, 16, 3), dtype=np.uint8)
    image[:2] = image[-2:] = 255
    (tmp_path / "faces").mkdir()
    for letter in "ad":
        path = tmp_path / "faces" / f"001_y_f_{letter}_a.jpg"
        Image.fromarray(image).save(path, quality=100, subsampling=0)
    dataset = _dataset(tmp_path / "faces")
    dataset.setup()
    assert dataset.pixels is not None
    assert dataset.pixels.max() < 8


def test_counts_of_the_paper(tmp_path: Path) -> None:
    for person in range(171):
        for expression in "adfhns":
            for which in "ab":
                path = tmp_path / f"{person + 1:03}_{'ymo'[person % 3]}_f_{expression}_{which}.jpg"
                path.touch()
    dataset = FACES(tmp_path)
    dataset.describe()
    assert np.bincount(dataset.splits).tolist() == [1482, 162, 408]
    for split, n in (("train", 247), ("val", 27), ("test", 68)):
        assert np.bincount(dataset.labels[dataset.rows(split)]).tolist() == [n] * 6
    assert 1600 <= np.count_nonzero(dataset.splits != 2) <= 1699
    again = FACES(tmp_path, principal="age")
    again.describe()
    np.testing.assert_array_equal(again.splits, dataset.splits)
    other = FACES(tmp_path, seed=1)
    other.describe()
    assert (other.splits != dataset.splits).any()


def test_persons_are_in_one_split(tmp_path: Path) -> None:
    write_faces(tmp_path, n_persons=30, size=8)
    dataset = FACES(tmp_path, split="persons", val_share=0.25, test_share=0.2)
    dataset.describe()
    persons = [set(dataset.factor("person")[dataset.rows(s)]) for s in ("train", "val", "test")]
    assert [len(group) for group in persons] == [18, 6, 6]
    assert len(set.union(*persons)) == 30
    for group in persons:  # three, one and one of each age and gender
        assert {person % 6 for person in group} == set(range(6))


def test_official_folders(tmp_path: Path) -> None:
    write_faces(tmp_path / "faces", n_persons=10, official=True)
    dataset = _dataset(tmp_path / "faces")
    dataset.setup()
    assert np.bincount(dataset.splits).tolist() == [84, 12, 24]  # 16 of each expression to share
    in_val_folder = np.char.startswith(dataset.ids, "val/")
    np.testing.assert_array_equal(dataset.splits == 2, in_val_folder)


def test_official_folders_by_persons(tmp_path: Path) -> None:
    write_faces(tmp_path, n_persons=30, size=8, official=True)
    dataset = FACES(tmp_path, split="persons", val_share=0.25)
    dataset.describe()
    persons = [set(dataset.factor("person")[dataset.rows(s)]) for s in ("train", "val", "test")]
    assert [len(group) for group in persons] == [18, 6, 6]
    assert persons[2] == {4, 9, 14, 19, 24, 29}
    assert not persons[0] & persons[1]


def test_folder_test_is_test_too(tmp_path: Path) -> None:
    write_faces(tmp_path, n_persons=5, size=8, official=True)
    (tmp_path / "test").mkdir()
    (tmp_path / "train" / "001_y_f_a_a.jpg").rename(tmp_path / "test" / "001_y_f_a_a.jpg")
    dataset = FACES(tmp_path)
    dataset.describe()
    assert len(dataset.rows("test")) == 13
    (tmp_path / "val" / "005_m_f_a_a.jpg").rename(tmp_path / "005_m_f_a_a.jpg")
    with pytest.raises(UserError, match=r"folder train, but 005_m_f_a_a\.jpg is outside of it"):
        FACES(tmp_path).describe()


def test_person_on_both_sides_is_named(tmp_path: Path) -> None:
    write_faces(tmp_path, n_persons=5, size=8, official=True)
    (tmp_path / "train" / "002_m_m_a_a.jpg").rename(tmp_path / "val" / "002_m_m_a_a.jpg")
    FACES(tmp_path).describe()
    with pytest.raises(UserError, match=r"person 002 is both in .*train and beside it: give split"):
        FACES(tmp_path, split="persons").describe()


def test_other_names_are_named(root: Path) -> None:
    for name in ("004_o_m_a.jpg", "x.png", "004_o_m_x_a.jpg"):
        (root / name).touch()
    (root / "readme.txt").touch()
    with pytest.raises(
        UserError, match=r"3 images of .*: 004_o_m_a\.jpg; 004_o_m_x_a\.jpg; x\.png"
    ):
        _dataset(root).describe()


def test_other_files_are_listed_and_case_does_not_matter(root: Path) -> None:
    (root / "readme.txt").touch()
    (root / "004_y_m_h_b.jpg").rename(root / "004_Y_M_H_B.JPG")
    dataset = _dataset(root)
    dataset.describe()
    assert dataset.ignored == [root / "readme.txt"]
    assert len(dataset) == 120
    assert dataset.factor_sizes == (6, 3, 2, 2, 10)


def test_twins_are_named(root: Path) -> None:
    (root / "copy").mkdir()
    (root / "copy" / "001_y_f_a_a.png").touch()
    with pytest.raises(UserError, match=r"001_y_f_a_a\.jpg and copy/001_y_f_a_a\.png: remove one"):
        _dataset(root).describe()


def test_arguments_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'emotion' does not exist in FACES: choose one of expres"):
        FACES(tmp_path, principal="emotion")
    with pytest.raises(ValueError, match="split is 'official': give random or persons"):
        FACES(tmp_path, split="official")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"the share of test is 1\.0"):
        FACES(tmp_path, test_share=1.0)
    with pytest.raises(
        UserError, match=r"nowhere does not exist: ask for access at https://faces\.mpdl"
    ):
        FACES(tmp_path / "nowhere").describe()
