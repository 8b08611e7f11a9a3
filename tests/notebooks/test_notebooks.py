"""The notebooks run from the first cell to the last, one after another in one folder, as a person runs them."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from kdlib import notebook
from tests.whole_nights import environment

HERE = Path(__file__).parent
NOTEBOOKS = sorted(HERE.glob("*.ipynb"))
pytestmark = pytest.mark.engine


def execute(name: str, folder: Path, variables: str) -> dict[str, Any]:
    """Run a notebook in a folder. Returns what a dict of its variables, given as an expression, holds at the end."""
    document = nbformat.read(HERE / f"{name}.ipynb", as_version=4)
    document.cells.append(nbformat.v4.new_code_cell(f"import json; print(json.dumps({variables}))"))
    with_commands = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environ = environment() | {"PATH": with_commands, "IPYTHONDIR": str(folder / "ipython")}
    place = {"metadata": {"path": str(folder)}}
    client = NotebookClient(document, timeout=300, startup_timeout=120, resources=place)
    client.execute(env=environ)
    return json.loads(document.cells[-1].outputs[0].text)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder in which the first notebook has made its run, and what the notebook held at the end."""
    folder = tmp_path_factory.mktemp("notebooks")
    variables = """{
        "clicks": len(clicks),
        "kept": sum(distilrec.read_table(run, "sessions")["num_events"].to_pylist()),
        "list": lists["item_id"].tolist(),
        "tables": distilrec.tables(run),
    }"""
    return folder, execute("own_data_in_ten_minutes", folder, variables)


@pytest.mark.e2e
def test_own_data(shop: tuple[Path, dict[str, Any]]) -> None:
    """The first notebook keeps every made-up click, and publishes a list of ten for each of its 800 customers."""
    folder, found = shop
    assert found["kept"] == found["clicks"] > 10_000
    assert found["tables"]["recommendations"] == 800
    assert len(set(found["list"])) == 10
    run = notebook.load_run(folder / "my_shop" / "run.yaml", overrides=[f"output_dir={folder}/output/my_shop"])
    assert notebook.recommend(run, "c0007")["item_id"].to_pylist() == found["list"]


@pytest.mark.e2e
def test_reading_a_run(shop: tuple[Path, dict[str, Any]]) -> None:
    """DuckDB, Polars and Spark read the same tables as Arrow, and the student is measured as the run measured it."""
    folder, found = shop
    variables = """{
        "histories": num_histories,
        "sessions": int(session_lengths["len"].sum()),
        "most": most_recommended.to_dict("list"),
        "lists": made.groupby("user_id")["item_id"].agg(list).tolist(),
        "divergences": divergences,
        "measured": measured.query("model == 'student'").set_index("metric")["value"].to_dict(),
        "metrics": distilrec.metrics(run).to_pandas().query("model == 'student'").set_index("metric")["value"].to_dict(),
    }"""
    read = execute("read_a_run", folder, variables)
    assert (read["histories"], read["sessions"]) == (800, found["tables"]["sessions"])
    run = notebook.load_run(folder / "my_shop" / "run.yaml", overrides=[f"output_dir={folder}/output/my_shop"])
    every = [item for one in notebook.read_table(run, "recommendations")["item_ids"].to_pylist() for item in one]
    assert read["most"]["num_users"] == [every.count(item) for item in read["most"]["item_id"]]
    assert [len(one) for one in read["lists"]] == [5, 5]
    assert not set(read["lists"][1]) & set(read["most"]["item_id"][:3])
    assert read["divergences"][0] == pytest.approx(0, abs=1e-6)
    assert read["divergences"][1] > 0.1
    assert read["measured"] == {name: read["metrics"][name] for name in read["measured"]}


@pytest.mark.e2e
def test_own_teacher(shop: tuple[Path, dict[str, Any]]) -> None:
    """The teacher of the notebook is measured alike before the run and in the run, and its student gains by it."""
    variables = """{
        "before": before.query("model == 'mine'").set_index("metric")["value"].to_dict(),
        "after": after.query("model == 'mine'").set_index("metric")["value"].to_dict(),
        "gain": after.query("model == 'student - control' and metric == 'ndcg@10'")["low"].item(),
    }"""
    found = execute("own_teacher", shop[0], variables)
    assert found["before"] == {name: found["after"][name] for name in found["before"]}
    assert found["gain"] > 0


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_hold_no_output(path: Path) -> None:
    """A notebook in the repository is valid and has neither outputs nor counts of its cells."""
    document = nbformat.read(path, as_version=4)
    nbformat.validate(document)
    cells = [cell for cell in document.cells if cell.cell_type == "code"]
    assert cells
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)
