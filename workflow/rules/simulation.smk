"""Catalogs, stamps and the bounds no estimator can beat."""


rule sample_catalog:
    output:
        f"{RUN}/catalogs/{{population}}/{{split}}.parquet",
    log:
        f"{RUN}/logs/sample_catalog/{{population}}/{{split}}.log",
    benchmark:
        f"{RUN}/benchmarks/sample_catalog/{{population}}/{{split}}.tsv"
    conda:
        ENVIRONMENT
    params:
        origins=lambda w, input, output: origins(input, output),
        population=lambda w: untracked(
            CONFIG.populations[w.population].model_dump(mode="json")
        ),
        galaxies=lambda w: galaxies(w.split),
        seed=CONFIG.seed,
        pixel_scale=CONFIG.stamps.pixel_scale_arcsec,
        shear=CONFIG.shear_test.shear,
        rotations=CONFIG.shear_test.rotations,
        depends=lambda w: catalog_digest(w.population, w.split),
    script:
        "../../scripts/sample_catalog.py"


rule simulate_stamps:
    input:
        catalog=rules.sample_catalog.output[0],
    output:
        f"{RUN}/stamps/{{population}}/{{split}}/{{chunk}}.h5",
    log:
        f"{RUN}/logs/simulate_stamps/{{population}}/{{split}}/{{chunk}}.log",
    benchmark:
        f"{RUN}/benchmarks/simulate_stamps/{{population}}/{{split}}/{{chunk}}.tsv"
    conda:
        ENVIRONMENT
    params:
        origins=lambda w, input, output: origins(input, output),
        population=lambda w: untracked(
            CONFIG.populations[w.population].model_dump(mode="json")
        ),
        rows=lambda w: chunks(w.split)[int(w.chunk)],
        size=CONFIG.stamps.size_pixels,
        pixel_scale=CONFIG.stamps.pixel_scale_arcsec,
        depends=lambda w: stamps_digest(w.population, w.split),
    script:
        "../../scripts/simulate_stamps.py"


rule index_stamps:
    input:
        lambda w: [
            f"{RUN}/stamps/{w.population}/{w.split}/{k}.h5"
            for k in range(len(chunks(w.split)))
        ],
    output:
        f"{RUN}/stamps/{{population}}/{{split}}/index.json",
    log:
        f"{RUN}/logs/index_stamps/{{population}}/{{split}}.log",
    benchmark:
        f"{RUN}/benchmarks/index_stamps/{{population}}/{{split}}.tsv"
    conda:
        ENVIRONMENT
    params:
        origins=lambda w, input, output: origins(input, output),
        depends=lambda w: stamps_digest(w.population, w.split),
    script:
        "../../scripts/index_stamps.py"


rule cramer_rao:
    input:
        catalog=rules.sample_catalog.output[0],
        # Only where the PSF is known by its images and not by a profile.
        stamps=lambda w: (
            stamps_of(w.split).format(population=w.population)
            if CONFIG.populations[w.population].psf.profile == "image"
            else []
        ),
    output:
        f"{RUN}/bounds/{{population}}/{{split}}.parquet",
    log:
        f"{RUN}/logs/cramer_rao/{{population}}/{{split}}.log",
    benchmark:
        f"{RUN}/benchmarks/cramer_rao/{{population}}/{{split}}.tsv"
    conda:
        ENVIRONMENT
    params:
        origins=lambda w, input, output: origins(input, output),
        size=CONFIG.stamps.size_pixels,
        pixel_scale=CONFIG.stamps.pixel_scale_arcsec,
        depends=lambda w: bounds_digest(w.population, w.split),
    script:
        "../../scripts/cramer_rao.py"
