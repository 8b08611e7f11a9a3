"""Train the search student: queries in, vectors near the teacher's out (Ray Data, Ray Train, DeepSpeed)."""

import shutil
from collections.abc import Mapping

import pyarrow.dataset as pads
import pyarrow.parquet as pq

from jobs.runtime.names import SEARCH_STUDENT
from jobs.runtime.product_search import check_width, product_search, read_products, search_teacher, typed_queries
from jobs.runtime.published import parquet_files
from jobs.runtime.ray_cluster import read_parquet
from jobs.runtime.ray_train import remove_checkpoints, run_workers
from jobs.runtime.stage import Details, Found, Input, Job, Part
from jobs.runtime.train_worker import train_worker
from kdlib.config.run import RunConfig
from kdlib.errors import TrainingError
from kdlib.search.index import product_texts
from kdlib.search.student import STUDENT_FILE
from kdlib.search.student_task import search_tasks
from kdlib.search.tokenizer import known_words, students_tokenizer, words_file
from kdlib.search.words import typed_words
from kdlib.store import partitions
from kdlib.training.specs import SearchSpec

LEARNT_WITH = {"student", "width", "vocabulary", "misspelt_fraction", "epochs", "batch_size", "learning_rate"}
"""Settings of `search` that the student's weights depend on."""


def find(config: RunConfig, part: Part, inputs: Mapping[str, Input]) -> Found:
    """The search teacher. The student starts from its sub-word vectors, if it has any and there are no foreign queries."""
    return search_teacher(config, inputs)


def build(job: Job) -> Details:
    """Train the student into the job's output folder. A killed run's checkpoints are resumed."""
    config, settings = job.config, product_search(job.config)
    products, typed = read_products(job.input("products")), typed_queries(job.inputs)
    targets, vectors = (parquet_files(job.input(name)) for name in ("search_targets", "product_vectors"))
    first = pads.dataset(vectors).head(1, columns=["vector"])["vector"].to_pylist()
    check_width(settings, len(first[0]) if first else None)
    chosen = settings.model_dump(mode="json", include=LEARNT_WITH)
    name = f"{config.name}.search_student.ds={config.day}.{job.fingerprint}"
    finished = config.root / partitions.CHECKPOINTS / f"{name}.models"
    finished.mkdir(parents=True, exist_ok=True)
    learnt = pq.read_table(targets, columns=["query", "foreign"])
    queries, foreign = learnt["query"].to_pylist(), learnt.filter(learnt["foreign"])["query"].to_pylist()
    texts = [*product_texts(products), *typed]
    # the teacher has no pieces for languages that it does not read
    tokenizer, pieces = students_tokenizer(job.found, texts, queries, size=settings.vocabulary, learnt=bool(foreign))
    spoken = (word for query in foreign for word in typed_words(query))
    teacher = job.inputs["product_vectors"].manifest.details["teacher"]
    inputs = {table: job.versions[table] for table in ("search_targets", "product_vectors")}
    spec = SearchSpec(
        name=name,
        search=settings,
        seed=config.seed,
        encoder=job.found,
        tokenizer=tokenizer,
        pieces=pieces,
        words=list(dict.fromkeys([*known_words(words_file(job.found)), *spoken])),
        products=vectors,
        held_out=targets,
        export=str(finished),
        metadata={"teacher": teacher, "inputs": inputs, "seed": config.seed, "search": chosen},
    )
    train, epochs = read_parquet(config, targets), settings.epochs
    loop_config = {"spec": spec, "make_tasks": search_tasks}
    run_workers(config, train_worker, loop_config, train, name=name, stage="train_search", epochs=epochs)
    if not (finished / STUDENT_FILE).exists():
        raise TrainingError("train_search: the workers ended without a student; see the log")
    shutil.copytree(finished, job.outputs[SEARCH_STUDENT], dirs_exist_ok=True)
    remove_checkpoints(config, name)
    return {}
