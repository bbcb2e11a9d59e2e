import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detaux_pl.artifacts.codes import SPLITS, Codes, CodesShard, FactorInfo, write_codes_info
from detaux_pl.artifacts.errors import ArtifactError
from detaux_pl.artifacts.files import read_json, write_json

NAMES = {"hue": ("red", "dark green", "b/w", "4")}
INFO = FactorInfo(("shape", "hue"), (3, 4), "hue", 1, NAMES)


def make(n=12, ids=None):
    rng = np.random.default_rng(0)
    return Codes(
        values=rng.normal(size=(n, 2, 3)).astype(np.float32),
        ids=np.arange(n) if ids is None else ids,
        splits=rng.integers(0, 3, n).astype(np.int8),
        factors=np.stack([rng.integers(0, size, n) for size in INFO.sizes], axis=1),
        info=INFO,
    )


def write_shard(folder, rank, codes, rows, batch=3, **others):
    arrays = {codes.name: codes.values, **others}
    shard = CodesShard(folder, rank, len(rows), {k: v.shape[1:] for k, v in arrays.items()})
    for part in np.split(rows, range(batch, len(rows), batch)):
        values = {name: array[part] for name, array in arrays.items()}
        shard.append(values, codes.ids[part], codes.splits[part], codes.factors[part])
    shard.close()


def same(one, two):
    arrays = ("values", "ids", "splits", "factors")
    return (one.info, one.name) == (two.info, two.name) and all(
        np.array_equal(getattr(one, name), getattr(two, name)) for name in arrays
    )


def test_factors_and_rows_by_name():
    codes = make()
    assert np.array_equal(codes.factor("hue"), codes.factors[:, 1])
    rows = np.concatenate([codes.rows(split) for split in SPLITS])
    assert sorted(rows.tolist()) == list(range(12))
    assert (codes.splits[codes.rows("val")] == 1).all()


@pytest.mark.parametrize("ids", [None, np.array([f"{i:x}" for i in range(1, 13)])])
def test_survive_the_disk_in_the_order_of_their_ids(tmp_path, ids):
    codes = make(ids=ids)
    order = np.argsort(codes.ids)
    codes.save(tmp_path)
    again = Codes.load(tmp_path)
    assert again.ids.tolist() == sorted(codes.ids.tolist())
    assert np.array_equal(again.values, codes.values[order])
    assert again.values.dtype == np.float32
    assert again.info == INFO


@settings(deadline=None, max_examples=25)
@given(order=st.permutations(range(12)), cuts=st.lists(st.integers(1, 11), max_size=3, unique=True))
def test_shards_join_by_id_whatever_rank_wrote_what(tmp_path_factory, order, cuts):
    folder = tmp_path_factory.mktemp("codes")
    codes = make()
    for rank, rows in enumerate(np.split(np.array(order), sorted(cuts))):
        write_shard(folder, rank, codes, rows)
    write_codes_info(folder, INFO, n_samples=12)
    assert same(Codes.load(folder), codes)


def test_a_single_shard_in_order_stays_on_disk(tmp_path):
    codes = make()
    codes.save(tmp_path / "sorted")
    again = Codes.load(tmp_path / "sorted")
    assert isinstance(again.values, np.memmap)
    assert not again.values.flags.writeable
    assert same(again, codes)
    write_shard(tmp_path / "turned", 0, codes, np.arange(12)[::-1])
    write_codes_info(tmp_path / "turned", INFO, n_samples=12)
    again = Codes.load(tmp_path / "turned")
    assert not isinstance(again.values, np.memmap)
    assert same(again, codes)


def test_codes_in_memory_outlive_the_codes_of_a_new_prediction(tmp_path):
    codes = make()
    codes.save(tmp_path)
    loaded = Codes.load(tmp_path)
    CodesShard(tmp_path, 0, 12, {"code": (2, 3)})
    assert same(loaded, codes)


def test_refuses_shards_that_do_not_fit_together(tmp_path):
    codes = make()
    write_shard(tmp_path, 0, codes, np.arange(8))
    write_shard(tmp_path, 1, codes, np.arange(8, 12))
    write_codes_info(tmp_path, INFO, n_samples=12)
    path = tmp_path / "rank1" / "codes.npy"
    np.save(path, codes.values[8:, :, :2])
    with pytest.raises(ArtifactError, match="shards of different codes"):
        Codes.load(tmp_path)
    np.save(path, codes.values[8:11])
    np.save(tmp_path / "rank0" / "codes.npy", codes.values[:9])
    with pytest.raises(ArtifactError, match="codes and ids that do not match"):
        Codes.load(tmp_path)


def test_a_rank_without_samples_writes_an_empty_shard(tmp_path):
    codes = make()
    write_shard(tmp_path, 0, codes, np.arange(12))
    write_shard(tmp_path, 1, codes, np.arange(0))
    write_codes_info(tmp_path, INFO, n_samples=12)
    assert same(Codes.load(tmp_path), codes)


def test_refuses_a_sample_that_occurs_twice(tmp_path):
    codes = make()
    write_shard(tmp_path, 0, codes, np.arange(8))
    write_shard(tmp_path, 1, codes, np.arange(6, 12))
    write_codes_info(tmp_path, INFO, n_samples=12)
    with pytest.raises(ArtifactError, match=r"sample id 6 more than once \(2 repeats\)"):
        Codes.load(tmp_path)


def test_refuses_missing_samples(tmp_path):
    write_shard(tmp_path, 0, make(), np.arange(8))
    write_codes_info(tmp_path, INFO, n_samples=12)
    with pytest.raises(ArtifactError, match="8 of 12 samples: predict the codes again"):
        Codes.load(tmp_path)


def test_refuses_an_empty_folder(tmp_path):
    with pytest.raises(ArtifactError, match="holds no codes: run `detaux disentangle predict`"):
        Codes.load(tmp_path)


@pytest.mark.parametrize("name", ["codes", "ids", "splits", "factors"])
def test_refuses_a_missing_a_truncated_and_a_short_array(tmp_path, name):
    make().save(tmp_path)
    path = tmp_path / "rank0" / f"{name}.npy"
    whole = path.read_bytes()
    for length in (0, 5, 70, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ArtifactError, match="cannot be read"):
            Codes.load(tmp_path)
    path.write_bytes(whole)
    np.save(path, np.load(path)[:-1])
    with pytest.raises(ArtifactError, match=f"the {name} of 11 of 12 samples"):
        Codes.load(tmp_path)
    path.unlink()
    with pytest.raises(ArtifactError, match=f"{name}.npy is missing"):
        Codes.load(tmp_path)


def test_refuses_pickles(tmp_path):
    make().save(tmp_path)
    np.save(tmp_path / "rank0" / "ids.npy", np.array([{}] * 12, dtype=object), allow_pickle=True)
    with pytest.raises(ArtifactError, match="cannot be read"):
        Codes.load(tmp_path)


def test_refuses_a_shard_that_is_closed_too_early(tmp_path):
    codes = make()
    shard = CodesShard(tmp_path, 0, 12, {"code": (2, 3)})
    shard.append({"code": codes.values[:5]}, codes.ids[:5], codes.splits[:5], codes.factors[:5])
    with pytest.raises(ArtifactError, match="got 5 of 12 samples"):
        shard.close()


def test_a_shard_that_was_begun_again_and_killed_is_not_taken_for_the_old_one(tmp_path):
    make().save(tmp_path)
    CodesShard(tmp_path, 0, 12, {"code": (2, 3)})
    with pytest.raises(ArtifactError, match="is missing"):
        Codes.load(tmp_path)


def test_other_arrays_of_the_same_samples_lie_beside_the_codes(tmp_path):
    codes = replace(make(), name="z")
    r = np.random.default_rng(1).normal(size=(12, 2, 5)).astype(np.float32)
    for folder, shards in (("one", [np.arange(12)]), ("two", [np.arange(12)[::-2], np.r_[0:12:2]])):
        for rank, rows in enumerate(shards):
            write_shard(tmp_path / folder, rank, codes, rows, r=r)
        write_codes_info(tmp_path / folder, INFO, 12, ("z", "r"))
        z, other = Codes.load(tmp_path / folder), Codes.load(tmp_path / folder, "r")
        assert same(z, codes)
        assert same(Codes.load(tmp_path / folder, "z"), codes)
        assert same(other, replace(codes, values=r, name="r"))
        assert (z.others, other.others) == (("r",), ("z",))
        assert isinstance(other.values, np.memmap) == (folder == "one")
    assert (tmp_path / "one" / "rank0" / "codes.npy").is_file()
    with pytest.raises(ArtifactError, match=r"one holds no 'h': it holds z, r\."):
        Codes.load(tmp_path / "one", "h")
    other.save(tmp_path / "r")
    assert same(Codes.load(tmp_path / "r"), other)
    np.save(tmp_path / "two" / "rank1" / "r.npy", r[:6, :1])
    with pytest.raises(ArtifactError, match="shards of different r, or of r and ids"):
        Codes.load(tmp_path / "two", "r")


@pytest.mark.parametrize("name", ["codes", "ids", "a/b", "..", "", "a b"])
def test_refuses_a_name_that_cannot_be_a_files(tmp_path, name):
    with pytest.raises(ValueError, match=rf"is called {re.escape(repr(name))}: take letters"):
        CodesShard(tmp_path, 0, 12, {"code": (2, 3), name: (2, 3)})
    with pytest.raises(ValueError, match="shapes is empty"):
        CodesShard(tmp_path, 0, 12, {})


def test_codes_without_a_name_have_the_defaults(tmp_path):
    make().save(tmp_path)
    meta = read_json(tmp_path / "codes.json")
    del meta["name"], meta["others"]
    write_json(tmp_path / "codes.json", meta)
    loaded = Codes.load(tmp_path)
    assert (loaded.name, loaded.others) == ("code", ())


def test_samples_without_a_label_are_of_a_split_of_their_own(tmp_path):
    codes = make()
    column = INFO.names.index(INFO.principal)
    codes.factors[:3, column] = -1
    codes.save(tmp_path)
    message = "3 samples of train, val, test without a value of .*: these are of the split 3, unlab"
    with pytest.raises(ArtifactError, match=message):
        Codes.load(tmp_path)
    codes.splits[:3] = 3
    codes.save(tmp_path)
    assert Codes.load(tmp_path).rows("unlabelled").tolist() == [0, 1, 2]
    for beyond in (4, -1):
        codes.splits[0] = beyond
        codes.save(tmp_path)
        with pytest.raises(ArtifactError, match="splits beyond train, val, test, unlabelled"):
            Codes.load(tmp_path)
