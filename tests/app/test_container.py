"""The container files cannot be built here; what they name must exist in the code."""

import re
import shlex
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from typer.main import get_command

from palettery.app.cli.main import cli
from palettery.app.roles.role import check_role_settings
from palettery.app.settings import Settings
from palettery.app.storage.bucket_errors import CREDENTIALS

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
SAID = "x" * 32
"""What somebody sets where something must be set."""
STORE_ENVIRONMENT = {
    "AWS_ENDPOINT_URL",
    "AWS_ALLOW_HTTP",
    *re.findall(r"[A-Z_]{4,}", CREDENTIALS["s3"]),
}


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
    assert {"palettery", "app", "schemas", "kernels"} <= sources


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


def command(name):
    return get_command(cli).commands[name]


def environment(name):
    """Environment of the containers of a service if only required variables are set."""
    given = SERVICES[name].get("environment", {})
    filled = {key: re.sub(r"\$\{\w+:-(.*?)\}", r"\1", value) for key, value in given.items()}
    return {key: re.sub(r"\$\{\w+:\?.*?\}", SAID, value) for key, value in filled.items()}


@pytest.mark.parametrize("name", OURS)
def test_compose_service_runs_a_command_we_have(monkeypatch, name):
    program, subcommand, *words = OURS[name]["command"]
    assert program == "palettery"
    for key, value in environment(name).items():
        monkeypatch.setenv(key, value)
    command(subcommand).make_context(subcommand, words)


@pytest.mark.parametrize("name", OURS)
def test_compose_environment_is_read_by_the_settings(name):
    assert set(environment(name)) <= known_environment() | STORE_ENVIRONMENT


@pytest.mark.parametrize("name", [name for name in OURS if "serve" in OURS[name]["command"]])
def test_compose_roles_have_what_they_need(monkeypatch, name):
    for key, value in environment(name).items():
        monkeypatch.setenv(key, value)
    words = OURS[name]["command"]
    check_role_settings(
        Settings(), words[words.index("--role") + 1] if "--role" in words else "all"
    )


@pytest.mark.parametrize("name", [name for name in OURS if "ports" in OURS[name]])
def test_compose_services_that_are_reached_ask_for_keys(monkeypatch, name):
    given = environment(name)
    assert given["PALETTERY_ADMIN_KEY"] == SAID
    for key, value in given.items():
        monkeypatch.setenv(key, value)
    assert Settings().admin_key.get_secret_value() == SAID


def test_compose_gives_the_admin_key_to_nobody_else():
    holders = [name for name in SERVICES if "PALETTERY_ADMIN_KEY" in environment(name)]
    assert holders == ["palettery", "api"]


def test_compose_addresses_and_credentials_are_those_of_its_services():
    shared = environment("migrate")
    variables = environment("postgres")
    user, password, database = (
        variables[f"POSTGRES_{part}"] for part in ("USER", "PASSWORD", "DB")
    )
    assert shared["PALETTERY_DATABASE_URL"] == f"postgresql://{user}:{password}@postgres/{database}"
    assert environment("store").items() <= shared.items()
    hosts = [
        urlsplit(shared[key]).hostname for key in ("AWS_ENDPOINT_URL", "PALETTERY_SCHEDULER_URL")
    ]
    assert hosts == ["store", "scheduler"]
    (port,) = (option.default for option in command("scheduler").params if option.name == "port")
    assert urlsplit(shared["PALETTERY_SCHEDULER_URL"]).port == port
    bucket = urlsplit(shared["PALETTERY_STORAGE_URL"]).hostname
    assert f"s3.bucket.create -name {bucket} " in " ".join(SERVICES["bucket"]["command"])
    for name in ("api", "controller", "worker"):
        assert shared.items() <= environment(name).items(), name


def test_compose_services_belong_to_a_profile_with_all_that_they_wait_for():
    for name, service in SERVICES.items():
        (profile,) = service["profiles"]
        for other in service.get("depends_on", {}):
            assert SERVICES[other]["profiles"] == [profile], name


def test_compose_ports_and_volumes_agree_with_the_dockerfile():
    (port,) = docker("EXPOSE")
    published = [mapping for service in SERVICES.values() for mapping in service.get("ports", ())]
    assert published
    assert {mapping.rsplit(":", 1)[1] for mapping in published} == {port}
    assert {mapping.split(":")[0] for mapping in published} == {"127.0.0.1"}
    mounts = {mount for service in SERVICES.values() for mount in service.get("volumes", ())}
    assert {mount.split(":")[0] for mount in mounts} == set(COMPOSE["volumes"])
    mounted = {mount.split(":")[1] for mount in SERVICES["palettery"]["volumes"]}
    assert mounted == set(docker("VOLUME"))
    assert environment("palettery")["PALETTERY_DATA_DIR"] in mounted
