"""Seconds for the rows of one process and of Spark's executors as the data grows, and whether they are the same.

    make bench-spark                        # 1.9, 3.7 and 7.5 million events, 1 and 2 executors on this machine
    make bench-spark ARGS="--rows 400000"   # fewer

The process that makes the rows by itself, and each cluster, is a process of its own. Starting a cluster, and its first
rows, of a small file, are told apart: they cost the same however much data follows.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pipeline import table

SHARES = (4, 2, 1)  # of the events: a quarter, a half, all
SMALL = 50_000  # events that warm a cluster up


def write_events(folder: Path, n_events: int, seed: int) -> None:
    "Files of simulated events in `folder`: the shares of one, and a small one."
    import polars as pl

    from mlops_fraud.data.simulator import write_simulation

    write_simulation(folder / "small.parquet", SMALL, seed)
    write_simulation(folder / "all.parquet", n_events, seed)
    for size in (n_events // share for share in SHARES):
        pl.scan_parquet(folder / "all.parquet").head(size).sink_parquet(folder / f"{size}.parquet", row_group_size=1 << 19)


def alone(folder: Path, sizes: list[int]) -> dict[str, Any]:
    "Seconds of `preprocess`, by size."
    from mlops_fraud.preprocessing import preprocess

    preprocess(folder / "small.parquet", folder / "rows.parquet", label_delay=0)  # the kernel is loaded
    took = {}
    for size in sizes:
        began = time.perf_counter()
        preprocess(folder / f"{size}.parquet", folder / f"rows-{size}.parquet", label_delay=0)
        took[str(size)] = time.perf_counter() - began
    return took


def different(rows: Path, expected: Path) -> int:
    "Values of the files `rows` that are not those of `expected`; a missing one equals a missing one. All, if there are more or fewer rows."
    import polars as pl

    ours, theirs = pl.scan_parquet(rows), pl.scan_parquet(expected)
    names, n_rows = theirs.collect_schema().names(), theirs.select(pl.len()).collect().item()
    if ours.collect_schema().names() != names or ours.select(pl.len()).collect().item() != n_rows:
        return n_rows * len(names)
    wrong = 0
    for name in names:
        a, b = (
            frame.select(pl.col(name).cast(pl.String) if name in ("type", "split") else name).collect()[name] for frame in (ours, theirs)
        )
        wrong += int(a.ne_missing(b).sum())
    return wrong


def on_cluster(folder: Path, sizes: list[int], n_executors: int, n_partitions: int) -> dict[str, Any]:
    "Seconds of `preprocess_on_spark`, by size, and `different` values."
    from mlops_fraud.spark import local_cluster, preprocess_on_spark

    began, out = time.perf_counter(), folder / "on_spark"
    took: dict[str, Any] = {"different": 0}
    with local_cluster(n_executors) as spark:
        spark.sparkContext.setLogLevel("ERROR")
        preprocess_on_spark(spark, folder / "small.parquet", out, label_delay=0, n_partitions=n_partitions)
        took["start"] = time.perf_counter() - began
        for size in sizes:
            began = time.perf_counter()
            preprocess_on_spark(spark, folder / f"{size}.parquet", out, label_delay=0, n_partitions=n_partitions)
            took[str(size)] = time.perf_counter() - began
            print(f"{n_executors} executors, {size:,} events: {took[str(size)]:.1f} s", file=sys.stderr, flush=True)
            took["different"] += different(out / "*.parquet", folder / f"rows-{size}.parquet")
    return took


def child(*arguments: str) -> dict[str, Any]:
    "What this file, run with `arguments`, prints last."
    done = subprocess.run([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"failed: {' '.join(arguments)}")
    return json.loads(done.stdout.splitlines()[-1])


def report(sizes: list[int], single: dict[str, Any], clusters: dict[int, dict[str, Any]]) -> str:
    "The figures as a table, and what they mean."
    columns = ["events", "one process, s", *(f"{n} executor{'s' * (n > 1)}, s" for n in clusters)]
    lines = [[f"{size:,}", *(f"{took[str(size)]:.1f}" for took in (single, *clusters.values()))] for size in sizes]
    starts = ", ".join(f"{took['start']:.0f} s" for took in clusters.values())
    wrong = sum(took["different"] for took in clusters.values())
    growth = "; ".join(
        f"{n}: " + ", ".join(f"{took[str(size)] / took[str(sizes[0])]:.1f}" for size in sizes) for n, took in clusters.items()
    )
    return "\n\n".join(
        [
            table(" | ".join(columns), lines),
            f"Values that differ from those of one process, in all of these files: {wrong:,}. "
            f"Time as a multiple of the smallest file's, by executors: {growth}. Start of the cluster and {SMALL:,} events: {starts}.",
        ]
    )


def main() -> None:
    "Measure what the command line asks for; see --help."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=7_500_000, help="events of the largest file")
    parser.add_argument("--executors", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--partitions", type=int, default=16, help="of the fold")
    parser.add_argument("--seed", type=int, default=7)
    for hidden, kind in (("--measure", int), ("--folder", Path)):
        parser.add_argument(hidden, type=kind, help=argparse.SUPPRESS)
    given = parser.parse_args()
    sizes = [given.rows // share for share in SHARES]
    if given.measure is not None:
        n = given.measure
        print(json.dumps(on_cluster(given.folder, sizes, n, given.partitions) if n else alone(given.folder, sizes)))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_events(Path(folder), given.rows, given.seed)
        asked = ["--folder", folder, "--rows", str(given.rows), "--partitions", str(given.partitions)]
        single = child("--measure", "0", *asked)
        clusters = {n: child("--measure", str(n), *asked) for n in given.executors}
    print(f"{os.cpu_count()} cores.\n\n{report(sizes, single, clusters)}")
    sys.exit(any(took["different"] for took in clusters.values()))


if __name__ == "__main__":
    main()
