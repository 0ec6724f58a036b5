# %% [markdown]
# # Compare estimators on your population
# Define galaxies and PSF as your survey has them, draw some, and measure them with several estimators on the same noisy
# pixels. For networks, and for errors, m and c, put the same population into a configuration and run it
# (last cell).

# %%
import numpy as np
import pandas as pd
import yaml

from shearbench.bounds.cramer_rao import cramer_rao
from shearbench.data.stamps import StampBatch
from shearbench.estimators import estimator_presets, make_estimator
from shearbench.simulation.catalog import sample_catalog
from shearbench.simulation.galsim_stamps import draw_stamps
from shearbench.simulation.populations import Population

# %matplotlib inline

# %% [markdown]
# ## The population
# All options are in config/README.md; those that are not given have their defaults.

# %%
options = {"flux": [0.5, 2.0], "half_light_radius_arcsec": [0.5, 1.0], "psf": {"fwhm_arcsec": 0.7}}
SIZE, SCALE, GALAXIES = 40, 0.25, 100
population = Population(profile="exponential", **options)
catalog = sample_catalog(population, "mine", "test", GALAXIES, seed=1, pixel_scale=SCALE)
blocks = list(draw_stamps(catalog, population, (SIZE, SIZE), SCALE))
images, psf = np.concatenate([image for image, _ in blocks]), blocks[0][1]
catalog[["galaxy_id", "flux", "hlr", "g1", "g2"]].head()

# %% [markdown]
# ## Measurement
# The names are the presets of the estimators; `sorted(estimator_presets())` lists all. ngmix needs its package.

# %%
NAMES = ("mixture-exp", "mixture-gauss", "hsm-regauss", "hsm-ksb")
LEVELS = (1e-4, 1e-3, 1e-2)
truth = catalog[["g1", "g2"]].to_numpy()
unit = cramer_rao(catalog, SCALE, (SIZE, SIZE))
noise = np.random.default_rng(2).normal(0, 1, images.shape).astype(np.float32)
ids = np.arange(GALAXIES)
rows = []
for sigma in LEVELS:
    batch = StampBatch(images + np.float32(sigma) * noise, psf, sigma, SCALE, ids, ids)
    for name in NAMES:
        shapes = make_estimator(estimator_presets()[name]).measure(batch)
        good = shapes.flag == 0
        residual = np.stack([shapes.g1, shapes.g2], 1)[good] - truth[good]
        bound = sigma * np.sqrt((unit.loc[good, ["crb_g1", "crb_g2"]] ** 2).to_numpy().mean())
        rms = np.sqrt((residual**2).mean())
        rows.append({"noise": sigma, "estimator": name, "failed": (~good).sum(), "RMSE / bound": rms / bound})
pd.DataFrame(rows).pivot(index="estimator", columns="noise", values="RMSE / bound").round(2)

# %% [markdown]
# The mixture fit with the right profile stays near 1. The one with a Gaussian profile has a model bias, which is the larger
# in units of the bound, the lower the noise.
#
# ## The same with networks, errors, m and c
# Write this to `my.yaml` and run `make results CONFIG=my.yaml`; then `sb.load_run("results/mine")`.

# %%
print(
    yaml.safe_dump(
        {
            "run": "mine",
            "stamps": {"size_pixels": SIZE, "pixel_scale_arcsec": SCALE},
            "populations": {"exp_gauss": None, "mine": {"base": "exp_gauss", **options}},
        }
    )
)
