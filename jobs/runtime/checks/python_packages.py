"""Checks of Python and of the installed packages."""

import re
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from jobs.runtime.checks.finding import Finding, missing, not_needed, ok

OLDEST, NEWEST = (3, 11), (3, 14)
"""The first and the last Python for which all packages have wheels."""
TESTED = Path(__file__).parents[3] / "cluster" / "docker" / "constraints.txt"
"""The versions that the tests ran with. The source folder and the wheel both have the file."""
FEW = 5
"""At most this many packages with other versions are named."""


def check_python() -> Finding:
    """Whether Python is one that the packages support."""
    found = f"{sys.version.split()[0]} ({sys.executable})"
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        low, high = (".".join(map(str, one)) for one in (OLDEST, NEWEST))
        return missing(found, f"Install distilrec with a Python from {low} to {high}")
    return ok(found)


def check_packages() -> Finding:
    """Whether all packages that distilrec needs are installed, in the versions that it allows."""
    from packaging.requirements import Requirement

    needed = [Requirement(text) for text in requires("distilrec") or ()]
    needed = [one for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    wrong = {}
    for one in needed:
        try:
            there = version(one.name)
        except PackageNotFoundError:
            wrong[one.name] = f"no {one.name}"
            continue
        if not one.specifier.contains(there, prereleases=True):
            wrong[one.name] = f"{one.name} {there}, expected {one.specifier}"
    if wrong:
        return missing(
            ", ".join(wrong.values()),
            f"Install the tested versions: `{sys.executable} -m pip install -c {TESTED} {' '.join(wrong)}`",
        )
    return ok(f"distilrec {version('distilrec')} and the {len(needed)} packages that it needs")


def check_tested_versions() -> Finding:
    """Whether the installed packages have the versions that the tests ran with."""
    differ = differing(versions_in(TESTED.read_text()))
    if not differ:
        return ok("all packages have the versions that the tests ran with")
    more = f" and {len(differ) - FEW} more" if len(differ) > FEW else ""
    return not_needed(
        f"{len(differ)} packages have other versions: {', '.join(differ[:FEW])}{more}",
        f"If a run fails for no reason that you can see, install the tested versions: `{sys.executable} -m pip"
        f" install -c {TESTED} {' '.join(one.partition(' ')[0] for one in differ)}`",
    )


def versions_in(text: str) -> dict[str, str]:
    """Package → version, of a constraints file."""
    return dict(re.findall(r"^([\w.-]+)==(\S+)", text, flags=re.MULTILINE))


def differing(tested: dict[str, str]) -> list[str]:
    """The installed packages that have another version. A local part, as in `2.13.0+cpu`, does not count."""
    found = []
    for name, expected in tested.items():
        try:
            there = version(name)
        except PackageNotFoundError:  # of an extra, or of the test tools
            continue
        if there.partition("+")[0] != expected:
            found.append(f"{name} {there} (tested: {expected})")
    return found
