"""Results without a record of Snakemake."""

from __future__ import annotations

from snakemake.persistence.file import FilePersistence

from shearbench.files.origin import Origin, side_file
from shearbench.files.text import write_text
from shearbench.plan.records import record_others

RUN = "results/a"


def rule_of(origin):
    return origin.rule


def test_only_files_of_another_origin_without_a_record_get_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = f"{RUN}/metrics/{'long' * 45}"
    own = {path: Origin("evaluate", "1", {"table": path}) for path in (f"{name}0.csv", f"{name}1.csv")}
    other = {
        path: Origin("tables", "1", {"table": path})
        for path in (f"{RUN}/tables/a.tex", f"{RUN}/tables/b.tex")
    }
    for path, origin in (own | other).items():
        write_text(path, "x", origin)
    write_text(f"{RUN}/metrics/mine.csv", "x")
    expected = own | {path: Origin("tables", "2", {"table": path}) for path in other}
    # One table of the two would do: Snakemake looks at a job's files together.
    side_file(f"{RUN}/tables/b.tex").unlink()
    assert record_others(RUN, expected.get, 6, rule_of) == sorted(other)
    persistence = FilePersistence(path=tmp_path / ".snakemake")
    for path, params in zip(sorted(other), (["1"], ["not known"])):
        record = persistence._read_record(path)
        assert record.params == params
        assert record.record_format_version == 6
    # What Snakemake has a record of is its own business.
    assert record_others(RUN, expected.get, 6, rule_of) == []
    for path in own:
        assert persistence._read_record(path) is None
        persistence._io_write(persistence._metadata_path, {"params": []}, path)
    assert record_others(RUN, {path: Origin("evaluate", "9") for path in own}.get, 6, rule_of) == []
