# ratelimitd: a builder that makes the wheel, and an image without its tools, which does not run as root.

FROM python:3.13-slim AS builder
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /src

# Dependencies come first: they change less often than the code, so they stay in the build cache.
# Only wheels, and only those whose hashes are committed: nothing is compiled, and nothing is run to install it.
COPY requirements/ requirements/
RUN python -m venv --without-pip /opt/ratelimitd \
    && pip --python /opt/ratelimitd/bin/python install --require-hashes --only-binary=:all: \
        -r requirements/runtime.txt \
    && pip install --require-hashes --only-binary=:all: -r requirements/build.txt

# Neither step may fetch anything: what is not locked above is an error.
COPY . .
RUN pip wheel --no-index --no-deps --no-build-isolation --wheel-dir dist . \
    && pip --python /opt/ratelimitd/bin/python install --no-index --no-deps dist/*.whl


FROM python:3.13-slim
COPY --from=builder /opt/ratelimitd /opt/ratelimitd
ENV PATH=/opt/ratelimitd/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RATELIMITD_LISTEN=0.0.0.0:50051

# The base image has no compiled standard library, and a read-only one could never keep it. Running the command
# once compiles what it imports, which makes every start and every health check several times cheaper.
RUN ratelimitd --version

# A number, so that Kubernetes can see it is not root. It owns no file: the root file system may be read-only.
USER 65532:65532
EXPOSE 50051 9090

# A gRPC health check. The first one comes after a whole interval, so a long one delays what waits for it; each
# one starts Python, a quarter of a second of a slow CPU, so a short one disturbs what it watches.
# (--start-interval is no way out: Docker before version 25 refuses to build a file that has it.)
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["python", "-m", "ratelimitd.cli.health"]

# No shell in between: SIGTERM reaches the service, which drains.
ENTRYPOINT ["ratelimitd"]
CMD ["serve"]
