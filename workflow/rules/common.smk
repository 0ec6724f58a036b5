"""The configuration, the plan of the run, and what every rule shares."""

import functools
import importlib.util
import re
from dataclasses import asdict

from snakemake.exceptions import WorkflowError
from snakemake.jobs import Reason
from snakemake.persistence import RECORD_FORMAT_VERSION

from shearbench.config.reading import DEFAULT, load, resolve
from shearbench.config.searches import plan_searches
from shearbench.config.studies import plan_studies
from shearbench.data.external import (
    check_enough_galaxies,
    checkpoint_files,
    contents,
    external_files,
    narrow_psf,
    narrowest_psf,
    observed_files,
)
from shearbench.errors import ConfigError, ShearbenchError
from shearbench.evaluation.failures import sentences_of_run
from shearbench.files.leftovers import remove_leftovers, remove_states
from shearbench.jobs.devices import visible_gpus
from shearbench.jobs.runlock import hold_lock
from shearbench.options import is_name
from shearbench.plan.digests import Digests
from shearbench.plan.reasons import short_reason
from shearbench.plan.records import record_others
from shearbench.plan.run import INSIDE, INSIDE_STUDY, JUDGED_SPLITS, Run, unavailable
from shearbench.simulation.populations import PAIRED, SPLITS
from shearbench.tasks.morphology.options import check_classifiers
from shearbench.training.tracking import missing_package


def shortened(reason, whole=Reason.__str__):
    """Return the reason for a job in one short line."""
    return short_reason(whole(reason))


Reason.__str__ = shortened


def here_or_in_the_checkout(path):
    """Return a path in the folder that the run is started from or, if there is none, that in the checkout."""
    return path if os.path.exists(path) else str(CHECKOUT / path)


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
        default = here_or_in_the_checkout(DEFAULT)
        files.insert(0, default)
        workflow.configfiles.append(default)  # for the report, which shows it
    return load(*files, arguments=given.config_args)


# With --sdm conda, rules get the environments of envs/; where this process has the packages already (as in
# the one that `make` builds), only ngmix, which is nowhere but on conda-forge, gets one.
WITH_CONDA = any(
    method.name == "CONDA" for method in workflow.deployment_settings.deployment_method
)
HERE = all(
    importlib.util.find_spec(name)
    for name in ("galsim", "h5py", "numba", "pyarrow", "sklearn", "torch")
)
HAS_NGMIX = importlib.util.find_spec("ngmix") is not None
ENVIRONMENT = None if WITH_CONDA and HERE else "../../envs/shearbench.yaml"
NGMIX_ENVIRONMENT = "../../envs/ngmix.yaml"
FRAMEWORKS_ENVIRONMENT = "../../envs/frameworks.yaml"


def wrong_configuration(error):
    """Return the error of a configuration with which nothing can be started."""
    return WorkflowError(
        f"The configuration has errors, and nothing was started.\n{error}"
    )


try:
    CONFIG = read_config()
    RUN = Run(
        CONFIG,
        plan_studies(here_or_in_the_checkout("config/studies"), CONFIG),
        # An estimator that cannot run here, and that no environment will provide, is left out: said once.
        {} if WITH_CONDA else unavailable(CONFIG),
        plan_searches(here_or_in_the_checkout("config/searches"), CONFIG),
    )
except ConfigError as error:
    raise wrong_configuration(error) from None

if HERE and (PROBLEM := missing_package(CONFIG.tracking)):
    raise wrong_configuration(PROBLEM)

FOLDER = RUN.folder
STUDIES = RUN.studies.known
SEARCHES = RUN.searches.known
config["left_out"] = ", ".join(RUN.left_out)  # for the report


@functools.lru_cache(maxsize=None)
def inputs_of(population):
    """Return the external files that a population is drawn from: path, bytes and SHA-256 of each."""
    try:
        options = CONFIG.populations[population]
        files = external_files(population, options)
        if workflow.is_main_process:
            check_enough_galaxies(f"populations.{population}", options)
            if HERE and (options.catalogue_columns.named or options.catalogue_flux):
                from shearbench.simulation.catalog import catalogue_galaxies

                catalogue_galaxies(f"populations.{population}", options)
            path = options.psf.image_file
            if path and (warning := narrow_psf(path, narrowest_psf(path))):
                logger.warning(f"populations.{population}.{warning}")
        return contents(files, ".snakemake/shearbench/inputs.json", logger.warning)
    except (ConfigError, OSError) as error:
        raise wrong_configuration(error) from None


@functools.lru_cache(maxsize=None)
def inputs_of_observation(name):
    """Return the files of a user's stamps, as `inputs_of` does."""
    try:
        options = CONFIG.observations[name]
        files = observed_files(name, options.stamps, options.psf)
        return contents(files, ".snakemake/shearbench/inputs.json", logger.warning)
    except (ConfigError, OSError) as error:
        raise wrong_configuration(error) from None


@functools.lru_cache(maxsize=None)
def labelled_images():
    """Return the user's file of images with classes, as `inputs_of` does, after a check of its content."""
    section = CONFIG.morphology
    options = section.images
    try:
        if HERE and workflow.is_main_process:
            from shearbench.data.labelled_images import check_labelled_images

            count, rows, columns, _ = check_labelled_images(
                options.file, options.classes, options.images, options.labels
            )
            train = int(section.fractions.train * count)
            check_classifiers(section, (rows, columns), train)
        return contents(
            [options.file], ".snakemake/shearbench/inputs.json", logger.warning
        )
    except (ConfigError, OSError) as error:
        raise wrong_configuration(error) from None


@functools.lru_cache(maxsize=None)
def inputs_of_checkpoint(name):
    """Return the files of a checkpoint of ShearNet, as `inputs_of` does."""
    try:
        files = checkpoint_files(name, RUN.shearnet_checkpoints[name])
        return contents(files, ".snakemake/shearbench/inputs.json", logger.warning)
    except (ConfigError, OSError) as error:
        raise wrong_configuration(error) from None


DIGESTS = Digests(
    RUN,
    CHECKOUT / "scripts",
    inputs_of,
    inputs_of_observation,
    labelled_images,
    inputs_of_checkpoint,
)

# Of the jobs that use a GPU, no more at a time than there are, unless --resources gpu=N says otherwise. A
# profile for a cluster says so.
if workflow.is_main_process and "gpu" not in workflow.global_resources:
    if GPUS := len(visible_gpus()):
        workflow.register_resource("gpu", GPUS)


def any_of(names):
    """Return a regular expression that matches these names and nothing else."""
    return "|".join(map(re.escape, names)) or "(?!)"


wildcard_constraints:
    population=any_of(RUN.populations),
    trained=any_of(RUN.populations),
    split=any_of(SPLITS),
    noise=any_of(RUN.sigma),
    estimator=any_of(RUN.estimators),
    variant=any_of(RUN.variants),
    seed=r"\d+",
    chunk=r"\d+",
    encoder=any_of([*CONFIG.encoders, *dict(RUN.image_encoders)]),
    study=any_of(STUDIES),
    search=any_of(SEARCHES),
    worker=r"\d+",
    observation=any_of(RUN.observations),
    measurer=any_of(RUN.measurer_files),


def untracked(value):
    """Return a mapping or a list that a script gets as it is, and Snakemake neither compares nor prints.

    Its digest is in `depends`, which is short.
    """
    return UserDict(value) if isinstance(value, dict) else UserList(value)


def origins(wildcards, input, output):
    """Return the origin of each file that a job reads and writes, by its path.

    Snakemake does not compare a parameter that is derived from inputs and outputs.
    """
    return DIGESTS.origins(input, output)


def needs_ngmix(estimator):
    """Return whether an estimator runs in ngmix's own environment: with conda, and where ngmix is not here."""
    modules = CONFIG.estimator(estimator).modules()
    return WITH_CONDA and not HAS_NGMIX and "shearbench.estimators.ngmix" in modules


def environment_of(missing):
    """Return the environment of networks in other frameworks: their own where a package is missing here."""
    return FRAMEWORKS_ENVIRONMENT if WITH_CONDA and missing else ENVIRONMENT


def no_frameworks(_):
    """Raise the error of the target frameworks in a run that has none."""
    raise WorkflowError(
        "frameworks: this configuration has no such section; use --configfile config/frameworks.yaml, or "
        "add the section as docs/frameworks.md says"
    ) from None


def no_observations(_):
    """Raise the error of the target observations in a run that has none."""
    raise WorkflowError(
        "observations: this configuration has no stamps of your own; name them as docs/own-data.md says"
    ) from None


def no_morphology(_):
    """Raise the error of the target morphology in a run that has none."""
    raise WorkflowError(
        "morphology: this configuration has no such section; use --configfile config/morphology.yaml, or "
        "add the section as docs/morphology.md says"
    ) from None


def memory_of_images(wildcards, input, attempt):
    """Return the memory [MB] of a job that reads all images: the file, its splits and their copies."""
    return attempt * (4000 + int(4 * input.size_mb))


def gpus_per_training():
    """Return how many GPUs a training asks for: by its rule, a profile or --set-resources."""
    return rules.train.rule.resources["gpu"].value


def memory_of_training():
    """Return the memory [MB] that a training asks for: each of its processes has all stamps."""
    stamps = 2 * RUN.stamps_mb("train") + RUN.stamps_mb("validation")
    return gpus_per_training() * (8000 + stamps)


def reason_of(target, reason):
    """Return a function of a rule's inputs, which raises the reason that a target cannot be made."""

    def refuse(_):
        raise WorkflowError(f"{target} cannot be made.\n{reason}") from None

    return refuse


@functools.lru_cache(maxsize=None)
def all_studies_that_fit(_):
    """Say which studies do not fit the run, where all are asked for; an input function, without inputs."""
    for study, reason in RUN.studies.wrong.items():
        logger.warning(f"Left out: study_{study}. {reason}")
    if not STUDIES:
        raise WorkflowError("No study of config/studies fits this run.")
    return []


@functools.lru_cache(maxsize=None)
def all_searches_that_fit(_):
    """Say which searches do not fit the run; an input function, without inputs."""
    for search, reason in RUN.searches.wrong.items():
        logger.warning(f"Left out: search_{search}. {reason}")
    if not SEARCHES:
        raise WorkflowError("No search of config/searches fits this run.")
    return []


def with_optuna(_):
    """Say how to install the package of searches if it is missing; an input function, without inputs."""
    if HERE and importlib.util.find_spec("optuna") is None:
        raise WorkflowError(
            "searches need the package optuna, which is not installed here: pip install -r requirements.lock"
        )
    return []


onstart:
    # Held while this process lives; a kill releases it, which Snakemake's own lock files do not survive.
    try:
        hold_lock(f"{FOLDER}/.lock")
    except ShearbenchError as error:
        raise WorkflowError(str(error)) from None
    if left := remove_leftovers(FOLDER):
        logger.info(
            f"Removed {len(left)} temporary files of jobs that were killed."
        )
    for reason in dict.fromkeys(RUN.left_out.values()):
        names = ", ".join(
            name for name, why in RUN.left_out.items() if why == reason
        )
        logger.warning(f"Left out of this run: {names}. {reason}")


onsuccess:
    # The state of a finished training is kept until here: where several share a job and one of them fails,
    # Snakemake deletes what all of them made, and the next attempt makes it anew from their states.
    remove_states(FOLDER)
    for sentence in sentences_of_run(RUN.metrics):
        logger.warning(sentence)
