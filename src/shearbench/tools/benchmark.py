"""Speed and memory of this project's code compared with other packages: the table of ``make bench``.

In each comparison, the two sides process the same inputs in the same process, in turn and several times. The
ratio is the median of the ratios of single rounds, so that it changes little if the machine is slower for a
while. Rates are for one core and per second of processor time. Only ratios can be compared between machines.
"""

from __future__ import annotations

import contextlib
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import galsim
import numpy as np
import pandas as pd
import psutil
from numpy.typing import NDArray

from shearbench.data.noise import unit_noise
from shearbench.data.stamps import StampBatch, StampSet, write_stamps
from shearbench.estimators import estimator_presets, make_estimator
from shearbench.estimators.base import Estimator
from shearbench.estimators.ngmix import Ngmix
from shearbench.files.text import write_csv
from shearbench.measurement.running import measure_stamps
from shearbench.simulation.catalog import sample_catalog
from shearbench.simulation.galsim_stamps import draw_stamps, versions
from shearbench.simulation.populations import PRESETS, Population
from shearbench.training.variants import Variant

if TYPE_CHECKING:
    from shearbench.tasks.shear.network import ShearNetwork

COLUMNS = ("name", "ours", "peer", "ratio", "unit", "n", "machine")
OUTPUT = "results/bench/bench.csv"

SHAPE, PIXEL_SCALE, SEED = (48, 48), 0.2, 1
NOISE_LEVELS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
_SIGMA = 1e-3  # noise per pixel in comparisons that hardly depend on it
_SPLIT = "test"
_SHORTEST = 0.2  # shortest duration of a timing [s]
_SAMPLING = 0.005  # time between two readings of a process's memory [s]

# Rates are those of a core, also on a machine with a GPU.
_ON_CPU = {"device": "cpu"}
_FIT = {"kind": "mixture", "model": "exp", **_ON_CPU}

Images = NDArray[np.float32]
T = TypeVar("T")
Work = Callable[[T], Any]


@dataclass(frozen=True)
class Comparison(Generic[T]):
    """A comparison of this project's code with a peer: another package, or the same work done another way.

    Attributes
    ----------
    name : str
    unit : str
        Unit of the measured number.
    n : int
        Number of stamps, galaxies or PSFs in the inputs.
    inputs : object
        The inputs of both sides.
    ours, peer : callable
        The two sides; each takes the inputs.
    measure : callable
        It takes a side and the inputs, and returns a number in `unit`.
    rounds : int
        Number of times that each side is measured.
    warm_up : bool
        Whether each side runs once before the first round, to compile code and to fill caches.
    """

    name: str
    unit: str
    n: int
    inputs: T
    ours: Work[T]
    peer: Work[T]
    measure: Callable[[Work[T], T], float]
    rounds: int = 5
    warm_up: bool = True


def compare(comparison: Comparison[T]) -> dict[str, Any]:
    """Run a comparison.

    Returns
    -------
    dict
        ``name, ours, peer, ratio, unit, n``: medians over the rounds, of each side and of ours / peer.
    """
    sides = (comparison.ours, comparison.peer)
    if comparison.warm_up:
        for side in sides:
            side(comparison.inputs)
    found = np.empty((comparison.rounds, 2))
    for index in range(comparison.rounds):
        # The order changes from round to round, so that neither side always runs after the other.
        for column in (0, 1) if index % 2 == 0 else (1, 0):
            found[index, column] = comparison.measure(sides[column], comparison.inputs)
    ours, peer = np.median(found, axis=0)
    return {
        "name": comparison.name,
        "ours": float(ours),
        "peer": float(peer),
        "ratio": statistics.median(found[:, 0] / found[:, 1]),
        "unit": comparison.unit,
        "n": comparison.n,
    }


def cpu_rate(n: int) -> Callable[[Work[T], T], float]:
    """Return a function that measures how many of n inputs a side processes per second of processor time."""

    def measure(work: Work[T], inputs: T) -> float:
        calls, start = 0, time.process_time()
        while True:
            work(inputs)
            calls += 1
            spent = time.process_time() - start
            if spent >= _SHORTEST:
                return n * calls / spent

    return measure


def wall_rate(work: Work[StampSet], stamps: StampSet) -> float:
    """Return how many stamps a side processes per second of wall time, without the start of its processes.

    The time for the stamps of the first file is subtracted from the time for all stamps.
    """
    seconds = []
    few = StampSet(stamps.paths[:1])
    for some in (few, stamps):
        start = time.perf_counter()
        work(some)
        seconds.append(time.perf_counter() - start)
    return (len(stamps) - len(few)) / (seconds[1] - seconds[0])


def peak_memory(command: list[str]) -> float:
    """Run a program and return the peak of its memory (resident set) [MB].

    The memory is read from outside, because the value that Linux gives to the process itself includes the
    memory of its parent at the start.
    """
    peak = 0
    with subprocess.Popen(command) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                peak = max(peak, watched.memory_info().rss)
            time.sleep(_SAMPLING)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return peak / 1e6


def bare_galsim(rows: pd.DataFrame, population: Population, draw_psf: bool = False) -> tuple[Images, Images]:
    """Draw galaxies in the plainest loop over GalSim's ``drawImage``.

    Parameters
    ----------
    rows : pandas.DataFrame
        Catalog rows.
    population : Population
        Of exponential, Gaussian or Sersic galaxies under a Gaussian or Moffat PSF.
    draw_psf : bool
        Whether to draw each galaxy's PSF too, where they differ.

    Returns
    -------
    images : ndarray of float32, shape (n, ny, nx)
    psfs : ndarray of float32, shape (n, ny, nx)
        Empty unless drawn.
    """
    ny, nx = SHAPE
    psf_model, galaxy_model = population.psf, population.profile
    images = np.empty((len(rows), ny, nx), np.float32)
    psfs = np.empty((len(rows) if draw_psf and not psf_model.constant else 0, ny, nx), np.float32)
    for index, row in enumerate(rows.itertuples(index=False)):
        if index == 0 or not psf_model.constant:
            if psf_model.profile == "moffat":
                psf = galsim.Moffat(beta=psf_model.moffat_beta, fwhm=row.psf_fwhm)
            else:
                psf = galsim.Gaussian(fwhm=row.psf_fwhm)
            psf = psf.shear(g1=row.psf_g1, g2=row.psf_g2)
        if len(psfs):
            precise = psf.withGSParams(maxk_threshold=1e-5)
            psfs[index] = precise.drawImage(nx=nx, ny=ny, scale=PIXEL_SCALE).array
        if galaxy_model == "exponential":
            galaxy = galsim.Exponential(half_light_radius=row.hlr, flux=row.flux)
        elif galaxy_model == "gaussian":
            galaxy = galsim.Gaussian(half_light_radius=row.hlr, flux=row.flux)
        else:
            galaxy = galsim.Sersic(n=row.sersic_n, half_light_radius=row.hlr, flux=row.flux)
        galaxy = galaxy.shear(g1=row.g1, g2=row.g2).shift(row.dx, row.dy)
        images[index] = galsim.Convolve(galaxy, psf).drawImage(nx=nx, ny=ny, scale=PIXEL_SCALE).array
    return images, psfs


def finite_difference_bounds(rows: pd.DataFrame, population: Population) -> NDArray[np.float64]:
    """Return the Cramer-Rao bounds on g1 and g2 from central differences of GalSim's images.

    Returns
    -------
    ndarray of float64, shape (n, 2)
        For unit noise per pixel.
    """
    steps = {"dx": 0.01, "dy": 0.01, "hlr": 0.01, "g1": 0.01, "g2": 0.01}
    if population.profile == "sersic":
        # GalSim makes a table for each index. With this step, the indices are those of other galaxies.
        steps["sersic_n"] = population.sersic_n_step
    images, _ = bare_galsim(rows, population)
    derivatives = [images / rows["flux"].to_numpy(np.float32)[:, None, None]]
    for name, step in steps.items():
        high, low = (bare_galsim(rows.assign(**{name: rows[name] + h}), population)[0] for h in (step, -step))
        derivatives.append((high - low) / np.float32(2 * step))
    stacked = np.stack(derivatives, axis=1).reshape(len(rows), len(derivatives), -1).astype(np.float64)
    inverse = np.linalg.inv(stacked @ stacked.transpose(0, 2, 1))
    shape = [1 + list(steps).index(name) for name in ("g1", "g2")]
    return np.sqrt(np.diagonal(inverse, axis1=1, axis2=2)[:, shape])


def noise_one_by_one(noise_id: NDArray[np.int64]) -> Images:
    """Draw the fields of `shearbench.data.noise.unit_noise` with a generator made for each."""
    fields = [
        np.random.Generator(np.random.Philox(key=[SEED, number])).standard_normal(SHAPE, np.float32)
        for number in noise_id.tolist()
    ]
    return np.stack(fields)


def simulate(name: str, galaxies: int, path: str | os.PathLike[str]) -> None:
    """Sample galaxies of a preset population, draw them, and write the stamps, as the workflow does."""
    population, rows = _sample(name, galaxies)
    write_stamps(
        path,
        draw_stamps(rows, population, SHAPE, PIXEL_SCALE),
        rows["galaxy_id"].to_numpy(),
        rows["noise_id"].to_numpy(),
        SHAPE,
        per_galaxy_psf=not population.psf.constant,
        attributes={
            "population": name,
            "split": _SPLIT,
            "pixel_scale": PIXEL_SCALE,
            "catalog_digest": rows.attrs["digest"],
            **versions(),
        },
    )


def simulation(name: str, stamps: int) -> Comparison[pd.DataFrame]:
    """Compare `draw_stamps` with the bare loop: equal images, and equal PSFs where they vary."""
    population, rows = _sample(name, stamps)
    return Comparison(
        name=f"simulation {name} vs bare GalSim loop",
        unit="stamps/s",
        n=stamps,
        inputs=rows,
        ours=lambda rows: list(draw_stamps(rows, population, SHAPE, PIXEL_SCALE)),
        peer=lambda rows: bare_galsim(rows, population, draw_psf=True),
        measure=cpu_rate(stamps),
    )


def rendering(name: str, stamps: int) -> Comparison[pd.DataFrame]:
    """Compare our renderer, accurate to 1e-6 of the flux, with GalSim's default accuracy."""
    import torch

    from shearbench.data.catalogs import PARAMETER_COLUMNS as CATALOG
    from shearbench.forward_model.accuracy import renderer_for

    population, rows = _sample(name, stamps)
    renderer = renderer_for(rows, population.profile, SHAPE, PIXEL_SCALE, 1e-6)

    def render(rows: pd.DataFrame) -> Images:
        columns = rows.iloc[:1] if population.psf.constant else rows
        shapes = torch.from_numpy(columns[["psf_fwhm", "psf_g1", "psf_g2"]].to_numpy(np.float64, copy=True))
        values = rows[[CATALOG[name] for name in renderer.names]].to_numpy(np.float64, copy=True)
        with torch.no_grad():
            psf = renderer.psf(rows.attrs["psf"], *shapes.unbind(1))
            return renderer(torch.from_numpy(values), psf).numpy()

    return Comparison(
        name=f"rendering {name} by Fourier vs bare GalSim loop",
        unit="stamps/s",
        n=stamps,
        inputs=rows,
        ours=render,
        peer=lambda rows: bare_galsim(rows, population)[0],
        measure=cpu_rate(stamps),
    )


def noise(stamps: int) -> Comparison[NDArray[np.int64]]:
    """Compare `unit_noise` with numpy's generator made for each stamp: equal fields."""
    return Comparison(
        name="noise vs a numpy Generator per stamp",
        unit="stamps/s",
        n=stamps,
        inputs=np.arange(stamps, dtype=np.int64),
        ours=lambda noise_id: unit_noise(SEED, noise_id, SHAPE),
        peer=noise_one_by_one,
        measure=cpu_rate(stamps),
    )


def bounds(name: str, galaxies: int) -> Comparison[pd.DataFrame]:
    """Compare `cramer_rao` with finite differences of GalSim's images."""
    from shearbench.bounds.cramer_rao import cramer_rao

    population, rows = _sample(name, galaxies)
    return Comparison(
        name=f"bounds {name} vs differences of GalSim images",
        unit="galaxies/s",
        n=galaxies,
        inputs=rows,
        ours=lambda rows: cramer_rao(rows, PIXEL_SCALE, SHAPE)[["crb_g1", "crb_g2"]].to_numpy(),
        peer=lambda rows: finite_difference_bounds(rows, population),
        measure=cpu_rate(galaxies),
        rounds=3,
    )


def fits(sigma: float, stamps: int) -> Comparison[StampBatch]:
    """Compare the mixture fit with ngmix: an exponential with ngmix's prior, on `exp_gauss`."""
    return _measurement(f"fit exp at noise {sigma:g} vs ngmix", _FIT, "ngmix-exp", sigma, stamps)


def metacalibration(stamps: int) -> Comparison[StampBatch]:
    """Compare metacalibration of the mixture fit with ngmix's own, both with a Gaussian."""
    ours = {"kind": "metacal", "estimator": "mixture-gauss", "options": _ON_CPU}
    return _measurement("metacal gauss vs ngmix", ours, "ngmix-metacal", _SIGMA, stamps)


def _measurement(
    name: str, ours: dict[str, Any], peer: str, sigma: float, stamps: int
) -> Comparison[StampBatch]:
    return Comparison(
        name=name,
        unit="stamps/s",
        n=stamps,
        inputs=noisy_batch("exp_gauss", sigma, stamps),
        ours=make_estimator(ours).measure,
        peer=_estimator(peer).measure,
        measure=cpu_rate(stamps),
    )


def psf_fits(psfs: int) -> Comparison[Images]:
    """Compare fits of three co-elliptical Gaussians to Moffat PSFs with ngmix's."""
    from shearbench.measurement.mixture.fit import fit_psf

    fitter = Ngmix(psf_model="coellip3").fitter(PIXEL_SCALE)
    return Comparison(
        name="PSF fit coellip3 of Moffat vs ngmix",
        unit="PSFs/s",
        n=psfs,
        inputs=noisy_batch("sersic_moffat", _SIGMA, psfs).psf,
        ours=lambda images: fit_psf(images, PIXEL_SCALE, "coellip3"),
        peer=lambda images: [fitter.psf(image) for image in images],
        measure=cpu_rate(psfs),
    )


def inference(variant: str, stamps: int) -> Comparison[StampBatch]:
    """Compare a network with fits by ngmix; it is untrained, because its speed does not depend on weights."""
    import torch

    from shearbench.tasks.shear.prediction import BATCH
    from shearbench.training.recipe import Recipe
    from shearbench.training.variants import resolve_variant

    batch = noisy_batch("exp_gauss", _SIGMA, stamps)
    network = _untrained(resolve_variant(variant, {}, Recipe()), batch).eval()

    def infer(batch: StampBatch) -> NDArray[np.float32]:
        parts = []
        psf = torch.from_numpy(batch.psf)
        with torch.inference_mode():
            for images in torch.from_numpy(batch.images).split(BATCH["cpu"]):
                parts.append(network(images, psf, images.new_tensor(batch.sigma)).shapes)
            return torch.cat(parts).numpy()

    return Comparison(
        name=f"inference of network {variant} vs ngmix exp",
        unit="stamps/s",
        n=stamps,
        inputs=batch,
        ours=infer,
        peer=_estimator("ngmix-exp").measure,
        measure=cpu_rate(stamps),
    )


def training(variant: str) -> Comparison[Any]:
    """Compare the steps of a training, without rendering, with what the device's peak rates allow."""
    import torch

    from shearbench.tools.efficiency import step_efficiency
    from shearbench.training.recipe import Recipe
    from shearbench.training.variants import resolve_variant

    chosen = resolve_variant(variant, {}, Recipe())
    batch = noisy_batch("exp_gauss", _SIGMA, chosen.training.batch_size)
    network = _untrained(chosen, batch).train()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.to(device)
    images, psf = (torch.from_numpy(pixels).to(device) for pixels in (batch.images, batch.psf))
    sigma = torch.tensor(batch.sigma, device=device)

    def step() -> None:
        network(images, psf, sigma).shapes.square().mean().backward()

    def measured(key: str) -> Callable[[Any], float]:
        return lambda _: step_efficiency(step, chosen.training, device)[key]

    return Comparison(
        name=f"forward and backward of network {variant} vs roofline of the {device.type}",
        unit="stamps/s",
        n=len(images),
        inputs=None,
        ours=measured("stamps_per_second"),
        peer=measured("limit"),
        measure=lambda side, given: side(given),
        rounds=3,
        warm_up=False,
    )


def trainings_together(
    folder: str | os.PathLike[str], variant: str, seeds: int, galaxies: int
) -> Iterator[Comparison[Any]]:
    """Compare training steps of several seeds computed at once with the same steps one after the other.

    The steps are complete: they draw, render and rotate stamps, and change the weights. The first comparison
    counts the operations launched, because a GPU launches only a limited number per second; the second
    compares the rates.

    Parameters
    ----------
    folder : path-like
        For the stamps.
    variant : str
        A preset's name.
    seeds : int
        How many.
    galaxies : int
        Of the training split.
    """
    import torch

    from shearbench.tasks.shear.data import Splits
    from shearbench.tasks.shear.train import ShearTask
    from shearbench.tools.efficiency import Cost, seconds_each
    from shearbench.training.loop import Training
    from shearbench.training.recipe import Recipe
    from shearbench.training.variants import resolve_variant
    from shearbench.training.workers import Workers

    name, path = "exp_gauss", Path(folder, "together.h5")
    simulate(name, galaxies, path)
    population, catalog = _sample(name, galaxies)
    stamps = StampSet([path])
    chosen = resolve_variant(variant, {}, Recipe())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    task = ShearTask.of(Splits(stamps, stamps, catalog, catalog), chosen, population, variant)

    def steps(*seeds: int) -> Callable[[], None]:
        objective = task.start(seeds, device, Workers())
        training = Training(objective, task.recipe, seeds)
        objective.start_epoch(0)
        training.step = start = objective.comparable_after  # with the forward model, if there is one
        return lambda: training._step(0, 2 * start + 1000)

    together = steps(*range(seeds))
    alone = [steps(seed) for seed in range(seeds)]

    def launches(work: Work[None], inputs: None) -> float:
        with Cost() as cost:
            work(inputs)
        return len(cost.operations)

    def rate(work: Work[None], inputs: None) -> float:
        return stamps_shown / seconds_each(lambda: work(inputs), device)

    stamps_shown = seeds * chosen.training.batch_size
    for what, unit, measure in (("launches", "operations", launches), ("steps", "stamps/s", rate)):
        yield Comparison(
            name=f"{what} of {seeds} seeds of {variant} together vs alone, {device.type}",
            unit=unit,
            n=stamps_shown,
            inputs=None,
            ours=lambda _: together(),
            peer=lambda _: [step() for step in alone],
            measure=measure,
        )


def _untrained(variant: Variant, batch: StampBatch) -> ShearNetwork:
    """Return a network with its scaling fitted to a batch."""
    import torch

    from shearbench.tasks.shear.network import ShearNetwork

    architecture = variant.make().adapted(Population())
    network = ShearNetwork(architecture, SHAPE, PIXEL_SCALE, per_galaxy_psf=False)
    parameters = torch.rand(len(batch), len(architecture.targets))
    network.fit_scaling(torch.from_numpy(batch.images), torch.from_numpy(batch.psf), parameters)
    return network


def two_cores(folder: str | os.PathLike[str], stamps: int) -> Comparison[StampSet]:
    """Compare the mixture fit in two processes with one process: wall time, including reading and noise.

    Parameters
    ----------
    folder : path-like
        Where the stamps are written.
    stamps : int
        A tenth of them is drawn, and read ten times.
    """
    path = Path(folder, "stamps.h5")
    simulate("exp_gauss", stamps // 10, path)
    estimator = make_estimator(_FIT)

    def fit(processes: int) -> Callable[[StampSet], pd.DataFrame]:
        def work(stamp_set: StampSet) -> pd.DataFrame:
            with contextlib.redirect_stderr(io.StringIO()):  # a progress line of its own
                return measure_stamps(estimator, stamp_set, _SIGMA, SEED, processes)

        return work

    return Comparison(
        name="fit exp on two cores vs one (wall time)",
        unit="stamps/s",
        n=stamps,
        inputs=StampSet([path] * 10),
        ours=fit(2),
        peer=fit(1),
        measure=wall_rate,
        rounds=3,
        warm_up=False,
    )


def memory(folder: str | os.PathLike[str], stamps: int) -> Comparison[int]:
    """Compare the peak memory of a simulation of 4 n stamps with that of n stamps, each in a new process."""

    def program(times: int) -> Callable[[int], list[str]]:
        path = str(Path(folder, "memory.h5"))
        return lambda n: [
            sys.executable,
            "-c",
            f"from shearbench.jobs.processes import end_with; end_with({os.getpid()})\n"
            f"from shearbench.tools.benchmark import simulate; simulate('exp_gauss', {times * n}, {path!r})",
        ]

    return Comparison(
        name="memory of simulating 4 n stamps vs n",
        unit="MB",
        n=stamps,
        inputs=stamps,
        ours=program(4),
        peer=program(1),
        measure=lambda side, n: peak_memory(side(n)),
        rounds=1,
        warm_up=False,
    )


def noisy_batch(name: str, sigma: float, stamps: int) -> StampBatch:
    """Return the first stamps of a preset population, with noise.

    Parameters
    ----------
    name : str
        The population.
    sigma : float
        Noise per pixel.
    stamps : int
    """
    population, rows = _sample(name, stamps)
    images, psfs = zip(*draw_stamps(rows, population, SHAPE, PIXEL_SCALE))
    noise_id = rows["noise_id"].to_numpy()
    return StampBatch(
        images=np.concatenate(images) + np.float32(sigma) * unit_noise(SEED, noise_id, SHAPE),
        psf=psfs[0] if population.psf.constant else np.concatenate(psfs),
        sigma=sigma,
        pixel_scale=PIXEL_SCALE,
        galaxy_id=rows["galaxy_id"].to_numpy(),
        noise_id=noise_id,
    )


def comparisons(folder: str | os.PathLike[str], size: float = 1.0) -> Iterator[Comparison[Any]]:
    """Yield all comparisons that this machine allows; each is prepared when it is yielded.

    Parameters
    ----------
    folder : path-like
        Folder for temporary files.
    size : float
        Factor that multiplies the numbers of stamps.
    """

    def count(full: int) -> int:
        return max(10, round(size * full))

    for name in ("exp_gauss", "gauss_gauss", "sersic_moffat"):
        yield simulation(name, count(256))
    yield memory(folder, count(2000))
    yield noise(count(1000))
    for name in ("exp_gauss", "sersic_moffat"):
        yield rendering(name, count(256))
    for name, galaxies in (("exp_gauss", 512), ("sersic_moffat", 384)):
        yield bounds(name, count(galaxies))
    if Ngmix().unavailable() is None:
        for sigma in NOISE_LEVELS:
            yield fits(sigma, count(128))
        yield psf_fits(count(64))
        yield metacalibration(count(32))
        for variant in ("shearnet", "whitened", "refined"):
            yield inference(variant, count(2000))
    for variant in ("shearnet", "whitened", "refined"):
        yield training(variant)
    for variant in ("shearnet", "whitened", "refined"):
        yield from trainings_together(folder, variant, 5, max(512, count(1024)))
    yield two_cores(folder, count(20000))


def benchmark(output: str | os.PathLike[str], size: float = 1.0) -> pd.DataFrame:
    """Run all comparisons, show the table as it grows, and write it.

    Parameters
    ----------
    output : path-like
        CSV file, with the columns `COLUMNS`.
    size : float
        As for `comparisons`.

    Returns
    -------
    pandas.DataFrame
    """
    import torch

    from shearbench.jobs.torch_settings import torch_settings
    from shearbench.paper.manifest import machine

    here = machine()
    start, rows = time.perf_counter(), []
    print(f"== bench: {here['cpu']}, {here['cores']} cores; ratio = ours / peer, medians over rounds")
    if os.getloadavg()[0] > 0.5:
        print(
            f"   other programs are running (load {os.getloadavg()[0]:.1f}): ratios are valid, except "
            "perhaps that of two cores"
        )
    if missing := Ngmix().unavailable():
        print(f"   no rows for fits, PSF fits, metacal and inference: {missing}")
    print(f"{'':54s}{'ours':>10s}{'peer':>10s}{'ratio':>9s}  unit")
    with torch_settings(1, SEED, torch.device("cpu")), tempfile.TemporaryDirectory() as folder:
        for comparison in comparisons(folder, size):
            print(f"{comparison.name:54s}", end="", flush=True)
            row = compare(comparison)
            rows.append(row)
            numbers = "".join(f"{_short(row[key]):>{width}s}" for key, width in _WIDTHS.items())
            print(f"{numbers}  {row['unit']:12s}[{time.perf_counter() - start:4.0f} s]", flush=True)
    table = pd.DataFrame(rows).assign(machine=f"{here['cpu']}, {here['cores']} cores")[list(COLUMNS)]
    write_csv(output, table)
    print(f"== {output}: {len(table)} rows in {time.perf_counter() - start:.0f} s")
    return table


_WIDTHS = {"ours": 10, "peer": 10, "ratio": 9}


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _sample(name: str, galaxies: int) -> tuple[Population, pd.DataFrame]:
    population = Population(**PRESETS[name])
    return population, sample_catalog(population, name, _SPLIT, galaxies, SEED, PIXEL_SCALE)


def _estimator(preset: str) -> Estimator:
    return make_estimator(estimator_presets()[preset])


if __name__ == "__main__":
    benchmark(sys.argv[1] if len(sys.argv) > 1 else OUTPUT)
