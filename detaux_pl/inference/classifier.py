"""A classifier: trained networks that answer together, and what their answers are called."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.preprocessing import Preprocessing
from detaux_pl.inference.card import Card
from detaux_pl.inference.fused import fused

ImageLike = str | Path | Image.Image | NDArray[np.uint8]
"""An image: a file, one that Pillow has opened, or uint8 of shape (H, W) or (H, W, C)."""


class Guess(NamedTuple):
    """A class with its probability."""

    name: str
    probability: float


@dataclass(frozen=True)
class Answers:
    """What a classifier says of N images, in their order.

    Args:
        tasks: Names of the classes of each task, the principal one first.
        probabilities: By task, float32, shape (N, classes).
    """

    tasks: Mapping[str, tuple[str, ...]]
    probabilities: Mapping[str, NDArray[np.float32]]

    @property
    def names(self) -> list[str]:
        """The class of each image."""
        return [guesses[0].name for guesses in self.top(1)]

    @property
    def groups(self) -> list[str]:
        """The group of each image in the first auxiliary task.

        Raises:
            UserError: If the networks have no auxiliary task.
        """
        if len(self.tasks) < 2:
            raise UserError(
                "the classifier knows no groups: its networks were trained on the principal task "
                "alone. Take an arm with a discovered task."
            )
        return [guesses[0].name for guesses in self.top(1, list(self.tasks)[1])]

    def top(self, k: int, task: str | None = None) -> list[list[Guess]]:
        """Return the k likeliest classes of each image, the likeliest first.

        Args:
            k: How many, at most as many as there are classes.
            task: The task; None for the principal one.
        """
        task = next(iter(self.tasks)) if task is None else task
        values, names = self.probabilities[task], self.tasks[task]
        order = np.argsort(-values, axis=1, kind="stable")[:, :k]
        return [
            [Guess(names[c], float(row[c])) for c in chosen]
            for row, chosen in zip(values, order.tolist(), strict=True)
        ]

    def __len__(self) -> int:
        return len(next(iter(self.probabilities.values())))


class Ensemble(nn.Module):
    """Networks whose probabilities are averaged and then scaled by a temperature for each task.

    Args:
        members: Networks that map images to the logits of each task.
        temperatures: One per task.
    """

    def __init__(self, members: Sequence[nn.Module], temperatures: Sequence[float]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.temperatures = tuple(temperatures)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the probabilities of each task, shape (B, classes).

        Args:
            images: Float images in [0, 1], shape (B, C, H, W).
        """
        answers = [member(images) for member in self.members]
        tasks = zip(*answers, strict=True)
        scaled = []
        for logits, temperature in zip(tasks, self.temperatures, strict=True):
            # In logarithms, where no small probability becomes 0.
            each = torch.stack([torch.log_softmax(z.float(), dim=1) for z in logits])
            mean = torch.logsumexp(each, dim=0)
            scaled.append(torch.softmax(mean / temperature, dim=1))
        return tuple(scaled)


class Classifier:
    """Trained networks, asked about any image.

    Args:
        members: Networks that map images to the logits of each task, in evaluation mode.
        card: What the classes are called and what becomes of an image first; its temperatures are
            those of the networks together.
        device: Where they compute, as torch calls it.
    """

    def __init__(
        self, members: Sequence[nn.Module], card: Card, device: str | torch.device = "cpu"
    ) -> None:
        self.card = card
        temperatures = [card.temperatures[task] for task in card.tasks]
        # Convolutions on a CPU take down to half the time with the channels last.
        together = Ensemble(members, temperatures).to(memory_format=torch.channels_last)
        self.net = together.eval()
        self.to(device)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes of the principal task."""
        return next(iter(self.card.tasks.values()))

    @property
    def preprocessing(self) -> Preprocessing:
        """From an image to what the networks see."""
        return self.card.preprocessing

    def to(self, device: str | torch.device) -> Self:
        """Move the networks to another device."""
        self.device = torch.device(device)
        self.net.to(self.device)
        self._fast = fused(self.net)
        return self

    def predict(self, images: Iterable[ImageLike] | ImageLike, batch_size: int = 64) -> Answers:
        """Classify images.

        Args:
            images: Files, images that Pillow has opened, or uint8 arrays of shape (H, W) or
                (H, W, C); several, as one array of shape (N, H, W, C) too, or one.
            batch_size: Images that the networks see at a time.

        Raises:
            UserError: If an image cannot be read.
        """
        read = map(self._read, _several(images))
        pieces = [self.ask(np.stack(piece)) for piece in _pieces(read, batch_size)]
        if not pieces:
            pieces = [self.ask(np.zeros((0, *self.preprocessing.shape), dtype=np.uint8))]
        return Answers(
            self.card.tasks,
            {task: np.concatenate([piece[task] for piece in pieces]) for task in self.card.tasks},
        )

    @torch.inference_mode()
    def ask(self, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Return the probabilities of each task, shape (B, classes).

        Args:
            pixels: Images as `preprocessing.read` gives them, uint8, shape (B, C, H, W).
        """
        images = self.preprocessing.finish(torch.from_numpy(pixels).to(self.device))
        found = self._fast(images.contiguous(memory_format=torch.channels_last))
        return {
            task: values.cpu().numpy() for task, values in zip(self.card.tasks, found, strict=True)
        }

    def _read(self, image: ImageLike) -> NDArray[np.uint8]:
        try:
            if isinstance(image, np.ndarray):
                return self.preprocessing.read_array(image)
            if isinstance(image, Image.Image):
                # Pillow's own is decoded in place, and a converted one leaves it as it was.
                return self.preprocessing.read(image.copy())
            return self.preprocessing.read(Path(image))
        except ValueError as error:
            name = image if isinstance(image, str | Path) else "an image"
            raise UserError(f"{name} cannot be read: {error}.") from error


def _several(images: Iterable[ImageLike] | ImageLike) -> Iterable[ImageLike]:
    """Return images one by one, of one alone too."""
    alone = isinstance(images, str | Path | Image.Image)
    if alone or (isinstance(images, np.ndarray) and images.ndim < 4):
        return [images]  # type: ignore[list-item]
    return images  # type: ignore[return-value]


def _pieces(items: Iterator[NDArray[np.uint8]], size: int) -> Iterator[list[NDArray[np.uint8]]]:
    while piece := list(islice(items, size)):
        yield piece
