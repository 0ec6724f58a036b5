"""The reader of configurations: plain values of limited size, without ambiguity."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shearbench.config import plain_yaml
from shearbench.config.plain_yaml import dump, parse, read_arguments, read_file
from shearbench.errors import ConfigError

ROOT = Path(__file__).parents[3]

PLAIN_TEXT = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\x7f\ufeff\ufffe\uffff"), max_size=12
)
LOOKS_LIKE = st.sampled_from(
    [
        "1e5",
        "0100",
        "190:20:30",
        "no",
        "~",
        "",
        "<<",
        "=",
        "2026-01-01",
        "0x1f",
        "1_000",
        ".inf",
        "# a",
        "a: b",
    ]
)
TEXT = st.one_of(PLAIN_TEXT, LOOKS_LIKE)
WITHOUT_DIGITS = PLAIN_TEXT.filter(lambda text: not any(map(str.isdigit, text)))


def mappings(text):
    """Return plain mappings of plain values; text comes from a strategy."""
    numbers = st.one_of(st.integers(-(10**30), 10**30), st.floats(allow_nan=False))
    values = st.recursive(
        st.one_of(st.none(), st.booleans(), numbers, text),
        lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(text, inner, max_size=4)),
        max_leaves=20,
    )
    return st.dictionaries(text, values, max_size=5)


@given(mappings(TEXT))
@settings(deadline=None, suppress_health_check=list(HealthCheck))
def test_what_is_written_is_read_back(values):
    assert parse(dump(values), "x") == values


# Text such as 1e5, which PyYAML writes without quotes, is a number here.
@given(mappings(WITHOUT_DIGITS))
@settings(deadline=None, suppress_health_check=list(HealthCheck))
def test_what_pyyaml_writes_is_read_back_too(values):
    assert parse(yaml.safe_dump(values, allow_unicode=True), "x") == values


# Pieces of YAML, in any order: most of what they make is not YAML, and some of it is.
WORDS = r"""a : - [ ] { } , &b *b <<: !!int !x " ' \ | ? # %YAML --- ... 0100 1e5 1:30 ~ \ud800 \UFFFFFFFF"""
PIECES = st.sampled_from([*WORDS.split(), " ", "  ", "\n", ": ", "- ", "\t", "\x00", "\ufeff", "9" * 50])


@given(st.one_of(st.lists(PIECES, max_size=40).map("".join), st.text(max_size=200)))
@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_text_is_plain_values_or_a_config_error(text):
    try:
        values = parse(text, "config.yaml")
    except ConfigError as found:
        error = str(found)
    else:
        error = "config.yaml: "
        assert parse(dump({"values": values}), "x")["values"] == values or "nan" in text.lower()
    assert error.startswith("config.yaml: ")
    assert "\n" not in error


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e0", 1.0),
        ("6e-1", 0.6),
        ("[1E5, .5, 1., -3, 1_000]", [1e5, 0.5, 1.0, -3, 1000]),
        ("2026-11-25", "2026-11-25"),
        ("{1e-5: x, no: y, 0100: z, ~: w}", {"1e-5": "x", "no": "y", "0100": "z", "~": "w"}),
        ("{a: &b {x: 1, y: 2}, c: {<<: *b, y: 3}}", {"a": {"x": 1, "y": 2}, "c": {"x": 1, "y": 3}}),
    ],
)
def test_numbers_are_numbers_and_keys_are_text(text, value):
    read = parse(text, "x")
    assert read == value
    assert type(read) is type(value)


PAIRS = list(zip("abcdefghijkl", "bcdefghijklm", strict=True))
LISTS = "a: &a [1, 2]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in PAIRS
)
MAPPINGS = "a: &a {x: 1}\n" + "".join(
    f"{name}: &{name} {{{', '.join(f'k{k}: *{before}' for k in range(9))}}}\n" for before, name in PAIRS
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3: the key 'a' is given twice"),
        ("a: {b: 1, b: 2}", "the key 'b' is given twice"),
        ("a:\n  0100", "line 2: 0100 is not a decimal number"),
        ("a: 190:20:30", "190:20:30 is not a decimal number"),
        ("a: 0x1f", "0x1f is not a decimal number"),
        ("a: " + "9" * 1000, "a number of 1000 characters"),
        ("a: " + "9" * 100_000, "a number of 100000 characters"),
        ("a: " + "[" * 900 + "]" * 900, "more than 20 levels"),
        ("{a: " * 900, "more than 20 levels"),
        ("\n".join(" " * k + "a:" for k in range(300)), "more than 20 levels"),
        (LISTS, "more than 20000 values"),
        (MAPPINGS, "more than 20000 values"),
        ("a: &a [*a]", "*a contains itself"),
        ("a: *b", "undefined alias"),
        ("a: !!python/object/apply:os.system ['touch x']", "the tag "),
        ("a: !!binary aGVsbG8=", "the tag "),
        ("? [a, b]\n: 1", "a key must be text"),
        ('a: "\\ud800"', "halves of characters"),
        ("a: 1\n---\nb: 2", "another document"),
        ("a: " + "x" * 300_000, "longer than 200000 characters"),
        ("\n".join(f"a{k}: 1" for k in range(18_000)), "more than 20000 values"),
    ],
    ids=lambda value: value[:20],
)
def test_what_two_readers_understand_differently_or_is_too_large_is_refused(text, said):
    before = time.process_time()
    with pytest.raises(ConfigError) as error:
        parse(text, "c.yaml")
    assert time.process_time() - before < 5
    assert said in str(error.value)
    assert len(str(error.value)) < 300


def test_an_alias_counts_at_each_use(monkeypatch):
    monkeypatch.setattr(plain_yaml, "MAX_VALUES", 30)
    parse("a: &a [1, 2, 3]\nb: [*a, *a]", "x")
    with pytest.raises(ConfigError, match="more than 30 values"):
        parse("a: &a [1, 2, 3]\nb: [*a, *a, *a, *a, *a, *a, *a]", "x")


def test_a_file_that_runs_code_is_refused_and_runs_nothing(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(
        f"__use_yte__: true\n__definitions__:\n  - open({str(tmp_path / 'ran')!r}, 'w')\nrun: x\n"
    )
    with pytest.raises(ConfigError, match=r"c\.yaml: __use_yte__: keys that begin with '__' are not allowed"):
        read_file(path)
    # The same by `make`, which asks before it starts Snakemake.
    here = [f"BIN={Path(sys.executable).parent}", "DEPLOY=", "--assume-old=.venv/ready"]
    for target in ("results", "slurm", "figures", "report"):
        done = subprocess.run(
            ["make", target, f"CONFIG={path}", *here], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 2, done.stdout
        assert "keys that begin with" in done.stderr
        assert "Traceback" not in done.stderr
        assert "snakemake" not in done.stdout + done.stderr
    assert not (tmp_path / "ran").exists()


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    for path, said in ((tmp_path / "none.yaml", "No such file"), (tmp_path, "directory")):
        with pytest.raises(ConfigError, match=said) as error:
            read_file(path)
        assert str(path) in str(error.value)
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9\n")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_file(tmp_path / "latin.yaml")
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    with pytest.raises(ConfigError, match="expected a mapping"):
        read_file(tmp_path / "empty.yaml")


def test_arguments_are_read_as_files_are():
    given = read_arguments(["run=a", "noise_levels=[1e-5, 1e-3]", "estimators={hsm-ksb: null}", "seed="])
    assert given == {"run": "a", "noise_levels": [1e-5, 1e-3], "estimators": {"hsm-ksb": None}, "seed": None}
    with pytest.raises(ConfigError, match="--config seed: line 1: 0100 is not a decimal"):
        read_arguments(["seed=0100"])
    with pytest.raises(ConfigError, match="--config: run is given twice"):
        read_arguments(["run=a", "run=b"])
