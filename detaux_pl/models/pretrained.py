"""Networks with pretrained weights that stay as they are."""

from __future__ import annotations

import json
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from detaux_pl.models.backbone import standardize_for
from detaux_pl.models.dry_run import dry_run
from detaux_pl.models.resize import Resize
from detaux_pl.models.timm_model import build_timm_model, check_timm_name, refuse_images


class PretrainedNet(nn.Module):
    """A frozen model of timm without its classifier: from images to feature vectors.

    Images are brought to what the weights were trained on: their size, by their interpolation (as
    Pillow has it, but for rounding; another aspect ratio is stretched), then their mean and
    deviation. Grey images become three equal channels. The network is in evaluation mode always,
    has no gradients, and computes in half precision on a GPU.

    Args:
        model: `timm/<model>` or `timm/<model>.<tag>`: any of `timm.list_models()`, with the tag
            of its weights or with those that timm recommends.
        image_shape: Channels (1 or 3), height and width of the images.
        weights: A file with the weights, see `load_weights`; None for those of the tag, which are
            downloaded once.
        size: Height and width that the network sees [pixels]; None for those of its weights.
        pretrained: Whether weights that `weights` does not give are the pretrained ones; else they
            are random.

    Raises:
        ValueError: If there is no such model or weights, the file is not of the model, or it does
            not take such images or gives no vectors of them.

    Example:
        >>> net = PretrainedNet("timm/test_vit.r160_in1k", (1, 48, 64), size=96, pretrained=False)
        >>> net(torch.zeros(2, 1, 48, 64)).shape, net.n_features
        (torch.Size([2, 64]), 64)
    """

    def __init__(
        self,
        model: str,
        image_shape: tuple[int, int, int],
        weights: Path | str | None = None,
        size: int | None = None,
        pretrained: bool = True,
    ) -> None:
        super().__init__()
        given, name = f"model is {model!r}", model.removeprefix("timm/")
        if name == model:
            raise ValueError(f"{given}: give timm/<model>, such as timm/resnet18.")
        check_timm_name(given, name)
        from timm.models import get_pretrained_cfg  # its import takes seconds

        if image_shape[0] not in (1, 3):
            raise ValueError(
                f"the images have {image_shape[0]} channels, but pretrained weights are for "
                "colours: give images of 3 channels, or of 1."
            )
        if size is not None and size < 1:
            raise ValueError(f"size is {size}: give at least 1 pixel, or null.")
        # Registered names have one, which `timm.data.resolve_data_config` would take as it is.
        trained_on = get_pretrained_cfg(name)
        assert trained_on is not None
        self.model = model
        self.size = trained_on.input_size[1:] if size is None else (size, size)
        self.interpolation = trained_on.interpolation
        seen = (3, *self.size)
        path = None if weights is None else Path(weights)
        self.net = build_timm_model(
            given, name, seen, pretrained, path, "give weights, a file of them", num_classes=0
        )
        with refuse_images(name, seen):
            features = dry_run(self.net, seen)
        if not isinstance(features, Tensor) or features.ndim != 2:
            what = tuple(features.shape) if isinstance(features, Tensor) else type(features)
            raise ValueError(
                f"{given}, which gives no vector of an image but {what}: choose another model."
            )
        self.n_features = features.shape[1]
        # Convolutions follow the layout of their weights; on a CPU they take 2/3 of the time.
        self.net.to(memory_format=torch.channels_last)
        self.standardize = standardize_for(self.net, 3)
        self.resize = Resize(image_shape[1:], self.size, self.interpolation)
        self.register_load_state_dict_post_hook(_forget_digest)  # type: ignore[no-untyped-call]
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever is asked for."""
        del mode
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the features, float32, shape (B, F), of images in [0, 1], shape (B, C, H, W)."""
        if not images.is_cuda:
            return self._compute(images)
        # The wider range of bfloat16 holds what overflows in some transformers.
        half = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        with torch.autocast("cuda", dtype=half):
            return self._compute(images)

    def _compute(self, images: Tensor) -> Tensor:
        images = images.to(self.standardize.mean.dtype)  # a trainer may want 64 bits
        if images.shape[1] == 1:
            images = images.expand(-1, 3, -1, -1)
        features: Tensor = self.net(self.standardize(self.resize(images)))
        return features.to(torch.float32)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the weights and of what is done to images before them, in hexadecimal.

        Networks of the same digest give the same features of the same images.
        """
        seen: dict[str, Any] = {"model": self.model, "size": self.size}
        seen |= {"interpolation": self.interpolation}
        seen |= {name: getattr(self.standardize, name).flatten().tolist() for name in _MOMENTS}
        whole = sha256(json.dumps(seen, sort_keys=True).encode())
        for name, value in self.net.state_dict().items():
            whole.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            flat = value.detach().cpu().contiguous().flatten()
            whole.update(flat.view(torch.uint8).numpy().data)
        return whole.hexdigest()


_MOMENTS = ("mean", "std")


def _forget_digest(net: nn.Module, incompatible: Any) -> None:
    """Other weights have another digest."""
    net.__dict__.pop("digest", None)
