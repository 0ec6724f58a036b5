"""Searches. Each file in config/searches is a target `search_<name>`: trials, tables, figure, best recipe."""


# The jobs of a search share its trials by a file, which is not an output: it survives kills and larger budgets.
rule run_trials:
    input:
        train=lambda w: RUN.stamps_of("train", SEARCHES[w.search].population),
        validation=lambda w: RUN.stamps_of("validation", SEARCHES[w.search].population),
        train_catalog=lambda w: f"{FOLDER}/catalogs/{SEARCHES[w.search].population}/train.parquet",
        validation_catalog=lambda w: f"{FOLDER}/catalogs/{SEARCHES[w.search].population}/validation.parquet",
    output:
        f"{FOLDER}/searches/{{search}}/worker{{worker}}.txt",
    log:
        f"{FOLDER}/logs/run_trials/{{search}}/worker{{worker}}.log",
    benchmark:
        f"{FOLDER}/benchmarks/run_trials/{{search}}/worker{{worker}}.tsv"
    conda:
        ENVIRONMENT
    resources:
        gpu=1,
        mem_mb=lambda w, attempt: attempt * memory_of_training(),
    params:
        origins=origins,
        population=lambda w: untracked(RUN.population(SEARCHES[w.search].population)),
        search=lambda w: untracked(RUN.search(w.search)),
        journal=lambda w: RUN.journal(w.search, DIGESTS.trial(w.search)),
        trial=lambda w: DIGESTS.trial(w.search),
        workers=CONFIG.search_workers,
        depends=lambda w: DIGESTS.run_trials(w.search),
    script:
        "../../scripts/run_trials.py"


rule search:
    input:
        lambda w: RUN.search_workers(w.search),
    output:
        trials=f"{FOLDER}/metrics/searches/{{search}}/trials.csv",
        importances=f"{FOLDER}/metrics/searches/{{search}}/importances.csv",
        recipe=f"{FOLDER}/searches/{{search}}.yaml",
    log:
        f"{FOLDER}/logs/search/{{search}}.log",
    benchmark:
        f"{FOLDER}/benchmarks/search/{{search}}.tsv"
    conda:
        ENVIRONMENT
    params:
        origins=origins,
        search=lambda w: untracked(RUN.search(w.search)),
        journal=lambda w: RUN.journal(w.search, DIGESTS.trial(w.search)),
        depends=lambda w: DIGESTS.search(w.search),
    script:
        "../../scripts/search.py"


for name, entry in RUN.entries.items():
    if entry.each != "search":
        continue

    rule:
        name:
            f"figure_{name}"
        input:
            [f"{FOLDER}/metrics/{path}" for path in entry.reads],
        output:
            pdf=[f"{FOLDER}/figures/{name}_{{search}}.pdf"],
            png=[
                report(
                    f"{FOLDER}/figures/{name}_{{search}}.png",
                    caption="../report/figure.rst",
                    category=entry.category,
                    labels={
                        "figure": name.replace("_", " "),
                        "population": "{search}",
                    },
                )
            ],
        log:
            f"{FOLDER}/logs/figure_{name}/{{search}}.log",
        benchmark:
            f"{FOLDER}/benchmarks/figure_{name}/{{search}}.tsv"
        conda:
            ENVIRONMENT
        params:
            origins=origins,
            figure=name,
            arguments=[[]],
            entry=untracked(asdict(entry)),
            depends=lambda w, name=name: DIGESTS.figure_of_search(name, w.search),
        script:
            "../../scripts/draw_figure.py"


rule searches:
    input:
        [path for search in SEARCHES for path in RUN.search_results(search)],
        all_searches_that_fit,
        with_optuna,


for search in SEARCHES:

    rule:
        name:
            f"search_{search}"
        input:
            RUN.search_results(search),
            with_optuna,


for search in filter(is_name, RUN.searches.wrong):

    rule:
        name:
            f"search_{search}"
        input:
            reason_of(f"search_{search}", RUN.searches.wrong[search]),
