# One file, two images, for what trains takes 450 MB more than what answers:
#   docker build -t mlops-fraud .                                        the API, and nothing else but Python and a shell
#   docker build -t mlops-fraud-all --build-arg PACKAGES=run .           API, app, pipeline and MLflow, by command
# The API's takes 698 MB: Numba and its compiler 172, polars 147, NumPy and SciPy with a linear algebra each 100, Arrow 86, Python and
# Debian's libraries 42, pandas 37, MLflow's client 22, XGBoost 19, SQLAlchemy 19, PostgreSQL's and Redis' clients 17, the rest 37.
# The base is named by its version; --build-arg BASE=python:3.12-slim-bookworm@sha256:... pins it to what you have checked.
#
# The API beside `make run`, whose registry records where its files lie, so its folder keeps its path in the container:
#   docker run -p 8000:8000 --read-only --tmpfs /tmp --user "$(id -u)" -v "$PWD/data:/app/data" -v "$PWD/models:$PWD/models" \
#     -e MLFLOW_TRACKING_URI="sqlite:///$PWD/models/mlflow.db" -e KEYS=data/live/keys.txt mlops-fraud
# `mlops-fraud key NAME ROLE` makes the keys: to a container every client is another machine, and those need one.
# An MLflow server needs no such folder: -e MLFLOW_TRACKING_URI=http://mlflow:5000; compose.yaml starts one.
# The pipeline works on a checkout: docker run --user "$(id -u)" -e HOME=/tmp -e NUMBA_CACHE_DIR=/tmp/numba -v "$PWD:/app" mlops-fraud-all dvc repro
ARG BASE=python:3.12-slim-bookworm
ARG PACKAGES=serve

FROM ${BASE} AS build
ARG PACKAGES
# The base image's certificates, so that a company's own, added there, is trusted too.
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt
RUN apt-get update -q && apt-get install -y -q --no-install-recommends binutils
COPY requirements/${PACKAGES}.txt /requirements.txt
RUN python -m venv --without-pip /venv \
    && python -m pip --python /venv/bin/python install --no-cache-dir --no-compile --disable-pip-version-check --require-hashes -r /requirements.txt
COPY scripts/slim /slim
RUN /slim /venv/lib/python3.12/site-packages ${PACKAGES}
COPY settings.ini rules.yaml /app/
COPY .streamlit /app/.streamlit
COPY streamlit_app /app/streamlit_app
COPY mlops_fraud /app/mlops_fraud
WORKDIR /app
# A file system that is read only keeps no bytecode, so that of what serving imports is made now.
RUN find /usr/local/lib/python3.12 -name __pycache__ -prune -exec rm -rf {} + \
    && NUMBA_CACHE_DIR=/tmp/numba /venv/bin/python -c 'import mlops_fraud.deployment.api' \
    && if [ "$PACKAGES" != serve ]; then \
        printf '#!/bin/sh\nexec python -c "from mlops_fraud.cli import main; main()" "$@"\n' >/venv/bin/mlops-fraud; \
        chmod +x /venv/bin/mlops-fraud; \
    fi \
    && useradd --create-home --uid 1000 fraud \
    && mkdir -p data/live models

# For the API: Python without its own tests and tools, the libraries that those here are linked to, and a shell to look around.
# For the pipeline, whose stages are commands of a shell, Debian's programs too.
FROM build AS rootfs
ARG PACKAGES
WORKDIR /
RUN (cd usr/local/lib/python3.12 && rm -rf config-* ensurepip idlelib lib-dynload/*_test* lib-dynload/_xxtest* lib2to3 pydoc_data site-packages/* test tkinter turtledemo) \
    && find /usr/local/lib -type f -name '*.so*' -exec strip --strip-unneeded {} + \
    && apt-get purge -q -y --auto-remove binutils && rm -rf /tmp/* /var/cache/apt /var/lib/apt/lists \
    && mkdir /rootfs && cp -a --parents /etc/group /etc/ld.so.cache /etc/passwd /etc/ssl/certs/ca-certificates.crt /home/fraud /tmp \
        /usr/local/bin/python /usr/local/bin/python3 /usr/local/bin/python3.12 /usr/local/lib /venv /rootfs \
    && if [ "$PACKAGES" = serve ]; then \
        cp -L --parents /bin/sh /bin/cat /bin/ls /usr/bin/env /usr/bin/id /rootfs \
        && find /rootfs -type f \( -name '*.so*' -o -path '*/bin/*' \) | xargs ldd 2>/dev/null \
            | grep -o '[[:space:]]/lib[^ ]*' | sort -u | xargs cp -L --parents -t /rootfs; \
    else cp -a --parents /bin /etc /lib* /usr/bin /usr/lib* /var/lib/dpkg /var/tmp /rootfs; fi

FROM scratch
COPY --from=rootfs /rootfs /
COPY --from=build /app /app
# What may be written to: mount a volume on each, or it is gone with the container.
COPY --from=build --chown=1000 /app/data /app/data
COPY --from=build --chown=1000 /app/models /app/models
WORKDIR /app
# Compiled code is kept beside the log, for the next start on the same machine.
ENV PATH=/venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt \
    NUMBA_CACHE_DIR=/app/data/live/numba \
    MLFLOW_DISABLE_TELEMETRY=true
USER fraud
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
# Decisions are in the log and refusals in /metrics; a line for each request besides would cost a third of the speed.
CMD ["uvicorn", "mlops_fraud.deployment.api:app", "--host", "0.0.0.0", "--port", "8000", "--no-access-log", "--timeout-graceful-shutdown", "5"]
