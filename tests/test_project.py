"""What surrounds the code agrees with it: lock files, the scripts, continuous integration, and what is built."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from tests.support.documents import DOCUMENTS

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
GROUPS: dict[str, list[str]] = PYPROJECT["dependency-groups"]
LOCKED = (*GROUPS, "image")
SCRIPTS = ("autobahn", "bench", "build", "check", "docs", "fuzz", "lock", "serve", "soak", "test")
WORKFLOW: dict[str, Any] = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())


PYTHONS = [name.split()[-1] for name in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", name)]


def applies(marker: Marker | None, python: str) -> bool:
    """Whether something is for a version of Python."""
    return marker is None or marker.evaluate({"python_version": python, "python_full_version": f"{python}.0"})


def locked(group: str, python: str) -> dict[str, Version]:
    """The versions that a lock file has for a version of Python, by name."""
    text = (ROOT / "requirements" / f"{group}.txt").read_text()
    lines = re.findall(r"(?m)^([a-z0-9-]+)==([^ ;\\]+)(?: ; ([^\\\n]+))?", text)
    return {name: Version(version) for name, version, said in lines if applies(Marker(said) if said else None, python)}


def wanted(group: str) -> list[Requirement]:
    """What a lock file is made of: a group and hypoll's own dependencies; the tests need all extras, the image two."""
    extras: dict[str, list[str]] = PROJECT["optional-dependencies"]
    asked = {"dev": list(extras), "image": ["metrics", "uvloop"]}.get(group, [])
    more = [text for extra in asked for text in extras[extra]]
    own = [] if group == "build" else PROJECT["dependencies"]  # it makes hypoll's wheel, and doesn't run it
    return [Requirement(text) for text in (*own, *more, *GROUPS.get(group, ()))]


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("group", LOCKED)
def test_a_lock_file_has_what_its_group_asks_for(group, python):
    found = locked(group, python)
    for requirement in wanted(group):
        if not applies(requirement.marker, python):
            continue
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        assert name in found, f"requirements/{group}.txt lacks {name}: scripts/lock writes it anew"
        assert found[name] in requirement.specifier, f"requirements/{group}.txt is stale: scripts/lock writes it anew"


@pytest.mark.parametrize("group", LOCKED)
def test_every_locked_version_has_its_hashes(group):
    text = (ROOT / "requirements" / f"{group}.txt").read_text()
    entries = re.split(r"(?m)^(?=[a-z0-9-]+==)", text)[1:]
    assert len(entries) == len(re.findall(r"(?m)^[a-z]", text))
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", entry) for entry in entries)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_well_formed_and_says_what_it_does(name):
    script = ROOT / "scripts" / name
    assert script.stat().st_mode & 0o111 == 0o111
    first, second, *_ = script.read_text().splitlines()
    assert first == "#!/usr/bin/env bash"
    assert second.startswith("# ")
    subprocess.run(["bash", "-n", script], check=True)


def test_every_script_is_known_here():
    assert sorted(path.name for path in (ROOT / "scripts").iterdir()) == sorted((*SCRIPTS, "venv"))


def test_the_scripts_use_lock_files_and_extras_that_exist():
    for name in SCRIPTS:
        (environment,) = re.findall(r"/venv\" (\S+)$", (ROOT / "scripts" / name).read_text(), re.MULTILINE)
        if environment.startswith('"'):
            assert set(re.findall(r"\w+", environment)) <= set(PROJECT["optional-dependencies"])
        else:
            assert environment in GROUPS


def test_ci_tests_every_python_that_is_supported():
    tested = WORKFLOW["jobs"]["test"]["strategy"]["matrix"]["python"]
    named = PYTHONS
    assert set(named) <= set(tested)
    assert all(version in SpecifierSet(PROJECT["requires-python"]) for version in tested)
    assert "3.11" in tested, "the oldest"


def test_what_ci_runs_is_there():
    commands = [step["run"] for job in WORKFLOW["jobs"].values() for step in job["steps"] if "run" in step]
    assert {command.split()[0] for command in commands} == {
        f"scripts/{name}" for name in ("build", "check", "docs", "test")
    }
    assert WORKFLOW["permissions"] == {"contents": "read"}


def test_the_source_distribution_has_what_the_tests_read():
    included = PYPROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    assert all((ROOT / name).exists() for name in included)
    assert {Path(document).parts[0] for document in DOCUMENTS} <= set(included)
    assert {"benchmarks", "docs", "examples", "hypoll", "requirements", "scripts", "tests"} <= set(included)


def test_links_of_the_readme_work_on_a_package_index():
    (rule,) = PYPROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]
    text = re.sub(rule["pattern"], rule["replacement"], (ROOT / "README.md").read_text())
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links
    assert all(link.startswith("https://") for link in links)
    source = PROJECT["urls"]["Source"] + "/blob/main/"
    assert all((ROOT / link.removeprefix(source)).exists() for link in links if link.startswith(source))


def test_what_builds_the_wheel_is_what_the_image_builds_it_with():
    assert GROUPS["build"] == PYPROJECT["build-system"]["requires"]
