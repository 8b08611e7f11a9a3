"""An item: its facts, and its neighbours in the space of each model."""

from markupsafe import Markup

from kdlib.explore import models
from kdlib.explore.data import read_item, read_titles
from kdlib.explore.rendering import render
from kdlib.explore.run import Run
from kdlib.explore.shop import Shop


def item_view(shop: Shop, run: Run, item_id: str) -> Markup:
    """The page of one item. An unknown item gets a sentence.

    A cross-fitted teacher has a space for each fold: the first one is shown.
    """
    item = read_item(run, item_id)
    if item is None:
        return render("unknown", what="item", name=item_id, ds=run.ds, pseudonyms=False)
    vocabulary, index = run.folder("item_vocabulary"), item["item_index"]
    lists = models.ask_models(shop, run, lambda folders: models.neighbours(folders[0], vocabulary, index, k=shop.k))
    titles = read_titles(run, {near for one in lists for near, _ in one.items})
    return render("item", item=item, lists=lists, titles=titles)
