# A builder makes the wheel. The final image has no build tools and does not run as root.

FROM python:3.13-slim AS builder
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /src

# Dependencies come first: they change less often than the code, so they stay in the build cache.
# They are wheels with committed hashes, so installing them neither compiles nor runs any code.
COPY requirements/ requirements/
RUN python -m venv --without-pip /opt/ratelimitd \
    && pip --python /opt/ratelimitd/bin/python install --require-hashes --only-binary=:all: \
        -r requirements/runtime.txt \
    && pip install --require-hashes --only-binary=:all: -r requirements/build.txt

# These steps download nothing; a dependency that is not locked above is an error.
COPY . .
RUN pip wheel --no-index --no-deps --no-build-isolation --wheel-dir dist . \
    && pip --python /opt/ratelimitd/bin/python install --no-index --no-deps dist/*.whl


FROM python:3.13-slim
COPY --from=builder /opt/ratelimitd /opt/ratelimitd
ENV PATH=/opt/ratelimitd/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RATELIMITD_LISTEN=0.0.0.0:50051

# The standard library of the base image is not compiled, and a read-only container cannot store bytecode. Running
# the command once compiles the modules that it imports, so each start and health check is several times cheaper.
RUN ratelimitd --version

# Kubernetes can verify a numeric user as not root. It owns no files, so the root file system may be read-only.
USER 65532:65532
EXPOSE 50051 9090 9091

# A gRPC health check. The first one runs after one interval, so a long interval delays dependent containers. Each
# one starts Python, which takes a quarter of a second on a slow CPU, so a short interval slows the service down.
# --start-interval does not help, because Docker before version 25 rejects a Dockerfile that contains it.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["python", "-m", "ratelimitd.cli.health"]

# Without a shell, SIGTERM reaches the service, which then drains.
ENTRYPOINT ["ratelimitd"]
CMD ["serve"]
