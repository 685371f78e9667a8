# One image per process, selected with --target: connector, worker, beat, gateway, simulator, task.
#
#   docker build --target worker --tag flyte-batchflow-worker .
#
# The images contain Python and a virtual environment, but no build tools. They run as user 10001 and
# write only to /tmp, so the root file system can be read-only.

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
# A number, so that Kubernetes can verify that the user is not root.
USER 10001:10001


# gRPC on port 8000, Prometheus metrics of flytekit's server on port 9090.
FROM runtime AS connector
COPY --from=connector-venv /opt/venv /opt/venv
EXPOSE 8000 9090
# As process 1, flytekit's server ignores SIGTERM, but stops on SIGINT.
STOPSIGNAL SIGINT
HEALTHCHECK --interval=15s --timeout=10s --start-period=60s CMD ["python", "-c", "import grpc; from grpc_health.v1 import health_pb2 as pb, health_pb2_grpc as rpc; channel = grpc.insecure_channel('127.0.0.1:8000', [('grpc.enable_http_proxy', 0)]); answer = rpc.HealthStub(channel).Check(pb.HealthCheckRequest(), timeout=5); raise SystemExit(answer.status != pb.HealthCheckResponse.SERVING)"]
ENTRYPOINT ["pyflyte", "serve", "connector"]
CMD ["--port", "8000", "--modules", "batchflow_connector"]


# Consumes all queues, in threads. Arguments are options of `celery worker`, such as
# `-Q batchflow.submit` (.poll, .files) and `--concurrency`. After SIGTERM, running steps have 30
# seconds to end; then they return to their queue. Give the container 60 seconds
# (docker stop --time 60, terminationGracePeriodSeconds: 60).
FROM runtime AS worker
COPY --from=workers-venv /opt/venv /opt/venv
# Otherwise Celery waits for its tasks without a limit after SIGTERM, until it is killed.
ENV REMAP_SIGTERM=SIGQUIT
HEALTHCHECK --interval=60s --timeout=30s --start-period=60s CMD ["sh", "-c", "exec celery -A batchflow_workers inspect ping -d celery@$HOSTNAME --timeout 10"]
ENTRYPOINT ["celery", "-A", "batchflow_workers", "worker", "--pool", "threads"]


# The schedule is kept in memory, so no volume is needed. There is no health check, because the
# container stops when beat does.
FROM runtime AS beat
COPY --from=workers-venv /opt/venv /opt/venv
ENTRYPOINT ["celery", "-A", "batchflow_workers", "beat"]


# Webhooks, status page, API and metrics on port 8080. It requires BATCHFLOW_API_TOKEN, because it does
# not listen on the loopback only.
FROM runtime AS gateway
COPY --from=gateway-venv /opt/venv /opt/venv
EXPOSE 8080
HEALTHCHECK --interval=15s --timeout=5s --start-period=15s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/healthz', timeout=3)"]
ENTRYPOINT ["batchflow", "gateway"]
CMD ["--host", "0.0.0.0", "--port", "8080"]


# An emulator of OpenAI's API on port 8080, for demonstrations and tests.
FROM runtime AS simulator
COPY --from=simulator-venv /opt/venv /opt/venv
EXPOSE 8080
HEALTHCHECK --interval=15s --timeout=5s --start-period=15s CMD ["python", "-c", "import socket; socket.create_connection(('127.0.0.1', 8080), 3).close()"]
ENTRYPOINT ["batchflow", "simulate"]
CMD ["--host", "0.0.0.0", "--port", "8080"]


# For transfer tasks that run as pods; Flyte sets the command.
FROM runtime AS task
COPY --from=task-venv /opt/venv /opt/venv
