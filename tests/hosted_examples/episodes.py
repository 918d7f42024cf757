"""One episode of an example, as a stock client plays it."""

import random
from dataclasses import dataclass
from typing import Any

from openenv.core import GenericEnvClient

from hosted_examples.plays import Play


@dataclass
class Step:
    """What one reset or step gave."""

    observation: dict[str, Any]
    reward: float | None
    done: bool


async def episode(url: str, play: Play, seed: int | None, max_steps: int = 1000) -> list[Step]:
    """The episode of a session of its own; the seed draws the actions too."""
    dice = random.Random(seed or 0)
    given = play.reset if seed is None else {"seed": seed, **play.reset}
    async with GenericEnvClient(base_url=url) as env:
        result = await env.reset(**given)
        steps = [Step(result.observation, result.reward, result.done)]
        while not result.done and len(steps) <= max_steps:
            result = await env.step(play.act(result.observation, dice))
            steps.append(Step(result.observation, result.reward, result.done))
        assert (await env.state())["step_count"] == len(steps) - 1
    return steps
