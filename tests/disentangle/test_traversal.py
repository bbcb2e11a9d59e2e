import pytest
import torch

from detaux_pl.disentangle.autoencoding import AutoencodingDisentangler
from detaux_pl.disentangle.product_manifold import ProductManifoldAutoencoder
from detaux_pl.disentangle.traversal import latent_traversals, traversals

SHAPE, K = (3, 16, 16), 4


class Linear(AutoencodingDisentangler):
    """Latents and pixels are linear in each other, and pixels stay inside [0, 1]."""

    principal_subspace = None
    n_subspaces = 3

    def __init__(self):
        super().__init__(1e-3, 0.0, "adamw", "constant")
        generator = torch.Generator().manual_seed(0)
        self.down = torch.rand(4, 3, dtype=torch.float64, generator=generator)
        self.up = 0.02 * torch.rand(3, 4, dtype=torch.float64, generator=generator)

    def encode(self, images):
        return (images.flatten(1) @ self.down)[..., None]

    def decode(self, codes):
        return (0.5 + codes[..., 0] @ self.up).view(-1, 1, 2, 2)


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


def test_chosen_subspaces_are_rows_of_the_whole():
    torch.manual_seed(0)
    model = ProductManifoldAutoencoder(SHAPE, dim=5, n_subspaces=K).eval()
    pair = torch.rand(2, *SHAPE)
    torch.testing.assert_close(traversals(model, pair, [3, 1]), traversals(model, pair)[[3, 1]])


def test_latents_move_two_deviations_about_their_mean():
    model = Linear().eval()
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(1, 2, 2, dtype=torch.float64, generator=generator)
    codes = torch.randn(50, 3, 1, generator=generator) * torch.tensor([[2.0], [0.0], [0.3]]) + 1.5
    grid = latent_traversals(model, image, codes, [2, 0, 1])
    assert grid.shape == (3, 11, 1, 2, 2)

    own = [sum(image.flatten()[p] * model.down[p, k] for p in range(4)) for k in range(3)]

    def painted(latents):
        pixels = [0.5 + sum(latents[k] * model.up[k, p] for k in range(3)) for p in range(4)]
        return torch.stack(pixels).view(1, 2, 2)

    for row, latent in zip(grid, (2, 0, 1), strict=True):
        values = codes[:, latent, 0].double()
        mean = values.sum() / 50
        deviation = ((values - mean) ** 2).sum().div(50).sqrt()
        torch.testing.assert_close(row[0], image)
        torch.testing.assert_close(row[1], painted(own), rtol=1e-9, atol=0)
        for step in range(9):
            moved = list(own)
            moved[latent] = mean + (step / 2 - 2) * deviation
            torch.testing.assert_close(row[2 + step], painted(moved), rtol=1e-9, atol=0)
    torch.testing.assert_close(grid[2, 2], grid[2, 10])  # it never varies


@pytest.mark.parametrize("shape", [(5, 3, 2), (5, 4, 1)])
def test_latents_are_of_the_model_and_of_one_dimension(shape):
    message = rf"of shape \(3, 1\), those given have \({shape[1]}, {shape[2]}\)"
    with pytest.raises(ValueError, match=message):
        latent_traversals(Linear().eval(), torch.rand(1, 2, 2).double(), torch.zeros(shape), [0])
