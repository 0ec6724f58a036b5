"""Trained networks from inside: what each layer holds, and what can be read from it."""


rule inside_layers:
    input:
        model=f"{FOLDER}/models/{{population}}/{{variant}}/seed{{seed}}/model.pt",
        stamps=[RUN.stamps_of(split) for split in ("train", "validation", "test")],
        catalogs=[
            f"{FOLDER}/catalogs/{{population}}/{split}.parquet"
            for split in ("train", "validation", "test")
        ],
    output:
        f"{FOLDER}/inside/{{population}}/{{variant}}/seed{{seed}}/layers.csv",
    log:
        f"{FOLDER}/logs/inside_layers/{{population}}/{{variant}}/seed{{seed}}.log",
    benchmark:
        f"{FOLDER}/benchmarks/inside_layers/{{population}}/{{variant}}/seed{{seed}}.tsv"
    conda:
        ENVIRONMENT
    params:
        origins=origins,
        galaxies=CONFIG.diagnostics.galaxies,
        probed=CONFIG.diagnostics.probe_galaxies,
        sigmas=sorted(CONFIG.diagnostics.noise_levels),
        seed=CONFIG.seed,
        depends=lambda w: DIGESTS.inside_layers(w.population, w.variant, int(w.seed)),
    script:
        "../../scripts/inside_layers.py"


rule inside_flow:
    input:
        model=rules.inside_layers.input.model,
        history=f"{FOLDER}/models/{{population}}/{{variant}}/seed{{seed}}/history.csv",
        stamps=RUN.stamps_of("test"),
        catalog=f"{FOLDER}/catalogs/{{population}}/test.parquet",
    output:
        flow=f"{FOLDER}/inside/{{population}}/{{variant}}/seed{{seed}}/flow.csv",
        gradients=f"{FOLDER}/inside/{{population}}/{{variant}}/seed{{seed}}/gradients.csv",
        curvature=f"{FOLDER}/inside/{{population}}/{{variant}}/seed{{seed}}/curvature.csv",
        shifts=f"{FOLDER}/inside/{{population}}/{{variant}}/seed{{seed}}/shifts.csv",
    log:
        f"{FOLDER}/logs/inside_flow/{{population}}/{{variant}}/seed{{seed}}.log",
    benchmark:
        f"{FOLDER}/benchmarks/inside_flow/{{population}}/{{variant}}/seed{{seed}}.tsv"
    conda:
        ENVIRONMENT
    params:
        origins=origins,
        sigmas=sorted(CONFIG.diagnostics.noise_levels),
        seed=CONFIG.seed,
        depends=lambda w: DIGESTS.inside_flow(w.population, w.variant, int(w.seed)),
    script:
        "../../scripts/inside_flow.py"


rule inside_maps:
    input:
        model=rules.inside_layers.input.model,
        stamps=RUN.stamps_of("test"),
        catalog=f"{FOLDER}/catalogs/{{population}}/test.parquet",
    output:
        maps=f"{FOLDER}/inside/{{population}}/{{variant}}/seed{{seed}}/maps.h5",
        overlap=f"{FOLDER}/inside/{{population}}/{{variant}}/seed{{seed}}/overlap.csv",
    log:
        f"{FOLDER}/logs/inside_maps/{{population}}/{{variant}}/seed{{seed}}.log",
    benchmark:
        f"{FOLDER}/benchmarks/inside_maps/{{population}}/{{variant}}/seed{{seed}}.tsv"
    conda:
        ENVIRONMENT
    params:
        origins=origins,
        population=lambda w: untracked(RUN.population(w.population)),
        sigmas=sorted(CONFIG.diagnostics.noise_levels),
        seed=CONFIG.seed,
        depends=lambda w: DIGESTS.inside_maps(w.population, w.variant, int(w.seed)),
    script:
        "../../scripts/inside_maps.py"


rule gather_inside:
    input:
        **{name: RUN.inside(name) for name in INSIDE},
        maps=RUN.inside("maps", "h5"),
    output:
        **{name: f"{FOLDER}/metrics/inside_{name}.csv" for name in INSIDE},
        maps=f"{FOLDER}/metrics/inside_maps.h5",
    log:
        f"{FOLDER}/logs/gather_inside.log",
    benchmark:
        f"{FOLDER}/benchmarks/gather_inside.tsv"
    conda:
        ENVIRONMENT
    params:
        origins=origins,
        depends=DIGESTS.gather_inside(),
    script:
        "../../scripts/gather_inside.py"


rule inside:
    input:
        rules.gather_inside.output,
        [
            path
            for figure in RUN.figures.values()
            if set(figure.sources) & set(rules.gather_inside.output)
            for suffix in ("pdf", "png")
            for path in figure.files(suffix)
        ],
