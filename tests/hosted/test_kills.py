"""A hundred workers are killed while every session steps: each kill ends its own session's episode alone."""

import asyncio
import os
import signal

from clients.stock import run
from harness.server import running
from openenv.core import GenericEnvClient

from hosted.conftest import hosted_command
from hosted.processes import descendants, wait_until

SESSIONS, KILLS = 8, 100
BANNER = r"oxenv: serving \S+ on (http://127\.0\.0\.1:\d+)"


class Stepping:
    """One session that steps for as long as the test lasts."""

    def __init__(self):
        self.pid, self.killed, self.ended, self.steps = 0, 0, 0, 0
        self.began = asyncio.Event()

    async def play(self, url, stop):
        async with GenericEnvClient(base_url=url) as env:
            await self.begin(env)
            while not stop.is_set():
                try:
                    stepped = await env.step({"what": "nothing"})
                except Exception as error:
                    self.ended += 1
                    # Nobody else's kill ends this episode, and a kill is an infrastructure failure.
                    assert self.ended == self.killed and "SIGKILL" in str(error), error
                    await self.begin(env)
                else:
                    self.steps += 1
                    assert stepped.reward == 1.0 and stepped.observation["pid"] == self.pid

    async def begin(self, env):
        self.pid = (await env.reset()).observation["pid"]
        self.began.set()

    async def kill(self):
        await self.began.wait()
        self.began.clear()
        self.killed += 1
        os.kill(self.pid, signal.SIGKILL)
        await self.began.wait()


def test_a_hundred_kills_under_load_end_their_own_episodes_alone():
    async def play(server):
        stop, sessions = asyncio.Event(), [Stepping() for _ in range(SESSIONS)]
        playing = [asyncio.create_task(each.play(server.url, stop)) for each in sessions]
        async with asyncio.timeout(120):
            for index in range(KILLS):
                before = sum(each.steps for each in sessions)
                await sessions[index % SESSIONS].kill()
                assert sum(each.steps for each in sessions) > before
                assert not any(task.done() for task in playing)
            stop.set()
            await asyncio.gather(*playing)
        assert sum(each.ended for each in sessions) == KILLS
        assert all(each.ended == each.killed for each in sessions)

    with running(hosted_command("misbehaving:Misbehaving"), BANNER) as server:
        wait_until(lambda: len(descendants(server.process.pid)) >= 4)
        idle = len(descendants(server.process.pid))
        run(play(server))
        # The sessions' processes are gone; the spares are there again.
        wait_until(lambda: len(descendants(server.process.pid)) <= idle)
