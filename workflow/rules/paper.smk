"""Files for a paper: tables, macros, numbers, a document that includes all of them, and the manifest."""

METRIC_FILES = sorted(
    {
        *RUN.tabulated.values(),
        *(path for figure in RUN.figures.values() for path in figure.sources),
        *rules.evaluate_shear_bias.output,
        *rules.evaluate_uncertainty.output,
        *rules.summarise_networks.output,
        *(rules.gather_inside.output if RUN.examined else []),
    }
)


rule tables:
    input:
        **RUN.tabulated,
    output:
        **RUN.tables,
    log:
        f"{FOLDER}/logs/tables.log",
    benchmark:
        f"{FOLDER}/benchmarks/tables.tsv"
    conda:
        ENVIRONMENT
    params:
        origins=origins,
        depends=DIGESTS.tables(),
    script:
        "../../scripts/tables.py"


rule paper:
    input:
        **RUN.tabulated,
        figures=RUN.figure_files,
        tables=RUN.tables.values(),
        study_outputs=RUN.all_study_outputs,
    output:
        main=f"{FOLDER}/paper/main.tex",
        macros=f"{FOLDER}/paper/macros.tex",
        numbers=f"{FOLDER}/paper/numbers.json",
    log:
        f"{FOLDER}/logs/paper.log",
    benchmark:
        f"{FOLDER}/benchmarks/paper.tsv"
    conda:
        ENVIRONMENT
    params:
        origins=origins,
        run=CONFIG.run,
        figures=untracked(RUN.captioned),
        described=untracked(RUN.described),
        study=untracked(asdict(RUN.entries["study"])),
        studies=untracked(
            {study: STUDIES[study].model_dump(mode="json") for study in CONFIG.studies}
        ),
        depends=DIGESTS.paper(),
    script:
        "../../scripts/paper.py"


rule save_config:
    output:
        f"{FOLDER}/config.yaml",
    log:
        f"{FOLDER}/logs/save_config.log",
    benchmark:
        f"{FOLDER}/benchmarks/save_config.tsv"
    conda:
        ENVIRONMENT
    params:
        **DIGESTS.sections(),
        origins=origins,
        config=untracked(CONFIG.dump()),
    script:
        "../../scripts/save_config.py"


rule manifest:
    input:
        rules.save_config.output,
        RUN.figure_files,
        RUN.tables.values(),
        RUN.all_study_outputs,
        rules.paper.output,
        METRIC_FILES,
        RUN.all_estimates("test"),
        [RUN.all_estimates(split) for split in PAIRED],
        [RUN.model_of(p, v, s) for p, v, s in RUN.models],
        [RUN.calibration_of(p, e) for p in RUN.populations for e in RUN.calibrated],
        RUN.observation_outputs,
        expand(
            f"{FOLDER}/catalogs/{{population}}/{{split}}.parquet",
            population=RUN.populations,
            split=SPLITS,
        ),
        stamps=[
            path
            for split in SPLITS
            for path in expand(RUN.stamps_of(split), population=RUN.populations)
        ],
    output:
        f"{FOLDER}/manifest.json",
    log:
        f"{FOLDER}/logs/manifest.log",
    benchmark:
        f"{FOLDER}/benchmarks/manifest.tsv"
    conda:
        ENVIRONMENT
    params:
        seeds={"run": CONFIG.seed, "networks": list(CONFIG.seeds)},
        inputs=untracked(
            [file for name in RUN.populations for file in inputs_of(name)]
            + [
                file
                for name in RUN.observations
                for file in inputs_of_observation(name)
            ]
        ),
        depends=DIGESTS.manifest(),
    script:
        "../../scripts/manifest.py"
