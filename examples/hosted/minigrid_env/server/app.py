"""The application that `openenv` and `uvicorn` serve; `oxenv serve` finds the environment in it."""

from openenv.core.env_server import create_app

from ..models import Move, View
from .environment import MiniGrid

app = create_app(MiniGrid, Move, View, env_name="minigrid_env")


def main() -> None:
    import uvicorn

    uvicorn.run(app, host="0.0.0.0", port=8000)


if __name__ == "__main__":
    main()
