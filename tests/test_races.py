"""Interleavings that once lost a decision or tore the log of a single service: each is made to happen."""

import asyncio
import sqlite3
import sys
import threading
from pathlib import Path

import pytest
from conftest import Project, run_with, some

from mlops_fraud.deployment.service import REST, Service
from mlops_fraud.ledger import Entry, Ledger, LogFailed, verify_log
from mlops_fraud.scoring import Scorer


def ids(log: Path) -> list[str | None]:
    "What stands in the log, which is whole."
    ledger = Ledger(log)
    found = [entry.request.transaction_id for entry in ledger.entries()]
    ledger.close()
    assert verify_log(log).decisions == len(found)
    return found


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_below_the_output_keeps_nobody_from_an_answer(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask() -> Entry:
        service = Service()
        first, second, third = some(project, 3)
        await service.decided(first)
        ledger = service.scorer().ledger

        def commit() -> None:
            ledger._roll_back()
            raise sqlite3.OperationalError("database or disk is full")

        monkeypatch.setattr(ledger, "commit", commit)
        full = open("/dev/full", "w", buffering=1)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", full)
            with pytest.raises(LogFailed):
                await asyncio.wait_for(service.decided(second), 10)
        await asyncio.sleep(REST + 0.1)
        return await asyncio.wait_for(service.decided(third), 30)

    log = tmp_path / "log.sqlite"
    assert run_with(project.environment(LEDGER=str(log)), monkeypatch, ask).request.transaction_id == "e-2"
    assert ids(log) == ["e-0", "e-2"]


def test_a_write_that_was_taken_for_lost_is_in_the_past_once_it_has_come_through(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, go = threading.Event(), threading.Event()

    async def ask() -> tuple[list[object], int]:
        service = Service()
        first, second, third, fourth, fifth = some(project, 5)
        await service.decided(first)
        ledger = service.scorer().ledger
        whole = ledger.commit

        def slow() -> None:
            inside.set()
            assert go.wait(30)
            whole()

        monkeypatch.setattr(ledger, "commit", slow)
        writing = asyncio.create_task(service.decided(second))
        while not inside.is_set():
            await asyncio.sleep(0.01)
        monkeypatch.setattr(service.scorer().state, "advance", lambda event: 1 / 0)
        with pytest.raises(LogFailed, match="something broke"):
            await service.decided(third)
        await asyncio.sleep(REST + 0.1)
        behind = asyncio.create_task(service.decided(fourth))  # a new scorer, without what is being written
        await asyncio.sleep(0.3)
        go.set()
        told = await asyncio.gather(writing, behind, return_exceptions=True)
        await asyncio.sleep(REST + 0.1)
        await service.decided(fifth)
        return list(told), service.scorer().state.n_events

    log = tmp_path / "log.sqlite"
    (second, fourth), known = run_with(project.environment(LEDGER=str(log)), monkeypatch, ask)
    assert isinstance(second, Entry) and isinstance(fourth, LogFailed)
    assert (ids(log), known) == (["e-0", "e-1", "e-4"], 3)


def test_who_is_cut_off_while_writing_to_the_log_lets_nobody_else_write_until_that_ends(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, go = threading.Event(), threading.Event()

    def work(ledger: Ledger) -> None:
        with ledger.together():
            inside.set()
            assert go.wait(30)

    async def ask() -> None:
        service = Service()
        first, *rest = some(project, 5)
        await service.decided(first)
        writing = asyncio.create_task(service.write(work))
        while not inside.is_set():
            await asyncio.sleep(0.01)
        writing.cancel()
        deciding = asyncio.create_task(service.decided_each(rest))
        await asyncio.sleep(0.3)
        assert service.log.locked() and not deciding.done()
        go.set()
        await deciding
        assert writing.cancelled()

    log = tmp_path / "log.sqlite"
    run_with(project.environment(LEDGER=str(log)), monkeypatch, ask)
    assert ids(log) == [f"e-{i}" for i in range(5)]


def test_without_room_for_a_snapshot_a_service_starts_all_the_same(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Scorer, *given: object) -> None:
        raise OSError(28, "No space left on device")

    async def ask() -> Entry:
        monkeypatch.setattr(Scorer, "keep", full)
        return await Service().decided(some(project, 1)[0])

    assert run_with(project.environment(LEDGER=str(tmp_path / "log.sqlite")), monkeypatch, ask).request.transaction_id == "e-0"
