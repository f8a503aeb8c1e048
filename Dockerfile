# The API alone. The registry of `make run` records where its files lie, so its folder keeps its path in the container:
#   docker build -t mlops-fraud .
#   docker run -p 8000:8000 --user "$(id -u)" -v "$PWD/data:/app/data" -v "$PWD/models:$PWD/models" \
#     -e MLFLOW_TRACKING_URI="sqlite:///$PWD/models/mlflow.db" -e KEYS=data/live/keys.txt mlops-fraud
# `mlops-fraud key NAME ROLE` makes the keys: to a container every client is another machine, and those need one.
# An MLflow server needs no such folder: -e MLFLOW_TRACKING_URI=http://mlflow:5000

FROM python:3.12-slim-bookworm AS packages
# The base image's certificates, so that a company's own, added there, is trusted too.
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt
COPY requirements/serve.txt /requirements/
RUN python -m venv /venv \
    && /venv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r /requirements/serve.txt \
    && /venv/bin/pip uninstall --yes --quiet pip

FROM python:3.12-slim-bookworm
RUN useradd --create-home --uid 1000 fraud \
    && mkdir -p /app/data /app/models /app/numba \
    && chown -R fraud /app \
    && chmod 1777 /app/numba
COPY --from=packages /venv /venv
COPY settings.ini rules.yaml /app/
COPY mlops_fraud /app/mlops_fraud
WORKDIR /app
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    NUMBA_CACHE_DIR=/app/numba \
    MLFLOW_DISABLE_TELEMETRY=true
USER fraud
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
CMD ["uvicorn", "mlops_fraud.deployment.api:app", "--host", "0.0.0.0", "--port", "8000", "--timeout-graceful-shutdown", "5"]
