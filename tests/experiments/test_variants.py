"""The assignment of users to the variants of an A/B test."""

from hashlib import sha256

import numpy as np
import pyarrow as pa
import pytest

from kdlib.config.experiment import ExperimentConfig
from kdlib.experiments.variants import assigned

USERS = [f"user{number}" for number in range(20_000)]
SHARES = {"holdout": 0.1, "control": 0.45, "treatment": 0.45}


def variants(users=USERS, *, salt="spring-2026", **shares):
    """User → variant."""
    return dict(zip(users, assigned(users, salt=salt, shares=shares or SHARES).to_pylist(), strict=True))


def moved(before, after):
    """Share of users whose variant is another."""
    return np.mean([before[user] != after[user] for user in before])


def by_definition(user, salt="spring-2026"):
    """The two numbers as the docstring says, from hexadecimal digits."""
    digits = sha256(f"{salt}:{user}".encode()).hexdigest()
    return int(digits[:13], 16) / 16**13, int(digits[16:29], 16) / 16**13


@pytest.mark.parametrize("user", ["1", "Ünï 7", "a:b", "", *USERS[:200]])
def test_the_variant_is_that_of_the_definition(user):
    """The first 13 hexadecimal digits decide the holdout, 13 further ones the variant."""
    first, second = by_definition(user)
    expected = "holdout" if first < 0.1 else "control" if second < 0.5 else "treatment"
    assert variants([user]) == {user: expected}


def test_sql_gives_the_same_variants():
    """DuckDB computes the variants from the user ids with the expression of the documents."""
    duckdb = pytest.importorskip("duckdb")
    users = pa.table({"user_id": [*USERS, "Ünï 7", " x", "a'b"]})
    digits = "('0x' || substr(sha256('spring-2026:' || user_id), {}, 13))::bigint"
    found = duckdb.sql(
        f"select user_id, case when {digits.format(1)} < 0.1 * pow(2, 52) then 'holdout'"
        f" when {digits.format(17)} < 0.5 * pow(2, 52) then 'control' else 'treatment' end from users"
    ).fetchall()
    assert dict(found) == variants(users["user_id"].to_pylist())


def test_each_variant_has_its_share():
    """Shares lie within four standard errors of what was asked for, for all users and within another test's variants."""
    found, other = variants(), variants(salt="autumn-2026")
    for users in (USERS, [user for user in USERS if other[user] == "treatment"]):
        for name, share in SHARES.items():
            error = np.sqrt(share * (1 - share) / len(users))
            assert abs(np.mean([found[user] == name for user in users]) - share) < 4 * error


def test_variants_are_stable_over_ten_nights():
    """Users come and go from night to night, in another order, and each keeps its variant; new users get one."""
    rng, seen = np.random.default_rng(1), {}
    for night in range(1, 11):
        users = [user for user in USERS[: 2_000 * night] if rng.random() < 0.9]
        rng.shuffle(users)
        tonight = variants(users)
        assert {user: seen[user] for user in users if user in seen} == {
            user: tonight[user] for user in users if user in seen
        }
        seen |= tonight
    assert len(seen) > 19_000


def test_new_shares_move_no_more_users_than_they_must():
    """Users leave a variant for one that has grown. Nobody enters or leaves the holdout."""
    before = variants()
    after = variants(holdout=0.1, control=0.18, treatment=0.72)
    assert moved(before, after) == pytest.approx(0.27, abs=0.01)
    assert {(before[user], after[user]) for user in USERS if before[user] != after[user]} == {("control", "treatment")}


def test_a_larger_holdout_takes_users_from_all_variants_alike():
    """Who is held out stays so, and nobody else gets another variant."""
    before, after = variants(), variants(holdout=0.3, control=0.35, treatment=0.35)
    changes = {(before[user], after[user]) for user in USERS if before[user] != after[user]}
    assert changes == {("control", "holdout"), ("treatment", "holdout")}
    assert moved(before, after) == pytest.approx(0.2, abs=0.01)


def test_another_salt_draws_the_users_anew():
    """Whoever was in a variant is in another test's variants by their shares."""
    assert moved(variants(), variants(salt="autumn-2026")) == pytest.approx(1 - 0.1**2 - 2 * 0.45**2, abs=0.02)


def test_the_order_in_the_run_config_does_not_matter():
    """Two run configs with the same salt and shares assign the same users."""
    one, other = (ExperimentConfig(salt="s", variants=dict.fromkeys(names, 0.5)) for names in (("a", "b"), ("b", "a")))
    assert variants(salt=one.salt, **one.shares) == variants(salt=other.salt, **other.shares)


def test_no_users_have_no_variants():
    """Ray Data may pass an empty batch."""
    found = assigned([], salt="s", shares=SHARES)
    assert (len(found), found.type) == (0, pa.string())
