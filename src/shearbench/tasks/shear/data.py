"""Training data on the device: noiseless stamps with their true parameters, and the noise added to them."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from shearbench.data.catalogs import PARAMETER_COLUMNS, read_catalog
from shearbench.data.observing import Observing
from shearbench.data.stamps import RULE, StampSet, read_stamps
from shearbench.errors import ConfigError, ContractError
from shearbench.files.origin import Origin
from shearbench.forward_model.accuracy import renderer_for
from shearbench.forward_model.changes import STEPS, Change
from shearbench.forward_model.fourier import FLUX, HLR, XY, G, Psfs, Renderer
from shearbench.jobs.torch_settings import seeded
from shearbench.networks.modules import dihedral
from shearbench.simulation.catalog import sample_catalog
from shearbench.simulation.populations import Population
from shearbench.tasks.shear.augmentation import AUGMENTATIONS, Stamps, augment, mixes
from shearbench.tasks.shear.labels import Prior, posterior_shift
from shearbench.tasks.shear.observed import draw_masks, observed
from shearbench.training.recipe import Recipe
from shearbench.training.workers import Workers

# Each use of random numbers has a seed that begins with one of these numbers.
_ORDER, _STEP, _FIXED, _FRESH, _AUGMENT, _CHANGE = range(6)

# Of the flux, in a pixel: below the noise of any pixel that is trained on.
_RENDERING_TOLERANCE = 1e-6
_POINT = 1e-4  # half-light radius [arcsec] of a galaxy that serves as a point source


@dataclass(frozen=True)
class Splits:
    """The stamps that a network is trained and validated on, with their catalogs of true parameters."""

    train: StampSet
    validation: StampSet
    train_catalog: pd.DataFrame
    validation_catalog: pd.DataFrame

    @classmethod
    def read(cls, paths: Mapping[str, str], origins: Mapping[str, Origin]) -> Splits:
        """Read the files of both splits.

        Parameters
        ----------
        paths : mapping of str to str
            The file of each attribute.
        origins : mapping of str to Origin
            The origin that each file must have.

        Raises
        ------
        ContractError
            A file cannot be read, is not as it should be, or has another origin.
        """
        train, validation, *catalogs = (paths[one.name] for one in fields(cls))
        return cls(
            read_stamps(train, origins[train]),
            read_stamps(validation, origins[validation]),
            *(read_catalog(path, origins[path]) for path in catalogs),
        )


class Taken(NamedTuple):
    """Noiseless stamps of a part of an epoch: those of the first training, then of the second, and so on.

    Attributes
    ----------
    images : Tensor, shape (n, ny, nx)
    psf : Tensor, shape (ny, nx) or (n, ny, nx)
    truth : Tensor, shape (n, T)
        The true targets.
    shift : tuple of Tensor, optional
        If labels are shifted by the noise: all parameters of the galaxies [n, P], and the information
        [n, P, P] and the score [n, P] of `Renderer.score`.
    """

    images: Tensor
    psf: Tensor
    truth: Tensor
    shift: tuple[Tensor, Tensor, Tensor] | None = None


class Changed(NamedTuple):
    """The stamps of a training step after a small change, with the same noise, see `Recipe.response`.

    Attributes
    ----------
    name : str
        The change, one of `STEPS`.
    images : Tensor, shape (n, ny, nx)
    psf : Tensor, shape (ny, nx) or (n, ny, nx)
    moved : Tensor, shape (n, 2)
        The change of the true shapes.
    """

    name: Change
    images: Tensor
    psf: Tensor
    moved: Tensor


class Batch(NamedTuple):
    """The stamps of a training step.

    Attributes
    ----------
    images : Tensor, shape (n, ny, nx)
    psf : Tensor, shape (ny, nx) or (n, ny, nx)
    sigma : Tensor, shape (n,)
        Standard deviation of the noise [flux per pixel].
    parameters : Tensor, shape (n, T)
        The labels: the true targets, shifted by the noise if the source has a prior.
    changed : tuple of Changed
        The same stamps after each change of `Recipe.changes`.
    """

    images: Tensor
    psf: Tensor
    sigma: Tensor
    parameters: Tensor
    changed: tuple[Changed, ...] = ()


class Source(Protocol):
    """The source of the noiseless stamps of training steps, for one or several trainings at once.

    Attributes
    ----------
    shape : (int, int)
        Rows and columns of a stamp.
    prior : Prior, optional
        Distribution of the parameters, if labels are shifted by the noise.
    """

    shape: tuple[int, int]
    prior: Prior | None

    def start(self, epoch: int) -> None:
        """Prepare an epoch; its stamps depend on the seeds and the epoch only."""

    def take(self, part: slice, noise: Tensor | None = None) -> Taken:
        """Return the noiseless stamps of a part of the epoch.

        Parameters
        ----------
        part : slice
        noise : Tensor, shape (n, ny, nx), optional
            Noise of unit variance, for the score of a source that has a prior.
        """

    def changed(self, part: slice, name: Change, angle: Tensor) -> Taken:
        """Return the noiseless stamps of a part of the epoch after a small change.

        Parameters
        ----------
        part : slice
        name : str
            One of `STEPS`.
        angle : Tensor, shape (trainings, n)
            Direction of the change in the plane of its two components [radians].
        """


@dataclass(frozen=True)
class Examples:
    """Stamps with their true parameters, on one device.

    Attributes
    ----------
    images : Tensor of float32, shape (n, ny, nx)
    psf : Tensor of float32, shape (ny, nx) or (n, ny, nx)
    parameters : Tensor of float32, shape (n, T)
        The true targets.
    targets : tuple of str
        Their names, of `shearbench.forward_model.fourier.parameter_names`.
    observing : Observing
        How pixels are observed.
    """

    images: Tensor
    psf: Tensor
    parameters: Tensor
    targets: tuple[str, ...] = ("g1", "g2")
    observing: Observing = field(default_factory=Observing)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shapes(self) -> Tensor:
        """True g1, g2, shape (n, 2)."""
        at = self.targets.index("g1")
        return self.parameters[:, at : at + 2]

    def first(self, count: int | None) -> Examples:
        """Return the first `count` stamps, or all."""
        part = slice(count)
        images, psf, parameters = self.images[part], self.psf_of(part), self.parameters[part]
        return Examples(images, psf, parameters, self.targets, self.observing)

    def psf_of(self, index: Tensor | slice) -> Tensor:
        """Return the PSFs of some stamps, [n, ny, nx], or the PSF common to all, [ny, nx]."""
        return self.psf if self.psf.ndim == 2 else self.psf[index]


def load_examples(
    stamps: StampSet, catalog: pd.DataFrame, targets: tuple[str, ...], device: torch.device
) -> Examples:
    """Read the stamps of a split to the device, with their true parameters.

    Parameters
    ----------
    stamps : StampSet
    catalog : pandas.DataFrame
        The catalog from which the stamps were drawn, with the attribute ``digest``.
    targets : tuple of str
        Names of the true parameters.
    device : torch.device

    Returns
    -------
    `Examples`

    Raises
    ------
    ContractError
        The stamps were drawn from another catalog, or have NaN or infinite pixels.
    """
    file = stamps.paths[0]
    if catalog.attrs.get("digest") != stamps.catalog_digest:
        raise ContractError.of(
            file,
            "catalog_digest",
            stamps.catalog_digest,
            f"the catalog's {catalog.attrs.get('digest')}",
            RULE,
        )
    if catalog["galaxy_id"].tolist() != stamps.galaxy_id.tolist():
        raise ContractError.of(
            file, "galaxy_id", "other galaxies", "those of the catalog, in its order", RULE
        )
    images, psf = (torch.from_numpy(array) for array in stamps.noiseless())
    for name, pixels in (("images", images), ("psf", psf)):
        if not torch.isfinite(pixels).all():
            raise ContractError.of(file, name, "pixels that are NaN or infinite", "finite fluxes", RULE)
    parameters = _columns(catalog, targets).to(device)
    return Examples(images.to(device), psf.to(device), parameters, targets, stamps.observing)


def _columns(catalog: pd.DataFrame, targets: tuple[str, ...]) -> Tensor:
    columns = [PARAMETER_COLUMNS[name] for name in targets]
    return torch.from_numpy(catalog[columns].to_numpy("float32", copy=True))


def _psf_shapes(catalog: pd.DataFrame) -> Tensor:
    columns = catalog[["psf_fwhm", "psf_g1", "psf_g2"]]
    return torch.from_numpy(columns.to_numpy("float64", copy=True))


class Stored:
    """The stamps of the training split, in another random order in each epoch.

    Parameters
    ----------
    examples : Examples
    count : int
        Number of stamps in an epoch. No stamp is repeated before all have been shown.
    seeds : sequence of int
        The seed of each training.
    """

    prior: Prior | None = None

    def __init__(self, examples: Examples, count: int, seeds: Sequence[int]) -> None:
        self.examples, self.count, self.seeds = examples, count, seeds
        self.shape = (examples.images.shape[1], examples.images.shape[2])
        self.order = torch.zeros(0, 0, dtype=torch.int64)

    def start(self, epoch: int) -> None:
        """Shuffle the stamps of each training for an epoch."""
        n = len(self.examples)
        orders = torch.stack([_shuffled(n, self.count, seed, epoch) for seed in self.seeds])
        self.order = orders.to(self.examples.images.device)

    def take(self, part: slice, noise: Tensor | None = None) -> Taken:
        """Return the noiseless stamps of a part of the epoch."""
        index = self.order[:, part].flatten()
        return Taken(
            self.examples.images[index], self.examples.psf_of(index), self.examples.parameters[index]
        )

    def changed(self, part: slice, name: Change, angle: Tensor) -> Taken:
        """Not possible: stored stamps cannot be rendered again, and `Recipe` refuses it."""
        raise NotImplementedError


def _shuffled(n: int, count: int, seed: int, epoch: int) -> Tensor:
    """Return `count` of the numbers below n, in a random order; none comes again before all have come."""
    generator = seeded(torch.Generator(), _ORDER, seed, epoch)
    rounds = [torch.randperm(n, generator=generator) for _ in range(-(-count // n))]
    return torch.cat(rounds)[:count]


class Rendered:
    """New galaxies of the population in each epoch, or a fixed set of them, rendered step by step.

    Parameters
    ----------
    population : Population
    name : str
        Name of the population.
    catalog : pandas.DataFrame
        Catalog of the training split, from which the ranges of the parameters are taken.
    psf : Tensor, shape (ny, nx) or (n, ny, nx)
        Image of the PSF drawn by GalSim, if all galaxies have the same PSF, or of each of the stored stamps.
        If the PSFs have no formula, each new galaxy takes one of these at random; otherwise only the shape of
        the array is used.
    pixel_scale : float
        Pixel scale [arcsec].
    targets : tuple of str
        Names of the true parameters to return.
    count : int
        Number of galaxies in an epoch.
    seeds : sequence of int
        The seed of each training.
    fixed : int, optional
        Number of galaxies of a fixed set, which are shown in another random order in each epoch. By default
        each epoch has new galaxies.
    shifted : bool
        Whether the labels are shifted by the noise, see `Recipe.labels`.

    Raises
    ------
    ConfigError
        The galaxies of the population cannot be rendered from a formula.
    """

    def __init__(
        self,
        population: Population,
        name: str,
        catalog: pd.DataFrame,
        psf: Tensor,
        pixel_scale: float,
        targets: tuple[str, ...],
        count: int,
        seeds: Sequence[int],
        fixed: int | None = None,
        shifted: bool = False,
    ) -> None:
        if population.unrenderable:
            raise ConfigError(
                f"training.data: 'rendered' needs galaxies with a formula, but of the population '{name}', "
                f"{population.unrenderable}; use 'stored'"
            )
        self.population, self.name, self.targets, self.count = population, name, targets, count
        self.seeds, self.device, self.pixel_scale = seeds, psf.device, pixel_scale
        self.spec, self.run_seed = catalog.attrs["psf"], int(catalog.attrs["seed"])
        self.shape = shape = (psf.shape[-2], psf.shape[-1])
        cheapest = functools.partial(
            renderer_for,
            catalog,
            shape=shape,
            pixel_scale=pixel_scale,
            tolerance=_RENDERING_TOLERANCE,
            device=self.device,
            psf_fwhm=population.psf.fwhm_arcsec,
            psf_g_max=population.psf.largest_shape,
        )
        self.renderer = cheapest(population.model_profile)
        self.psf = psf if population.psf.constant else None
        self.seen = psf if psf.ndim == 3 and not population.psf.has_formula else None
        self.point: Renderer | None = None
        if population.psf.has_formula and not population.psf.constant:
            # An image of a PSF has higher frequencies than those of galaxies.
            self.point = cheapest("gaussian", hlr=(_POINT, _POINT), g_max=0.0)
        self.constant: Psfs | None = None
        if self.psf is not None and population.psf.has_formula:
            self.constant = self._psfs(self.renderer, _psf_shapes(self._table(seeds[0], 0, 1)))
        elif self.psf is not None:
            self.constant = self.renderer.psf_image(self.psf)
        self.parameters = self.truth = self.psf_shapes = torch.zeros(0)
        self.chosen = torch.zeros(0, dtype=torch.int64)
        self.sets = None if fixed is None else [self._table(seed, 0, fixed) for seed in seeds]
        self.prior: Prior | None = None
        if shifted:
            known = _columns(catalog, self.renderer.names).to(self.device)
            self.prior = Prior.of(known, tuple(map(self.renderer.names.index, targets)))

    def _table(self, seed: int, epoch: int, count: int) -> pd.DataFrame:
        """Draw new galaxies, which are not among the stored ones of the training split."""
        block = seeded(torch.Generator(), _FRESH, seed, epoch).initial_seed()
        # With the seed of the run, because it decides which galaxies of a COSMOS catalogue are in which
        # split.
        table = sample_catalog(
            self.population, self.name, "train", count, self.run_seed, self.pixel_scale, first_block=block
        )
        if self.seen is not None:
            table["psf_seen"] = np.random.default_rng(block).integers(0, len(self.seen), count)
        return table

    def _psfs(self, renderer: Renderer, shapes: Tensor) -> Psfs:
        return renderer.psf(self.spec, *shapes.unbind(1))

    def start(self, epoch: int) -> None:
        """Draw the parameters of the galaxies of an epoch, and copy them to the device."""
        if self.sets is None:
            tables = [self._table(seed, epoch, self.count) for seed in self.seeds]
        else:
            tables = [
                table.iloc[_shuffled(len(table), self.count, seed, epoch).numpy()]
                for seed, table in zip(self.seeds, self.sets)
            ]
        self.parameters = torch.stack([_columns(table, self.renderer.names) for table in tables])
        self.truth = torch.stack([_columns(table, self.targets) for table in tables])
        self.psf_shapes = torch.stack([_psf_shapes(table) for table in tables])
        self.parameters = self.parameters.to(self.device)
        self.truth = self.truth.to(self.device)
        self.psf_shapes = self.psf_shapes.to(self.device)
        if self.seen is not None:
            chosen = [torch.from_numpy(table["psf_seen"].to_numpy(np.int64, copy=True)) for table in tables]
            self.chosen = torch.stack(chosen).to(self.device)

    @torch.no_grad()
    def take(self, part: slice, noise: Tensor | None = None) -> Taken:
        """Return the noiseless stamps of a part of the epoch, see `Source`."""
        parameters, truth = self.parameters[:, part].flatten(0, 1), self.truth[:, part].flatten(0, 1)
        psf, transforms = self._psf_of(part)
        if self.prior is None or noise is None:
            return Taken(self.renderer(parameters, transforms), psf, truth)
        images, information, score = self.renderer.score(parameters, transforms, noise)
        return Taken(images, psf, truth, (parameters, information, score))

    @torch.no_grad()
    def changed(self, part: slice, name: Change, angle: Tensor) -> Taken:
        """Return the noiseless stamps of a part of the epoch after a small change, see `Source`."""
        parameters = self.parameters[:, part].flatten(0, 1).clone()
        step = STEPS[name] * torch.stack([angle.cos(), angle.sin()], -1).flatten(0, 1)
        if name == "shear":
            parameters[:, G] = _sheared(parameters[:, G], step)
        elif name == "shift":
            parameters[:, XY] += self.pixel_scale * step
        psf, transforms = self._psf_of(part, step if name == "psf" else None)
        truth = torch.stack([parameters[:, self.renderer.names.index(name)] for name in self.targets], 1)
        return Taken(self.renderer(parameters, transforms), psf, truth)

    def _psf_of(self, part: slice, step: Tensor | None = None) -> tuple[Tensor, Psfs]:
        """Return the images of the PSFs of a part of the epoch, and the PSFs for the renderer.

        `step` [n, 2] is added to their shapes; for PSFs that have a formula and differ.
        """
        if self.psf is not None and self.constant is not None:
            return self.psf, self.constant
        if self.seen is not None:
            psf = self.seen[self.chosen[:, part].flatten(0, 1)]
            return psf, self.renderer.psf_image(psf)
        shapes = self.psf_shapes[:, part].flatten(0, 1)
        if step is not None:
            shapes = torch.cat([shapes[:, :1], shapes[:, 1:] + step], 1)
        assert self.point is not None
        point = self.parameters.new_zeros(len(shapes), len(self.point.names))
        point[:, FLUX], point[:, HLR] = 1.0, _POINT
        return self.point(point, self._psfs(self.point, shapes)), self._psfs(self.renderer, shapes)


def _sheared(shape: Tensor, shear: Tensor) -> Tensor:
    """Return shapes [n, 2] after shears [n, 2], as `shearbench.simulation.catalog.shear_shape` does."""
    e, s = (torch.view_as_complex(values.contiguous()) for values in (shape, shear))
    return torch.view_as_real((e + s) / (1 + s.conj() * e))


def draw_batch(
    source: Source,
    part: slice,
    recipe: Recipe,
    targets: tuple[str, ...],
    seeds: Sequence[int],
    step: int,
    generator: torch.Generator,
    workers: Workers | None = None,
    noise_range: tuple[float, float] | None = None,
    pixel_scale: float = 1.0,
    observing: Observing | None = None,
) -> Batch:
    """Return the stamps of one training step: augmented, with new noise of random levels.

    All random numbers depend on (seed, step) only. A training can therefore be resumed at any step, and its
    stamps do not depend on other trainings that are computed with it. The numbers are drawn for the whole
    batch, so that several processes together have the stamps that one process would have.

    Parameters
    ----------
    source : Source
        It must have been started for the epoch of the step.
    part : slice
        Galaxies of the epoch; each gives `recipe.realisations` stamps, one after the other.
    recipe : Recipe
    targets : tuple of str
        Names of the true parameters.
    seeds : sequence of int
        The seed of each training; the stamps of the first training come first, and so on.
    step : int
    generator : torch.Generator
        A generator on the device; this function seeds it.
    workers : Workers, optional
        The processes that share the batch. Only the share of this process is returned.
    noise_range : (float, float), optional
        Lowest and highest noise level of this step [flux per pixel]; by default those of the recipe.
    pixel_scale : float
        Pixel scale [arcsec], for the positions of shifted stamps.
    observing : Observing, optional
        How pixels are observed; plainly by default. The noise level varies within `noise_range` anyhow.

    Returns
    -------
    Batch
    """
    workers = workers or Workers()
    count, realisations = part.stop - part.start, recipe.realisations
    # To mix stamps with each other, each process needs all of them. They have one PSF then.
    drawing = Workers() if mixes(recipe.augmentation) else workers
    own_part = slice(part.start + drawing.rank, part.stop, drawing.size)
    level = torch.empty(len(seeds), count, device=generator.device)
    noise = torch.empty(len(seeds), count, realisations, *source.shape, device=generator.device)
    masks: list[Tensor] = []
    for k, seed in enumerate(seeds):
        seeded(generator, _STEP, seed, step)
        level[k].uniform_(generator=generator)
        noise[k].normal_(generator=generator)
        if observing is not None:
            drawn = draw_masks(observing, noise[k].shape, generator)
            masks += [] if drawn is None else [drawn]
    edges = [-(-count * element // dihedral.ORDER) for element in range(dihedral.ORDER + 1)]
    counts = [drawing.own(*pair) for pair in itertools.pairwise(edges)]
    numbers: dict[str, Tensor] = {
        name: torch.stack([_numbers(name, count, seed, step, generator)[drawing.share] for seed in seeds])
        for name in recipe.augmentation
        if name != "d4"
    }

    def shared(values: Tensor) -> Tensor:
        """Return the values of this process's stamps, [n, ...], of those of galaxies [trainings, ...]."""
        values = values if drawing is workers else values[:, workers.share]
        values = values.repeat_interleave(realisations, 1) if realisations > 1 else values
        return values.flatten(0, 1)

    def augmented(taken: Taken) -> tuple[Tensor, Tensor, Tensor]:
        # Here the first dimension numbers the trainings.
        images, truth = (values.unflatten(0, (len(seeds), -1)) for values in (taken.images, taken.truth))
        psf = taken.psf if taken.psf.ndim == 2 else taken.psf.unflatten(0, (len(seeds), -1))
        stamps = Stamps(images, psf, truth, targets, pixel_scale)
        images, psf, truth, *_ = augment(stamps, recipe.augmentation, numbers, counts)
        return shared(images), psf if psf.ndim == 2 else shared(psf), shared(truth)

    own = noise[:, workers.share].flatten(0, 2)
    masked = torch.stack(masks)[:, workers.share].flatten(0, 2) if masks else None
    if source.prior is None:
        taken = source.take(own_part)
    else:
        # Neither augmented nor with several realisations, see `Recipe.unmet`. A masked pixel says nothing.
        taken = source.take(own_part, own if masked is None else own.masked_fill(masked, 0.0))
    images, psf, truth = augmented(taken)
    low, high = noise_range or recipe.drawn_range
    sigma = low * (high / low) ** level[:, workers.share]
    sigma = (sigma.repeat_interleave(realisations, 1) if realisations > 1 else sigma).flatten(0, 1)

    def noisy(images: Tensor) -> Tensor:
        if observing is None:
            return images + sigma[:, None, None] * own
        return observed(images, sigma[:, None, None], own, observing, masked)

    parameters = truth
    if source.prior is not None and taken.shift is not None:
        known, information, score = taken.shift
        if masked is not None:
            light = taken.images.square()
            seen = light.masked_fill(masked, 0.0).sum((1, 2)) / light.sum((1, 2))
            information = information * seen[:, None, None]
        parameters = truth + posterior_shift(known, information, score, source.prior, sigma)
    changed = []
    for name in recipe.changes:
        angle = torch.stack([_angles(name, count, seed, step, generator)[drawing.share] for seed in seeds])
        others, other_psf, moved = augmented(source.changed(own_part, name, angle))
        at = targets.index("g1")
        changed.append(Changed(name, noisy(others), other_psf, (moved - truth)[:, at : at + 2]))
    return Batch(noisy(images), psf, sigma, parameters, tuple(changed))


def _angles(name: Change, count: int, seed: int, step: int, generator: torch.Generator) -> Tensor:
    """Return the random directions of a change in a step [radians], of shape (count,)."""
    seeded(generator, _CHANGE, seed, step, list(STEPS).index(name))
    return 2 * math.pi * torch.rand(count, generator=generator, device=generator.device)


def _numbers(name: str, count: int, seed: int, step: int, generator: torch.Generator) -> Tensor:
    """Return the random numbers of an augmentation in a step, uniform in [0, 1), of shape (count, 3)."""
    seeded(generator, _AUGMENT, seed, step, list(AUGMENTATIONS).index(name))
    return torch.rand(count, 3, generator=generator, device=generator.device)


def fixed_noise(shape: torch.Size, level: int, block: int, generator: torch.Generator) -> Tensor:
    """Return noise of unit variance for a block of validation stamps, the same in all trainings.

    Parameters
    ----------
    shape : torch.Size
    level, block : int
        Numbers of the noise level and of the block, which seed the noise.
    generator : torch.Generator
        A generator on the device; this function seeds it.
    """
    seeded(generator, _FIXED, level, block)
    return torch.randn(shape, generator=generator, device=generator.device)
