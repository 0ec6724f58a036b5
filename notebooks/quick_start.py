# %% [markdown]
# # Quick start
# The tables, figures and networks of a finished run. `make results` makes `results/quick` in a quarter of an hour on
# two cores; set the environment variable `RUN` to look at another run.

# %%
import os

import galsim
import numpy as np

import shearbench as sb

# %matplotlib inline
RUN = os.environ.get("RUN", "../results/quick")
run = sb.load_run(RUN)
run

# %% [markdown]
# ## Tables
# Each table of `metrics/` is an attribute. The RMSE of every estimator at the lowest noise, in units of the Cramer-Rao
# bound:

# %%
accuracy = run.accuracy
lowest = accuracy[accuracy["noise"] == accuracy["noise"].min()]
lowest.sort_values("rmse_over_crb")[["label", "rmse_over_crb", "rmse_over_crb_err", "n_failed"]]

# %% [markdown]
# ## Figures
# An estimator that stays on the grey line loses nothing. One that becomes level has a floor.

# %%
run.figure("accuracy")

# %% [markdown]
# ## A network on an image of your own
# The network measures stamps of the size, pixel scale and noise that it was trained on.

# %%
network = run.network("refined")
network

# %%
galaxy = galsim.Exponential(half_light_radius=0.6, flux=2.0).shear(g1=0.1, g2=0.05)
psf = galsim.Gaussian(fwhm=0.6)
drawing = {"nx": network.size, "ny": network.size, "scale": network.pixel_scale}
clean = galsim.Convolve(galaxy, psf).drawImage(**drawing).array
sigma = 1e-3
noise = np.random.default_rng(1).normal(0, sigma, (100, *clean.shape))
shapes, errors = network(clean + noise, psf.drawImage(**drawing).array, sigma)
print(f"true shape 0.100, 0.050; mean of 100 noise realisations {shapes.mean(0).round(4)}")
print(f"scatter {shapes.std(0).round(4)}; errors that the network gives {errors.mean(0).round(4)}")
