import pytest
import torch

from detaux_pl.models.latent_split import class_gram, split_latent_space

C, D, N = 4, 8, 400


def samples(effect, seed=0, n=N):
    """Anisotropic normal latent vectors whose class means differ by `effect`."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(C, (n,), generator=generator)
    noise = torch.randn(n, D, generator=generator, dtype=torch.float64)
    scales = torch.logspace(0, -2, D, dtype=torch.float64)
    means = torch.randn(C, D, generator=generator, dtype=torch.float64)
    turn, _ = torch.linalg.qr(torch.randn(D, D, generator=generator, dtype=torch.float64))
    return (scales * (noise + effect * means[labels])) @ turn + 3.0, labels


def class_means(values, labels):
    return torch.stack([values[labels == c].mean(0) for c in range(C)])


def code(latent, split):
    return torch.einsum("nd,kcd->nkc", latent - split.mean, split.analysis)


def split_of(latent, labels, **kwargs):
    return split_latent_space(class_gram(latent, labels, C), C, **kwargs)


def test_gram_adds_over_batches():
    latent, labels = samples(1.0)
    parts = [class_gram(z, y, C) for z, y in zip(latent.split(90), labels.split(90), strict=True)]
    torch.testing.assert_close(sum(parts), class_gram(latent, labels, C))


@pytest.mark.parametrize("principal", [0, 2])
def test_principal_subspace_has_the_class_means_and_the_others_do_not(principal):
    latent, labels = samples(3.0)
    split = split_of(latent, labels, n_subspaces=3, subspace_dim=3, principal=principal)
    codes = code(latent, split)
    centred = class_means(latent, labels) - latent.mean(0)
    carried = class_means(codes, labels)[:, principal] @ split.synthesis[principal]
    torch.testing.assert_close(carried, centred)
    others = [i for i in range(3) if i != principal]
    torch.testing.assert_close(
        class_means(codes, labels)[:, others], torch.zeros(C, 2, 3, dtype=torch.float64)
    )


def test_parts_are_uncorrelated_ordered_and_together_the_latent_vector():
    latent, labels = samples(3.0)
    split = split_of(latent, labels, n_subspaces=3, subspace_dim=3)
    codes = code(latent, split)
    covariance = codes.flatten(1)[:, :8].T.cov(correction=0)
    off_diagonal = covariance - torch.diag(covariance.diagonal())
    variances = covariance.diagonal()
    # Variances span four orders of magnitude, and whitening divides by the smallest of them.
    assert off_diagonal.abs().max() < 1e-10 * variances.max()
    assert (variances[:2] >= variances[1:3]).all()
    assert (variances[3:-1] >= variances[4:]).all()
    # Three between-class and five other axes: one place is left empty.
    assert not split.synthesis[2, 2].any()
    assert not codes[:, 2, 2].any()
    again = split.mean + torch.einsum("nkc,kcd->nd", codes, split.synthesis)
    torch.testing.assert_close(again, latent)
    for axes in (split.synthesis[0], split.synthesis[1:].flatten(0, 1)[:5]):
        identity = torch.eye(len(axes), dtype=torch.float64)
        torch.testing.assert_close(axes @ axes.T, identity)
        assert (axes.gather(1, axes.abs().argmax(1, keepdim=True)) > 0).all()


def test_classes_without_effect_take_no_direction():
    for seed in range(10):
        latent, labels = samples(0.0, seed, n=4000)
        split = split_of(latent, labels, n_subspaces=2, subspace_dim=4)
        assert not split.analysis[0].any()
        centred = latent - latent.mean(0)
        _, _, axes = torch.linalg.svd(centred, full_matrices=False)
        overlap = (split.synthesis[1] @ axes[:4].T).abs()
        torch.testing.assert_close(overlap, torch.eye(4, dtype=torch.float64))


def test_too_few_places_keep_the_leading_axes():
    latent, labels = samples(3.0)
    large = split_of(latent, labels, n_subspaces=2, subspace_dim=5)
    small = split_of(latent, labels, n_subspaces=2, subspace_dim=2)
    torch.testing.assert_close(small.analysis, large.analysis[:, :2])
    # The residual is cleared of all between-class directions, of those without a place too.
    principal, residual = class_means(code(latent, small), labels).unbind(1)
    assert residual.abs().max() < 1e-10 * principal.abs().max()


def test_constant_latent_directions_and_absent_classes_do_no_harm():
    latent, labels = samples(3.0)
    present = labels < 3
    latent, labels = latent[present], labels[present]
    padded = torch.cat([latent, torch.ones(len(latent), 2, dtype=torch.float64)], dim=1)
    gram = class_gram(padded, labels, C)
    split = split_latent_space(gram, C, n_subspaces=3, subspace_dim=6)
    assert all(torch.isfinite(part).all() for part in split)
    assert split.synthesis[0].any(1).sum() == 2
    assert split.synthesis[1:].flatten(0, 1).any(1).sum() == D - 2


def test_a_constant_latent_space_gives_no_axis():
    latent, labels = torch.ones(10, D, dtype=torch.float64), torch.arange(10) % C
    split = split_of(latent, labels, n_subspaces=2, subspace_dim=3)
    assert not split.analysis.any()


def test_statistics_of_no_sample_are_refused():
    with pytest.raises(ValueError, match="the statistics are of no sample"):
        split_latent_space(torch.zeros(C + D, C + D), C, n_subspaces=2, subspace_dim=2)
