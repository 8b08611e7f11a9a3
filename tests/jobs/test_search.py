"""The command `search`, on a shop made by hand."""

import yaml

from tests.explore import made_shop
from tests.jobs.handmade import run


def test_a_search_is_ranked_for_a_user(tmp_path, capsys):
    """With `--user` the items like those of the user's history come first. An unknown user is an error that names some."""
    config = tmp_path / "run.yaml"
    document = {"name": "s", "output_dir": str(tmp_path / "out"), "input": {"simulate": {}}, "search": {}}
    config.write_text(yaml.safe_dump(document))
    made_shop.put_run(tmp_path / "out", made_shop.DS, seed=1)
    [viewed] = [made_shop.TITLES[index] for index in made_shop.history(1)["item_indices"]]
    assert run("search", config, "lamp", "-k", "1") == 0
    assert viewed not in capsys.readouterr().out
    assert run("search", config, "lamp", "-k", "1", "--user", made_shop.user_id(1)) == 0
    assert viewed in capsys.readouterr().out
    assert run("search", config, "lamp", "--user", "nobody") == 2
    assert "no user 'nobody' in histories of the run of 2026-11-22. It has user0000" in capsys.readouterr().err
