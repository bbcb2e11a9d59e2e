"""Images of any size brought to one, inside a graph that is exported."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detaux_pl.data.read_image import Fit


class FitImages(nn.Module):
    """Bring images to a height and a width as `read_image` does, by tensor operations alone.

    Pillow's bilinear resizing with antialiasing is a matrix of weights for each axis: new pixel i
    has its centre at `c = start + (i + 1/2) * scale`, and old pixel x counts by the triangle
    `max(0, 1 - |x + 1/2 - c| / max(scale, 1))`, over the sum of these. What is cropped or padded
    moves the centres. The matrices are made from the size of the images that come, so that an
    exported graph takes any. The width is resized before the height, each to whole levels, as in
    Pillow before 13, which begins with the height of tall images: few pixels differ from it by
    more than one level, none by more than two, and images of the wanted size come out as they are.

    Args:
        size: Height and width.
        fit: What becomes of another aspect ratio: `crop`, `stretch` or `pad`.

    Example:
        >>> FitImages((2, 2))(torch.tensor([[[[0], [10], [20], [30]]] * 2], dtype=torch.uint8))
        tensor([[[[10, 20],
                  [10, 20]]]], dtype=torch.uint8)
    """

    def __init__(self, size: tuple[int, int], fit: Fit = "crop") -> None:
        super().__init__()
        self.size = size
        self.fit = fit

    def forward(self, images: Tensor) -> Tensor:
        """Return the images in the wanted size, uint8, shape (B, C, height, width).

        Args:
            images: uint8, shape (B, H, W, C), as Pillow and NumPy have them.
        """
        _, n_rows, n_columns, _ = images.shape
        # As tensors: a number that is computed with in Python is that of the example for ever.
        height, width = (
            torch.scalar_tensor(n, dtype=torch.float32, device=images.device)
            for n in (n_rows, n_columns)
        )
        to_height, to_width = self.size
        rows = self._weights(n_rows, height, to_height, width * to_height / to_width)
        columns = self._weights(n_columns, width, to_width, height * to_width / to_height)
        if self.fit == "pad":
            rows = self._padded(n_rows, height, to_height, height * to_width / width)
            columns = self._padded(n_columns, width, to_width, width * to_height / height)
        across = _to_levels(images.permute(0, 3, 1, 2).to(torch.float32) @ columns.T)
        return _to_levels(rows @ across).to(torch.uint8)

    def _weights(self, n: int, length: Tensor, wanted: int, other: Tensor) -> Tensor:
        """Weights of an axis that is cropped or stretched, shape (wanted, n).

        Args:
            n: Number of pixels.
            length: The same as a tensor.
            wanted: Number of new pixels.
            other: How long the axis would be, had the image the wanted aspect ratio and the other
                axis its own length.
        """
        kept = torch.minimum(length, other) if self.fit == "crop" else length
        places = torch.arange(wanted, dtype=torch.float32, device=length.device)
        return _triangles(n, (length - kept) / 2, kept / wanted, places)

    def _padded(self, n: int, length: Tensor, wanted: int, fitting: Tensor) -> Tensor:
        """Weights of an axis that may be padded, shape (wanted, n).

        Args:
            n: Number of pixels.
            length: The same as a tensor.
            wanted: Number of new pixels.
            fitting: How many of these the image has, its other axis as long as wanted.
        """
        count = torch.round(fitting).clamp(max=wanted)  # half to even, as Python's
        first = torch.round((wanted - count) / 2)
        places = torch.arange(wanted, dtype=torch.float32, device=length.device) - first
        inside = (places >= 0) & (places < count)
        start = torch.zeros_like(length)
        weights = _triangles(n, start, length / count.clamp(min=1), places)
        return weights * inside.to(torch.float32)[:, None]


def _triangles(n: int, start: Tensor, scale: Tensor, places: Tensor) -> Tensor:
    """Weights of n old pixels for new ones at some places, shape (places, n)."""
    old = torch.arange(n, dtype=torch.float32, device=places.device) + 0.5
    centres = start + (places + 0.5) * scale
    distance = (old[None, :] - centres[:, None]).abs() / scale.clamp(min=1)
    weights = torch.relu(1 - distance)
    # Places of the padding may be far from every pixel.
    return weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-6)


def _to_levels(values: Tensor) -> Tensor:
    """Round to whole levels, half up as Pillow does."""
    return torch.floor(values + 0.5)
