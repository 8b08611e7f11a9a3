"""An output folder, and places to deliver to."""

import pytest

from tests.s3 import s3, silent_s3, url

__all__ = ["s3", "silent_s3", "url"]


@pytest.fixture
def home(tmp_path):
    """The output folder."""
    return tmp_path / "output"
