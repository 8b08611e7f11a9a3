"""Sequential rules: a teacher that counts which items are near which, instead of learning vectors.

A rule i → j gets weight each time j follows i: the farther away, the less. It gets a smaller weight where j precedes i
(Kamehkhosh, Jannach & Ludewig 2017; Ludewig & Jannach 2018, section 3.1). A prediction adds up the rules of the last items of
a history. The newest item counts most, and a Dirichlet prior smooths the sum towards popularity. On sparse data, counts keep
details that vectors blur. Both together are better than either.

At a training position, rules would repeat what they counted there. So a window is predicted from the rules of all *other*
windows: its own counts are known exactly and are subtracted. Only the popularity prior still includes the window's own items.

Shapes: T positions, V items, N rules, S items of all sequences together.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

ROUNDING = 1e-5
"""Weights below this are 0: rounding errors of subtracting a window's own counts."""


@dataclass(frozen=True)
class RuleSettings:
    """How rules are counted and used. `kdlib.config.models.RulesConfig` has the defaults."""

    max_distance: int
    """Largest distance of two items of a rule. A prediction reads this many items before the last one of a history."""
    distance_decay: float
    """A pair at distance d counts decay^(d − 1)."""
    backward_weight: float
    """Factor on the count of a pair in the opposite direction."""
    history_decay: float
    """The last item of a history counts 1, an item b positions before it decay^b."""
    prior_weight: float
    """Number of pseudo-counts that are spread over all items by popularity."""

    def pair_weight(self, distance: int) -> float:
        """Weight of a pair of items. `distance` is positive where the second item follows, negative where it precedes."""
        if not 0 < abs(distance) <= self.max_distance:
            return 0.0
        return self.distance_decay ** (abs(distance) - 1) * (1.0 if distance > 0 else self.backward_weight)


class SequentialRules:
    """Counted rules, ready to predict.

    Args:
      settings: the settings that the rules were counted with.
      offsets_V1: int64 [items + 1]. The rules of item i are `consequents_N[offsets[i]:offsets[i + 1]]`.
      consequents_N: int32 item indices.
      weights_N: float32.
      popularity_V: float32, positive, sums to 1.
    """

    def __init__(
        self,
        settings: RuleSettings,
        *,
        offsets_V1: Tensor,
        consequents_N: Tensor,
        weights_N: Tensor,
        popularity_V: Tensor,
    ) -> None:
        self.settings = settings
        self.offsets_V1, self.consequents_N = offsets_V1, consequents_N
        self.weights_N, self.popularity_V = weights_N, popularity_V

    @property
    def num_items(self) -> int:
        return len(self.popularity_V)

    def to(self, device: torch.device) -> "SequentialRules":
        """The same rules on a device."""
        tensors, options = rules_state(self)
        return rules_from_state({name: value.to(device) for name, value in tensors.items()}, options)

    def logits(self, items_S: Tensor, last_T: Tensor, before_T: Tensor, *, without: "Counts | None" = None) -> Tensor:
        """Log-probabilities of the next item, float32 [positions, items].

        Args:
          items_S: int64 item indices of sequences, one after the other. All arguments are on the model's device.
          last_T: int64, the index in `items_S` of each position's newest item.
          before_T: int64, number of items of the same sequence before that item.
          without: the counts of these sequences themselves, to be subtracted.
        """
        scores_TV = torch.zeros(len(last_T), self.num_items, device=self.popularity_V.device)
        self._add_rules(
            scores_TV, Counts(items_S, self.offsets_V1, self.consequents_N, self.weights_N), last_T, before_T
        )
        if without is not None:
            own = without._replace(weights_N=-without.weights_N)
            self._add_rules(scores_TV, own, last_T, before_T)
            scores_TV.masked_fill_(scores_TV < ROUNDING, 0.0)
        prior = self.settings.prior_weight
        total_T1 = scores_TV.sum(1, keepdim=True) + prior
        return scores_TV.add_(self.popularity_V, alpha=prior).div_(total_T1).log_()

    def _add_rules(self, scores_TV: Tensor, counts: "Counts", last_T: Tensor, before_T: Tensor) -> None:
        """Add the weights of all rules that start at one of the items up to each position."""
        num_rules = counts.offsets.diff()
        for back in range(self.settings.max_distance + 1):
            rows = (before_T >= back).nonzero()[:, 0]
            antecedents = counts.antecedents_S[last_T[rows] - back]
            found = num_rules[antecedents]
            first = counts.offsets[antecedents] - (found.cumsum(0) - found)
            which = torch.repeat_interleave(first, found)
            which += torch.arange(len(which), device=which.device)
            cells = torch.repeat_interleave(rows * self.num_items, found) + counts.consequents_N[which]
            scores_TV.view(-1).index_add_(0, cells, counts.weights_N[which] * self.settings.history_decay**back)


class Counts(NamedTuple):
    """Rules of the items of some sequences."""

    antecedents_S: Tensor
    """int64, the number of the antecedent at each place of the sequences, as in `offsets`."""
    offsets: Tensor
    """int64 [antecedents + 1]: the rules of antecedent i are `offsets[i]:offsets[i + 1]`."""
    consequents_N: Tensor
    """int32 or int64 item indices."""
    weights_N: Tensor
    """float32."""


def rules_state(rules: SequentialRules) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The model as tensors and options for JSON."""
    tensors = {
        "offsets": rules.offsets_V1,
        "consequents": rules.consequents_N,
        "weights": rules.weights_N,
        "popularity": rules.popularity_V,
    }
    return tensors, {"kind": "rules", **vars(rules.settings)}


def rules_from_state(tensors: dict[str, Tensor], options: dict[str, Any]) -> SequentialRules:
    """The model from the result of `rules_state`."""
    return SequentialRules(
        RuleSettings(**{name: value for name, value in options.items() if name != "kind"}),
        offsets_V1=tensors["offsets"],
        consequents_N=tensors["consequents"],
        weights_N=tensors["weights"],
        popularity_V=tensors["popularity"],
    )
