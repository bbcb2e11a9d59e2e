"""Every loss against a loop that is written from the formulas of the method."""

import itertools
import math

import pytest
import torch

from detaux_pl.losses.product_manifold import (
    consistency_loss,
    distance_loss,
    mix,
    oracle,
    regularization_loss,
    soft_oracle,
    sparsity_loss,
    squared_distances,
)

K, B, D = 4, 6, 3
EXACT = {"rel": 1e-9, "abs": 1e-12}


@pytest.fixture
def codes():
    generator = torch.Generator().manual_seed(0)
    codes = 0.2 * torch.randn(2, K, B, D, generator=generator, dtype=torch.float64)
    codes[1, :, 0] = codes[0, :, 0] + 0.01  # a pair within the margin
    return codes.requires_grad_()


@pytest.fixture
def same():
    return torch.tensor([True, False, True, True, False, True])


def euclid(x, y):
    return math.sqrt(sum((a - b) ** 2 for a, b in zip(x, y, strict=True)))


def naive_distances(codes):
    s = codes.tolist()
    return [[euclid(s[0][i][b], s[1][i][b]) ** 2 for i in range(K)] for b in range(B)]


def naive_oracle(codes, same, principal, norm, power):
    s, distances = codes.tolist(), naive_distances(codes)
    rows = []
    for b in range(B):
        ratios = []
        for i in range(K):
            embeddings = s[0][i] + s[1][i]
            if norm == "pairwise":
                pairs = list(itertools.product(embeddings, embeddings))
                scale = sum(euclid(x, y) for x, y in pairs) / len(pairs)
            else:
                scale = sum(euclid(x, [0] * D) for x in embeddings) / len(embeddings)
            ratios.append(distances[b][i] ** (power / 2) / (scale + 1e-8))
        free = [i for i in range(K) if i != principal]
        chosen = max(free, key=lambda i: ratios[i]) if same[b] else principal
        rows.append([float(i == chosen) for i in range(K)])
    return rows


def test_squared_distances(codes):
    expected = torch.tensor(naive_distances(codes), dtype=torch.float64)
    torch.testing.assert_close(squared_distances(codes), expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("shape", [(3, K, B, D), (2, K, B)])
def test_codes_of_other_than_two_views_are_refused(shape):
    with pytest.raises(ValueError, match="give those of two views"):
        squared_distances(torch.zeros(shape))


@pytest.mark.parametrize("principal", [0, 2, 3])
@pytest.mark.parametrize("norm", ["pairwise", "length"])
@pytest.mark.parametrize("power", [1, 2])
def test_oracle(codes, same, principal, norm, power):
    assignment = oracle(codes, same, principal, norm, power)
    assert assignment.tolist() == naive_oracle(codes, same, principal, norm, power)
    assert not assignment.requires_grad
    assert assignment.dtype == codes.dtype


@pytest.mark.parametrize("principal", [0, 2])
def test_oracle_is_forced_by_the_labels(codes, same, principal):
    with torch.no_grad():
        codes[0, principal] += 10  # where all pairs differ most
    assignment = oracle(codes, same, principal)
    assert (assignment.sum(1) == 1).all()
    assert (assignment[~same].argmax(1) == principal).all()
    assert (assignment[same, principal] == 0).all()


def test_oracle_takes_the_first_of_equal_subspaces(same):
    equal = torch.ones(2, K, B, D)
    equal[1] = 2
    assert oracle(equal, same, principal=0)[same].argmax(1).tolist() == [1] * 4
    assert oracle(equal, same, principal=1)[same].argmax(1).tolist() == [0] * 4
    collapsed = torch.zeros(2, K, B, D)
    assert oracle(collapsed, same)[same].argmax(1).tolist() == [1] * 4


@pytest.mark.parametrize("principal", [0, 2])
def test_soft_oracle(codes, same, principal):
    distances = squared_distances(codes)
    soft = soft_oracle(distances, same, principal, sharpness=30.0)
    for b in range(B):
        weights = [
            math.exp(30 * distances[b, i].item()) * (i != principal) if same[b] else i == principal
            for i in range(K)
        ]
        assert soft[b].tolist() == pytest.approx([w / sum(weights) for w in weights], **EXACT)


def test_soft_oracle_has_finite_gradients_and_approaches_the_oracle(codes, same):
    distances = squared_distances(codes)
    assert torch.autograd.gradcheck(lambda d: soft_oracle(d, same, 1, 5.0), distances)
    sharp = soft_oracle(distances, same, 0, sharpness=1e9)
    hardest = distances[:, 1:].argmax(1) + 1
    assert (sharp[same].argmax(1) == hardest[same]).all()


@pytest.mark.parametrize(("form", "legacy"), [("code", False), ("code", True), ("paper", False)])
def test_distance_loss(codes, same, form, legacy):
    distances, assignment = squared_distances(codes), oracle(codes, same)
    total = 0.0
    for b, i in itertools.product(range(B), range(K)):
        d, a = distances[b, i].item(), assignment[b, i].item()
        if form == "paper":
            hinge = a * max(math.sqrt(0.05) - math.sqrt(d), 0) ** 2
        elif legacy:
            hinge = max(0.05 - d * a, 0)
        else:
            hinge = a * max(0.05 - d, 0)
        total += (1 - a) * d + 10 * hinge
    loss = distance_loss(distances, assignment, form, legacy_constant=legacy)
    assert loss.item() == pytest.approx(total / (B * K), **EXACT)


def test_the_legacy_constant_has_no_gradient(codes, same):
    distances, assignment = squared_distances(codes), oracle(codes, same)
    ours = distance_loss(distances, assignment)
    theirs = distance_loss(distances, assignment, legacy_constant=True)
    assert (theirs - ours).item() == pytest.approx(10 * 0.05 * (K - 1) / K, **EXACT)
    gradients = [torch.autograd.grad(x, codes, retain_graph=True)[0] for x in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=EXACT["rel"], atol=EXACT["abs"])


def test_distance_loss_in_closed_form():
    assignment = torch.tensor([[0.0, 1.0]])
    far = torch.tensor([[0.0, 1.0]])
    assert distance_loss(far, assignment).item() == 0
    collapsed = torch.zeros(1, 2)
    assert distance_loss(collapsed, assignment).item() == pytest.approx(10 * 0.05 / 2)
    assert distance_loss(collapsed, assignment, "paper").item() == pytest.approx(0.25, rel=1e-4)


def test_distance_loss_of_coinciding_views_has_a_finite_gradient():
    codes = torch.zeros(2, K, B, D, requires_grad=True)
    same = torch.ones(B, dtype=torch.bool)
    loss = distance_loss(squared_distances(codes), oracle(codes, same), "paper")
    loss.backward()
    assert torch.isfinite(codes.grad).all()


def test_a_negative_margin_is_refused():
    with pytest.raises(ValueError, match=r"margin is -1\.0: a squared distance"):
        distance_loss(torch.zeros(1, 2), torch.zeros(1, 2), margin=-1.0)


def test_sparsity_loss(codes):
    s, total = codes.tolist(), 0.0
    for v, b, d in itertools.product(range(2), range(B), range(D)):
        for i in range(K):
            others = sum(s[v][j][b][d] for j in range(K) if j != i)
            total += abs(s[v][i][b][d] * others)
    assert sparsity_loss(codes).item() == pytest.approx(total / (2 * B * D), **EXACT)


def test_sparsity_loss_is_zero_where_no_dimension_is_shared():
    codes = torch.zeros(2, 3, B, 3)
    codes[:, torch.arange(3), :, torch.arange(3)] = 5.0
    assert sparsity_loss(codes).item() == 0


def test_mix_of_all_mixtures(codes):
    mixed, swapped = mix(codes, torch.arange(K * B))
    assert mixed.shape == (K, K * B, D)
    for i, b, j in itertools.product(range(K), range(B), range(K)):
        assert swapped[i * B + b] == i
        assert torch.equal(mixed[j, i * B + b], codes[0 if i == j else 1, j, b])


def test_mix_of_some_mixtures(codes):
    everything, _ = mix(codes, torch.arange(K * B))
    some = torch.tensor([7, 0, 23])
    mixed, swapped = mix(codes, some)
    assert torch.equal(mixed, everything[:, some])
    assert swapped.tolist() == [1, 0, 3]


@pytest.mark.parametrize("form", ["code", "paper"])
def test_consistency_loss(codes, form):
    mixed, swapped = mix(codes, torch.tensor([3, 11, 5, 22]))
    returned = mixed.flip(1).sin()
    errors = [
        (mixed[i, m, d] - returned[i, m, d]).item() ** 2
        for i, m, d in itertools.product(range(K), range(4), range(D))
        if form == "code" or i == swapped[m]
    ]
    loss = consistency_loss(mixed, returned, swapped if form == "paper" else None)
    assert loss.item() == pytest.approx(sum(errors) / len(errors), **EXACT)


def test_consistency_loss_has_gradients_through_both_sides(codes):
    mixed, _ = mix(codes, torch.arange(K * B))
    weight = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    consistency_loss(mixed, weight * mixed.detach()).backward()
    assert codes.grad.abs().sum() > 0
    assert weight.grad.abs() > 0


def test_regularization_loss(codes, same):
    soft = soft_oracle(squared_distances(codes), same, 2, sharpness=20.0)
    shares = [sum(soft[b, j].item() for b in range(B)) / B for j in range(K)]
    expected = 100 * sum((1 / K - share) ** 2 for share in shares) / K
    assert regularization_loss(soft).item() == pytest.approx(expected, **EXACT)


def test_regularization_loss_over_the_free_subspaces(codes, same):
    soft = soft_oracle(squared_distances(codes), same, 2, sharpness=20.0)
    pairs = [b for b in range(B) if same[b]]
    shares = [sum(soft[b, j].item() for b in pairs) / len(pairs) for j in (0, 1, 3)]
    expected = 100 * sum((1 / (K - 1) - share) ** 2 for share in shares) / (K - 1)
    assert regularization_loss(soft, same, principal=2).item() == pytest.approx(expected, **EXACT)
    none = torch.zeros(B, dtype=torch.bool)
    forced = soft_oracle(squared_distances(codes), none, 2)
    assert regularization_loss(forced, none, principal=2).item() == 0


def test_regularization_loss_in_closed_form():
    assert regularization_loss(torch.eye(K)).item() == 0
    collapsed = torch.eye(K)[[1] * K]
    expected = 100 * (9 / 16 + 3 / 16) / 4
    assert regularization_loss(collapsed).item() == pytest.approx(expected)


def test_regularization_loss_has_a_gradient_unless_in_parity(codes, same):
    soft = regularization_loss(soft_oracle(squared_distances(codes), same, sharpness=20.0))
    (gradient,) = torch.autograd.grad(soft, codes)
    assert gradient.abs().sum() > 0
    assert not regularization_loss(oracle(codes, same)).requires_grad


@pytest.mark.parametrize("form", ["code", "paper"])
def test_gradients(codes, same, form):
    assignment = oracle(codes, same)
    mixtures = torch.tensor([3, 11, 5, 22])

    def losses(codes):
        mixed, swapped = mix(codes, mixtures)
        distances = squared_distances(codes)
        return torch.stack(
            [
                distance_loss(distances, assignment, form),
                sparsity_loss(codes),
                consistency_loss(mixed, mixed.sin(), swapped if form == "paper" else None),
                regularization_loss(soft_oracle(distances, same, sharpness=10.0)),
            ]
        )

    assert torch.autograd.gradcheck(losses, codes)
