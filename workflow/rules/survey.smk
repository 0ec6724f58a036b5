"""What a survey asks of estimators: a wrong PSF or noise level."""


# The first stamps of the split shear, measured once more with each error. A run that does not ask for it makes none.
rule measure_model_errors:
    input:
        stamps=RUN.stamps_of("shear"),
        catalog=f"{FOLDER}/catalogs/{{population}}/shear.parquet",
        network=rules.measure.input.network,
    output:
        RUN.misjudged_estimates("{population}", "{noise}", "{estimator}"),
    log:
        f"{FOLDER}/logs/measure_model_errors/{{population}}/{{noise}}/{{estimator}}.log",
    benchmark:
        f"{FOLDER}/benchmarks/measure_model_errors/{{population}}/{{noise}}/{{estimator}}.tsv"
    wildcard_constraints:
        estimator=any_of(RUN.measuring),
    conda:
        lambda w: NGMIX_ENVIRONMENT if needs_ngmix(w.estimator) else ENVIRONMENT
    params:
        origins=origins,
        population=lambda w: untracked(RUN.population(w.population)),
        options=lambda w: untracked(RUN.measuring_options(w.estimator)),
        errors=untracked(CONFIG.model_errors.amounts),
        stamps=lambda w: RUN.stamps_misjudged(w.estimator),
        sigma=lambda w: RUN.sigma[w.noise],
        seed=CONFIG.seed,
        depends=lambda w: DIGESTS.measure_model_errors(
            w.population, w.noise, w.estimator
        ),
    script:
        "../../scripts/measure_model_errors.py"


rule predict_model_errors:
    input:
        stamps=RUN.stamps_of("shear"),
        catalog=f"{FOLDER}/catalogs/{{population}}/shear.parquet",
        models=rules.predict.input.models,
    output:
        [
            path
            for seed in CONFIG.seeds
            for noise in RUN.misjudged_noise
            for path in RUN.misjudged_estimates(
                "{population}", noise, f"{{variant}}.seed{seed}"
            )
        ],
    log:
        f"{FOLDER}/logs/predict_model_errors/{{population}}/{{variant}}.log",
    benchmark:
        f"{FOLDER}/benchmarks/predict_model_errors/{{population}}/{{variant}}.tsv"
    conda:
        ENVIRONMENT
    params:
        origins=origins,
        population=lambda w: untracked(RUN.population(w.population)),
        gpu_use_path=f"{FOLDER}/benchmarks/predict_model_errors/{{population}}/{{variant}}.gpu.csv",
        networks=lambda w: RUN.of_all_seeds(w.variant),
        errors=untracked(CONFIG.model_errors.amounts),
        stamps=RUN.stamps_misjudged(),
        sigmas=[RUN.sigma[noise] for noise in RUN.misjudged_noise],
        seed=CONFIG.seed,
        depends=lambda w: DIGESTS.predict_all_model_errors(
            w.population, RUN.of_all_seeds(w.variant)
        ),
    script:
        "../../scripts/predict_model_errors.py"


use rule combine as combine_model_errors with:
    input:
        lambda w: RUN.beside(
            RUN.misjudged_estimates(w.population, w.noise, w.estimator), w.estimator
        ),
    output:
        RUN.misjudged_estimates("{population}", "{noise}", "{estimator}"),
    log:
        f"{FOLDER}/logs/combine_model_errors/{{population}}/{{noise}}/{{estimator}}.log",
    benchmark:
        f"{FOLDER}/benchmarks/combine_model_errors/{{population}}/{{noise}}/{{estimator}}.tsv"
    params:
        origins=origins,
        depends=lambda w: DIGESTS.measure_model_errors(
            w.population, w.noise, w.estimator
        ),


rule evaluate_model_errors:
    input:
        estimates=RUN.all_estimates("shear", RUN.misjudged_noise),
        misjudged=RUN.all_misjudged_estimates(),
        catalogs=RUN.of_populations("catalogs/{population}/shear.parquet"),
    output:
        f"{FOLDER}/metrics/model_errors.csv",
    log:
        f"{FOLDER}/logs/evaluate_model_errors.log",
    benchmark:
        f"{FOLDER}/benchmarks/evaluate_model_errors.tsv"
    conda:
        ENVIRONMENT
    params:
        origins=origins,
        labels=untracked(RUN.labels),
        errors=untracked(CONFIG.model_errors.amounts),
        resamples=CONFIG.bootstrap,
        depends=DIGESTS.evaluate_model_errors(),
    script:
        "../../scripts/evaluate_model_errors.py"


# Networks on another population than they were trained on: out of distribution.
use rule predict as judge with:
    input:
        stamps=[RUN.stamps_of(split) for split in JUDGED_SPLITS],
        models=[RUN.model_of("{trained}", "{variant}", seed) for seed in CONFIG.seeds],
    output:
        [
            path
            for split in JUDGED_SPLITS
            for path in RUN.judged_estimates(
                "{trained}", "{population}", RUN.of_all_seeds("{variant}"), split
            )
        ],
    log:
        f"{FOLDER}/logs/judge/{{trained}}/{{population}}/{{variant}}.log",
    benchmark:
        f"{FOLDER}/benchmarks/judge/{{trained}}/{{population}}/{{variant}}.tsv"
    params:
        origins=origins,
        population=lambda w: w.trained,
        gpu_use_path=f"{FOLDER}/benchmarks/judge/{{trained}}/{{population}}/{{variant}}.gpu.csv",
        networks=lambda w: RUN.of_all_seeds(w.variant),
        sigmas=[RUN.sigma[noise] for noise in RUN.noise["shear"]],
        seed=CONFIG.seed,
        depends=lambda w: DIGESTS.judge_all(
            w.trained, w.population, RUN.of_all_seeds(w.variant)
        ),


# The errors that estimators with networks give there, for evaluate_uncertainty.
use rule measure as measure_judged with:
    input:
        stamps=[RUN.stamps_of("test")],
        network=lambda w: RUN.network_file(w.trained, w.estimator),
    output:
        [
            f"{FOLDER}/judged/{{trained}}/{{population}}/test/{{noise}}/{{estimator}}.parquet"
        ],
    log:
        f"{FOLDER}/logs/measure_judged/{{trained}}/{{population}}/{{noise}}/{{estimator}}.log",
    benchmark:
        f"{FOLDER}/benchmarks/measure_judged/{{trained}}/{{population}}/{{noise}}/{{estimator}}.tsv"
    params:
        origins=origins,
        options=lambda w: untracked(RUN.measuring_options(w.estimator)),
        trained_on=lambda w: w.trained,
        stamps=None,
        sigma=lambda w: RUN.sigma[w.noise],
        seed=CONFIG.seed,
        depends=lambda w: DIGESTS.judge_estimator(w.trained, w.population, w.estimator),


use rule combine as combine_judged with:
    input:
        lambda w: RUN.beside(
            RUN.judged_by(w.trained, w.population, w.estimator), w.estimator
        ),
    output:
        RUN.judged_by("{trained}", "{population}", "{estimator}"),
    log:
        f"{FOLDER}/logs/combine_judged/{{trained}}/{{population}}/{{estimator}}.log",
    benchmark:
        f"{FOLDER}/benchmarks/combine_judged/{{trained}}/{{population}}/{{estimator}}.tsv"
    params:
        origins=origins,
        depends=lambda w: DIGESTS.judge_estimator(w.trained, w.population, w.estimator),


rule evaluate_judged:
    input:
        test=RUN.all_judged_estimates("test"),
        shear=RUN.all_judged_estimates("shear"),
        own=[
            path
            for population in CONFIG.judge_on
            for noise in RUN.noise["shear"]
            for path in RUN.estimates_of(population, "test", noise, [])
        ],
        catalogs=[
            f"{FOLDER}/catalogs/{population}/{split}.parquet"
            for population in CONFIG.judge_on
            for split in JUDGED_SPLITS
        ],
        bounds=RUN.of_populations("bounds/{population}/test.parquet", CONFIG.judge_on),
        shear_bias=rules.evaluate_shear_bias.output.table,
    output:
        f"{FOLDER}/metrics/judged.csv",
    log:
        f"{FOLDER}/logs/evaluate_judged.log",
    benchmark:
        f"{FOLDER}/benchmarks/evaluate_judged.tsv"
    conda:
        ENVIRONMENT
    params:
        origins=origins,
        resamples=CONFIG.bootstrap,
        depends=DIGESTS.evaluate_judged(),
    script:
        "../../scripts/evaluate_judged.py"
