"""The job: what it says of the catalogue that it has read; whole nights of it in test_search.py."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from jobs import build_products
from kdlib.config.load import load_config
from kdlib.release import promotions
from kdlib.store import partitions
from kdlib.store.partitions import Manifest

BEFORE, DS = "2026-11-21", "2026-11-22"


def put(root: Path, ds: str, items: int) -> Manifest:
    """Publish products as a night does that has read so many."""
    staging = partitions.new_staging(root, "products", ds)
    pq.write_table(pa.table({"item_id": ["a"]}), staging / "part.parquet")
    counts = {"rows_read": items, "items": items, "repeated_id": 0, "without_id": 0, "corrupt": 0}
    return partitions.publish(staging, root, "products", ds, fingerprint=str(items), details={"catalogue": counts})


@pytest.mark.parametrize(
    ("before", "told"),
    [
        (
            100_000,
            "build_products: warning: the catalogue has 3 items, the run before had 100,000. Check that its export is complete",
        ),
        (4, ""),
        (None, ""),
        ("gone", ""),
    ],
)
def test_a_catalogue_that_shrinks_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], before: object, told: str
) -> None:
    """In a night of search alone too, beside the last promoted one; no night is lost for want of something to compare."""
    config, root = tmp_path / "run.yaml", tmp_path / "out"
    catalogue = {"path": str(tmp_path / "products.csv"), "format": "csv", "item": "sku", "title": "name"}
    Path(catalogue["path"]).write_text("sku,name\na,tent\n")
    config.write_text(
        yaml.safe_dump({"name": "shop", "output_dir": str(root), "input": {"catalogue": catalogue}, "search": {}})
    )
    if before:
        made = put(root, BEFORE, before if isinstance(before, int) else 100_000)
        promotions.promote(root, BEFORE, {"products": made.version})
        if before == "gone":
            (partitions.current(root, "products", BEFORE).parent / "manifest.json").unlink()
    build_products.tell(load_config(config, ds=DS), {"products": put(root, DS, 3)})
    assert capsys.readouterr().out.splitlines()[1:] == [told] * bool(told)
