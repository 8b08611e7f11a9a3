"""A client that asks a server of recommendations over HTTP: at a fixed rate, or as fast as the server answers.

At a fixed rate, a latency begins at the moment at which the request was due, so that a server that lags cannot hide it.
`python -m tests.benchmarks.http_load URL --rate 50 --seconds 60` prints one JSON object.
"""

import argparse
import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import aiohttp
import numpy as np

TIMEOUT_SECONDS = 30


def sessions(count: int, *, num_items: int, length: int, seed: int) -> list[bytes]:
    """Bodies of requests: each a session of different random items, as JSON.

    Args:
      count: number of bodies.
      num_items: item ids are the numbers below it.
      length: items of a session.
      seed: of the choice.
    """
    generator = np.random.default_rng(seed)
    rows = (generator.choice(num_items, length, replace=False) for _ in range(count))
    return [json.dumps({"session": [{"item": str(item)} for item in row]}).encode() for row in rows]


async def at_rate(url: str, bodies: Sequence[bytes], *, rate: float, seconds: float) -> dict[str, Any]:
    """Ask `rate` times a second, whether or not the server has answered the earlier requests.

    Args:
      url: takes POST requests.
      bodies: used in turn.
      rate: requests a second, at times drawn from a Poisson process.
      seconds: how long to ask.

    Returns:
      `requests`, `p50_ms`, `p99_ms`, `max_ms` and `statuses`.
    """
    generator = np.random.default_rng(len(bodies))
    due = np.cumsum(generator.exponential(1 / rate, int(rate * seconds)))
    async with _session() as client:
        begin = time.perf_counter()

        async def ask(number: int) -> tuple[float, str]:
            await asyncio.sleep(max(0.0, begin + due[number] - time.perf_counter()))
            status = await _post(client, url, bodies[number % len(bodies)])
            return time.perf_counter() - begin - due[number], status

        answers = await asyncio.gather(*(ask(number) for number in range(len(due))))
    taken = np.array([seconds for seconds, _ in answers]) * 1000
    return {
        "requests": len(taken),
        "p50_ms": round(float(np.percentile(taken, 50)), 2),
        "p99_ms": round(float(np.percentile(taken, 99)), 2),
        "max_ms": round(float(taken.max()), 2),
        "statuses": dict(Counter(status for _, status in answers)),
    }


async def saturated(url: str, bodies: Sequence[bytes], *, clients: int, seconds: float) -> dict[str, Any]:
    """Ask with so many clients, each again as soon as it has its answer. Returns `requests_per_second` and `statuses`."""
    statuses = Counter[str]()
    async with _session() as client:
        begin = time.perf_counter()

        async def ask(number: int) -> None:
            while time.perf_counter() < begin + seconds:
                statuses[await _post(client, url, bodies[number % len(bodies)])] += 1
                number += clients

        await asyncio.gather(*(ask(number) for number in range(clients)))
        taken = time.perf_counter() - begin
    return {"requests_per_second": round(statuses["200"] / taken, 1), "statuses": dict(statuses)}


def _session() -> aiohttp.ClientSession:
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    return aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0))


async def _post(client: aiohttp.ClientSession, url: str, body: bytes) -> str:
    """The status of the answer, or the name of the failure."""
    try:
        async with client.post(url, data=body, headers={"Content-Type": "application/json"}) as answer:
            await answer.read()
            return str(answer.status)
    except (aiohttp.ClientError, TimeoutError) as error:
        return type(error).__name__


def main() -> None:
    """Ask, and print what was measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("url")
    parser.add_argument("--items", type=int, required=True, help="item ids are the numbers below it")
    parser.add_argument("--length", type=int, default=10, help="items of a session")
    parser.add_argument("--rate", type=float, help="requests a second; without it as fast as the server answers")
    parser.add_argument("--clients", type=int, default=16, help="without --rate: requests under way at a time")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--core", type=int, help="the only core that the client may use")
    options = parser.parse_args()
    if options.core is not None:
        os.sched_setaffinity(0, {options.core})
    bodies = sessions(1000, num_items=options.items, length=options.length, seed=options.seed)
    if options.rate:
        found = asyncio.run(at_rate(options.url, bodies, rate=options.rate, seconds=options.seconds))
    else:
        found = asyncio.run(saturated(options.url, bodies, clients=options.clients, seconds=options.seconds))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
