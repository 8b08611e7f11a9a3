"""The encoder that teaches product search: as it is pretrained, or adapted to the shop first (`search.text.adapt`)."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.runtime.console import say
from jobs.runtime.product_search import clicked, search_settings, typed_queries
from jobs.runtime.published import parquet_files, versions
from jobs.runtime.ray_cluster import read_parquet
from jobs.runtime.step import run_step
from jobs.train_text_encoder import describe_encoder, fit_encoder
from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError
from kdlib.search.adaptation import adaptation_pairs
from kdlib.search.index import product_texts
from kdlib.search.words import teaches
from kdlib.store import partitions
from kdlib.teachers.contrastive import PAIRS_SCHEMA
from kdlib.teachers.text import encoder_folder, encoder_version

ENCODER = "models/search_encoder"


def teacher(config: RunConfig, products: pa.Table) -> tuple[Path, str]:
    """The teacher's Hugging Face folder, trained first where `search.text.adapt` says so, and its version.

    Raises:
      ConfigError: the student is to be wider than the teacher, whose sub-words it starts from.
    """
    settings = search_settings(config)
    text = settings.text
    base = encoder_folder(text.encoder).absolute()
    wide = json.loads((base / "config.json").read_text()).get("hidden_size", settings.width)
    if settings.width > wide:
        raise ConfigError(
            f"search.width {settings.width} is more than the encoder {text.encoder} has, {wide}: set it lower"
        )
    if text.adapt is None:
        return base, encoder_version(base)
    inputs = versions(config, "products") | typed_queries(config)[1] | {"encoder": encoder_version(base)}
    settings = [
        config.seed,
        text.model_dump(mode="json", include={"max_tokens", "adapt"}),
        config.training.model_dump(mode="json", exclude={"defaults"}),
    ]
    folder = config.root / partitions.CHECKPOINTS / f"{config.name}.search_pairs.ds={config.day}"

    def build(staging: dict[str, Path]) -> dict[str, dict[str, Any]]:
        data = _write_pairs(config, products, folder)
        pairs = read_parquet(parquet_files(folder / "pairs"))
        fit_encoder(config, ENCODER, staging[ENCODER], text, pairs, data, settings=settings, inputs=inputs)
        shutil.rmtree(folder)
        return {}

    made = run_step(config, (ENCODER,), settings=settings, inputs=inputs, build=build)
    found = partitions.current(config.root, ENCODER, config.day)
    say(f"search teacher: {describe_encoder(found)}")
    return found, made[ENCODER].version


def _write_pairs(config: RunConfig, products: pa.Table, folder: Path) -> dict[str, Any]:
    """The texts and pairs as files that every worker reads; what `fit_encoder` is told of them."""
    adapt = search_settings(config).text.adapt
    assert adapt is not None
    titles, descriptions = ([value or "" for value in products[name].to_pylist()] for name in ("title", "description"))
    gains = {query: items for query, items in clicked(config, products).items() if teaches(query)}
    texts, learnt, judging = adaptation_pairs(
        titles,
        descriptions,
        product_texts(products),
        gains,
        held_out=adapt.validation_pairs,
        seed=config.seed,
    )
    for name in ("pairs", "texts", "judging"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    numbered = pa.table({"item_index": pa.array(range(len(texts)), pa.int32()), "title": pa.array(texts, pa.string())})
    pq.write_table(numbered, folder / "texts" / "part-00000.parquet")
    for name, found in (("pairs", learnt), ("judging", judging)):
        table = pa.table([pa.array(found[:, 0]), pa.array(found[:, 1])], schema=PAIRS_SCHEMA)
        pq.write_table(table, folder / name / "part-00000.parquet")
    judges = str(folder / "judging" / "part-00000.parquet")
    return {"texts": str(folder / "texts"), "statistics": None, "judging": judges}
