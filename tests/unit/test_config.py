import copy
import json
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shearbench import docs
from shearbench.config import load, load_studies, resolve
from shearbench.errors import ConfigError

ROOT = Path(__file__).parents[2]
DEFAULT = ROOT / "config/config.yaml"


def wrong(changes, default=DEFAULT):
    """Return the message that a change of the default configuration gets."""
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
    return yaml.safe_load(Path(path).read_text())


@pytest.mark.parametrize("name", ["config", "paper", "tiny"])
def test_the_files_we_ship_are_valid(name):
    config = load(DEFAULT, ROOT / f"config/{name}.yaml")
    assert config.run == {"config": "quick"}.get(name, name)


def test_the_resolved_config_resolves_to_itself(tmp_path):
    config = load(DEFAULT, ROOT / "config/paper.yaml")
    assert resolve(config.dump()) == config
    # ... and through the file that the run leaves, laid over the default once more.
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.dump(), sort_keys=False))
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
        (
            {"variants/pooled/options": {"downsampling": "maxx"}},
            ["downsampling", "'maxx'", "did you mean 'max'?"],
        ),
        ({"noise_levels": [1e-5, -1e-3]}, ["noise_levels.1", "-0.001", "greater than 0"]),
        ({"noise_levels": 1e-3}, ["noise_levels", "0.001"]),
        ({"noise_levels": [1e-3, 1e-3]}, ["noise_levels", "twice"]),
        ({"shear_test": {"noise_levels": [3e-3]}}, ["shear_test.noise_levels", "0.003"]),
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
        ({"populations": {}}, ["populations", "exp_gauss"]),
        ({"variants/hsm-regauss": {"base": "pooled"}}, ["variants", "hsm-regauss"]),
        ({"seeds": [1, 1]}, ["seeds", "twice"]),
        ({"training/noise": [1e-1, 1e-5]}, ["training", "noise"]),
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
        load_studies(tmp_path)


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
    page = (ROOT / "config/README.md").read_text()
    assert docs.readme(page) == page, "run `make docs`"
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
