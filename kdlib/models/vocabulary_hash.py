"""Which vocabulary a model belongs to."""

import hashlib


def vocabulary_hash(item_ids: list[str]) -> str:
    """SHA-256 of the item ids in index order.

    A model fits a vocabulary that begins with the ids that the model was trained on.
    """
    return hashlib.sha256("\n".join(item_ids).encode()).hexdigest()
