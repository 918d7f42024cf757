"""Full episodes of connect4 and grid_world through typed clients of environment packages.

Rewards are checked with their JSON type: `/ws` keeps int and float apart.
"""

import pytest
from clients.packages import Connect4Action, Connect4Env, GridWorldAction, GridWorldEnv, Move
from clients.stock import run
from harness.plain_http import get, post

# 42 alternating moves that fill the board without four in a row.
DRAW = "545062455041104565311226266362030334314210"
PATH_TO_GOAL = [Move.DOWN] * 4 + [Move.RIGHT] * 4


def typed(value):
    """A number with its JSON type, since 1 == 1.0 in Python."""
    return type(value).__name__, value


async def play(env, columns):
    """The last result of dropping pieces into these columns."""
    for column in columns:
        result = await env.step(Connect4Action(int(column)))
    return result


def test_connect4_four_in_a_row(serve):
    server = serve("connect4")

    async def episode():
        async with Connect4Env(base_url=server.url) as env:
            reset = await env.reset()
            assert reset.observation.board == [[0] * 7 for _ in range(6)]
            assert reset.observation.legal_actions == list(range(7))
            assert reset.observation.metadata["next_player"] == 1
            assert typed(reset.reward) == ("float", 0.0) and reset.done is False
            first = await env.step(Connect4Action(3))
            assert first.observation.board[5] == [0, 0, 0, 1, 0, 0, 0]
            assert first.observation.metadata["next_player"] == -1
            assert typed(first.reward) == ("float", 0.0) and first.done is False
            state = await env.state()
            assert (state.step_count, state.next_player, state.board[5][3]) == (1, -1, 1)
            won = await play(env, "030303")
            assert typed(won.reward) == ("float", 1.0) and won.done is True
            assert [row[3] for row in won.observation.board] == [0, 0, 1, 1, 1, 1]
            assert [row[0] for row in won.observation.board] == [0, 0, 0, -1, -1, -1]

    run(episode())


def test_connect4_illegal_move(serve):
    server = serve("connect4")

    async def episode():
        async with Connect4Env(base_url=server.url) as env:
            await env.reset()
            full = await play(env, "222222")
            assert full.observation.legal_actions == [0, 1, 3, 4, 5, 6] and full.done is False
            illegal = await play(env, "2")
            assert typed(illegal.reward) == ("int", -1) and illegal.done is True
            assert illegal.observation.board == full.observation.board

    run(episode())


def test_connect4_draw(serve):
    server = serve("connect4")

    async def episode():
        async with Connect4Env(base_url=server.url) as env:
            await env.reset()
            before = await play(env, DRAW[:-1])
            assert before.done is False
            drawn = await play(env, DRAW[-1])
            assert typed(drawn.reward) == ("float", 0.0) and drawn.done is True
            assert drawn.observation.legal_actions == []
            assert (await env.state()).step_count == 42
            assert (await env.reset()).observation.legal_actions == list(range(7))

    run(episode())


def test_connect4_sync(serve):
    server = serve("connect4")
    with Connect4Env(base_url=server.url).sync() as env:
        env.reset()
        for column in "3030303":
            result = env.step(Connect4Action(int(column)))
        assert typed(result.reward) == ("float", 1.0) and result.done is True


def test_grid_world_to_the_goal(serve):
    server = serve("grid_world")

    async def episode():
        async with GridWorldEnv(base_url=server.url) as env:
            reset = await env.reset()
            assert (reset.observation.x, reset.observation.y) == (0, 0)
            assert typed(reset.reward) == ("float", 0.0) and reset.done is False
            for count, move in enumerate(PATH_TO_GOAL[:-1], start=1):
                result = await env.step(GridWorldAction(action=move))
                assert typed(result.reward) == ("float", -0.1) and result.done is False
                assert (result.observation.x, result.observation.y) == (min(count, 4), max(0, count - 4))
            result = await env.step(GridWorldAction(action=PATH_TO_GOAL[-1]))
            assert typed(result.reward) == ("float", 1.0) and result.done is True
            assert (result.observation.x, result.observation.y) == (4, 4)
            assert (await env.state()).step_count == 8

    run(episode())


def test_grid_world_walls_and_directions(serve):
    server = serve("grid_world")

    async def episode():
        async with GridWorldEnv(base_url=server.url) as env:
            await env.reset()
            moves = [
                (Move.UP, (0, 0)),
                (Move.LEFT, (0, 0)),
                (Move.DOWN, (1, 0)),
                (Move.RIGHT, (1, 1)),
                (Move.UP, (0, 1)),
            ]
            for move, position in moves:
                result = await env.step(GridWorldAction(action=move))
                assert (result.observation.x, result.observation.y) == position
                assert typed(result.reward) == ("float", -0.1)

    run(episode())


def test_http_episodes_are_played_in_the_default_session_with_float_rewards(serve):
    """`POST /reset`, `POST /step` and `GET /state` see one environment."""
    server = serve("connect4")
    assert post(f"{server.url}/reset", {}).json()["observation"]["legal_actions"] == list(range(7))
    for column in "222222":
        assert post(f"{server.url}/step", {"action": {"column": int(column)}}).json()["done"] is False
    assert get(f"{server.url}/state").json()["step_count"] == 6
    illegal = post(f"{server.url}/step", {"action": {"column": 2}}).json()
    assert typed(illegal["reward"]) == ("float", -1.0) and illegal["done"] is True


@pytest.mark.parametrize(
    ("environment", "action", "location"),
    [
        ("connect4", {"column": "left"}, ["column"]),
        ("connect4", {}, ["column"]),
        ("grid_world", {"action": "SIDEWAYS"}, ["action"]),
        ("grid_world", {"action": "UP", "speed": 2}, ["speed"]),
    ],
)
def test_an_invalid_action_is_a_422_that_names_the_field(serve, environment, action, location):
    server = serve(environment)
    reply = post(f"{server.url}/step", {"action": action})
    assert reply.status == 422
    assert [issue["loc"] for issue in reply.json()["detail"]] == [location]
