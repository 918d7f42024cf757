"""Everything that Fleet's SDK can do with an instance, done with a simulated one.

It proves that the SDK accepts the simulator's shapes, not that the real service sends them.
"""

import re

import pytest

VERIFIER = """def check(env: Environment, final_answer: str | None = None) -> float:
    before = env.db("seed").table("issues").eq("status", "done").count()
    after = env.db("current").table("issues").eq("status", "done").count()
    return TASK_SUCCESSFUL_SCORE if (before, after) == (0, 1) else TASK_FAILED_SCORE
"""


def test_make_sends_what_is_known_of_it(simulate, sdk):
    fleet = simulate()
    client = sdk.client()
    made = sdk.do(
        client.make(
            "fira:1.3.1",
            data_key="base:2",
            ttl_seconds=600,
            env_variables={"A": 1},
            image_type="mcp",
            run_id="r1",
        )
    )
    sdk.do(client.make("fira"))
    everything, least = fleet.requests("control")
    assert everything["body"] == {
        "env_key": "fira",
        "env_version": "v1.3.1",
        "data_key": "base",
        "data_version": "v2",
        "run_id": "r1",
        "env_variables": {"A": 1},
        "image_type": "mcp",
        "created_from": "sdk",
        "ttl_seconds": 600,
        "max_wait_seconds": 870,
    }
    assert least["body"] == {"env_key": "fira", "created_from": "sdk", "max_wait_seconds": 870}
    assert everything["headers"]["authorization"] == f"Bearer {fleet.key}"
    assert re.fullmatch(r"[0-9a-f-]{36}", everything["headers"]["x-request-id"])
    assert everything["headers"]["x-request-id"] != least["headers"]["x-request-id"]

    assert (made.env_key, made.version, made.status, made.run_id) == ("fira", "v1.3.1", "running", "r1")
    assert (made.data_key, made.data_version, made.env_variables) == ("base", "v2", {"A": 1})
    assert made.manager_url == f"{made.urls.root}api/v1/env"


def test_an_episode(simulate, sdk):
    fleet = simulate("--run-verifiers")
    client = sdk.client()
    env = sdk.do(client.make("fira"))
    assert sdk.do(env.reset(seed=42, timestamp=1700000000)).success
    assert sdk.do(env.instance.manager_health_check()).status == "healthy"
    resources = {resource.uri for resource in sdk.do(env.resources())}
    assert resources == {"sqlite://seed", "sqlite://current", "cdp://cdp"}

    current = env.db("current")
    described = sdk.do(current.describe())
    assert [table.name for table in described.tables] == ["issues", "comments"]
    issues = sdk.do(current.query("SELECT id, status FROM issues WHERE id = ?", [2]))
    assert (issues.columns, issues.rows) == (["id", "status"], [[2, "open"]])
    assert sdk.do(env.verify_raw(VERIFIER)).result == 0
    changed = sdk.do(current.exec("UPDATE issues SET status = 'done' WHERE id = 2"))
    assert (changed.success, changed.rows_affected) == (True, 1)
    assert not sdk.do(env.db("seed").exec("DELETE FROM issues")).success
    verified = sdk.do(env.verify_raw(VERIFIER))
    assert (verified.success, verified.result) == (True, 1)
    assert sdk.do(env.browser().describe()).cdp_browser_url.startswith("ws://127.0.0.1:")

    reset = next(request for request in fleet.requests(env.instance_id) if request["path"].endswith("/reset"))
    assert reset["body"] == {"timestamp": 1700000000, "seed": 42}
    assert "authorization" not in reset["headers"]
    assert sdk.do(env.close()).status == "stopped"


def test_instances_are_found_and_ended(simulate, sdk):
    simulate()
    client = sdk.client()
    first = sdk.do(client.make("fira", run_id="one"))
    second = sdk.do(client.make("echo", run_id="two", region="eu-west-2"))
    third = sdk.do(client.make("desk", run_id="two"))

    def listed(**wanted: str) -> set[str]:
        return {instance.instance_id for instance in sdk.do(client.instances(**wanted))}

    assert listed() == {first.instance_id, second.instance_id, third.instance_id}
    assert listed(run_id="two", region="eu-west-2") == {second.instance_id}
    assert sdk.do(client.instance(first.instance_id)).urls == first.urls
    assert sdk.do(client.account()).instance_count == 3
    ended = sdk.do(client.close_all(run_id="two"))
    assert {instance.instance_id for instance in ended} == {second.instance_id, third.instance_id}
    assert sdk.do(client.close(first.instance_id)).terminated_at is not None
    assert listed() == set()
    assert listed(status="stopped") == {first.instance_id, second.instance_id, third.instance_id}


def test_heartbeats(simulate, sdk):
    fleet = simulate()
    client = sdk.client()
    env = sdk.do(client.make("fira", heartbeat_interval=30))
    beat = sdk.do(env.heartbeat())
    assert (beat.success, beat.interval_seconds) == (True, 30)
    assert sdk.do(client.heartbeat(env.instance_id)).deadline_timestamp >= beat.deadline_timestamp
    fleet.advance(61)
    assert sdk.do(client.instance(env.instance_id)).status == "stopped"


def test_what_there_is(simulate, sdk):
    simulate()
    client = sdk.client()
    assert [environment.env_key for environment in sdk.do(client.list_envs())] == ["fira", "echo", "desk"]
    assert sdk.do(client.environment("fira")).default_version == "v1.3.1"
    assert "us-west-1" in sdk.do(client.list_regions())


def test_errors_are_of_the_right_class(simulate, sdk, monkeypatch):
    simulate("--instance-limit", "1")
    client = sdk.client()
    for arguments, error, attribute, value in [
        (("nope",), "FleetEnvironmentNotFoundError", "env_key", "nope"),
        (("fira:9",), "FleetVersionNotFoundError", "version", "v9"),
        (("fira", None, "mars"), "FleetRegionError", "region", "mars"),
    ]:
        with pytest.raises(getattr(sdk.errors, error)) as raised:
            sdk.do(client.make(*arguments))
        assert getattr(raised.value, attribute) == value
    sdk.do(client.make("fira"))
    with pytest.raises(sdk.errors.FleetInstanceLimitError) as full:
        sdk.do(client.make("fira"))
    assert (full.value.running_instances, full.value.instance_limit) == (1, 1)
    monkeypatch.setenv("FLEET_API_KEY", "wrong")
    with pytest.raises(sdk.errors.FleetAuthenticationError):
        sdk.do(sdk.client().account())


def test_the_gate_opens_to_the_token_that_the_sdk_asks_for(simulate, sdk):
    fleet = simulate("--gate")
    env = sdk.do(sdk.client().make("fira"))
    assert sdk.do(env.reset(seed=1)).success
    (reset,) = [request for request in fleet.requests(env.instance_id) if request["method"] == "POST"]
    assert reset["headers"]["x-runner-token"]
    assert "/v1/runner-auth/token" in [request["path"] for request in fleet.requests("control")]
