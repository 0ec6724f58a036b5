"""Keep a few stamps at each noise level, with the best NGMix-like model of each and what it leaves."""

from shearbench.catalog import read_catalog
from shearbench.evaluation.gallery import make_gallery, write_gallery
from shearbench.estimators.mixture import Mixture
from shearbench.job import logged
from shearbench.stamps import StampSet
