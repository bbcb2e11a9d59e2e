"""A factor that goes with a label: in digit scenes, in 3D shapes, in any table."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detaux_pl.artifacts.errors import UserError
from detaux_pl.cli.main import main
from detaux_pl.data.correlation import Correlate
from detaux_pl.data.datasets.digit_scenes import DigitScenes
from detaux_pl.data.datasets.image_table import ImageTable
from detaux_pl.data.datasets.synthetic_shapes3d import SyntheticShapes3D
from detaux_pl.settings.keys import without_places
from tests.found import ROOT, check_refusal


def share_of(data, label, factor, split):
    """Share of the images of a split whose factor is that of the label."""
    rows = data.rows(split)
    size = data.factor_sizes[data.factor_names.index(factor)]
    return float(np.mean(data.factor(label)[rows] % size == data.factor(factor)[rows]))


def counts(data, names, split):
    """Images of every pair of values, flat."""
    first, second = (data.factor(name)[data.rows(split)] for name in names)
    return np.unique(np.stack([first, second]), axis=1, return_counts=True)[1]


def test_location_goes_with_the_digit_but_in_test():
    data = DigitScenes(n_train=4000, n_val=1000, n_test=1000, n_locations=4, correlation=0.95)
    data.setup()
    expected = 0.95 + 0.05 / 4
    assert share_of(data, "digit", "location", "train") == pytest.approx(expected, abs=0.01)
    assert share_of(data, "digit", "location", "val") == pytest.approx(expected, abs=0.02)
    assert share_of(data, "digit", "location", "test") == pytest.approx(0.25, abs=0.04)
    # Nothing else has changed.
    before = DigitScenes(n_train=4000, n_val=1000, n_test=1000, n_locations=4)
    before.setup()
    np.testing.assert_array_equal(data.factors[:, :2], before.factors[:, :2])
    np.testing.assert_array_equal(data.factors[5000:], before.factors[5000:])


def test_any_two_factors_of_shapes(tmp_path: Path):
    given = Correlate("shape", "floor_hue", 0.9)
    data = SyntheticShapes3D(
        "shape", 16, "random", 3000, 300, 2000, cache_dir=tmp_path, correlate=given
    )
    data.setup()
    expected = 0.9 + 0.1 / 10
    assert share_of(data, "shape", "floor_hue", "train") == pytest.approx(expected, abs=0.02)
    assert share_of(data, "shape", "floor_hue", "val") == pytest.approx(expected, abs=0.06)
    assert share_of(data, "shape", "floor_hue", "test") == pytest.approx(0.1, abs=0.03)
    assert [data.rows(split).size for split in ("train", "val", "test")] == [3000, 300, 2000]
    assert (np.diff(data.ids) > 0).all()
    with pytest.raises(UserError) as told:
        SyntheticShapes3D("shape", 16, "random", 340_000, correlate=given).setup()
    check_refusal(told.value, "n_train is 340,000, but a share of 0.9 leaves")
    with pytest.raises(ValueError, match="'hue', which is no factor: choose two of floor_hue"):
        SyntheticShapes3D(correlate=Correlate("shape", "hue", 0.5))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A balanced table of two labels, 30 images of each pair of values."""
    with (tmp_path / "labels.csv").open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["image", "animal", "ground", "place"])
        for k in range(180):
            Image.new("L", (2, 2), k).save(tmp_path / f"{k}.png")
            writer.writerow([f"{k}.png", "abc"[k % 3], "xy"[k // 3 % 2], k // 90])
    return tmp_path / "labels.csv"


def test_split_of_a_balanced_table(table: Path):
    data = ImageTable(
        table, "animal", image_size=2, channels=1, val_share=0.3,
        correlate=Correlate("animal", "ground", 0.8), cache_dir=table.parent / "cache",
    )  # fmt: skip
    data.setup()
    assert share_of(data, "animal", "ground", "train") == pytest.approx(0.9, abs=0.02)
    assert share_of(data, "animal", "ground", "val") == pytest.approx(0.9, abs=0.1)
    assert len(set(counts(data, ("animal", "ground"), "test"))) == 1
    shades = data.images(torch.arange(len(data)))[:, 0, 0, 0].tolist()
    assert [f"{k}.png" for k in shades] == data.ids.tolist()


def test_shares_that_a_table_cannot_give(table: Path):
    def refusal(share, label="animal", factor="ground", remove="a,x"):
        lines = [line for line in table.read_text().splitlines() if f",{remove}," not in line]
        cut = table.with_name("cut.csv")
        cut.write_text("\n".join(lines) + "\n")
        data = ImageTable(cut, "animal", correlate=Correlate(label, factor, share))
        with pytest.raises((UserError, ValueError)) as told:
            data.describe()
        check_refusal(told.value, "correlate")
        return str(told.value)

    assert "share of 0.5 in train: no image there has animal 0 and ground 0" in refusal(0.5)
    assert "share of 0 in test" in refusal(1.0, remove="a,y")  # the test set is balanced
    assert "names 'grund'" in refusal(0.5, factor="grund")


def test_the_command_line_takes_it(table: Path, capsys):
    config = str(ROOT / "configs" / "table_scratch.yaml")
    given = ["data", "check", "--config", config, f"--dataset.path={table}"]
    given += ["--dataset.principal=animal", f"--dataset.cache_dir={table.parent / 'cache'}"]
    given += ["--dataset.image_size=16"]
    tied = ["--dataset.correlate.label=animal", "--dataset.correlate.factor=ground"]
    main([*given, *tied, "--dataset.correlate.share=0.8"])
    assert "ground" in capsys.readouterr().out
    assert main([*given, *tied, "--dataset.correlate.share=8"]) == 2
    assert "share is 8.0: give the share of images" in capsys.readouterr().err


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_shares_that_are_none(share):
    with pytest.raises(ValueError, match=f"share is {share}: give the share of images"):
        Correlate("a", "b", share)
    with pytest.raises(ValueError, match=f"correlation is {share}"):
        DigitScenes(correlation=share)
    with pytest.raises(ValueError, match="are both 'a'"):
        Correlate("a", "a", 0.5)


def test_runs_of_earlier_versions_go_on():
    assert without_places({"correlation": 0.0, "correlate": None, "seed": 0}) == {"seed": 0}
    assert without_places({"correlation": 0.9}) == {"correlation": 0.9}
