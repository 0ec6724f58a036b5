"""The Bayes floor: error of the posterior mean on a part of the test galaxies, and errors of estimators over it."""


rule sample_posterior:
    input:
        stamps=f"{FOLDER}/stamps/{{population}}/test/index.json",
        catalog=f"{FOLDER}/catalogs/{{population}}/test.parquet",
    output:
        f"{FOLDER}/bounds/{{population}}/posterior.parquet",
    log:
        f"{FOLDER}/logs/sample_posterior/{{population}}.log",
    benchmark:
        f"{FOLDER}/benchmarks/sample_posterior/{{population}}.tsv"
    conda:
        ENVIRONMENT
    params:
        origins=origins,
        population=lambda w: untracked(RUN.population(w.population)),
        sigmas=sorted(CONFIG.noise_levels),
        galaxies=CONFIG.bayes_floor.galaxies,
        samples=CONFIG.bayes_floor.samples,
        seed=CONFIG.seed,
        depends=lambda w: DIGESTS.sample_posterior(w.population),
    script:
        "../../scripts/sample_posterior.py"


rule evaluate_bayes_floor:
    input:
        posteriors=RUN.of_populations(
            "bounds/{population}/posterior.parquet", RUN.with_posterior
        ),
        catalogs=RUN.of_populations(
            "catalogs/{population}/test.parquet", RUN.with_posterior
        ),
        bounds=RUN.of_populations(
            "bounds/{population}/test.parquet", RUN.with_posterior
        ),
        estimates=RUN.all_estimates("test", populations=RUN.with_posterior),
    output:
        f"{FOLDER}/metrics/bayes_floor.csv",
    log:
        f"{FOLDER}/logs/evaluate_bayes_floor.log",
    benchmark:
        f"{FOLDER}/benchmarks/evaluate_bayes_floor.tsv"
    conda:
        ENVIRONMENT
    params:
        origins=origins,
        labels=untracked(RUN.labels),
        resamples=CONFIG.bootstrap,
        depends=DIGESTS.evaluate_bayes_floor(),
    script:
        "../../scripts/evaluate_bayes_floor.py"
