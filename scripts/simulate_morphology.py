"""Draw colour images of galaxies of ten classes with GalSim."""

from shearbench.data.labelled_images import write_labelled_images
from shearbench.jobs.job import logged
from shearbench.simulation.galsim_galaxies import draw_images
from shearbench.simulation.morphology import SimulatedImages

with logged(snakemake.log[0]):
    options = SimulatedImages(**snakemake.params.simulation)
    images, labels = draw_images(options, snakemake.params.seed, snakemake.threads)
    write_labelled_images(snakemake.output[0], images, labels, snakemake.params.origins[snakemake.output[0]])
