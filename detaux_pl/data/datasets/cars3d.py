"""Cars3D, read from its archive or from the extracted files."""

from __future__ import annotations

import gzip
import re
import tarfile
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from detaux_pl.artifacts.errors import UserError
from detaux_pl.data.cached_factorial import CachedFactorial
from detaux_pl.data.factor_dataset import check_image_size

_URL = "http://www.scottreed.info/files/nips2015-analogy-data.tar.gz"
_SHAPE = (128, 128, 3, 24, 4)
"""Height, width, RGB, azimuth and elevation of the array `im` of one car."""
_CHUNK = 2**20
_CAR = re.compile(r"car_\d+_mesh\.mat")


class Cars3D(CachedFactorial):
    """The 17,568 images of Cars3D: 183 cars from 24 azimuths and 4 elevations.

    The cars are numbered by the names of their files, and the id of an image is
    `object * 96 + azimuth * 4 + elevation`. The test split is a quarter of the images, drawn
    uniformly, and val 5 % of the rest: 12,517 for training, 659 for validation, 4,392 for the test.

    Args:
        root: Folder of `nips2015-analogy-data.tar.gz`, from
            http://www.scottreed.info/files/nips2015-analogy-data.tar.gz, or of the folder
            `data/cars` that was extracted from it, which is faster to open and comes first where
            both are there.
        principal: `object`, `azimuth` or `elevation`.
        image_size: Height and width that the images, of 128, are resized to. In general use: 64.

    Raises:
        ValueError: If an argument is outside its range.

    References:
        Reed et al. 2015, "Deep Visual Analogy-Making".
    """

    factor_names = ("object", "azimuth", "elevation")

    def __init__(
        self,
        root: Path | str,
        principal: str = "object",
        image_size: int = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(principal, **kwargs)
        check_image_size(image_size)
        self.root = Path(root)
        self.image_size = image_size
        self.image_shape = (3, image_size, image_size)
        self._cars: list[str] = []

    def describe(self) -> None:
        """List the cars.

        Raises:
            UserError: If there are none, or one is missing that `list.txt` names.
        """
        if not self._cars:
            self._cars = self._list_cars()
            self.factor_sizes = (len(self._cars), *_SHAPE[3:])
        super().describe()

    def files(self) -> list[Path]:
        """Return the archive, or the extracted files by name."""
        if self._folder.is_dir():
            return [self._folder / name for name in self._cars]
        return [self._archive]

    def read_blocks(self) -> Iterator[NDArray[np.uint8]]:
        """Read all images, those of one car at a time.

        Raises:
            UserError: If a file or the archive is damaged.
        """
        # The archive is read once, from its start: a car that comes early waits for its turn.
        waiting: dict[str, bytes] = {}
        due = iter(self._cars)
        name = next(due)
        for found, data in self._scan(".mat"):
            waiting[found] = data
            while name in waiting:
                yield self._read_car(name, waiting.pop(name))
                name = next(due, "")

    @property
    def _folder(self) -> Path:
        return self.root / "data" / "cars"

    @property
    def _archive(self) -> Path:
        return self.root / "nips2015-analogy-data.tar.gz"

    def _list_cars(self) -> list[str]:
        cars, listed = [], []
        for name, data in self._scan(".txt"):
            if _CAR.fullmatch(name):
                cars.append(name)
            elif name == "list.txt":
                listed = [f"{car}.mat" for car in data.decode(errors="replace").split()]
        missing = sorted(set(listed) - set(cars))
        if missing or not cars:
            what = f"{missing[0]}, which its list.txt names" if missing else "any car_*_mesh.mat"
            more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            place = self._folder if self._folder.is_dir() else self._archive
            raise UserError(f"{place} is without {what}{more}: download {_URL} anew.")
        return sorted(cars)

    def _scan(self, suffix: str) -> Iterator[tuple[str, bytes]]:
        """Go through the files of `data/cars` in any order; only those of a suffix are read."""
        if self._folder.is_dir():
            for path in sorted(self._folder.iterdir()):
                yield path.name, self._read(path) if path.suffix == suffix else b""
            return
        if not self._archive.is_file():
            raise UserError(
                f"{self.root} holds neither data/cars nor {self._archive.name}: download {_URL} "
                "into it."
            )
        try:
            with (
                gzip.open(self._archive) as stream,
                tarfile.open(fileobj=stream, mode="r:") as archive,
            ):
                for member in archive:
                    place = PurePosixPath(member.name)
                    if member.isfile() and place.parent.parts == ("data", "cars"):
                        file = archive.extractfile(member) if place.suffix == suffix else None
                        yield place.name, file.read() if file else b""
                while stream.read(_CHUNK):  # to the end, where its checksum stands
                    pass
        except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
            raise UserError(
                f"{self._archive} cannot be read as .tar.gz ({error}): download {_URL} anew."
            ) from None

    def _read(self, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}): mend it.") from None

    def _read_car(self, name: str, data: bytes) -> NDArray[np.uint8]:
        place = self._folder if self._folder.is_dir() else f"{self._archive}: data/cars"
        try:
            views = loadmat(BytesIO(data), variable_names=["im"])["im"]
            what = f"is {views.dtype} of shape {views.shape}"
        except KeyError:
            views, what = np.empty(0), "is missing"
        # A damaged file can fail in any of these ways.
        except (
            OSError,
            ValueError,
            TypeError,
            IndexError,
            NotImplementedError,
            MatReadError,
            zlib.error,
        ) as error:
            views, what = np.empty(0), f"cannot be read ({' '.join(str(error).split())})"
        if views.shape != _SHAPE or views.dtype != np.uint8:
            raise UserError(
                f"{place}/{name} is not an original of Cars3D: `im` {what}; it should be uint8 of "
                f"shape {_SHAPE}: download {_URL} anew."
            )
        images: NDArray[np.uint8] = views.transpose(3, 4, 2, 0, 1).reshape(-1, 3, *_SHAPE[:2])
        return images
