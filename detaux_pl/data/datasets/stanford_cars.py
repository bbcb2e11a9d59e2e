"""Stanford Cars."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from scipy.io.matlab import MatReadError
from torchvision import datasets

from detaux_pl.artifacts.codes import SPLITS
from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.image_files import FileIndex, ImageFiles
from detaux_pl.data.read_image import Fit
from detaux_pl.data.splits import hold_out

_PARTS = (
    "devkit/cars_meta.mat",
    "devkit/cars_train_annos.mat",
    "cars_test_annos_withlabels.mat",
    "cars_train",
    "cars_test",
)


class StanfordCars(ImageFiles):
    """16,185 photographs of 196 models of cars, 8,144 of them for training.

    Args:
        root: Folder that holds `stanford_cars`, laid out as torchvision expects it: `devkit`,
            `cars_train`, `cars_test` and `cars_test_annos_withlabels.mat`.
        image_size: Height and width of the images. Paper: 224.
        val_share: Share of the training images of each model that is held out for validation,
            in [0, 1).
        download: Let torchvision fetch what is missing; it says that its source is gone.

    Raises:
        ValueError: If an argument is outside its range.

    References:
        Krause, Stark, Deng and Fei-Fei 2013, "3D Object Representations for Fine-Grained
        Categorization".
    """

    published = True
    factor_names = ("model",)

    def __init__(
        self,
        root: Path | str,
        image_size: int = 224,
        val_share: float = 0.1,
        seed: int = 0,
        download: bool = False,
        fit: Fit = "stretch",
        cache_dir: Path | str | None = None,
    ) -> None:
        super().__init__(
            "model", image_size, 3, fit, val_share, test_share=0.0, seed=seed, cache_dir=cache_dir
        )
        self.root = Path(root)
        self.download = download

    @property
    def place(self) -> Path:
        """The folder that torchvision is given."""
        return self.root

    def read_index(self) -> FileIndex:
        """Read the annotations of both splits.

        Raises:
            UserError: If a file is missing or damaged.
        """
        samples: list[tuple[str, int, int]] = []
        for name in ("train", "test"):
            source = self._open(name)
            # Its items are decoded images; a `loader` that leaves them be came with 0.22 only.
            samples += [(path, label, SPLITS.index(name)) for path, label in source._samples]
        models = tuple(source.classes)
        base = self.root / "stanford_cars"
        rows = sorted(
            (Path(path).relative_to(base).as_posix(), int(label), split)
            for path, label, split in samples
        )
        labels = np.array([label for _, label, _ in rows], dtype=np.int64)
        if not ((labels >= 0) & (labels < len(models))).all():
            raise UserError(
                f"the annotations in {base} name models that devkit/cars_meta.mat, which has "
                f"{len(models)}, does not: give files of the same release."
            )
        splits = np.array([split for _, _, split in rows], dtype=np.int8)
        hold_out(splits, labels, "val", self.val_share, np.random.default_rng(self.seed))
        return FileIndex(
            paths=[base / name for name, _, _ in rows],
            ids=np.array([name for name, _, _ in rows], dtype=np.str_),
            splits=splits,
            factors=labels[:, None],
            names=self.factor_names,
            sizes=(len(models),),
            value_names={"model": models},
        )

    def _open(self, split: Literal["train", "test"]) -> datasets.StanfordCars:
        base = self.root / "stanford_cars"
        missing = [part for part in _PARTS if not (base / part).exists()]
        if missing and not self.download:
            raise self._misfit(f"{', '.join(missing)} {_is_missing(missing)}")
        try:
            # Asked to download, torchvision fails even where nothing is missing.
            return datasets.StanfordCars(self.root, split, download=bool(missing))
        except (OSError, RuntimeError, ValueError, KeyError, TypeError, MatReadError) as error:
            if missing:
                what = (
                    f"{', '.join(missing)} {_is_missing(missing)}, and torchvision cannot download "
                    f"({' '.join(str(error).split())})"
                )
            else:
                what = f"the annotations cannot be read ({error})"
            raise self._misfit(what) from None

    def _misfit(self, what: str) -> UserError:
        return UserError(
            f"StanfordCars cannot be read from {self.root / 'stanford_cars'}: {what}. Their site "
            f"is gone: get a copy elsewhere and put {', '.join(_PARTS)} there."
        )


def _is_missing(parts: list[str]) -> str:
    return "is missing" if len(parts) == 1 else "are missing"
