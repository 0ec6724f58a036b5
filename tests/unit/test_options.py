"""Libraries of options: a class is found in its file, and its names are unique."""

import sys
import textwrap
from pathlib import Path

import pytest

import shearbench.estimators
import shearbench.networks
from shearbench.config.reading import load
from shearbench.errors import ConfigError
from shearbench.estimators import estimator_kinds, estimator_presets, make_estimator
from shearbench.networks import architecture_kinds
from shearbench.options import validated
from shearbench.studies import Study
from shearbench.training.variants import variant_presets

ROOT = Path(__file__).parents[2]
SOURCES = {package: Path(package.__file__).parent for package in (shearbench.estimators, shearbench.networks)}
NAMES = {shearbench.estimators: estimator_presets, shearbench.networks: variant_presets}


@pytest.fixture
def added(tmp_path, monkeypatch):
    """Return a function that puts a module into a package for the time of a test."""
    modules = []

    def add(package, name, text):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
        modules.append((package, name))
        return tmp_path / f"{name}.py"

    yield add
    for package, name in modules:
        sys.modules.pop(f"{package.__name__}.{name}", None)
        vars(package).pop(name, None)


@pytest.mark.parametrize(
    ("package", "name"), [(shearbench.estimators, "hsm"), (shearbench.networks, "shearnet")], ids=str
)
def test_a_copied_file_is_named_with_the_one_that_it_was_copied_from(added, package, name):
    text = (SOURCES[package] / f"{name}.py").read_text()
    copy = added(package, "copied", text)
    with pytest.raises(ConfigError, match=f"both have the kind '{name}'") as error:
        NAMES[package]()
    assert str(copy) in str(error.value)
    assert str(SOURCES[package] / f"{name}.py") in str(error.value)


@pytest.mark.parametrize(
    ("package", "name", "preset"),
    [(shearbench.estimators, "hsm", "hsm-regauss"), (shearbench.networks, "shearnet", "plain")],
    ids=str,
)
def test_a_copy_of_another_kind_with_the_same_presets_is_named_too(added, package, name, preset):
    text = (SOURCES[package] / f"{name}.py").read_text()
    text = text.replace(f'kind: ClassVar[str] = "{name}"', 'kind: ClassVar[str] = "new"')
    copy = added(package, "copied", text)
    with pytest.raises(ConfigError, match="both have the name") as error:
        NAMES[package]()
    assert str(copy) in str(error.value)
    assert str(SOURCES[package] / f"{name}.py") in str(error.value)


@pytest.mark.parametrize(
    ("package", "name", "cls"),
    [(shearbench.estimators, "hsm", "Hsm"), (shearbench.networks, "shearnet", "ShearNet")],
    ids=str,
)
def test_a_class_without_a_kind_is_an_error(added, package, name, cls):
    text = (SOURCES[package] / f"{name}.py").read_text()
    new = added(package, "mine", text.replace(f'    kind: ClassVar[str] = "{name}"\n', ""))
    with pytest.raises(ConfigError, match=f"the class {cls} has no `kind`") as error:
        NAMES[package]()
    assert str(new) in str(error.value)


MINE = '''
    from typing import ClassVar
    from shearbench.data.shapes import Flag, Shapes
    from shearbench.estimators.base import Estimator
    from shearbench.estimators.hsm import Hsm


    class Mine(Estimator):
        """Answers nothing."""

        kind: ClassVar[str] = "mine"

        def measure(self, batch):
            return Shapes.failed(len(batch.images), Flag.FAILED)


    class Derived(Hsm):
        """Inherits everything but the name."""

        kind: ClassVar[str] = "derived"
    '''


def test_an_estimator_without_presets_has_the_name_of_its_kind(added):
    added(shearbench.estimators, "mine", MINE)
    given = "estimators={mine: {}, other: {base: mine, label: x}}"
    config = load(ROOT / "config/config.yaml", arguments=[given])
    assert type(config.estimator("mine")).__name__ == "Mine"
    assert config.estimator("other").label == "x"
    # The presets of a base are the base's.
    assert estimator_presets()["hsm-ksb"]["kind"] == "hsm"
    assert make_estimator(estimator_presets()["derived"]).method == "regauss"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import math\nwidth =\n", "line 2: SyntaxError: invalid syntax"),
        ("import no_such_package\n", "line 1: ModuleNotFoundError: No module named 'no_such_package'"),
        (
            "from shearbench.networks.base import Architecture\n\nclass Mine(Architecture):\n    width = 3\n",
            "line 3: PydanticUserError",
        ),
    ],
    ids=["syntax", "import", "option without a type"],
)
def test_a_file_that_cannot_be_imported_is_named_with_its_line(added, text, said):
    file = added(shearbench.networks, "mine", text)
    with pytest.raises(ConfigError) as error:
        variant_presets()
    assert str(error.value).startswith(f"{file}, {said}")


def test_every_kind_is_a_name():
    assert estimator_kinds().keys() <= estimator_presets().keys()
    assert architecture_kinds().keys() <= variant_presets().keys()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"values": {"x": 1}}, "values: found {'x': 1}, expected at least 2 entries"),
        ({"question": ""}, "question: found '', expected at least 1 character"),
        ({"seeds": []}, r"seeds: found \[\], expected at least 1 entry"),
    ],
)
def test_a_length_beyond_its_limit_is_told_in_plain_words(changes, said):
    study = {"name": "a", "question": "Why?", "base": "mlp", "values": {"x": 1, "y": 2}, **changes}
    with pytest.raises(ConfigError, match=said):
        validated(Study, study, ("file",))
