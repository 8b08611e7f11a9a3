"""Which partitions the report reads, and how it finds the time of each stage."""

import pytest

from kdlib.report.gather import find_partitions, gather
from kdlib.store import partitions

DS, BEFORE = "2026-11-22", "2026-11-21"
MODELS = ["models/teacher", "models/student", "models/control"]
TABLES = ["events", "models/search_student", "search_index", "title_vectors/*", "models/encoder_*"]
STAGES = {
    "simulate events": ["events"],
    "train text encoders": ["models/encoder_*"],
    "read titles": ["title_vectors/*"],
    "train teachers": ["models/teacher"],
    "distill": ["models/student", "models/control"],
    "train search": ["models/search_student", "search_index"],
}


@pytest.fixture
def put(tmp_path):
    def publish(name, seconds, ds=DS):
        staging = partitions.new_staging(tmp_path, name, ds)
        (staging / "model.json").write_text("{}")
        details = {} if seconds is None else {"seconds": seconds}
        partitions.publish(staging, tmp_path, name, ds, fingerprint=name, details=details)

    return publish


def seconds_of(root, stages=STAGES):
    found = find_partitions(root, DS, MODELS, TABLES)
    return gather(root, DS, name="shop", k=10, models=MODELS, found=found, stages=stages).seconds


def test_partitions_of_the_day_are_found(tmp_path, put):
    """Tables, models and all variants that are published for the day. Other tables and other days are not read."""
    for name in ("models/student", "title_vectors/b1", "title_vectors/a1", "models/encoder_x", "sessions"):
        put(name, 1.0)
    put("events", 1.0, BEFORE)
    put("title_vectors/c1", 1.0, BEFORE)
    found = find_partitions(tmp_path, DS, MODELS, TABLES)
    assert list(found) == [
        (name, DS) for name in ("models/student", "models/encoder_x", "title_vectors/a1", "title_vectors/b1")
    ]


def test_stages_stand_in_the_given_order(tmp_path, put):
    """Each stage has the seconds of what it published. A stage without seconds is left out."""
    put("search_index", None)
    put("models/student", 3.0)
    put("title_vectors/a1", 0.5)
    put("title_vectors/b1", 0.25)
    put("events", 2.0)
    assert list(seconds_of(tmp_path).items()) == [("simulate events", 2.0), ("read titles", 0.75), ("distill", 3.0)]
    turned = dict(reversed(STAGES.items()))
    assert list(seconds_of(tmp_path, turned).items()) == [
        ("distill", 3.0),
        ("read titles", 0.75),
        ("simulate events", 2.0),
    ]


def test_tables_of_one_build_count_once(tmp_path, put):
    """Tables and models of one stage with equal seconds count once. Another stage of the same length counts too."""
    put("events", 40.0)
    put("models/student", 40.0)
    put("models/control", 40.0)
    put("models/search_student", 7.0)
    put("search_index", 7.0)
    assert seconds_of(tmp_path) == {"simulate events": 40.0, "distill": 40.0, "train search": 7.0}


def test_a_teacher_trained_with_the_student_counts_with_the_student(tmp_path, put):
    """Equal seconds of models in two stages are one training. The later stage gets them."""
    put("models/teacher", 40.0)
    put("models/student", 40.0)
    put("models/control", 12.0)
    assert seconds_of(tmp_path) == {"distill": 52.0}
