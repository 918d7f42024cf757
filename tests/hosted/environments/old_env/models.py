from openenv.core.env_server.types import Action, Observation


class OldAction(Action):
    word: str


class OldObservation(Observation):
    words: list[str] = []
