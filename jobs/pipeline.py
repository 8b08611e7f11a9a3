"""The only list of stages, in the order of a run. Commands, scheduler, report and documents are made from it.

`python -m jobs.pipeline` prints the table of stages for the documents.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from jobs.runtime import parts
from jobs.runtime.names import (
    FEATURES,
    SEARCH_ENCODER,
    SEARCH_STUDENT,
    logged_queries,
    policy_features,
    served_student,
    side_features,
    texts_of,
)
from jobs.runtime.parts import TRAINING, has_events, has_search, is_offline, search_teacher
from jobs.runtime.stage import Stage

if TYPE_CHECKING:
    from kdlib.config.run import RunConfig

_events_stage = partial(Stage, when=has_events, otherwise="the run config has no events")
_search_stage = partial(Stage, when=has_search, otherwise="the run config has no section search")


def _everything(config: RunConfig) -> Iterator[str]:
    for stage in STAGES:
        if not stage.acts and stage.name != "report" and stage.when(config):
            for part in stage.parts_of(config):
                yield from part.makes
    yield from ("gates", *(["search_gates"] if config.search else []))


STAGES: tuple[Stage, ...] = (
    Stage(
        "simulate-events",
        "local",
        "write the simulated shop: events, catalogue, searches",
        parts=parts.simulated_parts,
        when=lambda config: config.input.simulate is not None,
        otherwise="the run config reads events of its own (input.simulate is not set)",
    ),
    _events_stage(
        "build-features",
        "spark",
        "clean the clickstream and build sessions, histories and the item vocabulary",
        parts=parts.feature_parts,
    ),
    Stage(
        "build-side-features",
        "spark",
        "read the features of items and users that models and lists use",
        parts=parts.side_feature_parts,
        when=lambda config: bool(side_features(config)),
        otherwise="no model reads features of items, no rule of recommend.policy reads a feature, and popular_items has no categories and segments",
    ),
    _search_stage(
        "build-products",
        "spark",
        "write the catalogue as product search reads it",
        needs=lambda config: ("catalogue",) if config.input.simulate else (),
        makes=("products",),
        settings=("input.catalogue", "-input.catalogue.features"),
    ),
    Stage(
        "build-queries",
        "spark",
        "clean the search log and weigh what was clicked after each query",
        needs=lambda config: ("searches",) if config.input.simulate else (),
        makes=("queries", "query_items", "search_quarantine"),
        settings=(
            "features.queries",
            "features.time_zone",
            "input.searches",
            "-input.searches.path",
            "privacy.min_query_users",
        ),
        when=lambda config: config.search is not None and config.input.has_searches,
        otherwise="there is no section search, or no search log (input.searches, input.simulate.search_fraction)",
    ),
    _events_stage(
        "check-input",
        "local",
        "judge the input before anything is trained on it",
        needs=("histories",),
        acts=True,
        options=("force",),
    ),
    Stage(
        "train-text-encoder",
        "ray",
        "train the text encoders on the shop's own titles",
        parts=parts.encoder_parts,
        when=lambda config: config.input.has_events and any(text.adapt for text in texts_of(config)),
        otherwise="no model has text.adapt",
    ),
    Stage(
        "encode-titles",
        "ray",
        "encode the product titles",
        parts=parts.title_parts,
        when=lambda config: config.input.has_events and bool(texts_of(config)),
        otherwise="no model reads titles (text)",
    ),
    Stage(
        "train-teacher",
        "ray",
        "train the teachers",
        parts=parts.teacher_parts,
        together=True,
        when=is_offline,
        otherwise="distill trains the teacher (distillation.mode is joint)",
    ),
    Stage(
        "cache-teacher",
        "ray",
        "store what the teachers predict at every training position",
        parts=parts.target_parts,
        when=is_offline,
        otherwise="nothing is cached (distillation.mode is joint)",
    ),
    Stage(
        "build-codes",
        "ray",
        "learn the item codes of a student with codes",
        parts=parts.code_parts,
        when=lambda config: is_offline(config) and config.student.model.codes is not None,
        otherwise="the student has no codes (student.model.codes)",
    ),
    _events_stage(
        "distill",
        "ray",
        "train the student from its teachers, and the control without them",
        parts=parts.student_parts,
        together=True,
    ),
    _events_stage(
        "evaluate",
        "ray",
        "measure all models and baselines on the test users",
        parts=parts.evaluation_parts,
    ),
    _events_stage(
        "check-gates",
        "local",
        "judge input and models before the run is promoted",
        needs=("histories", "metrics"),
        acts=True,
        options=("force",),
    ),
    Stage(
        "refit",
        "ray",
        "train the student once more, on all days",
        parts=parts.refit_parts,
        when=lambda config: config.input.has_events and config.student.refit,
        otherwise="the judged student makes the lists (student.refit is not set)",
    ),
    _events_stage(
        "recommend",
        "ray",
        "write each user's top-k",
        needs=lambda config: (*FEATURES, served_student(config), *policy_features(config)),
        makes=("recommendations",),
        settings=("recommend", "-recommend.lists", "-recommend.long_form", "experiment", "features.time_zone"),
    ),
    Stage(
        "recommend-lists",
        "local",
        "write the further lists: similar items, bought together, popular items, buy again",
        parts=parts.list_parts,
        when=parts.has_lists,
        otherwise="the run config names no further lists (recommend.lists, recommend.long_form)",
    ),
    Stage(
        "export",
        "local",
        "write the student for other systems: ONNX graphs, item ids and vectors, rules for lists, a model card",
        parts=parts.export_parts,
        when=parts.has_export,
        otherwise="the run config has no section export, or no events",
    ),
    Stage(
        "train-search-encoder",
        "ray",
        "train the search teacher on the shop's own language",
        needs=lambda config: ("products", *logged_queries(config)),
        makes=(SEARCH_ENCODER,),
        settings=(*TRAINING, "search.text.max_tokens", "search.text.adapt"),
        when=parts.adapts_search,
        otherwise="search.text has no adapt",
    ),
    _search_stage(
        "encode-products",
        "ray",
        "encode the products with the search teacher",
        needs=lambda config: ("products", *search_teacher(config)),
        makes=("product_vectors",),
        settings=("search.text",),
    ),
    _search_stage(
        "encode-queries",
        "ray",
        "encode typed and made-up queries with the search teacher",
        needs=lambda config: ("products", *logged_queries(config), *search_teacher(config)),
        makes=("search_targets",),
        settings=("search.text", "search.catalogue_queries", "seed"),
    ),
    _search_stage(
        "train-search",
        "ray",
        "train the search student from the teacher's vectors",
        needs=lambda config: (
            "products",
            "product_vectors",
            "search_targets",
            *logged_queries(config),
            *search_teacher(config),
        ),
        makes=(SEARCH_STUDENT,),
        settings=(
            *TRAINING,
            "search.student",
            "search.width",
            "search.vocabulary",
            "search.misspelt_fraction",
            "search.epochs",
            "search.batch_size",
            "search.learning_rate",
        ),
    ),
    _search_stage(
        "build-search-index",
        "ray",
        "build the search index, and choose the weights of words and vectors",
        needs=lambda config: ("products", "product_vectors", SEARCH_STUDENT, *logged_queries(config)),
        makes=("search_index",),
        settings=(
            "search.language",
            "search.vector_weight",
            "search.intent_weight",
            "search.history_weight",
            "search.weights",
            "search.text.adapt",
            "seed",
        ),
    ),
    _search_stage(
        "rank-search",
        "ray",
        "write each head query's top-k",
        needs=lambda config: ("products", "search_index", SEARCH_STUDENT, *logged_queries(config)),
        makes=("search_rankings",),
        settings=("search.k", "search.max_queries", "features.time_zone"),
    ),
    _search_stage(
        "check-search",
        "local",
        "judge product search before it is promoted",
        needs=lambda config: ("products", "search_index", SEARCH_STUDENT, "search_rankings", *logged_queries(config)),
        acts=True,
        options=("force",),
    ),
    Stage(
        "promote",
        "local",
        "put the run's tables and models in use, deliver them, remove old runs",
        needs=parts.served,
        acts=True,
        options=("reason",),
    ),
    _events_stage(
        "report",
        "local",
        "write the run's report, one HTML page",
        needs=_everything,
        optional=True,
        makes=("reports",),
        settings=("name", "evaluation.k", "input.events.format"),
        last=True,
    ),
)


def stage_named(name: str) -> Stage:
    """The stage with this name; KeyError where no stage has it."""
    return {stage.name: stage for stage in STAGES}[name]


def _in_code(names: Iterable[str]) -> str:
    """Names of tables and models, without the hashes of variants."""
    plain = (re.sub(r"/[0-9a-f]{8}$", "", re.sub(r"(encoder_)[0-9a-f]{8}", r"\1…", name)) for name in names)
    return ", ".join(f"`{name}`" for name in dict.fromkeys(plain))


EVERYTHING: dict[str, Any] = {
    "name": "everything",
    "ds": "2026-11-22",
    "output_dir": "output",
    "input": {
        "simulate": {"search_fraction": 0.1, "first_day": "2026-11-01"},
        "users": {"path": "users.csv", "format": "csv", "features": {"country": "category"}},
    },
    "teachers": [{"name": "teacher", "text": {"adapt": {}}}],
    "student": {"model": {"codes": {}}, "refit": True},
    "recommend": {
        "lists": {"similar_items": 10, "bought_together": 10, "popular_items": 10, "buy_again": 10},
        "long_form": True,
        "policy": {"segments": {"feature": "country", "rules": {"de": {"exclude": {"brand": ["acme"]}}}}},
    },
    "export": {},
    "search": {"text": {"adapt": {}}},
}
"""A run config to which every stage applies, for the documents."""


def stages_table() -> str:
    """The stages as a Markdown table, with what they need and make under `EVERYTHING`."""
    from kdlib.config.run import RunConfig

    config = RunConfig.model_validate(EVERYTHING)
    lines = ["| stage | runs on | what it does | needs | makes |", "| --- | --- | --- | --- | --- |"]
    for stage in STAGES:
        found = stage.parts_of(config)
        needs = "whatever is published" if stage.optional else _in_code(name for one in found for name in one.needs)
        makes = _in_code(name for one in found for name in one.makes)
        lines.append(f"| `{stage.name}` | {stage.engine} | {stage.summary} | {needs} | {makes} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(stages_table())
