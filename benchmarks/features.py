"""What each feature costs: nanoseconds an event that the fold takes less without it.

    make bench-features

A feature shares its entity's memory with others, so the parts need not add up to the whole.
"""

import argparse
import time

from mlops_fraud.data.simulator import simulated
from mlops_fraud.features import FEATURES, Feature
from mlops_fraud.state import State


def nanoseconds(tables: list[tuple[Feature, ...]], n_events: int, n_rounds: int) -> list[float]:
    "Of a fold of each table, an event; the least of `n_rounds`, taken in turns so that a busy moment hits all alike."
    events, least = simulated(n_events, seed=7), [float("inf")] * len(tables)
    for _ in range(n_rounds):
        for place, table in enumerate(tables):
            state = State(table, capacity=2 * n_events)
            start = time.perf_counter()
            state.fold(events)
            least[place] = min(least[place], (time.perf_counter() - start) / n_events * 1e9)
    return least


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--events", type=int, default=500_000)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    without = [tuple(feature for feature in FEATURES if feature is not left_out) for left_out in FEATURES]
    whole, *rest = nanoseconds([FEATURES, *without], asked.events, asked.rounds)
    print(f"The whole table: {whole:,.0f} ns an event ({len(FEATURES)} features)\n\n| feature | group | ns |\n| --- | --- | --- |")
    for feature, less in sorted(zip(FEATURES, rest), key=lambda pair: pair[1]):
        print(f"| {feature.name} | {feature.group} | {whole - less:,.0f} |")


if __name__ == "__main__":
    main()
