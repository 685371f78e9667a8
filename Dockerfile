# One image per process, picked with --target: connector, worker, beat, gateway, simulator, task.
#
#   docker build --target worker --tag flyte-batchflow-worker .
#
# The images hold Python, a virtual environment and nothing to build with; they run as user 10001
# and write nowhere but in /tmp, so a read-only root file system suits them.

FROM python:3.12-slim AS wheel
WORKDIR /src
RUN python -m venv --without-pip /opt/venv
COPY pyproject.toml README.md LICENSE ./
COPY batchflow batchflow
COPY workers workers
COPY connector connector
RUN --mount=type=cache,target=/root/.cache/pip \
    pip wheel --quiet --no-deps --wheel-dir /wheels .

FROM wheel AS connector-venv
RUN --mount=type=cache,target=/root/.cache/pip \
    pip --python /opt/venv/bin/python install --quiet "$(echo /wheels/*.whl)[connector]"

FROM wheel AS workers-venv
RUN --mount=type=cache,target=/root/.cache/pip \
    pip --python /opt/venv/bin/python install --quiet "$(echo /wheels/*.whl)[workers]"

FROM wheel AS gateway-venv
RUN --mount=type=cache,target=/root/.cache/pip \
    pip --python /opt/venv/bin/python install --quiet "$(echo /wheels/*.whl)[gateway]"

FROM wheel AS simulator-venv
RUN --mount=type=cache,target=/root/.cache/pip \
    pip --python /opt/venv/bin/python install --quiet "$(echo /wheels/*.whl)[simulator]"

FROM wheel AS task-venv
RUN --mount=type=cache,target=/root/.cache/pip \
    pip --python /opt/venv/bin/python install --quiet "$(echo /wheels/*.whl)[task]"


FROM python:3.12-slim AS runtime
RUN useradd --uid 10001 --user-group --create-home --shell /usr/sbin/nologin batchflow
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /home/batchflow
# By number, so that Kubernetes can tell that it is not root.
USER 10001:10001


# gRPC on 8000, Prometheus metrics of flytekit's server on 9090.
FROM runtime AS connector
COPY --from=connector-venv /opt/venv /opt/venv
EXPOSE 8000 9090
# As process 1 flytekit's server ignores SIGTERM; on SIGINT it ends.
STOPSIGNAL SIGINT
HEALTHCHECK --interval=15s --timeout=10s --start-period=60s CMD ["python", "-c", "import grpc; from grpc_health.v1 import health_pb2 as pb, health_pb2_grpc as rpc; channel = grpc.insecure_channel('127.0.0.1:8000', [('grpc.enable_http_proxy', 0)]); answer = rpc.HealthStub(channel).Check(pb.HealthCheckRequest(), timeout=5); raise SystemExit(answer.status != pb.HealthCheckResponse.SERVING)"]
ENTRYPOINT ["pyflyte", "serve", "connector"]
CMD ["--port", "8000", "--modules", "batchflow_connector"]


# All queues, in threads; `-Q batchflow.submit` (or .poll, .files), `--concurrency` and other options
# of `celery worker` as arguments. On SIGTERM the steps in hand have 30 seconds to end, and what is
# left goes back to its queue: give the container 60 (docker stop --time 60,
# terminationGracePeriodSeconds: 60).
FROM runtime AS worker
COPY --from=workers-venv /opt/venv /opt/venv
# Without it Celery waits for its tasks without end on SIGTERM, and is then killed.
ENV REMAP_SIGTERM=SIGQUIT
HEALTHCHECK --interval=60s --timeout=30s --start-period=60s CMD ["sh", "-c", "exec celery -A batchflow_workers inspect ping -d celery@$HOSTNAME --timeout 10"]
ENTRYPOINT ["celery", "-A", "batchflow_workers", "worker", "--pool", "threads"]


# The schedule is kept in memory, so there is no file to mount, and nothing here to ask for its
# health: when beat ends, so does its container.
FROM runtime AS beat
COPY --from=workers-venv /opt/venv /opt/venv
ENTRYPOINT ["celery", "-A", "batchflow_workers", "beat"]


# Webhooks, status page, API and metrics on 8080. A container is reached from elsewhere, so it needs
# BATCHFLOW_API_TOKEN.
FROM runtime AS gateway
COPY --from=gateway-venv /opt/venv /opt/venv
EXPOSE 8080
HEALTHCHECK --interval=15s --timeout=5s --start-period=15s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/healthz', timeout=3)"]
ENTRYPOINT ["batchflow", "gateway"]
CMD ["--host", "0.0.0.0", "--port", "8080"]


# A stand-in for OpenAI on 8080, for demonstrations and tests.
FROM runtime AS simulator
COPY --from=simulator-venv /opt/venv /opt/venv
EXPOSE 8080
HEALTHCHECK --interval=15s --timeout=5s --start-period=15s CMD ["python", "-c", "import socket; socket.create_connection(('127.0.0.1', 8080), 3).close()"]
ENTRYPOINT ["batchflow", "simulate"]
CMD ["--host", "0.0.0.0", "--port", "8080"]


# For pods that run a transfer task's container form; Flyte gives the command.
FROM runtime AS task
COPY --from=task-venv /opt/venv /opt/venv
