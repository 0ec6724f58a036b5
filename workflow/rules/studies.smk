"""Studies: each file of config/studies is a target `study_<name>`, its networks, table, figure and verdict."""


def study_networks(study):
    """Return the networks of a study with their seeds."""
    return {variant: list(STUDIES[study].seeds) for variant in STUDY_VARIANTS[study]}


def study_estimates(study):
    """Return the estimates of a study's networks at every noise level."""
    population = STUDIES[study].population
    return [
        path
        for noise in NOISE["test"]
        for path in estimates_of(population, "test", noise, [], study_networks(study))
    ]


@functools.lru_cache(maxsize=None)
def study_digest(study):
    """Return what a study's table depends on."""
    population = STUDIES[study].population
    return digest(
        STUDIES[study].model_dump(mode="json"),
        [
            predict_digest(population, "test", variant, seed)
            for variant, seeds in study_networks(study).items()
            for seed in seeds
        ],
        bounds_digest(population, "test"),
        code_of("evaluate_study"),
    )


rule evaluate_study:
    input:
        estimates=lambda w: study_estimates(w.study),
        catalog=lambda w: f"{RUN}/catalogs/{STUDIES[w.study].population}/test.parquet",
        bounds=lambda w: f"{RUN}/bounds/{STUDIES[w.study].population}/test.parquet",
    output:
        table=f"{RUN}/metrics/studies/{{study}}.csv",
        accuracy=f"{RUN}/metrics/studies/{{study}}_accuracy.csv",
        verdict=f"{RUN}/metrics/studies/{{study}}_verdict.txt",
    params:
        study=lambda w: STUDIES[w.study].model_dump(mode="json"),
        resamples=CONFIG.bootstrap,
        depends=lambda w: study_digest(w.study),
    log:
        f"{RUN}/logs/evaluate_study/{{study}}.log",
    benchmark:
        f"{RUN}/benchmarks/evaluate_study/{{study}}.tsv"
    conda:
        ENVIRONMENT
    script:
        "../../scripts/evaluate_study.py"


rule figure_study:
    input:
        table=rules.evaluate_study.output.table,
        accuracy=rules.evaluate_study.output.accuracy,
        verdict=rules.evaluate_study.output.verdict,
    output:
        pdf=f"{RUN}/figures/study_{{study}}.pdf",
        png=report(
            f"{RUN}/figures/study_{{study}}.png",
            caption="../report/study.rst",
            category="7. Studies",
            labels={"figure": "study", "population": "{study}"},
        ),
    params:
        study=lambda w: STUDIES[w.study].model_dump(mode="json"),
        depends=lambda w: digest(study_digest(w.study), code_of("figure_study")),
    log:
        f"{RUN}/logs/figure_study/{{study}}.log",
    benchmark:
        f"{RUN}/benchmarks/figure_study/{{study}}.tsv"
    conda:
        ENVIRONMENT
    script:
        "../../scripts/figure_study.py"


rule table_study:
    input:
        table=rules.evaluate_study.output.table,
        verdict=rules.evaluate_study.output.verdict,
    output:
        f"{RUN}/tables/study_{{study}}.tex",
    params:
        study=lambda w: STUDIES[w.study].model_dump(mode="json"),
        depends=lambda w: digest(study_digest(w.study), code_of("table_study")),
    log:
        f"{RUN}/logs/table_study/{{study}}.log",
    benchmark:
        f"{RUN}/benchmarks/table_study/{{study}}.tsv"
    conda:
        ENVIRONMENT
    script:
        "../../scripts/table_study.py"


def study_outputs(study):
    """Return what a study leaves for a paper."""
    return [
        f"{METRICS}/studies/{study}.csv",
        f"{METRICS}/studies/{study}_verdict.txt",
        f"{RUN}/figures/study_{study}.pdf",
        f"{RUN}/tables/study_{study}.tex",
    ]


STUDY_OUTPUTS = [path for study in CONFIG.studies for path in study_outputs(study)]

for study in STUDIES:

    rule:
        name:
            f"study_{study}"
        input:
            study_outputs(study),
