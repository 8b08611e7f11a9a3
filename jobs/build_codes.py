"""Give every item its codes, learnt from the teachers' item vectors and from titles: what a student with codes is made of."""

import sys
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from jobs.runtime.console import command, say
from jobs.runtime.published import Features, features, versions
from jobs.runtime.ray_cluster import start_ray
from jobs.runtime.step import run_step
from jobs.runtime.teachers import ensemble, teacher_folders
from jobs.runtime.titles import title_vectors
from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError
from kdlib.store import partitions


class ItemCodes(NamedTuple):
    """Two published tables."""

    codes: Path
    codebooks: Path
    versions: dict[str, str]


def item_codes(config: RunConfig, source: Features) -> ItemCodes:
    """The codes that `student.model.codes` asks for, made where they are not up to date; Ray must run.

    They are learnt in this process: the teachers' item matrices must fit in its memory twice.

    Raises:
      ConfigError: there are fewer items with training interactions than codewords in a table.
      ModelError: a teacher is missing, of another vocabulary, or broken.
    """
    model = config.student.model
    assert model.codes is not None
    variant = partitions.fingerprint_of(model.codes.model_dump(), model.dim)[:8]
    names = (f"item_codes/{variant}", f"item_codebooks/{variant}")
    folders = teacher_folders(config, source.vocabulary_facts()["vocabulary_hash"])
    inputs = source.versions | versions(config, *(name for teacher in config.teachers for name in teacher.models))
    titles = None
    if text := next((teacher.text for teacher in config.teachers if teacher.text), None):
        titles, inputs["title_vectors"] = title_vectors(config, source, text)

    def build(staging: dict[str, Path]) -> dict[str, dict[str, Any]]:
        import torch

        from kdlib.models.files import load_model
        from kdlib.teachers.item_codes import learn_item_codes
        from kdlib.teachers.text import read_title_vectors

        assert model.codes is not None
        statistics = pq.read_table(source.statistics, columns=["item_index", "num_in_windows"]).sort_by("item_index")
        known_V = torch.from_numpy(statistics["num_in_windows"].to_numpy() > 0)
        learnt = [(f, t.weight) for f, t in zip(folders, config.teachers, strict=True) if not t.rules]
        members = ensemble(*zip(*learnt, strict=True))
        if (known := int(known_V.sum())) < model.codes.size:
            raise ConfigError(
                f"student.model.codes.size: {model.codes.size} codewords cannot be learnt from the {known} items with training"
                " interactions; set a smaller size, or train the student without codes"
            )
        codes, codebooks, facts = learn_item_codes(
            [load_model(Path(folder))[0].head() for folder, _ in members],
            [weight for _, weight in members],
            known_V,
            None if titles is None else read_title_vectors(titles),
            **model.codes.model_dump(),
            width=model.dim,
            seed=config.seed,
        )
        for name, table in zip(names, (codes, codebooks), strict=True):
            pq.write_table(table, staging[name] / "part-00000.parquet")
        return dict.fromkeys(names, facts)

    made = run_step(
        config,
        names,
        settings=[model.codes.model_dump(), model.dim, config.seed, [t.weight for t in config.teachers]],
        inputs=inputs,
        build=build,
    )
    say(f"build_codes: {_summary(made[names[0]].details)}")
    codes, codebooks = (partitions.current(config.root, name, config.day) for name in names)
    return ItemCodes(codes, codebooks, versions(config, *names))


def _summary(facts: dict[str, Any]) -> str:
    by_source = ", ".join(f"{number:,} from {name}" for name, number in facts["items"].items())
    return f"{by_source}; the codes explain {facts['explained_variance']:.1%} of the teachers' item vectors"


def run(config: RunConfig) -> ItemCodes:
    """Publish `item_codes/<variant>` and `item_codebooks/<variant>`."""
    if config.student.model.codes is None:
        raise ConfigError("the student has no codes: set student.model.codes, for instance {kind: residual, count: 8}")
    with start_ray(config):
        return item_codes(config, features(config))


def main(argv: list[str] | None = None) -> int:
    return command("build_codes", run, argv, description=__doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
