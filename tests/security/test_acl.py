"""The lines of `mlx-batch acl` on real servers: enough for each role, and nothing more.

On the one that we ship, and on the `redis-server` of this machine, if it has one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError
from rq.command import send_stop_job_command

from jobs.acl import ACCESS, ALL_COMMANDS, Role, acl_line, known_commands
from jobs.connection import connect
from jobs.dataset import verify
from jobs.errors import ServerVersionError
from jobs.producer import forget_run
from tests.helpers.bench import Bench, work_in_burst
from tests.helpers.command_line import cli
from tests.helpers.engines import MODEL, DoubleEngine, enqueue, status_of, wait_for, write_prompts
from worker.local.embedded_redis import EmbeddedRedis, find_server
from worker.status.status import run_status

PASSWORD = "opensesame"


class Locked:
    """A server on which the default user is off."""

    def __init__(self, server: str) -> None:
        self._server = server
        with connect(server) as anybody:
            anybody.execute_command("ACL", "SETUSER", "admin", "on", ">root", "+@all", "~*", "&*")
        self.admin = connect(server.replace("unix://", "unix://admin:root@"))
        self.commands = known_commands(self.admin)
        for role in Role:
            line = acl_line(role, f"mlx-{role}", PASSWORD, commands=self.commands)
            self.admin.execute_command(*line.split())
        self.admin.execute_command("ACL", "SETUSER", "default", "off")

    def url(self, role: Role) -> str:
        return self.url_of(f"mlx-{role}", PASSWORD)

    def url_of(self, user: str, password: str) -> str:
        return self._server.replace("unix://", f"unix://{user}:{password}@")


@pytest.fixture(scope="module", params=["shipped", "installed"])
def locked_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Locked]:
    program = find_server() if request.param == "shipped" else shutil.which("redis-server")
    if not program:
        pytest.skip("no redis-server on the PATH: apt-get install redis-server brings one")
    with EmbeddedRedis(tmp_path_factory.mktemp("redis"), program) as server:
        try:
            locked = Locked(server.url)
        except ServerVersionError as error:
            pytest.skip(str(error))
        yield locked
        locked.admin.close()


@pytest.fixture
def locked(locked_server: Locked) -> Locked:
    locked_server.admin.flushall()
    locked_server.admin.execute_command("ACL", "LOG", "RESET")
    return locked_server


@pytest.fixture
def as_role(locked: Locked) -> Iterator[dict[Role, Redis]]:
    connections = {role: connect(locked.url(role)) for role in Role}
    yield connections
    for connection in connections.values():
        connection.close()


@pytest.fixture
def redis_url(locked: Locked) -> str:
    """For `bench.worker`."""
    return locked.url(Role.WORKER)


def test_nobody_comes_in_without_a_password(locked: Locked) -> None:
    with connect(locked._server) as anybody, pytest.raises(AuthenticationError):
        anybody.ping()


def test_a_whole_run_by_three_users(locked: Locked, tmp_path: Path) -> None:
    prompts, out = write_prompts(tmp_path / "p.jsonl", 5), tmp_path / "out"
    words = ["enqueue", prompts, "--model", MODEL, "--out", out, "--shard-size", 2]

    enqueued = cli(*words, "-u", locked.url(Role.PRODUCER))
    assert enqueued.exit_code == 0, enqueued.output
    run_id = enqueued.stdout.splitlines()[-1]
    assert cli("pause", run_id, "-u", locked.url(Role.PRODUCER)).exit_code == 0
    work_in_burst(locked.url(Role.WORKER), DoubleEngine())  # which puts its jobs aside
    assert cli("continue", run_id, "-u", locked.url(Role.PRODUCER)).exit_code == 0
    work_in_burst(locked.url(Role.WORKER), DoubleEngine())
    status = cli("status", run_id, "--json", "-u", locked.url(Role.MONITOR))

    assert status.exit_code == 0, status.output
    assert json.loads(status.stdout)["state"] == "finished"
    assert verify(out).complete
    assert cli(*words, "--resume", "-u", locked.url(Role.PRODUCER)).exit_code == 0
    assert cli("forget", run_id, "-u", locked.url(Role.PRODUCER)).exit_code == 0
    assert locked.admin.execute_command("ACL", "LOG") == []


def test_a_producer_resumes_a_run_with_a_failed_shard(
    locked: Locked, as_role: dict[Role, Redis], tmp_path: Path
) -> None:
    producer = as_role[Role.PRODUCER]
    spec = enqueue(producer, tmp_path, rows=4, shard_size=2)
    (tmp_path / "elsewhere").mkdir()
    refuse = {"output_root": tmp_path / "elsewhere"}
    work_in_burst(locked.url(Role.WORKER), DoubleEngine(), **refuse)
    assert len(run_status(as_role[Role.MONITOR], spec.run_id).errors) == 2

    enqueue(producer, tmp_path, rows=4, shard_size=2, resume=True)
    work_in_burst(locked.url(Role.WORKER), DoubleEngine())

    assert run_status(producer, spec.run_id).is_finished
    assert forget_run(producer, spec.run_id) == 3


def test_a_worker_retries_stops_gives_back_and_takes_over(
    bench: Bench, locked: Locked, as_role: dict[Role, Redis]
) -> None:
    spec = enqueue(as_role[Role.PRODUCER], bench.folder, rows=6, shard_size=2)
    worker = bench.worker(DoubleEngine(max_num_seqs=8, held=True))
    worker.admit(wait=False)
    worker.tend()
    failed, stopped, kept = (worker.flights[spec.shard_id(shard)] for shard in range(3))
    worker.flights.end(failed, partial(worker.bookkeeper.fail, error=RuntimeError("again")))
    send_stop_job_command(locked.admin, stopped.job.id, worker.bookkeeper.serializer)

    def is_stopped() -> bool:
        worker.tend()
        return status_of(locked.admin, spec, 1) == "stopped"

    wait_for(is_stopped)
    worker.bookkeeper.maintenance.enqueue_delayed_retries()
    worker.bookkeeper.maintenance.take_back_lost()
    worker.flights.end(kept, worker.bookkeeper.give_back)

    assert status_of(locked.admin, spec, 0) == "scheduled"
    assert status_of(locked.admin, spec, 2) == "queued"
    assert locked.admin.execute_command("ACL", "LOG") == []


FORBIDDEN = [
    "CONFIG GET dir",
    "FLUSHALL",
    "FLUSHDB",
    "KEYS *",
    "SCAN 0",
    "MODULE LIST",
    "DEBUG SLEEP 0",
    "ACL LIST",
    "CLIENT LIST",
    "CLIENT KILL ID 1",
    "MONITOR",
    "SAVE",
    "SHUTDOWN NOSAVE",
    "REPLICAOF localhost 1",
    "MIGRATE localhost 1 key 0 1",
    "FUNCTION LIST",
    "SCRIPT FLUSH",
    "GET secret",
    "SET secret 1",
    "GET mlx-batch",
    "PUBLISH elsewhere hello",
    "SUBSCRIBE elsewhere",
    "EVAL return(redis.call('GET','secret')) 0",
]


REFUSED = r"permission|can't (run|access)|DEBUG command not allowed"


@pytest.mark.parametrize("command", FORBIDDEN)
@pytest.mark.parametrize("role", Role)
def test_what_no_role_may_do(as_role: dict[Role, Redis], role: Role, command: str) -> None:
    with pytest.raises(ResponseError, match=REFUSED):
        as_role[role].execute_command(*command.split(" "))


@pytest.mark.parametrize("command", ["SET", "HSET", "LPUSH", "SADD", "ZADD", "DEL", "EXPIRE"])
@pytest.mark.parametrize("key", ["mlx-batch:runs", "mlx-batch:run:1", "rq:queue:mlx-m"])
def test_a_monitor_changes_nothing(as_role: dict[Role, Redis], command: str, key: str) -> None:
    with pytest.raises(NoPermissionError):
        as_role[Role.MONITOR].execute_command(command, key, "1", "1")


@pytest.mark.parametrize("command", ["EVAL", "PUBLISH", "BLMOVE"])
def test_no_other_role_has_what_the_monitor_lacks(command: str) -> None:
    assert command.lower() not in ACCESS[Role.MONITOR].commands
    assert not ACCESS[Role.MONITOR].writes


@pytest.mark.parametrize(
    "key", ["rq:job:theirs", "rq:queue:default", "rq:worker:w", "rq:workers", "rq:finished:default"]
)
def test_a_producer_leaves_other_users_of_rq_alone(as_role: dict[Role, Redis], key: str) -> None:
    with pytest.raises(NoPermissionError):
        as_role[Role.PRODUCER].delete(key)


# The command.


def test_a_line_for_each_role_with_a_place_for_the_password() -> None:
    result = cli("acl")

    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line.split()[:6] for line in lines] == [
        ["ACL", "SETUSER", f"mlx-{role}", "reset", "on", ">PASSWORD"] for role in Role
    ]
    assert "ACL SETUSER default off" in result.stderr


def test_a_password_comes_from_the_environment_and_is_not_printed(
    monkeypatch: pytest.MonkeyPatch, locked: Locked
) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    words = ["--role", "monitor", "--user", "eve", "--password-env", "SECRET"]
    result = cli("acl", *words, "-u", locked.url_of("admin", "root"))
    assert result.exit_code == 0
    assert "hunter2" not in result.output
    (line,) = result.stdout.splitlines()

    locked.admin.execute_command(*line.split())

    with connect(locked.url_of("eve", "hunter2")) as eve:
        assert eve.ping()


def test_the_lines_for_a_server_have_its_commands_only(locked: Locked) -> None:
    """Redis 7.0 knows no `CLIENT SETINFO`, and refuses a line that has it."""
    admin = locked.url_of("admin", "root")

    result = cli("acl", "-u", admin)

    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert len(lines) == len(Role)
    for line in lines:
        assert locked.admin.execute_command(*line.replace("SETUSER mlx-", "SETUSER any-").split())
    told = {word[1:] for line in lines for word in line.split() if word.startswith("+")}
    lacking = {
        name for name in ALL_COMMANDS if not locked.admin.execute_command("COMMAND INFO", name)[0]
    }
    assert told == ALL_COMMANDS - lacking
    assert "root" not in result.output
    assert "These lines are for unix://***@" in result.stderr


def test_without_a_server_it_says_for_which_one_the_lines_are() -> None:
    result = cli("acl")
    assert "+client|setinfo" in result.stdout
    assert "These lines are for Redis 7.2 or later, and Valkey." in result.stderr


@pytest.mark.parametrize(
    "flags",
    [
        ["--user", "eve"],
        ["--role", "monitor", "--user", "eve on +@all"],
        ["--role", "admin"],
        ["--password-env", "NOT_SET"],
    ],
)
def test_bad_usage(flags: list[str]) -> None:
    assert cli("acl", *flags).exit_code == 2
