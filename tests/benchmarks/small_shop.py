"""The small growing shop of `sixty_nights.py`: its simulator, and the run config of its nights."""

from datetime import date, timedelta
from typing import Any

FIRST = date(2026, 10, 2)
"""The first night."""
HISTORY_DAYS = 30
"""Days of the shop before it."""
K = 10
SETTINGS: dict[str, Any] = {
    "name": "small_shop",
    "features": {"split": {"kind": "time", "validation_days": 2, "test_days": 1}},
    # rules are counted within seconds, so that a night trains one model only
    "teachers": [{"name": "rules", "rules": {}}],
    "student": {
        "model": {"kind": "gru", "dim": 16, "hidden": 32, "dropout": 0.0, "session_flag": True},
        "train": {"epochs": 12, "learning_rate": 0.014},
    },
    "distillation": {"targets": "sampled", "temperature": 1.0, "kl_weight": 2.0},
    "training": {
        "workers": 1,
        "warm_start": {"epochs": 1, "learning_rate_fraction": 0.3},
        "defaults": {"patience": 12, "batch_size": 64, "final_learning_rate_fraction": 0.05, "warmup_steps": 20},
    },
    "evaluation": {"k": [K], "control": False, "bootstrap_samples": 200},
    "recommend": {"k": K, "actors": 1},
    # one crawler is a large share of so small a shop's rows, and 400 test users are few
    "gates": {"max_share_rise": 0.35, "max_loss_to_last_night": 0.01},
    "retention": {"nights": 7},
    "ray": {"num_cpus": 2},
    "spark": {
        "shuffle_partitions": 1,
        "conf": {"spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"},
    },
}
WORLD = {
    "name": "world",
    "input": {
        "simulate": {
            "num_events": 480_000,
            "num_items": 500,
            "events_per_user": 20,
            "num_days": 120,  # the row ends before the period does, so that users join on all its days
            "first_day": FIRST - timedelta(days=HISTORY_DAYS),
            "new_items_per_day": 3,
        }
    },
}
