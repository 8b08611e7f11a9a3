"""Where a run's raw input lies, and which version of it this is."""

from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from kdlib import forgetting, promotions, publish
from kdlib.config import CatalogueConfig, EventsConfig, RunConfig
from kdlib.errors import ConfigError, InputError
from kdlib.privacy import key_check, read_key
from kdlib.publish import Manifest


def events_and_catalogue(config: RunConfig) -> tuple[EventsConfig, CatalogueConfig | None]:
    """The events and the catalogue of the run config, or those that the simulator published for the day.

    Raises:
      InputError: the simulator has not run.
    """
    if config.input.simulate is None:
        assert config.input.events is not None
        return config.input.events, config.input.catalogue
    if publish.read_manifest(config.root, "events", config.day) is None:
        raise InputError(
            f"no simulated events for {config.day} under {config.root}: run `distilrec simulate-events` first, "
            "or set input.events to read your own"
        )
    from jobs.simulate_events import simulated_input

    events, catalogue = simulated_input(config)
    # one version throughout, even if the simulator publishes another meanwhile
    return events.model_copy(update={"path": str(publish.current(config.root, "events", config.day))}), catalogue


def input_versions(config: RunConfig, events: EventsConfig, catalogue: CatalogueConfig | None) -> dict[str, str]:
    """Input name → version: of everything that the features are made from, last night's vocabulary too.

    Raises:
      InputError: a path without files.
    """
    if config.input.simulate is None:
        versions = {"events": version_of(events.path)}
    else:
        manifest = publish.read_manifest(config.root, "events", config.day)
        assert manifest is not None
        versions = {"events": manifest.version}
    if catalogue is not None:
        versions["catalogue"] = version_of(catalogue.path)
    if gone := forgetting.forgotten(config.root):
        versions["forgotten"] = publish.fingerprint_of(gone)
    if earlier := earlier_vocabulary(config):
        versions["item_vocabulary"] = f"{earlier.ds}.{earlier.version}"
    return versions


def earlier_vocabulary(config: RunConfig) -> Manifest | None:
    """The vocabulary that this night's continues: the last promoted night's, so that a blocked night leaves no trace in it;
    where none was promoted, the newest. None on a first night."""
    if last := promotions.last_night(config.root, before=config.day):
        return promotions.manifest_of(config.root, last, "item_vocabulary")
    newest = publish.latest(config.root, "item_vocabulary", before=config.day)
    return publish.read_manifest(config.root, "item_vocabulary", newest) if newest else None


def checked_key(config: RunConfig) -> dict[str, Any] | None:
    """Version and check value of the pseudonym key, for the manifest; None without pseudonyms.

    Raises:
      ConfigError: there is no such key, or it is not the promoted night's while the version is.
    """
    if config.privacy.key is None:
        return None
    found = {"key_version": config.privacy.key_version, "check": key_check(read_key(config.privacy.key))}
    if last := promotions.last_night(config.root, before=config.day):
        before = promotions.manifest_of(config.root, last, "histories").details.get("pseudonyms")
        if before and before["key_version"] == found["key_version"] and before["check"] != found["check"]:
            raise ConfigError(
                f"the pseudonym key is another than that of {last.ds}, but privacy.key_version is {found['key_version']} as"
                " it was then: every user would be new. Use that key, or raise key_version"
            )
    return found


def version_of(path: str) -> str:
    """A hash of the names, sizes and times of the files at a path: a file, a folder or a glob, local or a URL.

    For a glob in a URL all files of the folder above it count: a change too many
    costs a rerun, one too few a wrong table.

    Raises:
      InputError: there are none.
    """
    files = _remote_files(path) if "://" in path else _local_files(path)
    if not files:
        raise InputError(f"no file matches {path}: check the path in the run config")
    return publish.fingerprint_of(files)


def _local_files(path: str) -> list[tuple[str, int, int]]:
    whole = Path(path).absolute()
    tops = sorted(Path(whole.anchor).glob(str(whole.relative_to(whole.anchor)))) if _is_glob(path) else [whole]
    found = [file for top in tops for file in ([top] if top.is_file() else sorted(top.rglob("*"))) if file.is_file()]
    return [
        (str(file), file.stat().st_size, file.stat().st_mtime_ns)
        for file in found
        if not file.name.startswith(("_", "."))
    ]


def _remote_files(path: str) -> list[tuple[str, int, int]]:
    if _is_glob(path):
        path = path[: min(path.find(sign) for sign in "*?[{" if sign in path)].rpartition("/")[0]
    try:
        system, base = pafs.FileSystem.from_uri(path)
        top = system.get_file_info(base)
        infos = [top] if top.is_file else system.get_file_info(pafs.FileSelector(base, recursive=True))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot list {path}: {error}. Check the path and this machine's access to it") from None
    return sorted((info.path, info.size, info.mtime_ns or 0) for info in infos if info.is_file)


def _is_glob(path: str) -> bool:
    return any(sign in path for sign in "*?[{")
