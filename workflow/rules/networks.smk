"""The networks themselves, before any training: their layers, size, cost and view."""

# Channels of the networks' input: the stamp, and the PSF where every galaxy has its own.
CHANNELS = {
    population: 1 if options.psf.constant else 2
    for population, options in CONFIG.populations.items()
}
ARCHITECTURES = {
    name: [variant.architecture, variant.options]
    for name, variant in CONFIG.variants.items()
}


rule summarise_networks:
    output:
        networks=f"{RUN}/metrics/networks.csv",
        layers=f"{RUN}/metrics/network_layers.csv",
        listing=f"{RUN}/metrics/networks.txt",
    log:
        f"{RUN}/logs/summarise_networks.log",
    benchmark:
        f"{RUN}/benchmarks/summarise_networks.tsv"
    conda:
        ENVIRONMENT
    params:
        origins=lambda w, input, output: origins(input, output),
        variants=untracked(ARCHITECTURES),
        channels=untracked(CHANNELS),
        size=CONFIG.stamps.size_pixels,
        pixel_scale=CONFIG.stamps.pixel_scale_arcsec,
        depends=digest(
            ARCHITECTURES,
            CHANNELS,
            CONFIG.stamps.model_dump(),
            code_of(
                "summarise_networks",
                sorted(
                    {m for v in CONFIG.variants.values() for m in v.make().modules()}
                ),
            ),
        ),
    script:
        "../../scripts/summarise_networks.py"
