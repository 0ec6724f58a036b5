"""Catalogs, stamps and the bounds no estimator can beat."""


@functools.lru_cache(maxsize=None)
def catalog_digest(population, split):
    """Return what a catalog depends on."""
    options = CONFIG.populations[population]
    shear = CONFIG.shear_test.model_dump(include={"shear", "rotations"}) if split == "shear" else None
    files = [file_stamp(path) for path in (options.catalogue_file, options.psf.image_file) if path]
    return digest(
        options.model_dump(mode="json"),
        files,
        galaxies(split),
        shear,
        CONFIG.seed,
        CONFIG.stamps.pixel_scale_arcsec,
        code_of("sample_catalog"),
    )


@functools.lru_cache(maxsize=None)
def stamps_digest(population, split):
    """Return what the stamps of a split depend on; how they are cut into chunks is not part of it."""
    return digest(
        catalog_digest(population, split),
        CONFIG.stamps.model_dump(),
        code_of("simulate_stamps"),
    )


def stamps_of(split):
    """Return the chunk files of a split, for any population."""
    return [f"{RUN}/stamps/{{population}}/{split}/{k}.h5" for k in range(len(chunks(split)))]


rule sample_catalog:
    output:
        f"{RUN}/catalogs/{{population}}/{{split}}.parquet",
    params:
        population=lambda w: CONFIG.populations[w.population].model_dump(mode="json"),
        galaxies=lambda w: galaxies(w.split),
        seed=CONFIG.seed,
        pixel_scale=CONFIG.stamps.pixel_scale_arcsec,
        shear=CONFIG.shear_test.shear,
        rotations=CONFIG.shear_test.rotations,
        depends=lambda w: catalog_digest(w.population, w.split),
    log:
        f"{RUN}/logs/sample_catalog/{{population}}/{{split}}.log",
    benchmark:
        f"{RUN}/benchmarks/sample_catalog/{{population}}/{{split}}.tsv"
    conda:
        ENVIRONMENT
    script:
        "../../scripts/sample_catalog.py"


rule simulate_stamps:
    input:
        catalog=rules.sample_catalog.output[0],
    output:
        f"{RUN}/stamps/{{population}}/{{split}}/{{chunk}}.h5",
    params:
        population=lambda w: CONFIG.populations[w.population].model_dump(mode="json"),
        rows=lambda w: chunks(w.split)[int(w.chunk)],
        size=CONFIG.stamps.size_pixels,
        pixel_scale=CONFIG.stamps.pixel_scale_arcsec,
        depends=lambda w: stamps_digest(w.population, w.split),
    log:
        f"{RUN}/logs/simulate_stamps/{{population}}/{{split}}/{{chunk}}.log",
    benchmark:
        f"{RUN}/benchmarks/simulate_stamps/{{population}}/{{split}}/{{chunk}}.tsv"
    conda:
        ENVIRONMENT
    script:
        "../../scripts/simulate_stamps.py"


rule cramer_rao:
    input:
        catalog=rules.sample_catalog.output[0],
        # Only where the PSF is known by its images and not by a profile.
        stamps=lambda w: (
            expand(stamps_of(w.split), population=w.population)
            if CONFIG.populations[w.population].psf.profile == "image"
            else []
        ),
    output:
        f"{RUN}/bounds/{{population}}/{{split}}.parquet",
    params:
        size=CONFIG.stamps.size_pixels,
        pixel_scale=CONFIG.stamps.pixel_scale_arcsec,
        depends=lambda w: bounds_digest(w.population, w.split),
    log:
        f"{RUN}/logs/cramer_rao/{{population}}/{{split}}.log",
    benchmark:
        f"{RUN}/benchmarks/cramer_rao/{{population}}/{{split}}.tsv"
    conda:
        ENVIRONMENT
    script:
        "../../scripts/cramer_rao.py"


@functools.lru_cache(maxsize=None)
def bounds_digest(population, split):
    """Return what the bounds of a split depend on."""
    return digest(
        catalog_digest(population, split), CONFIG.stamps.model_dump(), code_of("cramer_rao")
    )
