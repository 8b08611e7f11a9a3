"""Checks of what the run config names: the place of delivery, text encoders, packages of extras."""

from jobs.runtime.checks.finding import Finding, missing, not_needed, ok
from jobs.runtime.checks.folders import check_file_system
from jobs.runtime.delivery import check as check_delivery_settings
from jobs.runtime.encoding import check_encoder
from jobs.runtime.extras import check_export_extra, check_search_extra
from jobs.runtime.names import encoders_of
from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError
from kdlib.release.places import first_line, place_outside, write_and_remove
from kdlib.store.conditions import check_conditions
from kdlib.store.objects import folder_at


def check_output(config: RunConfig) -> Finding:
    """Whether the output folder's file system, or its store, can do what a switch of tables and models needs."""
    if config.store is None:
        return check_file_system(config.root)
    try:
        write_and_remove(folder_at(config.store))
        check_conditions(folder_at(config.store))
    except ConfigError as error:
        return missing(first_line(error), "Choose another store for output_dir, or a folder on a disk")
    except OSError as error:
        return _unreachable("output_dir", config.store, error)
    return ok(f"{config.store} can be written and read; its working copy is {config.root}")


def check_delivery(config: RunConfig) -> Finding:
    """Whether a file can be delivered. The file is removed, and so are the folders that were made for it."""
    if config.delivery is None:
        return not_needed("the run config has no delivery")
    url = config.delivery.url
    try:
        check_delivery_settings(config)
        write_and_remove(place_outside(config.root, url))
    except ConfigError as error:
        return missing(first_line(error), "Correct delivery.url")
    except OSError as error:
        return _unreachable("delivery.url", url, error)
    return ok(f"{url} can be written and read")


def _unreachable(setting: str, url: str, error: OSError) -> Finding:
    advice = f"Check {setting}, the rights there, the credentials in the environment, and the network"
    return missing(f"{url}: {first_line(error)}", advice)


def check_encoders(config: RunConfig) -> Finding:
    """Whether the text encoders that the run config names are on this machine, or answer."""
    found = [check_encoder(text) for text in encoders_of(config)]
    return ok(", ".join(dict.fromkeys(found))) if found else not_needed("no model of the run config reads text")


def check_search(config: RunConfig) -> Finding:
    """Whether the packages of product search are installed, where the run config has a section `search`."""
    if config.search is None:
        return not_needed("the run config has no search")
    check_search_extra()
    return ok("the packages of the extra `search`")


def check_export(config: RunConfig) -> Finding:
    """Whether the packages of the export are installed, where the run config has a section `export`."""
    if config.export is None:
        return not_needed("the run config has no export")
    check_export_extra()
    return ok("the packages of the extra `onnx`")
