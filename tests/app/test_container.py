"""The container files cannot be built here; what they name must exist in the code."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from app.cli import cli
from app.settings import Settings

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = list(COMPOSE["services"].items())


def docker(instruction: str) -> list[str]:
    return [
        line.removeprefix(instruction).strip()
        for line in DOCKERFILE.splitlines()
        if line.startswith(f"{instruction} ")
    ]


def known_environment() -> set[str]:
    return {f"PALETTERY_{name.upper()}" for name in Settings.model_fields}


def test_dockerfile_copies_only_what_exists():
    sources = [source for line in docker("COPY") for source in shlex.split(line)[:-1]]
    assert sources
    assert all((ROOT / source).exists() for source in sources)


def test_dockerfile_copies_every_package_of_the_distribution():
    sources = {source for line in docker("COPY") for source in shlex.split(line)[:-1]}
    assert {"app", "schemas", "kernels"} <= sources


def test_dockerfile_environment_is_read_by_the_settings():
    given = dict(re.findall(r"(PALETTERY_\w+)=(\S+)", " ".join(docker("ENV"))))
    assert given
    assert set(given) <= known_environment()


def test_dockerfile_ports_agree():
    (port,) = docker("EXPOSE")
    assert f"PALETTERY_PORT={port}" in DOCKERFILE
    assert int(port) == Settings.model_fields["port"].default
    assert f"127.0.0.1:{port}/readyz" in " ".join(docker("HEALTHCHECK"))


def test_dockerfile_command_exists():
    (command,) = docker("CMD")
    program, subcommand = yaml.safe_load(command)
    assert program == "palettery"
    assert subcommand in get_command(cli).commands


@pytest.mark.parametrize(("name", "service"), SERVICES)
def test_compose_service_runs_a_command_we_have(name, service):
    program, subcommand = service["command"]
    assert program == "palettery", name
    assert subcommand in get_command(cli).commands


@pytest.mark.parametrize(("name", "service"), SERVICES)
def test_compose_environment_is_read_by_the_settings(name, service):
    assert set(service["environment"]) <= known_environment(), name


@pytest.mark.parametrize(("name", "service"), SERVICES)
def test_compose_ports_and_volumes_agree_with_the_dockerfile(name, service):
    (port,) = docker("EXPOSE")
    assert [mapping.rsplit(":", 1)[1] for mapping in service["ports"]] == [port], name
    mounted = {mount.split(":")[1] for mount in service["volumes"]}
    assert mounted == set(docker("VOLUME"))
    assert {mount.split(":")[0] for mount in service["volumes"]} <= set(COMPOSE["volumes"])
    assert service["environment"]["PALETTERY_DATA_DIR"] in mounted
