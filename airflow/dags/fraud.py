"""The calendar of mlops-fraud: it is watched every hour, and retrained every week or when an alarm says so.

Each task is one of the project's commands, run in the project's folder and environment; Airflow knows nothing of
models. So what a task does can be done by hand, a task that is repeated goes on where it stopped, and only the last
one touches what answers.
"""

import os
import re
import subprocess
from datetime import timedelta
from pathlib import Path

import pendulum
from airflow.sdk import Asset, AssetOrTimeSchedule, CronTriggerTimetable, PokeReturnValue, dag, get_current_context, task
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

HOME = Path(os.environ["MLOPS_FRAUD_HOME"])  # the project's folder
BIN = Path(os.environ.get("MLOPS_FRAUD_BIN", HOME / ".venv/bin"))  # of the project's environment, which is not Airflow's
ALARM, LATER = 3, 75  # exit codes: a new alarm; call again later
DRIFTED = ("performance", "inputs", "score")  # alarms that a retraining may answer
DRIFT = Asset("mlops-fraud-drift")

START = pendulum.datetime(2026, 1, 1, tz="UTC")
ARGUMENTS = {"retries": 2, "retry_delay": timedelta(seconds=float(os.environ.get("MLOPS_FRAUD_RETRY_SECONDS", "300")))}


def command(*arguments: str, also: tuple[int, ...] = ()) -> tuple[int, str]:
    "Exit code and output of `mlops-fraud ARGUMENTS`. Anything but 0 and the codes in `also` fails the task, with the command's own words."
    done = subprocess.run([str(BIN / "mlops-fraud"), *arguments], cwd=HOME, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    print(done.stdout, flush=True)
    if done.returncode == 1:  # it said why, and would say it again
        raise AirflowFailException(done.stdout.strip().splitlines()[-1])
    if done.returncode not in (0, *also):
        raise RuntimeError(f"mlops-fraud {' '.join(arguments)} ended with {done.returncode}")
    return done.returncode, done.stdout


@dag(schedule="@hourly", start_date=START, catchup=False, max_active_runs=1, default_args=ARGUMENTS, tags=["mlops-fraud"])
def fraud_monitoring() -> None:
    "Judge the days that are over; an alarm about drift starts a retraining."

    @task(outlets=[DRIFT])
    def monitor() -> str:
        "Succeeds, and so starts a retraining, only where a drift is new."
        code, said = command("monitor", also=(ALARM,))
        if code != ALARM or not re.search(rf"^({'|'.join(DRIFTED)}), since", said, flags=re.MULTILINE):
            raise AirflowSkipException("no new drift")
        return said

    monitor()


@dag(
    schedule=AssetOrTimeSchedule(timetable=CronTriggerTimetable("0 3 * * 1", timezone="UTC"), assets=[DRIFT]),
    start_date=START,
    catchup=False,
    max_active_runs=1,  # two would ask for the same challenger
    params={"until": None},  # last step of the log that it may know: a past retraining made again
    default_args=ARGUMENTS,
    tags=["mlops-fraud"],
)
def fraud_retraining() -> None:
    "From the log to the next champion."

    @task
    def check() -> str:
        "What there is to learn from; returns the last step of the log that this run knows."
        until = get_current_context()["params"]["until"]
        _, said = command("retrain", "--only", "check", *(["--until", str(until)] if until is not None else []))
        found = re.search(r"on the log to step (\d+)", said)
        assert found, said
        return found[1]

    @task
    def take(step: str, until: str) -> str:
        "One step of the retraining."
        command("retrain", "--only", step, "--until", until)
        return until

    @task.sensor(mode="reschedule", poke_interval=600, timeout=14 * 24 * 3600)
    def shadow(until: str) -> PokeReturnValue:
        "Waits until the challenger has followed for long enough."
        code, _ = command("retrain", "--only", "shadow", "--until", until, also=(LATER,))
        return PokeReturnValue(is_done=code == 0, xcom_value=until)

    @task(trigger_rule="all_done")
    def report(until: str) -> None:
        "What came of it, also where a step stopped."
        print((HOME / "data/live/retraining" / until / "retraining.md").read_text())

    known = check()
    made = take.override(task_id="reproduce")("reproduce", known)
    challenger = take.override(task_id="register")("register", made)
    followed = shadow(challenger)
    answers = take.override(task_id="promote")("promote", followed)
    answers >> report(known)


fraud_monitoring()
fraud_retraining()
