"""Give every item its codes, learnt from the teachers' item vectors and from titles, for a student with codes."""

from collections.abc import Mapping
from pathlib import Path

import pyarrow.parquet as pq

from jobs.runtime.console import say
from jobs.runtime.names import title_vectors
from jobs.runtime.published import features_of
from jobs.runtime.stage import Details, Job
from jobs.runtime.teachers import ensemble, teacher_folders
from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError
from kdlib.store.partitions import Manifest


def build(job: Job) -> Details:
    """Learn the codes in this process. The teachers' item matrices must fit in its memory twice.

    Raises:
      ConfigError: there are fewer items with training interactions than codewords in a table.
      ModelError: a teacher was trained on another vocabulary, or its files are broken.
    """
    import torch

    from kdlib.models.files import load_model
    from kdlib.teachers.item_codes import learn_item_codes
    from kdlib.teachers.text import read_title_vectors

    config, model, source = job.config, job.config.student.model, features_of(job.inputs)
    assert model.codes is not None
    folders = teacher_folders(config, job.inputs, source.vocabulary_facts()["vocabulary_hash"])
    text = next((teacher.text for teacher in config.teachers if teacher.text), None)
    statistics = pq.read_table(source.statistics, columns=["item_index", "num_in_windows"]).sort_by("item_index")
    known_V = torch.from_numpy(statistics["num_in_windows"].to_numpy() > 0)
    if (known := int(known_V.sum())) < model.codes.size:
        raise ConfigError(
            f"student.model.codes.size: {model.codes.size} codewords cannot be learnt from the {known} items with"
            " training interactions. Set a smaller size, or train the student without codes"
        )
    learnt = [(f, t.weight) for f, t in zip(folders, config.teachers, strict=True) if t.is_trained]
    members = ensemble(*zip(*learnt, strict=True))
    codes, codebooks, facts = learn_item_codes(
        [load_model(Path(folder))[0].head() for folder, _ in members],
        [weight for _, weight in members],
        known_V,
        read_title_vectors(job.input(title_vectors(text))) if text else None,
        **model.codes.model_dump(),
        width=model.dim,
        seed=config.seed,
    )
    for folder, table in zip(job.outputs.values(), (codes, codebooks), strict=True):
        pq.write_table(table, folder / "part-00000.parquet")
    return dict.fromkeys(job.outputs, facts)


def tell(config: RunConfig, manifests: Mapping[str, Manifest]) -> None:
    """Say how many codes come from which source, and how much of the teachers' vectors they explain."""
    facts = next(iter(manifests.values())).details
    by_source = ", ".join(f"{number:,} from {name}" for name, number in facts["items"].items())
    share = facts["explained_variance"]
    say(f"build_codes: {by_source}; the codes explain {share:.1%} of the teachers' item vectors")
