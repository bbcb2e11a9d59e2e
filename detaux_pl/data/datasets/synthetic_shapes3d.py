"""3D Shapes without a file: ray-cast geometry, coloured on demand."""

from __future__ import annotations

import colorsys
import math
from functools import reduce
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detaux_pl.artifacts.errors import UserError
from detaux_pl.artifacts.files import as_path, replacing
from detaux_pl.data.correlation import Correlate
from detaux_pl.data.pixel_cache import default_cache_dir
from detaux_pl.data.shapes_factorial import ShapesFactorial

_Floats = NDArray[np.floating]

_VERSION = 1
"""Part of the name of the cached file: raise it with every change of the geometry."""
_SAMPLES = 4
"""Rays per pixel, along either axis."""
_GEOMETRIES = 8 * 4 * 15
"""Scales, shapes and orientations: so many images in a row have the same three colours."""
_HEIGHTS = {"cube": 0.5, "cylinder": 0.5, "sphere": 0.6, "capsule": 0.75}
"""Half the height of each shape of scale 1, in the order of their numbers."""
_CORE = 0.35
"""Half the length of the straight part of the capsule."""
_ROOM = 3.5
"""Half the width of the room."""
_DISTANCE, _HEIGHT, _TARGET, _FOCAL = 3.2, 1.8, 0.75, 1.5
"""The camera: distance from the axis, height, height of what it looks at, focal length."""
_LIGHT = (-1.2, -2.4, 4.5)
_AMBIENT, _DIFFUSE = 0.4, 0.59  # together below 1: three rounded parts must not exceed 255


class SyntheticShapes3D(ShapesFactorial):
    """The 480,000 images of the 3D Shapes factorial, made here and composed on demand.

    A cube, cylinder, sphere or capsule stands in a room, lit from above; the camera orbits it
    over -30 to 30 degrees. An image is the sum over floor, wall and object of coverage times
    shading times colour. The 480 geometries (scale × shape × orientation) are cast once, with 16
    rays per pixel, and cached on disk; the three colours of an image are multiplied in when it is
    asked for. Same factors, order and ids as the original `3dshapes.h5`; the pixels differ.

    Args:
        image_size: Height and width, a multiple of 16. Paper: 64.
        cache_dir: Folder of the cached geometry; None for `detaux_pl` in the user's cache folder.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> shapes = SyntheticShapes3D(principal="shape", n_train=100, n_val=10, n_test=10)
        >>> shapes.n_classes, shapes.image_shape
        (4, (3, 64, 64))
    """

    def __init__(
        self,
        principal: str = "scale",
        image_size: int = 64,
        split: Literal["compositional", "random"] = "compositional",
        n_train: int | None = None,
        n_val: int | None = None,
        n_test: int | None = None,
        seed: int = 0,
        cache_dir: Path | str | None = None,
        correlate: Correlate | None = None,
    ) -> None:
        super().__init__(principal, split, n_train, n_val, n_test, seed, correlate)
        if image_size < 16 or image_size % 16:
            raise ValueError(f"image_size is {image_size}: it must be a multiple of 16.")
        self.image_size = image_size
        self.image_shape = (3, image_size, image_size)
        self.cache_dir = as_path(cache_dir)
        self._geometry: NDArray[np.uint8] | None = None
        self._palette = _palette()

    @property
    def cache_file(self) -> Path:
        """Where the geometry is cached."""
        folder = self.cache_dir if self.cache_dir is not None else default_cache_dir()
        return folder / f"shapes3d-v{_VERSION}-{self.image_size}.npy"

    def prepare(self) -> None:
        """Cast the geometry, unless it is cached.

        Raises:
            UserError: If the cache cannot be written.
        """
        if self.cache_file.is_file():
            return
        geometry = cast_geometry(self.image_size)
        try:
            with replacing(self.cache_file) as temporary:
                np.save(temporary, geometry, allow_pickle=False)
        except OSError as error:
            raise UserError(
                f"the cache {self.cache_file} cannot be written ({error.strerror}): "
                "give another cache_dir."
            ) from None

    def setup(self) -> None:
        """Assign the splits and read the geometry, which is cast first where it is not cached.

        Raises:
            UserError: If the cached file is not what `prepare` writes.
        """
        super().setup()
        if self._geometry is not None:
            return
        self.prepare()
        try:
            geometry = np.load(self.cache_file, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            geometry = np.empty(0)
        if geometry.shape != (_GEOMETRIES, 3, self.image_size**2) or geometry.dtype != np.uint8:
            raise UserError(f"the cache {self.cache_file} is damaged: delete it and run again.")
        self._geometry = geometry

    def images(self, rows: Tensor) -> Tensor:
        """Compose the images of some rows, uint8, shape (n, 3, H, W).

        In whole numbers of 16 bits, which is exact, and on one thread faster than torch on two.
        """
        if self._geometry is None:
            raise RuntimeError("SyntheticShapes3D has no geometry yet: call setup first.")
        ids = self.ids[rows.numpy()]
        images = np.empty((len(ids), 3, self.image_size**2), dtype=np.uint8)
        for start in range(0, len(ids), 8):  # what 8 images need stays in the processor's cache
            block = slice(start, start + 8)
            geometry = self._geometry[ids[block] % _GEOMETRIES, :, None].astype(np.uint16)
            colours = self._palette[ids[block] // _GEOMETRIES, ..., None]
            light = geometry[:, 0] * colours[:, 0]
            light += geometry[:, 1] * colours[:, 1]
            light += geometry[:, 2] * colours[:, 2]
            images[block] = light >> 8
        return torch.from_numpy(images).view(-1, *self.image_shape)


def cast_geometry(image_size: int) -> NDArray[np.uint8]:
    """Coverage × shading of floor, wall and object, for all geometries.

    NumPy and not torch: arrays as small as these are slower on two threads than on one, and very
    slow where other processes share the cores.

    Returns:
        Numerators of 256, shape (480, 3, H * W); scale comes first, orientation is fastest.
    """
    light = _vector(*_LIGHT)
    levels = np.empty((8, len(_HEIGHTS), 15, 3, image_size, image_size), dtype=np.uint8)
    for o, degrees in enumerate(np.linspace(-30.0, 30.0, 15)):
        eye, rays = _camera(math.radians(degrees), image_size * _SAMPLES)
        distance, normal, on_floor = _room(eye, rays)
        point = eye + distance * rays
        to_light = light - point
        lit = _diffuse(normal, to_light)
        for s, scale in enumerate(np.linspace(0.75, 1.25, 8).tolist()):
            for k, (solid, height) in enumerate(_HEIGHTS.items()):
                # In units of the object: its centre is the origin and its scale 1.
                centre = _vector(0.0, 0.0, scale * height)
                entry = _enter(solid, (eye - centre) / scale, rays / scale)
                shadowed = _enter(solid, (point - centre) / scale, to_light / scale) < 1.0
                hit = entry < distance
                surface = eye + entry[hit] * rays[:, hit]
                facing = _normal(solid, (surface - centre) / scale)
                parts = np.zeros((3, distance.size), dtype=np.float32)
                room = np.where(shadowed, 0.0, lit) + _AMBIENT
                parts[0] = room * (on_floor & ~hit)
                parts[1] = room * ~(on_floor | hit)
                parts[2, hit] = _diffuse(facing, light - surface) + _AMBIENT
                rays_of_pixels = parts.reshape(3, image_size, _SAMPLES, image_size, _SAMPLES)
                levels[s, k, o] = np.rint(rays_of_pixels.mean(axis=(2, 4)) * 256.0)
    return levels.reshape(_GEOMETRIES, 3, -1)


def _vector(x: float, y: float, z: float) -> _Floats:
    """A point or direction, shape (3, 1); z is up."""
    return np.array([[x], [y], [z]], dtype=np.float32)


def _camera(azimuth: float, size: int) -> tuple[_Floats, _Floats]:
    """Where the camera stands, (3, 1), and its rays, row by row from the top left, (3, size²)."""
    sin, cos = math.sin(azimuth), math.cos(azimuth)
    eye = _vector(_DISTANCE * sin, -_DISTANCE * cos, _HEIGHT)
    right = _vector(cos, sin, 0.0)
    forward = _vector(0.0, 0.0, _TARGET) - eye
    forward /= np.linalg.norm(forward)
    up = np.cross(right, forward, axis=0)
    offset = (np.arange(size, dtype=np.float32) + 0.5) / size * 2.0 - 1.0
    y, x = np.meshgrid(-offset, offset, indexing="ij")
    return eye, _FOCAL * forward + x.ravel() * right + y.ravel() * up


def _room(eye: _Floats, rays: _Floats) -> tuple[_Floats, _Floats, NDArray[np.bool_]]:
    """Distance to the floor or wall that each ray meets, its normal, and whether it is floor."""
    sides = np.where(rays < 0.0, np.float32(-1.0), np.float32(1.0))
    # Walls stand on either side; the floor has no other side, so a ray that rises misses it.
    distances = (sides * _vector(_ROOM, _ROOM, 0.0) - eye) / _not_zero(rays)
    distances[2, rays[2] >= 0.0] = np.inf
    axis = distances.argmin(axis=0)
    normal = -sides * (np.arange(3)[:, None] == axis)
    return distances.min(axis=0), normal, axis == 2


def _enter(solid: str, p: _Floats, d: _Floats) -> _Floats:
    """Multiple of `d` at which the rays from `p` enter a solid; inf where they miss it."""
    if solid == "cube":
        return _entry(*(_slab(p[i], d[i], 0.5) for i in range(3)))
    if solid == "cylinder":
        return _entry(_ball(p[:2], d[:2], 0.5), _slab(p[2], d[2], 0.5))
    if solid == "sphere":
        return _entry(_ball(p, d, 0.6))
    core = _vector(0.0, 0.0, _CORE)
    tube = _entry(_ball(p[:2], d[:2], 0.4), _slab(p[2], d[2], _CORE))
    ends = np.minimum(_entry(_ball(p - core, d, 0.4)), _entry(_ball(p + core, d, 0.4)))
    return np.minimum(tube, ends)


def _entry(*bounds: tuple[_Floats, _Floats]) -> _Floats:
    """First point that the intervals share; inf where they share none ahead of the ray's start."""
    near = reduce(np.maximum, (low for low, _ in bounds))
    far = reduce(np.minimum, (high for _, high in bounds))
    return np.where((near < far) & (near > 0.0), near, np.float32(np.inf))


def _slab(p: _Floats, d: _Floats, half: float) -> tuple[_Floats, _Floats]:
    """Where rays are between two planes at ±half."""
    d = _not_zero(d)
    middle, reach = -p / d, half / np.abs(d)
    return middle - reach, middle + reach


def _ball(p: _Floats, d: _Floats, radius: float) -> tuple[_Floats, _Floats]:
    """Where rays are in a ball or, given two coordinates, in a tube; empty where nowhere."""
    square = np.maximum(_dot(d, d), 1e-12)  # a ray along the tube has none
    middle = -_dot(p, d) / square
    reach = np.sqrt(np.maximum((radius**2 - _dot(p, p)) / square + middle**2, 0.0))
    return middle - reach, middle + reach


def _normal(solid: str, q: _Floats) -> _Floats:
    """Outward direction, of any length, at points of the surface of a solid."""
    if solid == "cube":
        return np.where(np.abs(q) == np.abs(q).max(axis=0), q, 0.0)
    if solid == "cylinder":
        on_cap = np.abs(q[2]) > np.hypot(q[0], q[1])
        return np.where(on_cap == _vector(0.0, 0.0, 1.0), q, 0.0)
    if solid == "sphere":
        return q
    return np.stack([q[0], q[1], q[2] - q[2].clip(-_CORE, _CORE)])


def _diffuse(normal: _Floats, to_light: _Floats) -> _Floats:
    """Light that a matt surface returns, in [0, `_DIFFUSE`]."""
    length = np.sqrt(_dot(normal, normal) * _dot(to_light, to_light))
    light: _Floats = _DIFFUSE * np.maximum(_dot(normal, to_light), 0.0) / length
    return light


def _dot(a: _Floats, b: _Floats) -> _Floats:
    product: _Floats = np.einsum("i...,i...->...", a, b)
    return product


def _not_zero(d: _Floats) -> _Floats:
    """Keep a ray that runs along a plane from dividing by zero."""
    return np.where(np.abs(d) < 1e-9, np.float32(1e-9), d)


def _palette() -> NDArray[np.uint16]:
    """Levels 0 to 255 of floor, wall and object for all triples of hues, shape (1000, 3, RGB)."""
    hues = [colorsys.hsv_to_rgb(hue / 10, 1.0, 1.0) for hue in range(10)]
    levels = np.rint(np.array(hues) * 255.0).astype(np.uint16)
    return levels[np.indices((10, 10, 10)).reshape(3, -1).T]
