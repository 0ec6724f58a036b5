"""The classification of galaxies by morphology: images, classifiers, their answers, tables and figures."""

if CONFIG.morphology is not None:

    wildcard_constraints:
        classifier=any_of(CONFIG.morphology.variants),

    if CONFIG.morphology.images.file is None:

        rule simulate_morphology:
            output:
                RUN.labelled_images,
            log:
                f"{FOLDER}/logs/simulate_morphology.log",
            benchmark:
                f"{FOLDER}/benchmarks/simulate_morphology.tsv"
            conda:
                ENVIRONMENT
            threads: 2
            params:
                origins=origins,
                simulation=untracked(CONFIG.morphology.simulation.model_dump()),
                seed=CONFIG.seed,
                depends=DIGESTS.simulate_morphology(),
            script:
                "../../scripts/simulate_morphology.py"

    rule train_classifier:
        input:
            images=RUN.labelled_images,
        output:
            model=f"{FOLDER}/morphology/models/{{classifier}}/seed{{seed}}/model.pt",
            history=f"{FOLDER}/morphology/models/{{classifier}}/seed{{seed}}/history.csv",
        log:
            f"{FOLDER}/logs/train_classifier/{{classifier}}.seed{{seed}}.log",
        benchmark:
            f"{FOLDER}/benchmarks/train_classifier/{{classifier}}.seed{{seed}}.tsv"
        conda:
            ENVIRONMENT
        resources:
            gpu=1,
            mem_mb=memory_of_images,
        params:
            origins=origins,
            images=untracked(RUN.images_with_classes),
            variant=lambda w: untracked(
                CONFIG.morphology.variants[w.classifier].model_dump(mode="json")
            ),
            # Not an output, because Snakemake deletes outputs before every attempt.
            checkpoint=f"{FOLDER}/morphology/checkpoints/{{classifier}}/seed{{seed}}.pt",
            depends=lambda w: DIGESTS.train_classifier(w.classifier),
        script:
            "../../scripts/train_classifier.py"

    rule classify:
        input:
            images=RUN.labelled_images,
            model=rules.train_classifier.output.model,
        output:
            f"{FOLDER}/morphology/predictions/{{classifier}}.seed{{seed}}.parquet",
        log:
            f"{FOLDER}/logs/classify/{{classifier}}.seed{{seed}}.log",
        benchmark:
            f"{FOLDER}/benchmarks/classify/{{classifier}}.seed{{seed}}.tsv"
        conda:
            ENVIRONMENT
        resources:
            mem_mb=memory_of_images,
        params:
            origins=origins,
            images=untracked(RUN.images_with_classes),
            angles=list(CONFIG.morphology.angles_deg),
            depends=lambda w: DIGESTS.classify(w.classifier, int(w.seed)),
        script:
            "../../scripts/classify.py"

    rule evaluate_morphology:
        input:
            images=RUN.labelled_images,
            predictions=RUN.of_classifiers(
                "predictions/{classifier}.seed{seed}.parquet"
            ),
            histories=RUN.of_classifiers("models/{classifier}/seed{seed}/history.csv"),
        output:
            summary=f"{FOLDER}/metrics/morphology.csv",
            classes=f"{FOLDER}/metrics/morphology_classes.csv",
            confusion=f"{FOLDER}/metrics/morphology_confusion.csv",
            calibration=f"{FOLDER}/metrics/morphology_calibration.csv",
            angles=f"{FOLDER}/metrics/morphology_angles.csv",
            training=f"{FOLDER}/metrics/morphology_training.csv",
            examples=f"{FOLDER}/metrics/morphology_examples.h5",
        log:
            f"{FOLDER}/logs/evaluate_morphology.log",
        benchmark:
            f"{FOLDER}/benchmarks/evaluate_morphology.tsv"
        conda:
            ENVIRONMENT
        resources:
            mem_mb=memory_of_images,
        params:
            origins=origins,
            images=untracked(RUN.images_with_classes),
            resamples=CONFIG.bootstrap,
            depends=DIGESTS.evaluate_morphology(),
        script:
            "../../scripts/evaluate_morphology.py"

    rule table_morphology:
        input:
            rules.evaluate_morphology.output.summary,
        output:
            f"{FOLDER}/tables/morphology.tex",
        log:
            f"{FOLDER}/logs/table_morphology.log",
        benchmark:
            f"{FOLDER}/benchmarks/table_morphology.tsv"
        conda:
            ENVIRONMENT
        params:
            origins=origins,
            depends=DIGESTS.table_morphology(),
        script:
            "../../scripts/table_morphology.py"


rule morphology:
    input:
        RUN.morphology_outputs if CONFIG.morphology is not None else no_morphology,
        f"{FOLDER}/config.yaml",
