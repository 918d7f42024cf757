"""Two sessions of one server do not see each other, nor the default session."""

from clients.packages import Connect4Action, Connect4Env, GridWorldAction, GridWorldEnv, Move
from clients.stock import run
from harness.plain_http import get, post


def test_grid_world_positions(serve):
    server = serve("grid_world")

    async def sessions():
        async with GridWorldEnv(base_url=server.url) as one, GridWorldEnv(base_url=server.url) as two:
            await one.reset()
            await two.reset()
            for _ in range(3):
                down = await one.step(GridWorldAction(action=Move.DOWN))
                right = await two.step(GridWorldAction(action=Move.RIGHT))
            assert (down.observation.x, down.observation.y) == (3, 0)
            assert (right.observation.x, right.observation.y) == (0, 3)
            await one.reset()
            right = await two.step(GridWorldAction(action=Move.RIGHT))
            assert (right.observation.x, right.observation.y) == (0, 4)
            states = [await env.state() for env in (one, two)]
            assert [state.step_count for state in states] == [0, 4]
            assert states[0].episode_id != states[1].episode_id
        assert get(f"{server.url}/state").json()["step_count"] == 0

    run(sessions())


def test_connect4_boards(serve):
    server = serve("connect4")

    async def sessions():
        async with Connect4Env(base_url=server.url) as one, Connect4Env(base_url=server.url) as two:
            await one.reset()
            await two.reset()
            for column in (0, 1, 0, 1, 0, 1, 0):
                won = await one.step(Connect4Action(column))
            other = await two.step(Connect4Action(6))
            assert (won.done, won.reward) == (True, 1.0)
            assert other.done is False and other.observation.metadata["next_player"] == -1
            assert sum(cell != 0 for row in other.observation.board for cell in row) == 1
            # The default session, over HTTP, has a board of its own.
            over_http = post(f"{server.url}/step", {"action": {"column": 3}}).json()
            assert sum(cell != 0 for row in over_http["observation"]["board"] for cell in row) == 1

    run(sessions())
