"""Everything about one transaction: why, what around it, what if, and what people did."""

from urllib.parse import quote

import altair as alt
import streamlit as st
from client import Told, Unanswered, act, ask, dossier, nearest, ready
from look import COLOURS, LABELS, badge, chance, frame, may_say, money, page, picture, ruler, said, tell, verb, why
from texts import plain, verbatim

from mlops_fraud.schemas import TYPES

OTHERS = {
    "step": "Hour",
    "type": "Type",
    "amount": "Amount",
    "sender": "From",
    "recipient": "To",
    "decision": "Decision",
    "probability": "Chance of fraud",
    "known": "It was",
}
CONFIG = {
    "Amount": st.column_config.NumberColumn(format="localized", help="In the log's currency."),
    "Chance of fraud": st.column_config.NumberColumn(format="percent"),
    "It was": st.column_config.TextColumn(help="By the last label that someone gave it."),
    "Alike": st.column_config.NumberColumn(
        format="percent", help="How alike the reasons are: 100 % would be the same ones, in the same proportion."
    ),
    "Transaction": st.column_config.LinkColumn(display_text=r"id=(.+)", help="Opens in a new tab."),
}


def others(rows: list[Told], **more: list[float | None]) -> None:
    "Other transactions, as a table with links."
    table = frame(rows, {field: title for field, title in OTHERS.items() if field != "known"}).to_dict(as_series=False)
    table |= {
        "It was": [LABELS[row.fraud] for row in rows],
        **more,
        "Transaction": [f"/transaction?id={quote(row.transaction_id)}" for row in rows],
    }
    st.dataframe(table, hide_index=True, column_config=CONFIG)


def do(action: str, did: str, transaction_id: str, **more: bool) -> None:
    try:
        tell(act(action, [transaction_id], **more), did)
    except Unanswered as reason:
        st.toast(str(reason), icon=":material/warning:")


def head(about: Told) -> None:
    "The decision, and what can be done."
    tx, answer, alert = about.record.request, about.answer, about.alert
    st.subheader(f"{badge(answer.decision)} {tx.type} of {tx.amount:,.2f} at hour {tx.step}")
    st.markdown(
        f"From {verbatim(tx.nameOrig)} to {verbatim(tx.nameDest)} · chance of fraud **{chance(answer.probability)}** · answered {alert.answered_at[:19].replace('T', ' ')} UTC"
    )
    st.altair_chart(ruler(answer.probability, answer.thresholds), width="stretch")
    st.caption(
        f"Blue is approved, orange is reviewed from {chance(answer.thresholds.review)}, red is blocked from {chance(answer.thresholds.block)}. Model {answer.model.name}, version {answer.model.version}."
    )
    barred, places = may_say(), st.columns([1, 1, 1, 1, 2], vertical_alignment="center")
    can_say = alert.status in ("new", "in review") and not barred
    verb(places[0], "Take", alert.status == "new" and not barred, do, "take", "taken", alert.transaction_id)
    verb(places[1], "Fraud", can_say, do, "conclude", "labelled fraud", alert.transaction_id, fraud=True)
    verb(places[2], "Genuine", can_say, do, "conclude", "labelled genuine", alert.transaction_id, fraud=False)
    verb(places[3], "Undo", alert.status != "new" and not barred, do, "undo", "undone", alert.transaction_id)
    places[4].markdown(f"**{alert.status}**" + (f", with {plain(alert.assignee)}" if alert.assignee else ""))
    if barred:
        st.caption(barred)


def costs(about: Told) -> None:
    if cost := about.answer.expected_cost:
        st.markdown(
            f"**Expected cost**, in the log's currency: {money(cost['approve'])} if approved, {money(cost['review'])} if reviewed, {money(cost['block'])} if blocked."
        )


@st.fragment
@said
def what_if(about: Told) -> None:
    "The same transaction, changed and asked now."
    tx, now = about.record.request, ready()["step"]
    st.caption(
        f"Asked of the service now, at hour {now} of the log or later; nothing is counted. The past that it is seen against is that of now, "
        "and this transaction is part of it: also unchanged it may be decided otherwise than it was then."
    )
    first = st.columns(4)
    amount = first[0].number_input("Amount", 0.0, 1e10, tx.amount, step=max(round(tx.amount / 20, 2), 1.0), help="In the log's currency.")
    kind = first[1].selectbox("Type", TYPES, TYPES.index(tx.type))
    later = first[2].slider("Hours from now", 0, 24, 0, help="The hour of the day matters, and how long ago things happened.")
    stranger = first[3].toggle("To a new account", help="Instead of this recipient, one that the log has never seen.")
    step = max(now, tx.step) + later
    recipient = f"new-{tx.nameDest}"[:64] if stranger else tx.nameDest
    asked = {"step": step, "type": kind, "amount": amount, "nameOrig": tx.nameOrig, "nameDest": recipient}
    answer = ask(asked, counted=False)
    st.markdown(
        f"{badge(answer.decision)} at a chance of fraud of **{chance(answer.probability)}**, at {step % 24:02d}:00 of the day. It was {chance(about.answer.probability)}."
    )
    st.altair_chart(ruler(answer.probability, answer.thresholds), width="stretch")
    why(answer)


@said
def otherwise(about: Told) -> None:
    "The nearest changes that lead to another decision."
    near, tx = nearest(about.alert.transaction_id), about.record.request
    st.markdown(
        f"**Asked now**, at hour {near.step}, it would be {badge(near.decision)} at {chance(near.probability)}. The nearest changes that lead to another decision:"
    )
    says = {
        "amount": lambda value: f"the amount were {value:,.2f} ({value - tx.amount:+,.2f})",
        "type": lambda value: f"it were a {value}",
        "step": lambda value: f"it came {value - near.step} hour{'s' if value - near.step != 1 else ''} later, at {value % 24:02d}:00",
    }
    for change in near.changes:
        st.markdown(f"* {badge(change.decision)} if {says[change.field](change.value)}: {chance(change.probability)}")
    if not near.changes:
        st.markdown(
            "* None: no other amount, type or hour within a day changes it."
            + (f" The rule *{near.rules[0]}* decides." if near.rules else "")
        )
    st.markdown("**As it was seen then**, one figure alone would have had to be otherwise:")
    for figure in near.figures[:12]:
        st.markdown(f"* {badge(figure.decision)} if {figure.says[0].lower()}{figure.says[1:]}: {chance(figure.probability)}")
    if not near.figures:
        st.markdown(f"* {near.figures_missing or 'None: no single figure would have changed it'}.")
    st.caption(
        "Exact, not sampled: the score changes only at the limits that the model's trees ask for, and all of them were tried. Figures that grow with the amount move together with it, so they stand above."
    )


def timeline(about: Told) -> None:
    "What the recipient got before, as a picture and a table."
    if not about.received:
        st.info("This recipient got nothing in the 100,000 decisions before.")
        return
    data = frame(about.received, {"step": "hour", "amount": "amount", "decision": "decision", "type": "type"})
    colours = alt.Color(
        "decision:N", scale=alt.Scale(domain=list(COLOURS), range=list(COLOURS.values())), legend=alt.Legend(orient="top", title=None)
    )
    dots = (
        alt.Chart(data)
        .mark_circle(size=80)
        .encode(
            x=alt.X("hour:Q", title="hour of the log", scale=alt.Scale(zero=False)),
            y=alt.Y("amount:Q", scale=alt.Scale(type="symlog"), title="amount"),
            color=colours,
            tooltip=["hour", "type", "amount", "decision"],
        )
    )
    st.altair_chart(dots.properties(height=180), width="stretch")
    others(about.received)


def similar(about: Told) -> None:
    if not about.similar:
        st.info(
            "Nobody has labelled a transaction of this model yet. Once there are labels, those whose reasons are most alike stand here."
        )
        return
    ended = [row.fraud for row in about.similar]
    st.markdown(
        f"Whose reasons are most alike, among the labelled transactions: fraud **{ended.count(True)}**, genuine **{ended.count(False)}**."
    )
    others(about.similar, Alike=[row.likeness for row in about.similar])


def work(about: Told) -> None:
    if len(about.case) > 1:
        st.markdown(f"**A case of {len(about.case)} legs**: a transfer, and the cash-out of just its amount.")
        st.dataframe(
            frame(
                about.case,
                {"step": "Hour", "type": "Type", "amount": "Amount", "decision": "Decision", "status": "Status", "assignee": "With"},
            ).to_dict(as_series=False)
            | {"Transaction": [f"/transaction?id={quote(leg.transaction_id)}" for leg in about.case]},
            hide_index=True,
            column_config=CONFIG,
        )
    else:
        st.markdown("It stands alone: no other transaction belongs to its case.")
    st.markdown("**What was done**")
    st.dataframe(
        frame(about.history, {"at": "When (UTC)", "by": "By", "action": "Action", "status": "Status after", "assignee": "With"}),
        hide_index=True,
    )
    st.markdown("**Labels**, the last one counts")
    st.dataframe(
        {
            "When (UTC)": [f.given_at for f in about.record.feedback],
            "By": [f.by for f in about.record.feedback],
            "It was": ["taken back" if f.fraud is None else LABELS[f.fraud] for f in about.record.feedback],
        },
        hide_index=True,
    )


def record(about: Told) -> None:
    left, right = st.columns(2)
    left.markdown("**The request, as it came**")
    left.json(about.record.request)
    right.markdown("**The log's record of the answer**")
    own = {
        "answered_at": about.alert.answered_at,
        "model_version": about.model_version,
        "rules_version": about.rules_version,
        "margin": about.margin,
    }
    right.json(own | about.record.answer, expanded=1)


def show(transaction_id: str) -> None:
    about = dossier(transaction_id)
    head(about)
    words, image = st.columns([2, 3], gap="large")
    with words:
        why(about.answer)
        costs(about)
    with image:
        if told := about.answer.explanation:
            picture(told)
    parts = {
        "What if": what_if,
        "What would change it": otherwise,
        "The recipient before": timeline,
        "Similar ones": similar,
        "Case and work": work,
        "Record": record,
    }
    chosen = st.segmented_control("More", list(parts), default="What if", required=True, label_visibility="collapsed")
    parts[chosen](about)


def body() -> None:
    if "asked" not in st.session_state or st.query_params.get("id", "") not in ("", st.session_state.get("shown")):
        st.session_state.asked = st.query_params.get("id", st.session_state.get("shown", ""))
    transaction_id = st.text_input("Transaction", key="asked", placeholder="the id of a transaction, as in the answer to it").strip()
    if not transaction_id:
        st.info("Open one from the queue, or enter its id. The address of this page then leads to it.")
        return
    st.session_state.shown = st.query_params["id"] = transaction_id
    show(transaction_id)


page("Transaction", body)
