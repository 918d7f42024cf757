"""Tasks on local pages in headless Chromium, with BrowserGym's actions and observations."""

import os
import random
import shutil
from typing import Any

import browsergym.core.env
from browsergym.core.env import BrowserEnv
from browsergym.utils.obs import flatten_axtree_to_str
from openenv.core.env_server.interfaces import Environment

from ..models import Act, BrowserState, Page
from .tasks import PAGES, TASKS

MAX_STEPS = 30


class Messages:
    """The messages of BrowserGym's chat, without the second browser in which it shows them."""

    def __init__(self, **_: Any) -> None:
        self.messages: list[dict[str, str]] = []

    def add_message(self, role: str, msg: str) -> None:
        self.messages.append({"role": role, "message": msg, "timestamp": 0.0})

    def close(self) -> None:
        pass


browsergym.core.env.Chat = Messages


def chromium() -> str:
    """The browser's program: CHROMIUM, else the one that is installed."""
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        says = "there is no Chromium; install it (apt-get install chromium) or name it with CHROMIUM"
        raise RuntimeError(says)
    return found


class BrowserGym(Environment[Act, Page, BrowserState]):
    def __init__(self) -> None:
        super().__init__()
        self.browser: BrowserEnv | None = None
        self.ended = False
        self._state = BrowserState()

    def reset(
        self, seed: int | None = None, episode_id: str | None = None, task: str = "order", **_: Any
    ) -> Page:
        if task not in TASKS:
            raise ValueError(f"no task is called '{task}'; there are {', '.join(TASKS)}")
        self.close()
        # Root has no sandbox.
        options = {"executable_path": chromium(), "chromium_sandbox": os.geteuid() != 0}
        self.browser = BrowserEnv(TASKS[task], pw_chromium_kwargs=options, pre_observation_delay=0.1)
        seen, _ = self.browser.reset(seed=random.getrandbits(31) if seed is None else seed % 2**32)
        self._state = BrowserState(episode_id=episode_id, task=task)
        self.ended = False
        return self.page(seen)

    def step(self, action: Act, timeout_s: float | None = None, **_: Any) -> Page:
        if self.browser is None or self.ended:
            raise RuntimeError("no episode is going on; reset the environment first")
        seen, reward, terminated, truncated, _ = self.browser.step(action.action)
        self._state.step_count += 1
        self.ended = terminated or truncated or self._state.step_count >= MAX_STEPS
        return self.page(seen, reward=float(reward), done=self.ended)

    def page(self, seen: dict[str, Any], **more: Any) -> Page:
        return Page(
            goal=seen["goal"],
            url=os.path.basename(seen["url"]),
            # Where the pages lie on this machine is nobody's business.
            tree=flatten_axtree_to_str(seen["axtree_object"]).replace(PAGES.as_uri() + "/", ""),
            error=seen["last_action_error"],
            **more,
        )

    @property
    def state(self) -> BrowserState:
        return self._state

    def close(self) -> None:
        if self.browser is not None:
            self.browser.close()
            self.browser = None
