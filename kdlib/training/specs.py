"""What a training job hands to its workers: frozen dataclasses that pickle, and import neither torch nor Ray."""

from dataclasses import dataclass, field
from typing import Any, Literal

from kdlib.config.models import ModelConfig, TrainConfig
from kdlib.config.operations import SearchConfig
from kdlib.config.text import AdaptConfig

ENCODER_FILE = "encoder.json"
"""The metadata file of an adapted text encoder."""


@dataclass(frozen=True)
class TrainingRun:
    """One sequence model to train: a student, a teacher, or both together in one engine."""

    name: str
    export: str
    """Folder for the finished model."""
    model: ModelConfig
    train: TrainConfig
    seed: int
    statistics: str
    """Folder of the item statistics: which items occur in training, and how often."""
    title_vectors: str | None = None
    """Folder of the title vectors that the model adds to its item embeddings."""
    item_features: str | None = None
    """Folder of the item features; None where no model of this run reads any."""
    features: tuple[str, ...] = ()
    """The features that the model reads."""
    user_columns: dict[str, int] = field(default_factory=dict)
    """The features of the users that the model reads, see `SequenceModel`."""
    teacher: ModelConfig | None = None
    """Joint mode: the teacher that is trained in the same engine."""
    teacher_export: str | None = None
    """Joint mode: folder for the finished teacher."""
    teacher_title_vectors: str | None = None
    teacher_features: tuple[str, ...] = ()
    teacher_user_columns: dict[str, int] = field(default_factory=dict)
    start: str | None = None
    """Folder of an earlier model whose weights this one starts from."""
    warm_nights: int = 0
    """Number of warm starts in a row since the last training from scratch."""
    cached: list[tuple[str, float]] = field(default_factory=list)
    """Offline mode: (model folder, weight) of each teacher whose targets are in the training data."""
    item_start: Literal["random", "teachers"] = "random"
    """Initial item table, see `DistillationConfig.item_start`."""
    targets: Literal["hidden", "sampled"] = "hidden"
    """Form of the cached targets, see `DistillationConfig.targets`."""
    kl_weight: float = 0.0
    temperature: float = 1.0
    codes: tuple[str, str] | None = None
    """Folders of the item codes and of the codebooks that a student with codes starts from."""
    stored_as: Literal["float32", "int8"] = "float32"
    """How the finished student's matrices are stored."""
    stand_in: Literal["", "permuted", "uniform", "popularity"] = ""
    """What replaces the cached teachers' predictions (`kdlib.training.stand_ins`); empty keeps them."""
    hidden_weight: float = 0.0
    """Weight of the match between the student's and the teachers' hidden states."""
    event_weights: tuple[float, ...] | None = None
    """The weight of a target of each of EVENT_TYPES, in training and validation. None: all are equal."""
    seconds: float | None = None
    """Most seconds of the training; None: no bound."""
    learning_rates: tuple[float, ...] = ()
    """The learning rate of each epoch, those of an earlier training. Empty: as `train` says."""


@dataclass(frozen=True)
class StudentsSpec:
    """Several `TrainingRun`s, trained one after the other by the same workers on the same data."""

    runs: tuple[TrainingRun, ...]
    states_a_position: int
    """How many teacher states each training position has; 0 for data without targets."""
    histories: list[str]
    """Parquet files of `tables.HISTORIES`, for validation."""
    num_items: int
    """Size of the item vocabulary."""
    metadata: dict[str, Any]
    """Entries of every `model.json`."""
    without_fold: tuple[int, int] | None = None
    """(fold, folds): the training data lacks the users of this fold."""
    whole: bool = False
    """The training data has the held-out positions too. Nothing validates, and the last epoch's weights are kept."""


@dataclass(frozen=True)
class EncoderSpec:
    """A text encoder to adapt to the shop's titles."""

    name: str
    base: str
    """The pretrained encoder, see `kdlib.encoders.hugging_face.encoder_folder`."""
    adapt: AdaptConfig
    max_tokens: int
    seed: int
    export: str
    """Folder for the finished encoder."""
    metadata: dict[str, Any]
    """Entries of `encoder.json`."""
    texts: str
    """Folder of a table with `item_index` and `title`."""
    statistics: str | None = None
    """Folder of a table with `item_index` and `num_train`. None: all pairs count the same."""
    histories: list[str] = field(default_factory=list)
    """Parquet files of `tables.HISTORIES`; their validation positions are the validation pairs."""
    judging: str | None = None
    """Parquet file of validation pairs. If given, the histories are not read."""


@dataclass(frozen=True)
class SearchSpec:
    """A query encoder to train for product search."""

    name: str
    search: SearchConfig
    seed: int
    encoder: str
    """The teacher, as `kdlib.encoders.encoder.open_encoder` takes it."""
    tokenizer: str
    """Text of the student's `tokenizer.json`."""
    pieces: list[int]
    """The teacher's row of each sub-word of the student. Empty: the teacher has no sub-word embeddings to give."""
    words: list[str]
    """Words that the teacher knows."""
    products: list[str]
    """Parquet files of the teacher's product vectors."""
    held_out: list[str]
    """Parquet files of all queries with the teacher's vectors; the held-out part of them validates."""
    export: str
    """Folder for the finished student."""
    metadata: dict[str, Any]
    """Entries of the student's `model.json`."""
