"""A run that is loaded to answer requests. Nothing of it changes but the items that are out of stock.

An answer comes from the `Recommender` that made the nightly table, so an equal history gets an equal list.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from kdlib.errors import InputError
from kdlib.inference.recommender import SOURCES, Recommender
from kdlib.privacy.pseudonyms import BLANKS
from kdlib.release import promotions
from kdlib.release.promotions import Promotion
from kdlib.serving.histories import Step, histories_of, steps_of
from kdlib.serving.made_with import MadeWith
from kdlib.serving.requests import Request, RequestError
from kdlib.serving.users import Users
from kdlib.store.days import day_end

LISTS = "recommendations"
SEARCH = ("search_index", "models/search_student")
ALL_ITEMS = 1 << 62
"""A batch of requests is small, so the scores of all items fit into memory at a time."""
Answer = dict[str, Any]
"""JSON-ready."""


class Night:
    """A loaded run.

    Args:
      root: the output folder.
      used: the switch that put the run in use.
      pseudonym_of: the shop's own user id → its pseudonym. None: the run has the shop's ids.
      search_missing: why product search cannot run here. Empty: it can.

    Raises:
      InputError: tables of the run are gone, or an earlier release made its lists.
      ModelError: a model is damaged.
    """

    def __init__(
        self,
        root: Path,
        used: Promotion,
        *,
        pseudonym_of: Callable[[str], str] | None = None,
        search_missing: str = "",
    ) -> None:
        self.used, self._root, self._pseudonym_of = used, root, pseudonym_of
        self.made: MadeWith | None = None
        self.model_version = ""
        """Of the student that answers; of the search student, where the run has product search alone."""
        if LISTS in used.versions:
            self._load_lists()
        self._search, self._search_missing = None, search_missing or f"the run of {used.ds} has no product search"
        if set(SEARCH) <= set(used.versions) and not search_missing:
            from kdlib.search.index import load_index  # its packages are of the extra `search`

            self._search = load_index(*map(self._folder, SEARCH))
            self.model_version = self.model_version or used.versions[SEARCH[1]]

    def _folder(self, name: str) -> Path:
        folder = promotions.folder_of(self._root, self.used, name)
        if not folder.is_dir():
            raise InputError(f"{name} of {self.used.ds}, version {self.used.versions[name]}, is gone ({folder})")
        return folder

    def _load_lists(self) -> None:
        root, used = self._root, self.used
        lists = promotions.manifest_of(root, used, LISTS)
        if "made_with" not in lists.details:
            raise InputError(
                f"the lists of {used.ds} were made by an earlier release, and do not say with which rules. Serve a newer"
                f" run, or run `distilrec recommend --ds {used.ds}` and `distilrec promote --ds {used.ds}`"
            )
        made = self.made = MadeWith.model_validate(lists.details["made_with"])
        folders = {name: self._folder(name) for name in ("item_features",) if name in used.versions}
        self._recommender = Recommender(
            *(str(self._folder(name)) for name in (promotions.student_of(lists), "item_vocabulary", "item_statistics")),
            k=made.k,
            because=made.because,
            item_block=ALL_ITEMS,
            generated_at=day_end(date.fromisoformat(used.ds), made.time_zone),
            threads=1,
            policy=made.policy,
            experiment=made.experiment,
            **{f"{name}_folder": str(folder) for name, folder in folders.items()},
        )
        self.model_version = self._recommender.version
        self._item_ids = self._recommender.item_ids.to_pylist()
        self._index_of = {item: index for index, item in enumerate(self._item_ids)}
        codings = promotions.manifest_of(root, used, "item_vocabulary").details.get("user_values", [])
        segments = made.policy.segments if made.policy else None
        self._users = Users(
            self._folder("histories") if self._recommender.model.options["user_columns"] else None,
            len(codings),
            self._folder("user_features") if segments else None,
            segments.feature if segments else None,
        )

    def leave_out(self, item_ids: Iterable[str]) -> None:
        """From now on no list and no search holds these items."""
        item_ids = list(item_ids)
        if self.made is not None:
            self._recommender.leave_out(item_ids)
        if self._search is not None:
            self._search.leave_out(item_ids)

    def recommend(self, requests: Sequence[Request], *, now: int) -> list[Answer | RequestError]:
        """The answer to each request, or why the run has none.

        Args:
          requests: a batch.
          now: microseconds since 1970.
        """
        checked = [self._checked(request, now) for request in requests]
        good = [number for number, one in enumerate(checked) if not isinstance(one, RequestError)]
        found: list[Answer | RequestError] = [one if isinstance(one, RequestError) else {} for one in checked]
        if good:
            asked = [requests[number] for number in good]
            answers = self._answers(asked, [checked[number] for number in good])  # pyright: ignore[reportArgumentType]
            for number, answer in zip(good, answers, strict=True):
                found[number] = answer
        return found

    def _checked(self, request: Request, now: int) -> list[Step] | RequestError:
        if self.made is None:
            return RequestError(404, f"the run of {self.used.ds} has product search alone. Ask /search?q=…")
        if request.k is not None and request.k > self.made.k:
            return RequestError(
                400, f"k must be at most {self.made.k} (recommend.k), found {request.k}. Ask for fewer items"
            )
        try:
            return steps_of(request, self.made, now=now)
        except RequestError as error:
            return error

    def _answers(self, requests: Sequence[Request], people: Sequence[Sequence[Step]]) -> list[Answer]:
        assert self.made is not None
        users = [self._named(request.user) for request in requests]
        histories, unknown = histories_of(
            people,
            self._index_of,
            user_ids=users,
            user_values=np.stack([self._users.values(user) for user in users]),
        )
        lists = self._recommender.lists(histories, [self._users.segment(user) for user in users])
        rows = zip(*(part.tolist() for part in (*lists, lists.sources_BK())), strict=True)
        return [
            self._answer(row, request, user, items)
            for row, request, user, items in zip(rows, requests, users, unknown, strict=True)
        ]

    def _named(self, user: str | None) -> str | None:
        """The user's id in the run's tables."""
        if user is None or self._pseudonym_of is None:
            return user if user is None else user.strip(BLANKS)
        return self._pseudonym_of(user.strip(BLANKS))

    def _answer(self, row: tuple[Any, ...], request: Request, user: str | None, unknown: list[str]) -> Answer:
        """The answer to a request, from a row of `UserLists` and the sources of its items."""
        scores, indices, _, from_model, reasons, sources = row
        items = [
            {
                "item_id": self._item_ids[index],
                "score": score,
                "source": SOURCES[source],
                "because": [self._item_ids[reason] for reason in because if reason >= 0],
            }
            for index, score, source, because in zip(indices, scores, sources, reasons, strict=True)
            if index >= 0
        ]
        answer = {"ds": self.used.ds, "model_version": self.model_version, "source": SOURCES[from_model]}
        if user is not None and (variants := self._recommender.variants([user])) is not None:
            answer["variant"] = variants[0].as_py()
        return answer | {"items": items[: request.k], "unknown_items": unknown}

    def search(self, query: str, *, k: int, history: Sequence[str] = ()) -> Answer:
        """The products that product search finds, for a person who has viewed the items of `history`.

        Raises:
          RequestError: the run has no product search.
        """
        if self._search is None:
            raise RequestError(404, f"{self._search_missing}. Add the section search to the run config")
        [answer] = self._search.answer([query], k=k, history=history)
        products = self._search.products.take(answer.places).to_pylist()
        items = [
            {"item_id": product["item_id"], "title": product["title"], "score": score}
            for product, score in zip(products, answer.scores.tolist(), strict=True)
        ]
        version = self.used.versions[SEARCH[1]]
        return {
            "ds": self.used.ds,
            "model_version": version,
            "query": answer.query,
            "note": answer.note,
            "items": items,
        }
