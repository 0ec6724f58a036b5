"""The archive of the tiny run: its content and description, and figures drawn from it elsewhere."""

from __future__ import annotations

import json
import tarfile

import pytest

from shearbench.api.runs import load_run
from shearbench.errors import ShearbenchError
from shearbench.paper.manifest import verify
from shearbench.tools.archive import CRATE, PARTS, main, pack, redraw


@pytest.fixture(scope="module")
def unpacked(finished, tmp_path_factory):
    place = tmp_path_factory.mktemp("elsewhere")
    path = pack(finished / "results/tiny", path=place / "tiny.tar.gz")
    with tarfile.open(path) as archive:
        archive.extractall(place, filter="data")
    return place / "tiny"


def test_it_has_all_for_a_paper_and_neither_stamps_nor_networks(unpacked, finished):
    assert {path.name for path in unpacked.iterdir() if path.is_dir()} == set(PARTS)
    missing = verify(unpacked / "manifest.json")
    assert {line.split("/")[0] for line in missing} == {"catalogs", "estimates", "models", "stamps"}
    assert all(line.endswith(": missing") for line in missing)
    commit = json.loads((unpacked / "manifest.json").read_text())["git"]
    assert (commit["commit"] or "commit not known") in (unpacked / "README.md").read_text()
    again = pack(finished / "results/tiny", path=unpacked.parent / "again.tar.gz")
    assert again.read_bytes() == (unpacked.parent / "tiny.tar.gz").read_bytes()


def test_its_figures_are_drawn_again_as_they_were(unpacked, finished, tmp_path):
    (drawn,) = redraw(unpacked, tmp_path, ["cost"])
    assert drawn.read_bytes() == (finished / "results/tiny/figures/cost.pdf").read_bytes()
    # All others can be: their tables are there.
    run = load_run(unpacked)
    assert run.figures == load_run(finished / "results/tiny").figures


def test_its_description_is_an_ro_crate(unpacked):
    """The demands of RO-Crate 1.1 on a root, its files and all references."""
    content = json.loads((unpacked / CRATE).read_text())
    assert content["@context"] == "https://w3id.org/ro/crate/1.1/context"
    entities = {entity["@id"]: entity for entity in content["@graph"]}
    assert len(entities) == len(content["@graph"])
    assert entities[CRATE]["about"] == {"@id": "./"}
    root = entities["./"]
    assert {"name", "description", "datePublished"} <= set(root)

    def references(value):
        if isinstance(value, dict):
            return (
                [value["@id"]]
                if set(value) == {"@id"}
                else [r for v in value.values() for r in references(v)]
            )
        return [r for v in value for r in references(v)] if isinstance(value, list) else []

    outside = {"https://w3id.org/ro/crate/1.1"}
    assert set(references(content["@graph"])) - outside <= set(entities)
    files = {name for name, entity in entities.items() if entity["@type"] == "File"}
    assert {part["@id"] for part in root["hasPart"]} == files
    there = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    assert {name for name in there if not name.split("/")[-1].startswith(".")} == files | {CRATE}
    assert "figures/accuracy.pdf" in {one["@id"] for one in entities["#run"]["result"]}


@pytest.mark.slow
def test_a_changed_or_unfinished_run_is_refused(run, capsys):
    folder = run / "results/tiny"
    main([str(folder), "--models", "--output", str(run / "m.tar.gz")])
    assert "written: " in capsys.readouterr().out
    with tarfile.open(run / "m.tar.gz") as archive:
        assert any(name.startswith("tiny/models/") for name in archive.getnames())
    (folder / "tables/accuracy.tex").write_text("changed")
    with pytest.raises(ShearbenchError, match=r"accuracy\.tex: it differs from the one in the manifest"):
        pack(folder)
    (folder / "tables/accuracy.tex").unlink()
    with pytest.raises(ShearbenchError, match=r"accuracy\.tex: it is in the manifest and missing"):
        pack(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(SystemExit, match="manifest"):
        main([str(folder)])
