# Your service:  docker build -t hypoll . && docker run -p 8000:8000 -v ./app.py:/app/app.py hypoll app:routes --workers 4
# or an image of its own:  FROM hypoll, COPY app.py /app/, CMD ["app:routes"]
# The example:   docker build -t links --target example . && docker run -p 8000:8000 links
# scripts/lock renews what is pinned: the packages in requirements/, and the digest of this image.
ARG BASE=python:3.11-slim

FROM ${BASE} AS build
WORKDIR /src
COPY requirements/image.txt requirements/build.txt requirements/
RUN python -m pip wheel --no-cache-dir --require-hashes --wheel-dir /wheels --requirement requirements/image.txt \
    && python -m venv /build \
    && /build/bin/python -m pip install --no-cache-dir --require-hashes --requirement requirements/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY hypoll hypoll
RUN /build/bin/python -m pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels .

FROM ${BASE} AS service
# One layer, so that no wheel is in it. What can install packages has no business in a service: pip goes, too.
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    python -m venv --without-pip /opt/hypoll \
    && python -m pip --python /opt/hypoll/bin/python install --no-cache-dir --no-index --find-links /wheels 'hypoll[metrics,uvloop]' \
    && cd "$(python -c 'import os, pip; print(os.path.dirname(pip.__path__[0]))')" \
    && rm -rf pip pip-* setuptools setuptools-* pkg_resources _distutils_hack distutils-precedence.pth wheel wheel-* \
    && rm -rf "$(python -c 'import ensurepip; print(ensurepip.__path__[0])')" \
    && rm -f /usr/local/bin/pip* /usr/local/bin/wheel /usr/bin/pip*
# Debian's own, as old and as well kept as the system around it.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/*
RUN groupadd --gid 10001 hypoll \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /app --shell /usr/sbin/nologin hypoll
ENV PATH=/opt/hypoll/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HYPOLL_BIND=0.0.0.0:8000 \
    HYPOLL_HEALTH=/healthz
# By number, so that Kubernetes can see that it isn't root.
USER 10001:10001
WORKDIR /app
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 CMD ["python", "-m", "hypoll.healthcheck"]
# The exec form: tini itself is PID 1, passes the TERM on, and reaps what processes of the application leave behind.
ENTRYPOINT ["tini", "--", "hypoll"]
CMD ["app:routes"]

FROM service AS example
USER root
RUN install --directory --owner=10001 --group=10001 /data
COPY examples /app
ENV LINKS_DB=/data/links.db
USER 10001:10001
# The only place that is written to: the rest may be read-only.
VOLUME /data
CMD ["links:routes"]

# The last is what is built unless another is named: nothing of the example is in it.
FROM service
