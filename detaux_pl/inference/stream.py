"""Images by the million: read by threads, asked about a batch at a time, told one by one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detaux_pl.data.read_image import unguarded
from detaux_pl.inference.classifier import Answers, Classifier, Guess


@dataclass(frozen=True)
class Told:
    """What is said of one image.

    Args:
        path: Its file.
        guesses: By task, the likeliest classes, the likeliest first; empty where it cannot be read.
        error: Why it cannot be read.
    """

    path: Path
    guesses: dict[str, list[Guess]]
    error: str | None = None


def classify(
    classifier: Classifier, paths: Iterable[Path], top_k: int, batch_size: int, num_workers: int
) -> Iterator[Told]:
    """Classify files in their order, as many at a time as fit in a few batches.

    Args:
        classifier: The networks.
        paths: The files.
        top_k: How many classes to name of each task.
        batch_size: Images that the networks see at a time.
        num_workers: Threads that read files; 0 to read them between the batches.
    """
    with unguarded():  # max_pixels is the limit
        read = _read_ahead(classifier, iter(paths), num_workers, 2 * batch_size + num_workers)
        while piece := list(islice(read, batch_size)):
            yield from _answer(classifier, piece, top_k)


def _answer(
    classifier: Classifier, piece: list[tuple[Path, NDArray[np.uint8] | str]], top_k: int
) -> Iterator[Told]:
    good = [pixels for _, pixels in piece if not isinstance(pixels, str)]
    tops: dict[str, Iterator[list[Guess]]] = {}
    if good:
        answers = Answers(classifier.card.tasks, classifier.ask(np.stack(good)))
        tops = {task: iter(answers.top(top_k, task)) for task in answers.tasks}
    for path, pixels in piece:
        if isinstance(pixels, str):
            yield Told(path, {}, pixels)
        else:
            yield Told(path, {task: next(top) for task, top in tops.items()})


def _read_ahead(
    classifier: Classifier, paths: Iterator[Path], num_workers: int, ahead: int
) -> Iterator[tuple[Path, NDArray[np.uint8] | str]]:
    """Give each file with its pixels, or with what is wrong with it, in their order."""

    def read(path: Path) -> NDArray[np.uint8] | str:
        try:
            return classifier.preprocessing.read(path)
        except ValueError as error:
            return str(error)

    if not num_workers:
        yield from ((path, read(path)) for path in paths)
        return
    with ThreadPoolExecutor(num_workers) as pool:
        waiting: deque[tuple[Path, Future[NDArray[np.uint8] | str]]] = deque()
        try:
            for path in paths:
                waiting.append((path, pool.submit(read, path)))
                if len(waiting) > ahead:
                    done, future = waiting.popleft()
                    yield done, future.result()
            while waiting:
                done, future = waiting.popleft()
                yield done, future.result()
        finally:
            for _, future in waiting:
                future.cancel()
