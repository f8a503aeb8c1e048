"""Is it still well? Scores now and before, how old labels are, who was refused, and the monitor's report."""

import altair as alt
import polars as pl
import streamlit as st
from client import monitor
from look import page, report

from mlops_fraud.casework import Labelled

BLUE, ORANGE = "#0072B2", "#E69F00"
AGES = {0: "less than an hour", 1: "an hour to a day", 24: "a day to a week", 168: "more than a week"}
REFUSALS = {
    "400": ("the body could not be read", "Ask the client's developer to send JSON."),
    "401": ("the key was missing or unknown", "Check which client lost its key; `mlops-fraud key` makes a new one."),
    "403": ("the key's role may not do this", "Give the client a key of the right role, or take it as a warning."),
    "404": ("no such decision", "Usually a typing error; nothing to do."),
    "408": ("the body came too slowly", "Look at the client's network."),
    "409": ("earlier than a transaction already counted", "Let the client send in time order; retry queues often mix it up."),
    "413": ("the body was too long", "Let the client send less at once, or lines to `/predict/batch`."),
    "422": ("a field broke its rule, or an id was used twice", "Show the client's developer the answer: it names field and rule."),
    "429": ("more requests than the key may send", "Raise the key's limit in the file of keys, or ask the client to slow down."),
    "503": ("no model, or the disk refused", "Look at the service's log at once: transactions are not answered."),
}  # fmt: skip


def scores(bands: list[str], latest: list[int], before: list[int]) -> None:
    "The distribution of the scores, now and before."
    st.subheader("What the model says, now and before")
    if not sum(latest):
        st.info("Nothing was decided yet. Send transactions, for example with `mlops-fraud replay FILE`.")
        return
    rows = [
        (band, name, n / sum(counts))
        for name, counts in (("latest", latest), ("before", before))
        if sum(counts)
        for band, n in zip(bands, counts)
    ]
    data = pl.DataFrame(rows, schema=["chance of fraud", "decisions", "share"], orient="row")
    colours = alt.Color(
        "decisions:N", scale=alt.Scale(domain=["latest", "before"], range=[BLUE, ORANGE]), legend=alt.Legend(orient="top", title=None)
    )
    bars = (
        alt.Chart(data)
        .mark_bar()
        .encode(
            x=alt.X("chance of fraud:N", sort=bands, axis=alt.Axis(labelAngle=-25)),
            xOffset="decisions:N",
            y=alt.Y(
                "share:Q",
                scale=alt.Scale(type="symlog", constant=0.001),
                axis=alt.Axis(format=".2~%", values=[0, 0.001, 0.01, 0.1, 1]),
                title="share of decisions",
            ),
            color=colours,
            tooltip=["chance of fraud", "decisions", alt.Tooltip("share:Q", format=".3%")],
        )
    )
    st.altair_chart(bars.properties(height=280), width="stretch")
    st.caption(
        f"The latest {sum(latest):,} decisions beside the {sum(before):,} before them. If the upper bands grow, either fraud does, or the traffic has changed and the model no longer fits it: look at the alerts of today before anything else."
    )


def labels(ages: list[Labelled]) -> None:
    "How many alerts have been labelled, by age."
    st.subheader("How far the labels are")
    if not ages:
        st.info("There is no alert yet, so there is nothing to label.")
        return
    st.dataframe(
        {
            "Alerts of age": [AGES[age.hours] for age in ages],
            "Alerts": [age.alerts for age in ages],
            "Labelled": [age.labelled / age.alerts for age in ages],
        },
        hide_index=True,
        column_config={
            "Labelled": st.column_config.ProgressColumn(format="percent", help="Share of them that an analyst has called fraud or genuine.")
        },
    )
    st.caption("How good the model is can only be seen where labels are. What is more than a day old and not labelled waits in the queue.")


def refusals(refused: dict[str, int]) -> None:
    "What was refused, and what to do."
    st.subheader("What was refused")
    if not refused:
        st.success("Nothing was refused since the service started.")
        return
    for status, n in sorted(refused.items()):
        reason, advice = REFUSALS.get(status, ("not answered", "See /docs."))
        st.markdown(f"* **{n:,}** with status {status}: {reason}. {advice}")
    st.caption("Requests, or lines of a batch, since the service started.")


def body() -> None:
    found = monitor()
    scores(found.bands, found.latest, found.before)
    left, right = st.columns(2, gap="large")
    with left:
        labels(found.labels)
    with right:
        refusals(found.refused)
    st.subheader("Drift and alarms")
    if not report("monitoring/monitoring.md"):
        st.info("No day has been judged yet; `mlops-fraud monitor` does, once a day of the log is over.")


page("Monitor", body)
