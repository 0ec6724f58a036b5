"""Stamps of users, measured by all estimators, and files of networks that measure them elsewhere."""


rule observe:
    input:
        stamps=lambda w: RUN.stamps_of("test", RUN.networks_from(w.observation)),
    output:
        galaxies=f"{FOLDER}/observations/{{observation}}/galaxies.parquet",
        simulated=f"{FOLDER}/observations/{{observation}}/simulated.parquet",
    log:
        f"{FOLDER}/logs/observe/{{observation}}.log",
    benchmark:
        f"{FOLDER}/benchmarks/observe/{{observation}}.tsv"
    conda:
        ENVIRONMENT
    params:
        origins=origins,
        options=lambda w: untracked(RUN.observation(w.observation)),
        noise=untracked(list(RUN.noise_range)),
        seed=CONFIG.seed,
        depends=lambda w: DIGESTS.observe(w.observation),
    script:
        "../../scripts/observe.py"


rule measure_observation:
    input:
        network=lambda w: RUN.network_measuring(w.observation, w.measurer),
    output:
        f"{FOLDER}/observations/{{observation}}/estimates/{{measurer}}.parquet",
    log:
        f"{FOLDER}/logs/measure_observation/{{observation}}/{{measurer}}.log",
    benchmark:
        f"{FOLDER}/benchmarks/measure_observation/{{observation}}/{{measurer}}.tsv"
    wildcard_constraints:
        measurer=any_of(one for one in RUN.measurer_files if one not in RUN.combined),
    conda:
        lambda w: (
            NGMIX_ENVIRONMENT
            if RUN.measurer_files[w.measurer][1] is None and needs_ngmix(w.measurer)
            else ENVIRONMENT
        )
    params:
        origins=origins,
        observation=lambda w: untracked(RUN.observation(w.observation)),
        population=lambda w: RUN.networks_from(w.observation),
        # None for a network of the run, which is measured with as it is.
        options=lambda w: (
            untracked(RUN.measuring_options(w.measurer))
            if RUN.measurer_files[w.measurer][1] is None
            else None
        ),
        depends=lambda w: DIGESTS.measure_observation(
            w.observation, RUN.measurer_files[w.measurer][0]
        ),
    script:
        "../../scripts/measure_observation.py"


use rule combine as combine_observation with:
    input:
        lambda w: RUN.beside(
            [f"{FOLDER}/observations/{w.observation}/estimates/{w.measurer}.parquet"],
            w.measurer,
        ),
    output:
        f"{FOLDER}/observations/{{observation}}/estimates/{{measurer}}.parquet",
    log:
        f"{FOLDER}/logs/combine_observation/{{observation}}/{{measurer}}.log",
    benchmark:
        f"{FOLDER}/benchmarks/combine_observation/{{observation}}/{{measurer}}.tsv"
    wildcard_constraints:
        measurer=any_of(RUN.combined),
    params:
        origins=origins,
        depends=lambda w: DIGESTS.measure_observation(
            w.observation, RUN.measurer_files[w.measurer][0]
        ),


rule catalogue_observation:
    input:
        galaxies=rules.observe.output.galaxies,
        simulated=rules.observe.output.simulated,
        estimates=lambda w: RUN.observed_by(w.observation),
        shear_bias=f"{FOLDER}/metrics/shear_bias.csv",
    output:
        parquet=f"{FOLDER}/observations/{{observation}}.parquet",
        fits=f"{FOLDER}/observations/{{observation}}.fits",
        shapes=f"{FOLDER}/observations/{{observation}}/shapes.parquet",
        shear=f"{FOLDER}/observations/{{observation}}/shear.parquet",
    log:
        f"{FOLDER}/logs/catalogue_observation/{{observation}}.log",
    benchmark:
        f"{FOLDER}/benchmarks/catalogue_observation/{{observation}}.tsv"
    conda:
        ENVIRONMENT
    params:
        origins=origins,
        population=lambda w: RUN.networks_from(w.observation),
        noise=untracked(list(RUN.noise_range)),
        measurers=untracked(
            [
                (
                    column,
                    name,
                    RUN.kind_of(name),
                    -1 if seed is None else seed,
                )
                for column, (_, name, seed) in RUN.measurers.items()
            ]
        ),
        labels=untracked(RUN.labels),
        resamples=CONFIG.bootstrap,
        depends=lambda w: DIGESTS.catalogue_observation(w.observation),
    script:
        "../../scripts/catalogue_observation.py"


rule gather_observations:
    input:
        galaxies=expand(
            rules.catalogue_observation.output.parquet, observation=RUN.observations
        ),
        simulated=expand(rules.observe.output.simulated, observation=RUN.observations),
        shapes=expand(
            rules.catalogue_observation.output.shapes, observation=RUN.observations
        ),
        shear=expand(
            rules.catalogue_observation.output.shear, observation=RUN.observations
        ),
    output:
        galaxies=f"{FOLDER}/metrics/observed_galaxies.parquet",
        shapes=f"{FOLDER}/metrics/observed_shapes.parquet",
        shear=f"{FOLDER}/metrics/observed_shear.parquet",
    log:
        f"{FOLDER}/logs/gather_observations.log",
    benchmark:
        f"{FOLDER}/benchmarks/gather_observations.tsv"
    conda:
        ENVIRONMENT
    params:
        origins=origins,
        names=RUN.observations,
        depends=DIGESTS.gather_observations(),
    script:
        "../../scripts/gather_observations.py"


rule pack_network:
    input:
        model=f"{FOLDER}/models/{{population}}/{{variant}}/seed{{seed}}/model.pt",
        stamps=RUN.stamps_of("test"),
        shear_bias=f"{FOLDER}/metrics/shear_bias.csv",
    output:
        f"{FOLDER}/networks/{{population}}/{{variant}}.seed{{seed}}.pt",
    log:
        f"{FOLDER}/logs/pack_network/{{population}}/{{variant}}.seed{{seed}}.log",
    benchmark:
        f"{FOLDER}/benchmarks/pack_network/{{population}}/{{variant}}.seed{{seed}}.tsv"
    conda:
        ENVIRONMENT
    params:
        origins=origins,
        options=lambda w: untracked(RUN.population(w.population)),
        run_seed=CONFIG.seed,
        depends=lambda w: DIGESTS.pack_network(w.population, w.variant, int(w.seed)),
    script:
        "../../scripts/pack_network.py"


rule networks:
    input:
        RUN.packed,


rule observations:
    input:
        RUN.observation_outputs if RUN.observations else no_observations,
        RUN.figures["observations"].files("png") if RUN.observations else [],
