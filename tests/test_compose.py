"""`compose.yaml` and the `Dockerfile` agree with the rest of the repository.

CI runs no Docker: what can go stale is read from the text, and every `mlx-batch` command line is
parsed by the real command line's own parser.
"""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
COMPOSE = ROOT / "compose.yaml"
LOOPBACK = "127.0.0.1:"


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]
    return found


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile as (instruction, rest) with continued lines joined."""
    lines = [
        line
        for line in (ROOT / "Dockerfile").read_text().splitlines()
        if not line.lstrip().startswith("#")
    ]
    joined = "\n".join(lines).replace("\\\n", " ")
    pairs = [line.split(maxsplit=1) for line in joined.splitlines() if line.strip()]
    return [(word.upper(), " ".join(rest.split())) for word, rest in pairs]


def stages() -> dict[str, list[tuple[str, str]]]:
    """Each build stage's own instructions, in order."""
    found: dict[str, list[tuple[str, str]]] = {}
    for word, rest in instructions():
        if word == "FROM":
            found[rest.split()[-1]] = []
        elif found:
            found[list(found)[-1]].append((word, rest))
    return found


def last(stage: str, word: str) -> str:
    return [rest for name, rest in stages()[stage] if name == word][-1]


def copied() -> set[str]:
    """What the Dockerfile copies out of the build context."""
    sources: set[str] = set()
    for word, rest in instructions():
        if word in {"COPY", "ADD"} and "--from=" not in rest:
            sources.update(p for p in rest.split()[:-1] if not p.startswith("--"))
    return {source.removeprefix("./") for source in sources}


def interpolate(text: str) -> str:
    """`${NAME:-default}` as the default, which is what a bare `docker compose up` runs."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def worker_commands(out: Path) -> list[tuple[str, list[str]]]:
    """Every `mlx-batch` command line of compose.yaml, the comments' `docker compose run` too.

    The second of each pair has container paths as paths of this machine.
    """
    command = yaml.safe_load(COMPOSE.read_text())["services"]["worker"]["command"]
    found = [(command, shlex.split(interpolate(command)))]
    for line in COMPOSE.read_text().splitlines():
        if not line.startswith("#") or "docker compose run" not in line:
            continue
        words = shlex.split(line.removeprefix("#"))
        mounts = {"/out": out}
        for flag, value in pairwise(words):
            if flag == "-v":
                source, target = value.replace("$PWD", str(ROOT)).split(":")[:2]
                mounts[target] = Path(source)
        args = words[words.index("worker") + 1 :]
        found.append((line, [on_host(arg, mounts) for arg in args]))
    return found


def on_host(arg: str, mounts: dict[str, Path]) -> str:
    for target, source in mounts.items():
        if arg == target or arg.startswith(f"{target}/"):
            return str(source) + arg.removeprefix(target)
    return arg


def test_every_mlx_batch_command_line_parses(tmp_path: Path) -> None:
    from worker.cli.app import main  # only this test needs the command line

    (tmp_path / "demo").mkdir()
    commands = worker_commands(tmp_path)
    assert {args[0] for _, args in commands} == {"worker", "enqueue", "status", "verify"}
    for line, (name, *args) in commands:
        with click.Context(main, info_name="mlx-batch") as parent:
            command = main.get_command(parent, name)
            assert command is not None, line
            try:
                command.make_context(name, args, parent=parent).close()
            except click.ClickException as error:
                pytest.fail(f"{line.strip()}\n{error.format_message()}")


def test_the_example_commands_name_the_model_and_redis_the_worker_has(
    services: dict[str, Any], tmp_path: Path
) -> None:
    (_, worker), *examples = worker_commands(tmp_path)
    for line, args in examples:
        for flag in {"--model", "-u"} & set(args):
            assert args[args.index(flag) + 1] == worker[worker.index(flag) + 1], line
    host, port = worker[worker.index("-u") + 1].removeprefix("redis://").split("/")[0].split(":")
    assert host in services
    assert any(published.endswith(f":{port}") for published in services[host]["ports"])


def test_the_worker_image_runs_mlx_batch_as_an_ordinary_user() -> None:
    assert list(stages())[-1] == "worker", "a plain `docker build .` builds the last stage"
    assert json.loads(last("worker", "ENTRYPOINT")) == ["mlx-batch"]
    for stage in ("worker", "dashboard"):
        assert last(stage, "USER") not in {"root", "0"}


def test_the_worker_writes_into_the_folder_that_is_mounted(services: dict[str, Any]) -> None:
    words = shlex.split(interpolate(services["worker"]["command"]))
    root = words[words.index("--output-root") + 1]
    mounts = services["worker"]["volumes"]
    assert root in {mount["target"] for mount in mounts if isinstance(mount, dict)}


def test_pip_installs_an_extra_that_exists_under_constraints() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    runs = " ".join(rest for word, rest in instructions() if word == "RUN")
    extras = re.findall(r"\.\[(\w+)\]", runs)
    assert extras == ["cpu"]
    assert set(extras) <= set(project["optional-dependencies"])
    for install in re.findall(r"pip install [^&]*", runs):
        assert "-c constraints.txt" in install or "--no-deps" in install, install


@pytest.mark.parametrize("source", sorted(copied()))
def test_what_the_dockerfile_copies_exists(source: str) -> None:
    assert (ROOT / source).exists()


def test_dockerignore_lets_through_exactly_what_is_copied() -> None:
    lines = (ROOT / ".dockerignore").read_text().split("\n")
    assert "*" in lines
    assert {line[1:] for line in lines if line.startswith("!")} == copied()


def test_the_image_gets_all_that_the_wheel_is_built_from() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project, wheel = config["project"], config["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert {*wheel["packages"], project["readme"], *project["license-files"]} <= copied()


def test_redis_keeps_its_data_and_its_health_is_checked(services: dict[str, Any]) -> None:
    redis = services["redis"]
    words = shlex.split(redis["command"])
    assert words[words.index("--appendonly") + 1] == "yes"
    assert any(volume.endswith(":/data") for volume in redis["volumes"])
    assert "redis-cli ping" in " ".join(redis["healthcheck"]["test"])


def test_ports_are_published_on_loopback_only(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service.get("network_mode") != "host", name
        for port in service.get("ports", []):
            assert isinstance(port, str), f"{name}: use the short form"
            assert port.startswith(LOOPBACK), name


def test_services_depend_on_services_that_exist(services: dict[str, Any]) -> None:
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            assert other in services, name
            if how["condition"] == "service_healthy":
                assert "healthcheck" in services[other], name


def test_volumes_are_declared_and_host_paths_stay_in_the_repository(
    services: dict[str, Any],
) -> None:
    declared = yaml.safe_load(COMPOSE.read_text())["volumes"]
    for name, service in services.items():
        for volume in service.get("volumes", []):
            source = volume["source"] if isinstance(volume, dict) else volume.split(":")[0]
            target = volume["target"] if isinstance(volume, dict) else volume.split(":")[1]
            assert target.startswith("/"), name
            if source.startswith("."):
                assert (ROOT / source).resolve().is_relative_to(ROOT), name
                assert (ROOT / source).resolve() != ROOT, name
            else:
                assert source in declared, name


def test_builds_name_stages_that_exist(services: dict[str, Any]) -> None:
    for name, service in services.items():
        if "build" in service:
            assert (ROOT / service["build"]["context"] / "Dockerfile").is_file(), name
            assert service["build"]["target"] in stages(), name


def test_only_the_optional_services_are_behind_a_profile(services: dict[str, Any]) -> None:
    profiles = {name: service.get("profiles", []) for name, service in services.items()}
    assert profiles == {"redis": [], "worker": [], "dashboard": ["dashboard"]}
