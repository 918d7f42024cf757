"""What each library is there for: games are won, questions answered, forms handed in."""

import base64
import os
import re
import signal

import pytest
from clients.stock import run
from harness.processes import descendants, left_after
from openenv.core import GenericEnvClient


def play(server, body):
    """Runs `body(env)` with a client of the server."""

    async def playing():
        async with GenericEnvClient(base_url=server.url) as env:
            return await body(env)

    return run(playing())


@pytest.mark.parametrize("move", ["a1a8", "Ra8#"])
def test_chess_is_won_by_a_mate_in_either_spelling(example, move):
    async def mate(env):
        await env.reset(fen="6k1/5ppp/8/8/8/8/5PPP/R5K1 w - - 0 1")
        result = await env.step({"move": move})
        assert (result.reward, result.done, result.observation["ended"]) == (1.0, True, "CHECKMATE")
        assert (await env.state())["moves"] == ["a1a8"]
        with pytest.raises(Exception, match="no game is going on; reset"):
            await env.step({"move": move})

    play(example("chess_env"), mate)


def test_black_is_played_too(example):
    async def answer(env):
        seen = (await env.reset(seed=1, colour="black")).observation
        assert seen["answer"] and seen["fen"].split()[1] == "b"

    play(example("chess_env"), answer)


def test_the_goal_of_a_grid_is_reached(example):
    async def walk(env):
        await env.reset(seed=1, task="MiniGrid-Empty-5x5-v0")
        moves = ["forward", "forward", "right", "forward", "forward"]
        results = [await env.step({"move": move}) for move in moves]
        assert [result.done for result in results] == [False] * 4 + [True]
        assert results[-1].reward == pytest.approx(1 - 0.9 * 5 / 100)

    play(example("minigrid_env"), walk)


def test_a_right_answer_is_worth_more_than_a_wrong_one(example):
    async def answer(env):
        rewards = []
        for wrong in (0, 1):
            question = (await env.reset(seed=11, task="chain_sum")).observation["question"]
            terms = re.search(r": (.+) =", question).group(1)
            signs = re.findall(r"([+-]?) ?(\d+)", terms)
            total = sum(int(number) * (-1 if sign == "-" else 1) for sign, number in signs)
            result = await env.step({"answer": str(total + wrong)})
            assert result.done and result.observation["expected"] == str(total)
            rewards.append(result.reward)
        assert rewards[0] == 1.0 > rewards[1]

    play(example("reasoning_gym_env"), answer)


@pytest.mark.parametrize("task", ["countdown", "mini_sudoku", "rubiks_cube", "complex_arithmetic"])
def test_other_kinds_of_questions_are_asked(example, task):
    async def ask(env):
        assert (await env.reset(seed=2, task=task)).observation["question"]
        assert 0 <= (await env.step({"answer": "no idea"})).reward <= 1

    play(example("reasoning_gym_env"), ask)


def test_a_screen_is_sent_where_it_was_asked_for(example):
    async def look(env):
        seen = (await env.reset(seed=1, game="pong", screen=True)).observation
        assert (seen["height"], seen["width"]) == (210, 160)
        pixels = [base64.b64decode(seen["screen"])]
        for _ in range(30):
            seen = (await env.step({"button": "RIGHT"})).observation
            pixels.append(base64.b64decode(seen["screen"]))
        assert {len(each) for each in pixels} == {210 * 160} and len(set(pixels)) > 5

    play(example("atari_env"), look)


def test_pong_is_played_to_twenty_one(example):
    async def lose(env):
        result = await env.reset(seed=1, game="pong")
        score = 0
        while not result.done:
            result = await env.step({"button": "NOOP"})
            score += result.reward
        assert score == -21 == (await env.state())["score"]

    play(example("atari_env"), lose)


def test_steps_of_a_pendulum_are_used_up(example):
    async def swing(env):
        result = await env.reset(seed=1, task="Pendulum-v1")
        for count in range(1, 201):
            result = await env.step({"action": [2.0]})
            assert result.done is (count == 200) and result.reward <= 0
        assert result.observation["truncated"]

    play(example("gymnasium_env"), swing)


@pytest.mark.parametrize("game", ["tic_tac_toe", "connect_four", "kuhn_poker", "liars_dice", "blackjack"])
def test_games_with_and_without_chance_are_played_by_their_first_move(example, game):
    async def first_moves(env):
        result = await env.reset(seed=3, game=game)
        total = 0.0
        while not result.done:
            result = await env.step({"move": result.observation["legal"][0]})
            total += result.reward
        assert total in (-2, -1, 0, 1, 2)

    play(example("open_spiel_env"), first_moves)


def test_the_second_player_moves_second(example):
    async def second(env):
        await env.reset(seed=3, game="tic_tac_toe", player=1)
        assert len((await env.state())["history"]) == 1
        with pytest.raises(Exception, match="tic_tac_toe has the players 0 to 1; there is no 2"):
            await env.reset(game="tic_tac_toe", player=2)

    play(example("open_spiel_env"), second)


def test_a_number_is_guessed_by_halves(example):
    async def guess(env):
        result = await env.reset(seed=4, game="GuessTheNumber-v0")
        low, high = 1, 20
        while not result.done:
            middle = (low + high) // 2
            result = await env.step({"text": f"perhaps [{middle}]"})
            if "higher" in result.observation["text"].rpartition("[GAME]")[2]:
                low = middle + 1
            else:
                high = middle - 1
        assert result.reward == 1 and result.observation["rewards"] == {"0": 1}

    play(example("textarena_env"), guess)


def test_bodies_of_the_control_suite_have_their_own_sensors(example):
    async def walk(env):
        seen = (await env.reset(seed=1, domain="walker", task="walk")).observation
        assert set(seen["sensors"]) == {"orientations", "height", "velocity"}
        result = await env.step({"force": [0.5] * len(seen["low"])})
        assert 0 <= result.reward <= 1
        assert (await env.state())["time"] > 0

    play(example("dm_control_env"), walk)


def test_a_form_is_filled_in_and_handed_in(example):
    async def order(env):
        seen = (await env.reset(seed=6, task="order")).observation
        drink, table = re.fullmatch(r"Order (\w+) for table (\d+)\.", seen["goal"]).groups()
        box, choice, button = (
            re.search(rf"\[(\d+)\] {kind}", seen["tree"]).group(1)
            for kind in ("textbox", "combobox", "button")
        )
        failed = await env.step({"action": "click('999')"})
        assert "999" in failed.observation["error"] and not failed.done
        filled = await env.step({"action": f"fill('{box}', '{table}')"})
        assert f"textbox 'Table' value='{table}'" in filled.observation["tree"]
        await env.step({"action": f"select_option('{choice}', '{drink}')"})
        result = await env.step({"action": f"click('{button}')"})
        assert (result.reward, result.done) == (1.0, True)

    play(example("browsergym_env"), order)


def browsers(server):
    """The browsers of all sessions, and what drives them."""
    found = descendants(server.process.pid)
    return [each for each in found if "chromium" in each.command or "run-driver" in each.command]


def test_no_browser_outlives_its_session(example):
    server = example("browsergym_env")

    async def look(env):
        await env.reset(task="find")
        return browsers(server)

    assert (started := play(server, look))
    assert left_after(started, 10) == []


def test_a_worker_that_is_killed_takes_its_browser_along(example):
    server = example("browsergym_env")

    async def look(env):
        await env.reset(task="find")
        started = browsers(server)
        driver = next(each for each in started if "run-driver" in each.command)
        os.kill(driver.parent, signal.SIGKILL)
        assert left_after(started, 10) == []
        with pytest.raises(Exception, match="SIGKILL"):
            await env.step({"action": "click('1')"})
        assert not (await env.reset(task="find")).done

    assert left_after(browsers(server), 10) == []
    play(server, look)


@pytest.mark.parametrize(
    ("folder", "given", "says"),
    [
        ("gymnasium_env", {"task": "Walker"}, "no task is called 'Walker'; there are CartPole-v1"),
        ("atari_env", {"game": "chess"}, "no game is called 'chess'; there are"),
        ("reasoning_gym_env", {"task": "poetry"}, "no task is called 'poetry'; there are"),
        ("dm_control_env", {"task": "fly"}, "no task is called 'cartpole/fly'"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(example, folder, given, says):
    async def ask(env):
        with pytest.raises(Exception, match=says):
            await env.reset(**given)
        assert not (await env.reset(seed=1)).done

    play(example(folder), ask)
