"""The only list of stages, in the order of a run. Commands, scheduler, report and documents are made from it.

`python -m jobs.pipeline` prints the table of stages for the documents.
"""

from collections.abc import Iterator

from jobs.runtime import parts
from jobs.runtime.names import (
    FEATURES,
    SEARCH_ENCODER,
    SEARCH_STUDENT,
    logged_queries,
    models_of,
    teacher_models,
    texts_of,
)
from jobs.runtime.parts import TRAINING
from jobs.runtime.stage import Stage
from kdlib.config.run import RunConfig

NO_EVENTS = "the run config has no events"
NO_SEARCH = "the run config has no section search"


def _has_events(config: RunConfig) -> bool:
    return config.input.has_events


def _offline(config: RunConfig) -> bool:
    return config.input.has_events and config.distillation.mode == "offline"


def _has_search(config: RunConfig) -> bool:
    return config.search is not None


def _adapts_search(config: RunConfig) -> bool:
    return config.search is not None and config.search.text.adapt is not None


def _feature_tables(config: RunConfig) -> tuple[str, ...]:
    tables = ("quarantine", "sessions", *FEATURES)
    return (*tables, "clean_events") if config.arrives_by_day else tables


def _served(config: RunConfig) -> Iterator[str]:
    """Tables and models that go into use together."""
    if config.input.has_events:
        yield from ("recommendations", *FEATURES, "metrics", *models_of(config))
    if config.search:
        yield from ("products", "search_index", SEARCH_STUDENT, "search_rankings")


def _everything(config: RunConfig) -> Iterator[str]:
    for stage in STAGES:
        if not stage.acts and stage.name != "report" and stage.when(config):
            for part in stage.parts_of(config):
                yield from part.makes
    yield "gates"


STAGES: tuple[Stage, ...] = (
    Stage(
        "simulate-events",
        "local",
        "write the simulated shop: events, catalogue, searches",
        parts=parts.simulated,
        when=lambda config: config.input.simulate is not None,
        otherwise="the run config reads events of its own (input.simulate is not set)",
    ),
    Stage(
        "build-features",
        "spark",
        "clean the clickstream and build sessions, histories and the item vocabulary",
        needs=lambda config: ("events", "catalogue") if config.input.simulate else (),
        makes=_feature_tables,
        settings=(
            "features",
            "-features.queries",
            "input",
            "-input.searches",
            "-input.simulate.search_fraction",
            "privacy.min_item_users",
        ),
        when=_has_events,
        otherwise=NO_EVENTS,
    ),
    Stage(
        "build-products",
        "spark",
        "write the catalogue as product search reads it",
        needs=lambda config: ("catalogue",) if config.input.simulate else (),
        makes=("products",),
        settings=("input.catalogue",),
        when=_has_search,
        otherwise=NO_SEARCH,
    ),
    Stage(
        "build-queries",
        "spark",
        "clean the search log and weigh what was clicked after each query",
        needs=lambda config: ("searches",) if config.input.simulate else (),
        makes=("queries", "query_items", "search_quarantine"),
        settings=("features.queries", "input.searches", "-input.searches.path", "privacy.min_query_users"),
        when=lambda config: config.input.has_searches,
        otherwise="the run config has no search log (input.searches, or input.simulate.search_fraction)",
    ),
    Stage(
        "check-input",
        "local",
        "judge the input before anything is trained on it",
        needs=("histories",),
        when=_has_events,
        otherwise=NO_EVENTS,
        acts=True,
        options=("force",),
    ),
    Stage(
        "train-text-encoder",
        "ray",
        "train the text encoders on the shop's own titles",
        parts=parts.encoders,
        when=lambda config: config.input.has_events and any(text.adapt for text in texts_of(config)),
        otherwise="no model has text.adapt",
    ),
    Stage(
        "encode-titles",
        "ray",
        "encode the product titles",
        parts=parts.titles,
        when=lambda config: config.input.has_events and bool(texts_of(config)),
        otherwise="no model reads titles (text)",
    ),
    Stage(
        "train-teacher",
        "ray",
        "train the teachers",
        parts=parts.teachers,
        together=True,
        when=_offline,
        otherwise="distillation.mode is joint: distill trains the teacher",
    ),
    Stage(
        "cache-teacher",
        "ray",
        "store what the teachers predict at every training position",
        needs=lambda config: (*FEATURES, *teacher_models(config)),
        makes=("teacher_targets",),
        settings=(
            "distillation.targets",
            "distillation.samples",
            "distillation.temperature",
            "distillation.weights",
            "training.max_length",
            "training.max_validation_users",
            "seed",
            "teachers.*.weight",
            "teachers.*.folds",
        ),
        when=_offline,
        otherwise="distillation.mode is joint: nothing is cached",
    ),
    Stage(
        "build-codes",
        "ray",
        "learn the item codes of a student with codes",
        parts=parts.codes,
        when=lambda config: _offline(config) and config.student.model.codes is not None,
        otherwise="the student has no codes (student.model.codes)",
    ),
    Stage(
        "distill",
        "ray",
        "train the student from its teachers, and the control without them",
        parts=parts.students,
        together=True,
        when=_has_events,
        otherwise=NO_EVENTS,
    ),
    Stage(
        "evaluate",
        "ray",
        "measure all models and baselines on the test users",
        needs=lambda config: (*FEATURES, *models_of(config), *(("teacher_targets",) if _offline(config) else ())),
        makes=("metrics",),
        settings=("evaluation", "features.split", "seed", "training.max_length"),
        when=_has_events,
        otherwise=NO_EVENTS,
    ),
    Stage(
        "check-gates",
        "local",
        "judge input and models before the run is promoted",
        needs=("histories", "metrics"),
        when=_has_events,
        otherwise=NO_EVENTS,
        acts=True,
        options=("force",),
    ),
    Stage(
        "recommend",
        "ray",
        "write each user's top-k",
        needs=(*FEATURES, "models/student"),
        makes=("recommendations",),
        settings=("recommend",),
        when=_has_events,
        otherwise=NO_EVENTS,
    ),
    Stage(
        "train-search-encoder",
        "ray",
        "train the search teacher on the shop's own language",
        needs=lambda config: ("products", *logged_queries(config)),
        makes=(SEARCH_ENCODER,),
        settings=(*TRAINING, "search.text.max_tokens", "search.text.adapt"),
        when=_adapts_search,
        otherwise="search.text has no adapt",
    ),
    Stage(
        "encode-products",
        "ray",
        "encode the products with the search teacher",
        needs=lambda config: ("products", *((SEARCH_ENCODER,) if _adapts_search(config) else ())),
        makes=("product_vectors",),
        settings=("search.text",),
        when=_has_search,
        otherwise=NO_SEARCH,
    ),
    Stage(
        "encode-queries",
        "ray",
        "encode typed and made-up queries with the search teacher",
        needs=lambda config: (
            "products",
            *logged_queries(config),
            *((SEARCH_ENCODER,) if _adapts_search(config) else ()),
        ),
        makes=("search_targets",),
        settings=("search.text", "search.catalogue_queries", "seed"),
        when=_has_search,
        otherwise=NO_SEARCH,
    ),
    Stage(
        "train-search",
        "ray",
        "train the search student from the teacher's vectors",
        needs=lambda config: (
            "products",
            "product_vectors",
            "search_targets",
            *logged_queries(config),
            *((SEARCH_ENCODER,) if _adapts_search(config) else ()),
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
        when=_has_search,
        otherwise=NO_SEARCH,
    ),
    Stage(
        "build-search-index",
        "ray",
        "build the search index, and choose the weights of words and vectors",
        needs=lambda config: ("products", "product_vectors", SEARCH_STUDENT, *logged_queries(config)),
        makes=("search_index",),
        settings=(
            "search.language",
            "search.vector_weight",
            "search.intent_weight",
            "search.weights",
            "search.text.adapt",
            "seed",
        ),
        when=_has_search,
        otherwise=NO_SEARCH,
    ),
    Stage(
        "rank-search",
        "ray",
        "write each head query's top-k",
        needs=lambda config: ("products", "search_index", SEARCH_STUDENT, *logged_queries(config)),
        makes=("search_rankings",),
        settings=("search.k", "search.max_queries"),
        when=_has_search,
        otherwise=NO_SEARCH,
    ),
    Stage(
        "promote",
        "local",
        "put the run's tables and models in use, deliver them, remove old runs",
        needs=_served,
        acts=True,
        options=("reason",),
    ),
    Stage(
        "report",
        "local",
        "write the run's report, one HTML page",
        needs=_everything,
        optional=True,
        makes=("reports",),
        settings=("name", "evaluation.k", "input.events.format"),
        when=_has_events,
        otherwise=NO_EVENTS,
        last=True,
    ),
)


def stage_named(name: str) -> Stage:
    """The stage with this name; KeyError where no stage has it."""
    return {stage.name: stage for stage in STAGES}[name]


def stages_table() -> str:
    """The stages as a Markdown table."""
    lines = ["| stage | runs on | what it does |", "| --- | --- | --- |"]
    return "\n".join([*lines, *(f"| `{stage.name}` | {stage.engine} | {stage.summary} |" for stage in STAGES)])


if __name__ == "__main__":
    print(stages_table())
