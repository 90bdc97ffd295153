# The example:   docker build -t hypoll . && docker run -p 8000:8000 hypoll
# Your service:  docker run -p 8000:8000 -v ./app.py:/app/app.py hypoll app:routes --workers 4
# or an image of its own:  FROM hypoll, COPY app.py /app/, CMD ["app:routes"]
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY hypoll hypoll
RUN python -m pip wheel --no-cache-dir --wheel-dir /wheels '.[metrics]'

FROM python:${PYTHON}-slim
# One layer, so that no wheel is in it. What can install packages has no business in a service: pip goes, too.
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    python -m venv --without-pip /opt/hypoll \
    && python -m pip --python /opt/hypoll/bin/python install --no-cache-dir --no-index --find-links /wheels 'hypoll[metrics]' \
    && cd "$(python -c 'import os, pip; print(os.path.dirname(pip.__path__[0]))')" \
    && rm -rf pip pip-* setuptools setuptools-* pkg_resources _distutils_hack distutils-precedence.pth wheel wheel-* \
    && rm -rf "$(python -c 'import ensurepip; print(ensurepip.__path__[0])')" \
    && rm -f /usr/local/bin/pip* /usr/local/bin/wheel /usr/bin/pip*
# Debian's own, as old and as well kept as the system around it.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/*
RUN groupadd --gid 10001 hypoll \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /app --shell /usr/sbin/nologin hypoll \
    && install --directory --owner=10001 --group=10001 /data
COPY examples /app
ENV PATH=/opt/hypoll/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HYPOLL_BIND=0.0.0.0:8000 \
    HYPOLL_HEALTH=/healthz \
    LINKS_DB=/data/links.db
# By number, so that Kubernetes can see that it isn't root.
USER 10001:10001
WORKDIR /app
# The only place that is written to: the rest may be read-only.
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 CMD ["python", "-m", "hypoll.healthcheck"]
# The exec form: tini itself is PID 1, passes the TERM on, and reaps what processes of the application leave behind.
ENTRYPOINT ["tini", "--", "hypoll"]
CMD ["links:routes"]
