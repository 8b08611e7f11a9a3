"""Product search: the teacher's vectors, the student that learns to answer in their place, and the index (Ray, DeepSpeed)."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from jobs.runtime.console import command, say
from jobs.runtime.product_search import chosen_weights, encoded, read_products, search_settings, typed_queries
from jobs.runtime.published import parquet_files, versions
from jobs.runtime.ray_cluster import read_parquet, start_ray
from jobs.runtime.ray_train import remove_checkpoints, run_workers
from jobs.runtime.search_teacher import teacher
from jobs.runtime.step import code_version, run_step
from jobs.runtime.train_worker import train_worker
from kdlib.config.run import RunConfig
from kdlib.errors import TrainingError
from kdlib.search.catalogue_queries import catalogue_queries
from kdlib.search.index import product_texts
from kdlib.search.student import STUDENT_FILE, TOKENIZER
from kdlib.search.tokenizer import known_words, smaller_tokenizer
from kdlib.store import partitions
from kdlib.store.partitions import Manifest
from kdlib.teachers.text import read_vectors
from kdlib.training.specs import SearchSpec

MODEL = "models/search_student"
QUERY_TOKENS = 32


def run(config: RunConfig) -> dict[str, Manifest]:
    """Publish `product_vectors`, `search_targets`, `models/search_student` and `search_index` for the date.

    Raises:
      ConfigError: the run config has no section search.
      InputError: the products are not published for the date.
    """
    settings = search_settings(config)
    made: dict[str, Manifest] = {}
    with start_ray(config):
        products = read_products(config)
        encoder, version = teacher(config, products)
        inputs = versions(config, "products") | {"encoder": version}
        text = settings.text.model_dump(mode="json")

        def encode_products(staging: dict[str, Path]) -> dict[str, dict[str, Any]]:
            found = encoded(config, encoder, product_texts(products), settings.text.max_tokens)
            _write(staging["product_vectors"], {"product_index": products["product_index"], "vector": found})
            return {}

        made |= run_step(config, ("product_vectors",), settings=text, inputs=inputs, build=encode_products)
        typed, log_versions = typed_queries(config)

        def encode_queries(staging: dict[str, Path]) -> dict[str, dict[str, Any]]:
            parts = [[value or "" for value in products[n].to_pylist()] for n in ("title", "description", "category")]
            made_up = catalogue_queries(*parts, limit=settings.catalogue_queries, seed=config.seed)
            known = known_words(encoder / TOKENIZER)
            queries = list(dict.fromkeys([*typed, *made_up, *known[: settings.catalogue_queries // 5]]))
            found = encoded(config, encoder, queries, QUERY_TOKENS)
            _write(staging["search_targets"], {"query": pa.array(queries), "vector": found})
            return {"search_targets": {"typed": len(typed), "made_up": len(queries) - len(typed)}}

        made |= run_step(
            config,
            ("search_targets",),
            settings=[text, settings.catalogue_queries, config.seed],
            inputs=inputs | log_versions,
            build=encode_queries,
        )
        made |= _train(config, products, typed, encoder, version)
        made |= _index(config, products, version)
    facts = made["search_index"].details
    say(
        f"train_search: {len(products):,} products, {made['search_targets'].rows or 0:,} queries; student"
        f" {facts['parameters']:,} parameters, cosine to the teacher {facts['cosine']:.3f} on {facts['held_out']:,} held-out"
        f" queries, which have {facts['overlap@10']:.0%} of the teacher's ten nearest products; weights: {facts['weights']}"
    )
    return made


def _train(config: RunConfig, products: pa.Table, typed: list[str], encoder: Path, version: str) -> dict[str, Manifest]:
    settings, targets = search_settings(config), partitions.current(config.root, "search_targets", config.day)
    vectors = partitions.current(config.root, "product_vectors", config.day)
    inputs = versions(config, "search_targets", "product_vectors")
    chosen = settings.model_dump(
        mode="json",
        include={"student", "width", "vocabulary", "misspelt_fraction", "epochs", "batch_size", "learning_rate"},
    )

    def build(staging: dict[str, Path]) -> dict[str, dict[str, Any]]:
        key = partitions.fingerprint_of(
            chosen, inputs, config.training.model_dump(mode="json"), config.seed, code_version()
        )
        name = f"{config.name}.search_student.ds={config.day}.{key}"
        finished = config.root / partitions.CHECKPOINTS / f"{name}.models"
        finished.mkdir(parents=True, exist_ok=True)
        tokenizer, pieces = smaller_tokenizer(
            encoder / TOKENIZER, [*product_texts(products), *typed], size=settings.vocabulary
        )
        spec = SearchSpec(
            name=name,
            search=settings,
            seed=config.seed,
            encoder=str(encoder),
            tokenizer=tokenizer,
            pieces=pieces,
            words=known_words(encoder / TOKENIZER),
            products=parquet_files(vectors),
            held_out=parquet_files(targets),
            export=str(finished),
            metadata={"teacher": version, "inputs": inputs, "seed": config.seed, "search": chosen},
        )
        train = read_parquet(parquet_files(targets))
        run_workers(
            config, train_worker, {"spec": spec}, train, name=name, stage="train_search", epochs=settings.epochs
        )
        if not (finished / STUDENT_FILE).exists():
            raise TrainingError("train_search: the workers ended without a student; see the log")
        shutil.copytree(finished, staging[MODEL], dirs_exist_ok=True)
        remove_checkpoints(config, name)
        return {}

    form = config.training.model_dump(mode="json", exclude={"defaults"})
    return run_step(config, (MODEL,), settings=[chosen, config.seed, form], inputs=inputs, build=build)


def _index(config: RunConfig, products: pa.Table, version: str) -> dict[str, Manifest]:
    settings = search_settings(config)
    given = settings.model_dump(mode="json", include={"language", "vector_weight", "intent_weight", "weights"})
    inputs = versions(config, "products", "product_vectors", MODEL) | typed_queries(config)[1]

    def build(staging: dict[str, Path]) -> dict[str, dict[str, Any]]:
        vectors_VE = torch.from_numpy(
            read_vectors(partitions.current(config.root, "product_vectors", config.day), "product_index")
        )
        folder, student = staging["search_index"], partitions.current(config.root, MODEL, config.day)
        return {
            "search_index": chosen_weights(config, products, vectors_VE, folder, student, facts={"teacher": version})
        }

    return run_step(config, ("search_index",), settings=[given, config.seed], inputs=inputs, build=build)


def _write(folder: Path, columns: dict[str, Any]) -> None:
    pq.write_table(pa.table(columns), folder / "part-00000.parquet")


def main(argv: list[str] | None = None) -> int:
    return command("train_search", run, argv, description=__doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
