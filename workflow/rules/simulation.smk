"""Catalogs, stamps and Cramer-Rao bounds."""


rule sample_catalog:
    output:
        f"{FOLDER}/catalogs/{{population}}/{{split}}.parquet",
    log:
        f"{FOLDER}/logs/sample_catalog/{{population}}/{{split}}.log",
    benchmark:
        f"{FOLDER}/benchmarks/sample_catalog/{{population}}/{{split}}.tsv"
    conda:
        ENVIRONMENT
    params:
        origins=origins,
        population=lambda w: untracked(RUN.population(w.population)),
        galaxies=lambda w: RUN.galaxies(w.split),
        seed=CONFIG.seed,
        pixel_scale=CONFIG.stamps.pixel_scale_arcsec,
        shear=CONFIG.shear_test.shear,
        rotations=CONFIG.shear_test.rotations,
        psf_shape=CONFIG.shear_test.psf_shape,
        depends=lambda w: DIGESTS.sample_catalog(w.population, w.split),
    script:
        "../../scripts/sample_catalog.py"


rule simulate_stamps:
    input:
        catalog=rules.sample_catalog.output[0],
    output:
        f"{FOLDER}/stamps/{{population}}/{{split}}/{{chunk}}.h5",
    log:
        f"{FOLDER}/logs/simulate_stamps/{{population}}/{{split}}/{{chunk}}.log",
    benchmark:
        f"{FOLDER}/benchmarks/simulate_stamps/{{population}}/{{split}}/{{chunk}}.tsv"
    conda:
        ENVIRONMENT
    params:
        origins=origins,
        population=lambda w: untracked(RUN.population(w.population)),
        rows=lambda w: RUN.chunks(w.split)[int(w.chunk)],
        size=CONFIG.stamps.size_pixels,
        pixel_scale=CONFIG.stamps.pixel_scale_arcsec,
        depends=lambda w: DIGESTS.simulate_stamps(w.population, w.split),
    script:
        "../../scripts/simulate_stamps.py"


rule index_stamps:
    input:
        lambda w: [
            f"{FOLDER}/stamps/{w.population}/{w.split}/{k}.h5"
            for k in range(len(RUN.chunks(w.split)))
        ],
    output:
        f"{FOLDER}/stamps/{{population}}/{{split}}/index.json",
    log:
        f"{FOLDER}/logs/index_stamps/{{population}}/{{split}}.log",
    benchmark:
        f"{FOLDER}/benchmarks/index_stamps/{{population}}/{{split}}.tsv"
    conda:
        ENVIRONMENT
    params:
        origins=origins,
        depends=lambda w: DIGESTS.index_stamps(w.population, w.split),
    script:
        "../../scripts/index_stamps.py"


rule cramer_rao:
    input:
        catalog=rules.sample_catalog.output[0],
        # Needed only if the PSF has no formula, and its images tell what it is.
        stamps=lambda w: (
            []
            if CONFIG.populations[w.population].psf.has_formula
            else RUN.stamps_of(w.split, w.population)
        ),
    output:
        f"{FOLDER}/bounds/{{population}}/{{split}}.parquet",
    log:
        f"{FOLDER}/logs/cramer_rao/{{population}}/{{split}}.log",
    benchmark:
        f"{FOLDER}/benchmarks/cramer_rao/{{population}}/{{split}}.tsv"
    conda:
        ENVIRONMENT
    params:
        origins=origins,
        size=CONFIG.stamps.size_pixels,
        pixel_scale=CONFIG.stamps.pixel_scale_arcsec,
        depends=lambda w: DIGESTS.cramer_rao(w.population, w.split),
    script:
        "../../scripts/cramer_rao.py"
