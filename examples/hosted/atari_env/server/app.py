"""The application that `openenv` and `uvicorn` serve; `oxenv serve` finds the environment in it."""

from openenv.core.env_server import create_app

from ..models import Frame, Press
from .environment import Atari

app = create_app(Atari, Press, Frame, env_name="atari_env")


def main() -> None:
    import uvicorn

    uvicorn.run(app, host="0.0.0.0", port=8000)


if __name__ == "__main__":
    main()
