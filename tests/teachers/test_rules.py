"""Sequential rules against counting by hand, and predictions without the own window against a new count."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from kdlib.data.batches import store_from_tables
from kdlib.data.windows import WINDOWS_SCHEMA
from kdlib.errors import ModelError
from kdlib.models.encode import scorer
from kdlib.models.files import load_model, load_predictor, save_rules
from kdlib.models.rules import RuleSettings
from kdlib.store.tables import CONTEXT
from kdlib.teachers import rules as rules_module
from kdlib.teachers.rules import RulesAtPositions, count_rules

SETTINGS = RuleSettings(max_distance=3, distance_decay=0.5, backward_weight=0.25, history_decay=0.4, prior_weight=2.0)
NUM_ITEMS = 9


def windows_of(sequences):
    return pa.table(
        {
            "user_id": [f"u{number}" for number in range(len(sequences))],
            "start": [0] * len(sequences),
            "items": sequences,
            "context": [[0] * (len(CONTEXT) * (len(items) - 1)) for items in sequences],
            "target_types": [[0] * (len(items) - 1) for items in sequences],
        },
        schema=WINDOWS_SCHEMA,
    )


def counts_of(sequences):
    return np.bincount(np.concatenate(sequences), minlength=NUM_ITEMS)


def rules_of(sequences, settings=SETTINGS, num_train=None):
    return count_rules(
        [windows_of(sequences)], settings, num_train_V=counts_of(sequences) if num_train is None else num_train
    )


def slow_log_probs(sequences, history, settings, popularity):
    """The log-probabilities by definition, one pair after the other."""
    scores = np.zeros(NUM_ITEMS)
    for back, antecedent in enumerate(reversed(history)):
        if back > settings.max_distance:
            break
        for items in sequences:
            for one, item in enumerate(items):
                for other, consequent in enumerate(items):
                    distance = other - one
                    if item != antecedent or not 0 < abs(distance) <= settings.max_distance:
                        continue
                    weight = settings.distance_decay ** (abs(distance) - 1)
                    weight *= 1.0 if distance > 0 else settings.backward_weight
                    scores[consequent] += settings.history_decay**back * weight
    return np.log((scores + settings.prior_weight * popularity) / (scores.sum() + settings.prior_weight))


def random_sequences(seed, number=12):
    draw = np.random.default_rng(seed)
    return [draw.integers(0, NUM_ITEMS, draw.integers(2, 9)).tolist() for _ in range(number)]


def test_a_rule_counts_distance_and_direction():
    """In the sequence 0 1 2, the rule 0 → 1 has weight 1, 0 → 2 has 1/2, and 1 → 0 has 1/4."""
    rules = rules_of([[0, 1, 2]])
    dense = np.zeros((NUM_ITEMS, NUM_ITEMS))
    for item in range(NUM_ITEMS):
        chosen = slice(rules.offsets_V1[item], rules.offsets_V1[item + 1])
        dense[item, rules.consequents_N[chosen]] = rules.weights_N[chosen]
    assert dense[0, 1] == 1.0
    assert dense[0, 2] == 0.5
    assert dense[1, 0] == 0.25
    assert dense[2, 0] == 0.125
    assert (dense > 0).sum() == 6


@pytest.mark.parametrize("seed", range(5))
def test_predictions_are_what_counting_pairs_gives(seed):
    """Short and long histories, items without rules and repeated items are predicted as by the definition."""
    sequences, histories = random_sequences(seed), random_sequences(seed + 100)
    rules = rules_of(sequences)
    lengths = np.array([len(history) for history in histories])
    items = np.concatenate(histories)
    context = np.zeros((len(items), len(CONTEXT)), np.int8)
    found = scorer(rules, device=torch.device("cpu"))(items, context, lengths)
    popularity = np.maximum(counts_of(sequences), 0.5)
    for row, history in zip(found, histories, strict=True):
        expected = slow_log_probs(sequences, history, SETTINGS, popularity / popularity.sum())
        np.testing.assert_allclose(row.numpy(), expected, rtol=1e-4)
        assert float(row.exp().sum()) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_a_training_position_is_judged_by_all_other_windows(seed):
    """Subtracting a window's own counts gives the same predictions as counting only the other windows."""
    sequences = random_sequences(seed)
    rules, store = rules_of(sequences), store_from_tables([windows_of(sequences)])
    chosen = np.array([7, 2, 5])
    predicted = RulesAtPositions(rules, store, chosen)
    popularity = np.maximum(counts_of(sequences), 0.5)
    expected = [
        slow_log_probs(
            sequences[:window] + sequences[window + 1 :],
            sequences[window][: place + 1],
            SETTINGS,
            popularity / popularity.sum(),
        )
        for window in chosen
        for place in range(len(sequences[window]) - 1)
    ]
    found = torch.cat([predicted.logits(0, 4), predicted.logits(4, len(expected))])
    np.testing.assert_allclose(found.numpy(), np.array(expected), rtol=1e-3)


def test_counting_in_parts_gives_the_same(monkeypatch):
    """The rules do not depend on the number of tables or of merges."""
    sequences = random_sequences(3, number=40)
    whole = rules_of(sequences)
    monkeypatch.setattr(rules_module, "MERGE_PAIRS", 10)
    parts = count_rules((windows_of([items]) for items in sequences), SETTINGS, num_train_V=counts_of(sequences))
    assert torch.equal(parts.offsets_V1, whole.offsets_V1)
    assert torch.equal(parts.consequents_N, whole.consequents_N)
    torch.testing.assert_close(parts.weights_N, whole.weights_N)


def test_an_item_without_rules_predicts_popularity():
    """Without rules the prediction is the prior, and an item that was never seen is still possible."""
    rules = rules_of([[0, 1], [0, 1, 2]])
    found = scorer(rules, device=torch.device("cpu"))(np.array([8]), np.zeros((1, 3), np.int8), np.array([1]))
    torch.testing.assert_close(found[0].exp(), rules.popularity_V)
    assert rules.popularity_V.min() > 0


def test_rules_without_backward_weight_point_forward_only():
    """With backward_weight 0, no rule points backward in time."""
    rules = rules_of([[0, 1]], RuleSettings(3, 0.5, 0.0, 0.4, 1.0))
    assert rules.offsets_V1.tolist() == [0] + [1] * NUM_ITEMS


def test_rules_survive_their_files_and_do_not_serve(tmp_path: Path):
    """Loaded rules predict the same. Where a student is expected, rules are an error that names what was found."""
    rules = rules_of(random_sequences(1))
    facts = save_rules(tmp_path, rules, {"seed": None})
    loaded, read = load_predictor(tmp_path)
    assert read == facts
    assert facts["parameters"] == len(rules.weights_N)
    assert not isinstance(loaded, torch.nn.Module)
    score = [scorer(model, device=torch.device("cpu")) for model in (rules, loaded)]
    history = np.array([1, 4, 2]), np.zeros((3, 3), np.int8), np.array([3])
    assert torch.equal(score[0](*history), score[1](*history))
    with pytest.raises(ModelError, match="must be a sequence model, found sequential rules"):
        load_model(tmp_path)
