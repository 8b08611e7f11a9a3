"""Which partitions the report reads, and how it finds the time of each stage."""

import pytest

from kdlib.report.gather import find_partitions, gather
from kdlib.store import partitions

DS, BEFORE = "2026-11-22", "2026-11-21"
MODELS = ["models/teacher", "models/student", "models/control"]


@pytest.fixture
def put(tmp_path):
    def publish(name, stage, seconds, ds=DS):
        staging = partitions.new_staging(tmp_path, name, ds)
        (staging / "model.json").write_text("{}")
        details = {} if seconds is None else {"seconds": seconds}
        made_by = {"stage": stage} if stage else {}
        partitions.publish(staging, tmp_path, name, ds, fingerprint=name, details=details, made_by=made_by)

    return publish


def seconds_of(root):
    found = find_partitions(root, DS)
    return gather(root, DS, name="shop", k=10, models=MODELS, found=found).seconds


def test_partitions_of_the_day_are_found(tmp_path, put):
    """All tables and models that are published for the day, but for the page itself. Other days are not read."""
    for name in ("models/student", "title_vectors/b1", "title_vectors/a1", "models/encoder_x", "sessions", "reports"):
        put(name, "distill", 1.0)
    put("events", "simulate-events", 1.0, BEFORE)
    put("title_vectors/c1", "encode-titles", 1.0, BEFORE)
    names = ["models/encoder_x", "models/student", "sessions", "title_vectors/a1", "title_vectors/b1"]
    assert list(find_partitions(tmp_path, DS)) == [(name, DS) for name in names]


def test_stages_stand_in_the_order_in_which_they_ran(tmp_path, put):
    """Each stage has the seconds of what it published. What nobody timed is left out."""
    put("events", "simulate-events", 2.0)
    put("title_vectors/a1", "encode-titles", 0.5)
    put("title_vectors/b1", "encode-titles", 0.25)
    put("models/student", "distill", 3.0)
    put("search_index", "build-search-index", None)
    put("queries", None, 4.0)
    found = [("simulate-events", 2.0), ("encode-titles", 0.75), ("distill", 3.0)]
    assert list(seconds_of(tmp_path).items()) == found


def test_tables_of_one_build_count_once(tmp_path, put):
    """Tables and models of one stage with equal seconds count once. Another stage of the same length counts too."""
    put("events", "simulate-events", 40.0)
    put("models/student", "distill", 40.0)
    put("models/control", "distill", 40.0)
    assert seconds_of(tmp_path) == {"simulate-events": 40.0, "distill": 40.0}
