"""Which variant of an A/B test a user sees: a salted hash of the user id, so that it never changes.

Two numbers of 13 hexadecimal digits each are cut out of SHA-256(`salt:user_id`). The first decides whether the user is
held out, the second decides the variant. 13 digits are 52 bits, which every system's numbers hold without rounding. The
bounds are the sums of the shares by name, as parts of what the holdout leaves. For `salt: spring-2026`, `variants:
{control: 0.45, treatment: 0.45}` and `holdout: 0.1`, in Spark SQL:

    case when conv(substr(sha2(concat('spring-2026:', user_id), 256), 1, 13), 16, 10) < 0.1 * pow(2, 52) then 'holdout'
         when conv(substr(sha2(concat('spring-2026:', user_id), 256), 17, 13), 16, 10) < 0.5 * pow(2, 52) then 'control'
         else 'treatment' end
"""

from collections.abc import Iterable, Mapping
from hashlib import sha256

import numpy as np
import pyarrow as pa

from kdlib.config.experiment import HOLDOUT

_DROPPED_BITS = 12
"""Of 16 hexadecimal digits, 13 are used."""
_SCALE = 2.0**-52


def assigned(user_ids: Iterable[str], *, salt: str, shares: Mapping[str, float]) -> pa.Array:
    """Each user's variant: string [users]. It depends on the user id, the salt and the shares alone.

    Args:
      user_ids: as the tables have them; with a pseudonym key the pseudonyms.
      salt: name of the test.
      shares: variant → share of all users, from `ExperimentConfig.shares`.
    """
    prefix = f"{salt}:".encode()
    digests = b"".join(sha256(prefix + user_id.encode()).digest()[:16] for user_id in user_ids)
    numbers = (np.frombuffer(digests, ">u8").reshape(-1, 2) >> _DROPPED_BITS) * _SCALE
    names = sorted(shares.keys() - {HOLDOUT})
    sizes = np.array([shares[name] for name in names])
    bounds = np.cumsum(sizes)[:-1] / sizes.sum()
    places = np.searchsorted(bounds, numbers[:, 1], side="right")
    places[numbers[:, 0] < shares.get(HOLDOUT, 0.0)] = len(names)
    return pa.array([*names, HOLDOUT]).take(pa.array(places))
