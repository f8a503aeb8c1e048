"""One transaction: its decision, the reasons, and the waterfall behind them."""

import streamlit as st
from client import ask, ready
from look import badge, chance, money, page, picture, why
from texts import verbatim

from mlops_fraud.schemas import TYPES, DecisionResponse


def show(decision: DecisionResponse) -> None:
    "The decision, its reasons in words, and the waterfall."
    assert decision.explanation, "asked for with explain=full"
    st.subheader(f"{badge(decision.decision)} at a probability of fraud of {chance(decision.probability)}")
    limits = decision.thresholds
    st.caption(
        f"Reviewed from {chance(limits.review)}, blocked from {chance(limits.block)}. Model {decision.model.name}, version {decision.model.version}."
    )
    words, image = st.columns([2, 3], gap="large")
    with words:
        why(decision)
        st.caption("The strongest reasons first. All of them, with the part that each has in the score, stand in the picture.")
        if cost := decision.expected_cost:
            st.markdown(
                f"**Expected cost**, in the log's currency: {money(cost['approve'])} if approved, "
                f"{money(cost['review'])} if reviewed, {money(cost['block'])} if blocked."
            )
            st.caption(
                "On average, if the probability is right. The limits above were chosen where they cost least in the "
                "validation period, so close to a limit the decision need not be the cheapest of the three."
            )
    with image:
        picture(decision.explanation)


def body() -> None:
    now = ready()
    with st.form("transaction"):
        first, second, third = st.columns(3)
        kind = first.selectbox("Type", TYPES, index=TYPES.index("TRANSFER"))
        amount = second.number_input("Amount", 0.0, 1e10, 250_000.0, step=1_000.0, help="In the currency of the log, two decimals at most.")
        step = third.number_input(
            "Hour", now["step"], 1_000_000, now["step"], help="Whole hours since the log began. The past only goes forward."
        )
        sender = first.text_input("From account", "C1000000001")
        recipient = second.text_input("To account", "C1000000002")
        counted = third.toggle("Count it as a real transaction", help="Off: nothing is logged, and the past stays as it is.")
        asked = st.form_submit_button("Score", type="primary")
    st.caption(f"The past holds {now['events']:,} transactions, up to hour {now['step']}.")
    if asked:
        st.session_state.scored = None
        made = ask({"step": step, "type": kind, "amount": amount, "nameOrig": sender, "nameDest": recipient}, counted)
        st.session_state.scored = made, counted
    if not st.session_state.get("scored"):
        st.info("Fill in a transaction and press Score. Nothing is counted unless you say so.")
        return
    decision, in_the_log = st.session_state.scored
    if in_the_log:
        words, place = st.columns([4, 1], vertical_alignment="center")
        words.markdown(f"Counted, as {verbatim(decision.transaction_id)}.")
        if place.button("Open it", width="stretch"):
            st.switch_page("views/transaction.py", query_params={"id": decision.transaction_id})
    show(decision)


page("Score a transaction", body)
