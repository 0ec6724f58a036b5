"""The documentation: every link leads somewhere, every page is in the site, code that can be run is run."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import shearbench.networks
from shearbench.config.plain_yaml import read_file
from shearbench.config.reading import DEFAULT, resolve
from shearbench.config.searches import plan_searches
from shearbench.config.studies import read_study, study_variants
from shearbench.data.shapes import Flag
from shearbench.data.stamps import StampBatch
from shearbench.networks.terms import LEVELS
from shearbench.options import merge
from shearbench.training.recipe import Recipe
from shearbench.training.search import values_of
from shearbench.training.variants import resolve_variant

ROOT = Path(__file__).parents[3]
_spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs/site_hooks.py")
hooks = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(hooks)

PAGES = [*hooks.MOVED, *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
RUN_BY = {
    "README.md": "networks/test_zoo.py",
    "docs/extend.md": "here",
    "docs/frameworks.md": "frameworks/test_page.py",
    "docs/morphology.md": "workflow/test_classification.py",
    "docs/own-data.md": "tools/test_measure.py",
    "docs/paper.md": "workflow/test_python_api.py",
    "docs/python.md": "workflow/test_python_api.py",
    "docs/tutorial.md": "workflow/test_python_api.py",
}
"""The test that runs the Python blocks of each page."""


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text_of(page), re.DOTALL)


def anchors(page: str) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.*)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file_and_its_heading(page):
    hooks.converted(text_of(page), page)
    for link, anchor in re.findall(r"\]\(([^)\s#:]*)#([^)\s]+)\)", text_of(page)):
        target = (ROOT / page).parent / link if link else ROOT / page
        assert anchor in anchors(target.resolve().relative_to(ROOT).as_posix()), f"{link}#{anchor}"


def test_links_become_those_of_the_site():
    page = "docs/extend.md"
    assert hooks.converted("[a](../config/README.md#x)", page) == "[a](reference/configuration.md#x)"
    assert hooks.converted("[a](../docs/floor.md)", "config/README.md") == "[a](../floor.md)"
    assert hooks.converted("[cost.py](../src/shearbench/figures/cost.py)", page) == (
        "cost.py (`src/shearbench/figures/cost.py`)"
    )
    assert hooks.converted("![x](accuracy.png)", "docs/tutorial.md") == "![x](accuracy.png)"
    with pytest.raises(ValueError, match=r"docs/extend\.md: the link to absent\.md leads to no file"):
        hooks.converted("[a](absent.md)", page)


def test_every_page_is_in_the_navigation_and_every_module_of_the_reference_exists():
    listed = set(re.findall(r"^ +- .*: (\S+\.md)$", text_of("mkdocs.yml"), re.MULTILINE))
    pages = {hooks.page_of(page) for page in PAGES} | {"reference/api.md"}
    assert listed == pages, "list each page under nav: in mkdocs.yml"
    for name in re.findall(r"^::: (\S+)$", hooks.API, re.MULTILINE):
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name


def test_python_blocks_are_run_by_a_test_each():
    assert {page for page in PAGES if blocks(page, "python")} == set(RUN_BY), "test a page and name its test"


def test_a_population_of_the_page_is_a_configuration():
    population, _, _ = blocks("docs/extend.md", "yaml")
    config = resolve(merge(read_file(ROOT / DEFAULT), yaml.safe_load(population)))
    assert list(config.populations) == ["faint"]


def test_a_study_of_the_page_fits_the_default_run(tmp_path):
    _, study, _ = blocks("docs/extend.md", "yaml")
    (tmp_path / "mlp_width.yaml").write_text(study)
    known = read_study(tmp_path / "mlp_width.yaml")
    variants = study_variants(known, resolve(read_file(ROOT / DEFAULT)))
    assert {label: one.options["width"] for label, one in variants.items()} == {"narrow": 12, "wide": 48}


def test_a_search_of_the_page_fits_the_default_run(tmp_path):
    _, _, search = blocks("docs/extend.md", "yaml")
    (tmp_path / "mlp_recipe.yaml").write_text(search)
    plan = plan_searches(tmp_path, resolve(read_file(ROOT / DEFAULT)))
    assert plan.wrong == {}
    assert values_of(plan.bases["mlp_recipe"], plan.known["mlp_recipe"]) is not None, "the base is tried"


def test_the_architecture_of_the_page_is_one_file_and_one_entry(tmp_path, monkeypatch):
    (tmp_path / "perceptron.py").write_text(blocks("docs/extend.md", "python")[0])
    monkeypatch.setattr(shearbench.networks, "__path__", [*shearbench.networks.__path__, str(tmp_path)])
    try:
        for name, entry in yaml.safe_load(
            re.search(r"`variants: (.*)`", text_of("docs/extend.md"))[1]
        ).items():
            module = resolve_variant(name, entry, Recipe()).make().build(1, (12, 12), 2)
            assert module(torch.zeros(3, 1, 12, 12), torch.zeros(3, LEVELS)).shape == (
                3,
                2,
            )
    finally:
        sys.modules.pop("shearbench.networks.perceptron", None)


def test_the_estimator_of_the_page_measures():
    names: dict[str, object] = {}
    exec(blocks("docs/extend.md", "python")[1], names)
    y, x = np.mgrid[:21, :21] - 10
    round_one = np.exp(-(x**2 + y**2) / 18)
    long_one = np.exp(-(x**2 / 2 + y**2) / 9)
    images = np.stack([round_one, long_one, -round_one]).astype(np.float32)
    numbers = np.arange(3)
    shapes = names["Moments"]().measure(StampBatch(images, round_one, 1e-3, 0.2, numbers, numbers))
    assert shapes.g1[0] == pytest.approx(0, abs=1e-6)
    # Axes in the ratio of the square root of 2: g = (a - b) / (a + b).
    assert shapes.g1[1] == pytest.approx((2**0.5 - 1) / (2**0.5 + 1), abs=0.01)
    assert shapes.flag.tolist() == [0, 0, int(Flag.OUT_OF_RANGE)]
