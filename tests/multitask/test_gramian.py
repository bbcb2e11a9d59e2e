"""Weightings that are functions of the gradients' Gramian, against the gradients themselves."""

import itertools
import sys

import numpy as np
import pytest
import torch
from torch import nn

from detaux_pl.artifacts.labels import IGNORED
from detaux_pl.multitask.base import mean_cross_entropy
from detaux_pl.multitask.weighting.base import Shared
from detaux_pl.multitask.weighting.grad_norm import GradNormWeighting
from detaux_pl.multitask.weighting.gramian import GramianWeighting
from detaux_pl.multitask.weighting.mgda import MGDAWeighting
from detaux_pl.multitask.weighting.pcgrad import PCGradWeighting
from detaux_pl.multitask.weighting.torchjd import TorchJDWeighting

T, BATCH = 3, 8


class Recorder(GramianWeighting):
    """Weigh by what was measured, and keep it."""

    def weigh(self, gramian, losses):
        self.seen = gramian, losses
        return torch.arange(1.0, 1 + len(losses), dtype=torch.float64)


class Net(nn.Module):
    """Two features, the second of which the last task does not see, behind shared layers."""

    def __init__(self, seed=0, n_tasks=T, dtype=torch.float64):
        super().__init__()
        torch.manual_seed(seed)
        self.one, self.two = nn.Linear(5, 6), nn.Linear(5, 4)
        self.heads = nn.ModuleList(
            nn.Linear(10 if task < n_tasks - 1 else 6, 4) for task in range(n_tasks)
        )
        self.images = torch.randn(BATCH, 5, dtype=dtype)
        self.targets = torch.randint(4, (n_tasks, BATCH))
        self.targets[0, :3] = IGNORED
        self.to(dtype)

    def measure(self):
        features = self.one(self.images).relu(), self.two(self.images).tanh()
        losses = [
            mean_cross_entropy(head(torch.cat(features, 1)[:, : head.in_features]), target)
            for head, target in zip(self.heads, self.targets, strict=True)
        ]
        shared = [*self.one.parameters(), *self.two.parameters()]
        return torch.stack(losses), Shared(features, shared)


def explicit(losses, inputs):
    """The tasks' gradients, shape (T, n)."""
    rows = []
    for loss in losses:
        grads = torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True)
        rows.append(
            torch.cat(
                [
                    (torch.zeros_like(x) if grad is None else grad).flatten()
                    for x, grad in zip(inputs, grads, strict=True)
                ]
            )
        )
    return torch.stack(rows)


def made(weighting, n_tasks=T):
    weighting.setup(n_tasks)
    return weighting


def opposed(rng, n_tasks, n=6):
    """Gradients of which some conflict."""
    rows = rng.standard_normal((n_tasks, n)) * rng.uniform(0.1, 3, (n_tasks, 1))
    return rows - 0.4 * rows.mean(0)


@pytest.mark.parametrize("kind", ["features", "parameters"])
def test_the_gramian_is_that_of_explicit_gradients(kind):
    losses, shared = Net().measure()
    weighting = made(Recorder(kind))
    total = weighting(losses, shared)
    gramian, means = weighting.seen
    rows = explicit(losses, list(getattr(shared, kind)))
    torch.testing.assert_close(gramian, rows @ rows.T, rtol=1e-9, atol=0)
    torch.testing.assert_close(means, losses.detach())
    assert total.item() == pytest.approx(losses.detach() @ torch.tensor([1.0, 2, 3]).double())


@pytest.mark.parametrize("kind", ["features", "parameters"])
def test_the_model_is_trained_by_the_weighted_losses_alone(kind):
    net = Net()
    losses, shared = net.measure()
    made(Recorder(kind))(losses, shared).backward()
    other = Net()
    losses, _ = other.measure()
    (losses[0] + 2 * losses[1] + 3 * losses[2]).backward()
    for own, expected in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(own.grad, expected.grad, rtol=1e-12, atol=0)


def test_small_gradients_survive_half_precision():
    found = {}
    for dtype in (torch.float16, torch.float64):
        features = torch.ones(2, 4, dtype=dtype, requires_grad=True)
        # The gradient of each feature is below the least number of float16.
        losses = 2e-8 * torch.stack([features.sum(), -features[0].sum()]).double()
        weighting = made(Recorder(), 2)
        weighting(losses, Shared([features], []))
        found[dtype] = weighting.seen[0]
    torch.testing.assert_close(found[torch.float16], found[torch.float64], rtol=3e-3, atol=0)


def test_autocast_does_not_round_the_gramian():
    found = []
    for enabled in (False, True):
        losses, shared = Net(dtype=torch.float32).measure()
        weighting = made(Recorder("parameters"))
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            weighting(losses, shared)
        found.append(weighting.seen[0])
    assert torch.equal(*found)


def test_what_is_not_finite_changes_no_weights():
    weighting = made(GradNormWeighting())
    losses, shared = Net().measure()
    weighting(losses, shared)
    state = {name: value.clone() for name, value in weighting.state_dict().items()}
    before = weighting.weights
    assert weighting(losses * torch.inf, shared).isinf()
    assert torch.equal(weighting.weights, before)
    for name, value in weighting.state_dict().items():
        assert torch.equal(value, state[name])


def test_nothing_shared_is_refused():
    losses, shared = Net().measure()
    message = "^MGDAWeighting compares .* shared parameters, and none .* take EqualWeighting"
    with pytest.raises(ValueError, match=message):
        made(MGDAWeighting("parameters"))(losses, Shared(shared.features, []))
    with pytest.raises(ValueError, match="shared features, and none"):
        made(MGDAWeighting())(losses)


@pytest.mark.parametrize("n_tasks", [2, 3, 5])
def test_pcgrad_is_the_surgery_of_explicit_gradients(n_tasks):
    rng = np.random.default_rng(0)
    weighting = made(PCGradWeighting(seed=7), n_tasks)
    conflicts = 0
    for step in range(20):
        rows = opposed(rng, n_tasks)
        weights = weighting.weigh(torch.from_numpy(rows @ rows.T), torch.ones(n_tasks))
        order = np.random.default_rng([7, step])
        total = np.zeros(rows.shape[1])
        for i in range(n_tasks):
            projected = rows[i].copy()
            for j in order.permutation(n_tasks):
                if j != i and projected @ rows[j] < 0:
                    projected -= (projected @ rows[j]) / (rows[j] @ rows[j]) * rows[j]
                    conflicts += 1
            total += projected
        np.testing.assert_allclose(weights.numpy() @ rows, total, rtol=1e-9, atol=1e-12)
        assert (weights >= 1).all()
    assert conflicts > 10


def test_pcgrad_is_equal_weighting_without_conflicts():
    gramian = torch.tensor([[1.0, 0.2, 0.0], [0.2, 4.0, 0.0], [0.0, 0.0, 0.0]]).double()
    weights = made(PCGradWeighting()).weigh(gramian, torch.ones(3))
    assert weights.tolist() == [1.0, 1.0, 1.0]


def least_of_all_faces(gramian):
    """The min-norm point, as the best of the stationary points of all faces."""
    best, least = None, np.inf
    n = len(gramian)
    for size in range(1, n + 1):
        for face in itertools.combinations(range(n), size):
            system = np.zeros((size + 1, size + 1))
            system[:size, :size] = gramian[np.ix_(face, face)]
            system[size, :size] = system[:size, size] = 1
            inside = np.linalg.solve(system, np.eye(size + 1)[-1])[:size]
            weights = np.zeros(n)
            weights[list(face)] = inside
            if (inside >= 0).all() and weights @ gramian @ weights < least:
                best, least = weights, weights @ gramian @ weights
    return best


@pytest.mark.parametrize("normalization", ["none", "l2", "loss", "loss+"])
@pytest.mark.parametrize("n_tasks", [2, 3, 6])
def test_mgda_is_the_shortest_combination(n_tasks, normalization):
    rng = np.random.default_rng(n_tasks)
    weighting = made(MGDAWeighting(normalization=normalization), n_tasks)
    for _ in range(20):
        rows = opposed(rng, n_tasks, n=8)
        losses = rng.uniform(0.1, 3, n_tasks)
        norms = np.linalg.norm(rows, axis=1)
        divisors = {"none": 1, "l2": norms, "loss": losses, "loss+": losses * norms}
        unit = rows / np.broadcast_to(divisors[normalization], n_tasks)[:, None]
        weights = weighting.weigh(torch.from_numpy(rows @ rows.T), torch.from_numpy(losses))
        expected = n_tasks * least_of_all_faces(unit @ unit.T)
        np.testing.assert_allclose(weights, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_mgda_of_two_tasks_is_the_closed_form(scale):
    rng = np.random.default_rng(0)
    weighting = made(MGDAWeighting(), 2)
    for _ in range(20):
        a, b = scale * rng.standard_normal(3), 1e-3 * scale * rng.standard_normal(3)
        rows = np.stack([a, b])
        share = np.clip((b - a) @ b / ((a - b) @ (a - b)), 0, 1)
        weights = weighting.weigh(torch.from_numpy(rows @ rows.T), torch.ones(2).double())
        np.testing.assert_allclose(weights, [2 * share, 2 - 2 * share], rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[1, 0], [-1, 0]], [1, 1]),  # they cancel
        ([[1, 0], [-3, 0]], [1.5, 0.5]),
        ([[0, 0], [1, 0]], [0, 2]),  # a zero gradient does not halt the others
        ([[0, 0], [0, 0]], [1, 1]),
        ([[2, 1], [4, 2]], [2, 0]),
    ],
)
def test_mgda_of_degenerate_gradients(rows, expected):
    rows = torch.tensor(rows, dtype=torch.float64)
    weights = made(MGDAWeighting(), 2).weigh(rows @ rows.T, torch.ones(2).double())
    np.testing.assert_allclose(weights, expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("alpha", [0.0, 0.12, 1.5])
def test_grad_norm_is_a_step_on_its_loss(alpha):
    generator = torch.Generator().manual_seed(0)
    weighting = made(GradNormWeighting(alpha=alpha, lr=0.05))
    weights = torch.ones(T, dtype=torch.float64)
    first = None
    for _ in range(30):
        rows = torch.randn(T, 4, generator=generator, dtype=torch.float64)
        losses = torch.rand(T, generator=generator, dtype=torch.float64) + 0.1
        found = weighting.weigh(rows @ rows.T, losses)
        torch.testing.assert_close(found, weights, rtol=1e-9, atol=0)
        first = losses if first is None else first
        weights = weights.clone().requires_grad_()
        norms = (weights[:, None] * rows).norm(dim=1)
        rates = losses / first / (losses / first).mean()
        target = (norms.mean() * rates**alpha).detach()
        (gradient,) = torch.autograd.grad((norms - target).abs().sum(), weights)
        weights = (weights.detach() - 0.05 * gradient).clamp(min=1e-3)
        weights *= T / weights.sum()


def test_grad_norm_lets_a_task_without_labels_sit_out():
    weighting = made(GradNormWeighting(lr=0.1))
    rows = torch.tensor([[1.0, 0], [0, 0], [0, 3]], dtype=torch.float64)
    weighting.weigh(rows @ rows.T, torch.tensor([1.0, 0.0, 2.0]).double())
    weights = weighting.weigh(torch.eye(3).double(), torch.tensor([1.0, 4.0, 2.0]).double())
    # Only the first and the last were compared: 1 + 0.1 * 1 and 1 - 0.1 * 3, of a sum of 2.8.
    assert weights.tolist() == pytest.approx([3 * x / 2.8 for x in (1.1, 1.0, 0.7)], rel=1e-9)
    assert weighting.first_losses.value.tolist() == [1.0, 4.0, 2.0]


def test_grad_norm_keeps_weights_positive():
    weighting = made(GradNormWeighting(alpha=0.0, lr=10.0))
    gramian = torch.diag(torch.tensor([1.0, 1.0, 100.0])).double()
    for _ in range(3):
        weights = weighting.weigh(gramian, torch.ones(3).double())
        assert (weights > 0).all()
        assert weights.sum().item() == pytest.approx(3)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("UPGradWeighting", {}),
        ("AlignedMTLWeighting", {}),
        ("DualProjWeighting", {}),
        ("FairGradWeighting", {"alpha": 1.0}),
        ("IMTLGWeighting", {}),
        ("KrumWeighting", {"n_byzantine": 0}),
        ("MGDAWeighting", {"epsilon": 1e-6}),
    ],
)
def test_torchjd_weighs_the_same_gramian(name, arguments):
    aggregation = pytest.importorskip("torchjd.aggregation")
    if name in ("UPGradWeighting", "DualProjWeighting"):
        pytest.importorskip("quadprog")
    losses, shared = Net().measure()
    weighting = made(TorchJDWeighting(name, "parameters", arguments))
    weighting(losses, shared)
    rows = explicit(losses, list(shared.parameters))
    expected = T * getattr(aggregation, name)(**arguments)(rows @ rows.T)
    torch.testing.assert_close(weighting.weights, expected, rtol=1e-6, atol=1e-9)


RULES = [
    ("UPGradWeighting", {}, "quadprog"),
    ("AlignedMTLWeighting", {}, None),
    ("CAGradWeighting", {"c": 0.4}, "cvxpy"),
    ("DualProjWeighting", {}, "quadprog"),
    ("FairGradWeighting", {"alpha": 1.0}, "scipy"),
    ("IMTLGWeighting", {}, None),
    ("KrumWeighting", {"n_byzantine": 0}, None),
    ("MGDAWeighting", {}, None),
]


@pytest.mark.parametrize("still", [0, 2, 3])
@pytest.mark.parametrize(("name", "arguments", "solver"), RULES)
def test_torchjd_weighs_the_others_as_if_a_task_without_gradient_were_not_there(
    name, arguments, solver, still
):
    aggregation = pytest.importorskip("torchjd.aggregation")
    if solver is not None:
        pytest.importorskip(solver)
    rows = torch.from_numpy(opposed(np.random.default_rng(0), 4))
    rows[still] = 0.0
    weighting = made(TorchJDWeighting(name, arguments=arguments), 4)
    weights = weighting.weigh(rows @ rows.T, torch.ones(4).double())
    others = [task for task in range(4) if task != still]
    # Of these the weights add up to the number of all tasks, as those of our own MGDA do.
    absolute = name in ("FairGradWeighting", "IMTLGWeighting", "KrumWeighting", "MGDAWeighting")
    alone = getattr(aggregation, name)(**arguments)(rows[others] @ rows[others].T)
    torch.testing.assert_close(weights[others], (4 if absolute else 3) * alone)
    assert weights[still] == 0.0


@pytest.mark.parametrize("kind", ["features", "parameters"])
@pytest.mark.parametrize(
    ("weighting", "arguments", "solver"),
    [*RULES, (MGDAWeighting, {}, None), (PCGradWeighting, {}, None), (GradNormWeighting, {}, None)],
)
@pytest.mark.parametrize("n_left_out", [1, 2])
def test_the_principal_task_learns_from_a_batch_without_other_labels(
    weighting, arguments, solver, kind, n_left_out
):
    if isinstance(weighting, str):
        pytest.importorskip("torchjd")
        if solver is not None:
            pytest.importorskip(solver)
        rule = TorchJDWeighting(weighting, kind, arguments)
    else:
        rule = weighting(kind)
    net = Net()
    net.targets[T - n_left_out :] = IGNORED
    losses, shared = net.measure()
    loss = made(rule)(losses, shared)
    weights = rule.weights
    assert weights.isfinite().all()
    if not isinstance(rule, PCGradWeighting | GradNormWeighting):  # a weight of 0 or of 1 is one
        assert weights[T - n_left_out :].tolist() == [0.0] * n_left_out
    if n_left_out == 2:
        assert 0.5 < weights[0] <= 200  # and not of the auxiliary tasks, as large as it may be
        learnt, own = (
            torch.autograd.grad(each, net.one.weight, retain_graph=True)[0]
            for each in (loss, losses[0])
        )
        torch.testing.assert_close(learnt, weights[0] * own)
        assert own.abs().max() > 0


def test_torchjd_leaves_all_tasks_as_they_are_where_none_has_a_gradient():
    pytest.importorskip("torchjd")
    weighting = made(TorchJDWeighting("MGDAWeighting"), 2)
    assert weighting.weigh(torch.zeros(2, 2).double(), torch.zeros(2)).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("name", ["PCGradWeighting", "GradVacWeighting", "UPGrad", "Weighting"])
def test_torchjd_lists_what_it_may_be(name):
    pytest.importorskip("torchjd")
    with pytest.raises(ValueError, match=f"no '{name}': choose one of UPGradWeighting, .*MGDAW"):
        TorchJDWeighting(name)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("FairGradWeighting", {}, "torchjd's FairGradWeighting with {}: .*alpha"),
        ("MGDAWeighting", {"epsilon": -1.0}, "epsilon must be positive"),
        ("KrumWeighting", {"n_byzantine": 5}, "does not weigh 3 tasks"),
    ],
)
def test_torchjd_errors_are_one_line(name, arguments, message):
    pytest.importorskip("torchjd")
    with pytest.raises(ValueError, match=message) as caught:
        made(TorchJDWeighting(name, arguments=arguments))
    assert "\n" not in str(caught.value)


def test_torchjd_is_optional(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchjd.aggregation", None)
    with pytest.raises(ValueError, match=r'pip install "detaux_pl\[torchjd\]"'):
        TorchJDWeighting()
