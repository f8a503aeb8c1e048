"""What the data-quality report counts, against files whose faults are known."""

from pathlib import Path

import polars as pl
import pytest

from mlops_fraud.data.ingest import CHECKS, IngestReport, Rule, ingest, quality_report
from mlops_fraud.data.simulator import simulated
from mlops_fraud.schemas import BALANCES, LABELS

GOOD = {"step": "1", "type": "PAYMENT", "amount": "5", "nameOrig": "C1", "nameDest": "M1", "isFraud": "0"}
WRONG: dict[str, dict[str, str | None]] = {
    "line": {"has as many fields": None},
    "step": {"is there": "x", "is at least": "-1", "is at most": "1000001"},
    "type": {"is one of": "PAYMNT"},
    "amount": {"is there": "abc", "is at least": "-5", "is at most": "10000000001", "has at most two decimals": "0.015"},
    "nameOrig": {"holds no NUL": "C\0", "has 1 to 64": ""},
    "nameDest": {"holds no NUL": "C\0", "has 1 to 64": "C" * 65},
    "isFraud": {"is 0 or 1": "7"},
}
CASES = [(field, words, cell) for field, cases in WRONG.items() for words, cell in cases.items()]


def take(folder: Path, frame: pl.DataFrame) -> IngestReport:
    "The report of `frame`, ingested from a parquet file."
    frame.write_parquet(folder / "raw.parquet")
    return ingest(folder / "raw.parquet", folder / "events.parquet", folder / "refused.csv")


def rule(field: str, words: str) -> Rule:
    "The one rule of `field` that begins with `words`."
    (found,) = (r for r in CHECKS if r.field == field and r.words.startswith(words))
    return found


@pytest.mark.parametrize("field, words, cell", CASES, ids=[f"{field} {words}" for field, words, _ in CASES])
def test_a_bad_row_is_counted_under_the_rule_that_it_breaks_and_under_no_other(
    field: str, words: str, cell: str | None, tmp_path: Path
) -> None:
    bad = ",".join({**GOOD, field: cell}.values()) if cell is not None else "1,PAYMENT,5"
    good = ",".join(GOOD.values())
    (tmp_path / "raw.csv").write_text("\n".join([",".join(GOOD), good, bad, good, bad, good]))
    report = ingest(tmp_path / "raw.csv", tmp_path / "events.parquet", tmp_path / "refused.csv")
    wrong = rule(field, words)
    assert (report.accepted, report.refused) == (3, 2)
    assert report.broken == report.refused_for == {(wrong.field, wrong.check): 2}
    assert [example.split(":")[0] for example in report.examples[wrong.field, wrong.check]] == ["line 3", "line 5"]
    said = quality_report(report, "raw.csv")
    assert f"| `{wrong.field}` | {wrong.words} | 2 |" in said and said.count(" | 2 |\n") == 1


def test_every_rule_that_a_file_can_break_has_a_bad_row_above() -> None:
    unbreakable = {(r.field, r.check) for r in CHECKS if r.words.startswith("is there, and is a text")}  # a CSV cell is always a text
    tried = {(r.field, r.check) for r in (rule(field, words) for field, words, _ in CASES)}
    assert tried | unbreakable == {(r.field, r.check) for r in CHECKS}


def test_a_row_with_two_faults_breaks_two_rules_and_is_refused_once(tmp_path: Path) -> None:
    report = take(
        tmp_path, simulated(50, seed=1).with_columns(amount=pl.lit(-0.001), type=pl.lit(None, pl.String)).vstack(simulated(50, 1))
    )
    assert report.refused == 50
    assert sorted(report.broken.values()) == [50, 50, 50]  # no type, below zero, too many decimals
    assert list(report.refused_for.values()) == [50]
    assert "50 of 100 rows (50.000 %)" in quality_report(report, "raw.parquet")


@pytest.mark.parametrize("order", ["in time order", "shuffled"])
def test_rows_that_repeat_are_counted_in_any_order(order: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlops_fraud.data.ingest.BLOCK_ROWS", 100)
    raw = simulated(2_000, seed=3).sample(3_000, with_replacement=True, seed=1)
    raw = raw.sort("step", maintain_order=True) if order == "in time order" else raw
    report = take(tmp_path, raw)
    assert report.was_sorted == (order == "in time order")
    assert report.repeated == raw.height - raw.n_unique() > 1_000


def test_types_frauds_and_silent_hours_are_those_of_the_file(tmp_path: Path) -> None:
    raw = simulated(20_000, seed=3)
    report = take(tmp_path, raw)
    assert dict(report.types) == dict(raw.group_by("type").len().iter_rows())
    assert {t: n for t, n in report.frauds_of.items() if n} == dict(raw.filter(pl.col("isFraud") == 1).group_by("type").len().iter_rows())
    hours = raw["step"].max() - raw["step"].min() + 1  # type: ignore[operator]
    assert f"{hours:,} hours, {hours - raw['step'].n_unique():,} of them without an event" in quality_report(report, "raw.parquet")


def test_a_file_without_labels_and_balances_is_described_as_such(tmp_path: Path) -> None:
    report = take(tmp_path, simulated(1_000, seed=3).drop(*BALANCES, *LABELS).with_columns(branch=pl.lit("x")))
    said = quality_report(report, "raw.parquet")
    assert "* Labels: none" in said and "* Balances: none" in said and "| `branch` | String | dropped |" in said
    assert "`isFraud`" not in said and said.count("cannot say") == 4


def test_what_a_cell_says_cannot_become_part_of_the_page(tmp_path: Path) -> None:
    report = take(tmp_path, simulated(10, 1).with_columns(type=pl.lit("`<img src=x>`")).vstack(simulated(10, 1)))
    assert "`line 1: type = ''<img src=x>''; it must be one of" in quality_report(report, "raw.parquet")
