import math
from itertools import pairwise

import pytest
import torch
from torch.autograd import gradcheck

from detaux_pl.losses.density_ratio import discriminator_loss, total_correlation_ratio
from detaux_pl.losses.dip import dip_penalty
from detaux_pl.losses.gaussian_kl import gaussian_kl
from detaux_pl.losses.likelihood import reconstruction_loss
from detaux_pl.losses.permute import permute_latents

EXACT = {"rtol": 1e-9, "atol": 1e-12}
B, K = 5, 3
IMAGES = (4, 2, 3, 5)


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def posterior(b=B, k=K):
    return draw(b, k), 0.7 * draw(b, k, seed=1) - 0.5


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def naive_reconstruction(decoded, images, likelihood):
    total = 0.0
    for logit, x in zip(decoded.flatten().tolist(), images.flatten().tolist(), strict=True):
        p = sigmoid(logit)
        bernoulli = -x * math.log(p) - (1 - x) * math.log(1 - p)
        total += bernoulli if likelihood == "bernoulli" else (x - p) ** 2
    return total / len(images)


def naive_dip(mean, log_variance, variant, off_diagonal, diagonal):
    b, k = mean.shape
    m, v = mean.tolist(), log_variance.tolist()
    average = [sum(row[i] for row in m) / b for i in range(k)]
    total = 0.0
    for i in range(k):
        for j in range(k):
            c = sum((row[i] - average[i]) * (row[j] - average[j]) for row in m) / b
            if i != j:
                total += off_diagonal * c**2
                continue
            if variant == "ii":
                c += sum(math.exp(row[i]) for row in v) / b
            total += diagonal * (c - 1) ** 2
    return total


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_reconstruction_is_a_sum_over_pixels_and_a_mean_over_images(likelihood):
    decoded, images = 2 * draw(*IMAGES), draw(*IMAGES, seed=1).sigmoid()
    loss = reconstruction_loss(decoded, images, likelihood)
    assert loss.item() == pytest.approx(naive_reconstruction(decoded, images, likelihood), rel=1e-9)
    assert gradcheck(
        lambda decoded: reconstruction_loss(decoded, images, likelihood), decoded.requires_grad_()
    )


def test_reconstruction_in_closed_form():
    undecided, grey = torch.zeros(IMAGES), torch.full(IMAGES, 0.5)
    assert reconstruction_loss(undecided, grey, "gaussian").item() == 0
    assert reconstruction_loss(undecided, undecided, "gaussian").item() == 30 / 4
    for images in (undecided, grey):
        loss = reconstruction_loss(undecided, images, "bernoulli").item()
        assert loss == pytest.approx(30 * math.log(2))
    # Far out the probability is 0 in float32, the loss must not be infinite.
    sure = reconstruction_loss(undecided - 200, undecided + 1, "bernoulli").item()
    assert sure == pytest.approx(30 * 200)


def test_reconstruction_of_other_shapes_is_refused():
    with pytest.raises(ValueError, match=r"\(4, 3\), the images \(4, 1\): give the same shape"):
        reconstruction_loss(torch.zeros(4, 3), torch.zeros(4, 1), "bernoulli")


def test_divergence_of_every_latent():
    mean, log_variance = posterior()
    divergence = gaussian_kl(mean, log_variance)
    assert divergence.shape == (B, K)
    for b in range(B):
        for k in range(K):
            m, v = mean[b, k].item(), log_variance[b, k].item()
            expected = (m**2 + math.exp(v) - v - 1) / 2
            assert divergence[b, k].item() == pytest.approx(expected, rel=1e-9)
    q = torch.distributions.Normal(mean, (log_variance / 2).exp())
    p = torch.distributions.Normal(torch.zeros_like(mean), 1.0)
    torch.testing.assert_close(divergence, torch.distributions.kl_divergence(q, p), **EXACT)
    assert gaussian_kl(torch.zeros(2, 3), torch.zeros(2, 3)).eq(0).all()


@pytest.mark.parametrize("variant", ["i", "ii"])
@pytest.mark.parametrize("weights", [(10.0, 100.0), (3.0, 0.0), (0.0, 2.0)])
@pytest.mark.parametrize("b", [1, 2, 5])
def test_dip_penalty_is_that_of_the_covariance_matrix(variant, weights, b):
    mean, log_variance = posterior(b)
    penalty = dip_penalty(mean, log_variance, variant, *weights)
    expected = naive_dip(mean, log_variance, variant, *weights)
    assert penalty.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert gradcheck(
        lambda mean, log_variance: dip_penalty(mean, log_variance, variant, *weights),
        (mean.requires_grad_(), log_variance.requires_grad_()),
    )


def test_dip_penalty_in_closed_form():
    # Uncorrelated means of variance 1, then means of variance 0 and a posterior of variance 1.
    mean = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    zero = torch.zeros_like(mean)
    assert dip_penalty(mean, zero, "i", 10, 100).item() == 0
    assert dip_penalty(mean, zero, "ii", 10, 100).item() == 200
    assert dip_penalty(zero, zero, "ii", 10, 100).item() == 0
    # Equal latents: both covariances of the pair are 1, and only they count.
    assert dip_penalty(mean[:, [0, 0]], zero, "i", 10, 100).item() == 20
    # A batch of one has no variance.
    assert dip_penalty(mean[:1], zero[:1], "i", 10, 100).item() == 200


def test_small_covariances_beside_large_variances_are_kept_in_float32():
    mean = 100 * torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    mean[0, 0] += 1e-3
    mean, log_variance = mean.double(), torch.zeros(4, 2)
    exact = naive_dip(mean, log_variance, "i", 1.0, 0.0)
    penalty = dip_penalty(mean.float(), log_variance, "i", 1.0, 0.0).item()
    assert 0 < exact < 1e-2
    assert penalty == pytest.approx(exact, rel=0.1)


def test_permuting_keeps_every_column_and_mixes_none():
    latents = draw(50, 4) + 100 * torch.arange(4)
    torch.manual_seed(0)
    permuted = permute_latents(latents)
    assert torch.equal(permuted.sort(0).values, latents.sort(0).values)
    order = (permuted.T[..., None] == latents.T[:, None]).int().argmax(2)
    for own, other in pairwise(order):
        assert not torch.equal(own, other)
    torch.manual_seed(0)
    assert torch.equal(permute_latents(latents), permuted)
    assert not torch.equal(permute_latents(latents), permuted)
    assert torch.equal(permute_latents(latents[:1]), latents[:1])


def test_all_permutations_are_as_likely_and_dimensions_independent():
    torch.manual_seed(0)
    n = 36_000
    permuted = permute_latents(torch.arange(3)[:, None].expand(3, 2 * n)).reshape(3, n, 2)
    # The places of 0 and 1 name one of six permutations.
    name = 3 * permuted[0] + permuted[1]
    pairs = 9 * name[:, 0] + name[:, 1]
    counts = torch.bincount(pairs).double()
    counts = counts[counts > 0]
    assert len(counts) == 36
    chi_square = ((counts - n / 36).square() / (n / 36)).sum().item()
    assert chi_square < 66.6  # 35 degrees of freedom, p = 0.001


def test_density_ratio_is_positive_for_latents_that_look_joint():
    logits = draw(B, 2)
    expected = sum((a - b for a, b in logits.tolist()), 0.0) / B
    assert total_correlation_ratio(logits).item() == pytest.approx(expected, rel=1e-9)
    assert total_correlation_ratio(torch.tensor([[3.0, 1.0], [2.0, 0.0]])).item() == 2
    assert total_correlation_ratio(torch.tensor([[0.0, 1.0]])).item() == -1


def test_the_best_discriminator_gives_the_total_correlation():
    correlation, n = 0.8, 200_000
    noise = draw(n, 2)
    x = noise[:, 0]
    y = correlation * x + math.sqrt(1 - correlation**2) * noise[:, 1]
    rest = 1 - correlation**2
    joint = -(x**2 - 2 * correlation * x * y + y**2) / (2 * rest) - math.log(rest) / 2
    product = -(x**2 + y**2) / 2
    logits = torch.stack([joint, product], dim=1)
    assert total_correlation_ratio(logits).item() == pytest.approx(-math.log(rest) / 2, abs=0.01)


def test_discriminator_loss_is_half_a_cross_entropy_of_each_kind():
    joint, permuted = draw(B, 2), draw(7, 2, seed=1)
    expected = 0.0
    for kind, logits in enumerate((joint, permuted)):
        for row in logits.tolist():
            share = math.exp(row[kind]) / (math.exp(row[0]) + math.exp(row[1]))
            expected -= 0.5 * math.log(share) / len(logits)
    assert discriminator_loss(joint, permuted).item() == pytest.approx(expected, rel=1e-9)
    undecided = torch.zeros(4, 2)
    assert discriminator_loss(undecided, undecided).item() == pytest.approx(math.log(2))
    right, wrong = torch.tensor([[50.0, 0.0]]), torch.tensor([[0.0, 50.0]])
    assert discriminator_loss(right, wrong).item() < 1e-12
    assert discriminator_loss(wrong, right).item() == pytest.approx(50)


@pytest.mark.parametrize(
    ("loss", "shapes"),
    [
        (lambda d, x: reconstruction_loss(d, x, "bernoulli"), [IMAGES] * 2),
        (lambda d, x: reconstruction_loss(d, x, "gaussian"), [IMAGES] * 2),
        (gaussian_kl, [(B, K)] * 2),
        (lambda m, v: dip_penalty(m, v, "ii", 10, 10), [(B, K)] * 2),
        (total_correlation_ratio, [(B, 2)]),
        (discriminator_loss, [(B, 2)] * 2),
    ],
)
def test_half_precision_is_left_for_float32(loss, shapes):
    half = [draw(*shape, seed=i).bfloat16() for i, shape in enumerate(shapes)]
    expected = loss(*[part.float() for part in half])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = loss(*half)
    assert result.dtype == torch.float32
    assert torch.equal(result, expected)
