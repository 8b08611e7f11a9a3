"""Run one peer's SASRec on a leave-one-out split and write its ranks and figures; the package's docstring has the whole picture.

Out, in `--out`: `<data>_<peer>_<recipe>_seed<seed>.parquet` (`user_id` string, `rank` int64, 0-based; a target outside
the list has the number of items as its rank, so any metric at k ≤ 10 is exact) and the same name with `.json`
(`figures`, `intervals`, settings, validation course, seconds, versions, hardware).
"""

import argparse
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.runtime.ray_cluster import KEEPS_MEMORY
from kdlib.errors import DistilrecError, InputError, TrainingError
from kdlib.metrics.bootstrap import bootstrap_interval
from kdlib.metrics.ranking import hit_rate, ndcg

HERE = Path(__file__).parent
REQUIREMENTS = {
    "rectools": "rectools[torch]==0.19.0",
    "replay": "replay-rec[torch]==0.22.0",
    "faiss": "faiss-cpu==1.15.1",
    "replay_server": "replay-rec[torch]==0.22.0 openvino==2026.4.1 onnx==1.23.2 starlette uvicorn",
}
SCRIPTS = {"rectools": "rectools_sasrec.py", "replay": "replay_sasrec.py"}
K = 10
BOOTSTRAP_SAMPLES = 2000


@dataclass(frozen=True)
class Split:
    """What the peer may see (`items`, `offsets`) and what only the driver knows (`targets`).

    Attributes:
      user_ids: one a user, in the file's order.
      items: int64 [interactions], item indices of all histories after each other; the last of a user is its validation target.
      offsets: int64 [users + 1], where each user's history starts.
      targets: int64 [users], the test targets.
      num_items: items in the catalogue: all that occur anywhere in the file.
    """

    user_ids: list[str]
    items: np.ndarray
    offsets: np.ndarray
    targets: np.ndarray
    num_items: int


def read_sequences(path: Path, *, max_users: int | None = None) -> list[tuple[str, list[str]]]:
    """User id and items, oldest first, from lines `user item item …`; the first `max_users` users where given.

    Raises:
      InputError: no such file, nothing in it, or a user twice.
    """
    if not path.is_file():
        raise InputError(f"{path}: expected a file of lines 'user item item …', found none; give its folder as --data")
    rows = [line.split() for line in path.read_text().splitlines() if line.strip()][:max_users]
    if not rows:
        raise InputError(f"{path}: expected lines 'user item item …', found an empty file")
    if len({row[0] for row in rows}) < len(rows):
        raise InputError(f"{path}: expected one line a user, found a user twice; merge its lines")
    return [(row[0], row[1:]) for row in rows]


def leave_one_out(sequences: list[tuple[str, list[str]]]) -> Split:
    """Last item of a user = test target, the one before = validation target, the rest = training.

    Raises:
      InputError: a user with fewer than 4 items (two to train on, one to choose the epoch, one to test), or whose test
        target already stands in the history: it could never be recommended.
    """
    for user, items in sequences:
        if len(items) < 4:
            raise InputError(f"user {user}: expected 4 or more items, found {len(items)}; drop such users beforehand")
        if items[-1] in items[:-1]:
            raise InputError(
                f"user {user}: the last item {items[-1]} stands in the history too; drop repeats beforehand"
            )
    names = sorted({item for _, items in sequences for item in items})
    index = {name: number for number, name in enumerate(names)}
    lengths = [len(items) - 1 for _, items in sequences]
    return Split(
        user_ids=[user for user, _ in sequences],
        items=np.array([index[item] for _, items in sequences for item in items[:-1]], np.int64),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        targets=np.array([index[items[-1]] for _, items in sequences], np.int64),
        num_items=len(names),
    )


def list_ranks(top_UK: np.ndarray, split: Split) -> np.ndarray:
    """0-based place of each user's test target in its list, or `num_items` where the list lacks it.

    The list's order decides: a peer breaks ties among equal scores itself.

    Args:
      top_UK: int64 [users, K], item indices, best first; −1 fills a short list at its end.
      split: the split that the lists answer.

    Returns:
      int64 [users].

    Raises:
      InputError: wrong number of users, an item outside the catalogue, an item twice in a list, or one from the history.
    """
    users = len(split.targets)
    if top_UK.ndim != 2 or len(top_UK) != users:
        raise InputError(f"peer's lists: expected shape [{users}, K], found {list(top_UK.shape)}")
    if top_UK.min(initial=0) < -1 or top_UK.max(initial=0) >= split.num_items:
        raise InputError(
            f"peer's lists: expected item indices −1 to {split.num_items - 1}, found {top_UK.min()} to {top_UK.max()}"
        )
    ranks = np.full(users, split.num_items, np.int64)
    for user, row in enumerate(top_UK):
        listed = row[row >= 0]
        history = split.items[split.offsets[user] : split.offsets[user + 1]]
        if len(np.unique(listed)) < len(listed) or np.isin(listed, history).any():
            raise InputError(
                f"peer's list of user {split.user_ids[user]}: expected different unseen items, found {listed.tolist()} "
                f"after the history {history.tolist()}"
            )
        place = np.flatnonzero(row == split.targets[user])
        if len(place):
            ranks[user] = place[0]
    return ranks


def figures_of(ranks: np.ndarray, *, seed: int) -> tuple[dict[str, float], dict[str, list[float]]]:
    """`ndcg10` and `hr10`: means over all users, and their 95 % bootstrap intervals over users."""
    values = {"ndcg10": ndcg(ranks, K), "hr10": hit_rate(ranks, K)}
    figures = {name: round(float(per_user.mean()), 5) for name, per_user in values.items()}
    intervals = {
        name: [round(bound, 5) for bound in bootstrap_interval(per_user, samples=BOOTSTRAP_SAMPLES, seed=seed)]
        for name, per_user in values.items()
    }
    return figures, intervals


def prepare_environment(peer: str, envs: Path) -> Path:
    """The Python of the peer's own virtual environment, made once with its pinned release.

    Raises:
      TrainingError: the environment could not be made or filled.
    """
    home = envs / peer
    python, ready = home / "bin" / "python", home / "ready.txt"
    if ready.is_file() and ready.read_text() == REQUIREMENTS[peer]:
        return python
    print(f"installing {REQUIREMENTS[peer]} into {home} (once; some minutes)", flush=True)
    for step in (
        ["-m", "venv", "--clear", str(home)],
        ["-m", "pip", "install", "--quiet", *REQUIREMENTS[peer].split()],
    ):
        program = sys.executable if step[1] == "venv" else str(python)
        if subprocess.run([program, *step], check=False).returncode:
            raise TrainingError(f"{shlex.join([program, *step])} failed; see above, or give a prepared one as --python")
    ready.write_text(REQUIREMENTS[peer])
    return python


def run_peer(
    python: Path, peer: str, split: Split, options: argparse.Namespace, flags: list[str]
) -> tuple[np.ndarray, dict]:
    """The peer's lists int64 [users, K] and what it says of its run.

    Raises:
      TrainingError: the peer script failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        np.savez(work / "split.npz", items=split.items, offsets=split.offsets, num_items=split.num_items)
        threads = str(options.threads)
        command = [str(python), str(HERE / SCRIPTS[peer]), "--work", folder, "--seed", str(options.seed)]
        command += ["--device", options.device, "--threads", threads, *flags]
        # read when the libraries load: too late inside the script; our own training keeps its memory, too
        environment = os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads} | KEEPS_MEMORY
        code = subprocess.run(command, env=environment, check=False).returncode
        if code:
            raise TrainingError(f"{shlex.join(command)} ended with status {code}; its message stands above")
        return np.load(work / "top.npz")["top"], json.loads((work / "facts.json").read_text())


def _arguments() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--data", type=Path, required=True, help="folder with sequences.txt")
    parser.add_argument("--peer", choices=sorted(SCRIPTS), required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--max-users", type=int, help="only the first users: a quick check, no result")
    parser.add_argument("--python", type=Path, help="Python of a prepared environment; nothing is installed")
    parser.add_argument("--envs", type=Path, default=Path("output/peers"), help="where environments are made")
    return parser.parse_known_args()


def main() -> None:
    """Split, run the peer, check and rank its lists, write the two files."""
    options, flags = _arguments()
    split = leave_one_out(read_sequences(options.data / "sequences.txt", max_users=options.max_users))
    print(f"{options.data.name}: {len(split.targets):,} users, {split.num_items:,} items", flush=True)
    python = options.python or prepare_environment(options.peer, options.envs)
    top_UK, facts = run_peer(python, options.peer, split, options, flags)
    ranks = list_ranks(top_UK, split)
    figures, intervals = figures_of(ranks, seed=options.seed)
    given = [f"…/{Path(one).name}" if one.startswith("/") else one for one in sys.argv[1:]]  # no machine's own folders
    result = {
        "command": " ".join(["python", "tests/benchmarks/peers/run_peers.py", *given]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "protocol": "leave one out, all items but the user's history ranked, epoch chosen on validation NDCG@10",
        "peer": REQUIREMENTS[options.peer],
        "seed": options.seed,
        "users": len(ranks),
        "items": split.num_items,
        "all_users": options.max_users is None,
        **facts,
        "hardware": facts["hardware"]
        | {"machine": platform.machine(), "cores": os.cpu_count(), "threads": options.threads},
        "figures": figures,
        "intervals": intervals,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    name = f"{options.data.name}_{options.peer}_{facts['settings']['recipe']}_seed{options.seed}"
    pq.write_table(
        pa.table({"user_id": pa.array(split.user_ids, pa.string()), "rank": ranks}), options.out / f"{name}.parquet"
    )
    (options.out / f"{name}.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(f"NDCG@10 {figures['ndcg10']:.4f}  HR@10 {figures['hr10']:.4f}  wrote {options.out / name}.json and .parquet")


if __name__ == "__main__":
    # an exception, so that `subprocess.run` ends the peer too: it would train on for hours
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        main()
    except DistilrecError as error:
        print(f"run_peers: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
