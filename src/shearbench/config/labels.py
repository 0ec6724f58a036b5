"""The labels of estimators in figures and tables."""

from __future__ import annotations

from shearbench.config.schema import Config

# The galaxy profile for which each model is right. Mixtures are right under Gaussian PSFs only. A Spergel
# profile (exponential for nu = 1/2) is convolved with the image of the PSF, and is right under any PSF.
_EXACT = {"gauss": "gaussian", "exp": "exponential", "spergel": "exponential"}
_ONE_GAUSSIAN = ("gauss", "coellip1")


def labels(config: Config) -> dict[str, str]:
    """Return the label of each estimator of a run, by its name, and of each network from a search.

    The label of a fit tells for which populations its galaxy model is right (``matched``, ``mismatched``)
    and for which its PSF model is wrong (``wrong PSF``); that of a network from a search, how many trials
    and how much time the search took.
    """
    named = {}
    for name in config.estimators:
        estimator = config.estimator(name)
        label = estimator.label or name
        model = getattr(estimator, "model", None)
        if model is not None and not estimator.ensemble_response:
            one_gaussian = getattr(estimator, "psf_model", None) in _ONE_GAUSSIAN
            populations = config.populations.items()
            gaussian = [name for name, options in populations if options.psf.profile == "gaussian"]
            right = [
                name
                for name, options in populations
                if options.profile == _EXACT.get(model) and (name in gaussian or model == "spergel")
            ]
            label += f", matched{_where(right, config)}" if right else ", mismatched"
            blurred = [name for name, _ in populations if name not in gaussian]
            if one_gaussian and model != "spergel" and blurred:
                label += f", wrong PSF{_where(blurred, config)}"
        named[name] = label
    for name, variant in config.variants.items():
        if variant.searched is not None:
            named[name] = f"{name} (searched: {variant.searched.label})"
    # Two estimators with the same label could not be distinguished in a figure.
    shown_as = [*named.values(), *config.variants]
    return {
        name: f"{label} ({name})" if shown_as.count(label) > 1 else label for name, label in named.items()
    }


def _where(populations: list[str], config: Config) -> str:
    return "" if len(populations) == len(config.populations) else f" for {', '.join(populations)}"
