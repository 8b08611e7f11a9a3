"""A user: the history, the published list beside the list before, and what each model would list."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from markupsafe import Markup

from kdlib.explore import models
from kdlib.explore.data import count_steps, has_pseudonyms, read_list, read_steps, read_titles
from kdlib.explore.rendering import render
from kdlib.explore.run import LISTS, Run, lists_before
from kdlib.explore.shop import Shop


@dataclass(frozen=True)
class Place:
    """An item of the published list, or of the list before."""

    item_id: str
    rank: int | None
    """From 1. None: the item is gone."""
    before: int | None
    """Rank in the list before, from 1. None: the item is new."""

    @property
    def change(self) -> str:
        """`new`, `gone`, `same`, `up 2` or `down 3`."""
        if self.rank is None:
            return "gone"
        if self.before is None:
            return "new"
        steps = self.before - self.rank
        return "same" if steps == 0 else f"up {steps}" if steps > 0 else f"down {-steps}"


def compare(now: Sequence[str], before: Sequence[str]) -> list[Place]:
    """The items of a list in its order, then the items that only the list before has, in their order."""
    rank = {item: number for number, item in enumerate(now, start=1)}
    earlier = {item: number for number, item in enumerate(before, start=1)}
    return [Place(item, rank.get(item), earlier.get(item)) for item in dict.fromkeys([*now, *before])]


def user_view(shop: Shop, run: Run, user_id: str) -> Markup:
    """The page of one user. An unknown user gets a sentence."""
    total = count_steps(run, user_id)
    if total is None:
        return render("unknown", what="user", name=user_id, ds=run.ds, pseudonyms=has_pseudonyms(run))
    steps = read_steps(run, user_id)
    history, vocabulary = models.read_history(run.folder("histories"), user_id), run.folder("item_vocabulary")
    lists = models.ask_models(shop, run, lambda folders: models.best_items(folders, vocabulary, history, k=shop.k))
    published = read_list(run.folder(LISTS), user_id) if LISTS in run.versions else None
    earlier = lists_before(run)
    before = read_list(earlier[1], user_id) if earlier else None
    now_ids, before_ids = (one["item_ids"] if one else [] for one in (published, before))
    because = (published or {}).get("because_item_ids") or []
    scored = (item for one in lists for item, _ in one.items)
    titles = read_titles(run, {*now_ids, *before_ids, *chain(*because), *scored})
    return render(
        "user",
        user_id=user_id,
        total=total,
        steps=steps,
        made_up_times=shop.made_up_times,
        published=published,
        because=because,
        earlier=earlier[0] if earlier else None,
        in_earlier=published is not None and before is not None,
        pseudonyms=has_pseudonyms(run),
        places=compare(now_ids, before_ids),
        lists=lists,
        listed=set(now_ids),
        titles=titles,
    )
