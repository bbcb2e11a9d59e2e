"""FACES: photographs of facial expressions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from detaux_pl.artifacts.codes import SPLITS
from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.image_files import FileIndex, ImageFiles, find_images, name_some
from detaux_pl.data.splits import draw_missing

_NAME = re.compile(
    r"(?P<person>\d+)_(?P<age>[ymo])_(?P<gender>[fm])_(?P<expression>[adfhns])_(?P<set>[ab])",
    re.IGNORECASE,
)
_VALUES = {
    "expression": ("anger", "disgust", "fear", "happiness", "neutrality", "sadness"),
    "age": ("young", "middle-aged", "old"),
    "gender": ("female", "male"),
    "set": ("a", "b"),
}
"""A name has the first letter of each."""
_TRAIN, _TEST = SPLITS.index("train"), SPLITS.index("test")
_FOLDERS = {"train": _TRAIN, "val": _TEST, "test": _TEST}
"""The official split is train and val, and what it calls val is never chosen by: it is a test."""


class FACES(ImageFiles):
    """2,052 photographs: 171 persons, six expressions, twice each.

    A file is named `id_age_gender_expression_set.jpg`, `004_o_m_a_a.jpg` for instance, and may
    lie anywhere below the root. Where the root has a folder `train`, its folders `val` and `test`
    are the test split; otherwise that is drawn, which leaves 1,644 images to train and val. The
    validation split is always drawn of the training images.

    Args:
        root: Folder of the images.
        principal: `expression`, `age`, `gender`, `set` or `person`. Paper: `expression`.
        image_size: Height and width of the images, whose longer side is cut. Paper: 224 for the
            multi-task network.
        split: `random` draws images, stratified by expression; `persons` draws persons,
            stratified by age and gender, so that no face is in two splits.
        val_share: Share of the training images (persons) held out for validation, in [0, 1).
        test_share: Share of all images (persons) held out for the test, in [0, 1), where no
            folder holds them. Paper: 0.2.

    Raises:
        ValueError: If an argument is outside its range.

    References:
        Ebner, Riediger and Lindenberger 2010, "FACES: a database of facial expressions in young,
        middle-aged, and older women and men".
    """

    factor_names = ("expression", "age", "gender", "set", "person")

    def __init__(
        self,
        root: Path | str,
        principal: str = "expression",
        image_size: int = 224,
        split: Literal["random", "persons"] = "random",
        val_share: float = 0.1,
        test_share: float = 0.2,
        **kwargs: Any,
    ) -> None:
        super().__init__(principal, image_size, 3, "crop", val_share, test_share, **kwargs)
        if split not in ("random", "persons"):
            raise ValueError(f"split is {split!r}: give random or persons.")
        self.root = Path(root)
        self.split = split

    @property
    def place(self) -> Path:
        """The folder of the images."""
        return self.root

    def read_index(self) -> FileIndex:
        """Read factors and splits off the names of the files.

        Raises:
            UserError: If the folder is missing or empty, a name is of another form, an image is
                there twice, or a person is in two splits that are to share none.
        """
        hint = "ask for access at https://faces.mpdl.mpg.de and give the folder of the images."
        names, self.ignored = find_images(self.root, hint)
        parsed = [_NAME.fullmatch(Path(name).stem) for name in names]
        wrong = [name for name, match in zip(names, parsed, strict=True) if match is None]
        if wrong:
            raise UserError(
                f"{len(wrong)} images of {self.root} are not named "
                f"id_age_gender_expression_set.jpg as in FACES: {name_some(wrong)}: rename or "
                "remove them."
            )
        matches = [match for match in parsed if match is not None]
        self._refuse_twins(names, [match[0].lower() for match in matches])
        persons = sorted({match["person"] for match in matches})
        columns = [
            [[value[0] for value in values].index(match[name].lower()) for match in matches]
            for name, values in _VALUES.items()
        ]
        columns.append([persons.index(match["person"]) for match in matches])
        factors = np.array(columns, dtype=np.int64).T
        return FileIndex(
            paths=[self.root / name for name in names],
            ids=np.array(names, dtype=np.str_),
            splits=self._assign(names, factors, persons),
            factors=factors,
            names=self.factor_names,
            sizes=(*(len(values) for values in _VALUES.values()), len(persons)),
            value_names={**_VALUES, "person": tuple(persons)},
        )

    def _assign(
        self, names: Sequence[str], factors: NDArray[np.int64], persons: Sequence[str]
    ) -> NDArray[np.int8]:
        splits = self._read_folders(names)
        if self.split == "random":
            draw_missing(splits, factors[:, 0], self.val_share, self.test_share, self.seed)
            return splits
        _, first, person = np.unique(factors[:, 4], return_index=True, return_inverse=True)
        by_person = splits[first]
        torn = splits != by_person[person]
        if torn.any():
            raise UserError(
                f"split is persons, but person {persons[person[torn.argmax()]]} is both in "
                f"{self.root / 'train'} and beside it: give split random, or all images in one "
                "folder."
            )
        groups = factors[first, 1] * len(_VALUES["gender"]) + factors[first, 2]
        draw_missing(by_person, groups, self.val_share, self.test_share, self.seed)
        return by_person[person]

    def _read_folders(self, names: Sequence[str]) -> NDArray[np.int8]:
        """Return the splits as the folders tell them; all train where they tell nothing."""
        splits = np.full(len(names), _TRAIN, dtype=np.int8)
        if not any(name.startswith("train/") for name in names):
            return splits
        for row, name in enumerate(names):
            folder = name.split("/")[0]
            if folder not in _FOLDERS:
                raise UserError(
                    f"{self.root} has a folder train, but {name} is outside of it and of val and "
                    "test: move it."
                )
            splits[row] = _FOLDERS[folder]
        return splits

    def _refuse_twins(self, names: Sequence[str], stems: Sequence[str]) -> None:
        seen: dict[str, str] = {}
        for name, stem in zip(names, stems, strict=True):
            if stem in seen:
                raise UserError(
                    f"{self.root} has the same image of FACES twice, {seen[stem]} and {name}: "
                    "remove one."
                )
            seen[stem] = name
