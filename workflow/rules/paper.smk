"""What a paper includes: tables, macros, numbers, a document that shows them all, and the manifest."""

TABLES = [
    f"{RUN}/tables/{name}.tex"
    for name in ("accuracy", "shear_bias", "estimators", "throughput", "networks")
]
METRIC_TABLES = {
    name: f"{METRICS}/{name}.csv"
    for name in ("accuracy", "shear_bias", "throughput", "networks")
}
METRIC_FILES = sorted(
    {
        *METRIC_TABLES.values(),
        *(path for sources in FIGURE_READS.values() for path in sources),
        *rules.summarise_networks.output,
    }
)
# Each figure's file, its caption, and the metrics that tell on how much data it stands.
CAPTIONED = [
    (path, ENTRIES[figure].caption, ENTRIES[figure].reads)
    for figure, paths in FIGURE_FILES.items()
    for path in paths
]
METRICS_DIGEST = digest([metrics_digest(path) for path in METRIC_TABLES.values()])


rule tables:
    input:
        **METRIC_TABLES,
    output:
        **{os.path.basename(path).removesuffix(".tex"): path for path in TABLES},
    log:
        f"{RUN}/logs/tables.log",
    benchmark:
        f"{RUN}/benchmarks/tables.tsv"
    conda:
        ENVIRONMENT
    params:
        origins=lambda w, input, output: origins(input, output),
        depends=digest(METRICS_DIGEST, code_of("tables")),
    script:
        "../../scripts/tables.py"


rule paper:
    input:
        **METRIC_TABLES,
        figures=FIGURES,
        tables=TABLES,
        study_outputs=STUDY_OUTPUTS,
    output:
        main=f"{RUN}/paper/main.tex",
        macros=f"{RUN}/paper/macros.tex",
        numbers=f"{RUN}/paper/numbers.json",
    log:
        f"{RUN}/logs/paper.log",
    benchmark:
        f"{RUN}/benchmarks/paper.tsv"
    conda:
        ENVIRONMENT
    params:
        origins=lambda w, input, output: origins(input, output),
        run=CONFIG.run,
        figures=untracked(CAPTIONED),
        study=untracked(asdict(ENTRIES["study"])),
        studies=untracked(
            {study: STUDIES[study].model_dump(mode="json") for study in CONFIG.studies}
        ),
        depends=digest(
            METRICS_DIGEST,
            [study_digest(study) for study in CONFIG.studies],
            CAPTIONED,
            ENTRIES["study"].caption,
            code_of("paper"),
        ),
    script:
        "../../scripts/paper.py"


# What `save_config` depends on, one for each key, so that the reason of a rerun names the key that changed.
SECTIONS = {
    f"digest_of_{key}": f"{key} {digest(value)}" for key, value in CONFIG.dump().items()
}


rule save_config:
    output:
        f"{RUN}/config.yaml",
    log:
        f"{RUN}/logs/save_config.log",
    benchmark:
        f"{RUN}/benchmarks/save_config.tsv"
    conda:
        ENVIRONMENT
    params:
        **SECTIONS,
        origins=lambda w, input, output: origins(input, output),
        config=untracked(CONFIG.dump()),
    script:
        "../../scripts/save_config.py"


rule manifest:
    input:
        rules.save_config.output,
        FIGURES,
        TABLES,
        STUDY_OUTPUTS,
        rules.paper.output,
        METRIC_FILES,
        all_estimates("test"),
        all_estimates("shear"),
        [f"{RUN}/models/{p}/{v}/seed{s}/model.pt" for p, v, s in MODELS],
        expand(
            f"{RUN}/catalogs/{{population}}/{{split}}.parquet",
            population=POPULATIONS,
            split=SPLITS,
        ),
        stamps=[
            path
            for split in SPLITS
            for path in expand(stamps_of(split), population=POPULATIONS)
        ],
    output:
        f"{RUN}/manifest.json",
    log:
        f"{RUN}/logs/manifest.log",
    benchmark:
        f"{RUN}/benchmarks/manifest.tsv"
    conda:
        ENVIRONMENT
    params:
        seeds={"run": CONFIG.seed, "networks": list(CONFIG.seeds)},
        inputs=untracked([file for name in POPULATIONS for file in inputs_of(name)]),
        depends=digest(
            METRICS_DIGEST,
            FIGURE_CODE,
            CONFIG.dump(),
            code_of("tables"),
            code_of("paper"),
            code_of("manifest"),
        ),
    script:
        "../../scripts/manifest.py"
