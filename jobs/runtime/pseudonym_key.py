"""The key of the pseudonyms: is it the one that earlier runs had?"""

from typing import Any

from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError
from kdlib.privacy import forgetting
from kdlib.privacy.pseudonyms import key_check, read_key
from kdlib.release import promotions
from kdlib.store import partitions
from kdlib.store.partitions import Manifest


def checked_key(config: RunConfig) -> dict[str, Any] | None:
    """Version and check value of the pseudonym key, for the manifest; None without pseudonyms.

    Raises:
      ConfigError: the key does not exist, or differs from the key of the list of forgotten users. Or it differs from the
        key of earlier runs, and `privacy.key_version` is not raised.
    """
    key, version = read_key(config.privacy.key) if config.privacy.key else None, config.privacy.key_version
    check = key_check(key) if key else None
    for made in _made_under_a_key(config):
        then = made.details["pseudonyms"]
        if check != then["check"] and version <= then["key_version"]:
            raise ConfigError(
                f"the pseudonym key has changed: expected that of {made.table} of {made.ds} in {config.place()}"
                f" (check value {then['check']}, privacy.key_version {then['key_version']}), found {check or 'none'}"
                f" (privacy.key_version {version}). Every user would be {'new' if check else 'stored under its own id'}."
                " Set the earlier key (section privacy). If the change is intended,"
                f" set privacy.key_version to {then['key_version'] + 1}"
            )
    forgetting.check_key(config.root, key)
    return {"key_version": version, "check": check} if key else None


def _made_under_a_key(config: RunConfig) -> list[Manifest]:
    """The manifests of tables with pseudonyms that must have the same key as this run.

    These are the histories of the run's date and of the last promoted run, which is a later run in a backfill. A shop
    with search alone promotes no table of users: its newest `queries` count.
    """
    root = config.root
    nights = promotions.nights(root, holding="histories")
    there = [night for night in nights if promotions.has(root, night, "histories")]
    found = [promotions.manifest_of(root, night, "histories") for night in there[-1:]]
    found += [one] if (one := partitions.read_manifest(root, "histories", config.day)) else []
    if not config.input.has_events and (newest := partitions.latest(root, "queries")):
        found.append(partitions.manifest_of(root, "queries", newest))
    return [one for one in found if one.details.get("pseudonyms")]
