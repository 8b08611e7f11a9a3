"""`distilrec doctor`: a table with a row for each check, and an exit status."""

import re

import pytest
import yaml

from jobs import doctor
from jobs.__main__ import main
from jobs.runtime.checks.finding import missing, not_needed, ok

ROW = re.compile(r"^([✓✗–]) (\S.*?)  +(\S.*)$")


@pytest.mark.usefixtures("own_environment")
def test_a_machine_that_has_everything_passes(tmp_path, monkeypatch, capfd):
    """In an empty folder, without a run config, every check has a row, nothing is left behind, and the status is 0."""
    monkeypatch.chdir(tmp_path)
    assert main(["doctor"]) == 0
    lines = capfd.readouterr().out.splitlines()
    rows = [found.groups() for line in lines if (found := ROW.match(line))]
    assert [name for _, name, _ in rows][:5] == ["run config", "Python", "packages", "tested versions", "Java"]
    assert len(rows) == 23
    assert "✗" not in {mark for mark, _, _ in rows}
    assert lines[-1] == "doctor: 0 of 23 are missing"
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_is_counted_and_ends_with_two(config, monkeypatch, capfd):
    """A row has a mark, a name, the finding and the advice below it, and the last line counts what is missing."""
    checks = {
        "wings": lambda: missing("none", "Grow some"),
        "beak": lambda: ok("yellow"),
        "crown": lambda: not_needed("no king"),
        "luck": lambda: 1 / 0,
    }
    monkeypatch.setattr(doctor, "checks_of", lambda config: checks)
    assert main(["doctor", "--config", str(config)]) == 2
    assert capfd.readouterr().out.splitlines() == [
        "  doctor      found: ✓ there, ✗ missing, – not needed",
        f"✓ run config  {config}",
        "✗ wings       none",
        "              → Grow some",
        "✓ beak        yellow",
        "– crown       no king",
        "✗ luck        ZeroDivisionError: division by zero",
        "              → Mend what the error names",
        "doctor: 2 of 5 are missing",
    ]


@pytest.mark.parametrize("wrong", [{"name": 3}, {"output_dir": "a*b"}], ids=["unreadable", "pattern"])
def test_a_wrong_run_config_is_a_row(config, wrong, monkeypatch, capfd):
    """A wrong run config is one row, and the other checks still run."""
    real = doctor.checks_of
    monkeypatch.setattr(doctor, "checks_of", lambda config: {"locks": real(config)["locks"]})
    monkeypatch.chdir(config.parent)
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | wrong))
    assert main(["doctor", "--config", str(config)]) == 2
    printed = capfd.readouterr().out
    assert re.search(
        r"^✗ run config +the run config .*name|^✗ locks +output_dir is .*Spark reads \*", printed, re.MULTILINE
    )
    assert printed.endswith("doctor: 1 of 2 is missing\n")
