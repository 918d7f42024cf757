"""The application, as `openenv init` makes it."""

from openenv.core.env_server import create_app

from ..models import Add, Total
from .environment import Counter

app = create_app(Counter, Add, Total, env_name="counter_env", max_concurrent_envs=4)


@app.get("/pool_status")
def pool_status() -> dict:
    return {"pool": "idle"}


def main() -> None:
    import uvicorn

    uvicorn.run(app, host="0.0.0.0", port=8000)
