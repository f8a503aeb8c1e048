"""What happens now: decisions, money, latency, frauds found. It refreshes by itself."""

import altair as alt
import polars as pl
import streamlit as st
from client import Told, live
from look import COLOURS, WORDS, milliseconds, money, page, said

SHORT = {"approve": "Approved", "review": "Held", "block": "Blocked"}
WINDOWS = {"5 minutes": 5.0, "1 hour": 60.0, "1 day": 1440.0, "1 week": 10_080.0}


def stream(now: Told) -> alt.Chart:
    "Decisions a second, by decision."
    rows = [(s.at, WORDS[d], s[d] / now.seconds, i) for s in now.slices for i, d in enumerate(COLOURS)]
    data = pl.DataFrame(rows, schema=["at", "decision", "per second", "order"], orient="row").with_columns(
        pl.col("at").str.to_datetime(time_zone="UTC")
    )
    colours = alt.Color(
        "decision:N",
        scale=alt.Scale(domain=list(WORDS.values()), range=list(COLOURS.values())),
        legend=alt.Legend(orient="top", title=None),
    )
    x, y = alt.X("at:T", title=None), alt.Y("per second:Q", title="decisions a second", stack=True)
    return (
        alt.Chart(data)
        .mark_area(interpolate="step-after")
        .encode(x=x, y=y, color=colours, order="order:Q", tooltip=["decision:N", alt.Tooltip("per second:Q", format=".2f")])
        .properties(height=240)
    )


@st.fragment(run_every=2)
@said
def figures(minutes: float, window: str) -> None:
    now = live(minutes)
    n, sums = sum(s.n for s in now.slices), {d: sum(s.money[d] for s in now.slices) for d in COLOURS}
    alerts, seconds = sum(s.review + s.block for s in now.slices), now.seconds * len(now.slices)
    if not n:
        st.info(
            f"Nothing was decided in the last {window}. Send transactions, for example with `mlops-fraud replay FILE`, or look at a longer time."
        )
    first = st.columns(5)
    first[0].metric(
        "Decisions / s",
        f"{n / seconds:,.3g}",
        chart_data=[s.n / now.seconds for s in now.slices],
        border=True,
        help=f"{n:,} decisions in the last {window}.",
    )
    for place, d, what in zip(first[1:], COLOURS, ("went through at once", "waits for an analyst", "was stopped")):
        place.metric(
            SHORT[d],
            money(sums[d]),
            chart_data=[s.money[d] for s in now.slices],
            border=True,
            help=f"Sum of the amounts that {what}, in the log's currency.",
        )
    first[4].metric(
        "Alert rate",
        f"{alerts / n:.2%}" if n else "–",
        chart_data=[(s.review + s.block) / s.n if s.n else 0.0 for s in now.slices],
        border=True,
        help="Share of the decisions that hold or block.",
    )
    second = st.columns(5)
    decide, log = now.milliseconds["decide"], now.milliseconds["log"]
    second[0].metric(
        "Decided, median",
        milliseconds(decide["p50"]),
        border=True,
        help="Median time to score, explain and decide one transaction, in the last minute.",
    )
    second[1].metric(
        "Decided, 99 %", milliseconds(decide["p99"]), border=True, help="Only one in a hundred decisions took longer, in the last minute."
    )
    second[2].metric(
        "On disk, 99 %",
        milliseconds(log["p99"]),
        border=True,
        help="Before an answer is sent, the decision is written to disk; only one in a hundred writes took longer.",
    )
    share = f"{now.frauds_alerted} of {now.frauds}" if now.frauds else "–"
    second[3].metric(
        "Frauds caught",
        share,
        border=True,
        help=f"Among the decisions of this time that people have labelled ({now.labelled:,}): frauds that were held or blocked. {money(now.fraud_money_alerted)} of {money(now.fraud_money)} of their money.",
    )
    second[4].metric("Open alerts", f"{now.open_alerts:,}", border=True, help="Of all times: new, or in review.")
    st.altair_chart(stream(now), width="stretch")
    st.caption(
        f"Model {now.model.name}, version {now.model.version}. Its past holds {now.events:,} transactions up to hour {now.step} of the log. Refreshed every two seconds; at most the latest 100,000 decisions count."
    )
    for missing in now.degraded:
        st.warning(f"Not at its best: {missing}.")


def body() -> None:
    window = st.segmented_control("The last", list(WINDOWS), default="5 minutes", required=True, key="window")
    figures(WINDOWS[window], window)


page("Live", body)
