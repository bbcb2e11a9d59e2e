"""Your own images, in a folder per class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detaux_pl.artifacts.codes import SPLITS
from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.image_files import (
    FileIndex,
    ImageFiles,
    find_images,
    is_hidden,
    leads_back,
    name_some,
)
from detaux_pl.data.splits import SPLIT_NAMES, draw_missing

_TRAIN = SPLITS.index("train")


class ImageFolder(ImageFiles):
    """Images below `root/<class>`, or below `root/train/<class>` and its like.

    Splits are folders named `train`, `val` (also `valid` or `validation`) and `test`; those that
    are missing, or all, are drawn from the training images, stratified by class. Classes are
    numbered in the order of their names; images may lie in folders below them. Hidden files and
    folders, and files that are no images by their name, are left out and listed in `ignored`.

    Args:
        root: The folder.
        principal: What the classes are called in results and messages.

    Raises:
        ValueError: If an argument is outside its range.
    """

    def __init__(
        self,
        root: Path | str,
        principal: str = "label",
        image_size: int = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(principal, image_size, **kwargs)
        self.root = Path(root)

    @property
    def place(self) -> Path:
        """The folder."""
        return self.root

    def read_index(self) -> FileIndex:
        """List the images of all classes.

        Raises:
            UserError: If the folder is missing or laid out in another way, or a class has no
                training image.
        """
        names, self.ignored = find_images(self.root, "give a folder with a folder per class.")
        parts = [name.split("/") for name in names]
        folders = self._find_splits(parts)
        depth = 1 if folders else 0
        stray = [name for name, part in zip(names, parts, strict=True) if len(part) < depth + 2]
        if stray:
            raise UserError(
                f"{len(stray)} images of {self.root} are in no class folder: {name_some(stray)}: "
                f"move them to {'train/' * depth}<class>/."
            )
        holders = [self.root / name for name in folders] if folders else [self.root]
        classes = sorted({name for holder in holders for name in _subfolders(holder)})
        number = {name: label for label, name in enumerate(classes)}
        labels = np.array([number[part[depth]] for part in parts], dtype=np.int64)
        splits = np.array([folders.get(part[0], _TRAIN) for part in parts], dtype=np.int8)
        counts = np.bincount(labels[splits == _TRAIN], minlength=len(classes))
        empty = [name for name, count in zip(classes, counts, strict=True) if not count]
        if empty:
            raise UserError(
                f"{self.root} has no {'training ' * depth}image of {len(empty)} of its "
                f"{len(classes)} classes: {name_some(empty)}: add some, or delete these folders."
            )
        draw_missing(splits, labels, self.val_share, self.test_share, self.seed)
        return FileIndex(
            paths=[self.root / name for name in names],
            ids=np.array(names, dtype=np.str_),
            splits=splits,
            factors=labels[:, None],
            names=(self.principal,),
            sizes=(len(classes),),
            value_names={self.principal: tuple(classes)},
        )

    def _find_splits(self, parts: Sequence[Sequence[str]]) -> dict[str, int]:
        """Return the split of each folder of the root; nothing where they are classes."""
        folders = _subfolders(self.root)
        splits = {
            name: SPLIT_NAMES[name.lower()] for name in folders if name.lower() in SPLIT_NAMES
        }
        others = [name for name in folders if name not in splits]
        if others and list(splits.values()) == [_TRAIN]:
            holds_images = any(len(part) == 2 and part[0] in splits for part in parts)
            if holds_images:  # it is a class: of vehicles, say
                return {}
        if splits and others:
            raise UserError(
                f"{self.root} has the folders {', '.join(splits)}, as of splits, but also "
                f"{name_some(others)}: give a folder per class, or train, val and test with a "
                "folder per class in each."
            )
        if splits and _TRAIN not in splits.values():
            raise UserError(
                f"{self.root} has the folders {', '.join(splits)} but no folder train: move the "
                "training images there."
            )
        return splits


def _subfolders(folder: Path) -> list[str]:
    return sorted(
        child.name
        for child in folder.iterdir()
        if child.is_dir() and not is_hidden(child.name) and not leads_back(folder, Path(child.name))
    )
