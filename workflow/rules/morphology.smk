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
            tracking=lambda w: untracked(RUN.tracking(f"morphology/{w.classifier}")),
            depends=lambda w: DIGESTS.train_classifier(w.classifier),
        script:
            "../../scripts/train_classifier.py"

    rule classify:
        input:
            images=RUN.labelled_images,
            model=rules.train_classifier.output.model,
        output:
            predictions=f"{FOLDER}/morphology/predictions/{{classifier}}.seed{{seed}}.parquet",
            inside=f"{FOLDER}/morphology/predictions/{{classifier}}.seed{{seed}}.h5",
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
            inside=RUN.of_classifiers("predictions/{classifier}.seed{seed}.h5"),
        output:
            summary=f"{FOLDER}/metrics/morphology.csv",
            classes=f"{FOLDER}/metrics/morphology_classes.csv",
            confusion=f"{FOLDER}/metrics/morphology_confusion.csv",
            calibration=f"{FOLDER}/metrics/morphology_calibration.csv",
            angles=f"{FOLDER}/metrics/morphology_angles.csv",
            training=f"{FOLDER}/metrics/morphology_training.csv",
            examples=f"{FOLDER}/metrics/morphology_examples.h5",
            inside=f"{FOLDER}/metrics/morphology_inside.h5",
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

    if RUN.image_encoders:

        rule pretrain_encoder:
            input:
                images=RUN.labelled_images,
            output:
                model=f"{FOLDER}/morphology/encoders/models/{{encoder}}/seed{{seed}}/model.pt",
                history=f"{FOLDER}/morphology/encoders/models/{{encoder}}/seed{{seed}}/history.csv",
            log:
                f"{FOLDER}/logs/pretrain_encoder/{{encoder}}.seed{{seed}}.log",
            benchmark:
                f"{FOLDER}/benchmarks/pretrain_encoder/{{encoder}}.seed{{seed}}.tsv"
            priority: 10
            conda:
                ENVIRONMENT
            resources:
                gpu=1,
                mem_mb=memory_of_images,
            params:
                origins=origins,
                images=untracked(RUN.images_with_classes),
                encoder=lambda w: untracked(
                    RUN.image_encoder(w.encoder).model_dump(mode="json")
                ),
                # Not an output, because Snakemake deletes outputs before every attempt.
                checkpoint=f"{FOLDER}/morphology/encoders/checkpoints/{{encoder}}/seed{{seed}}.pt",
                tracking=lambda w: untracked(
                    RUN.tracking(f"morphology/encoders/{w.encoder}")
                ),
                depends=lambda w: DIGESTS.pretrain_encoder(w.encoder),
            script:
                "../../scripts/pretrain_encoder.py"

        # Classifiers with some of the labels, all of an encoder in one job: where a training takes seconds,
        # so does the start of a job.
        rule compare_labels:
            input:
                images=RUN.labelled_images,
                model=rules.pretrain_encoder.output.model,
            output:
                labels=f"{FOLDER}/morphology/encoders/labels/{{encoder}}/seed{{seed}}/labels.csv",
                embedding=f"{FOLDER}/morphology/encoders/labels/{{encoder}}/seed{{seed}}/embedding.parquet",
                spectrum=f"{FOLDER}/morphology/encoders/labels/{{encoder}}/seed{{seed}}/spectrum.csv",
            log:
                f"{FOLDER}/logs/compare_labels/{{encoder}}.seed{{seed}}.log",
            benchmark:
                f"{FOLDER}/benchmarks/compare_labels/{{encoder}}.seed{{seed}}.tsv"
            priority: 10
            conda:
                ENVIRONMENT
            resources:
                gpu=1,
                mem_mb=memory_of_images,
            params:
                origins=origins,
                images=untracked(RUN.images_with_classes),
                options=untracked(
                    CONFIG.morphology.contrastive.model_dump(
                        mode="json", include={"labels", "neighbours", "fine_tuning"}
                    )
                ),
                states=f"{FOLDER}/morphology/encoders/checkpoints/{{encoder}}/labels{{seed}}",
                depends=lambda w: DIGESTS.compare_labels(w.encoder, int(w.seed)),
            script:
                "../../scripts/compare_labels.py"

        rule evaluate_contrastive:
            input:
                histories=RUN.of_encoders("models/{encoder}/seed{seed}/history.csv"),
                labels=RUN.of_encoders("labels/{encoder}/seed{seed}/labels.csv"),
                embeddings=RUN.of_encoders(
                    "labels/{encoder}/seed{seed}/embedding.parquet"
                ),
                spectra=RUN.of_encoders("labels/{encoder}/seed{seed}/spectrum.csv"),
            output:
                labels=f"{FOLDER}/metrics/morphology_labels.csv",
                embedding=f"{FOLDER}/metrics/morphology_embedding.csv",
                spectrum=f"{FOLDER}/metrics/morphology_spectrum.csv",
                map=f"{FOLDER}/metrics/morphology_map.csv",
                pretraining=f"{FOLDER}/metrics/morphology_pretraining.csv",
            log:
                f"{FOLDER}/logs/evaluate_contrastive.log",
            benchmark:
                f"{FOLDER}/benchmarks/evaluate_contrastive.tsv"
            conda:
                ENVIRONMENT
            params:
                origins=origins,
                encoders=untracked(RUN.image_encoders),
                classes=untracked(list(CONFIG.morphology.images.classes)),
                depends=DIGESTS.evaluate_contrastive(),
            script:
                "../../scripts/evaluate_contrastive.py"

    rule table_morphology:
        input:
            summary=rules.evaluate_morphology.output.summary,
            labels=(
                rules.evaluate_contrastive.output.labels if RUN.image_encoders else []
            ),
        output:
            **RUN.tables_of_morphology,
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

    rule manifest_morphology:
        input:
            RUN.morphology_outputs,
            RUN.morphology_results,
            f"{FOLDER}/config.yaml",
        output:
            f"{FOLDER}/manifest_morphology.json",
        log:
            f"{FOLDER}/logs/manifest_morphology.log",
        benchmark:
            f"{FOLDER}/benchmarks/manifest_morphology.tsv"
        conda:
            ENVIRONMENT
        params:
            seeds=untracked(RUN.seeds_of_morphology),
            inputs=lambda w: untracked(
                labelled_images() if CONFIG.morphology.images.file else []
            ),
            depends=DIGESTS.manifest_morphology(),
        script:
            "../../scripts/manifest_morphology.py"


rule morphology:
    input:
        RUN.morphology_outputs if CONFIG.morphology is not None else no_morphology,
        [f"{FOLDER}/manifest_morphology.json"] if CONFIG.morphology is not None else [],
        f"{FOLDER}/config.yaml",
