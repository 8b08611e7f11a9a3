"""The report on handmade stores: whole nights, nights that got nowhere, and what is read of earlier ones."""

import json
import math
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import nightly, report, rollback
from jobs.__main__ import main
from jobs.pipeline import STAGES
from jobs.runtime import summary
from kdlib.config.run import RunConfig
from kdlib.errors import InputError
from kdlib.release import promotions
from kdlib.report.user_text import format_user
from kdlib.report.users import read_user
from kdlib.store import list_tables, partitions, tables
from tests import stages

DS, BEFORE = "2026-11-22", "2026-11-21"
TITLES = ["red lamp", "<b>blue</b> lamp", None, "boots"]
FUNNEL = {"rows_read": 10, "kept": 9, "duplicate": 1, "quarantined": 0, "reasons": {}, "users": 2, "items": 4}


def config_for(root, ds=DS):
    return RunConfig.model_validate({"name": "tiny", "ds": ds, "output_dir": str(root), "input": {"simulate": {}}})


def make(config):
    """Run the stage `report`."""
    return stages.run("report", config)


def put(root, name, rows, ds=DS, *, schema=None, stage="", inputs=None, **details):
    staging = partitions.new_staging(root, name, ds)
    table = pa.Table.from_pylist(rows, schema=schema or tables.ALL[name].schema)
    pq.write_table(table, staging / "part-00000.parquet")
    partitions.publish(
        staging,
        root,
        name,
        ds,
        fingerprint=f"by hand {inputs}",
        inputs=inputs,
        details={"seconds": 1.0, **details},
        made_by={"stage": stage} if stage else {},
    )


def put_features(root, ds=DS, *, interactions=(4, 3, 2, 1), funnel=FUNNEL):
    items = range(len(interactions))
    put(
        root,
        "histories",
        [
            {
                "user_id": user,
                "item_indices": [0, 1, 3],
                "event_types": [0, 1, 2],
                "session_numbers": [0, 0, 1],
                "num_train": 3,
                "user_values": [],
                "event_times": [datetime(2026, 11, 20, tzinfo=UTC) + timedelta(hours=step) for step in range(3)],
            }
            for user in ("ann", "bob")
        ],
        ds,
        stage="build-features",
        funnel=funnel,
    )
    put(
        root,
        "item_vocabulary",
        [
            {
                "item_index": item,
                "item_id": f"i{item}",
                "title": TITLES[item],
                "available": True,
                "in_stock": True,
                "first_seen": ds if item == 3 else BEFORE,
            }
            for item in items
        ],
        ds,
        stage="build-features",
    )
    put(
        root,
        "item_statistics",
        [
            {
                "item_index": item,
                "num_interactions": interactions[item],
                "num_users": 1,
                "num_purchases": 0,
                "num_train": 1,
                "num_in_windows": 1,
            }
            for item in items
        ],
        ds,
        stage="build-features",
    )


def put_gates(root, ds=DS, *, value=0.5, status="passed", table="gates"):
    row = {
        "gate": "test_share" if table == "gates" else "search_share",
        "part": "input" if table == "gates" else "search",
        "value": value,
        "low": 0.2,
        "high": None,
        "status": status,
        "text": "shares",
    }
    put(root, table, [row], ds)


def put_rest(root, ds=DS, *, student=0.2):
    for name, stage, seconds in (("teacher", "train-teacher", 7.0), ("student", "distill", 3.0)):
        staging = partitions.new_staging(root, f"models/{name}", ds)
        facts = {"name": name, "version": f"{name}1", "parameters": 1234, "options": {"kind": "gru"}}
        (staging / "model.json").write_text(json.dumps(facts))
        partitions.publish(
            staging,
            root,
            f"models/{name}",
            ds,
            fingerprint="by hand",
            details={"seconds": seconds},
            made_by={"stage": stage},
        )
    put(
        root,
        "metrics",
        [
            {
                "model": model,
                "metric": "ndcg@10",
                "value": value,
                "low": value - 0.05,
                "high": value + 0.05,
                "num_users": 2,
            }
            for model, value in (("student", student), ("popularity", 0.1), ("student - popularity", student - 0.1))
        ],
        ds,
        repeats_left_out=1,
    )
    put(
        root,
        "recommendations",
        [
            {
                "user_id": user,
                "item_ids": ["i2", "i1"],
                "scores": [2.5, 1.5],
                "source": "model",
                "model_version": "student1",
                "generated_at": datetime(2026, 11, 23, tzinfo=UTC),
            }
            for user in ("ann", "bob")
        ],
        ds,
        model_version="student1",
        users=2,
        popular=1,
        model=1,
        k=2,
    )


def promote(root, ds=DS):
    parts = ("recommendations", "models/student", "item_vocabulary")
    promotions.promote(root, ds, {name: partitions.manifest_of(root, name, ds).version for name in parts})


def page_of(root, ds=DS):
    return (partitions.current(root, "reports", ds) / "index.html").read_text()


@pytest.fixture
def two_nights(tmp_path):
    put_features(tmp_path, BEFORE, interactions=(4, 4, 2))
    put_rest(tmp_path, BEFORE, student=0.15)
    put_gates(tmp_path, BEFORE, value=0.3)
    promote(tmp_path, BEFORE)
    put_features(tmp_path)
    put_rest(tmp_path)
    put_gates(tmp_path)
    promote(tmp_path)
    return tmp_path


def test_a_whole_night(two_nights, capsys):
    """The page shows the published partitions of the run and of the run before. One line says where the page is."""
    make(config_for(two_nights))
    assert capsys.readouterr().out == f"report    {two_nights}/reports/ds={DS}/index.html\n"
    html = page_of(two_nights)
    for expected in (
        "✓ Published: 2 users have their lists; the one gate passed.",
        "test_share over the runs: 21\u00a0Nov 0.3, 22\u00a0Nov 0.5",
        "10 rows read = 9 kept + 1 duplicate + 0 quarantined",
        "2 test users (1 more left out",
        "student: 21\u00a0Nov 0.1500, 22\u00a0Nov 0.2000",
        "10.0% of the interactions would have to move",
        "4 items in the vocabulary; 1 of them is new.",
        "usable history: 1 (50.00%; 50.00% on 21\u00a0Nov)",
        "build-features 1.0 s, train-teacher 7.0 s, distill 3.0 s",
        "User ann",
        "&lt;b&gt;blue&lt;/b&gt; lamp",
        "student1",
        "1,234",
    ):
        assert expected in html, expected
    assert "<b>blue" not in html


def test_drift_knows_items_by_their_id(two_nights):
    """Shares .4 .4 .2 0 before and .4 .3 .2 .1 now: one item gains ten points, one loses ten points."""
    make(config_for(two_nights))
    html = page_of(two_nights)
    assert (
        '<th scope="row">boots</th><td class="num">0.00%</td><td class="num">10.00%</td><td class="num">+10.00</td>'
        in html
    )
    assert '<td class="num">40.00%</td><td class="num">30.00%</td><td class="num">−10.00</td>' in html


def test_the_same_inputs_give_no_new_page(two_nights, capsys):
    """A second run skips the stage. A changed input, also of an earlier run, gives a new page."""
    make(config_for(two_nights))
    first = partitions.read_manifest(two_nights, "reports", DS)
    make(config_for(two_nights))
    assert "reports: up to date" in capsys.readouterr().out
    assert partitions.read_manifest(two_nights, "reports", DS) == first
    put_gates(two_nights, BEFORE, value=0.45)
    make(config_for(two_nights))
    assert "21\u00a0Nov 0.45" in page_of(two_nights)


def test_the_verdict_follows_what_is_in_use(two_nights, capsys):
    """The pages say which run a rollback has withdrawn and which it has put in use. A missing page is not made."""
    config = config_for(two_nights)
    put_features(two_nights, BEFORE)
    for ds in (BEFORE, DS):
        make(config_for(two_nights, ds))
    rollback.run(config_for(two_nights, BEFORE), BEFORE, "bad prices")
    withdrawn = "a rollback to 21\u00a0Nov (bad prices) took them out of use. The run of 21\u00a0Nov is in use."
    assert withdrawn in page_of(two_nights)
    assert "✓ Published" in page_of(two_nights, BEFORE)
    (two_nights / "reports" / f"ds={BEFORE}").unlink()
    rollback.run(config, DS, "good after all")
    assert "✓ Published" in page_of(two_nights)
    assert partitions.read_manifest(two_nights, "reports", BEFORE) is None
    rows = pq.read_table(partitions.current(two_nights, "recommendations", DS)).to_pylist()
    put(two_nights, "recommendations", rows[:1], model_version="student2", users=2, popular=1, model=1, k=2)
    make(config)
    made = (
        "! Not in use: 2 users have their lists, but the run is not promoted. Another table of the same day is in use."
    )
    assert made in page_of(two_nights)
    assert "warning" not in capsys.readouterr().out


def test_a_page_that_cannot_be_made_anew_fails_no_rollback(two_nights, capsys, monkeypatch):
    """The run is in use by then, so the failure is a warning."""
    make(config_for(two_nights))
    monkeypatch.setattr(report, "build", lambda job: 1 // 0)
    rollback.run(config_for(two_nights, BEFORE), BEFORE, "")
    assert f"report    warning: the report of {DS} is not updated (ZeroDivisionError: " in capsys.readouterr().out


@pytest.mark.parametrize("form", ["simulated", "csv", "sequences"])
def test_only_simulated_users_are_printed_at_the_end_of_a_night(two_nights, capsys, monkeypatch, form):
    """A scheduler keeps what is printed, and `forget` does not reach it. So real users are not printed.

    A line says when times are made up.
    """
    monkeypatch.setattr(summary, "quality_table", lambda config: "the quality")
    document = {"name": "tiny", "ds": DS, "output_dir": str(two_nights)}
    columns = {"user": "u", "item": "i", "time": {"column": "t"}} if form == "csv" else {}
    given = {"simulate": {}} if form == "simulated" else {"events": {"path": "x", "format": form} | columns}
    summary.print_summary(RunConfig.model_validate(document | {"input": given}), {"recommend": 1.0})
    printed = capsys.readouterr().out
    assert ("user ann: 3 interactions" in printed) == (form == "simulated")
    assert ("ann" in printed or "lamp" in printed) == (form == "simulated")
    assert (f"`distilrec show --ds {DS}` prints some, --user ID one" in printed) == (form != "simulated")
    assert ("made up, because the input has none" in printed) == (form == "sequences")


def test_a_night_blocked_before_training(tmp_path):
    """Features and a failed gate alone give a page that names the gate and what is missing."""
    put_features(tmp_path)
    put_gates(tmp_path, value=0.1, status="failed")
    make(config_for(tmp_path))
    html = page_of(tmp_path)
    assert "✕ Blocked by a gate: test share is 0.1, allowed 0.2 or more." in html
    assert "no student (distill), no measurements (evaluate), no recommendations (recommend)" in html
    assert "There is no earlier run to compare with." in html


def test_gates_of_product_search_stand_with_the_others(two_nights):
    """They have a heading of their own and the values of earlier runs. A failed one decides the verdict."""
    put_gates(two_nights, "2026-11-21", table="search_gates")
    put_gates(two_nights, value=0.1, status="failed", table="search_gates")
    make(config_for(two_nights))
    html = page_of(two_nights)
    assert "✕ Blocked by a gate: search share is 0.1, allowed 0.2 or more." in html
    assert html.index("Judged before training") < html.index("Judged after product search")
    assert "search_share over the runs: 21\xa0Nov 0.5, 22\xa0Nov 0.1" in html


def test_tables_of_an_earlier_attempt_may_be_stale(two_nights, capsys):
    """An attempt that is blocked after its features has a page, beside models and tables made from earlier features."""
    rows = pq.read_table(partitions.current(two_nights, "metrics", DS)).to_pylist()
    put(two_nights, "metrics", rows, inputs={"histories": "earlier"}, users=2, repeats_left_out=1)
    put_gates(two_nights, value=0.1, status="failed")
    nightly.run_last(config_for(two_nights), STAGES)
    assert "warning" not in capsys.readouterr().out
    assert "✕ Blocked by a gate: test share is 0.1, allowed 0.2 or more." in page_of(two_nights)
    with pytest.raises(InputError, match=f"metrics of {DS} is stale: it was made from histories earlier"):
        stages.run("check-gates", config_for(two_nights))


def test_each_table_may_be_missing(two_nights):
    """The page is made without any one of the run's tables."""
    for name in (
        "histories",
        "item_vocabulary",
        "item_statistics",
        "metrics",
        "gates",
        "recommendations",
        "models/student",
    ):
        link = two_nights / name / f"ds={DS}"
        target = link.readlink()
        link.unlink()
        make(config_for(two_nights))
        assert page_of(two_nights).endswith("</html>\n")
        link.symlink_to(target, target_is_directory=True)


def test_metrics_without_users_are_not_measured(two_nights):
    """NaN, the mean over no users, counts as missing, for the run and in the trend."""
    row = {
        "model": "student",
        "metric": "ndcg@10",
        "value": math.nan,
        "low": math.nan,
        "high": math.nan,
        "num_users": 0,
    }
    put(two_nights, "metrics", [row])
    make(config_for(two_nights))
    html = page_of(two_nights)
    assert "The models of this run were not measured." in html
    assert "nan" not in html


def test_a_night_of_which_nothing_is_there(two_nights, capsys):
    """A date without any partition is an error that names it, with exit status 2, and leaves no page."""
    with pytest.raises(InputError, match="nothing is published for 2026-11-25 under"):
        make(config_for(two_nights, "2026-11-25"))
    assert main(["report", "--ds", "2026-11-25", "--set", f"output_dir={two_nights}"]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert not (two_nights / "reports").exists()


def test_a_failing_report_does_not_fail_the_night(two_nights, capsys, monkeypatch):
    """The failure is one line of warning. The traceback goes to the engines' log."""

    def fail(_):
        raise RuntimeError("no ink\nat all")

    monkeypatch.setattr(report, "page", fail)
    nightly.run_last(config_for(two_nights), STAGES)
    printed = capsys.readouterr()
    assert printed.out.startswith("report    warning: not written (RuntimeError: no ink); full text: ")
    assert printed.out.count("\n") == 1
    assert "Traceback" in printed.err
    assert not list((two_nights / "_staging").iterdir())


def test_reasons_and_variant_are_read_where_the_table_has_them(two_nights):
    """`because_item_ids` gives the titles behind each recommendation, `variant` the user's place in an A/B test.

    Nulls, or a table of an earlier version without the columns, give none.
    """
    assert [item.because for item in read_user(two_nights, DS, "ann").recommended] == [(), ()]
    schema = list_tables.RECOMMENDATIONS.schema
    row = {
        "user_id": "ann",
        "item_ids": ["i2", "i1"],
        "scores": [2.5, 1.5],
        "source": "model",
        "model_version": "m",
        "generated_at": datetime(2026, 11, 23, tzinfo=UTC),
        "because_item_ids": [["i0", "i3"], []],
        "variant": "treatment",
    }
    put(two_nights, "recommendations", [row], schema=schema)
    user = read_user(two_nights, DS, "ann")
    assert [item.title for item in user.recommended] == ["i2", "<b>blue</b> lamp"]
    assert [item.because for item in user.recommended] == [("red lamp", "boots"), ()]
    assert "2026-11-23 00:00 UTC, variant treatment):" in format_user(two_nights, DS, "ann")
    for name in ("because_item_ids", "variant"):
        del row[name]
        schema = schema.remove(schema.get_field_index(name))
    put(two_nights, "recommendations", [row], schema=schema)
    assert [item.because for item in read_user(two_nights, DS, "ann").recommended] == [(), ()]
    assert "2026-11-23 00:00 UTC):" in format_user(two_nights, DS, "ann")
