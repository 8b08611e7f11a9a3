"""Config of the models: teachers, student, distillation, training."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from kdlib.config.base import OPERATIONAL, Fraction, Name, Positive, Section, Seed
from kdlib.config.data import EVENT_TYPES
from kdlib.config.text import TextConfig


class CodesConfig(Section):
    """Item vectors made from a few bytes an item and small tables of codewords, learnt from the teachers' item vectors.

    An item then takes `count` bytes instead of `4 · dim`. An item without training interactions gets its codes from its title.
    """

    kind: Literal["residual", "product"] = "residual"
    """`residual`: codewords of width `dim` are added up, which is closer to the teachers' vectors.

    `product`: codewords of width `dim / count` stand side by side, and the tables are `count` times smaller."""
    count: Positive = 8
    """Codes of an item. A code is one byte."""
    size: Annotated[int, Field(ge=2, le=256)] = 256
    """Codewords of a table. A code of one byte can name 256."""


class ModelConfig(Section):
    """A sequence model. Students and teachers are the same classes in other sizes."""

    kind: Literal["lstm", "gru", "transformer"] = "transformer"
    """Kind of the layers."""
    dim: Positive = 64
    """Width of the item embeddings."""
    hidden: Positive | None = None
    """Units of the recurrent layers, or width of the Transformer. Default: `dim`."""
    layers: Positive = 1
    """Number of recurrent layers or Transformer blocks."""
    heads: Positive = 1
    """Attention heads of a Transformer. The width must be a multiple of them."""
    dropout: Fraction = 0.2
    """Share of the values that a training step sets to 0, in embeddings and inside the layers."""
    item_dropout: Fraction = 0.0
    """Models with `text` or `features` only: share of the items whose own embedding a training step leaves out. The model learns
    to use titles and features, which are all it has of items without training interactions."""
    tied: bool = True
    """true: the input embeddings also score the items. false: an output matrix and bias of their own score them."""
    session_flag: bool = False
    """Tell the model at each position whether the item to predict opens a new session."""
    inputs: tuple[Literal["event_type", "time_gap"], ...] = ()
    """What the model reads with each item: the type of its event, the time since the interaction before (in powers of two)."""
    block: Literal["prenorm", "bsarec"] = "prenorm"
    """Blocks of a Transformer. `prenorm`: normalised before attention and feed-forward, as in GPT-2. `bsarec`: with a low-pass
    filter of the history beside the attention."""
    codes: CodesConfig | None = None
    """Students only: make item vectors from codes instead of an item table."""

    @model_validator(mode="after")
    def _fits(self) -> "ModelConfig":
        width = self.hidden or self.dim
        if self.kind == "transformer" and width % self.heads:
            raise ValueError(f"width {width} is not a multiple of heads {self.heads}")
        if self.kind != "transformer" and self.block != "prenorm":
            raise ValueError(f"block {self.block} needs kind transformer, found {self.kind}")
        if len(set(self.inputs)) < len(self.inputs):
            raise ValueError(f"inputs must be distinct, found {', '.join(self.inputs)}")
        if self.codes and not self.tied:
            raise ValueError("codes need tied: true, because a separate output matrix is another item table")
        if self.codes and self.codes.kind == "product" and self.dim % self.codes.count:
            raise ValueError(
                f"dim {self.dim} is not a multiple of codes.count {self.codes.count}: product codes need that"
            )
        return self


class TrainConfig(Section):
    """How one model is trained. A model's own `train` overrides `training.defaults` key by key."""

    epochs: Positive = 10
    """Most passes over the training windows."""
    patience: Positive = 3
    """Stop after this many epochs without a better validation NDCG@10. The weights of the best epoch are kept."""
    batch_size: Positive = 128
    """Training windows of a step, over all workers together."""
    least_steps: Positive = 1
    """Fewest steps of an epoch. If the windows are too few for that, a step has fewer than `batch_size`."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Learning rate of AdamW in the first epoch, after the warm-up."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Weight decay of AdamW."""
    final_learning_rate_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Learning rate of the last of `epochs`, as a share of the first epoch's. It falls linearly from epoch to epoch."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps in which the learning rate rises linearly at the start."""
    gradient_clipping: Annotated[float, Field(ge=0)] = 1.0
    """Largest norm of the gradient. 0 turns clipping off."""
    loss: Literal["cross_entropy", "sampled_softmax"] = "cross_entropy"
    """The loss on the data. `cross_entropy`: over all items. `sampled_softmax`: its estimate from sampled negatives, faster for
    large catalogues."""
    negatives: Positive = 256
    """`sampled_softmax`: negatives of a step. All its positions share them."""
    negative_sampling: Literal["uniform", "popularity"] = "uniform"
    """`sampled_softmax`: sample items evenly, or in proportion to their training interactions."""
    session_opener_weight: Annotated[float, Field(gt=0)] = 1.0
    """Weight of the items that open a session, beside the others. Lists are made before a session begins."""


class RulesConfig(Section):
    """A teacher that counts which items are near which (`kdlib.models.rules`). It needs one pass over the data, no training."""

    max_distance: Annotated[int, Field(gt=0, le=50)] = 10
    """Largest distance of two items that count as a pair, in positions of a history."""
    distance_decay: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Factor on the count of a pair for each further position between its items."""
    backward_weight: Annotated[float, Field(ge=0, le=1)] = 0.3
    """Factor on the count of a pair for the rule against the order of the history. 0 counts in one direction only."""
    history_decay: Annotated[float, Field(ge=0, le=1)] = 0.4
    """Factor on the rules of an item for each position that it is before the last item of a history."""
    prior_weight: Annotated[float, Field(gt=0)] = 1.0
    """Number of pseudo-counts that are spread over all items by popularity. More of them give rare items less weight against
    popular ones."""


class TeacherConfig(Section):
    """A large model that the student learns from."""

    name: Name
    """Name of the teacher, also of its published model."""
    rules: RulesConfig | None = None
    """Count rules instead of training a model; needs `distillation.targets: sampled`. `model`, `text`, `features`,
    `user_features`, `train`, `seed` and `folds` do not apply: at a training position, rules leave out the counts of the
    position's own window."""
    function: str | None = None
    """Ask a callable of your own instead of training a model: `my_shop.scores:score`, a module and a name in it
    (`kdlib.models.function` says what it gets and returns). The module must be installed, or importable from the folder where
    distilrec is started. Needs `distillation.targets: sampled`. `model`, `text`, `features`, `user_features`, `train`,
    `seed` and `folds` do not apply. An edit of the module's source makes its stages stale; a change of other files that it reads
    does not."""
    model: ModelConfig = ModelConfig(dim=128, layers=2, heads=2)
    """Kind and size of the model."""
    text: TextConfig | None = None
    """Read product titles: the projected title vector is added to the item embedding."""
    features: tuple[str, ...] = ()
    """Read these features of the items, of `input.catalogue.features`: what the model learns about their values is added to the
    item embedding."""
    user_features: tuple[str, ...] = ()
    """Read these features of the users, of `input.users.features` and of the kinds category and number: what the model learns
    about their values is added at each position."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Share of this teacher in the weighted mean of the teachers' scores. The shares are scaled to sum to 1."""
    train: dict[str, Any] = Field(default_factory=dict)
    """Keys of `training.defaults` that differ for this teacher."""
    seed: Seed | None = None
    """Seed of this teacher's training. Default: the run's `seed`."""
    folds: Annotated[int, Field(ge=1, le=20)] = 1
    """Cross-fitting from 2 on; needs `distillation.targets: sampled`. One model for each fold of the users is trained without
    that fold and makes the targets of its users. Targets then cannot repeat what a model memorised. (An encoder with
    `text.adapt` still learns from all users.)"""

    @model_validator(mode="after")
    def _function_is_a_path(self) -> "TeacherConfig":
        if self.function is None:
            return self
        module, colon, name = self.function.partition(":")
        if not (colon and name.isidentifier() and all(part.isidentifier() for part in module.split("."))):
            raise ValueError(
                f"function names a module and a callable in it, my_shop.scores:score, found {self.function!r}"
            )
        if self.rules:
            raise ValueError("a teacher has rules or a function. Remove one of them, or add a second teacher")
        return self

    @model_validator(mode="after")
    def _only_models_learn(self) -> "TeacherConfig":
        learnt = ("model", "text", "features", "user_features", "train", "seed", "folds")
        defaults = {name: TeacherConfig.model_fields[name].get_default(call_default_factory=True) for name in learnt}
        set_too = [name for name in learnt if getattr(self, name) != defaults[name]]
        if not self.is_trained and set_too:
            why = "rules are counted, not trained" if self.rules else "a function is asked, not trained"
            raise ValueError(f"{why}. Remove {', '.join(set_too)}")
        return self

    @property
    def is_trained(self) -> bool:
        """Whether distilrec trains the teacher. A trained teacher has hidden states and an item table."""
        return self.rules is None and self.function is None

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the published models: one, or one for each fold."""
        if self.folds == 1:
            return (f"models/{self.name}",)
        return tuple(f"models/{self.name}_fold{fold}" for fold in range(self.folds))


class ControlConfig(Section):
    """The control is the student without teachers. These settings of it differ from the student's: for a fair comparison, each
    of the two is tuned for itself."""

    dropout: Fraction | None = None
    """Dropout of the control. Default: the student's."""
    train: dict[str, Any] = Field(default_factory=dict)
    """Keys of the student's `train` that differ for the control."""


class StudentConfig(Section):
    """The small model that serves."""

    model: ModelConfig = ModelConfig()
    """Kind and size of the model."""
    text: TextConfig | None = None
    """Read product titles during training. The export folds the titles into the item table: the published student needs no
    text encoder and is no larger."""
    features: tuple[str, ...] = ()
    """Read these features of the items during training, as a teacher does. The export folds them in, too."""
    user_features: tuple[str, ...] = ()
    """Read these features of the users, as a teacher does. The published student reads them, too."""
    train: dict[str, Any] = Field(default_factory=dict)
    """Keys of `training.defaults` that differ for the student."""
    size: Literal["given", "small", "base", "large", "auto"] = "given"
    """`small`, `base`, `large`: width 32, 64 or 128, in the default recipe (a run config without `teachers`, `distillation` and
    `student.model`; it takes `base`). `given`: as `model` says.

    `auto`: train students of rising width, from 8 to `model.dim` by doubling, until one keeps `size_share` of the teachers'
    validation NDCG@10. The widest is published if none does. The control then has the published student's width. A narrower
    student's learning rate is larger, in inverse proportion to the width."""
    size_share: Annotated[float, Field(gt=0, le=1)] = 0.9
    """`size: auto`: share of the teachers' validation NDCG@10 that is enough."""
    export: Literal["float32", "int8"] = "float32"
    """How the matrices of the published student are stored. `int8`, with one scale a row, takes a quarter of the bytes."""
    refit: bool = False
    """Train the student once more before it is published, on all days: the held-out ones too. Epochs are chosen and the run
    is judged without these days, as always. The second training takes as many epochs, at the same learning rates. Set it where
    the held-out days are many, or what users want changes within them."""
    control: ControlConfig = ControlConfig()
    """Settings of the student without teachers, which `evaluation.control` trains for comparison."""

    def without_teachers(self) -> "StudentConfig":
        """The student as `evaluation.control` trains it."""
        own, model = self.control, self.model
        if own.dropout is not None:
            model = model.model_copy(update={"dropout": own.dropout})
        return self.model_copy(update={"model": model, "train": {**self.train, **own.train}})


class DistillationConfig(Section):
    """How the student learns from its teachers: `L = CE + λ·T²·KL(teacher_T ‖ student_T)`."""

    mode: Literal["offline", "joint"] = "offline"
    """`offline`: teachers are trained first and their outputs are cached. `joint`: one teacher and the student are trained
    together."""
    kl_weight: Annotated[float, Field(ge=0)] = 1.0
    """λ, the weight of the KL."""
    temperature: Annotated[float, Field(gt=0)] = 2.0
    """T, which divides the logits of teachers and student. A higher temperature shows more of what a teacher says about less
    likely items."""
    weights: Literal["given", "validation_ndcg"] = "given"
    """Shares of several teachers. `given`: each teacher's `weight`. `validation_ndcg`: the shares with which the teachers together
    rank the validation items best by NDCG@10 (`offline` only)."""
    hidden_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of `1 − cos` between the student's projected hidden state and each teacher's. The projection is not exported."""
    item_start: Literal["random", "teachers"] = "random"
    """Start of the student's item table. `teachers`: the leading principal components of the teachers' item tables (`offline`
    only). A small student that reads no titles learns far more with it."""
    targets: Literal["hidden", "sampled"] = "hidden"
    """What is cached at a training position.

    `hidden`: each teacher's hidden state, from which training computes the teacher's whole distribution. With the student's
    `train.loss: sampled_softmax` it computes the part over the negatives of a step, and no step scores all items (mode
    offline): use both for catalogues of 100,000 items and more.

    `sampled`: items sampled from what all teachers predict together at `temperature`. They take `4 · samples + 4` bytes. A
    training step takes no longer than without teachers, however many teachers there are. To sample, `cache-teacher` scores all items
    at every position, which takes hours from 10⁵ items and 10⁷ positions on."""
    samples: Annotated[int, Field(ge=1, le=4096)] = 64
    """`sampled`: items sampled at a position. A flatter prediction needs more, and a higher `temperature` flattens it. With 64
    the gradient is near the exact one at a perplexity of some hundred items. At some thousand it is mostly noise."""

    @property
    def cached_form(self) -> dict[str, Any]:
        """What cached targets must have been made with to fit these settings."""
        sampled = {"samples": self.samples, "temperature": self.temperature} if self.targets == "sampled" else {}
        return {"targets": self.targets, **sampled}

    @model_validator(mode="after")
    def _sampled_targets_have_no_states(self) -> "DistillationConfig":
        if self.targets == "sampled" and (self.mode == "joint" or self.hidden_weight):
            raise ValueError(
                "targets sampled needs mode offline and hidden_weight 0:"
                " joint training and the match of hidden states need the teachers' hidden states"
            )
        return self


class WarmStartConfig(Section):
    """Training starts from the models of the last promoted run, with added rows for new items, instead of random weights."""

    epochs: Positive = 2
    """Most epochs of a warm-started model. A model's own `train.epochs` still applies where it is smaller."""
    learning_rate_fraction: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Learning rate as a share of the model's own. A rate far above that at the end of the earlier training makes the model
    worse than it was."""
    fresh_every: Annotated[int, Field(ge=2)] = 7
    """Every this many nightly runs a model is trained from random weights, so that no bad run has an effect for ever. If gates
    keep it back, the next one comes as many runs later."""


class ObjectiveConfig(Section):
    """What an event is worth as the next one: the weights of the targets by their event type.

    They count in the losses of student, control and trained teachers, in all validation metrics, and in the gates. Only
    the ratios matter. Rules and functions
    that teach do not depend on them."""

    view: Annotated[float, Field(ge=0)] = 1.0
    """Weight of a view."""
    favourite: Annotated[float, Field(ge=0)] = 1.0
    """Weight of a favourite."""
    cart: Annotated[float, Field(ge=0)] = 1.0
    """Weight of a cart."""
    purchase: Annotated[float, Field(ge=0)] = 1.0
    """Weight of a purchase."""

    @model_validator(mode="after")
    def _wants_something(self) -> "ObjectiveConfig":
        if not any(getattr(self, name) for name in EVENT_TYPES):
            raise ValueError(f"all event types weigh 0. Give one of {', '.join(EVENT_TYPES)} a weight above 0")
        return self

    @property
    def event_weights(self) -> tuple[float, ...] | None:
        """The weights in the order of EVENT_TYPES; None where all are equal."""
        weights = tuple(getattr(self, name) for name in EVENT_TYPES)
        return None if len(set(weights)) == 1 else weights


class TrainingConfig(Section):
    """Where and how the training jobs run on Ray."""

    workers: Positive = 2
    """Number of training processes. Every batch size must be a multiple of it."""
    cpus_per_worker: Annotated[float, Field(gt=0), OPERATIONAL] = 0.5
    """CPUs that Ray reserves for a worker. The default leaves one of two cores to Ray Data, which reads the training files."""
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0
    """GPUs that Ray reserves for a worker."""
    threads_per_worker: Positive = 1
    """Threads of a worker's computations on the CPU."""
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 0
    """DeepSpeed ZeRO, for models that are too large for one worker. The workers divide among them: 1 the state of the
    optimizer, 2 also the gradients, 3 also the weights. From 1 on, each step exchanges weights as well as gradients."""
    max_length: Annotated[int, Field(ge=2)] = 50
    """Most interactions of a history that a model reads."""
    resident_megabytes: Annotated[int, Field(ge=0), OPERATIONAL] = 2048
    """Largest share of the training data that a worker keeps in memory. A larger share is read again in each epoch."""
    max_failures: Annotated[int, Field(ge=0), OPERATIONAL] = 2
    """How often Ray restarts the workers from the last checkpoint after a failure."""
    bf16: bool = False
    """Score items in bfloat16, on a GPU also run the layers in it. Weights stay float32. A CPU that is not faster with
    bfloat16 ignores this setting."""
    max_validation_users: Positive = 10_000
    """Most users on which an epoch is judged."""
    warm_start: WarmStartConfig | None = None
    """Start from the models of the last promoted run. Default: every run trains from random weights."""
    defaults: TrainConfig = TrainConfig()
    """How models are trained, where a model's own `train` says nothing else."""

    def resolve(self, overrides: dict[str, Any]) -> TrainConfig:
        """The defaults, overridden by a model's own settings."""
        return TrainConfig(**{**self.defaults.model_dump(), **overrides})
