import math

import pytest
import torch
from torch.autograd import gradcheck

from detaux_pl.losses.total_correlation import decompose_kl

ESTIMATORS = ["weighted", "stratified"]
N, B, K = 11, 5, 3


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def batch(b=B, k=K):
    mean, log_variance = draw(b, k), 0.7 * draw(b, k, seed=1) - 0.5
    return mean + (log_variance / 2).exp() * draw(b, k, seed=2), mean, log_variance


def log_normal(z, m=0.0, v=0.0):
    return -((z - m) ** 2 / math.exp(v) + v + math.log(2 * math.pi)) / 2


def weights_of_row(j, b, n, estimator):
    if estimator == "weighted":
        return [1 / (n * b)] * b
    m = b - 1
    weights = [1 / m] * b
    weights[(j + 1) % b] = (n - m) / (n * m)
    weights[j] = 1 / n
    assert sum(weights) == pytest.approx(1, rel=1e-12)
    return weights


def naive(latents, mean, log_variance, n, estimator):
    z, m, v = latents.tolist(), mean.tolist(), log_variance.tolist()
    b, k = latents.shape
    parts = [0.0, 0.0, 0.0]
    for j in range(b):
        weights = weights_of_row(j, b, n, estimator)
        log_q = [[log_normal(z[j][d], m[i][d], v[i][d]) for d in range(k)] for i in range(b)]
        joint = math.log(sum(w * math.exp(sum(row)) for w, row in zip(weights, log_q, strict=True)))
        marginals = sum(
            math.log(sum(w * math.exp(row[d]) for w, row in zip(weights, log_q, strict=True)))
            for d in range(k)
        )
        prior = sum(log_normal(z[j][d]) for d in range(k))
        for p, part in enumerate((sum(log_q[j]) - joint, joint - marginals, marginals - prior)):
            parts[p] += part / b
    return parts


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(("n", "b"), [(N, B), (B, B), (1_000_000, B), (7, 2), (2, 2)])
def test_parts_are_those_of_a_loop(estimator, n, b):
    parts = decompose_kl(*batch(b), n, estimator)
    expected = naive(*batch(b), n, estimator)
    assert [part.item() for part in parts] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(("n", "b", "k"), [(N, B, K), (3, 2, 1), (40, 40, 6)])
def test_parts_sum_to_the_sampled_divergence(estimator, n, b, k):
    latents, mean, log_variance = batch(b, k)
    q = torch.distributions.Normal(mean, (log_variance / 2).exp())
    p = torch.distributions.Normal(torch.zeros_like(mean), 1.0)
    sampled = (q.log_prob(latents) - p.log_prob(latents)).sum(1).mean()
    total = sum(decompose_kl(latents, mean, log_variance, n, estimator))
    assert total.item() == pytest.approx(sampled.item(), rel=1e-9)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_gradients_by_finite_differences(estimator):
    parts = [part.requires_grad_() for part in batch()]
    assert gradcheck(lambda *parts: tuple(decompose_kl(*parts, N, estimator)), parts)


def test_weighted_total_correlation_has_its_constant():
    latents, mean, log_variance = batch()
    own = torch.distributions.Normal(mean, (log_variance / 2).exp()).log_prob(latents[:, None])
    without = (own.sum(2).logsumexp(1) - own.logsumexp(1).sum(1)).mean()
    expected = without + (K - 1) * math.log(N * B)
    correlation = decompose_kl(latents, mean, log_variance, N, "weighted").total_correlation
    assert correlation.item() == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.parametrize(
    ("estimator", "information", "correlation"),
    [("weighted", math.log(N), (K - 1) * math.log(N)), ("stratified", 0.0, 0.0)],
)
def test_equal_posteriors_share_nothing_with_the_images(estimator, information, correlation):
    latents, mean, log_variance = batch()
    equal = mean[:1].expand(B, K), log_variance[:1].expand(B, K)
    parts = decompose_kl(latents, *equal, N, estimator)
    assert parts.mutual_information.item() == pytest.approx(information, rel=1e-9, abs=1e-10)
    assert parts.total_correlation.item() == pytest.approx(correlation, rel=1e-9, abs=1e-10)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_single_latent_has_no_total_correlation(estimator):
    correlation = decompose_kl(*batch(k=1), N, estimator).total_correlation
    assert correlation.item() == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("n", [800, 60_000])
def test_gaussian_codes_give_the_closed_forms(estimator, n):
    b, deviation = 800, 0.6
    mixing = torch.tensor([[1.0, 0.0, 0.0], [0.9, 0.5, 0.0], [-0.3, 0.4, 0.7]]).double()
    mean = draw(b, 3) @ mixing.T
    latents = mean + deviation * draw(b, 3, seed=1)
    log_variance = torch.full_like(mean, 2 * math.log(deviation))

    covariance = mixing @ mixing.T + deviation**2 * torch.eye(3).double()
    variances = covariance.diagonal()
    expected = torch.stack(
        [
            0.5 * (covariance.logdet() - 3 * 2 * math.log(deviation)),
            0.5 * (variances.log().sum() - covariance.logdet()),
            0.5 * (variances - variances.log() - 1).sum(),
        ]
    )
    if estimator == "weighted":
        # Posteriors that overlap: each density is estimated as an N-th of what it is.
        expected = expected + math.log(n) * torch.tensor([1, 2, -3])
    parts = torch.stack(decompose_kl(latents, mean, log_variance, n, estimator))
    torch.testing.assert_close(parts, expected, rtol=0, atol=0.1)


def test_one_image_is_its_own_data_set():
    latents, mean, log_variance = batch(1)
    for n in (1, 7):
        parts = decompose_kl(latents, mean, log_variance, n, "weighted")
        found = [parts.mutual_information.item(), parts.total_correlation.item()]
        assert found == pytest.approx([math.log(n), (K - 1) * math.log(n)], rel=1e-9, abs=1e-10)
    with pytest.raises(ValueError, match="which has one: give at least 2, or take weighted"):
        decompose_kl(latents, mean, log_variance, 7, "stratified")


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_less_data_than_a_batch_is_refused(estimator):
    with pytest.raises(ValueError, match="n_samples is 4 and the batch has 5 images: give"):
        decompose_kl(*batch(), 4, estimator)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_half_precision_is_left_for_float32(estimator):
    half = [part.bfloat16() for part in batch()]
    expected = decompose_kl(*[part.float() for part in half], N, estimator)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        parts = decompose_kl(*half, N, estimator)
    for part, value in zip(parts, expected, strict=True):
        assert part.dtype == torch.float32
        assert part.item() == value.item()
