"""Studies: each file of config/studies is a target `study_<name>`, its networks, table, figure and verdict."""


rule evaluate_study:
    input:
        estimates=lambda w: study_estimates(w.study),
        catalog=lambda w: f"{RUN}/catalogs/{STUDIES[w.study].population}/test.parquet",
        bounds=lambda w: f"{RUN}/bounds/{STUDIES[w.study].population}/test.parquet",
    output:
        table=f"{RUN}/metrics/studies/{{study}}.csv",
        accuracy=f"{RUN}/metrics/studies/{{study}}_accuracy.csv",
        verdict=f"{RUN}/metrics/studies/{{study}}_verdict.txt",
    log:
        f"{RUN}/logs/evaluate_study/{{study}}.log",
    benchmark:
        f"{RUN}/benchmarks/evaluate_study/{{study}}.tsv"
    conda:
        ENVIRONMENT
    params:
        origins=lambda w, input, output: origins(input, output),
        study=lambda w: untracked(STUDIES[w.study].model_dump(mode="json")),
        resamples=CONFIG.bootstrap,
        depends=lambda w: study_digest(w.study),
    script:
        "../../scripts/evaluate_study.py"


rule figure_study:
    input:
        rules.evaluate_study.output.table,
        rules.evaluate_study.output.accuracy,
    output:
        pdf=[f"{RUN}/figures/study_{{study}}.pdf"],
        png=[
            report(
                f"{RUN}/figures/study_{{study}}.png",
                caption="../report/figure.rst",
                category=ENTRIES["study"].category,
                labels={"figure": "study", "population": "{study}"},
            )
        ],
    log:
        f"{RUN}/logs/figure_study/{{study}}.log",
    benchmark:
        f"{RUN}/benchmarks/figure_study/{{study}}.tsv"
    conda:
        ENVIRONMENT
    params:
        origins=lambda w, input, output: origins(input, output),
        figure="study",
        arguments=lambda w: [[STUDIES[w.study].question, w.study.replace("_", " ")]],
        entry=untracked(asdict(ENTRIES["study"])),
        depends=lambda w: digest(study_digest(w.study), FIGURE_CODE["study"]),
    script:
        "../../scripts/draw_figure.py"


rule table_study:
    input:
        table=rules.evaluate_study.output.table,
        verdict=rules.evaluate_study.output.verdict,
    output:
        f"{RUN}/tables/study_{{study}}.tex",
    log:
        f"{RUN}/logs/table_study/{{study}}.log",
    benchmark:
        f"{RUN}/benchmarks/table_study/{{study}}.tsv"
    conda:
        ENVIRONMENT
    params:
        origins=lambda w, input, output: origins(input, output),
        study=lambda w: untracked(STUDIES[w.study].model_dump(mode="json")),
        depends=lambda w: digest(study_digest(w.study), code_of("table_study")),
    script:
        "../../scripts/table_study.py"


STUDY_OUTPUTS = [path for study in CONFIG.studies for path in study_outputs(study)]

for study in STUDIES:

    rule:
        name:
            f"study_{study}"
        input:
            study_outputs(study),


for study in filter(is_name, WRONG_STUDIES):

    rule:
        name:
            f"study_{study}"
        input:
            reason_of(study),
