"""The tables that the report and the telemetry read, and the stages whose times they show."""

from collections.abc import Sequence

TABLES = (
    "events",
    "histories",
    "item_vocabulary",
    "item_statistics",
    "teacher_targets",
    "item_codes",
    "metrics",
    "gates",
    "recommendations",
    "products",
    "queries",
    "product_vectors",
    "search_targets",
    "models/search_student",
    "search_index",
    "search_rankings",
    "title_vectors/*",
    "models/encoder_*",
)
"""Tables and models of a run, besides the models of `jobs.report.models_of`."""


def stages_with(models: Sequence[str]) -> dict[str, Sequence[str]]:
    """Name of a stage → names of the tables and models that the stage publishes, in the order of the stages.

    Args:
      models: `models/<name>`, from `jobs.report.models_of`.
    """
    students = ("models/student", "models/control")
    return {
        "simulate events": ("events",),
        "build features": ("histories",),
        "train text encoders": ("models/encoder_*",),
        "read titles": ("title_vectors/*",),
        "train teachers": tuple(name for name in models if name not in students),
        "cache teachers": ("teacher_targets",),
        "build codes": ("item_codes",),
        "distill": students,
        "evaluate": ("metrics",),
        "recommend": ("recommendations",),
        "read catalogue": ("products",),
        "read search log": ("queries",),
        "train search": ("models/search_student", "product_vectors", "search_targets", "search_index"),
        "rank queries": ("search_rankings",),
    }
