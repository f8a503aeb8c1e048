# Settings pass through: make run API_PORT=8100 SIMULATED_ROWS=200000
export PATH := $(CURDIR)/.venv/bin:$(PATH)
unexport PYTHONDONTWRITEBYTECODE  # compiling 2,000 imported files takes 10 s, each time
.PHONY: help run test test-run test-airflow test-spark data lab docs ship hooks check audit bench bench-load bench-pauses bench-soak bench-pipeline bench-spark bench-features bench-app screenshots clean lock
.DEFAULT_GOAL := help

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1|/p' Makefile | awk -F'|' '{ printf "%-14s %s\n", $$1, $$2 }'

run:  ## data, pipeline, champion, API, app and MLflow page; Ctrl-C ends them all
	@scripts/environment run
	@exec mlops-fraud run

test:  ## notebooks and tests, but test-run's (some: make test NOTEBOOKS=nbs/20_features.ipynb ARGS="-k replay")
	@scripts/environment test
	@scripts/engines postgresql redis-server faketime || echo "test: what starts them is left out" >&2
	@CHROMIUM=$$(scripts/browser) && export CHROMIUM && nbdev-test --timing $(NOTEBOOKS) && exec pytest -q -n auto --dist loadfile --no-loadscope-reorder -m "not minutes" $(ARGS)

data:  ## take data/raw/, or simulate a data set if it holds none, and ingest it
	@scripts/environment run
	@mlops-fraud data
	@exec dvc repro ingest

lab:  ## JupyterLab on the notebooks
	@scripts/environment lab
	@exec jupyter lab --notebook-dir nbs $$([ $$(id -u) != 0 ] || echo --allow-root)

docs:  ## the book: chapters with their figures, reports, reference; _docs/index.html (ARGS go to scripts/book)
	@scripts/environment docs
	@exec scripts/book $(ARGS)

ship:  ## a changed notebook becomes the champion: export, test, reproduce what it affects, register; a running API follows
	@scripts/environment test
	@nbdev-export
	@$(MAKE) --no-print-directory test
	@dvc repro
	@exec mlops-fraud promote

test-run:  ## the main job as a newcomer starts it, and a changed feature that is shipped to it: the whole pipeline, twice; minutes
	@scripts/environment test
	@exec pytest -q -m minutes $(ARGS)

test-airflow:  ## the DAG in a real Airflow, with an environment of its own (.airflow); minutes
	@scripts/environment test
	@[ -x .airflow/bin/airflow ] || { python3 -m venv .airflow && .venv/bin/uv pip install --quiet --python .airflow/bin/python --require-hashes -r airflow/requirements.txt; }
	@exec pytest -q airflow/test_dag.py $(ARGS)

test-spark:  ## rows and search on a cluster of two executors, beside those of one process; adds pyspark to .venv, needs Java 17; minutes
	@scripts/environment test
	@scripts/environment spark
	@exec pytest -q spark/test_spark.py $(ARGS)

hooks:  ## once per clone: notebooks clean when committed, readable in git diff, merged cell by cell
	@scripts/environment test
	@scripts/hooks

check:  ## what CI checks beside the tests: lint, format, types, notebooks and package agree
	@scripts/environment test
	@scripts/check

audit:  ## known vulnerabilities, bills of materials (.audit/*.cdx.json), secrets, the cloud's template
	@scripts/environment test
	@scripts/audit

bench:  ## an answer's microseconds and exactness, the service under load, and their growth (ARGS="--only in-process --rows 2000")
	@scripts/environment run
	@exec python benchmarks/service.py $(ARGS)

bench-pauses:  ## the service at a given rate: latencies, worst pauses, a picture (ARGS="--rate 1000 --seconds 60")
	@scripts/environment run
	@exec python benchmarks/pauses.py $(ARGS)

bench-load:  ## one service and two, on SQLite, PostgreSQL, and PostgreSQL with Redis (ARGS="--seconds 5 --only redis")
	@scripts/environment test
	@exec python benchmarks/load.py $(ARGS)

bench-soak:  ## half an hour at a steady rate: memory and latency over time (ARGS="--store redis --services 2 --minutes 5")
	@scripts/environment test
	@exec python benchmarks/soak.py $(ARGS)

bench-pipeline:  ## each stage's seconds and memory, and pandas' (FILE=path.parquet, ARGS="--rows 0")
	@scripts/environment run
	@exec python benchmarks/pipeline.py $(if $(FILE),"$(FILE)") $(ARGS)

bench-spark:  ## rows by 1 and 2 Spark executors as the data grows, beside one process (ARGS="--rows 400000")
	@scripts/environment run
	@scripts/environment spark
	@exec python benchmarks/spark.py $(ARGS)

bench-features:  ## what each feature costs (ARGS="--events 100000")
	@scripts/environment run
	@exec python benchmarks/features.py $(ARGS)

bench-app:  ## each page's time to first content, and each filter's, with a million stored decisions (ARGS="--decisions 100000")
	@scripts/environment test
	@CHROMIUM=$$(scripts/browser) && export CHROMIUM && exec python benchmarks/pages.py $(ARGS)

screenshots:  ## every page of the app, light and dark, on a small model of its own; reports/figures/app/
	@scripts/environment test
	@exec python scripts/screenshots "$$(scripts/browser)"

lock:  ## resolve pyproject.toml into requirements/ (ARGS=--upgrade for newer versions)
	@scripts/lock $(ARGS)

clean:  ## remove .venv, caches and the book; data, models and reports stay
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache _docs _proc *.egg-info
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
