"""The settings behind a run's lists. The manifest keeps them, so that a server makes the same lists for any run."""

from kdlib.config.base import Positive, Section
from kdlib.config.experiment import ExperimentConfig
from kdlib.config.policy import EventType, PolicyConfig
from kdlib.config.run import RunConfig


class MadeWith(Section):
    """How events became histories, and histories became lists."""

    k: Positive
    because: int
    policy: PolicyConfig | None
    experiment: ExperimentConfig | None
    time_zone: str
    session_gap_seconds: Positive | None
    """None: the shop's own session ids separate the sessions."""
    collapse_repeats: bool
    event_types: dict[str, EventType]
    """Name of an event type, the shop's or ours → ours."""
    usual_type: EventType
    """The type of an event that names none."""


def made_with(config: RunConfig) -> dict[str, object]:
    """The settings of a run config, JSON-ready: `MadeWith.model_validate` reads them."""
    events, features = config.input.events, config.features
    has_types = events is None or events.event_type is not None
    ours: dict[str, EventType] = {"view": "view", "favourite": "favourite", "cart": "cart", "purchase": "purchase"}
    found = MadeWith(
        k=config.recommend.k,
        because=config.recommend.because,
        policy=config.recommend.policy,
        experiment=config.experiment,
        time_zone=features.time_zone,
        session_gap_seconds=None if events and events.session else features.session_gap_seconds,
        collapse_repeats=features.collapse_repeats,
        event_types=ours | (events.event_types if events and has_types else {}),
        usual_type="view" if events is None or has_types else events.only_type,
    )
    # what the rules of a segment do not set comes from the policy, so nothing that is unset may be written
    return found.model_dump(mode="json", exclude_unset=True)
