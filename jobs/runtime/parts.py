"""Parts of the stages that make several things: which tables and models, from what, with which settings."""

from collections.abc import Iterator

from jobs.runtime.names import FEATURES, adapted_encoder, item_codes, teacher_models, texts_of, title_vectors
from jobs.runtime.stage import Part
from kdlib.config.models import TextConfig
from kdlib.config.run import RunConfig

TRAINING = ("seed", "training", "-training.defaults")
"""Settings of every training. `training.defaults` counts by the values that each part resolves from it."""


def simulated(config: RunConfig) -> Iterator[Part]:
    """The simulated shop's events and catalogue, and its search log if there is one."""
    simulate = config.input.simulate
    assert simulate is not None
    first_day = {"first_day": simulate.period(config.last_day)[0]}
    without = ("-input.simulate.search_fraction", "-input.simulate.first_day")
    yield Part(("events", "catalogue"), settings=("input.simulate", *without), values=first_day)
    if simulate.search_fraction:
        yield Part(("searches",), settings=("input.simulate", without[1]), values=first_day)


def encoders(config: RunConfig) -> Iterator[Part]:
    """One text encoder for each different text setting with `adapt`, which is the subject."""
    for text in {adapted_encoder(text): text for text in texts_of(config) if text.adapt}.values():
        own = {"text": {"max_tokens": text.max_tokens, "adapt": text.adapt}}
        yield Part((adapted_encoder(text),), FEATURES, TRAINING, own, subject=text)


def titles(config: RunConfig) -> Iterator[Part]:
    """One table of title vectors for each text setting, which is the subject."""
    for text in texts_of(config):
        needs = ("item_vocabulary", *([adapted_encoder(text)] if text.adapt else []))
        yield Part((title_vectors(text),), needs, values={"text": text}, subject=text)


def _vectors(*texts: TextConfig | None) -> tuple[str, ...]:
    return tuple(title_vectors(text) for text in texts if text)


def teachers(config: RunConfig) -> Iterator[Part]:
    """The teachers' models, one for each teacher or fold. The subject is (teacher, fold)."""
    for teacher in config.teachers:
        own = f"teachers.{teacher.name}"
        if teacher.rules:
            settings = (f"{own}.rules", "training.max_length", "training.max_validation_users")
            yield Part(teacher.models, FEATURES, settings, subject=(teacher, 0))
            continue
        settings = (*TRAINING, "-seed", own, f"-{own}.weight", f"-{own}.train", f"-{own}.seed", "features.split")
        values = {
            "train": config.training.resolve(teacher.train),
            "seed": config.seed if teacher.seed is None else teacher.seed,
        }
        for fold, model in enumerate(teacher.models):
            yield Part((model,), (*FEATURES, *_vectors(teacher.text)), settings, values, subject=(teacher, fold))


def codes(config: RunConfig) -> Iterator[Part]:
    """The item codes and the codebooks of the student."""
    text = next((teacher.text for teacher in config.teachers if teacher.text), None)
    settings = ("student.model.codes", "student.model.dim", "seed", "teachers.*.weight")
    yield Part(item_codes(config.student.model), (*FEATURES, *teacher_models(config), *_vectors(text)), settings)


def students(config: RunConfig) -> Iterator[Part]:
    """The student (in joint mode with its teacher), and the control: the same student without teachers.

    The subject is `student` or `control`.
    """
    student, joint = config.student, config.distillation.mode == "joint"
    needs = (*FEATURES, *_vectors(student.text), *(item_codes(student.model) if student.model.codes else ()))
    needs += () if joint else ("teacher_targets", *teacher_models(config))
    settings = (*TRAINING, "features.split", "student", "-student.train", "-student.control")
    taught = {"train": config.training.resolve(student.train)}
    if joint:
        teacher = config.teachers[0]
        own = (*settings, "distillation", f"teachers.{teacher.name}")
        makes = ("models/student", *teacher.models)
        yield Part(makes, (*needs, *_vectors(teacher.text)), own, taught, subject="student")
    else:
        yield Part(("models/student",), needs, (*settings, "distillation"), taught, subject="student")
    if config.evaluation.control:
        alone = student.without_teachers()
        values = {"train": config.training.resolve(alone.train), "dropout": alone.model.dropout}
        yield Part(("models/control",), needs, (*settings, "-student.model.dropout"), values, subject="control")
