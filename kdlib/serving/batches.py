"""Requests that wait together are answered together. A request that finds the server idle does not wait.

Ray Serve's `serve.batch` waits a fixed time for more requests; without a wait, its batches hold one request each.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


class Batches(Generic[Asked, Answer]):
    """Collects the requests of an event loop. One thread answers them, so that the loop stays free.

    Args:
      answer: requests → an answer for each.
      most: requests of a batch.
      thread: of one worker.
    """

    def __init__(
        self, answer: Callable[[Sequence[Asked]], Sequence[Answer]], *, most: int, thread: ThreadPoolExecutor
    ) -> None:
        self._answer, self._most, self._thread = answer, most, thread
        self._waiting: deque[tuple[Asked, asyncio.Future[Answer]]] = deque()
        self._task: asyncio.Task[None] | None = None

    async def ask(self, asked: Asked) -> Answer:
        """The answer to a request."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((asked, future))
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        try:
            while self._waiting:
                taken = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
                batch = [(asked, future) for asked, future in taken if not future.cancelled()]
                if batch:
                    await self._answer_batch(batch)
        finally:
            self._task = None

    async def _answer_batch(self, batch: list[tuple[Asked, "asyncio.Future[Answer]"]]) -> None:
        loop = asyncio.get_running_loop()
        try:
            answers = await loop.run_in_executor(self._thread, self._answer, [asked for asked, _ in batch])
        except Exception as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), answer in zip(batch, answers, strict=True):
            if not future.done():
                future.set_result(answer)
