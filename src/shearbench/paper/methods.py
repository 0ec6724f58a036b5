"""A description of how a run was made, in sentences generated from its configuration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from shearbench.paper.latex import escape, power_of_ten

_PROFILES = {
    "gaussian": "Gaussian profiles",
    "exponential": "exponential profiles",
    "sersic": "Sérsic profiles",
    "bulge-disc": "an exponential disc, whose radius is given here, and a Sérsic bulge",
    "cosmos-parametric": "the Sérsic profiles fitted to galaxies of the COSMOS catalogue",
    "cosmos-real": "the HST images of galaxies of the COSMOS catalogue",
}
_PSFS = {
    "gaussian": "a Gaussian",
    "moffat": "a Moffat profile",
    "kolmogorov": "a Kolmogorov profile",
    "optical": "that of a telescope without atmosphere",
    "image": "one of the images of a file",
    "psfex": "a model made by PSFEx",
    "piff": "a model made by Piff",
}


def methods_tex(described: Mapping[str, Any]) -> list[str]:
    """Return paragraphs in LaTeX on populations, estimators, networks, seeds and numbers of galaxies.

    Parameters
    ----------
    described : mapping
        `shearbench.plan.run.Run.described`: plain values of the configuration and labels.

    Returns
    -------
    list of str
    """
    seed = described["seed"]
    paragraphs = [
        [_population(name, options) for name, options in described["populations"].items()],
        _stamps(described),
        _measured(described),
        _networks(described),
        [f"The seed of the run is {seed}. All options are in the file \\texttt{{config.yaml}} of the run."],
    ]
    return [" ".join(sentences) for sentences in paragraphs if sentences]


def _population(name: str, options: Mapping[str, Any]) -> str:
    from_catalogue = options["catalogue_file"] is not None
    parts = [f"Galaxies of the population \\texttt{{{escape(name)}}} have {_PROFILES[options['profile']]}"]
    if from_catalogue:
        parts.append(f"with parameters from the catalogue \\texttt{{{escape(options['catalogue_file'])}}}")
    else:
        parts.append(f"with half-light radii {_between(options['half_light_radius_arcsec'])} arcsec")
        parts.append(f"and fluxes {_between(options['flux'])}")
    text = " ".join(parts)
    psf = options["psf"]
    width = "" if psf["profile"] in ("optical", "image", "psfex", "piff") else _fwhm(psf)
    return f"{text}; the PSF is {_PSFS[psf['profile']]}{width}."


def _fwhm(psf: Mapping[str, Any]) -> str:
    return f" with a full width at half maximum {_between(psf['fwhm_arcsec'], 'of')} arcsec"


def _between(values: Sequence[float], one: str = "of") -> str:
    low, high = values
    return f"{one} {low:g}" if low == high else f"between {low:g} and {high:g}"


def _stamps(described: Mapping[str, Any]) -> list[str]:
    stamps, galaxies, shear = described["stamps"], described["galaxies"], described["shear_test"]
    side, scale = stamps["size_pixels"], stamps["pixel_scale_arcsec"]
    applied = f"{shear['shear']:g}"
    return [
        f"Stamps of ${side} \\times {side}$ pixels of {scale:g} arcsec are drawn with GalSim, and all "
        f"estimators measure them with the same noise, {_levels(described['noise_levels'])}.",
        f"There are {galaxies['train']} galaxies for training, {galaxies['validation']} for validation and "
        f"{galaxies['test']} for the test, in each population.",
        f"The biases $m$ and $c$ are measured at {_levels(shear['noise_levels'])} on {galaxies['shear']} "
        f"further galaxies{_fewer(described)}, each in {shear['rotations']} orientations under shears of "
        f"$\\pm {applied}$ in each component, with a noise field and its negative; the leakage of the PSF's "
        f"shape on {galaxies['leakage']} galaxies.",
        f"Errors are estimated from {described['bootstrap']} bootstrap resamples.",
    ]


def _fewer(described: Mapping[str, Any]) -> str:
    """Return which estimators measure fewer galaxies of the split shear, in brackets."""
    n = described["galaxies"]["shear"]
    fewer = [f"{escape(label)}: {few}" for label, few in described["shear_galaxies"].items() if few < n]
    return f" ({'; '.join(fewer)})" if fewer else ""


def _levels(levels: Iterable[float]) -> str:
    return f"$\\sigma$ = {_and([power_of_ten(level) for level in sorted(levels)])} per pixel"


def _measured(described: Mapping[str, Any]) -> list[str]:
    found = []
    if labels := described["labels"]:
        found.append(f"The estimators beside networks: {'; '.join(map(escape, labels))}.")
    if left_out := described["left_out"]:
        names = _and([rf"\texttt{{{escape(name)}}}" for name in left_out])
        found.append(f"Left out, because they could not run on the machine: {names}.")
    floor = described["bayes_floor"]
    if floor["populations"]:
        found.append(
            f"The Bayes floor is computed from {floor['samples']} samples of the posterior of each of "
            f"{min(floor['galaxies'], described['galaxies']['test'])} test galaxies."
        )
    return found


def _networks(described: Mapping[str, Any]) -> list[str]:
    networks, seeds = described["networks"], described["seeds"]
    if not networks:
        return []
    times = f"with the seed {seeds[0]}" if len(seeds) == 1 else f"with the seeds {_and(map(str, seeds))}"
    found = [f"Each network is trained once in each population {times}."]
    for name, one in networks.items():
        training = one["training"]
        noise = training["noise"]
        span = (
            f"noise between {power_of_ten(noise[0])} and {power_of_ten(noise[1])}"
            if isinstance(noise, list)
            else f"noise of {power_of_ten(noise)}"
        )
        shown = "galaxies rendered during the training" if training["data"] == "rendered" else "stored stamps"
        at_most = "at most " if training["patience"] is not None else ""
        architecture, loss, optimiser = (
            rf"\texttt{{{escape(text)}}}"
            for text in (one["architecture"], training["loss"], training["optimiser"])
        )
        found.append(
            rf"\texttt{{{escape(name)}}} (architecture {architecture}) is trained for {at_most}"
            f"{training['epochs']} epochs of {one['shown']} {shown} with {span}, in batches of "
            f"{training['batch_size']}, with the loss {loss} and the optimiser {optimiser}, at a learning "
            f"rate of at most {training['learning_rate']:g}."
        )
        if one.get("searched"):
            found.append(rf"Its options were found by a search of {one['searched']}.")
    found.append("The epoch with the lowest validation loss is kept.")
    return found


def _and(items: Iterable[str]) -> str:
    *first, last = items
    return f"{', '.join(first)} and {last}" if first else last
