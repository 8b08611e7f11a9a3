"""Write the student for other systems: ONNX graphs, item ids and vectors, rules for lists, a model card."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.runtime.console import say
from jobs.runtime.extras import check_export_extra
from jobs.runtime.names import served_student
from jobs.runtime.published import features_of
from jobs.runtime.stage import Details, Job
from kdlib.config.models import TeacherConfig
from kdlib.config.run import RunConfig
from kdlib.models.files import MODEL_FILE, load_model
from kdlib.store.days import day_end
from kdlib.store.partitions import Manifest


def build(job: Job) -> Details:
    """Write all files of the export, and compare its lists with the published ones.

    Raises:
      ConfigError: a package of the extra `onnx` is missing, or the item table is too large for an ONNX file.
      ModelError: the student is damaged, or its lists under ONNX Runtime are not the published ones.
    """
    check_export_extra()
    from kdlib.export.check import compare
    from kdlib.export.graphs import check_size, write_graphs
    from kdlib.export.items import write_items, write_vectors
    from kdlib.export.policy import write_policy
    from kdlib.inference.list_rules import rules_of_policy

    config, source, folder = job.config, features_of(job.inputs), job.output
    features = {name: job.input(name) for name in ("item_features", "user_features") if name in job.inputs}
    model, facts = load_model(job.input(served_student(config)))
    check_size(model)
    generated_at = day_end(config.last_day, config.features.time_zone)
    rules = rules_of_policy(
        config.recommend.policy,
        vocabulary=source.vocabulary,
        item_features=features.get("item_features"),
        num_items=model.num_items,
        day=generated_at.date(),
        k=config.recommend.k,
    )
    assert config.export is not None
    write_graphs(folder, model, version=facts["version"], int8=config.export.int8)
    write_vectors(folder, model)
    write_items(
        folder,
        vocabulary=source.vocabulary,
        statistics=source.statistics,
        num_items=model.num_items,
        rules=rules,
    )
    own_sessions = config.input.events is not None and config.input.events.session is not None
    write_policy(
        folder,
        model,
        rules,
        policy=config.recommend.policy,
        k=config.recommend.k,
        generated_at=generated_at,
        ds=config.day,
        version=facts["version"],
        time_zone=config.features.time_zone,
        session_gap_seconds=None if own_sessions else config.features.session_gap_seconds,
        collapse_repeats=config.features.collapse_repeats,
        user_values=job.inputs["item_vocabulary"].manifest.details.get("user_values", []),
    )
    check = compare(
        folder,
        recommendations=job.input("recommendations"),
        histories=source.histories,
        vocabulary=source.vocabulary,
        user_features=features.get("user_features"),
        int8=config.export.int8,
    )
    _write_card(job, source.statistics, check)
    return {"export": {"model_version": facts["version"], "check": check}}


def _write_card(job: Job, statistics: Path, check: Mapping[str, Any]) -> None:
    from kdlib.export.card import CardSources, write_card

    config, student = job.config, job.config.student
    histories = job.inputs["histories"].manifest.details
    learnt_from = "num_interactions" if student.refit else "num_train"
    untrained = pc.call_function("equal", [pq.read_table(statistics, columns=[learnt_from])[learnt_from], 0])
    write_card(
        job.output,
        CardSources(
            name=config.name,
            ds=config.day,
            model=json.loads((job.input(served_student(config)) / MODEL_FILE).read_text()),
            refit=student.refit,
            recipe=_recipe(config),
            funnel=histories["funnel"],
            untrained_items=pc.call_function("sum", [untrained]).as_py() or 0,
            reads_content=bool(student.text or student.features or student.model.codes),
            pseudonyms=histories.get("pseudonyms") is not None,
            min_item_users=config.privacy.min_item_users,
            metrics=pq.read_table(job.input("metrics")),
            gates=pq.read_table(job.input("gates")),
            k=config.evaluation.judged_k,
            check=check,
        ),
    )


def _recipe(config: RunConfig) -> dict[str, Any]:
    """How the student was taught, for the card."""
    distillation = config.distillation
    return {
        "teachers": [_teacher(one) for one in config.teachers],
        "loss": "CE + kl_weight · temperature² · KL(teachers ‖ student)",
        **distillation.model_dump(include={"mode", "kl_weight", "temperature", "targets", "hidden_weight"}),
        "training_loss": config.training.resolve(config.student.train).loss,
    }


def _teacher(teacher: TeacherConfig) -> dict[str, Any]:
    if not teacher.is_trained:
        return {"name": teacher.name, "kind": "rules that count" if teacher.rules else "a function of the shop's own"}
    read = [name for name, does in (("titles", teacher.text), ("features", teacher.features)) if does]
    reads = {"reads": f"reads {' and '.join(read)}"} if read else {}
    return {"name": teacher.name, "kind": teacher.model.kind, "width": f"width {teacher.model.dim}"} | reads


def tell(config: RunConfig, manifests: Mapping[str, Manifest]) -> None:
    """Say how large the graphs are, and how many lists equal the table's."""
    made = manifests["export"]
    sizes = {file["path"]: file["bytes"] for file in made.files}
    check = made.details["check"]
    equal = [
        f"{form} {check[form]['equal_lists']:.1%}" for form in ("float32", "int8") if form in check and check["users"]
    ]
    compared = f"lists equal to the table's: {', '.join(equal)}" if equal else "no lists compared, because of the rules"
    graphs = sum(size for name, size in sizes.items() if name in ("encoder.onnx", "topk.onnx"))
    say(
        f"export: student {made.details['model_version']}, graphs of {graphs:,} bytes as float32; {compared}"
        f" ({check['users']:,} users) → {config.place('export')}"
    )
