# %% [markdown]
# # Look inside a network
# Which pixels does the answer of a network depend on, and where does it lose the shape? The figures are those of the
# run; the map below is computed here.

# %%
import os

import numpy as np
import torch
from matplotlib.figure import Figure

import shearbench as sb
from shearbench.data.stamps import read_stamps

# %matplotlib inline
run = sb.load_run(os.environ.get("RUN", "../results/quick"))
population = run.plan.populations[0]

# %% [markdown]
# ## Information in each layer
# The share of the information about the shape that is left after each layer. Where a curve falls, the network loses what
# no later layer can bring back.

# %%
run.figure("inside_layers", population)

# %%
run.inside_layers.head()

# %% [markdown]
# ## The weight of each pixel
# The derivative of the estimated g1 by each pixel of a stamp, of a network without a forward model, beside the derivative
# of the image by g1 from the run's figure `inside_weights`.

# %%
network = run.network("whitened")
stamps = read_stamps(run.path(run.plan.stamps_of("test", population)))
sigma = min(run.config.noise_levels)
batch = next(iter(stamps.batches(sigma, run.config.seed, 3)))
images = torch.from_numpy(batch.images).requires_grad_()
answer = network.module(images, torch.from_numpy(batch.psf), images.new_tensor(sigma))
answer.shapes[:, 0].sum().backward()
maps = images.grad.numpy()

figure = Figure(figsize=(7, 4.6), layout="constrained")
for k, (above, below) in enumerate(figure.subplots(2, 3).T):
    above.imshow(batch.images[k], origin="lower", cmap="gray_r")
    limit = np.abs(maps[k]).max()
    below.imshow(maps[k], origin="lower", cmap="RdBu", vmin=-limit, vmax=limit)
    above.set_title(f"galaxy {batch.galaxy_id[k]}: stamp")
    below.set_title("d g1 / d pixel")
figure

# %%
run.figure("inside_weights", population)

# %% [markdown]
# ## The layers
# `network.module` is a torch module: hooks, `named_modules` and everything else work as usual.

# %%
for name, module in network.module.named_children():
    print(
        f"{name:12} {sum(weight.numel() for weight in module.parameters()):8} weights  {type(module).__name__}"
    )
