"""The model: what it is, where its limits stand and what others would do, what it rests on, and its rivals."""

import json
from collections.abc import Callable
from typing import Any, Literal

import altair as alt
import polars as pl
import streamlit as st
from client import Told, about, ready, reasons, versions
from look import chance, figure, money, page, report, table

from mlops_fraud.settings import project_root

NO_REPORT = "The pipeline has not written this yet; `dvc repro` does."
BLUE, ORANGE, RED = "#0072B2", "#E69F00", "#D55E00"
SHOWN = 12  # features in the picture of all reasons


def limits() -> None:
    "Precision and recall, costs, and what another limit would do."
    curve, by_recall = table("thresholds.csv"), table("precision_recall.csv")
    if curve is None or by_recall is None:
        st.info(NO_REPORT)
        return
    model, now = about(), ready()
    judged = json.loads((project_root() / "reports/metrics.json").read_text())
    if judged["model"] != model.identity:
        st.warning(
            "These figures are those of the model that the pipeline judged last, and another one answers. `mlops-fraud promote` makes it the one that answers."
        )
    used = [nearest(curve, limit) for limit in (model.thresholds.review, model.thresholds.block)]
    chosen = [limit("Review", curve, used[0]), limit("Block", curve, used[1])]
    chosen[1] = max(chosen)  # what is blocked needs no review
    minutes = st.number_input("Minutes that an analyst needs for an alert", 1.0, 120.0, 10.0, step=1.0)
    tested, traffic = judged["metrics"], now["events"] / max(now["step"], 1) * 24
    before, after = (curve.with_columns(cost=costs(curve, block, tested["fraud_money"], model.costs)) for block in (used[1], chosen[1]))
    effects(at(before, *used), at(after, *chosen), minutes, traffic / tested["events"], chosen != used)
    st.caption(
        f"A day's figures are for this log's usual traffic of {traffic:,.0f} transactions; small figures compare with the limits in use."
    )
    left, right = st.columns(2)
    left.altair_chart(costly(after, chosen[0]), width="stretch")
    right.altair_chart(caught(by_recall), width="stretch")
    st.caption(
        "*Live* counts hours with at least one genuine transaction, *busy* those with 500 or more: plan with these. In the data's quiet hours only thieves are awake, which flatters the overall line."
    )


def nearest(curve: pl.DataFrame, limit: float) -> float:
    "The threshold of `curve`, whose figures are rounded, that stands for `limit`."
    return min(curve["threshold"].to_list(), key=lambda tried: abs(tried / limit - 1))


def limit(what: str, curve: pl.DataFrame, used: float) -> float:
    "The limit that is chosen for `what` the model decides."
    return st.select_slider(
        f"{what} from a chance of fraud of",
        curve["threshold"].to_list(),
        used,
        format_func=chance,
        key=what.lower(),
        help="Drag it: what would another limit have done in the test period, which the model had never seen?",
    )


def costs(curve: pl.DataFrame, block: float, fraud_money: float, costs: Told | None) -> pl.Series:
    "What each review limit of `curve` costs if what reaches `block` is blocked without review."
    if costs is None:
        return curve["cost"]
    row = curve.row(by_predicate=pl.col("threshold") == block, named=True)
    blocked, falsely = (curve[name].clip(upper_bound=row[name]) for name in ("alerts", "false_alerts"))
    return fraud_money * (1 - curve["money_stopped"]) + costs.review * (curve["alerts"] - blocked) + costs.false_block * falsely


def at(curve: pl.DataFrame, review: float, block: float) -> dict[str, float]:
    "The figures of these limits: those of reviewing, and what is `blocked`, and `falsely`."
    reviewed, blocked = (curve.row(by_predicate=pl.col("threshold") == limit, named=True) for limit in (review, block))
    return {**reviewed, "reviewed": reviewed["alerts"] - blocked["alerts"], "falsely": blocked["false_alerts"]}


def effects(before: dict[str, float], after: dict[str, float], minutes: float, a_day: float, moved: bool) -> None:
    "What limits would do beside those in use; `a_day` makes a day's figure of one of the test period."
    shown = [
        ("Alerts a day", "alerts", a_day, "{:,.0f}", "Held for review or blocked."),
        ("Analyst hours a day", "reviewed", a_day * minutes / 60, "{:,.1f}", "Alerts that are held for review, times the minutes above."),
        ("False blocks a day", "falsely", a_day, "{:,.1f}", "Genuine transactions that are blocked, which nobody reviews."),
        ("Money stopped", "money_stopped", 100, "{:.1f} %", "Share of the money in frauds that is held or blocked."),
        ("Cost", "cost", 1, "", "Of the test period, in the log's currency: missed frauds, analysts' time, customers turned away."),
    ]  # fmt: skip
    for place, (label, name, scale, words, meaning) in zip(st.columns(len(shown)), shown):
        say: Callable[[float], str] = words.format if words else money
        change = (after[name] - before[name]) * scale
        sign = "+" if change > 0 else ""
        colour: Literal["normal", "inverse"] = "normal" if name == "money_stopped" else "inverse"
        figure(place, label, say(after[name] * scale), meaning, delta=sign + say(change) if moved else None, delta_color=colour)


def costly(curve: pl.DataFrame, chosen: float) -> Any:
    "What each limit costs, and where the `chosen` one is."
    x = alt.X("threshold:Q", scale=alt.Scale(type="log"), title="review from this chance of fraud", axis=alt.Axis(format=".2~%"))
    y = alt.Y("cost:Q", scale=alt.Scale(type="log"), title="cost", axis=alt.Axis(format=".2~s"))
    line = alt.Chart(curve).mark_line(color=BLUE).encode(x=x, y=y, tooltip=["threshold", "cost", "alerts"])
    here = alt.Chart(pl.DataFrame({"threshold": [chosen]})).mark_rule(color=RED, size=2).encode(x="threshold:Q")
    return alt.layer(line, here).properties(title="What each limit costs", height=280)


def caught(by_recall: pl.DataFrame) -> alt.Chart:
    "Precision by recall, overall and in the hours where it is hard."
    scale = alt.Scale(domain=["overall", "live", "busy"], range=[BLUE, ORANGE, RED])
    lines = alt.Chart(by_recall.unpivot(index="recall", variable_name="hours", value_name="precision").drop_nulls()).mark_line()
    return lines.encode(
        x=alt.X("recall:Q", title="share of the frauds that alert", axis=alt.Axis(format="%")),
        y=alt.Y("precision:Q", title="share of the alerts that are fraud", axis=alt.Axis(format="%")),
        color=alt.Color("hours:N", scale=scale, legend=alt.Legend(orient="top", title=None)),
        strokeDash=alt.StrokeDash("hours:N", legend=None),
        tooltip=["hours", "recall", "precision"],
    ).properties(title="Caught, and falsely alarmed", height=280)


def calibration() -> None:
    "Said and true."
    found = table("calibration.csv")
    if found is None:
        st.info(NO_REPORT)
        return
    shown = found.with_columns(pl.col("share_of_fraud", "low", "high", "probability").clip(1e-6))
    x = alt.X("probability:Q", scale=alt.Scale(type="log"), title="what the model says", axis=alt.Axis(format=".2~%"))
    y = alt.Y("share_of_fraud:Q", scale=alt.Scale(type="log"), title="what was fraud", axis=alt.Axis(format=".2~%"))
    ends = pl.DataFrame({"probability": [1e-6, 1.0], "share_of_fraud": [1e-6, 1.0]})
    line = alt.Chart(ends).mark_line(strokeDash=[4, 4], color="grey").encode(x=x, y=y)
    bars = alt.Chart(shown).mark_rule(color=BLUE, size=2).encode(x=x, y=alt.Y("low:Q", scale=alt.Scale(type="log")), y2="high:Q")
    dots = (
        alt.Chart(shown)
        .mark_circle(color=BLUE, size=90, opacity=1)
        .encode(x=x, y=y, tooltip=["probability", "share_of_fraud", "low", "high", "events"])
    )
    st.altair_chart(alt.layer(line, bars, dots).properties(height=360), width="stretch")
    st.caption(
        "If the model says 1 %, one in a hundred should be fraud: the dots should stand on the dashed line. The bars show how sure one can be (95 %); many transactions make them short. Test period."
    )


def ranked(found: Told) -> pl.DataFrame:
    "A row for each decision and each of the strongest features: the value, its rank from 0 to 1, and the SHAP value."
    shap, names = pl.DataFrame(found.shap, schema=list(found.units), orient="row"), list(found.units)
    strength = {name: shap[name].abs().mean() for name in names}
    top = sorted(names, key=lambda name: -float(strength[name] or 0))[:SHOWN]  # type: ignore[arg-type]
    values = pl.DataFrame(found["values"], schema=dict.fromkeys(names, pl.Float64), orient="row")
    parts = [
        pl.DataFrame(
            {
                "feature": [name.replace("_", " ")] * shap.height,
                "shap": shap[name],
                "value": values[name],
                "rank": values[name].rank() / max(values[name].count(), 1),
                "unit": [found.units[name]] * shap.height,
            }
        )
        for name in top
    ]
    return pl.concat(parts)


def rests_on() -> None:
    "What many decisions rested on."
    found = reasons(600)
    if len(found.shap) < 2:
        st.info("This model has decided too little yet. Send transactions, for example with `mlops-fraud replay FILE`.")
        return
    data = ranked(found)
    order = data["feature"].unique(maintain_order=True).to_list()
    hue = alt.Color(
        "rank:Q", scale=alt.Scale(range=[BLUE, "#BBBBBB", RED]), legend=alt.Legend(title="value: low to high", orient="top", format="%")
    )
    swarm = (
        alt.Chart(data)
        .transform_calculate(jitter="random()")
        .mark_circle(size=14, opacity=0.7)
        .encode(
            x=alt.X("shap:Q", title="part of the score, in log-odds: right raises the risk"),
            y=alt.Y("feature:N", sort=order, title=None, axis=alt.Axis(labelLimit=260)),
            yOffset="jitter:Q",
            color=hue,
            tooltip=["feature", "value", "unit", "shap"],
        )
    )
    st.altair_chart(swarm.properties(height=34 * len(order)), width="stretch")
    st.caption(
        f"Each dot is one of {len(found.shap):,} decisions in the log: the worst alerts and the latest, as many of each. Red dots have a high value of the feature, blue ones a low value, and grey ones none."
    )
    one = st.selectbox("One feature closely", order)
    mine = data.filter((pl.col("feature") == one) & pl.col("value").is_not_null())
    dots = (
        alt.Chart(mine)
        .mark_circle(size=40, opacity=0.6, color=BLUE)
        .encode(
            x=alt.X("value:Q", title=f"{one}, in {mine['unit'][0] if mine.height else ''}", scale=alt.Scale(type="symlog", zero=False)),
            y=alt.Y("shap:Q", title="part of the score"),
            tooltip=["value", "shap"],
        )
    )
    st.altair_chart(dots.properties(height=260), width="stretch")


def rivals() -> None:
    "The registered versions beside each other."
    found, answers = versions(), about().model.version
    names = {
        "average_precision_overall_all": "Ranking, all hours",
        "average_precision_live_all": "Ranking, live hours",
        "average_precision_busy_all": "Ranking, busy hours",
        "money_stopped": "Fraud money stopped",
        "false_alerts": "False alerts",
        "cost": "Cost",
    }
    rows = {
        "Version": [v.version for v in found],
        "Called": [", ".join(v.aliases) + (" (answers)" if v.version == answers else "") for v in found],
        "Registered (UTC)": [v.registered_at[:16].replace("T", " ") for v in found],
    }
    st.dataframe(rows | {title: [v.metrics.get(name) for v in found] for name, title in names.items()}, hide_index=True)
    st.caption(
        "Ranking is the average precision on the test period: 1 would be every fraud before everything genuine. A version that was never judged has no figures."
    )


def groups() -> None:
    if not report("evaluation.md"):
        st.info(NO_REPORT)


def card() -> None:
    if not report("model_card.md"):
        st.info(NO_REPORT)


def body() -> None:
    model = about()
    st.markdown(
        f"**{model.model.name}**, version {model.model.version} ({model.model.alias}): {len(model.features)} features, {len(model.rules)} rules above it. Reviews from {chance(model.thresholds.review)}, blocks from {chance(model.thresholds.block)}."
    )
    parts = {
        "Limits": limits,
        "Reasons": rests_on,
        "Calibration": calibration,
        "Champion and rivals": rivals,
        "By group": groups,
        "Card": card,
    }
    parts[st.segmented_control("Part", list(parts), default="Limits", required=True, label_visibility="collapsed")]()


page("Model", body)
