"""The configuration, the names derived from it, and what every rule shares."""

import functools
import importlib.util
import re
from dataclasses import asdict

from snakemake.exceptions import WorkflowError
from snakemake.persistence import RECORD_FORMAT_VERSION

from shearbench.config.reading import DEFAULT, load, resolve

from shearbench.config.labels import labels

from shearbench.config.schema import noise_label

from shearbench.config.studies import plan_studies
from shearbench.data.external import contents, external_files
from shearbench.jobs.devices import visible_gpus
from shearbench.errors import ConfigError, ShearbenchError
from shearbench.estimators import estimator_kinds
from shearbench.evaluation.failures import sentences_of_run
from shearbench.files.leftovers import remove_leftovers
from shearbench.figures.catalogue import entries
from shearbench.options import is_name
from shearbench.jobs.runlock import hold_lock
from shearbench.files.origin import Origin
from shearbench.plan.records import record_others
from shearbench.simulation.populations import SPLITS, stamp_count
from shearbench.jobs.provenance import code_digest, digest


def read_config():
    """Return the configuration, read by the project's own reader: Snakemake's has no limits, and runs code."""
    # Another workflow, which has this one as a module, gives the values.
    if workflow.modifier.skip_configfile:
        return resolve(
            {key: value for key, value in config.items() if key != "left_out"}
        )
    given = workflow.config_settings
    files = list(given.configfiles)
    if not given.replace_workflow_config or not given.overwrite_config:
        files.insert(0, DEFAULT)
        workflow.configfiles.append(DEFAULT)  # for the report, which shows it
    return load(*files, arguments=given.config_args)


try:
    CONFIG = read_config()
    # Those of the folder that the run is started from, as its configuration; else those of the checkout.
    STUDIES, STUDY_VARIANTS, WRONG_STUDIES = plan_studies(
        next(filter(os.path.isdir, ["config/studies", CHECKOUT / "config/studies"])),
        CONFIG,
    )
except ConfigError as error:
    raise WorkflowError(
        f"The configuration is wrong, and nothing was started.\n{error}"
    ) from None

RUN = f"results/{CONFIG.run}"

# Of the jobs that use a GPU, no more at a time than there are, unless --resources gpu=N says otherwise. A
# profile for a cluster says so.
if workflow.is_main_process and "gpu" not in workflow.global_resources:
    if GPUS := len(visible_gpus()):
        workflow.register_resource("gpu", GPUS)

# With --sdm conda, rules get the environments of envs/; where this process has the packages already (as in
# the one that `make` builds), only ngmix, which is nowhere but on conda-forge, gets one.
WITH_CONDA = any(
    method.name == "CONDA" for method in workflow.deployment_settings.deployment_method
)
HERE = all(
    importlib.util.find_spec(name)
    for name in ("galsim", "h5py", "numba", "pyarrow", "torch")
)
HAS_NGMIX = importlib.util.find_spec("ngmix") is not None
ENVIRONMENT = None if WITH_CONDA and HERE else "../../envs/shearbench.yaml"
NGMIX_ENVIRONMENT = "../../envs/ngmix.yaml"


SIGMA = {noise_label(sigma): sigma for sigma in CONFIG.noise_levels}
NOISE = {
    "test": list(SIGMA),
    "shear": [noise_label(sigma) for sigma in CONFIG.shear_test.noise_levels],
}

# An estimator that cannot run here, and that no environment will provide, is left out: said once.
MISSING = {
    name: reason
    for name in CONFIG.estimators
    if (reason := CONFIG.estimator(name).unavailable()) and not WITH_CONDA
}
ESTIMATORS = [name for name in CONFIG.estimators if name not in MISSING]
config["left_out"] = ", ".join(MISSING)  # for the report
VARIANTS = dict(CONFIG.variants)
for variants in STUDY_VARIANTS.values():
    VARIANTS.update(variants)


def any_of(names):
    """Return a regular expression that matches these names and nothing else."""
    return "|".join(map(re.escape, names)) or "(?!)"


wildcard_constraints:
    population=any_of(
        {*CONFIG.populations, *(study.population for study in STUDIES.values())}
    ),
    split=any_of(SPLITS),
    noise=any_of(SIGMA),
    estimator=any_of(ESTIMATORS),
    variant=any_of(VARIANTS),
    seed=r"\d+",
    chunk=r"\d+",
    study=any_of(STUDIES),


def untracked(value):
    """Return a mapping or a list that a script gets as it is, and Snakemake neither compares nor prints.

    Its digest is in `depends`, which is short.
    """
    return UserDict(value) if isinstance(value, dict) else UserList(value)


def galaxies(split):
    """Return the number of galaxies of a split."""
    return getattr(CONFIG.galaxies, split)


def stamps_in(split):
    """Return the number of stamps of a split."""
    return stamp_count(split, galaxies(split), CONFIG.shear_test.rotations)


def chunks(split):
    """Return the chunks a split is drawn in, as (start, stop)."""
    n = stamps_in(split)
    return [
        (start, min(start + CONFIG.chunk_stamps, n))
        for start in range(0, n, CONFIG.chunk_stamps)
    ]


def needs_ngmix(estimator):
    """Return whether an estimator runs in ngmix's own environment: with conda, and where ngmix is not here."""
    modules = CONFIG.estimator(estimator).modules()
    return WITH_CONDA and not HAS_NGMIX and "shearbench.estimators.ngmix" in modules


def network_inside(estimator):
    """Return the network that an estimator measures with, as (variant, seed), or None."""
    variant = CONFIG.estimators[estimator].get("network")
    return variant and (variant, CONFIG.seeds[0])


def stamps_measured(split, estimator):
    """Return how many stamps of a split an estimator measures, or None for all."""
    limit = CONFIG.estimators[estimator]["shear_galaxies"]
    if split != "shear" or limit is None:
        return None
    return stamp_count(split, limit, CONFIG.shear_test.rotations)


def measuring_options(estimator):
    """Return the options that decide an estimator's answer to a stamp."""
    options = CONFIG.estimators[estimator]
    return {k: v for k, v in options.items() if k not in ("label", "shear_galaxies")}


def stamps_of(split):
    """Return the index of a split, for any population: all that a job needs to name, of however many chunks."""
    return f"{RUN}/stamps/{{population}}/{split}/index.json"


def stamps_mb(*splits):
    """Return how much memory the stamps of some splits take, with a PSF each."""
    pixels = CONFIG.stamps.size_pixels**2
    return sum(2 * 4 * pixels * stamps_in(split) for split in splits) // 10**6


def gpus_per_training():
    """Return how many GPUs a training asks for: what the rule, a profile or --set-resources says."""
    return rules.train.rule.resources["gpu"].value


def estimates_of(population, split, noise, estimators=None, networks=None):
    """Return the files of estimates at one noise level: classical first, then each network and seed."""
    folder = f"{RUN}/estimates/{population}/{split}/{noise}"
    chosen = ESTIMATORS if estimators is None else estimators
    # Where single shapes are judged, an estimator that answers only for ensembles has nothing to say.
    names = [
        name
        for name in chosen
        if split == "shear" or not CONFIG.estimator(name).ensemble_response
    ]
    for variant, seeds in (NETWORKS if networks is None else networks).items():
        names += [f"{variant}.seed{seed}" for seed in seeds]
    return [f"{folder}/{name}.parquet" for name in names]


def all_estimates(split, noises=None):
    """Return every file of estimates of a split that the run's metrics are made from."""
    return [
        path
        for population in POPULATIONS
        for noise in (noises or NOISE[split])
        for path in estimates_of(population, split, noise)
    ]


def ensemble_estimates():
    """Return the files of the estimators that answer for ensembles only, which measure no test galaxies."""
    names = [name for name in ESTIMATORS if CONFIG.estimator(name).ensemble_response]
    return [
        f"{RUN}/estimates/{population}/shear/{noise}/{name}.parquet"
        for population in POPULATIONS
        for noise in NOISE["shear"]
        for name in names
    ]


def seeds_of(variant):
    """Return the seeds that a variant is trained with: those of its study, or of the run."""
    for study, variants in STUDY_VARIANTS.items():
        if variant in variants:
            return STUDIES[study].seeds
    return CONFIG.seeds


def reason_of(study):
    """Return a function of a rule's inputs that says why a study cannot be made."""

    def refuse(_):
        raise WorkflowError(
            f"study_{study} cannot be made.\n{WRONG_STUDIES[study]}"
        ) from None

    return refuse


def study_networks(study):
    """Return the networks of a study with their seeds."""
    return {variant: list(STUDIES[study].seeds) for variant in STUDY_VARIANTS[study]}


def study_estimates(study):
    """Return the estimates of a study's networks at every noise level."""
    population = STUDIES[study].population
    return [
        path
        for noise in NOISE["test"]
        for path in estimates_of(population, "test", noise, [], study_networks(study))
    ]


def study_outputs(study):
    """Return what a study leaves for a paper."""
    return [
        f"{METRICS}/studies/{study}.csv",
        f"{METRICS}/studies/{study}_verdict.txt",
        f"{RUN}/figures/study_{study}.pdf",
        f"{RUN}/tables/study_{study}.tex",
    ]


onstart:
    # Held while this process lives; a kill releases it, which Snakemake's own lock files do not survive.
    try:
        hold_lock(f"{RUN}/.lock")
    except ShearbenchError as error:
        raise WorkflowError(str(error)) from None
    if left := remove_leftovers(RUN):
        logger.info(
            f"Removed {len(left)} temporary files of jobs that were killed."
        )
    for reason in dict.fromkeys(MISSING.values()):
        names = ", ".join(name for name, why in MISSING.items() if why == reason)
        logger.warning(f"Left out of this run: {names}. {reason}")


onsuccess:
    # The state of a finished training is kept until here: where several share a job and one of them fails,
    # Snakemake deletes what all of them made, and the next attempt makes it anew from their states.
    for state in Path(f"{RUN}/checkpoints").glob("*/*/seed*.pt"):
        if Path(
            f"{RUN}/models", *state.parts[-3:-1], state.stem, "model.pt"
        ).exists():
            state.unlink()
            state.with_name(f"{state.name}.lock").unlink(missing_ok=True)
    for sentence in sentences_of_run(f"{RUN}/metrics"):
        logger.warning(sentence)
