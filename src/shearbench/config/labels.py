"""How figures and tables call each estimator."""

from __future__ import annotations

from shearbench.config.schema import Config

# The profiles that a model is exact for. Mixtures are so under Gaussian PSFs alone; a Spergel profile, which
# with nu = 1/2 is the exponential, is drawn with the PSF as it is.
_EXACT = {"gauss": "gaussian", "exp": "exponential", "spergel": "exponential"}
_ONE_GAUSSIAN = ("gauss", "coellip1")


def labels(config: Config) -> dict[str, str]:
    """Return how figures and tables call each estimator; a fit says where its galaxy and PSF are right."""
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
    # Two of one name in a figure could not be told apart.
    shown_as = [*named.values(), *config.variants]
    return {
        name: f"{label} ({name})" if shown_as.count(label) > 1 else label for name, label in named.items()
    }


def _where(populations: list[str], config: Config) -> str:
    return "" if len(populations) == len(config.populations) else f" for {', '.join(populations)}"
