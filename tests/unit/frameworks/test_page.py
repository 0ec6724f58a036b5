"""The code in docs/frameworks.md is that of the package."""

import re
from pathlib import Path
from textwrap import dedent

import pytest

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/frameworks.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def lines_of(text):
    return [line.strip() for line in dedent(text).splitlines() if line.strip()]


@pytest.fixture(scope="module")
def source():
    folder = ROOT / "src/shearbench/frameworks"
    texts = [(folder / name).read_text(encoding="utf-8") for name in ("numpy_network.py", "base.py")]
    return "\n" + "\n".join(line for text in texts for line in lines_of(text)) + "\n"


def test_there_is_code_of_each_layer():
    assert len(BLOCKS) > 12


@pytest.mark.parametrize("block", BLOCKS)
def test_each_block_is_in_the_source(block, source):
    assert "\n" + "\n".join(lines_of(block)) + "\n" in source
