"""No label of a sample reaches its own refined label, however many rounds there are."""

import numpy as np
import pytest
import torch

from detaux_pl.artifacts.labels import IGNORED, AuxiliaryLabels
from detaux_pl.data.batch import Fold
from detaux_pl.data.datasets.digit_scenes import DigitScenes
from detaux_pl.data.modules import LabelledDataModule
from detaux_pl.multitask import cross_fit
from detaux_pl.multitask.cross_fit import CrossFit, Net, deal_folds, fit_net, plan_nets
from detaux_pl.multitask.hard_parameter_sharing import HardParameterSharing
from detaux_pl.multitask.refine import refine_labels

TRAINER = {"max_epochs": 2, "accelerator": "cpu", "devices": 1}


@pytest.mark.parametrize(("folds", "rounds"), [(4, 1), (4, 2), (4, 3), (5, 2), (3, 2)])
def test_no_fold_reaches_a_net_that_must_not_see_it(folds, rounds):
    nets = plan_nets(folds, rounds)
    seen = {}
    for net in nets:
        inside = set(range(folds)) - set(net.without)
        seen[net] = set(inside)
        for fold in inside if net.round else ():
            assert net.teacher(fold) in nets[: nets.index(net)]  # trained before
            seen[net] |= seen[net.teacher(fold)]
        assert seen[net].isdisjoint(net.without)
    last = [net.without for net in nets if net.round == rounds - 1]
    assert last == [(fold,) for fold in range(folds)]


@pytest.mark.parametrize(("folds", "rounds"), [(4, 0), (4, 4), (1, 1)])
def test_rounds_need_more_folds(folds, rounds):
    with pytest.raises(ValueError, match="more folds than rounds"):
        plan_nets(folds, rounds)


def test_folds_are_even_within_each_class():
    classes = np.random.default_rng(0).integers(0, 5, 203)
    folds = deal_folds(classes, 4, seed=1)
    table = np.zeros((5, 4), int)
    np.add.at(table, (classes, folds), 1)
    assert (table.max(axis=1) - table.min(axis=1) <= 1).all()
    assert np.ptp(np.bincount(folds)) <= 1
    assert (deal_folds(classes, 4, seed=2) != folds).any()


class Memory:
    """In place of a net: the label of the nearest training point, which is pure memory."""

    def __init__(self, points):
        self.points = points

    def __call__(self, data, build, fold, task_sizes, seed, trainer):
        distances = np.abs(self.points[fold.asked, None] - self.points[fold.train])
        nearest = fold.train[distances.argmin(axis=1)]
        said = []
        for task, size in enumerate(task_sizes):
            labels = fold.targets[nearest, task]
            assert (labels != IGNORED).all()
            said.append(np.eye(size, dtype=np.float32)[labels])
        return said


def twins(n_pairs=60, n_rest=20, seed=0):
    """Points that have one very near neighbour each; the last ones are of other splits."""
    rng = np.random.default_rng(seed)
    places = np.arange(n_pairs) * 10.0
    points = np.concatenate([places, places + 0.1, rng.uniform(0, 10 * n_pairs, n_rest)])
    labels = rng.integers(0, 4, len(points))
    classes = rng.integers(0, 3, len(points))
    return points, np.stack([classes, labels], axis=1)


def cross(folder, targets, rounds, n_train=120, **settings):
    rows = np.arange(len(targets))
    sizes = (3, 4)
    return CrossFit(
        folder, targets, sizes, rows[:n_train], rows[n_train:], 4, rounds, seed=0, **settings
    )


def run(fit, data=None, build=None, trainer=TRAINER):
    for net in fit.nets:
        fit.fit(net, data, build, trainer)
    return fit.out_of_fold()


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_a_memory_does_not_give_a_label_back(rounds, tmp_path, monkeypatch):
    points, targets = twins()
    monkeypatch.setattr(cross_fit, "fit_net", Memory(points))
    said = run(cross(tmp_path / "as given", targets, rounds))[1]
    for i in range(0, 120, 7):
        changed = targets.copy()
        changed[i, 1] = (targets[i, 1] + 1) % 4
        again = run(cross(tmp_path / str(i), changed, rounds))[1]
        np.testing.assert_array_equal(again[i], said[i])
        if i == 0:
            assert (again != said).any()  # it does reach others


def test_passing_labels_on_between_folds_would_give_them_back(tmp_path, monkeypatch):
    """What the nets without several folds are for: the twin in another fold returns the label."""
    points, targets = twins()
    memory = Memory(points)
    monkeypatch.setattr(cross_fit, "fit_net", memory)
    first = run(cross(tmp_path / "first", targets, 1))[1].argmax(axis=1)
    naive = targets.copy()
    naive[:, 1] = first
    second = run(cross(tmp_path / "second", naive, 1))[1].argmax(axis=1)
    folds = cross(tmp_path / "first", targets, 1).folds
    apart = np.flatnonzero(folds[:60] != folds[60:])
    assert (second[apart] == targets[apart, 1]).mean() == 1
    refined = run(cross(tmp_path / "refined", targets, 2))[1].argmax(axis=1)
    assert abs((refined[:120] == targets[:120, 1]).mean() - 0.25) < 0.12  # chance


def test_files_are_made_once_and_a_lost_one_is_made_again(tmp_path, monkeypatch):
    points, targets = twins()
    monkeypatch.setattr(cross_fit, "fit_net", Memory(points))
    fit = cross(tmp_path, targets, 2)
    said = run(fit)
    assert fit.missing(0) == fit.missing(1) == []
    lost = [fit.nets[1], fit.nets[-1]]
    for net in lost:
        fit.path(net).unlink()
    assert fit.missing(0) + fit.missing(1) == lost
    made = []
    monkeypatch.setattr(
        cross_fit, "fit_net", lambda *args: made.append(args) or Memory(points)(*args)
    )
    again = run(fit)
    assert len(made) == 2
    for first, second in zip(said, again, strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.fixture(scope="module")
def scenes():
    dataset = DigitScenes(n_train=96, n_val=16, n_test=16, n_locations=4)
    data = LabelledDataModule(dataset, batch_size=16)
    data.setup("fit")
    return data


def build(sizes):
    return HardParameterSharing((3, 16, 16), sizes, backbone="small_convnet", lr=1e-3)


def test_a_real_net_that_could_memorise_is_not_told(scenes, tmp_path):
    dataset = scenes.dataset
    rng = np.random.default_rng(0)
    targets = np.stack([dataset.factor("digit"), rng.integers(0, 2, len(dataset))], axis=1)
    rest = np.flatnonzero(dataset.splits != 0)

    def refined(name, given):
        fit = CrossFit(tmp_path / name, given, (10, 2), dataset.rows("train"), rest, 3, 1, 0)
        return run(fit, scenes, build, {**TRAINER, "max_epochs": 10})[1]

    said = refined("given", targets)
    np.testing.assert_allclose(said.sum(axis=1), 1, atol=1e-5)
    sample = int(dataset.rows("train")[5])
    changed = targets.copy()
    changed[sample, 1] = 1 - targets[sample, 1]
    again = refined("changed", changed)
    np.testing.assert_array_equal(again[sample], said[sample])
    assert (again != said).any()


def test_labels_of_validation_and_test_are_never_read(scenes, tmp_path):
    dataset = scenes.dataset
    targets = np.stack([dataset.factor("digit"), dataset.factor("location")], axis=1)
    rest = np.flatnonzero(dataset.splits != 0)
    fit = CrossFit(tmp_path, targets, (10, 4), dataset.rows("train"), rest, 4, 2, 0)
    for net in fit.nets[:6]:
        assert (fit.labels(net)[rest] == IGNORED).all()
        held = dataset.rows("train")[np.isin(fit.folds, net.without)]
        assert (fit.labels(net)[held] == IGNORED).all()


def test_a_net_follows_from_its_seeds_alone(scenes):
    rows = scenes.dataset.rows("train")
    targets = np.stack([scenes.dataset.factor("digit"), scenes.dataset.factor("location")], axis=1)
    fold = Fold(rows[:64], rows[64:], targets)
    first, second, other = (
        fit_net(scenes, build, fold, (10, 4), seed, TRAINER) for seed in ([0, 1], [0, 1], [0, 2])
    )
    for a, b, c in zip(first, second, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert (a != c).any()


def test_a_net_does_not_depend_on_the_threads_of_its_process(scenes):
    rows = scenes.dataset.rows("train")
    targets = np.stack([scenes.dataset.factor("digit"), scenes.dataset.factor("location")], axis=1)
    fold, before, said = Fold(rows[:64], rows[64:], targets), torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            said.append(fit_net(scenes, build, fold, (10, 4), [0], TRAINER))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for one, other in zip(*said, strict=True):
        np.testing.assert_array_equal(one, other)


def task_of(labels, is_noise, n_train, noise_class=None):
    splits = np.zeros(len(labels), np.int8)
    splits[n_train:] = 2
    return AuxiliaryLabels(
        ids=np.arange(len(labels)),
        splits=splits,
        labels=labels,
        is_noise=is_noise,
        strength=np.ones(len(labels), np.float32),
        n_classes=int(labels.max()) + 1,
        meta={"noise_class": noise_class, "subspace": 1},
    )


def test_noise_is_labelled_classes_vanish_and_are_numbered_by_size(tmp_path, monkeypatch):
    points, targets = twins()
    # Class 3 is that of one lonely point: nobody's neighbour says it.
    clean = np.array([0, 1, 1, 2] * 30)
    targets[:120, 1] = np.repeat(clean[:60], 2).reshape(60, 2).T.flatten()
    targets[120:, 1] = 0
    targets[7, 1] = 3
    noise = np.zeros(140, bool)
    noise[:5] = True
    given = task_of(np.where(noise, 0, targets[:, 1] + 1), noise, 120, noise_class=0)
    known = given.without_noise()
    assert known.n_classes == 4
    np.testing.assert_array_equal(known.labels[:5], IGNORED)
    np.testing.assert_array_equal(known.labels[5:], targets[5:, 1])

    class Nearest(Memory):
        def __call__(self, data, build, fold, task_sizes, seed, trainer):
            train = fold.train[fold.targets[fold.train, 1] != IGNORED]
            said = super().__call__(
                data, build, Fold(train, fold.asked, fold.targets), task_sizes, seed, trainer
            )
            said[1][:, 3] = 0
            return said

    monkeypatch.setattr(cross_fit, "fit_net", Nearest(points))
    start = targets.copy()
    start[:, 1] = known.labels
    fit = cross(tmp_path, start, 2)
    run(fit)
    (refined,) = refine_labels(fit, [given], np.arange(140))
    assert refined.n_classes == 3
    assert refined.meta["noise_class"] is None
    sizes = np.bincount(refined.labels[:120])
    assert sizes.tolist() == sorted(sizes, reverse=True) == refined.meta["cluster_sizes"]
    np.testing.assert_array_equal(refined.is_noise, noise)  # what the clusterer said
    rounds = refined.meta["refinement"]["rounds"]
    assert [r["labelled"] for r in rounds] == pytest.approx([5 / 120, 0])
    assert 3 in rounds[0]["vanished"]
    assert refined.meta["refinement"]["class_before"][0] == 1  # the largest one


def test_tasks_are_joined_by_id(tmp_path, monkeypatch):
    points, targets = twins()
    monkeypatch.setattr(cross_fit, "fit_net", Memory(points))
    fit = cross(tmp_path, targets, 1)
    run(fit)
    given = task_of(targets[:, 1], np.zeros(140, bool), 120)
    (by_row,) = refine_labels(fit, [given], np.arange(140))
    ids = np.random.default_rng(0).permutation(140)
    (by_id,) = refine_labels(fit, [given], ids)
    np.testing.assert_array_equal(by_id.of(ids), by_row.labels)


def test_the_name_of_a_net_is_a_file(tmp_path):
    assert Net(1, (0, 3)).name == "round1-without-0-3"
