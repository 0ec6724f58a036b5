"""The configuration, the names derived from it, and what every rule shares."""

import functools
import importlib.util
import re

from snakemake.exceptions import WorkflowError

from shearbench.config import labels, load_studies, resolve, study_variants
from shearbench.errors import ConfigError, nearest
from shearbench.estimators import estimator_kinds
from shearbench.networks import architecture_kinds
from shearbench.runlock import hold_lock
from shearbench.populations import SPLITS, stamp_count
from shearbench.provenance import code_digest, digest

try:
    CONFIG = resolve(config)
    STUDIES = load_studies("config/studies")
    for name in CONFIG.studies:
        if name not in STUDIES:
            raise ConfigError(f"studies: no file config/studies/{name}.yaml{nearest(name, STUDIES)}")
    STUDY_VARIANTS = {}
    for name, study in STUDIES.items():
        try:
            STUDY_VARIANTS[name] = study_variants(study, CONFIG)
        except ConfigError:
            # A study that does not fit this run is no target of it, and an error only where it was asked for.
            if name in CONFIG.studies:
                raise
    STUDIES = {name: STUDIES[name] for name in STUDY_VARIANTS}
except ConfigError as error:
    raise WorkflowError(f"The configuration is wrong, and nothing was started.\n{error}") from None

RUN = f"results/{CONFIG.run}"

# With --sdm conda, rules get the environments of envs/; where this process has the packages already (as in
# the one that `make` builds), only ngmix, which is nowhere but on conda-forge, gets one.
HERE = all(importlib.util.find_spec(name) for name in ("galsim", "h5py", "numba", "pyarrow", "torch"))
HAS_NGMIX = importlib.util.find_spec("ngmix") is not None
ENVIRONMENT = None if HERE else "../../envs/shearbench.yaml"
NGMIX_ENVIRONMENT = "../../envs/ngmix.yaml"
WITH_CONDA = any(method.name == "CONDA" for method in workflow.deployment_settings.deployment_method)


def sigma_label(sigma):
    """Return a noise level as it stands in paths."""
    return f"{sigma:g}"


SIGMA = {sigma_label(sigma): sigma for sigma in CONFIG.noise_levels}
NOISE = {"test": list(SIGMA), "shear": [sigma_label(sigma) for sigma in CONFIG.shear_test.noise_levels]}

# An estimator that cannot run here, and that no environment will provide, is left out: said once.
MISSING = {
    name: reason
    for name in CONFIG.estimators
    if (reason := CONFIG.estimator(name).unavailable()) and not WITH_CONDA
}
ESTIMATORS = [name for name in CONFIG.estimators if name not in MISSING]
VARIANTS = dict(CONFIG.variants)
for variants in STUDY_VARIANTS.values():
    VARIANTS.update(variants)


def any_of(names):
    """Return a regular expression that matches these names and nothing else."""
    return "|".join(map(re.escape, names)) or "(?!)"


wildcard_constraints:
    population=any_of({*CONFIG.populations, *(study.population for study in STUDIES.values())}),
    split=any_of(SPLITS),
    noise=any_of(SIGMA),
    estimator=any_of(ESTIMATORS),
    variant=any_of(VARIANTS),
    seed=r"\d+",
    chunk=r"\d+",
    study=any_of(STUDIES),


def galaxies(split):
    """Return the number of galaxies of a split."""
    return getattr(CONFIG.galaxies, split)


def stamps_in(split):
    """Return the number of stamps of a split."""
    return stamp_count(split, galaxies(split), CONFIG.shear_test.rotations)


def chunks(split):
    """Return the chunks a split is drawn in, as (start, stop)."""
    n = stamps_in(split)
    return [(start, min(start + CONFIG.chunk_stamps, n)) for start in range(0, n, CONFIG.chunk_stamps)]


def code_of(rule_name, modules=()):
    """Return the digest of a rule's script and of all the code it uses."""
    return code_digest(str(Path(workflow.basedir).parent / "scripts" / f"{rule_name}.py"), tuple(modules))


def file_stamp(path):
    """Return what tells one version of an external file from another, without reading all of it."""
    try:
        return [str(path), os.stat(path).st_size]
    except OSError as error:
        raise WorkflowError(f"The configuration names a file that cannot be read: {error}") from None


onstart:
    # Held while this process lives; a kill releases it, which Snakemake's own lock files do not survive.
    RUN_LOCK = hold_lock(f"{RUN}/.lock")
    for reason in dict.fromkeys(MISSING.values()):
        names = ", ".join(name for name, why in MISSING.items() if why == reason)
        logger.warning(f"Left out of this run: {names}. {reason}")
