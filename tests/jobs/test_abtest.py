"""`distilrec abtest`: what it prints for exposure logs whose numbers are known, and its exit statuses."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
import yaml

from jobs.__main__ import main
from kdlib.experiments.variants import assigned
from kdlib.privacy.pseudonyms import pseudonym

EXPERIMENT: dict[str, Any] = {"salt": "s", "variants": {"control": 0.45, "treatment": 0.45}, "holdout": 0.1}
SHARES = {"holdout": 0.1, "control": 0.45, "treatment": 0.45}
USERS = [f"user{number}" for number in range(4_000)]
Command = Callable[..., tuple[int, str, str]]


def log_of(variants: list[str] | None, *, users: list[str] = USERS, **more: Any) -> pa.Table:
    """Three exposures of each user. The second user of every ten clicks once, and in `treatment` also the third."""
    columns: dict[str, Any] = {"user_id": np.repeat(users, 3)}
    places = np.arange(len(users)) % 10
    clicks = np.zeros((len(users), 3))
    clicks[:, 0] = places == 1
    if variants:
        columns["variant"] = np.repeat(variants, 3)
        clicks[:, 1] = (places == 2) & (np.array(variants) == "treatment")
    return pa.table(columns | {"clicks": clicks.ravel()} | more)


@pytest.fixture
def abtest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Writes a log and runs the command on it; returns status, output and errors."""

    def run(log: pa.Table, *options: str, **config: Any) -> tuple[int, str, str]:
        pq.write_table(log, tmp_path / "log.parquet")
        document = {"name": "shop", "output_dir": str(tmp_path / "output"), "input": {"simulate": {}}} | config
        (tmp_path / "shop.yaml").write_text(yaml.safe_dump(document))
        status = main(["abtest", str(tmp_path / "log.parquet"), "--config", str(tmp_path / "shop.yaml"), *options])
        printed = capsys.readouterr()
        assert not (tmp_path / "output").exists()
        return status, printed.out, printed.err

    return run


def test_lifts_are_printed_with_what_they_rest_on(abtest: Command) -> None:
    """Exposures, users and their shares, then each metric: means, difference, lift and p-value. Nothing is written."""
    variants = [
        "control",
        "treatment",
    ] * 2_000  # clicks of users 1, 11, … are the treatment's, those of 2, 12, … no one's
    status, out, err = abtest(log_of(variants), "--metric", "clicks", "--metric", "clicks/exposures")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "exposures   12,000 of 4,000 users"
    assert lines[1].split() == ["control", "2,000", "users", "50.00%,", "expected", "50.00%"]
    assert lines[3] == "  shares of the users: chi-square, p = 1"
    assert lines[4:6] == ["clicks / user", "  control                 0"]
    assert re.fullmatch(
        r"  treatment             0\.2   \+0\.2 \[\+0\.1825, \+0\.2175\]   no relative lift: the control's mean may be 0   p = \S+, Holm"
        r" \S+",
        lines[6],
    )
    assert lines[7] == "clicks / exposures"
    assert lines[9].split()[:2] == ["treatment", "0.0666667"]
    assert lines[10].startswith("2 comparisons: judge by Holm's p-values")


def test_a_log_without_variants_gets_those_of_the_run_config(abtest: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are the variants of the tables: with a key those of the pseudonyms. The log has the shop's own ids."""
    key = "a key of more than sixteen bytes"
    monkeypatch.setenv("SHOP_KEY", key)
    for privacy, ids in (
        ({}, USERS),
        ({"key_environment": "SHOP_KEY"}, [pseudonym(key.encode(), user) for user in USERS]),
    ):
        status, out, _ = abtest(log_of(None), "--metric", "clicks", experiment=EXPERIMENT, privacy=privacy)
        assert status == 0
        found = dict(re.findall(r"^  (\w+) +([\d,]+) users", out, re.MULTILINE))
        expected = assigned(ids, salt="s", shares=SHARES).to_pylist()
        assert found == {name: f"{expected.count(name):,}" for name in SHARES}


def test_lost_users_are_an_alarm_with_status_3(abtest: Command) -> None:
    """A log without one in seven users of a variant: everything is printed, then why no lift can be trusted."""
    variants = assigned(USERS, salt="s", shares=SHARES).to_pylist()
    kept = [place for place, variant in enumerate(variants) if variant != "treatment" or place % 7]
    log = log_of([variants[place] for place in kept], users=[USERS[place] for place in kept])
    status, out, err = abtest(log, "--metric", "clicks", experiment=EXPERIMENT)
    assert status == 3
    assert "treatment  " in out.partition("clicks / user")[2]
    assert re.search(r"do not trust the lift: the numbers of users do not fit the shares .* p = \de-\d+ < 0.001", err)
    assert "redirects, bots, errors and slow pages" in err
    assert abtest(log_of(variants), "--metric", "clicks", experiment=EXPERIMENT)[0] == 0
    status, _, err = abtest(log_of(variants), "--metric", "clicks")
    assert (status, "the equal shares of a run config without section experiment" in err) == (3, True)


def test_users_of_two_variants_and_of_none_are_named(abtest: Command) -> None:
    """They are left out with a warning, and the others are judged."""
    variants: list[Any] = ["control", "treatment"] * 2_000
    log = log_of(variants)
    column = log["variant"].to_pylist()
    column[0:2], column[3:6] = ["control", "treatment"], [None] * 3
    status, out, _ = abtest(log.set_column(1, "variant", pa.array(column)), "--metric", "clicks")
    assert status == 0
    assert "warning: 1 users are in several variants and are left out: user0" in out
    assert "warning: 1 users have no variant and are left out" in out
    assert " 1,999 users " in out


def test_a_variant_without_any_user_is_a_warning(abtest: Command) -> None:
    """A shop need not log who is held out. The shares of the others are checked among themselves."""
    status, out, _ = abtest(log_of(["control", "treatment"] * 2_000), "--metric", "clicks", experiment=EXPERIMENT)
    assert status == 0
    assert "warning: the log has no user of holdout. The check of the shares is among the others" in out
    assert out.count("50.00%, expected 50.00%") == 2


def test_too_few_users_for_large_values_are_a_warning(abtest: Command) -> None:
    """One large order among small ones: the interval does not hold what it says."""
    revenue = np.where(np.arange(12_000) == 3, 1_000.0, np.arange(12_000) % 3)
    log = log_of(["control", "treatment"] * 2_000, revenue=revenue)
    _, out, _ = abtest(log, "--metric", "revenue", "--metric", "clicks")
    assert out.count("warning: treatment has too few users for the large values of revenue") == 1
    assert "values of clicks" not in out


def test_a_policy_is_judged_where_propensities_are_logged(abtest: Command) -> None:
    """Also in a log without variants: IPS and SNIPS by exposure, beside what was logged, and the weights behind them."""
    shown = (
        np.arange(12_000) % 2
    )  # logged with .5 each; the policy to judge shows the first with .8; only that is clicked
    probabilities = {"propensity": np.full(12_000, 0.5), "target_propensity": np.where(shown, 0.2, 0.8)}
    log = log_of(None, **probabilities).set_column(1, "clicks", pa.array((1.0 - shown) * (np.arange(12_000) % 4 == 0)))
    status, out, _ = abtest(log, "--metric", "clicks")
    assert status == 0
    lines = out.splitlines()
    assert lines[1].startswith("policy to judge: mean weight 1.000 [")
    assert lines[2] == "clicks / exposure"
    for line, name, value in zip(
        lines[3:], ("logged", "IPS", "SNIPS", "SNIPS − logged"), (0.25, 0.4, 0.4, 0.15), strict=True
    ):
        assert re.match(rf"  {name} +{value} \[", line), line
    assert "lift" not in out


def test_a_doubtful_policy_is_a_warning_and_an_impossible_one_an_error(abtest: Command) -> None:
    """Propensities that do not belong together are a warning; a policy that shows nothing of the log ends with 2."""
    log = log_of(None, propensity=np.full(12_000, 0.5), target_propensity=np.full(12_000, 0.75))
    status, out, _ = abtest(log, "--metric", "clicks")
    assert status == 0
    assert "warning: the mean weight is 1.500, expected 1" in out
    log = log_of(None, propensity=np.full(12_000, 0.5), other=np.zeros(12_000))
    status, _, err = abtest(log, "--metric", "clicks", "--column", "target=other")
    assert status == 2
    assert "the policy to judge would show nothing that was logged" in err


@pytest.mark.parametrize(
    ("options", "config", "message"),
    [
        (
            ["--metric", "clicks"],
            {},
            "has no column variant, found user_id, clicks; and the run config shop has no section exp",
        ),
        (
            [],
            {"experiment": EXPERIMENT},
            "log.parquet has no column outcome, found user_id, clicks. Name the right column",
        ),
        (["--column", "user=visitor"], {"experiment": EXPERIMENT}, "has no column visitor, found user_id, clicks"),
        (
            ["--column", "clicks"],
            {"experiment": EXPERIMENT},
            "--column takes ROLE=NAME, with the role user, .*; found clicks",
        ),
        (["--column", "item=sku"], {"experiment": EXPERIMENT}, "--column takes ROLE=NAME, .*; found item=sku"),
        (
            ["--column", "target=clicks"],
            {"experiment": EXPERIMENT},
            "a policy is judged with two columns: .* Found one",
        ),
        (
            ["--metric", "clicks", "--control", "old"],
            {"experiment": EXPERIMENT},
            "expected the control old and another",
        ),
        (
            ["--metric", "clicks", "--column", "variant=clicks"],
            {"experiment": EXPERIMENT},
            "column clicks is named as a user or a variant, and as a number",
        ),
        (["--metric", "clicks"], {"experiment": EXPERIMENT | {"holdout": 0}}, "must add up to 1, found control 0.45"),
    ],
)
def test_what_a_person_can_mend_ends_with_status_2(
    abtest: Command, options: list[str], config: dict[str, Any], message: str
) -> None:
    """The error names what was expected, what was found, and the option or key to set."""
    status, _, err = abtest(log_of(None), *options, **config)
    assert status == 2
    assert re.search(message, err), err


def test_a_variant_of_another_test_is_an_error(abtest: Command) -> None:
    """The error names the variant, and those of the run config."""
    status, _, err = abtest(log_of(["control", "blue"] * 2_000), "--metric", "clicks", experiment=EXPERIMENT)
    assert status == 2
    assert "the log has the variant blue, expected holdout, control, treatment (section experiment" in err


def test_a_missing_log_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    """A path that names no file ends with status 2."""
    assert main(["abtest", "no/such/*.parquet"]) == 2
    assert "no file matches no/such/*.parquet" in capsys.readouterr().err


def test_a_log_in_csv_with_other_names_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each column may have another name, and a number known from before the test shortens the interval."""
    past = np.repeat(np.arange(4_000) % 10 == 1, 3).astype(float)
    log = log_of(["old", "new"] * 2_000, past=past).rename_columns(["visitor", "group", "clicks", "past"])
    pacsv.write_csv(log, tmp_path / "log.csv")
    words = ["--column", "user=visitor", "--column", "variant=group", "--control", "old", "--metric", "clicks"]
    printed = []
    for more in ([], ["--column", "before=past"]):
        assert main(["abtest", str(tmp_path / "log.csv"), *words, *more]) == 0
        printed.append(capsys.readouterr().out.splitlines())
    plain, adjusted = printed
    assert (plain[4], adjusted[4]) == ("clicks / user", "clicks / user, adjusted by past")
    assert [float(line.split()[1]) for line in plain[5:7]] == [0.0, 0.2]
    bounds = [[float(one) for one in re.findall(r"[+-]\d\S*(?=[,\]])", line)[:2]] for line in (plain[6], adjusted[6])]
    assert 0 < bounds[1][1] - bounds[1][0] < 0.8 * (bounds[0][1] - bounds[0][0])
