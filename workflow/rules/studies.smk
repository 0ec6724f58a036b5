"""Studies. Each file in config/studies is a target `study_<name>`: networks, table, figures and verdict."""


rule evaluate_study:
    input:
        estimates=lambda w: RUN.study_estimates(w.study),
        histories=lambda w: RUN.study_histories(w.study),
        catalog=lambda w: f"{FOLDER}/catalogs/{STUDIES[w.study].population}/test.parquet",
        bounds=lambda w: f"{FOLDER}/bounds/{STUDIES[w.study].population}/test.parquet",
    output:
        table=f"{FOLDER}/metrics/studies/{{study}}.csv",
        accuracy=f"{FOLDER}/metrics/studies/{{study}}_accuracy.csv",
        verdict=f"{FOLDER}/metrics/studies/{{study}}_verdict.txt",
    log:
        f"{FOLDER}/logs/evaluate_study/{{study}}.log",
    benchmark:
        f"{FOLDER}/benchmarks/evaluate_study/{{study}}.tsv"
    priority: 20_000
    conda:
        ENVIRONMENT
    params:
        origins=origins,
        study=lambda w: untracked(STUDIES[w.study].model_dump(mode="json")),
        networks=lambda w: untracked(RUN.studies.networks[w.study]),
        resamples=CONFIG.bootstrap,
        depends=lambda w: DIGESTS.evaluate_study(w.study),
    script:
        "../../scripts/evaluate_study.py"


# m and c of the networks of a study, if it asks for them. The estimates are not kept.
rule evaluate_study_shear:
    input:
        models=lambda w: RUN.study_model_files(w.study),
        stamps=lambda w: RUN.stamps_of("shear", STUDIES[w.study].population),
        catalog=lambda w: f"{FOLDER}/catalogs/{STUDIES[w.study].population}/shear.parquet",
    output:
        table=f"{FOLDER}/metrics/studies/{{study}}_shear.csv",
        verdict=f"{FOLDER}/metrics/studies/{{study}}_shear.txt",
    log:
        f"{FOLDER}/logs/evaluate_study_shear/{{study}}.log",
    benchmark:
        f"{FOLDER}/benchmarks/evaluate_study_shear/{{study}}.tsv"
    conda:
        ENVIRONMENT
    params:
        origins=origins,
        study=lambda w: untracked(STUDIES[w.study].model_dump(mode="json")),
        networks=lambda w: untracked(RUN.studies.networks[w.study]),
        trained=lambda w: untracked(RUN.study_networks(w.study)),
        seed=CONFIG.seed,
        resamples=CONFIG.bootstrap,
        depends=lambda w: DIGESTS.evaluate_study_shear(w.study),
    script:
        "../../scripts/evaluate_study_shear.py"


rule measure_attention:
    input:
        models=lambda w: sorted(set(sum(RUN.study_models(w.study).values(), []))),
        stamps=lambda w: RUN.stamps_of("test", STUDIES[w.study].population),
        catalog=lambda w: f"{FOLDER}/catalogs/{STUDIES[w.study].population}/test.parquet",
    output:
        ranks=f"{FOLDER}/metrics/studies/{{study}}_attention.csv",
        costs=f"{FOLDER}/metrics/studies/{{study}}_attention_cost.csv",
        maps=f"{FOLDER}/metrics/studies/{{study}}_attention.h5",
    log:
        f"{FOLDER}/logs/measure_attention/{{study}}.log",
    benchmark:
        f"{FOLDER}/benchmarks/measure_attention/{{study}}.tsv"
    conda:
        ENVIRONMENT
    params:
        origins=origins,
        models=lambda w: untracked(RUN.study_models(w.study)),
        population=lambda w: untracked(RUN.population(STUDIES[w.study].population)),
        sigmas=lambda w: STUDIES[w.study].levels,
        seed=CONFIG.seed,
        resamples=CONFIG.bootstrap,
        depends=lambda w: DIGESTS.measure_attention(w.study),
    script:
        "../../scripts/measure_attention.py"


for study, known in STUDIES.items():
    if not set(known.inside) & set(INSIDE_STUDY):
        continue

    rule:
        name:
            f"measure_inside_{study}"
        input:
            models=sorted(set(sum(RUN.study_models(study).values(), []))),
            stamps=RUN.stamps_of("test", known.population),
            catalog=f"{FOLDER}/catalogs/{known.population}/test.parquet",
        output:
            **{
                kind: f"{FOLDER}/metrics/studies/{study}_{kind}.csv"
                for kind in known.inside
                if kind in INSIDE_STUDY
            },
        log:
            f"{FOLDER}/logs/measure_inside/{study}.log",
        benchmark:
            f"{FOLDER}/benchmarks/measure_inside/{study}.tsv"
        conda:
            ENVIRONMENT
        params:
            origins=origins,
            study=study,
            models=untracked(RUN.study_models(study)),
            sigmas=known.levels,
            seed=CONFIG.seed,
            depends=DIGESTS.measure_inside(study),
        script:
            "../../scripts/measure_inside.py"


for name, entry in RUN.entries.items():
    if entry.each != "study":
        continue

    rule:
        name:
            f"figure_{name}"
        input:
            [f"{FOLDER}/metrics/{path}" for path in entry.reads],
        output:
            pdf=[f"{FOLDER}/figures/{name}_{{study}}.pdf"],
            png=[
                report(
                    f"{FOLDER}/figures/{name}_{{study}}.png",
                    caption="../report/figure.rst",
                    category=entry.category,
                    labels={
                        "figure": name.replace("_", " "),
                        "population": "{study}",
                    },
                )
            ],
        log:
            f"{FOLDER}/logs/figure_{name}/{{study}}.log",
        benchmark:
            f"{FOLDER}/benchmarks/figure_{name}/{{study}}.tsv"
        conda:
            ENVIRONMENT
        params:
            origins=origins,
            figure=name,
            arguments=lambda w: [[STUDIES[w.study].question, w.study.replace("_", " ")]],
            entry=untracked(asdict(entry)),
            depends=lambda w, name=name: DIGESTS.figure_of_study(name, w.study),
        script:
            "../../scripts/draw_figure.py"


rule table_study:
    input:
        table=rules.evaluate_study.output.table,
        verdict=rules.evaluate_study.output.verdict,
    output:
        f"{FOLDER}/tables/study_{{study}}.tex",
    log:
        f"{FOLDER}/logs/table_study/{{study}}.log",
    benchmark:
        f"{FOLDER}/benchmarks/table_study/{{study}}.tsv"
    conda:
        ENVIRONMENT
    params:
        origins=origins,
        study=lambda w: untracked(STUDIES[w.study].model_dump(mode="json")),
        depends=lambda w: DIGESTS.table_study(w.study),
    script:
        "../../scripts/table_study.py"


# The summary of all studies that fit the run.
rule summarise_studies:
    input:
        [f"{FOLDER}/metrics/studies/{study}.csv" for study in STUDIES],
    output:
        f"{FOLDER}/metrics/studies.csv",
    log:
        f"{FOLDER}/logs/summarise_studies.log",
    benchmark:
        f"{FOLDER}/benchmarks/summarise_studies.tsv"
    conda:
        ENVIRONMENT
    params:
        origins=origins,
        depends=lambda w: DIGESTS.summarise_studies(),
    script:
        "../../scripts/summarise_studies.py"


rule figure_studies:
    input:
        rules.summarise_studies.output,
    output:
        pdf=[f"{FOLDER}/figures/studies.pdf"],
        png=[
            report(
                f"{FOLDER}/figures/studies.png",
                caption="../report/figure.rst",
                category=RUN.entries["studies"].category,
                labels={"figure": "studies", "population": "all"},
            )
        ],
    log:
        f"{FOLDER}/logs/figure_studies.log",
    benchmark:
        f"{FOLDER}/benchmarks/figure_studies.tsv"
    conda:
        ENVIRONMENT
    params:
        origins=origins,
        figure="studies",
        arguments=[[]],
        entry=untracked(asdict(RUN.entries["studies"])),
        depends=lambda w: DIGESTS.figure_studies(),
    script:
        "../../scripts/draw_figure.py"


# Attention, whose maps take as long as a study, is left to the targets of single studies.
rule studies:
    input:
        rules.figure_studies.output,
        [
            path
            for study in STUDIES
            for path in RUN.study_results(study, attention=False)
        ],
        all_studies_that_fit,


for study in STUDIES:

    rule:
        name:
            f"study_{study}"
        input:
            RUN.study_outputs(study),


for study in filter(is_name, RUN.studies.wrong):

    rule:
        name:
            f"study_{study}"
        input:
            reason_of(f"study_{study}", RUN.studies.wrong[study]),
