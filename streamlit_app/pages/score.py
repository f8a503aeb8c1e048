"""One transaction: its decision, the reasons, and the waterfall behind them."""

import streamlit as st
from client import Unanswered, ask, ready

from mlops_fraud.schemas import TYPES, DecisionResponse
from mlops_fraud.waterfall import waterfall

BADGES = {"approve": ("green", "Approve"), "review": ("orange", "Review"), "block": ("red", "Block")}


def show(decision: DecisionResponse) -> None:
    "The decision, its reasons in words, and the waterfall."
    assert decision.explanation, "asked for with explain=full"
    colour, word = BADGES[decision.decision]
    st.subheader(f":{colour}-badge[{word}] at a probability of fraud of {decision.probability:.2%}")
    limits = decision.thresholds
    st.caption(
        f"Reviewed from {limits.review:.2%}, blocked from {limits.block:.2%}. Model {decision.model.name}, version {decision.model.version}."
    )
    words, picture = st.columns([2, 3], gap="large")
    with words:
        for rule in decision.rules:
            st.warning(
                f"The rule *{rule.name}* decided: {rule.why}" if rule is decision.rules[0] else f"It also meets *{rule.name}*: {rule.why}"
            )
        for earlier in decision.linked:
            st.warning(f"It cashes out just what was transferred by `{earlier}`: look at that one, too.")
        st.markdown("**Why**\n" + "\n".join(f"1. {reason['sentence']}" for reason in decision.reasons))
        st.caption("The strongest reasons first. All of them, with the part that each has in the score, stand in the picture.")
        if cost := decision.expected_cost:
            st.markdown(
                f"**Expected cost**, in the log's currency: {cost['approve']:,.0f} if approved, "
                f"{cost['review']:,.0f} if reviewed, {cost['block']:,.0f} if blocked."
            )
            st.caption(
                "On average, if the probability is right. The limits above were chosen where they cost least in the "
                "validation period, so close to a limit the decision need not be the cheapest of the three."
            )
    with picture:
        st.pyplot(waterfall(decision.explanation), width="stretch")
        st.caption(
            "Orange raises the risk, blue lowers it. The bars start at the average transaction and add up to this one's score, in log-odds."
        )


st.title("Score a transaction")
try:
    now = ready()
except Unanswered as reason:
    st.error(str(reason))
    st.stop()

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
if not asked:
    st.info("Fill in a transaction and press Score. Nothing is counted unless you say so.")
    st.stop()
try:
    show(ask({"step": step, "type": kind, "amount": amount, "nameOrig": sender, "nameDest": recipient}, counted))
except Unanswered as reason:
    st.error(str(reason))
