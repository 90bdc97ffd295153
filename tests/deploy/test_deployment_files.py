"""The files of deploy/ and the Dockerfile: valid to the tools that read them, and at one with each other and hypoll."""

from __future__ import annotations

import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from hypoll.option import parse_size
from hypoll.settings import options

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"
UNITS = {"s": 1, "m": 60}
OWN_VARIABLES = {"HYPOLL_APP_DIR", "HYPOLL_LOG_LEVEL"}


def seconds(text: str) -> int:
    match = re.fullmatch(r"(\d+)([sm])", text)
    assert match is not None, text
    return int(match[1]) * UNITS[match[2]]


def documents() -> dict[str, Any]:
    return {one["kind"]: one for one in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())}


def container() -> dict[str, Any]:
    (only,) = documents()["Deployment"]["spec"]["template"]["spec"]["containers"]
    return dict(only)


def compose() -> dict[str, Any]:
    import compose_spec  # takes long, and each worker collects all tests

    return dict(compose_spec.PyCompose.from_yaml((DEPLOY / "compose.yaml").read_text()).to_dict()["services"])


def probe_seconds(probe: dict[str, Any]) -> int:
    return int(probe["periodSeconds"] * probe["failureThreshold"])


def bodies(variables: dict[str, str]) -> int:
    """The memory that bodies may take, in bytes."""
    return int(variables["HYPOLL_MAX_CONNECTIONS"]) * parse_size(variables["HYPOLL_MAX_BODY"])


def drain(variables: dict[str, str]) -> int:
    """Seconds from the TERM to the end."""
    return int(variables.get("HYPOLL_DRAIN_WAIT", "0")) + int(variables["HYPOLL_GRACEFUL_TIMEOUT"])


def haproxy_check() -> int:
    """Seconds until HAProxy has learnt that a server isn't ready."""
    match = re.search(r"inter (\S+) fall (\d+)", (DEPLOY / "haproxy.cfg").read_text())
    assert match is not None
    return seconds(match[1]) * int(match[2])


@pytest.mark.parametrize("path", [*sorted(DEPLOY.iterdir()), ROOT / "Dockerfile"], ids=lambda path: path.name)
def test_each_variable_is_an_option(path):
    known = {f"HYPOLL_{option.name.upper()}" for option in options()} | OWN_VARIABLES
    assert set(re.findall(r"\bHYPOLL_\w+", path.read_text())) <= known


# Kubernetes


@pytest.mark.parametrize("version", ["1.29", "1.37"])
def test_kubernetes_takes_each_document(version):
    import kubernetes_validate

    assert set(documents()) == {"Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget"}
    for document in documents().values():
        kubernetes_validate.validate(document, version, strict=True)


def test_the_pods_are_found_by_what_is_to_find_them():
    pod = documents()["Deployment"]["spec"]["template"]
    labels = pod["metadata"]["labels"]
    assert documents()["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert documents()["Service"]["spec"]["selector"] == labels
    assert documents()["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    target = documents()["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", documents()["Deployment"]["metadata"]["name"])
    ports = {port["name"]: port["containerPort"] for port in container()["ports"]}
    assert documents()["Service"]["spec"]["ports"][0]["targetPort"] in ports


def test_the_pods_have_time_to_drain_and_memory_for_their_bodies():
    pod = documents()["Deployment"]["spec"]["template"]["spec"]
    variables = {one["name"]: one["value"] for one in container()["env"]}
    ports = [port["containerPort"] for port in container()["ports"]]
    assert [int(variables["HYPOLL_BIND"].rpartition(":")[2])] == ports
    assert drain(variables) < pod["terminationGracePeriodSeconds"]
    assert probe_seconds(container()["readinessProbe"]) < int(variables["HYPOLL_DRAIN_WAIT"])
    assert container()["readinessProbe"]["httpGet"]["path"] == variables["HYPOLL_HEALTH"] + "/ready"
    assert container()["livenessProbe"]["httpGet"]["path"] == variables["HYPOLL_HEALTH"] + "/live"
    limit = parse_size(container()["resources"]["limits"]["memory"].replace("Mi", "MiB"))
    assert bodies(variables) <= limit // 4


# Compose and HAProxy


def test_compose_takes_the_file_and_waits_for_the_drain():
    services = compose()
    names = {"hypoll1", "hypoll2", "hypoll3"}
    assert set(services) == names | {"haproxy"}
    assert set(services["haproxy"]["depends_on"]) == names
    for name in names:
        service = services[name]
        variables = service["environment"]
        assert drain(variables) < seconds(service["stop_grace_period"])
        assert haproxy_check() < int(variables["HYPOLL_DRAIN_WAIT"])
        assert bodies(variables) <= parse_size(service["mem_limit"]) // 4


def test_compose_tells_haproxy_where_they_are():
    services = compose()
    port = services["hypoll1"]["environment"]["HYPOLL_BIND"].rpartition(":")[2]
    told = services["haproxy"]["environment"]
    assert told == {f"HYPOLL{number}": f"hypoll{number}:{port}" for number in (1, 2, 3)}
    assert all(f'"${{{name}-' in (DEPLOY / "haproxy.cfg").read_text() for name in told)


@pytest.mark.full
def test_haproxy_takes_its_file():
    checked = subprocess.run(
        ["haproxy", "-c", "-f", str(DEPLOY / "haproxy.cfg")], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    assert "WARNING" not in checked.stderr


# systemd


@pytest.mark.full
def test_systemd_takes_the_units(tmp_path):
    service = (DEPLOY / "hypoll.service").read_text()
    (tmp_path / "hypoll.service").write_text(service.replace("/opt/hypoll/bin/hypoll", sys.executable))
    shutil.copy(DEPLOY / "hypoll.socket", tmp_path)
    checked = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / "hypoll.service", tmp_path / "hypoll.socket"],
        env={**os.environ, "SYSTEMD_LOG_LEVEL": "warning"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (checked.returncode, checked.stderr) == (0, "")


def test_systemd_waits_for_the_drain():
    service = (DEPLOY / "hypoll.service").read_text()
    stop = re.search(r"(?m)^TimeoutStopSec=(\d+)$", service)
    graceful = re.search(r"HYPOLL_GRACEFUL_TIMEOUT=(\d+)", service)
    assert stop is not None
    assert graceful is not None
    assert int(graceful[1]) < int(stop[1])


# the image


def dockerfile() -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage by its name, the lines of each joined; the last has none: ""."""
    text = re.sub(r"\\\n|(?m:^#.*\n)", "", (ROOT / "Dockerfile").read_text())
    stages: dict[str, list[tuple[str, str]]] = {}
    name = "before"
    for line in filter(str.strip, text.splitlines()):
        word, rest = line.split()[0], line.partition(" ")[2].strip()
        if word == "FROM":
            name = rest.partition(" AS ")[2]
        stages.setdefault(name, []).append((word, rest))
    return stages


def test_the_image_runs_hypoll_itself_and_not_as_root():
    service = dict(dockerfile()["service"])
    assert json.loads(service["ENTRYPOINT"]) == ["tini", "--", "hypoll"], "the exec form: TERM reaches tini, and hypoll"
    assert json.loads(service["CMD"]) == ["app:routes"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["USER"]), "by number, for runAsNonRoot"
    assert json.loads(service["HEALTHCHECK"].partition("CMD ")[2]) == ["python", "-m", "hypoll.healthcheck"]


def test_nothing_of_the_example_is_in_what_others_are_made_from():
    stages = dockerfile()
    assert stages[""] == [("FROM", "service")], "what is built unless a stage is named"
    assert not any(word == "VOLUME" or "LINKS_DB" in rest for word, rest in stages["service"])
    example = dict(stages["example"])
    assert (example["FROM"], example["VOLUME"]) == ("service AS example", "/data")
    assert json.loads(example["CMD"]) == ["links:routes"]
    assert example["USER"] == dict(stages["service"])["USER"]


def test_what_the_image_is_made_of_is_pinned_with_hashes():
    stages = dockerfile()
    installs = [rest for word, rest in stages["build"] if word == "RUN"]
    assert all("--require-hashes" in rest or "--no-deps" in rest for rest in installs)
    assert any("--no-index" in rest and "hypoll[metrics,uvloop]" in rest for _, rest in stages["service"])
    for name, wanted in (("image", {"gunicorn", "prometheus-client", "uvloop"}), ("build", {"hatchling"})):
        lock = (ROOT / f"requirements/{name}.txt").read_text()
        assert wanted <= set(re.findall(r"(?m)^([\w-]+)==\S+.*\\\n +--hash=sha256:", lock))
    (base,) = [rest for word, rest in stages["before"] if word == "ARG"]
    assert re.fullmatch(r"BASE=python:3\.11-slim(@sha256:[0-9a-f]{64})?", base)


class Registry(http.server.BaseHTTPRequestHandler):
    """What scripts/lock asks of a registry: a token, and the digest of a tag."""

    DIGEST = "sha256:" + "0123456789abcdef" * 4

    def do_GET(self) -> None:
        self.answer(json.dumps({"token": "a-token"}).encode())

    def do_HEAD(self) -> None:
        assert self.path == "/v2/library/python/manifests/3.11-slim"
        assert self.headers["Authorization"] == "Bearer a-token"
        self.answer(b"")

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Docker-Content-Digest", self.DIGEST)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.mark.parametrize("before", ["3.11-slim", "3.11-slim@sha256:" + "f" * 64])
def test_one_script_renews_the_digest_of_the_base(tmp_path, before):
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "lock", tmp_path / "scripts")
    (tmp_path / "Dockerfile").write_text(f"ARG BASE=python:{before}\nFROM ${{BASE}}\n")
    command = ["bash", str(tmp_path / "scripts" / "lock"), "base"]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Registry) as server:
        threading.Thread(target=server.serve_forever).start()
        url = f"http://127.0.0.1:{server.server_port}"
        environ = {**os.environ, "REGISTRY": url, "TOKENS": f"{url}/token?service=a", "no_proxy": "*"}
        subprocess.run(command, env=environ, check=True, capture_output=True)
        server.shutdown()
    written = (tmp_path / "Dockerfile").read_text()
    assert written == f"ARG BASE=python:3.11-slim@{Registry.DIGEST}\nFROM ${{BASE}}\n"
    # Now nobody answers there.
    failed = subprocess.run(command, env=environ, check=False, capture_output=True, text=True)
    assert failed.returncode == 1
    assert "the image's base stays as it is" in failed.stderr
    assert (tmp_path / "Dockerfile").read_text() == written


def test_the_image_is_built_of_what_dockerignore_lets_through():
    ignored = (ROOT / ".dockerignore").read_text().split("\n")
    let_through = {line[1:] for line in ignored if line.startswith("!")}
    words = [rest.split()[:-1] for stage in dockerfile().values() for name, rest in stage if name == "COPY"]
    assert {name for names in words for name in names} == let_through
    assert all((ROOT / name).exists() for name in let_through)


def test_kubernetes_and_compose_run_it_as_its_user_with_a_read_only_root():
    user = dict(dockerfile()["service"])["USER"]
    security = documents()["Deployment"]["spec"]["template"]["spec"]["securityContext"]
    assert f"{security['runAsUser']}:{security['runAsGroup']}" == user
    assert container()["securityContext"]["readOnlyRootFilesystem"] is True
    assert compose()["hypoll1"]["read_only"] is True
