"""What is done in a browser, and what is seen in it."""

from openenv.core.env_server.types import Action, Observation, State


class Act(Action):
    """One of BrowserGym's actions, as a call: click("12"), fill("7", "text"), select_option("9", "tea")."""

    action: str


class Page(Observation):
    goal: str
    url: str
    # The accessibility tree, one element a line, each with the id that actions name.
    tree: str
    # Why the last action was not done.
    error: str = ""


class BrowserState(State):
    task: str = ""
