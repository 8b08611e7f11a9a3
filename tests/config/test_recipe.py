"""The default recipe: when it applies, what it says, how it follows the data, the dial and the budget."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from kdlib.config.costs import Scale, cost_of
from kdlib.config.load import load_config
from kdlib.config.recipe import EFFORTS, applies, effort_for, efforts_at, recipe_cost, with_recipe
from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError

BEAUTY, GAMES = Scale(22_363, 12_101, 198_502), Scale(50_546, 16_859, 440_264)
RUNS = Path(__file__).parents[2] / "cluster" / "runs"
SHOP: dict[str, Any] = {
    "name": "shop",
    "output_dir": "out",
    "input": {"events": {"path": "e.txt", "format": "sequences"}, "catalogue": {"path": "c.csv", "format": "csv"}},
}


def recipe_of(document: dict[str, Any], scale: Scale | None = None) -> RunConfig:
    return RunConfig.model_validate(with_recipe(SHOP | document, scale))


def test_the_recipe_is_the_measured_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """On two cores and data of Beauty's size, the recipe has the models and the training of `beauty.yaml`."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setenv("DISTILREC_DATA", "/data")
    measured, ours = load_config(RUNS / "beauty.yaml"), recipe_of({}, BEAUTY)
    for section in ("teachers", "student", "distillation", "training", "evaluation"):
        assert getattr(ours, section) == getattr(measured, section), section


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({}, True),
        ({"teachers": None, "student": {"size": "small"}, "training": {"workers": 4}}, True),
        ({"teachers": [{"name": "a"}]}, False),
        ({"student": {"model": {"dim": 8}}}, False),
        ({"distillation": {"kl_weight": 2}}, False),
        ({"input": {"catalogue": {"path": "c", "format": "csv"}}}, False),
        ({"input": ["events"]}, False),
    ],
)
def test_the_recipe_applies_where_no_model_is_described(document: dict[str, Any], expected: bool) -> None:
    """Teachers, distillation or a student's model switch the recipe off; a size or training keys do not."""
    assert applies(SHOP | document) is expected


def test_given_keys_win() -> None:
    """Keys of `student`, `training` and `evaluation` that the run config gives replace the recipe's, one by one."""
    document = {
        "training": {"workers": 4, "defaults": {"epochs": 3}},
        "student": {"export": "int8"},
        "evaluation": {"control": False},
    }
    config = recipe_of(document)
    assert (config.training.workers, config.training.bf16) == (4, True)
    assert (config.training.defaults.epochs, config.training.defaults.batch_size) == (3, 256)
    assert (config.student.export, config.student.model.dim) == ("int8", 64)
    assert not config.evaluation.control
    assert recipe_of({"training": {"workers": 3}}).training.defaults.batch_size == 258, "a multiple of the workers"


def test_teacher_and_student_read_the_features_that_are_named() -> None:
    """All features of the catalogue, unless the run config says which ones the student reads."""
    listed = {"path": "c.csv", "format": "csv", "features": {"brand": "category", "price": "number"}}
    document = {"input": SHOP["input"] | {"catalogue": listed}}
    config = recipe_of(document)
    assert [one.features for one in (*config.teachers, config.student)] == [(), ("brand", "price"), ("brand", "price")]
    assert recipe_of(document | {"student": {"features": []}}).student.features == ()


@pytest.mark.parametrize(
    ("size", "dim", "rate"), [("small", 32, 0.006), ("base", 64, 0.003), ("large", 128, 0.0015), ("auto", 64, 0.003)]
)
def test_the_dial_sets_width_and_learning_rate(size: str, dim: int, rate: float) -> None:
    """A wider student learns at a smaller rate, in inverse proportion, and `auto` stays a search for the width."""
    config = recipe_of({"student": {"size": size}})
    assert (config.student.model.dim, config.training.defaults.learning_rate) == (dim, rate)
    assert config.student.size == ("auto" if size == "auto" else "given")


def test_only_a_catalogue_with_titles_is_read() -> None:
    """The teacher reads titles only if the catalogue has titles."""
    events = SHOP["input"]["events"]
    for catalogue, reads in (
        ({"catalogue": {"path": "c", "format": "csv"}}, True),
        ({"catalogue": {"path": "c", "format": "csv", "title": None}}, False),
        ({}, False),
    ):
        config = recipe_of({"input": {"events": events} | catalogue})
        assert (config.teachers[1].text is not None) is reads


def test_a_large_catalogue_is_sampled() -> None:
    """Beyond 100,000 items neither training nor the targets score all items, and beyond 500,000 the teacher is narrower."""
    large, huge = (recipe_of({}, Scale(10**6, items, 10**7)) for items in (200_000, 10**6))
    assert (large.training.defaults.loss, large.training.defaults.negatives) == ("sampled_softmax", 2048)
    assert [(one.name, one.model.dim) for one in (*large.teachers, *huge.teachers)] == [
        ("filter", 256),
        ("filter", 128),
    ]
    assert large.distillation.targets == "hidden", "sampled targets would cost hours"
    tight = recipe_of({"budget_minutes": 0.1}, Scale(10**6, 200_000, 10**7))
    assert [teacher.model.dim for teacher in tight.teachers] == [64]


def test_a_smaller_budget_never_gets_a_larger_effort() -> None:
    """Each effort costs less than the one before, and a budget gets the first effort that fits, or else the last."""
    for scale in (BEAUTY, GAMES, Scale(5_000, 3_000, 400_000), Scale(10**6, 10**6, 10**7)):
        efforts = efforts_at(scale)
        seconds = [recipe_cost(effort, SHOP, scale).seconds for effort in efforts]
        assert seconds == sorted(seconds, reverse=True)
        for effort, cost in zip(efforts, seconds, strict=True):
            assert effort_for(SHOP | {"budget_minutes": cost / 60 + 0.01}, scale) == effort
        assert effort_for(SHOP | {"budget_minutes": 0.1}, scale) == efforts[-1]
    assert effort_for(SHOP | {"budget_minutes": 0.1}, None) == EFFORTS[0], "no data yet"


def test_a_tight_budget_trains_no_control() -> None:
    """If the budget is too small for the full effort, no control is trained."""
    seconds = recipe_cost(EFFORTS[0], SHOP, BEAUTY).seconds
    config = recipe_of({"budget_minutes": seconds / 60 - 1}, BEAUTY)
    assert not config.evaluation.control
    assert config.teachers[1].model.dim == 256


def test_the_smallest_budgets_leave_the_rules_as_the_only_teacher() -> None:
    """Without time for a teacher, none is trained, no title is read, and the student's item table starts at random."""
    config = recipe_of({"budget_minutes": 0.1}, BEAUTY)
    assert [teacher.name for teacher in config.teachers] == ["rules"]
    assert config.distillation.item_start == "random"
    assert recipe_cost(EFFORTS[-1], SHOP, BEAUTY).titles == 0


def test_a_wider_student_costs_more() -> None:
    """The estimate knows the dial."""
    base, large = (recipe_cost(EFFORTS[0], SHOP | {"student": {"size": s}}, BEAUTY) for s in ("base", "large"))
    assert large.students > 1.5 * base.students


def test_costs_are_near_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The estimates for Beauty and Games on two cores are near the measured seconds."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    for scale, teacher, students in ((BEAUTY, 225, 204), (GAMES, 515, 529)):
        cost = recipe_cost(EFFORTS[0], SHOP, scale)
        assert cost.teachers == pytest.approx(teacher, rel=0.25)
        assert cost.students == pytest.approx(students, rel=0.25)
    same = {"scored_items": 100, "batch_size": 256, "sampled_targets": True, "titles": False, "test_users": 1}
    one, two = (cost_of(BEAUTY, [], [(64, 1)], **same, cores=cores) for cores in (8, 2))
    assert one.students == pytest.approx(two.students / 4)


def test_costs_of_a_large_catalogue_are_near_what_was_measured() -> None:
    """The estimates for a night of a million users are within a factor of two of the measured seconds."""
    shop, config = Scale(970_484, 250_128, 24_105_321), load_config(RUNS / "million.yaml")
    sizes = {"scored_items": 2048, "batch_size": config.training.defaults.batch_size, "sampled_targets": False}
    cost = cost_of(shop, [(128, 1)], [(64, 1)] * 2, **sizes, titles=False, test_users=2000, cores=2)
    for part, measured in ((cost.teachers, 1064), (cost.targets, 158), (cost.lists, 730)):
        assert measured / 2 < part < 2 * measured


def test_the_size_of_the_data_reaches_the_recipe(tmp_path: Path) -> None:
    """`load_config` asks for the size of the data and applies the recipe for this size."""
    asked = list[RunConfig]()

    def scale_of(config: RunConfig) -> Scale:
        asked.append(config)
        return Scale(10**6, 10**6, 10**7)

    (tmp_path / "run.yaml").write_text(yaml.safe_dump(SHOP | {"ds": "2026-11-22"}))
    config = load_config(tmp_path / "run.yaml", scale_of=scale_of)
    assert asked[0].teachers[1].model.dim == 256
    assert config.teachers[0].model.dim == 128


def test_a_size_of_the_recipe_needs_the_recipe(tmp_path: Path) -> None:
    """`student.size: small` beside a student's model is an error, because it would have no effect."""
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(SHOP | {"student": {"size": "small", "model": {"dim": 8}}}))
    with pytest.raises(ConfigError, match=r"student.size small is a size of the default recipe: leave teachers"):
        load_config(tmp_path / "run.yaml")


def test_wrong_sections_are_still_named(tmp_path: Path) -> None:
    """A section of the wrong type is an error that names the section."""
    for section, value in (("student", ["small"]), ("training", 3), ("student", {"size": ["small"]})):
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(SHOP | {section: value}))
        with pytest.raises(ConfigError, match=rf"run.yaml is wrong: {section}"):
            load_config(tmp_path / "run.yaml")
