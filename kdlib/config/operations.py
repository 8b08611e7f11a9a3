"""Config of everything after training, and of the engines."""

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from kdlib.config.base import Fraction, Positive, Section
from kdlib.config.models import TextConfig


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
