"""OpenLineage events of a stage: what it reads and what it makes. A receiver that fails is a warning, and the stage goes on."""

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from jobs.runtime.console import one_line, run_id, warn
from jobs.runtime.stage import Input
from kdlib.config.run import RunConfig
from kdlib.store.partitions import Manifest

SECONDS = 5.0
"""How long the receiver may take for an event."""
ALL_SECONDS = 30.0
"""How long it may take for all events of a process. Later events are left out."""
KEY = "OPENLINEAGE_API_KEY"
_spent = 0.0


@contextmanager
def lineage(
    config: RunConfig, stage: str, inputs: Iterable[Mapping[str, Input]], makes: Iterable[str] = ()
) -> Iterator[dict[str, Manifest]]:
    """Send an event as a stage begins and as it ends. The block puts the manifests of what it makes into the mapping.

    Args:
      config: the run config.
      stage: name of the stage.
      inputs: for each of its parts, the tables and models that it reads.
      makes: tables and models that it makes.
    """
    made: dict[str, Manifest] = {}
    if config.tracking.openlineage is None:
        yield made
        return
    makes = dict.fromkeys(makes, "")
    versions = {name: one.version for part in inputs for name, one in part.items()}
    run = str(uuid5(NAMESPACE_URL, "/".join([run_id(), config.place(), config.day, stage, *makes])))
    about = {"config": config, "stage": stage, "run": run, "inputs": versions}
    _emit(about, "START", makes)
    try:
        yield made
    except BaseException as error:
        _emit(about, "FAIL", {}, error=f"{type(error).__name__}: {one_line(error)}")
        raise
    _emit(about, "COMPLETE", {name: one.version for name, one in made.items()})


def _emit(about: dict[str, Any], state: str, outputs: Mapping[str, str], *, error: str = "") -> None:
    """Send an event, unless the receiver has failed or has taken too long in this process."""
    global _spent
    if _spent >= ALL_SECONDS:
        return
    url = about["config"].tracking.openlineage.url
    try:
        client, event = _client(url), _event(**about, state=state, outputs=outputs, error=error)
        started = time.monotonic()
        client.emit(event)
        _spent += time.monotonic() - started
        why = f"its answers have taken {_spent:.0f} s" if _spent >= ALL_SECONDS else ""
    except Exception as failure:
        _spent, why = ALL_SECONDS, one_line(failure)
    if why:
        warn(
            f"lineage   warning: {url} gets no more OpenLineage events of this process: {why}. The run goes on. Check that"
            " tracking.openlineage.url answers"
        )


def _client(url: str) -> Any:
    from openlineage.client import OpenLineageClient
    from openlineage.client.transport.http import HttpConfig, HttpTransport

    key = os.environ.get(KEY)
    auth = {"auth": {"type": "api_key", "apiKey": key}} if key else {}
    settings = {"url": url, "timeout": SECONDS, "retry": {"total": 0}, **auth}
    return OpenLineageClient(transport=HttpTransport(HttpConfig.from_dict(settings)))


def _event(
    config: RunConfig,
    stage: str,
    run: str,
    inputs: Mapping[str, str],
    *,
    state: str,
    outputs: Mapping[str, str],
    error: str,
) -> Any:
    from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState, set_producer
    from openlineage.client.facet_v2 import dataset_version_dataset, error_message_run, nominal_time_run

    place = config.store or f"file://{config.root}"

    def datasets(kind: Any, named: Mapping[str, str]) -> list[Any]:
        facet = dataset_version_dataset.DatasetVersionDatasetFacet
        return [kind(place, name, facets={"version": facet(one)} if one else {}) for name, one in named.items()]

    set_producer(f"urn:distilrec:{version('distilrec')}")
    facets: dict[str, Any] = {"nominalTime": nominal_time_run.NominalTimeRunFacet(f"{config.day}T00:00:00Z")}
    if error:
        facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(error, "PYTHON")
    return RunEvent(
        eventTime=datetime.now(UTC).isoformat(),
        eventType=RunState[state],
        run=Run(run, facets),
        job=Job("distilrec", f"{config.name}.{stage}"),
        inputs=datasets(InputDataset, inputs),
        outputs=datasets(OutputDataset, outputs),
    )
