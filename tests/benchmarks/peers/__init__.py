"""SASRec of other libraries on the same split: how they are run beside distilrec, and why the comparison is fair.

`run_peers.py` (this project's environment) reads a `sequences.txt`, holds out each user's last item, and gives the
rest to one peer script, which runs in the peer's own environment with the peer's own code:

- `rectools_sasrec.py`: RecTools 0.19.0, `SASRecModel`;
- `replay_sasrec.py`: RePlay 0.22.0, `replay.nn.sequential.SasRec`.

A peer script never sees a test target. It trains on all but the last item of what it gets, chooses its epoch on that
item (validation NDCG@10, its own early stopping and checkpoint callbacks), and answers with each user's top 10 after
the whole history, seen items left out. The driver checks the lists and turns them into ranks and figures.

    python tests/benchmarks/peers/run_peers.py --data $DISTILREC_DATA/beauty --peer rectools --seed 1 --device cpu --out DIR

The first call makes the peer's environment in `--envs` (needs a package index); `--python PATH` uses one that exists.
Flags that the driver does not know (`--recipe`, `--dim`, `--epochs` …) go to the peer script as they are; each script
lists its own, and says where every recipe comes from.

`list_metrics.py` has another purpose: it records the metrics of RecTools and LensKit on made-up lists, and
`tests/metrics/test_peers.py` compares ours with them.
"""
