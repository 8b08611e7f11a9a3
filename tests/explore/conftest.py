"""A small shop with two promoted runs, and the pages' view of it."""

from pathlib import Path

import pytest

from kdlib.config.load import load_config
from kdlib.explore.run import Run
from kdlib.explore.shop import Shop
from tests.explore import made_shop


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run config of the shop. No test changes what it has published."""
    return made_shop.put_shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture
def shop(config: Path) -> Shop:
    from jobs.explore import shop_of

    return shop_of(load_config(str(config)), of_day=False)


@pytest.fixture
def run(shop: Shop) -> Run:
    """The run in use."""
    return shop.run()
