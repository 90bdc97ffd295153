ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY hypoll hypoll
RUN python -m venv /opt/hypoll && /opt/hypoll/bin/pip install --no-cache-dir .

FROM python:${PYTHON}-slim
COPY --from=build /opt/hypoll /opt/hypoll
COPY examples /app
RUN useradd --system --uid 10001 --no-create-home hypoll && mkdir /data && chown hypoll /data
ENV PATH=/opt/hypoll/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HYPOLL_BIND=0.0.0.0:8000 LINKS_DB=/data/links.db
USER hypoll
WORKDIR /app
EXPOSE 8000
ENTRYPOINT ["hypoll"]
CMD ["links:routes"]
