"""The analyst's app: a frame around its pages."""

import streamlit as st

st.set_page_config(page_title="mlops-fraud", page_icon="🛡️", layout="wide")
st.navigation([st.Page("pages/score.py", title="Score a transaction", icon="🔎", default=True)]).run()
