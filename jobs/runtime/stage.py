"""What a stage is. `jobs.pipeline` declares the stages, `jobs.runtime.runner` runs them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kdlib.store.fingerprint import fingerprint_of

if TYPE_CHECKING:
    from kdlib.config.run import RunConfig
    from kdlib.store.partitions import Manifest

Names = tuple[str, ...] | Callable[["RunConfig"], Iterable[str]]
"""Names of tables and models, or a function that gives them for a run config."""


@dataclass(frozen=True)
class Part:
    """Tables and models of a stage that are made, published and skipped together."""

    makes: tuple[str, ...]
    """`<table>`, `<table>/<variant>` or `models/<name>`."""
    needs: tuple[str, ...] = ()
    """Tables and models of the same date that the part is made from."""
    settings: tuple[str, ...] = ()
    """Settings that the result depends on, as paths (`kdlib.config.settings`)."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """Further values that the result depends on, by name, JSON-ready. The stage derives them from several settings."""
    subject: Any = None
    """What the part is about, such as a teacher's config: for the stage's own use."""


@dataclass(frozen=True)
class Stage:
    """A step of a run, declared once."""

    name: str
    """As on the command line. The module is `jobs.<name>`, with underscores."""
    engine: Literal["spark", "ray", "local"]
    """The `spark` stages of a nightly run share a process of their own, its `ray` stages a Ray cluster."""
    summary: str
    """One line for the help."""
    makes: Names = ()
    needs: Names = ()
    optional: bool = False
    """Needs that are not published are left out, and needs that are stale are taken as they are."""
    settings: tuple[str, ...] = ()
    when: Callable[[RunConfig], bool] = lambda config: True
    """Whether the stage applies to a run config."""
    otherwise: str = ""
    """Why the stage does not apply, as a person reads it: `the run config has no …`."""
    parts: Callable[[RunConfig], Iterable[Part]] | None = None
    """In place of `makes`, `needs` and `settings`, for a stage whose parts are skipped one by one."""
    together: bool = False
    """`build` gets the jobs of all stale parts at once, in a list."""
    acts: bool = False
    """The stage runs each time and publishes by itself: its module has `run(config, **options)` in place of `build`."""
    last: bool = False
    """The stage also runs after a failed gate or delivery. Its own failure is a warning."""
    options: tuple[str, ...] = ()
    """Options of the command line that the stage takes."""
    module: str = ""

    def __post_init__(self) -> None:
        if not self.module:
            object.__setattr__(self, "module", f"jobs.{self.name.replace('-', '_')}")

    def parts_of(self, config: RunConfig) -> tuple[Part, ...]:
        """The stage's parts for a run config: those of `parts`, else a single one."""
        if self.parts is not None:
            return tuple(self.parts(config))
        return (Part(_named(self.makes, config), _named(self.needs, config), self.settings),)


@dataclass(frozen=True)
class Found:
    """Inputs of a part from outside the run: files of the shop, tables of earlier runs."""

    versions: Mapping[str, str] = field(default_factory=dict)
    """Input name → version."""
    value: Any = None
    """What `build` gets as `job.found`. The versions must describe it."""


@dataclass(frozen=True)
class Input:
    """A published table or model that a part needs."""

    place: Path
    """The folder of its data, on this machine or still in the store."""
    manifest: Manifest

    @property
    def folder(self) -> Path:
        """The folder, with its data on this machine."""
        from kdlib.store.working_copy import fetch

        return fetch(self.place)

    @property
    def version(self) -> str:
        return self.manifest.version


@dataclass(frozen=True)
class Job:
    """What a stage's `build` gets. `build` reads only `inputs` and `found`, and fills the folders of `outputs`."""

    config: RunConfig
    stage: str
    part: Part
    inputs: Mapping[str, Input]
    found: Any
    """`Found.value`, from the stage's `find`."""
    made_by: Mapping[str, Any]
    """All that the result depends on: `stage`, `settings` (→ value), `inputs` (→ version) and `code` (→ hash)."""
    outputs: Mapping[str, Path] = field(default_factory=dict)
    """Name → empty staging folder."""

    @property
    def fingerprint(self) -> str:
        """Hash of `made_by`. The checkpoints of a training have it in their names."""
        return fingerprint_of(self.made_by)

    @property
    def versions(self) -> dict[str, str]:
        """Name → version of all inputs, also of those from outside the run."""
        return dict(self.made_by["inputs"])

    def input(self, name: str) -> Path:
        """The folder of an input."""
        return self.inputs[name].folder

    @property
    def output(self) -> Path:
        """The staging folder of a part that makes one thing."""
        [folder] = self.outputs.values()
        return folder


Details = dict[str, dict[str, Any]]
"""Output → details for its manifest, JSON-ready."""


def _named(names: Names, config: RunConfig) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names(config))) if callable(names) else names
