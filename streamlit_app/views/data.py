"""The data: what it says, what it is worth, and what was refused."""

import polars as pl
import streamlit as st
from look import page, report

from mlops_fraud.settings import project_root

NO_REPORT = "The pipeline has not written this yet; `make data` and `dvc repro` do."
MOST = 500  # refused rows on the page


def refused() -> None:
    "Rows that broke a rule."
    path = project_root() / "data/interim/refused.csv"
    if not path.exists():
        st.info(NO_REPORT)
        return
    lines = pl.scan_csv(path, infer_schema=False)
    n = lines.select(pl.len()).collect().item()
    if not n:
        st.success("No row of the file was refused.")
        return
    by_field = lines.group_by("field").len("rows").sort("rows", descending=True).collect()
    st.dataframe(by_field, hide_index=True)
    st.dataframe(lines.head(MOST).collect(), hide_index=True)
    st.caption(
        f"The first {min(n, MOST):,} of {n:,} refused rows, as they were. `line` counts from the top of the file, its header included."
    )


def body() -> None:
    parts = {"What it says": "eda_summary.md", "What it is worth": "data_quality.md", "How true the simulation is": "simulator_fidelity.md"}
    chosen = st.segmented_control("Part", [*parts, "Refused rows"], default="What it says", required=True, label_visibility="collapsed")
    if chosen == "Refused rows":
        refused()
    elif not report(parts[chosen]):
        st.info(NO_REPORT)


page("Data", body)
