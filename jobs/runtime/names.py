"""Names of tables and models that depend on settings, so that variants do not overwrite each other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from kdlib.store.fingerprint import fingerprint_of

if TYPE_CHECKING:
    from kdlib.config.models import ModelConfig, StudentConfig, TeacherConfig
    from kdlib.config.run import RunConfig
    from kdlib.config.text import TextConfig

FEATURES = ("histories", "item_vocabulary", "item_statistics")
"""The feature tables that all models are made from."""
QUERIES = ("queries", "query_items")
SEARCH_ENCODER = "models/search_encoder"
SEARCH_STUDENT = "models/search_student"


def adapted_encoder(text: TextConfig) -> str:
    """The model name of an adapted text encoder. Texts that differ only in whitening or batch size share it."""
    return (
        f"models/encoder_{fingerprint_of(text.model_dump(mode='json', include={'encoder', 'max_tokens', 'adapt'}))[:8]}"
    )


def title_vectors(text: TextConfig) -> str:
    """The table of the title vectors with these text settings."""
    return f"title_vectors/{fingerprint_of(text.model_dump(mode='json'))[:8]}"


def item_codes(model: ModelConfig) -> tuple[str, str]:
    """The tables of the item codes and of the codebooks of a student with codes."""
    assert model.codes is not None
    variant = fingerprint_of(model.codes.model_dump(), model.dim)[:8]
    return f"item_codes/{variant}", f"item_codebooks/{variant}"


def texts_of(config: RunConfig) -> list[TextConfig]:
    """The different ways in which teachers and student read titles."""
    readers = [*config.teachers, config.student]
    return list({repr(reader.text): reader.text for reader in readers if reader.text}.values())


def encoders_of(config: RunConfig) -> list[TextConfig]:
    """The different ways in which models and product search read text."""
    read = texts_of(config) if config.input.has_events else []
    return [*read, *([config.search.text] if config.search else [])]


def teacher_models(config: RunConfig) -> list[str]:
    """The models of all teachers, in the config's order. A cross-fitted teacher has one for each fold."""
    return [model for teacher in config.teachers for model in teacher.models]


def judged_models(config: RunConfig) -> list[str]:
    """The models that `evaluate` and the gates judge, teachers first."""
    return [*teacher_models(config), "models/student", *(["models/control"] if config.evaluation.control else [])]


def models_of(config: RunConfig) -> list[str]:
    """The models of recommendation, teachers first."""
    return [*judged_models(config), *(["models/refit"] if config.student.refit else [])]


def served_student(config: RunConfig) -> str:
    """The student that makes the lists. `models/student` is the judged one, and the one that a later run starts from."""
    return "models/refit" if config.student.refit else "models/student"


def lists_of(config: RunConfig) -> tuple[str, ...]:
    """The tables of further lists."""
    settings = config.recommend
    return (*settings.lists.names, *(["recommendations_long"] if settings.long_form else []))


def policy_features(config: RunConfig) -> tuple[str, ...]:
    """The tables of item features and user features that rules for lists read."""
    policy = config.recommend.policy
    if policy is None:
        return ()
    reads_items = any(any(rules.features()) for rules in policy.all_rules().values())
    return (*(["item_features"] if reads_items else []), *(["user_features"] if policy.segments else []))


def model_features(*readers: TeacherConfig | StudentConfig) -> tuple[str, ...]:
    """The table of the item features, where one of these models reads them. Features of users lie in the histories."""
    return ("item_features",) if any(reader.features for reader in readers) else ()


def group_features(config: RunConfig) -> tuple[str, ...]:
    """The tables whose categories and segments have lists of popular items of their own."""
    users = config.input.users
    kinds = {"item_features": config.input.item_features, "user_features": users.features if users else {}}
    if not config.recommend.lists.popular_items:
        return ()
    return tuple(name for name, of in kinds.items() if {"category", "categories"} & set(of.values()))


def side_features(config: RunConfig) -> list[str]:
    """The tables of item features and user features that a list or a model needs."""
    needed = (*policy_features(config), *group_features(config), *model_features(*config.teachers, config.student))
    return sorted(set(needed))


def logged_queries(config: RunConfig) -> Iterable[str]:
    """The tables of queries, where there is a search log."""
    return QUERIES if config.input.has_searches else ()
