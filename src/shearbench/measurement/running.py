"""Runs an estimator over the stamps of a split, in batches and on several processes; failures are flagged."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import sys
import time
import types
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
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
    """An `Estimator`, or another object that measures batches and can be pickled, for `measure_stamps`."""

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
    """Measure all stamps of a split, or the first ones, with noise of standard deviation `sigma`.

    Stamps with NaN or infinite values in image or PSF are flagged and not passed to the estimator. If the
    estimator raises an error on a batch, the batch is measured again stamp by stamp, and only the stamps that
    raise again are flagged as failed. The result does not depend on `batch` or `processes`.

    Parameters
    ----------
    estimator : Measurer
    stamp_set : StampSet
    sigma : float
        Noise per pixel.
    seed : int
        The run's seed, which determines the noise.
    processes : int
        Number of processes. If more than one, new processes share the work; each has one thread and no GPU,
        and opens the files itself.
    batch : int, optional
        Number of stamps that the estimator gets together. The default is 512, or with a single process the
        estimator's own ``batch_size``, and less if each process has few stamps.
    stamps : int, optional
        Number of stamps to measure, from the first; all by default.

    Returns
    -------
    pandas.DataFrame
        One row for each stamp, in order: the columns of `shearbench.data.estimates.COLUMNS` and the
        estimator's extra ones. Attributes: ``seconds`` (time spent measuring, summed over processes, without
        reading, drawing noise, and a first call of each process, which compiles code), ``n``, ``kind``,
        ``population``, ``split``, ``sigma``, ``catalog_digest``.

    Raises
    ------
    ShearbenchError
        A process died, or the estimator cannot run on this machine.
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
    setup = (estimator, stamp_set, sigma, seed)
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
    estimator: Measurer, stamps: StampSet, sigma: float, seed: int, spans: list[tuple[int, int]]
) -> Iterator[_Part]:
    for index, (start, stop) in enumerate(spans):
        (batch,) = stamps.batches(sigma, seed, stop - start, start, stop)
        if index == 0:
            # A first call, not timed, compiles and loads the estimator's code. An error is ignored, because
            # it occurs again below. Two stamps: code that torch compiles for one does not serve for more.
            with contextlib.suppress(Exception):
                estimator.measure(batch.select(slice(0, 2)))
        yield measure_batch(estimator, batch, start)


_worker: tuple[Measurer, StampSet, float, int]


def _start_worker(parent: int, estimator: Measurer, stamps: StampSet, sigma: float, seed: int) -> None:
    global _worker
    end_with(parent)
    _worker = (estimator, stamps, sigma, seed)
    with contextlib.suppress(Exception):
        estimator.measure(next(stamps.batches(sigma, seed, 1)))


def _measure_span(start: int, stop: int) -> _Part:
    estimator, stamps, sigma, seed = _worker
    (batch,) = stamps.batches(sigma, seed, stop - start, start, stop)
    return measure_batch(estimator, batch, start)


def _measure_apart(
    estimator: Measurer,
    stamps: StampSet,
    sigma: float,
    seed: int,
    spans: list[tuple[int, int]],
    processes: int,
) -> Iterator[_Part]:
    # Fork would copy locks held by the threads of BLAS, numba and torch.
    context = multiprocessing.get_context("spawn")
    arguments = (os.getpid(), estimator, stamps, sigma, seed)
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
            if not isinstance(error, Exception):  # an interrupt: do not wait for the running batches
                for child in multiprocessing.active_children():
                    child.kill()
            pool.shutdown(cancel_futures=True)
            raise


@contextlib.contextmanager
def _environment_of_workers() -> Iterator[None]:
    """Make the processes started in the block have one thread, no GPU and an empty main module.

    A spawned process first runs the main module of its parent. That may be a script of the workflow, which
    must not run twice.
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


def measure_batch(estimator: Measurer, batch: StampBatch, start: int) -> _Part:
    """Measure a batch whose first stamp has the number `start`; an error of the estimator flags its stamp."""
    n = len(batch)
    if batch.mask is not None and getattr(estimator, "weighs_masks", False):
        # The values of masked pixels do not matter, so that none needs to be interpolated.
        images = np.where(batch.mask & np.isnan(batch.images), np.float32(0), batch.images)
        batch = replace(batch, images=images)
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
        measured = _measured(estimator, usable)
    except (ImportError, MemoryError):
        raise
    except Exception:
        rows = []
        for index in range(len(usable)):
            try:
                rows.append(_measured(estimator, usable.select(slice(index, index + 1))))
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


def _measured(estimator: Measurer, batch: StampBatch) -> pd.DataFrame:
    """Measure a batch, the stamps of each noise level together."""
    tables = []
    for places, part in batch.of_one_noise_level():
        table = shapes_table(estimator.measure(part), len(part))
        tables.append(table.set_axis(places))
    return tables[0] if len(tables) == 1 else pd.concat(tables).sort_index()


class _Progress:
    """Prints stamps done, stamps per second and time left to stderr.

    On a terminal, one line is updated; in a log, a line is added every ten seconds.
    """

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
