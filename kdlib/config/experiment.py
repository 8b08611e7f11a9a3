"""Config of an A/B test: the section `experiment`."""

from typing import Annotated

from pydantic import Field, model_validator

from kdlib.config.base import Fraction, Name, Section

HOLDOUT = "holdout"
"""Name of the users to whom the shop shows what it showed before."""


class ExperimentConfig(Section):
    """An A/B test: the column `variant` of the recommendations assigns each user to one of its variants.

    All lists are made alike. The shop decides what it shows to a variant.
    """

    salt: Annotated[str, Field(pattern=r"^[\w.-]+$")]
    """Name of the test. The same salt and shares give the same users the same variants, in every run config. Another salt
    draws the users anew."""
    variants: Annotated[dict[Name, Annotated[float, Field(gt=0, lt=1)]], Field(min_length=1)]
    """Variant → share of all users. A change of the shares moves users between variants, and never into or out of the
    holdout."""
    holdout: Fraction = 0.0
    """Share of users whose variant is `holdout`: the shop shows them what it showed before. A change of this share moves no
    user from one of the variants to another, if their shares keep their ratio."""

    @model_validator(mode="after")
    def _shares_add_up(self) -> "ExperimentConfig":
        if HOLDOUT in self.variants:
            raise ValueError(
                f"variants: {HOLDOUT} is no variant of its own: give its share as {HOLDOUT}: {self.variants[HOLDOUT]:g}"
            )
        total = sum(self.variants.values()) + self.holdout
        if abs(total - 1) > 1e-9:
            named = " + ".join(f"{name} {share:g}" for name, share in self.shares.items())
            raise ValueError(
                f"the shares of the variants and of the holdout must add up to 1, found {named} = {total:g}"
            )
        return self

    @property
    def shares(self) -> dict[str, float]:
        """Variant → share of all users, by name; the holdout first, if there is one."""
        first = {HOLDOUT: self.holdout} if self.holdout else {}
        return first | {name: self.variants[name] for name in sorted(self.variants)}
