"""An application around one environment, for `uvicorn`."""

from fastapi import Body, FastAPI


class HTTPEnvServer:
    def __init__(self, env, action_cls, observation_cls):
        self.env, self.action_cls, self.observation_cls = env, action_cls, observation_cls

    def register_routes(self, app: FastAPI) -> None:
        def answer(observation) -> dict:
            shown = observation.model_dump(exclude={"done", "reward"})
            return {"observation": shown, "reward": observation.reward, "done": observation.done}

        @app.get("/health")
        def health() -> dict:
            return {"status": "healthy"}

        @app.post("/reset")
        def reset() -> dict:
            return answer(self.env.reset())

        @app.post("/step")
        def step(action: dict = Body(embed=True)) -> dict:
            return answer(self.env.step(self.action_cls(**action)))


def create_app(env, action_cls, observation_cls) -> FastAPI:
    app = FastAPI()
    HTTPEnvServer(env() if isinstance(env, type) else env, action_cls, observation_cls).register_routes(app)
    return app
