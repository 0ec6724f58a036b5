import copy
import json
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shearbench.config.labels import labels
from shearbench.config.plain_yaml import dump, read_file
from shearbench.config.reading import load, main, resolve
from shearbench.config.schema import MAX_JOBS, Config, planned_jobs
from shearbench.config.studies import plan_studies, read_study
from shearbench.errors import ConfigError
from shearbench.estimators import estimator_kinds
from shearbench.networks import architecture_kinds
from shearbench.options import validated
from shearbench.studies import Study
from shearbench.tools import docs
from shearbench.training.recipe import Recipe
from shearbench.training.search import Search
from shearbench.training.variants import resolve_variant

ROOT = Path(__file__).parents[3]
DEFAULT = ROOT / "config/config.yaml"


def wrong(changes, default=DEFAULT):
    """Return the error message for a change of the default configuration."""
    given = load_yaml(default)
    for key, value in changes.items():
        target = given
        *path, last = key.split("/")
        for part in path:
            target = target.setdefault(part, {})
        target[last] = value
    with pytest.raises(ConfigError) as error:
        resolve(given)
    return str(error.value)


def load_yaml(path):
    return read_file(path)


@pytest.mark.parametrize("name", sorted(path.stem for path in ROOT.glob("config/*.yaml")))
def test_the_files_we_ship_are_valid(name):
    first = {
        "sky_bias": ["sky"],
        "sky_leakage": ["sky"],
        "sky_pairs": ["sky"],
        "rivals_tuned": ["rivals"],
        "rivals_paper": ["rivals"],
    }.get(name, [])  # it is laid over another one
    config = load(DEFAULT, *(ROOT / f"config/{one}.yaml" for one in (*first, name)))
    assert config.run == {"config": "quick"}.get(name, name)
    readme = (ROOT / "config/README.md").read_text(encoding="utf-8")
    assert f"| `{name}.yaml` |" in readme


def test_the_resolved_config_resolves_to_itself(tmp_path):
    config = load(DEFAULT, ROOT / "config/paper.yaml")
    assert resolve(config.dump()) == config
    # ... and through the file that the run leaves, laid over the default once more.
    (tmp_path / "config.yaml").write_text(dump(config.dump()))
    assert load(DEFAULT, tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"noise_level": [1e-5]}, ["noise_level: there is no such key", "did you mean 'noise_levels'?"]),
        ({"training/learning_rat": 1}, ["training.learning_rat", "did you mean 'learning_rate'?"]),
        ({"populations/exp_gauss/fluxx": 1}, ["populations.exp_gauss.fluxx", "did you mean 'flux'?"]),
        (
            {"populations/exp_gaus": {}},
            ["populations.exp_gaus", "no preset 'exp_gaus'", "did you mean 'exp_gauss'?"],
        ),
        ({"estimators/mixture-expo": {}}, ["estimators.mixture-expo", "did you mean 'mixture-exp'?"]),
        ({"variants/poolled": {}}, ["variants.poolled", "did you mean 'pooled'?"]),
        (
            {"variants/pooled/options": {"widht": 3}},
            ["variants.pooled.options.widht", "did you mean 'width'?"],
        ),
        ({"variants/pooled/training": {"epoch": 3}}, ["variants.pooled.training.epoch", "'epochs'"]),
        ({"variants/pooled/width": 3}, ["variants.pooled.width", "inside `options`"]),
        ({"variants/pooled/epochs": 3}, ["variants.pooled.epochs", "inside `training`"]),
        (
            {"variants/pooled/options": {"downsampling": "maxx"}},
            ["downsampling", "'maxx'", "did you mean 'max'?"],
        ),
        ({"noise_levels": [1e-5, -1e-3]}, ["noise_levels.1", "-0.001", "at least 1e-12"]),
        ({"noise_levels": 1e-3}, ["noise_levels", "0.001"]),
        ({"noise_levels": [1e-3, 1e-3]}, ["noise_levels", "twice"]),
        ({"shear_test": {"noise_levels": [3e-3]}}, ["shear_test.noise_levels", "0.003"]),
        (
            {"model_errors": {"galaxies": 5, "noise_levels": [1e-4]}},
            ["model_errors.noise_levels", "0.0001", "shear_test.noise_levels"],
        ),
        ({"model_errors": {"galaxies": 501}}, ["model_errors.galaxies", "501", "500 of galaxies.shear"]),
        ({"judge_on": ["exp_gaus"]}, ["judge_on", "'exp_gaus'", "did you mean 'exp_gauss'?"]),
        ({"judge_on": ["exp_gauss"]}, ["judge_on", "two or more populations"]),
        ({"galaxies/test": "many"}, ["galaxies.test", "'many'"]),
        ({"galaxies/test": 0}, ["galaxies.test", "0"]),
        ({"galaxies/test": True}, ["galaxies.test", "true"]),
        ({"run": "../escape"}, ["run", "../escape"]),
        ({"run": "a; rm -rf b"}, ["run", "a; rm -rf b"]),
        ({"populations/bad name": {"base": "exp_gauss"}}, ["populations", "bad name"]),
        ({"stamps": {"size_pixels": 24}}, ["stamps.size_pixels", "exp_gauss", "need 38 pixels"]),
        ({"populations/exp_gauss/flux": [5, 1]}, ["populations.exp_gauss", "flux", "[5.0, 1.0]"]),
        ({"populations/exp_gauss/profile": "exponentiall"}, ["profile", "did you mean 'exponential'?"]),
        ({"populations/cosmos": {}}, ["populations.cosmos", "catalogue_file"]),
        ({"populations/exp_gauss/psf": {"moffat_beta": 1.1}}, ["psf.moffat_beta", "1.1", "1.5"]),
        ({"populations/exp_gauss/psf": {"fwhm_arcsec": 1e-3}}, ["exp_gauss.psf.fwhm_arcsec", "0.001"]),
        ({"populations/exp_gauss/psf": {"fwhm_arcsec": 9}}, ["stamps.size_pixels", "exp_gauss"]),
        ({"populations": {}}, ["populations", "exp_gauss"]),
        ({"variants/hsm-regauss": {"base": "pooled"}}, ["variants", "hsm-regauss"]),
        ({"seeds": [1, 1]}, ["seeds", "twice"]),
        ({"training/noise": [1e-1, 1e-5]}, ["training", "noise"]),
        ({"training/noise": 1e38}, ["training.noise: found 1e+38, expected at most 1000000"]),
        ({"training/noise": [1e-5, 1e38]}, ["training.noise.1: found 1e+38, expected at most 1000000"]),
        ({"training/noise": "loud"}, ["training.noise: found 'loud'"]),
        ({"training/epochs": 10**9}, ["training.epochs", "1000000000", "at most 100000"]),
        ({"training/epochs": 10**5000}, ["training.epochs", "at most 100000"]),
        ({"galaxies/test": 10**400}, ["galaxies.test", "at most 1000000000"]),
        (
            {"populations/exp_gauss/centroid_shift_pixels": 100},
            ["exp_gauss.centroid_shift_pixels: found 100, expected at most 12"],
        ),
        ({"populations/exp_gauss/flux": 1e300}, ["flux: needs 1e-12 < low <= high < 1e+12"]),
        ({"populations/exp_gauss/half_light_radius_arcsec": [1e-300, 1]}, ["half_light_radius", "1e-300"]),
        ({f"populations/{'a' * 300}": {"base": "exp_gauss"}}, ["populations", "at most 100"]),
        ({"run": "a" * 101}, ["run", "at most 100"]),
        ({"populations/EXP_gauss": {"base": "exp_gauss"}}, ["populations", "exp_gauss and EXP_gauss"]),
        ({"studies": ["downsampling", "downsampling"]}, ["studies", "'downsampling' twice"]),
        (
            {"noise_levels": [0.01234567, 0.01234568, 1e-5, 1e-3]},
            ["noise_levels", "both be 0.0123457", "six digits"],
        ),
        ({"estimators/hsm-ksb": {"label": "a\nb"}}, ["estimators.hsm-ksb.label", "one line"]),
        ({"variants/shearnet": {"options": {"width": 10**9}}}, ["shearnet.options.width", "10000"]),
        (
            {"variants/dilated": {"options": {"growth": 100, "stages": 100}}},
            ["variants.dilated: options.width", "more than 10000"],
        ),
        (
            {"chunk_stamps": 1, "galaxies/train": 30_000},
            [
                "chunk_stamps: 1 makes 42800 jobs of the rule 'simulate_stamps'",
                "at least 22",
                "fewer galaxies",
            ],
        ),
        ({"galaxies/train": 10**9}, ["chunk_stamps: 5000 makes 200005 jobs", "at least 505000"]),
        (
            {"populations": {f"p{k}": {"base": "exp_gauss"} for k in range(900)}},
            ["populations: this configuration makes", "'measure'", "fewer populations"],
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_mistake_is_named_with_its_key_and_the_nearest_right_one(changes, says):
    message = wrong(changes)
    for part in says:
        assert part in message


def test_all_mistakes_of_a_section_are_told_at_once():
    message = wrong({"galaxies": {"test": -1, "trian": 3}})
    assert "galaxies.test" in message
    assert "galaxies.trian" in message


def test_a_population_of_ones_own_is_based_on_a_preset():
    given = load_yaml(DEFAULT)
    given["populations"]["faint"] = {"base": "sersic_moffat", "flux": 0.5, "psf": {"fwhm_arcsec": 0.7}}
    faint = resolve(given).populations["faint"]
    assert faint.flux == (0.5, 0.5)
    assert faint.psf.profile == "moffat"
    assert faint.psf.fwhm_arcsec == (0.7, 0.7)


def test_an_entry_set_to_null_is_left_out():
    given = load_yaml(DEFAULT)
    given["estimators"]["hsm-regauss"] = None
    given["variants"]["dilated"] = None
    config = resolve(given)
    assert "hsm-regauss" not in config.estimators
    assert "dilated" not in config.variants


def test_numbers_like_1e_5_are_numbers(tmp_path):
    (tmp_path / "a.yaml").write_text("noise_levels: [1e-5, 1e-3]\n")
    assert load(DEFAULT, tmp_path / "a.yaml").noise_levels == (1e-5, 1e-3)


@pytest.mark.parametrize("text", ["a: [1", "- 1\n- 2\n", "\t", "a: !!python/object:os.system x", "\x00"])
def test_a_file_that_is_no_mapping_of_yaml_is_a_clear_error(tmp_path, text):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"a\.yaml"):
        load(tmp_path / "a.yaml")


def test_studies_are_checked_too(tmp_path):
    (tmp_path / "depth.yaml").write_text("question: How deep?\nbase: pooled\nvaluess: {a: 1}\n")
    with pytest.raises(ConfigError, match=r"depth\.yaml\.valuess.*did you mean 'values'"):
        read_study(tmp_path / "depth.yaml")


def test_every_number_has_a_lowest_and_a_highest_value():
    """Of the configuration, every estimator, every architecture, a study and a search."""
    classes = [Config, Study, Search, *estimator_kinds().values(), *architecture_kinds().values()]
    for cls in classes:
        schema = cls.model_json_schema()
        for name, section in {cls.__name__: schema, **schema.get("$defs", {})}.items():
            for key, option in section.get("properties", {}).items():
                if name in ("Population", "Psf", "Neighbours") and "prefixItems" in option:
                    continue  # a range, which is checked as a whole
                for part in numbers(option):
                    for ends in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
                        assert any(end in part for end in ends), f"{name}.{key}: {part}"


def numbers(schema):
    """Yield the parts of an option's schema that are numbers."""
    if schema.get("type") in ("integer", "number") and "enum" not in schema:
        yield schema
    inner = [*schema.get("anyOf", []), *schema.get("prefixItems", [])]
    for part in [*inner, schema["items"]] if "items" in schema else inner:
        yield from numbers(part)


@pytest.mark.parametrize("text", ["flux: 1e0", "flux: [5e-1, 1e0]", "psf: {fwhm_arcsec: 6e-1}"])
def test_a_number_is_one_in_ranges_too(tmp_path, text):
    (tmp_path / "a.yaml").write_text(f"populations: {{exp_gauss: {{{text}}}}}\n")
    load(DEFAULT, tmp_path / "a.yaml")
    load(DEFAULT, arguments=[f"populations={{exp_gauss: {{{text}}}}}"])
    # Another workflow that has this one as a module reads them as text.
    as_text = yaml.safe_load(f"populations: {{exp_gauss: {{{text}}}}}")
    assert "'" in str(as_text).split("exp_gauss")[1]
    resolve(load_yaml(DEFAULT) | as_text)


def test_an_empty_mapping_laid_over_null_brings_an_entry_back(tmp_path):
    (tmp_path / "a.yaml").write_text("estimators: {hsm-ksb: null}\n")
    (tmp_path / "b.yaml").write_text("estimators: {hsm-ksb: {}}\n")
    assert "hsm-ksb" not in load(DEFAULT, tmp_path / "a.yaml").estimators
    assert "hsm-ksb" in load(DEFAULT, tmp_path / "a.yaml", tmp_path / "b.yaml").estimators
    assert "hsm-ksb" in load(DEFAULT, tmp_path / "a.yaml", arguments=["estimators={hsm-ksb: {}}"]).estimators


def test_the_command_says_the_folder_of_the_run_or_what_is_wrong(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    main("config/tiny.yaml")
    assert capsys.readouterr().out == "results/tiny\n"
    (tmp_path / "a.yaml").write_text("runn: x\n")
    with pytest.raises(SystemExit, match="runn: there is no such key"):
        main(str(tmp_path / "a.yaml"))


def test_the_largest_run_that_is_meant_has_few_enough_jobs():
    config = load(DEFAULT, ROOT / "config/large.yaml")
    assert 500 < sum(planned_jobs(config).values()) < MAX_JOBS / 3


def studies_in(folder, **texts):
    """Write studies into a folder, each a base, values and more."""
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(f"question: q?\nbase: shearnet\naxis: options.width\n{text}\n")
    return folder


def quick(**changes):
    return resolve(load_yaml(DEFAULT) | changes)


def test_a_study_that_is_wrong_stops_no_other_and_is_told_where_it_is_asked_for(tmp_path):
    studies_in(tmp_path, good="values: {a: 8, b: 16}", unknown="values: {a: 8, b: 16}\nbase: shearnett")
    studies_in(
        tmp_path, elsewhere="values: {a: 8, b: 16}\npopulation: faint", wide="values: {a: 1, b: 99999}"
    )
    (tmp_path / "half.yaml").write_text("question: q?\nvalues: {a: [1")
    (tmp_path / "._good.yaml").write_bytes(b"\x00\x05\x16\x07\xff")
    (tmp_path / ".#good.yaml").symlink_to("user@host.1234")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "renamed.yaml").write_text("name: good\nquestion: q?\nbase: shearnet\nvalues: {a: {}, b: {}}")
    plan = plan_studies(tmp_path, quick())
    assert list(plan.known) == list(plan.networks) == ["good"]
    assert list(plan.networks["good"]) == ["a", "b"]
    assert set(plan.variants) == set(plan.networks["good"].values()) - {"shearnet"}
    assert set(plan.wrong) == {"elsewhere", "folder", "half", "renamed", "unknown", "wide"}
    for name, reason in plan.wrong.items():
        assert reason.startswith(f"{tmp_path / name}.yaml"), reason
    assert "line 2" in plan.wrong["half"]
    assert "twice" in plan.wrong["unknown"]
    assert plan_studies(tmp_path, quick(studies=["good"])).known
    with pytest.raises(ConfigError, match=r"half\.yaml: line 2"):
        plan_studies(tmp_path, quick(studies=["half"]))
    with pytest.raises(ConfigError, match=r"goood\.yaml \(did you mean 'good'"):
        plan_studies(tmp_path, quick(studies=["goood"]))


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (
            {"x": "values: {a: 8, b: 4}", "x_accuracy": "values: {a: 8, b: 4}"},
            {"x": "x_accuracy.yaml and this file: their result files", "x_accuracy": "x.yaml and this file"},
        ),
        (
            {"x": "values: {a: 8, b: 4}", "x_attention": "values: {a: 8, b: 4}"},
            {"x": "x_attention.yaml and this file: their result", "x_attention": "x.yaml and this file"},
        ),
        (
            {"x": "values: {a: 8, b: 4}", "X": "values: {c: 8, d: 4}"},
            {"x": "X.yaml and this file", "X": "x.yaml and this file"},
        ),
    ],
)
def test_studies_that_share_a_name_are_refused_with_both_names(tmp_path, texts, said):
    studies_in(tmp_path, **texts)
    plan = plan_studies(tmp_path, quick())
    assert plan.wrong.keys() == said.keys()
    for name, words in said.items():
        assert words in plan.wrong[name]
        with pytest.raises(ConfigError, match="rename one"):
            plan_studies(tmp_path, quick(studies=[name]))


def test_a_study_of_more_trainings_than_a_run_may_have_is_refused(tmp_path):
    values = ", ".join(f"a{k}: {k + 1}" for k in range(50))
    studies_in(tmp_path, many=f"values: {{{values}}}\nseeds: [{', '.join(map(str, range(100)))}]")
    assert "5000 trainings" in plan_studies(tmp_path, quick()).wrong["many"]


def test_equal_values_are_trained_once(tmp_path):
    """Also where their bases differ, or a variant of the run is equal, whatever options are added."""
    studies_in(
        tmp_path,
        one="values: {narrow: 8, wide: 32}",
        two="values: {w: 32, default: 16, again: 16}\ntraining: {}",
        other="values: {w: 32, x: 4}\ntraining: {epochs: 3}",
    )
    (tmp_path / "three.yaml").write_text(
        "question: q?\nbase: shearnet\n"
        "values: {a: {base: whitened, training: {epochs: 9}}, b: {options: {width: 32}}}"
    )
    config = quick()
    plan = plan_studies(tmp_path, config)
    assert not plan.wrong
    networks = plan.networks
    assert networks["one"]["wide"] == networks["two"]["w"] == networks["three"]["b"]
    assert networks["two"]["default"] == networks["two"]["again"] == "shearnet"
    assert "shearnet" in config.variants
    assert "shearnet" not in plan.variants
    assert networks["other"]["w"] != networks["one"]["wide"]
    assert len(plan.variants) == 5  # of widths 8, 32, twice 4 epochs or more, and one of another kind
    # Without the other studies, the names are the same.
    (tmp_path / "one.yaml").unlink()
    fewer = plan_studies(tmp_path, config)
    assert fewer.networks == {name: networks[name] for name in fewer.known}


def test_the_name_of_a_network_is_of_its_options_that_differ_from_their_defaults():
    plain = resolve_variant("shearnet", {}, Recipe())
    assert re.fullmatch(r"shearnet\.[0-9a-f]{8}", plain.network)
    # As after the architecture and the recipe got an option each: the defaults are not in the name.
    assert (
        plain.network
        == resolve_variant("x", {"base": "shearnet", "options": {"width": 16}}, Recipe()).network
    )
    assert plain.network == resolve_variant("shearnet", {}, Recipe(batch_size=64)).network
    for changes in ({"options": {"width": 8}}, {"training": {"epochs": 3}}):
        assert resolve_variant("shearnet", changes, Recipe()).network != plain.network
    # Of a network inside another one, too.
    refined = resolve_variant("refined", {"options": {"first": {"architecture": "shearnet"}}}, Recipe())
    given = {"first": {"architecture": "shearnet", "options": {"width": 16}}}
    assert refined.network == resolve_variant("refined", {"options": given}, Recipe()).network
    given = {"first": {"architecture": "shearnet", "options": {"width": 8}}}
    assert refined.network != resolve_variant("refined", {"options": given}, Recipe()).network


def test_a_configuration_changes_the_training_of_all_studies(tmp_path):
    studies_in(tmp_path, one="values: {a: 8, b: 4}\ntraining: {epochs: 50, batch_size: 32}")
    config = quick(study_seeds=[4], study_training={"epochs": 2, "epoch_stamps": 640})
    plan = plan_studies(tmp_path, config)
    assert plan.known["one"].seeds == (4,)
    training = plan.variants[plan.networks["one"]["a"]].training
    assert (training.epochs, training.epoch_stamps, training.batch_size) == (2, 640, 32)
    with pytest.raises(
        ConfigError, match=r"study_training\.epoch: there is no such key \(did you mean 'epochs'"
    ):
        quick(study_training={"epoch": 2})


@pytest.mark.parametrize("label", ["", "a" * 101, "a\nb", "\u200b"])
def test_a_label_is_a_line_that_can_be_shown(label):
    with pytest.raises(ConfigError, match="values"):
        validated(Study, {"name": "x", "question": "q", "base": "b", "values": {label: {}, "b": {}}}, ())


# Values that a slip of the keyboard, or malice, may put anywhere.
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=10**20, max_value=10**400),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["exp_gauss", "pooled", "base", "1e-5", "../x", "$(rm x)", "nan", ".inf", "\ud800"]),
    st.lists(st.one_of(st.integers(), st.text(max_size=3), st.none()), max_size=3),
    st.dictionaries(st.one_of(st.text(max_size=5), st.integers(), st.none()), st.integers(), max_size=3),
)


def places(value, path=()):
    """Return the path of every mapping and list entry of a nested value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = [path] if path else []
    for key, inner in items:
        found += places(inner, (*path, key))
    return found


FULL = load(DEFAULT).dump()


def test_half_a_character_in_the_value_of_a_checked_option_is_a_config_error():
    with pytest.raises(ConfigError, match=r"^estimators\.mine: a text has one of .* halves of characters"):
        resolve({"estimators": {"mine": {"base": "metacal", "estimator": "\ud800"}}})


@given(data=st.data())
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_mutated_config_is_valid_or_a_config_error(data):
    given = copy.deepcopy(FULL)
    for _ in range(data.draw(st.integers(1, 3))):
        spots = places(given)
        path = data.draw(st.sampled_from(spots))
        target = given
        for part in path[:-1]:
            target = target[part]
        action = data.draw(st.sampled_from(["replace", "delete", "add", "rename"]))
        if action == "replace":
            target[path[-1]] = data.draw(JUNK)
        elif action == "delete":
            del target[path[-1]]
        elif isinstance(target, dict) and action == "add":
            target[data.draw(st.one_of(st.text(max_size=6), st.integers(), st.none()))] = data.draw(JUNK)
        elif isinstance(target, dict):
            target[str(path[-1]) + "x"] = target.pop(path[-1])
        if not isinstance(given, dict) or not places(given):
            break
    try:
        config = resolve(given)
    except ConfigError as error:
        message = str(error)
    else:
        message = "valid"
        assert resolve(config.dump()) == config
    assert message.strip()


def test_generated_docs_are_up_to_date():
    for name in docs.PAGES:
        page = (ROOT / name).read_text()
        assert docs.readme(page) == page, f"{name}: run `make docs`"
    assert (ROOT / "workflow/schemas/config.schema.json").read_text() == docs.schema(), "run `make docs`"
    json.loads(docs.schema())


def test_every_option_is_documented_and_has_a_unit_where_it_needs_one():
    for key, _, meaning in docs._options(type(load(DEFAULT))):
        assert meaning.strip(), key
        if key.endswith(("_arcsec", "_pixels")):
            assert "[arcsec]" in meaning or "[pixels]" in meaning, key


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {
                "populations": {"sersic_moffat": {}},
                "variants": {"refined": {"options": {"forward_model": "mixture"}}},
            },
            ["variants.refined: options.forward_model: 'mixture'", "use auto or fourier"],
        ),
        (
            {"galaxies": {"train": 100}, "variants": {"whitened": {}}},
            ["variants.whitened", "batch_size: 512"],
        ),
        (
            {"stamps": {"size_pixels": 50}, "variants": {"attention": {}}},
            ["variants.attention: options.patch"],
        ),
        (
            {"variants": {"shearnet": {"training": {"loss": "nll"}}}},
            ["variants.shearnet: training.loss: 'nll'"],
        ),
    ],
)
def test_networks_that_cannot_be_trained_are_named_before_any_job(changes, said):
    with pytest.raises(ConfigError) as error:
        resolve({"populations": {"exp_gauss": {}}, **changes})
    assert "\n" not in str(error.value)
    for part in said:
        assert part in str(error.value)


def test_two_estimators_of_one_label_are_told_apart_by_their_names():
    named = labels(quick(estimators={"mixture-exp": {}, "mine": {"base": "mixture-exp"}, "hsm-ksb": {}}))
    assert named["mixture-exp"] == "mixture fit (exp), matched (mixture-exp)"
    assert named["mine"] == "mixture fit (exp), matched (mine)"
    assert named["hsm-ksb"] == "HSM KSB"


def test_images_cannot_be_rendered_in_training_and_planning_says_so():
    population = {"profile": "cosmos-real", "catalogue_file": "galaxies.fits"}
    entries = {"populations": {"mine": {"base": "exp_gauss", **population}}, "variants": {"whitened": {}}}
    with pytest.raises(ConfigError) as error:
        resolve(entries)
    assert "variants.whitened: training.data: 'rendered'" in str(error.value)
    assert "galaxies.fits are images; use 'stored'" in str(error.value)
    assert resolve({**entries, "training": {"data": "stored"}}).variants["whitened"].training.data == "stored"
