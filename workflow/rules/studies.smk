"""Studies. Each file in config/studies is a target `study_<name>`: networks, table, figure and verdict."""


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


rule figure_study:
    input:
        rules.evaluate_study.output.table,
        rules.evaluate_study.output.accuracy,
    output:
        pdf=[f"{FOLDER}/figures/study_{{study}}.pdf"],
        png=[
            report(
                f"{FOLDER}/figures/study_{{study}}.png",
                caption="../report/figure.rst",
                category=RUN.entries["study"].category,
                labels={"figure": "study", "population": "{study}"},
            )
        ],
    log:
        f"{FOLDER}/logs/figure_study/{{study}}.log",
    benchmark:
        f"{FOLDER}/benchmarks/figure_study/{{study}}.tsv"
    conda:
        ENVIRONMENT
    params:
        origins=origins,
        figure="study",
        arguments=lambda w: [[STUDIES[w.study].question, w.study.replace("_", " ")]],
        entry=untracked(asdict(RUN.entries["study"])),
        depends=lambda w: DIGESTS.figure_study(w.study),
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


rule studies:
    input:
        rules.figure_studies.output,
        [RUN.study_outputs(study) for study in STUDIES],
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
            reason_of(study),
