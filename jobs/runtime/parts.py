"""What stages make and need under a run config, where that depends on the config. `jobs.pipeline` refers to these functions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from jobs.runtime.names import (
    FEATURES,
    SEARCH_ENCODER,
    SEARCH_STUDENT,
    adapted_encoder,
    group_features,
    item_codes,
    judged_models,
    lists_of,
    model_features,
    models_of,
    policy_features,
    served_student,
    side_features,
    teacher_models,
    texts_of,
    title_vectors,
)
from jobs.runtime.stage import Part

if TYPE_CHECKING:
    from kdlib.config.run import RunConfig
    from kdlib.config.text import TextConfig

TRAINING = ("seed", "budget_minutes", "training", "-training.defaults")
"""What every training depends on, beside its own settings: defaults count as they are resolved for each model."""
STUDENT = (*TRAINING, "features.split", "objective", "student", "-student.train", "-student.control", "-student.refit")
"""What every training of the student depends on."""


def has_events(config: RunConfig) -> bool:
    """Whether there is anything to recommend from."""
    return config.input.has_events


def is_offline(config: RunConfig) -> bool:
    """Whether teachers are trained before the student."""
    return config.input.has_events and config.distillation.mode == "offline"


def has_search(config: RunConfig) -> bool:
    """Whether the run makes product search."""
    return config.search is not None


def adapts_search(config: RunConfig) -> bool:
    """Whether the search teacher is trained on the shop's language."""
    return config.search is not None and config.search.text.adapt is not None


def simulated_parts(config: RunConfig) -> Iterator[Part]:
    """Events with catalogue; the search log by itself."""
    simulate = config.input.simulate
    assert simulate is not None
    first_day = {"first_day": simulate.period(config.last_day)[0]}
    without = ("-input.simulate.search_fraction", "-input.simulate.first_day")
    yield Part(("events", "catalogue"), settings=("input.simulate", *without), values=first_day)
    if simulate.search_fraction:
        yield Part(("searches",), settings=("input.simulate", without[1]), values=first_day)


def feature_parts(config: RunConfig) -> Iterator[Part]:
    """All tables of build-features. The list of users counts where a model reads it."""
    makes = ("quarantine", "sessions", *FEATURES, *(("clean_events",) if config.arrives_by_day else ()))
    settings = ("features", "-features.queries", "input", "-input.searches", "-input.users")
    settings += ("-input.catalogue.features", "-input.simulate.search_fraction", "privacy.min_item_users")
    users = config.input.users if config.user_features else None
    values = {"input.users": users.model_copy(update={"features": config.user_features})} if users else {}
    yield Part(makes, ("events", "catalogue") if config.input.simulate else (), settings, values)


def side_feature_parts(config: RunConfig) -> Iterator[Part]:
    """The features of items, and those of users."""
    for name in side_features(config):
        if name == "item_features":
            needs = ("item_vocabulary", *(("catalogue",) if config.input.simulate else ()))
            yield Part((name,), needs, ("input.catalogue",), {"features": config.input.item_features})
        else:
            yield Part((name,), ("histories",), ("input.users", "privacy.key", "privacy.key_version"))


def encoder_parts(config: RunConfig) -> Iterator[Part]:
    """A part for each adapted encoder."""
    for text in {adapted_encoder(text): text for text in texts_of(config) if text.adapt}.values():
        own = {"text": {"max_tokens": text.max_tokens, "adapt": text.adapt}}
        yield Part((adapted_encoder(text),), FEATURES, TRAINING, own, subject=text)


def title_parts(config: RunConfig) -> Iterator[Part]:
    """A part for each way of reading titles."""
    for text in texts_of(config):
        needs = ("item_vocabulary", *([adapted_encoder(text)] if text.adapt else []))
        yield Part((title_vectors(text),), needs, values={"text": text}, subject=text)


def vectors_of(*texts: TextConfig | None) -> tuple[str, ...]:
    """The title vectors of these texts, for those that there are."""
    return tuple(title_vectors(text) for text in texts if text)


def teacher_parts(config: RunConfig) -> Iterator[Part]:
    """A part for each model: one a teacher, or one a fold."""
    for teacher in config.teachers:
        own = f"teachers.{teacher.name}"
        if not teacher.is_trained:
            settings = (f"{own}.rules", f"{own}.function", "training.max_length", "training.max_validation_users")
            yield Part(teacher.models, FEATURES, (*settings, "objective"), subject=(teacher, 0))
            continue
        settings = (*TRAINING, "-seed", own, f"-{own}.weight", f"-{own}.train", f"-{own}.seed", "features.split")
        settings += ("objective",)
        values = {
            "train": config.training.resolve(teacher.train),
            "seed": config.seed if teacher.seed is None else teacher.seed,
        }
        for fold, model in enumerate(teacher.models):
            yield Part(
                (model,),
                (*FEATURES, *vectors_of(teacher.text), *model_features(teacher)),
                settings,
                values,
                subject=(teacher, fold),
            )


def target_parts(config: RunConfig) -> Iterator[Part]:
    """The cached targets. Hidden states are the same at any temperature and with any number of samples."""
    settings = ("distillation.weights", "seed", "teachers.*.weight", "teachers.*.folds")
    settings += ("training.max_length", "training.max_validation_users")
    settings += ("objective",) if config.distillation.weights == "validation_ndcg" else ()
    values = {"distillation": config.distillation.cached_form}
    yield Part(("teacher_targets",), (*FEATURES, *teacher_models(config)), settings, values)


def code_parts(config: RunConfig) -> Iterator[Part]:
    """The codes, learnt from the teachers' item vectors and from titles."""
    text = next((teacher.text for teacher in config.teachers if teacher.text), None)
    settings = ("student.model.codes", "student.model.dim", "seed", "teachers.*.weight")
    yield Part(item_codes(config.student.model), (*FEATURES, *teacher_models(config), *vectors_of(text)), settings)


def student_parts(config: RunConfig) -> Iterator[Part]:
    """The student, with its teacher in joint mode, and the control: the same student without teachers."""
    student, joint = config.student, config.distillation.mode == "joint"
    needs, settings = _student_needs(config), STUDENT
    taught = {"train": config.training.resolve(student.train)}
    if joint:
        teacher = config.teachers[0]
        own = (*settings, "distillation", f"teachers.{teacher.name}")
        makes = ("models/student", *teacher.models)
        yield Part(makes, (*needs, *vectors_of(teacher.text)), own, taught, subject="student")
    elif student.size == "auto":  # the control's width is known when the student is
        makes = ("models/student", *(["models/control"] if config.evaluation.control else []))
        own = (*settings, "distillation", "student.control")
        yield Part(makes, needs, own, taught, subject="student")
    else:
        yield Part(("models/student",), needs, (*settings, "distillation"), taught, subject="student")
    if config.evaluation.control and student.size == "given":
        alone = student.without_teachers()
        values = {"train": config.training.resolve(alone.train), "dropout": alone.model.dropout}
        yield Part(("models/control",), needs, (*settings, "-student.model.dropout"), values, subject="control")


def refit_parts(config: RunConfig) -> Iterator[Part]:
    """The student that is trained on all days, from what the judged student was trained from, and for as long."""
    own = tuple(f"teachers.{teacher.name}" for teacher in config.teachers if config.distillation.mode == "joint")
    texts = vectors_of(config.teachers[0].text) if own else ()
    values = {"train": config.training.resolve(config.student.train)}
    needs = (*_student_needs(config), *texts, "models/student")
    yield Part(("models/refit",), needs, (*STUDENT, "distillation", *own), values)


def _student_needs(config: RunConfig) -> tuple[str, ...]:
    """What every training of the student reads."""
    student, joint = config.student, config.distillation.mode == "joint"
    needs = (*FEATURES, *vectors_of(student.text), *(item_codes(student.model) if student.model.codes else ()))
    needs += model_features(student, *(config.teachers if joint else ()))
    return needs if joint else (*needs, "teacher_targets", *teacher_models(config))


def evaluation_parts(config: RunConfig) -> Iterator[Part]:
    """The metrics. With rules for lists, the published lists are judged too."""
    needs = (
        *FEATURES,
        *judged_models(config),
        *(["teacher_targets"] if is_offline(config) else []),
        *policy_features(config),
    )
    settings = ("evaluation", "features.split", "objective", "seed", "training.max_length")
    ruled = ("recommend.k", "recommend.policy", "features.time_zone") if config.recommend.policy else ()
    yield Part(("metrics",), needs, (*settings, *ruled))


def has_lists(config: RunConfig) -> bool:
    """Whether the run publishes more lists than the recommendations."""
    return config.input.has_events and bool(lists_of(config))


def list_parts(config: RunConfig) -> Iterator[Part]:
    """A part for each further list."""
    rules = tuple(name for name in policy_features(config) if name == "item_features")
    learnt_from = "histories" if config.student.refit else "item_statistics"
    needs = {
        "similar_items": ("item_vocabulary", learnt_from, served_student(config), *rules),
        "popular_items": ("histories", "item_vocabulary", *dict.fromkeys((*rules, *group_features(config)))),
    }
    settings = {
        "similar_items": ("student.text", "student.features"),
        "bought_together": ("input.events.session",),
        "popular_items": ("recommend.lists.popular_half_life_days",),
    }
    for name in config.recommend.lists.names:
        own = ("recommend.policy", f"recommend.lists.{name}", "features.time_zone", *settings.get(name, ()))
        yield Part((name,), needs.get(name, ("histories", "item_vocabulary", *rules)), own)
    if config.recommend.long_form:
        yield Part(("recommendations_long",), ("recommendations",))


def has_export(config: RunConfig) -> bool:
    """Whether the run writes the student for other systems."""
    return config.input.has_events and config.export is not None


def export_parts(config: RunConfig) -> Iterator[Part]:
    """The student for other systems, with its model card."""
    from kdlib.config.operations import EXPORT

    needs = (*FEATURES, served_student(config), "recommendations", "metrics", "gates", *policy_features(config))
    settings = ("name", "export", "recommend.k", "recommend.policy", "features", "-features.queries")
    settings += ("input.events.session", "privacy.min_item_users", "evaluation.k")
    settings += ("teachers", "distillation", "student", "training.defaults")
    yield Part((EXPORT,), needs, settings)


def served(config: RunConfig) -> Iterator[str]:
    """All that goes into use together."""
    if config.input.has_events:
        yield from ("recommendations", *lists_of(config), *FEATURES, "metrics", *models_of(config))
        if config.export:
            from kdlib.config.operations import EXPORT

            yield EXPORT
    if config.search:
        yield from ("products", "search_index", SEARCH_STUDENT, "search_rankings")


def search_teacher(config: RunConfig) -> tuple[str, ...]:
    """The adapted search encoder; nothing where the encoder teaches as pretrained."""
    return (SEARCH_ENCODER,) if adapts_search(config) else ()
