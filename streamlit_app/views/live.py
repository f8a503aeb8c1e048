"""What happens now: decisions, money, latency, frauds found. It refreshes by itself."""

import altair as alt
import polars as pl
import streamlit as st
from client import Told, live
from look import COLOURS, WORDS, figure, milliseconds, money, page, said

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
    hours = now.seconds * len(now.slices) / 3600
    clock = alt.Axis(format="%d %b %H:%M" if hours > 24 else "%H:%M" if hours > 0.5 else "%H:%M:%S", labelOverlap=True)
    x, y = (
        alt.X("at:T", title="UTC", scale=alt.Scale(type="utc"), axis=clock),
        alt.Y("per second:Q", title="decisions a second", stack=True),
    )
    return (
        alt.Chart(data)
        .mark_area(interpolate="step-after")
        .encode(x=x, y=y, color=colours, order="order:Q", tooltip=["decision:N", alt.Tooltip("per second:Q", format=".2f")])
        .properties(height=240)
    )


def outcomes(now: Told, n: int, window: str) -> None:
    "How many of the `n` decisions of the `window` went which way, and for how much money."
    places, slices = st.columns(5), now.slices
    a_second = [s.n / now.seconds for s in slices]
    figure(places[0], "Decisions / s", f"{sum(a_second) / len(slices):,.3g}", f"{n:,} decisions in the last {window}.", chart_data=a_second)
    for place, d, what in zip(places[1:], COLOURS, ("went through at once", "waits for an analyst", "was stopped")):
        sums = [s.money[d] for s in slices]
        figure(place, SHORT[d], money(sum(sums)), f"Sum of the amounts that {what}, in the log's currency.", chart_data=sums)
    alerts = [s.review + s.block for s in slices]
    rates = [a / s.n if s.n else 0.0 for a, s in zip(alerts, slices)]
    figure(places[4], "Alert rate", f"{sum(alerts) / n:.2%}" if n else "–", "Share of the decisions that hold or block.", chart_data=rates)


def speed_and_catch(now: Told) -> None:
    "How long an answer takes, and what was caught of what is known."
    places, decide, log = st.columns(5), now.milliseconds["decide"], now.milliseconds["log"]
    figure(places[0], "Decided, median", milliseconds(decide["p50"]),
           "Median time to score, explain and decide one transaction, in the last minute.")  # fmt: skip
    figure(places[1], "Decided, 99 %", milliseconds(decide["p99"]), "Only one in a hundred decisions took longer, in the last minute.")
    figure(places[2], "On disk, 99 %", milliseconds(log["p99"]),
           "Before an answer is sent, the decision is written to disk; only one in a hundred writes took longer.")  # fmt: skip
    figure(places[3], "Frauds caught", f"{now.frauds_alerted} of {now.frauds}" if now.frauds else "–",
           f"Among the decisions of this time that people have labelled ({now.labelled:,}): frauds that were held or blocked. "
           f"{money(now.fraud_money_alerted)} of {money(now.fraud_money)} of their money.")  # fmt: skip
    figure(places[4], "Open alerts", f"{now.open_alerts:,}", "Of all times: new, or in review.")


@st.fragment(run_every=2)
@said
def figures(minutes: float, window: str) -> None:
    now = live(minutes)
    n = sum(s.n for s in now.slices)
    if not n:
        st.info(
            f"Nothing was decided in the last {window}. Send transactions, for example with `mlops-fraud replay FILE`, or look at a longer time."
        )
    outcomes(now, n, window)
    speed_and_catch(now)
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
