import csv
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detaux_pl.artifacts.errors import ArtifactError
from detaux_pl.artifacts.files import read_json, write_json
from detaux_pl.artifacts.labels import IGNORED, AuxiliaryLabels, load_tasks, save_tasks


def make(ids=(2, 3, 5, 8, 13)):
    n = len(ids)
    return AuxiliaryLabels(
        ids=np.array(ids),
        splits=(np.arange(n) % 3).astype(np.int8),
        labels=np.arange(n) % 3 + IGNORED,
        is_noise=np.arange(n) % 3 == 0,
        strength=np.linspace(0, 1, n, dtype=np.float32),
        n_classes=2,
        meta={"subspace": 3, "clusterer": {"class": "HDBSCAN", "min_samples": None}},
    )


@given(st.permutations(range(5)), st.integers(1, 5))
def test_join_by_id_in_any_order(order, n):
    labels = make()
    asked = np.array(order[:n])
    assert labels.of(labels.ids[asked]).tolist() == labels.labels[asked].tolist()


def test_ids_may_be_text():
    labels = make(("a", "b10", "b9"))
    assert labels.of(np.array(["b9", "a"])).tolist() == [1, -1]
    with pytest.raises(ArtifactError, match="first: b100"):
        labels.of(np.array(["b9", "b100"]))


@pytest.mark.parametrize("missing", [0, 4, 14])
def test_refuses_ids_without_a_label(missing):
    with pytest.raises(ArtifactError, match=rf"miss 1 of 3 sample ids \(first: {missing}\)"):
        make().of(np.array([2, missing, 13]))


def test_survive_the_disk(tmp_path):
    labels = make()
    labels.save(tmp_path)
    again = AuxiliaryLabels.load(tmp_path)
    for name in ("ids", "splits", "labels", "is_noise", "strength"):
        ours, theirs = getattr(labels, name), getattr(again, name)
        assert np.array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype
    assert (again.n_classes, again.meta) == (labels.n_classes, labels.meta)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "labels.csv",
        "labels.json",
        "labels.npz",
    ]


def test_equal_labels_are_equal_bytes(tmp_path):
    for name in ("one", "two"):
        make().save(tmp_path / name)
    for name in ("labels.npz", "labels.json", "labels.csv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_several_tasks_survive_the_disk(tmp_path):
    tasks = [replace(make(), labels=np.full(5, k), meta={"subspace": k}) for k in range(3)]
    tasks[1:] = [replace(tasks[1], n_classes=7), replace(tasks[2], n_classes=3)]
    files = save_tasks(tasks, tmp_path)
    stems = ("labels", "labels2", "labels3")
    assert [path.name for path in files] == [
        f"{stem}.{kind}" for stem in stems for kind in ("npz", "json", "csv")
    ]
    assert sorted(path.name for path in files) == names(tmp_path)
    again = load_tasks(tmp_path)
    assert [task.labels.tolist() for task in again] == [[k] * 5 for k in range(3)]
    assert [(task.n_classes, task.meta) for task in again] == [
        (task.n_classes, task.meta) for task in tasks
    ]
    assert AuxiliaryLabels.load(tmp_path).labels.tolist() == [0] * 5
    assert [read_json(tmp_path / f"{stem}.json").get("n_tasks") for stem in stems] == [
        3,
        None,
        None,
    ]

    # Fewer tasks leave nothing of the others, nor touch what is not theirs.
    others = ["labels_of_mine.csv", "labels2.txt"]
    for name in others:
        (tmp_path / name).touch()
    save_tasks(tasks[:2], tmp_path)
    assert names(tmp_path) == sorted([*(path.name for path in files[:6]), *others])
    tasks[0].save(tmp_path)
    assert len(load_tasks(tmp_path)) == 1
    assert names(tmp_path) == sorted([*(path.name for path in files[:3]), *others])


def test_a_task_that_is_gone_is_missed(tmp_path):
    save_tasks([make(), make()], tmp_path)
    (tmp_path / "labels2.npz").unlink()
    with pytest.raises(ArtifactError, match=r"labels2\.npz is missing: run `detaux cluster`"):
        load_tasks(tmp_path)
    with pytest.raises(ValueError, match="there is no task to save"):
        save_tasks([], tmp_path)


def test_labels_of_before_there_were_several_tasks_are_read(tmp_path):
    make().save(tmp_path)
    meta = read_json(tmp_path / "labels.json")
    assert meta.pop("n_tasks") == 1
    write_json(tmp_path / "labels.json", meta)
    assert [task.meta for task in load_tasks(tmp_path)] == [make().meta]


def test_csv_is_one_row_per_sample(tmp_path):
    make().to_csv(tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 5
    assert rows[1] == {
        "id": "3", "split": "val", "label": "0", "is_noise": "0", "strength": "0.2500"
    }  # fmt: skip


def test_refuses_a_folder_without_labels(tmp_path):
    with pytest.raises(ArtifactError, match="is missing: run `detaux cluster` first"):
        AuxiliaryLabels.load(tmp_path)
    make().save(tmp_path)
    (tmp_path / "labels.json").unlink()
    with pytest.raises(ArtifactError, match=r"labels\.json is missing"):
        AuxiliaryLabels.load(tmp_path)


def test_a_damaged_file_is_refused_or_read_as_it_was(tmp_path):
    labels = make()
    labels.save(tmp_path)
    path = tmp_path / "labels.npz"
    whole = path.read_bytes()
    damaged = [whole[:n] for n in range(0, len(whole), 50)]
    for position in range(0, len(whole), 3):
        for mask in (0x01, 0x55):
            edited = bytearray(whole)
            edited[position] ^= mask
            damaged.append(bytes(edited))
    refused = 0
    for content in damaged:
        path.write_bytes(content)
        try:
            again = AuxiliaryLabels.load(tmp_path)
        except ArtifactError:
            refused += 1
        else:
            assert np.array_equal(again.labels, labels.labels)
    assert refused > len(damaged) / 2


def test_refuses_other_arrays(tmp_path):
    make().save(tmp_path)
    np.savez(tmp_path / "labels.npz", ids=np.arange(3), clusters=np.arange(3))
    with pytest.raises(ArtifactError, match=r"cannot be read .*clusters"):
        AuxiliaryLabels.load(tmp_path)
