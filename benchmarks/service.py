"""What an answer takes: in process, over HTTP, for a file at once, as models and pasts grow, and at a start.

    make bench

One report in Markdown. A part that computes here is a process of its own; the servers are processes anyway.
"""

import argparse
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

PARTS = {"in-process": "In process", "http": "Over HTTP", "offline": "A file at once", "growth": "Growth", "start": "A start"}
LIBRARIES = ("numpy", "xgboost-cpu", "numba", "pydantic", "fastapi", "uvicorn", "mlflow")


def machine() -> str:
    "Versions and cores, in a line."
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    return f"{os.cpu_count()} cores; Python {platform.python_version()}, {libraries}"


def prepare(given: argparse.Namespace) -> None:
    "Write the world that all parts live in."
    import over_http
    from world import prepare

    n_after = max(given.rows + 1_000, over_http.n_bodies(given.seconds) if "http" in given.only else 0)
    prepare(given.folder, given.history, n_after, given.trees)


def part(given: argparse.Namespace) -> str:
    "The report of one part."
    if given.part == "in-process":
        import in_process

        return in_process.report(given.folder, given.rows, given.trees)
    if given.part == "start":
        import starts

        return starts.report(given.folder / "start", given.behind, given.trees)
    import growth

    return growth.offline(given.folder) if given.part == "offline" else growth.report(given.folder, given.trees)


def child(*arguments: str) -> str:
    "What this file prints when it is called with `arguments` besides its own."
    done = subprocess.run([sys.executable, __file__, *sys.argv[1:], *arguments], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(arguments)} failed; the reason stands above")
    return done.stdout


def over_http(folder: Path, seconds: float) -> str:
    "The report of the part whose servers are processes of their own."
    import over_http

    return over_http.report(folder, seconds)


def benchmark(given: argparse.Namespace) -> None:
    "Print the report, part by part."
    if "http" in given.only and not shutil.which("wrk"):
        sys.exit("wrk is not installed; apt-get install wrk, or leave http out of --only")
    print(f"# The service\n\n{machine()}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        child("--folder", folder, "--part", "prepare")
        for name in given.only:
            said = over_http(Path(folder), given.seconds) if name == "http" else child("--folder", folder, "--part", name)
            print(f"\n## {PARTS[name]}\n\n{said.strip()}", flush=True)


def parts(text: str) -> list[str]:
    "The parts that `text` names, with commas between them."
    if unknown := set(named := text.split(",")) - set(PARTS):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}; choose from {', '.join(PARTS)}")
    return named


def main() -> None:
    "Measure what the command line asks for; see --help."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=parts, default=list(PARTS), help=f"some of {','.join(PARTS)}")
    parser.add_argument(
        "--rows",
        type=int,
        default=50_000,
        help="transactions that are decided one by one in process, and half of those on which tables and XGBoost are compared",
    )
    parser.add_argument("--seconds", type=float, default=10, help="of each run over HTTP")
    parser.add_argument("--history", type=int, default=500_000, help="events before them; also those that are scored as a file")
    parser.add_argument("--behind", type=int, default=7_500_000, help="events that a start has behind it")
    parser.add_argument("--trees", type=int, default=300, help="of the model that answers")
    for hidden, kind in (("--part", str), ("--folder", Path)):
        parser.add_argument(hidden, type=kind, help=argparse.SUPPRESS)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # so that the servers end, too
    if given.part == "prepare":
        prepare(given)
    elif given.part:
        print(part(given))
    else:
        benchmark(given)


if __name__ == "__main__":
    main()
