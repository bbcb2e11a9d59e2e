"""What a training does beside its loss and its optimizer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Recipe:
    """What networks are mostly trained with on photographs; nothing of it by default.

    Args:
        mixup: Each training image becomes `s x + (1 - s) x'` of two, with one share s of a batch
            from Beta(mixup, mixup), and so do the targets of all tasks; 0 for none. Paper: 0.2
            for ImageNet, 1 for CIFAR.
        cutmix: A rectangle of 1 - s of each training image is that of another one, s likewise
            from Beta(cutmix, cutmix); 0 for none. Paper: 1. Where both are given, each batch
            draws which.
        smoothing: Share of each target that goes to all classes alike, in [0, 1). Paper: 0.1.
        ema: Decay of the moving average of the weights, which is what is evaluated and kept, in
            [0, 1); see `AverageWeights`. 0 for the weights of the last step.
        warmup: Share of the training in which the learning rate rises to `lr`, in [0, 1), before
            the schedule.
        balance: Train on each class of the principal task as often as on the others.

    Raises:
        ValueError: If a number is outside its range.

    Example:
        >>> black_and_white = torch.arange(2.0).view(2, 1, 1, 1).expand(2, 3, 8, 8)
        >>> mixed, share = Recipe(mixup=1.0).mix(black_and_white)
        >>> torch.testing.assert_close(mixed[:, 0, 0, 0], torch.tensor([1 - share, share]))

    References:
        Zhang et al. 2018, arXiv 1710.09412 (mixup). Yun et al. 2019, arXiv 1905.04899 (CutMix).
        Szegedy et al. 2016, arXiv 1512.00567, section 7 (smoothing). docs/methods.md, 'Recipes'.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    smoothing: float = 0.0
    ema: float = 0.0
    warmup: float = 0.0
    balance: bool = False

    def __post_init__(self) -> None:
        for name in ("mixup", "cutmix"):
            if not 0 <= (value := getattr(self, name)) <= 100:
                raise ValueError(f"{name} is {value}: give 0 for none, or up to 100.")
        for name in ("smoothing", "ema", "warmup"):
            if not 0 <= (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} is {value}: give a share in [0, 1).")

    @property
    def mixes(self) -> bool:
        """Whether training images are mixed."""
        return self.mixup > 0 or self.cutmix > 0

    def mix(self, images: Tensor) -> tuple[Tensor, float]:
        """Mix each image of a batch with the one before it, the first one with the last.

        Draws from torch's global generator of the CPU.

        Args:
            images: Shape (B, C, H, W).

        Returns:
            The mixed images, and the share that each has of itself.
        """
        from torchvision.transforms import v2  # its import takes a second

        n = len(images)
        if n < 2:  # what would be mixed with itself
            return images, 1.0
        kinds = [(v2.MixUp, self.mixup), (v2.CutMix, self.cutmix)]
        chosen = [kind(alpha=alpha, num_classes=n) for kind, alpha in kinds if alpha > 0]
        mixed, shares = v2.RandomChoice(chosen)(images, torch.arange(n))
        # As the labels are the numbers of the images, they say what each is made of.
        return mixed, float(shares[0, 0])
