"""Fits by the package ngmix, one galaxy at a time.

The starting points of ngmix's fits are random. Here the random state is seeded for each galaxy with the
number of its noise realisation, so that the result depends on the stamp alone.
"""

from __future__ import annotations

from typing import Any

import ngmix
import numpy as np
from numpy.typing import NDArray

from shearbench.data.shapes import Flag, Shapes
from shearbench.data.stamps import StampBatch
from shearbench.measurement.renoising import second_noise

_PSF_NOISE = 1e-5  # ngmix needs a noise level even for a noiseless PSF image; its value does not matter
_ONE_GAUSSIAN_IS_ENOUGH = 0.01  # rms residual; a pixelised Gaussian leaves 5e-4, a Kolmogorov PSF 5e-2
_PSF_TRIES = 4
_T_OF_HLR = 2.085  # T / hlr^2 of a round exponential

_CAUSES = {
    Flag.NOT_CONVERGED: ngmix.flags.MAXITER,
    Flag.SINGULAR: ngmix.flags.LM_SINGULAR_MATRIX
    | ngmix.flags.LM_NEG_COV_EIG
    | ngmix.flags.LM_NEG_COV_DIAG
    | ngmix.flags.EIG_NOTFINITE
    | ngmix.flags.NONPOS_VAR
    | ngmix.flags.NONPOS_SHAPE_VAR,
    Flag.OUT_OF_RANGE: ngmix.flags.GMIX_RANGE_ERROR | ngmix.flags.NONPOS_FLUX | ngmix.flags.NONPOS_SIZE,
}


def fit_galaxies(batch: StampBatch, fitter: GalaxyFitter) -> Shapes:
    """Fit every stamp of a batch.

    Parameters
    ----------
    batch : StampBatch
    fitter : GalaxyFitter

    Returns
    -------
    Shapes
        Extras: ``row``, ``col`` (centroid relative to the stamp's centre, arcsec), ``flux``, ``s2n`` and
        ``T`` (arcsec^2); for spergel ``hlr`` (arcsec) and ``nu`` instead of ``T``.
    """
    psf = fitter.psf(batch.psf_of(0)) if batch.constant_psf else None
    spergel = fitter.model == "spergel"
    names = ["row", "col", "g1", "g2", *(["hlr", "nu"] if spergel else ["T"]), "flux"]
    values = np.full((len(batch), len(names)), np.nan)
    errors = np.full((len(batch), 2), np.nan)
    s2n = np.full(len(batch), np.nan)
    flag = np.zeros(len(batch), np.int64)
    for index in range(len(batch)):
        try:
            observation = fitter.observation(
                batch.images[index],
                batch.sigma,
                psf or fitter.psf(batch.psf_of(index)),
                mask=None if batch.mask is None else batch.mask[index],
            )
            result = fitter.fit(observation, int(batch.noise_id[index]))
        except ngmix.gexceptions.NGmixBaseException:
            flag[index] = Flag.FAILED
            continue
        flag[index] = cause_of(result["flags"])
        flag[index] |= fitter.flag_of_size(result)
        if not flag[index]:
            values[index] = result["pars"]
            errors[index] = np.sqrt(np.diag(result["pars_cov"])[2:4])
            s2n[index] = result["s2n_r" if spergel else "s2n"]
    columns = dict(zip(names, values.T))
    return Shapes(
        columns.pop("g1"), columns.pop("g2"), errors[:, 0], errors[:, 1], flag, columns | {"s2n": s2n}
    )


def fit_metacal(batch: StampBatch, fitter: GalaxyFitter, reconvolution: str, step: float) -> Shapes:
    """Fit every stamp of a batch by metacalibration: without shear, and with +-step in each component.

    ngmix makes the noise isotropic with a second noise field, which is that of `second_noise`.

    Parameters
    ----------
    batch : StampBatch
    fitter : GalaxyFitter
    reconvolution : {'fitgauss', 'azgauss', 'gauss'}
        ngmix's method to choose the new PSF.
    step : float
        Shear applied to the stamps.

    Returns
    -------
    Shapes
        Ellipticities of the stamps without shear, under the new PSF. Extras: ``R11, R12, R21, R22``, with
        ``Rij = (e_i(+step in g_j) - e_i(-step in g_j)) / (2 step)``, and ``flux``, ``T``, ``s2n``. A stamp
        for which any of the five fits fails is flagged.
    """
    psf = fitter.psf(batch.psf_of(0)) if batch.constant_psf else None
    flag = np.zeros(len(batch), np.int64)
    names = ("g1", "g2", "g1_err", "g2_err", "R11", "R12", "R21", "R22", "flux", "T", "s2n")
    values = np.full((len(batch), len(names)), np.nan)
    noise = second_noise(batch)
    for index in range(len(batch)):
        try:
            observation = fitter.observation(
                batch.images[index], batch.sigma, psf or fitter.psf(batch.psf_of(index)), noise[index]
            )
            results = fitter.metacal(observation, int(batch.noise_id[index]), reconvolution, step)
        except ngmix.gexceptions.NGmixBaseException:
            flag[index] = Flag.FAILED
            continue
        for result in results.values():
            flag[index] |= cause_of(result["flags"]) | fitter.flag_of_size(result)
        if not flag[index]:
            none, g = results["noshear"], {name: result["g"] for name, result in results.items()}
            response = np.stack([g["1p"] - g["1m"], g["2p"] - g["2m"]], axis=1) / (2 * step)
            errors = np.sqrt(np.diag(none["pars_cov"])[2:4])
            values[index] = *none["g"], *errors, *response.ravel(), none["flux"], none["T"], none["s2n"]
    columns = dict(zip(names, values.T))
    g1, g2, g1_err, g2_err = (columns.pop(name) for name in names[:4])
    return Shapes(g1, g2, g1_err, g2_err, flag, columns)


def cause_of(flags: int) -> Flag:
    """Return the `Flag` for the flags of a result of ngmix."""
    flag = Flag.GOOD
    for cause, bits in _CAUSES.items():
        if flags & bits:
            flag |= cause
    return flag if flag or not flags else Flag.FAILED


class GalaxyFitter:
    """Fits galaxies by ngmix with one model, prior and treatment of the PSF.

    Parameters
    ----------
    pixel_scale : float
        Arcsec.
    model : {'gauss', 'exp', 'dev', 'spergel'}
        Profile of the galaxy.
    psf_model : {'auto', 'gauss', 'coellip3', 'coellip4', 'coellip5', 'em'}
        See `fit_psf`; not used by spergel.
    prior : bool
        Whether to use a prior: Gaussian about the PSF's centre, Bernstein & Armstrong 2014 (MNRAS 438, 1880)
        in the shape, flat in the other parameters.
    prior_centroid : float
        Width of the prior of the centroid [arcsec].
    prior_shape : float
        Width of the prior of the shape.
    guess_hlr : float
        Half-light radius at which all fits start [arcsec].
    tries : int
        Number of fits from new starting points before a galaxy counts as failed.
    """

    def __init__(
        self,
        pixel_scale: float,
        *,
        model: str,
        psf_model: str,
        prior: bool,
        prior_centroid: float,
        prior_shape: float,
        guess_hlr: float,
        tries: int,
    ) -> None:
        self.pixel_scale, self.model, self.psf_model = pixel_scale, model, psf_model
        self.guess_hlr, self.tries = guess_hlr, tries
        self.rng = np.random.RandomState(0)
        self.prior_centroid, self.prior_shape = prior_centroid, prior_shape
        self.has_prior = prior
        self._last: tuple[NDArray[np.float32], ngmix.Observation] | None = None

    def psf(self, image: NDArray[np.float32]) -> ngmix.Observation:
        """Return ngmix's observation of a PSF image, with a mixture fitted to it unless the model is spergel.

        The fit uses the pixels of the PSF image alone, without a prior.

        Parameters
        ----------
        image : ndarray of float32, shape (ny, nx)
            The PSF convolved with the pixel.

        Raises
        ------
        ngmix.gexceptions.BootPSFFailure
            No mixture could be fitted.
        """
        # The stamps of a galaxy under opposite shears have the same PSF, one after the other.
        if self._last is not None and np.array_equal(image, self._last[0]):
            return self._last[1]
        observation = self._observation(image, _PSF_NOISE)
        if self.model != "spergel":
            fit_psf(observation, self.psf_model)
        self._last = image.copy(), observation
        return observation

    def observation(
        self,
        image: NDArray[np.float32],
        sigma: float,
        psf: ngmix.Observation,
        noise: NDArray[np.float32] | None = None,
        mask: NDArray[np.bool_] | None = None,
    ) -> ngmix.Observation:
        """Return ngmix's observation of a galaxy, with its weight map.

        Parameters
        ----------
        image : ndarray of float32, shape (ny, nx)
        sigma : float
            Noise per pixel.
        psf : ngmix.Observation
            From `psf`.
        noise : ndarray of float32, shape (ny, nx), optional
            A second noise field, for metacalibration.
        mask : ndarray of bool, shape (ny, nx), optional
            Pixels that get the weight zero.
        """
        return self._observation(
            image, sigma, mask, psf=psf, noise=None if noise is None else noise.astype(np.float64)
        )

    def fit(self, observation: ngmix.Observation, noise_id: int) -> Any:
        """Fit one galaxy and return ngmix's result, whose ``flags`` are 0 if the fit is good."""
        self._seed(noise_id)
        return self.runner(observation, self._centre(observation.psf)).go(observation)

    def metacal(
        self, observation: ngmix.Observation, noise_id: int, reconvolution: str, step: float
    ) -> dict[str, Any]:
        """Fit one galaxy by metacalibration; return ngmix's results for "noshear", "1p", "1m", "2p", "2m"."""
        self._seed(noise_id)
        # The new PSF is always a Gaussian, so it is fitted with one.
        psf_runner = ngmix.runners.PSFRunner(
            fitter=ngmix.fitting.Fitter(model="gauss"),
            guesser=ngmix.guessers.SimplePSFGuesser(rng=self.rng),
            ntry=_PSF_TRIES,
        )
        bootstrapper = ngmix.metacal.MetacalBootstrapper(
            runner=self.runner(observation),  # the new PSF is centred
            psf_runner=psf_runner,
            rng=self.rng,
            psf=reconvolution,
            step=step,
            use_noise_image=True,
            types=["noshear", "1p", "1m", "2p", "2m"],
        )
        results, _ = bootstrapper.go(observation)
        return results

    def flag_of_size(self, result: Any) -> Flag:
        """Return ``OUT_OF_RANGE`` for a fit with T <= 0 and without a prior, else ``GOOD``.

        With T <= 0 the model is narrower than the PSF, and its shape is turned by 90 degrees. With the prior,
        which is flat in T from -1 arcsec^2, such a shape is near 0, the mean of the prior, and is kept.
        """
        negative = not self.has_prior and self.model != "spergel" and not result["flags"] and result["T"] <= 0
        return Flag.OUT_OF_RANGE if negative else Flag.GOOD

    def _seed(self, noise_id: int) -> None:
        noise_id = max(noise_id, ~noise_id)  # the same starting points for noise of the opposite sign
        # RandomState takes words of 32 bits.
        self.rng.seed([noise_id & 0xFFFFFFFF, noise_id >> 32 & 0xFFFFFFFF])

    def runner(
        self, observation: ngmix.Observation, centre: tuple[float, float] = (0.0, 0.0)
    ) -> ngmix.runners.Runner:
        """Return an ngmix runner: up to `tries` starting points, and a prior about a centre [arcsec].

        Each galaxy needs a new one: ngmix's guessers cache a flux by the address of the observation, and the
        next observation may have the same address.
        """
        guessers, fitting = ngmix.guessers, ngmix.fitting
        hlr, prior = self.guess_hlr, self._prior(*centre) if self.has_prior else None
        if self.model == "spergel":
            flux = fitting.GalsimPSFFluxFitter().go(observation)["flux"]
            guesser = guessers.R50NuFluxGuesser(self.rng, hlr, 0.5, flux, prior=prior)
            fitter = fitting.GalsimSpergelFitter(prior=prior)
        else:
            guess_type = guessers.TPSFFluxAndPriorGuesser if prior else guessers.TPSFFluxGuesser
            guesser = guess_type(rng=self.rng, T=_T_OF_HLR * hlr**2, prior=prior)
            fitter = fitting.Fitter(model=self.model, prior=prior)
        return ngmix.runners.Runner(fitter=fitter, guesser=guesser, ntry=self.tries)

    def _observation(
        self,
        image: NDArray[np.float32],
        sigma: float,
        mask: NDArray[np.bool_] | None = None,
        **kwargs: Any,
    ) -> ngmix.Observation:
        ny, nx = image.shape
        weight = np.full(image.shape, sigma**-2.0)
        if mask is not None:
            weight[mask] = 0.0
        return ngmix.Observation(
            image.astype(np.float64),
            weight=weight,
            jacobian=ngmix.DiagonalJacobian(row=(ny - 1) / 2, col=(nx - 1) / 2, scale=self.pixel_scale),
            **kwargs,
        )

    def _centre(self, psf: ngmix.Observation) -> tuple[float, float]:
        """Return row and column of a PSF's mixture from the stamp's centre [arcsec], to 0.001 pixel.

        A mixture counts the galaxy's place from the stamp's centre, the PSF's own included. GalSim, which
        draws spergel with the PSF image, counts it from the PSF.
        """
        if self.model == "spergel":
            return 0.0, 0.0
        row, col = (round(at / self.pixel_scale, 3) * self.pixel_scale for at in psf.gmix.get_cen())
        return row, col

    def _prior(self, row: float, col: float) -> Any:
        rng, width = self.rng, self.prior_centroid
        flat = {
            "cen_prior": ngmix.priors.CenPrior(row, col, width, width, rng=rng),
            "g_prior": ngmix.priors.GPriorBA(self.prior_shape, rng=rng),
            "F_prior": ngmix.priors.FlatPrior(-100.0, 1e9, rng=rng),
        }
        if self.model == "spergel":
            # GalSim draws no Spergel profile with nu outside [-0.85, 4].
            return ngmix.joint_prior.PriorSpergelSep(
                r50_prior=ngmix.priors.FlatPrior(0.01, 30.0, rng=rng),
                nu_prior=ngmix.priors.FlatPrior(-0.8, 3.5, rng=rng),
                **flat,
            )
        return ngmix.joint_prior.PriorSimpleSep(T_prior=ngmix.priors.FlatPrior(-1.0, 1000.0, rng=rng), **flat)


def fit_psf(observation: ngmix.Observation, model: str) -> None:
    """Fit a mixture of Gaussians to a PSF and store it in the observation, for ngmix's fits of galaxies.

    Parameters
    ----------
    observation : ngmix.Observation
        The PSF, from `GalaxyFitter.psf`.
    model : {'auto', 'gauss', 'coellip3', 'coellip4', 'coellip5', 'em'}
        One Gaussian, several Gaussians of one centre and shape, or 5 free Gaussians ('em'). 'auto': one
        Gaussian if its residual is below 1% (rms), else 'coellip3'.

    Raises
    ------
    ngmix.gexceptions.BootPSFFailure
        The fit failed from all starting points.
    """
    if model == "auto":
        fit_psf(observation, "gauss")
        found = observation.gmix.make_image(observation.image.shape, jacobian=observation.jacobian)
        residual = np.linalg.norm(found - observation.image) / np.linalg.norm(observation.image)
        if residual > _ONE_GAUSSIAN_IS_ENOUGH:
            fit_psf(observation, "coellip3")
        return
    rng = np.random.RandomState(0)
    if model == "gauss":
        fitter, guesser = ngmix.fitting.Fitter(model="gauss"), ngmix.guessers.SimplePSFGuesser(rng=rng)
    elif model == "em":
        fitter, guesser = ngmix.em.EMFitter(), ngmix.guessers.GMixPSFGuesser(rng=rng, ngauss=5)
    else:
        ngauss = int(model.removeprefix("coellip"))
        fitter = ngmix.fitting.CoellipFitter(ngauss=ngauss)
        guesser = ngmix.guessers.CoellipPSFGuesser(rng=rng, ngauss=ngauss)
    result = ngmix.runners.run_psf_fitter(observation, fitter, guesser, ntry=_PSF_TRIES)
    if result["flags"]:
        raise ngmix.gexceptions.BootPSFFailure(f"{model} could not be fitted to the PSF")
