import torch

from detaux_pl.disentangle.product_manifold import ProductManifoldAutoencoder
from detaux_pl.disentangle.traversal import traversals

SHAPE, K = (3, 16, 16), 4


def test_rows_move_one_subspace_at_a_time():
    torch.manual_seed(0)
    model = ProductManifoldAutoencoder(SHAPE, dim=5, n_subspaces=K).eval()
    with torch.no_grad():
        model.decoder.layers[-1].bias += 0.5  # inside [0, 1], where nothing is clamped
    pair = torch.rand(2, *SHAPE)
    grid = traversals(model, pair)
    assert grid.shape == (K, 7, *SHAPE)
    assert not grid.requires_grad

    with torch.no_grad():
        codes = model.encode(pair)
        for i in range(K):
            torch.testing.assert_close(grid[i, 0], pair[0])
            torch.testing.assert_close(grid[i, 6], pair[1])
            torch.testing.assert_close(grid[i, [1, 5]], model.decode(codes))
            for step, weight in enumerate((2 / 3, 1 / 3, 0.0)):
                moved = codes[:1].clone()
                moved[0, i] = weight * codes[0, i] + (1 - weight) * codes[1, i]
                torch.testing.assert_close(grid[i, [2 + step]], model.decode(moved))


def test_pictures_are_clamped():
    torch.manual_seed(0)
    model = ProductManifoldAutoencoder(SHAPE, dim=5, n_subspaces=K).eval()
    with torch.no_grad():
        model.decoder.layers[-1].weight *= 1e4
    grid = traversals(model, torch.rand(2, *SHAPE))
    assert grid.min() == 0
    assert grid.max() == 1
