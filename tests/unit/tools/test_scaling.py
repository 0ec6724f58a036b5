"""The needs of a run, computed from rates."""

from __future__ import annotations

import math

import pytest

from shearbench.config.reading import resolve
from shearbench.evaluation.throughput import throughput, throughput_table
from shearbench.tools.scaling import main, needs, rate

CONFIG = {
    "noise_levels": [1e-3, 1e-2],
    "shear_test": {"noise_levels": [1e-3], "rotations": 2},
    "galaxies": {"train": 1000, "validation": 100, "test": 50, "shear": 10, "leakage": 10},
    "stamps": {"size_pixels": 40},
    "populations": {"exp_gauss": {}},
    "estimators": {"mixture-exp": {}, "hsm-regauss": {}},
    "variants": {"pooled": {}},
    "seeds": [1, 2, 3],
    "training": {"epochs": 4, "batch_size": 10},
}


def measured(**gpu):
    rows = [
        ("simulate", "galsim", "simulation", 100),
        ("bounds", "cramer_rao", "bound", 10),
        ("measure", "mixture-exp", "mixture", 5),
        ("train", "shearnet", "network", 20),
        ("train", "dilated", "network", 10),
        ("measure", "shearnet", "network", 40),
    ]
    return throughput_table(
        throughput(
            "exp_gauss", stage, name, kind=kind, stamps=speed, seconds=1, **(gpu if kind == "network" else {})
        )
        for stage, name, kind, speed in rows
    )


def test_each_stage_is_its_stamps_over_its_rate():
    table = needs(resolve(CONFIG), measured()).set_index("stage")
    stamps = 1000 + 100 + 50 + 2 * 160
    assert table.stamps.to_dict() == {
        "simulate": stamps,
        "bounds": 50,
        "measure": 2 * (2 * 50 + 2 * 160),
        "train": 3 * 4 * 1000,
        "predict": 3 * (2 * 50 + 2 * 160),
    }
    assert table.core_hours["simulate"] == pytest.approx(stamps / 100 / 3600)
    assert table.disk_gb["simulate"] == pytest.approx((stamps + 160) * 6400 / 1e9)  # leakage: with PSFs
    # One of the two estimators has no rate; of the networks, the slowest stands in for `pooled`.
    assert table.core_hours["measure"] == pytest.approx(420 / 5 / 3600)
    assert table.unknown["measure"] == "hsm-regauss"
    assert table.core_hours["train"] == pytest.approx(12000 / 10 / 3600)
    assert table.core_hours["predict"] == pytest.approx(1260 / 40 / 3600)
    assert (table.gpu_hours == 0).all()


def test_rates_of_a_gpu_give_hours_of_a_gpu():
    table = needs(resolve(CONFIG), measured(gpu_mb=500.0)).set_index("stage")
    assert table.gpu_hours["train"] == pytest.approx(12000 / 10 / 3600)
    assert table.core_hours["train"] == 0
    assert table.core_hours["simulate"] > 0


def test_nothing_measured_is_nothing_known():
    assert math.isnan(rate(measured(), "measure", "ngmix-exp", "exp_gauss")[0])
    assert rate(measured(), "simulate", "galsim", "elsewhere") == (100, False)


def test_the_page_is_written_between_its_marks(tmp_path):
    (tmp_path / "metrics").mkdir()
    measured().to_csv(tmp_path / "metrics/throughput.csv")
    page = tmp_path / "page.md"
    page.write_text(
        "A\n<!-- generated: rates -->\nold\n<!-- end -->\nB\n<!-- generated: needs -->\n<!-- end -->\n"
    )
    main(str(tmp_path), str(page), "config/paper.yaml")
    text = page.read_text()
    assert text.startswith("A\n<!-- generated: rates -->\n| stage ")
    assert "| train | `exp_gauss` | dilated | 10 |" in text
    assert "### paper" in text
    assert "not measured" in text
    assert "old" not in text
