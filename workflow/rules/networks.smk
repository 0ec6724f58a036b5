"""Layers, parameters, operations and receptive fields of the networks, before training."""


rule summarise_networks:
    output:
        networks=f"{FOLDER}/metrics/networks.csv",
        layers=f"{FOLDER}/metrics/network_layers.csv",
        listing=f"{FOLDER}/metrics/networks.txt",
    log:
        f"{FOLDER}/logs/summarise_networks.log",
    benchmark:
        f"{FOLDER}/benchmarks/summarise_networks.tsv"
    conda:
        ENVIRONMENT
    params:
        origins=origins,
        variants=untracked(RUN.architectures),
        channels=untracked(RUN.channels),
        size=CONFIG.stamps.size_pixels,
        pixel_scale=CONFIG.stamps.pixel_scale_arcsec,
        depends=DIGESTS.summarise_networks(),
    script:
        "../../scripts/summarise_networks.py"
