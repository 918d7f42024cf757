"""The application that `openenv` and `uvicorn` serve; `oxenv serve` finds the environment in it."""

from openenv.core.env_server import create_app

from ..models import Move, Position
from .environment import OpenSpiel

app = create_app(OpenSpiel, Move, Position, env_name="open_spiel_env")


def main() -> None:
    import uvicorn

    uvicorn.run(app, host="0.0.0.0", port=8000)


if __name__ == "__main__":
    main()
