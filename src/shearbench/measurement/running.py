"""An estimator runs over the stamps of a split: in batches, over processes, every failure accounted for."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import sys
import time
import types
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
import pandas as pd

from shearbench.data.estimates import impossible_error, labelled, shapes_table
from shearbench.data.shapes import Flag, Shapes
from shearbench.data.stamps import StampBatch, StampSet
from shearbench.errors import ShearbenchError
from shearbench.jobs.processes import deaf_to_interrupts, end_with

log = logging.getLogger(__name__)
_BATCH = 512
_THREADS = ("OMP", "OPENBLAS", "MKL", "NUMBA", "VECLIB_MAXIMUM", "NUMEXPR")


class Measurer(Protocol):
    """What `measure_stamps` runs: an `Estimator`, or anything that measures batches and can be pickled."""

    kind: ClassVar[str]

    def measure(self, batch: StampBatch) -> Shapes:
        """Estimate the shape of every stamp of a batch."""


def measure_stamps(
    estimator: Measurer,
    stamp_set: StampSet,
    sigma: float,
    seed: int,
    processes: int = 1,
    batch: int | None = None,
    stamps: int | None = None,
) -> pd.DataFrame:
    """Measure every stamp of a split, or the first ones, with noise of standard deviation `sigma`.

    Stamps with NaN or infinite pixels (or PSF) never reach the estimator. If it raises on a batch, the
    batch is measured again stamp by stamp, so that only the stamp at fault is lost. Neither `batch` nor
    `processes` changes the result.

    Parameters
    ----------
    estimator : Measurer
    stamp_set : StampSet
    sigma : float
        Noise per pixel.
    seed : int
        The run's seed, which names the noise.
    processes : int
        With more than one, as many new processes share the work, each with one thread, no GPU, and with
        files opened by itself.
    batch : int, optional
        Stamps that the estimator gets at once; by default 512, or as many as it asks for in a single process,
        and fewer if there are few for each process.
    stamps : int, optional
        How many to measure, from the first; all by default.

    Returns
    -------
    pandas.DataFrame
        The columns of the estimates contract (see `COLUMNS`) and the estimator's extra ones, one row for
        each stamp, in order. Attributes: ``seconds`` (time spent measuring, summed over processes; reading,
        noise, and the first stamps of a process, where code is compiled, are not counted), ``n``, ``kind``,
        ``population``, ``split``, ``sigma``, ``catalog_digest``.

    Raises
    ------
    ShearbenchError
        A process died, or the estimator is not available here.
    """
    unavailable = getattr(estimator, "unavailable", lambda: None)()
    if unavailable:
        raise ShearbenchError(unavailable)
    n = len(stamp_set) if stamps is None else min(stamps, len(stamp_set))
    if batch is None:
        own = getattr(estimator, "batch_size", lambda: None)() if processes == 1 else None
        batch = max(1, min(own or _BATCH, -(-n // (4 * processes))))
    spans = [(start, min(start + batch, n)) for start in range(0, n, batch)]
    progress = _Progress(n)
    parts: dict[int, _Part] = {}
    setup = (estimator, stamp_set.paths, sigma, seed)
    for part in _measure_here(*setup, spans) if processes == 1 else _measure_apart(*setup, spans, processes):
        parts[part.start] = part
        progress.advance(len(part.table))
    ordered = [parts[start] for start, _ in spans]
    raised = sum(part.raised for part in ordered)
    if raised:
        cause = next(part.cause for part in ordered if part.cause)
        log.warning("%s raised on %d of %d stamps; the first: %s", estimator.kind, raised, n, cause)
    table = pd.concat([part.table for part in ordered], ignore_index=True)
    return labelled(table, stamp_set, sigma, estimator.kind, sum(part.seconds for part in ordered))


@dataclass
class _Part:
    """The measurements of some consecutive stamps."""

    start: int
    table: pd.DataFrame
    seconds: float
    raised: int
    cause: str | None


def _measure_here(
    estimator: Measurer, paths: Sequence[Path], sigma: float, seed: int, spans: list[tuple[int, int]]
) -> Iterator[_Part]:
    stamps = StampSet(paths)
    for index, (start, stop) in enumerate(spans):
        (batch,) = stamps.batches(sigma, seed, stop - start, start, stop)
        if index == 0:
            # Compile and load what the estimator needs; what goes wrong here goes wrong again below. Two
            # stamps, because torch compiles for any number of them from two on.
            with contextlib.suppress(Exception):
                estimator.measure(batch.select(slice(0, 2)))
        yield _measure_batch(estimator, batch, start)


_worker: tuple[Measurer, StampSet, float, int]


def _start_worker(parent: int, estimator: Measurer, paths: Sequence[Path], sigma: float, seed: int) -> None:
    global _worker
    end_with(parent)
    stamps = StampSet(paths)
    _worker = (estimator, stamps, sigma, seed)
    with contextlib.suppress(Exception):
        estimator.measure(next(stamps.batches(sigma, seed, 1)))


def _measure_span(start: int, stop: int) -> _Part:
    estimator, stamps, sigma, seed = _worker
    (batch,) = stamps.batches(sigma, seed, stop - start, start, stop)
    return _measure_batch(estimator, batch, start)


def _measure_apart(
    estimator: Measurer,
    paths: Sequence[Path],
    sigma: float,
    seed: int,
    spans: list[tuple[int, int]],
    processes: int,
) -> Iterator[_Part]:
    # Fork would copy locks held by the threads of BLAS, numba and torch.
    context = multiprocessing.get_context("spawn")
    arguments = (os.getpid(), estimator, paths, sigma, seed)
    with ProcessPoolExecutor(min(processes, len(spans)), context, _start_worker, arguments) as pool:
        with _environment_of_workers(), deaf_to_interrupts():
            futures: list[Future[_Part]] = [pool.submit(_measure_span, *span) for span in spans]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise ShearbenchError(
                f"a process measuring with {estimator.kind} died, perhaps for lack of memory; run again with "
                "fewer processes or a smaller batch"
            ) from error
        except BaseException as error:
            if not isinstance(error, Exception):  # an interrupt waits for no batch
                for child in multiprocessing.active_children():
                    child.kill()
            pool.shutdown(cancel_futures=True)
            raise


@contextlib.contextmanager
def _environment_of_workers() -> Iterator[None]:
    """Give new processes one thread each, no GPU, and a main module that is not the caller's.

    A spawned process runs the main module again before it takes work. A script of the workflow must not run
    twice, and workers need nothing of it.
    """
    changes = {"CUDA_VISIBLE_DEVICES": "", **{f"{name}_NUM_THREADS": "1" for name in _THREADS}}
    before = {name: os.environ.get(name) for name in changes}
    main = sys.modules["__main__"]
    os.environ.update(changes)
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _measure_batch(estimator: Measurer, batch: StampBatch, start: int) -> _Part:
    n = len(batch)
    finite = np.isfinite(batch.images).all(axis=(1, 2)) & np.isfinite(batch.psf).all(axis=(-2, -1))
    good = np.asarray(finite)
    bad = Shapes.failed(n, Flag.BAD_PIXELS)
    table = pd.DataFrame(
        {"g1": bad.g1, "g2": bad.g2, "g1_err": bad.g1_err, "g2_err": bad.g2_err, "flag": bad.flag}
    )
    if not good.any():
        return _Part(start, table, 0.0, 0, None)
    usable = batch if good.all() else batch.select(good)
    raised, cause = 0, None
    began = time.perf_counter()
    try:
        measured = shapes_table(estimator.measure(usable), len(usable))
    except (ImportError, MemoryError):
        raise
    except Exception:
        rows = []
        for index in range(len(usable)):
            try:
                rows.append(shapes_table(estimator.measure(usable.select(slice(index, index + 1))), 1))
            except (ImportError, MemoryError):
                raise
            except Exception as error:
                rows.append(shapes_table(Shapes.failed(1, Flag.FAILED), 1))
                raised += 1
                cause = cause or f"galaxy_id {usable.galaxy_id[index]}: {type(error).__name__}: {error}"
        measured = pd.concat(rows, ignore_index=True)
    seconds = time.perf_counter() - began
    bounded = not getattr(estimator, "ensemble_response", False)
    g1, g2 = measured["g1"].to_numpy(), measured["g2"].to_numpy()
    with np.errstate(invalid="ignore"):
        possible = np.isfinite(g1) & np.isfinite(g2) & (~bounded | (np.hypot(g1, g2) < 1))
    measured.loc[(measured["flag"] == 0) & ~possible, "flag"] = int(Flag.OUT_OF_RANGE)
    wrong = impossible_error(measured["g1_err"]) | impossible_error(measured["g2_err"])
    measured.loc[(measured["flag"] == 0) & wrong, "flag"] = int(Flag.SINGULAR)
    if good.all():
        table = measured
    else:
        measured.index = pd.Index(np.flatnonzero(good))
        table = measured.reindex(range(n))
        table["flag"] = table["flag"].fillna(int(Flag.BAD_PIXELS)).astype(np.int64)
    return _Part(start, table, seconds, raised, cause)


class _Progress:
    """Stamps done, stamps a second and time left, on stderr: one live line, or a line at times in a log."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0
        self.began = self.shown = time.monotonic()
        self.live = sys.stderr.isatty()

    def advance(self, stamps: int) -> None:
        self.done += stamps
        now = time.monotonic()
        if self.done < self.total and now - self.shown < (0.2 if self.live else 10.0):
            return
        self.shown = now
        rate = self.done / max(now - self.began, 1e-9)
        left = (self.total - self.done) / rate
        line = f"{self.done}/{self.total} stamps, {rate:.0f} stamps/s, {left:.0f} s left"
        end = "" if self.live and self.done < self.total else "\n"
        print(f"\r\033[K{line}" if self.live else line, end=end, file=sys.stderr, flush=True)
