"""Draw stamps at each noise level with what the NGMix model leaves."""

from shearbench.evaluation.gallery import read_gallery
from shearbench.figures.gallery import draw
from shearbench.figures.style import save
from shearbench.job import logged

with logged(snakemake.log[0]):
    for population, pdf, png in zip(snakemake.params.populations, snakemake.output.pdf, snakemake.output.png):
        save(draw(read_gallery(snakemake.input[0], population)), pdf, png)
