"""The application that `openenv` and `uvicorn` serve; `oxenv serve` finds the environment in it."""

from openenv.core.env_server import create_app

from ..models import Control, Reading
from .environment import ClassicControl

app = create_app(ClassicControl, Control, Reading, env_name="gymnasium_env")


def main() -> None:
    import uvicorn

    uvicorn.run(app, host="0.0.0.0", port=8000)


if __name__ == "__main__":
    main()
