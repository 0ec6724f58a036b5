"""The Bayes floor: the posterior mean's error, on a part of the test galaxies, and how near estimators come."""

# Of the galaxies of a catalogue there is no density to be a prior.
WITH_POSTERIOR = [
    name
    for name, population in CONFIG.populations.items()
    if CONFIG.bayes_floor.galaxies > 0 and not population.profile.startswith("cosmos")
]
BAYES_FLOOR = [f"{RUN}/metrics/bayes_floor.csv"] if WITH_POSTERIOR else []


rule sample_posterior:
    input:
        stamps=f"{RUN}/stamps/{{population}}/test/index.json",
        catalog=f"{RUN}/catalogs/{{population}}/test.parquet",
    output:
        f"{RUN}/bounds/{{population}}/posterior.parquet",
    log:
        f"{RUN}/logs/sample_posterior/{{population}}.log",
    benchmark:
        f"{RUN}/benchmarks/sample_posterior/{{population}}.tsv"
    conda:
        ENVIRONMENT
    params:
        origins=lambda w, input, output: origins(input, output),
        population=lambda w: untracked(
            CONFIG.populations[w.population].model_dump(mode="json")
        ),
        sigmas=sorted(CONFIG.noise_levels),
        galaxies=CONFIG.bayes_floor.galaxies,
        samples=CONFIG.bayes_floor.samples,
        seed=CONFIG.seed,
        depends=lambda w: posterior_digest(w.population),
    script:
        "../../scripts/sample_posterior.py"


rule evaluate_bayes_floor:
    input:
        posteriors=expand(rules.sample_posterior.output[0], population=WITH_POSTERIOR),
        catalogs=expand(
            f"{RUN}/catalogs/{{population}}/test.parquet", population=WITH_POSTERIOR
        ),
        bounds=expand(
            f"{RUN}/bounds/{{population}}/test.parquet", population=WITH_POSTERIOR
        ),
        estimates=[
            path
            for population in WITH_POSTERIOR
            for noise in NOISE["test"]
            for path in estimates_of(population, "test", noise)
        ],
    output:
        f"{RUN}/metrics/bayes_floor.csv",
    log:
        f"{RUN}/logs/evaluate_bayes_floor.log",
    benchmark:
        f"{RUN}/benchmarks/evaluate_bayes_floor.tsv"
    conda:
        ENVIRONMENT
    params:
        origins=lambda w, input, output: origins(input, output),
        labels=untracked(LABELS),
        resamples=CONFIG.bootstrap,
        depends=digest(
            [posterior_digest(population) for population in WITH_POSTERIOR],
            estimates_digest("test"),
            code_of("evaluate_bayes_floor"),
        ),
    script:
        "../../scripts/evaluate_bayes_floor.py"
