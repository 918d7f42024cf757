"""What Fleet's SDK does when the simulated Fleet fails: the faults are those that it was written for."""

import pytest


@pytest.mark.parametrize("fault", ["create:429~0*2", "create:503*1", "create:502*1", "create:drop*1"])
def test_what_passes_is_tried_again_with_the_same_request_id(simulate, sdk, fault):
    fleet = simulate("--fault", fault)
    assert sdk.do(sdk.client().make("fira")).status == "running"
    creates = [request for request in fleet.requests("control") if request["method"] == "POST"]
    assert len(creates) == (3 if "*2" in fault else 2)
    assert len({request["headers"]["x-request-id"] for request in creates}) == 1
    assert fleet.faults() == []


def test_a_rate_limit_without_an_end(simulate, sdk):
    fleet = simulate("--fault", "create:429~0")
    with pytest.raises(sdk.errors.FleetRateLimitError):
        sdk.do(sdk.client().make("fira"))
    assert len(fleet.requests("control")) == 4


@pytest.mark.parametrize("faults", [["create:drop-after*1"], ["create:drop-after*1", "create:pending*1"]])
def test_a_lost_answer_is_recovered(simulate, sdk, faults):
    fleet = simulate(*(word for fault in faults for word in ("--fault", fault)))
    client = sdk.client()
    env = sdk.do(client.make("fira"))
    assert env.status == "running"
    assert [instance.instance_id for instance in sdk.do(client.instances())] == [env.instance_id]
    assert fleet.faults() == []


@pytest.mark.parametrize("fate", ["pending-then-error", "pending-then-stopped"])
def test_a_lost_instance_that_failed_is_a_conflict(simulate, sdk, fate):
    simulate("--fault", "create:drop-after*1", "--fault", f"create:{fate}*1")
    with pytest.raises(sdk.errors.FleetConflictError) as conflict:
        sdk.do(sdk.client().make("fira"))
    assert conflict.value.instance_id


def test_a_pending_instance_is_given_as_it_is(simulate, sdk):
    simulate("--delay", "1h")
    env = sdk.do(sdk.client().make("fira", timeout=30))
    assert env.status == "pending"


def test_a_create_is_held_until_the_instance_runs(simulate, sdk):
    simulate("--delay", "300ms")
    assert sdk.do(sdk.client().make("fira")).status == "running"


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("limit", "FleetInstanceLimitError"),
        ("403-limit", "FleetInstanceLimitError"),
        ("403-team", "FleetTeamNotFoundError"),
        ("403-environment", "FleetEnvironmentAccessError"),
        ("403-permission", "FleetPermissionError"),
        ("422", "FleetAPIError"),
    ],
)
def test_refusals_are_of_the_right_class(simulate, sdk, fault, error):
    simulate("--fault", f"create:{fault}")
    with pytest.raises(sdk.errors.FleetAPIError) as raised:
        sdk.do(sdk.client().make("fira"))
    assert type(raised.value).__name__ == error


def test_an_instance_that_warms_up(simulate, sdk):
    simulate("--fault", "instance:502*2")
    env = sdk.do(sdk.client().make("fira"))
    assert sdk.do(env.reset()).success


def test_an_old_list_of_resources(simulate, sdk):
    simulate("--fault", "resources:old-resources")
    env = sdk.do(sdk.client().make("fira"))
    assert len(sdk.do(env.resources())) == 3
