"""Your own images, in a folder per class."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detaux_pl.artifacts.codes import SPLITS, UNLABELLED
from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.files import as_path
from detaux_pl.data.image_files import (
    FileIndex,
    ImageFiles,
    find_images,
    is_hidden,
    leads_back,
    name_some,
)
from detaux_pl.data.splits import SPLIT_NAMES, LeftOut

_TRAIN, _UNLABELLED = SPLITS.index("train"), SPLITS.index(UNLABELLED)


class ImageFolder(ImageFiles):
    r"""Images below `root/<class>`, or below `root/train/<class>` and its like.

    Splits are folders named `train`, `val` (also `valid` or `validation`) and `test`; those that
    are missing, or all, are drawn from the training images, stratified by class. Classes are
    numbered in the order of their names; images may lie in folders below them. Hidden files and
    folders, and files that are no images by their name, are left out and listed in `ignored`.

    Args:
        root: The folder.
        principal: What the classes are called in results and messages.
        leave_out: Folders of splits that are left aside, such as `[test]` where its images have no
            labels; None for no split.
        unlabelled: Folder of images without labels, however deep they lie in it, which clusters
            are found among too: one below the root, such as `unlabelled`, or any other; None for
            none. Their ids begin with `unlabelled/`.
        split_by: Regular expression that finds in the path below the root what an image is of, a
            person, track or object, of which no value is in two splits: that of its first group,
            or all that it matches, such as `person\d+`. Images without a label and of a value that
            is held out are left aside. None to draw each image by itself.

    Raises:
        ValueError: If an argument is outside its range.
    """

    def __init__(
        self,
        root: Path | str,
        principal: str = "label",
        image_size: int = 64,
        leave_out: Sequence[str] | None = None,
        unlabelled: Path | str | None = None,
        split_by: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(principal, image_size, **kwargs)
        if split_by is not None:
            try:
                re.compile(split_by)
            except re.error as error:
                raise ValueError(
                    f"split_by is {split_by!r}, which is no regular expression ({error}): give "
                    r"one that finds what an image is of in its path, such as person\d+."
                ) from None
        self.split_by = split_by
        self.leave_out = LeftOut(leave_out)
        self.unlabelled = as_path(unlabelled)
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
        if self.leave_out:
            held = _subfolders(self.root)
            self.leave_out.check(held, str(self.root))
            self.ignored += [self.root / name for name in held if name in self.leave_out]
            names = [name for name in names if name.split("/")[0] not in self.leave_out]
        names, self._apart, more = self._set_apart(names)
        parts = [name.split("/") for name in names]
        folders = self._find_splits(parts)
        depth = 1 if folders else 0
        stray = [name for name, part in zip(names, parts, strict=True) if len(part) < depth + 2]
        if stray:
            raise self._in_no_class(stray, folders)
        holders = [self.root / name for name in folders] if folders else [self.root]
        classes = sorted({name for holder in holders for name in self._subfolders(holder)})
        if len(classes) == 1:
            self._refuse_another_floor(holders[0] / classes[0], bool(folders))
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
        paths = [self.root / name for name in names] + list(more.values())
        ids = np.array([*names, *more], dtype=np.str_)
        order = np.argsort(ids, kind="stable")  # as it is, where all have labels
        splits = np.append(splits, np.full(len(more), _UNLABELLED, dtype=np.int8))[order]
        labels = np.append(labels, np.full(len(more), -1))[order]
        groups = None
        if self.split_by is not None:
            groups = self._read_groups(ids[order], labels, self.split_by)
        kept = self.draw_splits(splits, labels, groups, repr(self.split_by))
        order, splits, labels = order[kept], splits[kept], labels[kept]
        return FileIndex(
            paths=[paths[row] for row in order.tolist()],
            ids=ids[order],
            splits=splits,
            factors=labels[:, None],
            names=(self.principal,),
            sizes=(len(classes),),
            value_names={self.principal: tuple(classes)},
        )

    def _read_groups(
        self, ids: NDArray[np.str_], labels: NDArray[np.int64], pattern: str
    ) -> NDArray[np.int64]:
        """Number what the images are of by their paths; -1 where it is unknown."""
        found = [re.search(pattern, name) for name in ids.tolist()]
        values = [match and (match[1] if match.re.groups else match[0]) for match in found]
        lost = [
            str(name)
            for name, value, label in zip(ids, values, labels, strict=True)
            if value is None and label >= 0
        ]
        if lost:
            raise UserError(
                f"split_by is {pattern!r}, which is not found in {len(lost):,} of {len(ids):,} "
                f"paths below {self.root}: {name_some(lost)}: mend the regular expression."
            )
        number = {value: k for k, value in enumerate(sorted({v for v in values if v is not None}))}
        return np.array([-1 if v is None else number[v] for v in values], dtype=np.int64)

    def _set_apart(self, names: list[str]) -> tuple[list[str], Path | None, dict[str, Path]]:
        """Find the images without a label.

        Args:
            names: Paths of images below the root.

        Returns:
            The paths of the others; the folder, where it is one of the root; and the files of
            those without a label by their ids.

        Raises:
            UserError: If there is no such folder, no image in it, or it holds the root.
        """
        if self.unlabelled is None:
            return names, None, {}
        folder = self.root / self.unlabelled
        if not folder.is_dir():
            folder = self.unlabelled
        hint = f"unlabelled is a folder of images without labels, below {self.root} or elsewhere."
        found, ignored = find_images(folder, hint)
        place, root = (Path(os.path.abspath(each)) for each in (folder, self.root))
        if self.root.resolve().is_relative_to(folder.resolve()):
            raise UserError(
                f"unlabelled is {folder}, which holds the root {self.root}: give a folder that "
                "holds the images without labels alone."
            )
        apart = self.root / place.relative_to(root) if place.is_relative_to(root) else None
        if apart is not None:
            prefix = f"{apart.relative_to(self.root).as_posix()}/"
            names = [name for name in names if not name.startswith(prefix)]
        if not names:
            raise UserError(
                f"{self.root} holds no image with a label beside those of {folder}: give a folder "
                "with a folder per class."
            )
        if taken := [name for name in names if name.startswith(f"{UNLABELLED}/")]:
            raise UserError(
                f"{self.root} has a folder {UNLABELLED} ({name_some(taken)}), but {folder} is "
                "given as unlabelled: rename one, or move their images together."
            )
        self.ignored = sorted({*self.ignored, *ignored})
        return names, apart, {f"{UNLABELLED}/{name}": folder / name for name in found}

    def _subfolders(self, folder: Path) -> list[str]:
        return [name for name in _subfolders(folder) if folder / name != self._apart]

    def _in_no_class(self, stray: Sequence[str], folders: Mapping[str, int]) -> UserError:
        """Say what to do with images that are in no class folder."""
        for name, split in folders.items():
            own = [each for each in stray if each.startswith(f"{name}/")]
            if split != _TRAIN and own:
                return UserError(
                    f"{len(own)} images of {self.root / name} are in no class folder, so that they "
                    f"have no labels: {name_some(own)}: move them to {name}/<class>/, or leave the "
                    f"split out with leave_out: [{name}]. With "
                    f"unlabelled: {name} clusters are found among them, too."
                )
        alone = not folders and not self._subfolders(self.root)
        parent = f", or give {self.root.absolute().parent} if {self.root.name} is a class" * alone
        apart = " Without labels, they go to a folder that is given as unlabelled."
        return UserError(
            f"{len(stray)} images of {self.root} are in no class folder: {name_some(stray)}: "
            f"move them to {'train/' if folders else ''}<class>/{parent}.{apart}"
        )

    def _refuse_another_floor(self, only: Path, in_split: bool) -> None:
        """Refuse a single class that holds what look like the classes, or the splits."""
        place = only
        while len(below := _subfolders(place)) == 1 and below[0].lower() not in SPLIT_NAMES:
            place /= below[0]
        if len(below) < 2 and not any(name.lower() in SPLIT_NAMES for name in below):
            return
        todo = (
            f"move them up to {only.parent}"
            if in_split
            else f"give {place} as the root, if these are the classes or the splits"
        )
        raise UserError(
            f"{only.parent} has one folder only, {only.name}, but {place} has {len(below)}: "
            f"{name_some(below)}: {todo}; one class is not enough."
        )

    def _find_splits(self, parts: Sequence[Sequence[str]]) -> dict[str, int]:
        """Return the split of each folder of the root; nothing where they are classes."""
        folders = [name for name in self._subfolders(self.root) if name not in self.leave_out]
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
                "folder per class in each. A folder without labels is given as unlabelled."
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
