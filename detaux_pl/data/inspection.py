"""What a data set holds, and what of it must be mended before anything is trained."""

from __future__ import annotations

import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ExifTags import Base

from detaux_pl.artifacts.codes import LABELLED, SPLITS, UNLABELLED
from detaux_pl.artifacts.progress import progress_bar
from detaux_pl.data.cached_pixels import CachedPixels, UnreadableImagesError
from detaux_pl.data.factor_dataset import FactorDataset, as_rows
from detaux_pl.data.image_files import ImageFiles, Unreadable
from detaux_pl.data.near_duplicates import NearDuplicates, find_near_duplicates
from detaux_pl.data.read_image import HEIF, HEIF_HINT, Fit, unguarded

_BLOCK = 256
"""Images to hash at a time."""
_WORKERS = 8
_TRAIN = SPLITS.index("train")

_T = TypeVar("_T")


@dataclass(frozen=True)
class Finding:
    """Something that a person should know.

    Args:
        mend: Whether it stands in the way of a training that can be trusted.
        what: One line: what is wrong and what to do.
        names: All files, images or classes that it is about.
    """

    mend: bool
    what: str
    names: tuple[str, ...] = ()


class Spread(NamedTuple):
    """Smallest, median and largest of some numbers."""

    least: int
    median: int
    most: int


@dataclass(frozen=True)
class FileHeaders:
    """What image files say of themselves, before they are resized.

    Args:
        heights: Of the upright images [pixels].
        widths: Of the upright images [pixels].
        modes: Number of files of each of Pillow's modes, the most frequent first.
        turned: Number of files whose EXIF orientation turns or mirrors them.
        enlarged: Ids of those that are smaller than the images that are made of them.
    """

    heights: Spread
    widths: Spread
    modes: dict[str, int]
    turned: int
    enlarged: tuple[str, ...]


@dataclass(frozen=True)
class Memory:
    """What the data need [bytes].

    Args:
        pixels: All images as uint8; as much as `device_resident` needs.
        kept: Where they are kept: `in memory`, `mapped from disk` or `read when needed`.
        batch: The images of one training batch as floats.
        cache: Folder of the cached images; None without.
        cache_free: What is free where the cache is; 0 without.
    """

    pixels: int
    kept: str
    batch: int
    cache: Path | None
    cache_free: int


@dataclass(frozen=True)
class Inspection:
    """What a data set holds.

    Args:
        dataset: Name of its class.
        image_shape: Channels, height and width.
        principal: Name of the principal factor.
        classes: What its values are called.
        counts: Images of each class in train, val and test, int64, shape (classes, 3).
        others: Number of values of each other factor, by name.
        headers: Of the image files; None where there are none.
        values: What becomes of the pixels; empty where they are made here.
        memory: What the data need.
        findings: What to mend first, then what to know.
        n_unlabelled: Number of images without a label.
        near: Which images of two splits look nearly the same; None where none were compared.
    """

    dataset: str
    image_shape: tuple[int, int, int]
    principal: str
    classes: tuple[str, ...]
    counts: NDArray[np.int64]
    others: dict[str, int]
    headers: FileHeaders | None
    values: str
    memory: Memory
    findings: tuple[Finding, ...]
    n_unlabelled: int = 0
    near: NearDuplicates | None = None

    @property
    def n_to_mend(self) -> int:
        """Number of findings that must be mended."""
        return sum(finding.mend for finding in self.findings)


def inspect_dataset(
    dataset: FactorDataset,
    batch_shape: Sequence[int],
    paired: bool = True,
    demands: Callable[[], Iterable[str]] = tuple,
) -> Inspection:
    """Look at all of a data set, which fills its cache.

    Images are the same if their files are, or their pixels where there are no files.

    Args:
        dataset: The data set.
        batch_shape: Shape of the images of one training batch.
        paired: Whether a training takes pairs of images of a class.
        demands: Says what stands in the way of the trainings, once the data are read.

    Raises:
        UserError: If the data are missing or do not fit their description.
    """
    dataset.describe()
    unreadable: Sequence[Unreadable] = ()
    try:
        dataset.prepare()
        dataset.setup()
        if isinstance(dataset, CachedPixels) and dataset.cached:
            dataset.cache.verify()
    except UnreadableImagesError:
        unreadable = getattr(dataset, "unreadable", ())
    sizes = dict(zip(dataset.factor_names, dataset.factor_sizes, strict=True))
    classes = _value_names(dataset, dataset.principal)
    counts = np.zeros((len(classes), len(LABELLED)), dtype=np.int64)
    unlabelled = dataset.rows(UNLABELLED)
    labelled = np.delete(np.arange(len(dataset)), unlabelled)
    np.add.at(counts, (dataset.labels[labelled], dataset.splits[labelled]), 1)
    headers = _read_headers(dataset) if isinstance(dataset, ImageFiles) else None
    digests = _digests(dataset, readable=not unreadable)
    near = None if digests is None or unreadable else _find_near(dataset, digests)
    found = [
        *_unreadable(unreadable, len(dataset)),
        *_trouble_of_classes(classes, counts, paired),
        *(Finding(True, line) for line in demands()),
        *(_duplicates(dataset, digests, classes) if digests is not None else ()),
        *(_near_duplicates(dataset, near) if near is not None else ()),
        *_clipped(dataset),
        *_without_label(dataset.ids[unlabelled]),
        *_notes(dataset, headers, compared=digests is not None),
    ]
    return Inspection(
        type(dataset).__name__, dataset.image_shape, dataset.principal, classes, counts,
        {name: size for name, size in sizes.items() if name != dataset.principal},
        headers, _values(dataset), _memory(dataset, batch_shape),
        tuple(sorted(found, key=lambda f: not f.mend)), len(unlabelled), near,
    )  # fmt: skip


def _value_names(dataset: FactorDataset, factor: str) -> tuple[str, ...]:
    size = dataset.factor_sizes[dataset.factor_names.index(factor)]
    return tuple(map(str, dataset.value_names.get(factor, range(size))))


def _unreadable(unreadable: Sequence[Unreadable], n: int) -> Iterator[Finding]:
    if unreadable:
        yield Finding(
            True,
            f"{len(unreadable):,} of {n:,} images cannot be read: mend or remove them",
            tuple(f"{path}: {why}" for path, why in unreadable),
        )


def _trouble_of_classes(
    classes: Sequence[str], counts: NDArray[np.int64], paired: bool
) -> Iterator[Finding]:
    for split, total in zip(LABELLED, counts.sum(axis=0), strict=True):
        if not total:
            share = f", or raise {split}_share where it is drawn" if split != SPLITS[_TRAIN] else ""
            yield Finding(True, f"the {split} split is empty: give it images{share}")
    train = counts[:, _TRAIN]
    rest = counts.sum(axis=1) - train
    if train.any():
        if np.count_nonzero(train) < 2:
            only = classes[int(train.argmax())]
            yield Finding(True, f"train has one class only ({only}): at least 2 are needed")
        yield from _of_classes(
            True, "absent from train, but not from val and test: add images or leave out",
            classes, (train == 0) & (rest > 0),
        )  # fmt: skip
        alone = "of one train image"
        what = f"{alone}, where a pair needs 2: add images or leave out" if paired else alone
        yield from _of_classes(paired, what, classes, train == 1)
        for split in ("val", "test"):
            column = counts[:, SPLITS.index(split)]
            if column.any():
                yield from _of_classes(
                    False, f"without an image in {split}", classes, (column == 0) & (train > 0)
                )
    yield from _of_classes(False, "without any image", classes, counts.sum(axis=1) == 0)


def _values(dataset: FactorDataset) -> str:
    """Say what becomes of the pixels of more than 8 bits."""
    if not isinstance(dataset, CachedPixels) or not dataset.may_be_deep:
        return ""
    deep, levels = dataset.deep, dataset.levels
    said = [
        f"{levels_of} become 0 to 255 (found: {found})"
        for found, levels_of in ((deep.integers, levels.integers), (deep.floats, levels.floats))
        if found is not None
    ]
    if not said:
        return "0 to 255, of 8 bits"
    given = "found" if dataset.value_range is None else "given as value_range"
    return (
        f"{' and '.join(said)} in {_count(deep.n, 'image', 'images')} of more than 8 bits, {given}"
    )


def _clipped(dataset: FactorDataset) -> Iterator[Finding]:
    """Tell of pixels beyond a range that the user gives."""
    if isinstance(dataset, CachedPixels) and (given := dataset.value_range) is not None:
        for found in (dataset.deep.integers, dataset.deep.floats):
            if found is not None and (found.least < given.least or found.most > given.most):
                yield Finding(False, f"pixels from {found} are clipped to the value_range, {given}")


def _of_classes(
    mend: bool, what: str, classes: Sequence[str], chosen: NDArray[np.bool_]
) -> Iterator[Finding]:
    names = tuple(classes[k] for k in np.flatnonzero(chosen).tolist())
    if names:
        yield Finding(mend, f"{_count(len(names), 'class', 'classes')} {what}", names)


def _without_label(ids: NDArray[np.generic]) -> Iterator[Finding]:
    if ids.size:
        n = _count(ids.size, "image has", "images have")
        what = f"{n} no label: clusters are found among them too, and all else is without them"
        yield Finding(False, what, tuple(map(str, ids)))


def _notes(
    dataset: FactorDataset, headers: FileHeaders | None, compared: bool
) -> Iterator[Finding]:
    if not compared:
        yield Finding(False, "images are compared with each other when all of them can be read")
    if headers is not None and headers.enlarged:
        height, width = dataset.image_shape[1:]
        n = _count(len(headers.enlarged), "image is", "images are")
        yield Finding(False, f"{n} enlarged to {height} x {width} pixels", headers.enlarged)
    others: list[Path] = list(getattr(dataset, "ignored", ()))
    heif = tuple(str(path) for path in others if path.suffix.lower() in HEIF)
    if heif:
        n = _count(len(heif), "HEIF image is", "HEIF images are")
        yield Finding(True, f"{n} left out, for want of pillow-heif: {HEIF_HINT}", heif)
    ignored = tuple(str(path) for path in others if path.suffix.lower() not in HEIF)
    if ignored:
        n = _count(len(ignored), "other file or folder is", "other files or folders are")
        yield Finding(False, f"{n} left out", ignored)


def _digests(dataset: FactorDataset, readable: bool) -> NDArray[np.uint8] | None:
    """Return what tells images apart, shape (N, 32); zeros where it is unknown."""
    content = dataset.content() if isinstance(dataset, CachedPixels) else None
    if content is not None or not readable:
        return content
    digests = np.empty((len(dataset), 32), dtype=np.uint8)
    blocks = np.array_split(np.arange(len(dataset)), -(-len(dataset) // _BLOCK) or 1)
    for rows in _track(blocks, "compare images", len(blocks)):
        for row, image in zip(rows, dataset.images(as_rows(rows)).numpy(), strict=True):
            digest = sha256(np.ascontiguousarray(image).data).digest()
            digests[row] = np.frombuffer(digest, dtype=np.uint8)
    return digests


def _duplicates(
    dataset: FactorDataset, digests: NDArray[np.uint8], classes: Sequence[str]
) -> Iterator[Finding]:
    across: list[str] = []
    within: list[str] = []
    disagreeing: list[str] = []
    unsaid: list[str] = []
    for rows in _groups(digests):
        splits, labels = dataset.splits[rows], dataset.labels[rows]
        ids = dataset.ids[rows]
        given = splits != SPLITS.index(UNLABELLED)
        named = " = ".join(
            f"{name} ({SPLITS[split]})" for name, split in zip(ids, splits, strict=True)
        )
        if len(set(splits[given])) > 1:
            across.append(named)
        elif given.any() and not given.all():
            unsaid.append(named)
        else:
            within.append(named)
        if len(set(labels[given])) > 1:
            told = zip(ids[given], labels[given], strict=True)
            disagreeing.append(" = ".join(f"{name} ({classes[k]})" for name, k in told))
    if across:
        n = _count(len(across), "image stands", "images stand")
        hint = "as they are published" if dataset.published else "keep one of each"
        what = f"{n} in more than one split: {hint}"
        yield Finding(not dataset.published, what, tuple(across))
    if disagreeing:
        n = _count(len(disagreeing), "image has", "images have")
        yield Finding(False, f"{n} several labels of {dataset.principal}", tuple(disagreeing))
    if unsaid:
        n = _count(len(unsaid), "image stands", "images stand")
        yield Finding(False, f"{n} once with a label and once without", tuple(unsaid))
    if within:
        n = _count(len(within), "image stands", "images stand")
        yield Finding(False, f"{n} more than once in a split", tuple(within))


def _find_near(dataset: FactorDataset, digests: NDArray[np.uint8]) -> NearDuplicates | None:
    """Find what looks nearly the same in two splits, of data that are the user's own."""
    if dataset.published or not isinstance(dataset, CachedPixels):
        return None
    with progress_bar("compare looks", len(dataset)) as advance:
        near = find_near_duplicates(dataset, progress=advance)
    same = (digests[near.rows[:, 0]] == digests[near.rows[:, 1]]).all(axis=1)  # told as such
    return near._replace(rows=near.rows[~same])


def _near_duplicates(dataset: FactorDataset, near: NearDuplicates) -> Iterator[Finding]:
    names = tuple(
        " ~ ".join(f"{dataset.ids[row]} ({SPLITS[dataset.splits[row]]})" for row in pair)
        for pair in near.rows.tolist()
    )
    if names:
        n = _count(len(names), "image of val or test looks", "images of val and test look")
        hint = "where they are of one source, split_by keeps a source in one split"
        yield Finding(False, f"{n} nearly like one of another split: {hint}", names)


def _groups(digests: NDArray[np.uint8]) -> Iterator[NDArray[np.int64]]:
    """Give the rows of each digest that occurs more than once."""
    known = np.flatnonzero(digests.any(axis=1))
    digests = digests[known]
    order = np.lexsort(np.ascontiguousarray(digests).view(">u8").T)
    starts = np.flatnonzero((digests[order][1:] != digests[order][:-1]).any(axis=1)) + 1
    groups = [np.sort(known[rows]) for rows in np.split(order, starts) if len(rows) > 1]
    yield from sorted(groups, key=lambda rows: int(rows[0]))


def _read_headers(dataset: ImageFiles) -> FileHeaders | None:
    paths = dataset.index.paths
    with warnings.catch_warnings(), unguarded(), ThreadPoolExecutor(_WORKERS) as pool:
        # What Pillow thinks of a file's metadata is of no use here.
        warnings.simplefilter("ignore")
        headers = list(_track(pool.map(_read_header, paths), "read headers", len(paths)))
    rows = [row for row, header in enumerate(headers) if header is not None]
    good = [header for header in headers if header is not None]
    if not good:
        return None
    heights = np.array([header.height for header in good])
    widths = np.array([header.width for header in good])
    small = _is_enlarged(heights, widths, dataset.image_shape[1:], dataset.fit)
    return FileHeaders(
        _spread(heights), _spread(widths),
        dict(Counter(header.mode for header in good).most_common()),
        sum(header.turned for header in good),
        tuple(str(dataset.ids[rows[k]]) for k in np.flatnonzero(small)),
    )  # fmt: skip


class _Header(NamedTuple):
    height: int
    width: int
    mode: str
    turned: bool


def _read_header(path: Path) -> _Header | None:
    try:
        with Image.open(path) as image:
            # Pillow would decode a whole PNG to look for an orientation that follows its pixels.
            absent = image.format == "PNG" and "exif" not in image.info
            orientation = 1 if absent else image.getexif().get(Base.Orientation, 1)
            width, height = image.size
            if orientation in (5, 6, 7, 8):
                width, height = height, width
            return _Header(height, width, image.mode, orientation in range(2, 9))
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError):
        return None  # told as unreadable


def _is_enlarged(
    heights: NDArray[np.int64], widths: NDArray[np.int64], size: tuple[int, int], fit: Fit
) -> NDArray[np.bool_]:
    short, narrow = heights < size[0], widths < size[1]
    enlarged: NDArray[np.bool_] = short & narrow if fit == "pad" else short | narrow
    return enlarged


def _spread(numbers: NDArray[np.int64]) -> Spread:
    return Spread(int(numbers.min()), round(float(np.median(numbers))), int(numbers.max()))


def _memory(dataset: FactorDataset, batch_shape: Sequence[int]) -> Memory:
    pixels = len(dataset) * prod(dataset.image_shape)
    batch = 4 * prod(batch_shape)
    if isinstance(dataset, CachedPixels) and dataset.cached:
        folder = dataset.cache.folder
        free = shutil.disk_usage(folder).free if folder.is_dir() else 0
        return Memory(pixels, "mapped from disk", batch, folder, free)
    kept = "read when needed" if dataset.pixels is None else "in memory"
    return Memory(pixels, kept, batch, None, 0)


def _count(n: int, one: str, many: str) -> str:
    return f"{n:,} {one if n == 1 else many}"


def _track(items: Iterable[_T], title: str, total: int) -> Iterable[_T]:
    """Show a progress bar, where there is a terminal."""
    with progress_bar(title, total) as advance:
        for item in items:
            yield item
            advance(1)
