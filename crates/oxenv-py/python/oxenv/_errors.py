"""One exception class per error code.

Every failure says whether the request was delivered, whether a repeat is worth it, and carries no reward.
"""

from __future__ import annotations

import json
from typing import Any, ClassVar, Literal


class OxenvError(Exception):
    """A request gave nothing. The subclass is named after `code`.

    Attributes:
        code: The error code, such as ``"CONNECTION_LOST"``.
        message: What happened, where, and what to do.
        kind: Whose fault it is: the agent's action, the environment, time, or the machinery.
        delivered: Whether the request reached the environment or the tool. ``"no"`` makes a repeat safe.
        retryable: Whether a repeat is worth it.
        retry_after: Seconds after which it is, if that is known.
        phase: ``"boot"``, ``"reset"``, ``"step"``, ``"tool"`` or ``"verify"``, if the server said so.
        data: What a program may read besides: validation issues, a container's last lines; else ``None``.
    """

    code: ClassVar[str] = ""

    message: str
    kind: Literal["action", "environment", "timeout", "infrastructure"]
    delivered: Literal["no", "maybe", "yes"]
    retryable: bool
    retry_after: float | None
    phase: str | None
    data: Any

    def __init__(
        self,
        message: str = "",
        *,
        kind: Literal["action", "environment", "timeout", "infrastructure"] = "infrastructure",
        delivered: Literal["no", "maybe", "yes"] = "maybe",
        retryable: bool = False,
        retry_after: float | None = None,
        phase: str | None = None,
        data: Any = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.kind = kind
        self.delivered = delivered
        self.retryable = retryable
        self.retry_after = retry_after
        self.phase = phase
        self.data = data

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuilt, (type(self), dict(self.__dict__)))


class ServerError(OxenvError, RuntimeError):
    """The server answered with an error; the subclass says which. Also a ``RuntimeError``, as stock clients
    raise."""


class FleetFailure(OxenvError):
    """Fleet refused or failed; the subclass says how."""


class ProviderFailure(OxenvError):
    """An instance could not be started, or was lost; the subclass says how."""


class InvalidJson(ServerError):
    """A frame is not JSON."""

    code = "INVALID_JSON"


class UnknownType(ServerError):
    """A frame's ``type`` is unknown."""

    code = "UNKNOWN_TYPE"


class ValidationError(ServerError, ValueError):
    """A frame, a body or an action does not have the required shape."""

    code = "VALIDATION_ERROR"


class ExecutionError(ServerError):
    """A reset, step or state failed inside the environment."""

    code = "EXECUTION_ERROR"


class CapacityReached(ServerError):
    """Every session slot is taken."""

    code = "CAPACITY_REACHED"


class FactoryError(ServerError):
    """The environment could not be made."""

    code = "FACTORY_ERROR"


class SessionError(ServerError):
    """The socket has no session: a binary frame, an unknown session, a session that ended."""

    code = "SESSION_ERROR"


class SessionNotFound(ServerError, LookupError):
    """The named session does not exist."""

    code = "SESSION_NOT_FOUND"


class SessionEnded(ServerError):
    """The session existed and has ended: closed, expired or failed."""

    code = "SESSION_ENDED"


class DeadlineExceeded(ServerError, TimeoutError):
    """A boot, reset, step or tool call ran past its deadline."""

    code = "DEADLINE_EXCEEDED"


class Cancelled(ServerError):
    """A reset, a close or a gone client ended the call."""

    code = "CANCELLED"


class ResetRequired(ServerError):
    """The last step was cut off, so the environment must be reset before the next."""

    code = "RESET_REQUIRED"


class EpisodeDone(ServerError):
    """The episode is done; an agent's calls are refused until the next reset."""

    code = "EPISODE_DONE"


class WrongEpoch(ServerError):
    """The call named an epoch that is not the current one."""

    code = "WRONG_EPOCH"


class ModeRefused(ServerError):
    """This server mode does not have that operation."""

    code = "MODE_REFUSED"


class Unsupported(ServerError, NotImplementedError):
    """The environment cannot do that: no code engine, no fork, no snapshot."""

    code = "UNSUPPORTED"


class NonFiniteReward(ServerError):
    """The environment gave a reward that is NaN or infinite."""

    code = "NON_FINITE_REWARD"


class EnvironmentPanicked(ServerError):
    """The environment panicked."""

    code = "ENVIRONMENT_PANICKED"


class Draining(ServerError):
    """The server is shutting down."""

    code = "DRAINING"


class Denied(ServerError):
    """The policy does not allow this caller that tool, or not with those arguments."""

    code = "DENIED"


class RateLimited(ServerError):
    """The policy allows the tool, but not so often."""

    code = "RATE_LIMITED"


class UpstreamUnavailable(ServerError):
    """The tool's server does not run or cannot be reached; the call was not sent."""

    code = "UPSTREAM_UNAVAILABLE"


class UpstreamLost(ServerError):
    """The tool's server went away while the call was with it."""

    code = "UPSTREAM_LOST"


class InvalidResult(ServerError):
    """The tool's result does not fit the schema that its server declared."""

    code = "INVALID_RESULT"


class KeyConflict(ServerError):
    """The request's key was used for another request."""

    code = "KEY_CONFLICT"


class StepConflict(ServerError):
    """The session is at another step than the request expects."""

    code = "STEP_CONFLICT"


class ReplyForgotten(ServerError):
    """The request was answered before, and its reply is not kept any more; it was not run again."""

    code = "REPLY_FORGOTTEN"


class RecordFailed(ServerError):
    """The step was taken, but its record could not be written."""

    code = "RECORD_FAILED"


class AuditUnavailable(ServerError):
    """The audit has no place for another call, because its file cannot be written; the call was not made."""

    code = "AUDIT_UNAVAILABLE"


class SnapshotInvalid(ServerError):
    """The snapshot is damaged, or of a kind or version that this server cannot restore."""

    code = "SNAPSHOT_INVALID"


class Unauthorized(ServerError):
    """The request carries no token, or one that is not known here."""

    code = "UNAUTHORIZED"


class Forbidden(ServerError):
    """The request's token does not allow that."""

    code = "FORBIDDEN"


class InputRequired(ServerError):
    """The tool wants input from a person or a model before it goes on, and this door has none."""

    code = "INPUT_REQUIRED"


class InvalidOptions(OxenvError, ValueError):
    """The URL, a header or an option is wrong; nothing was sent."""

    code = "INVALID_OPTIONS"


class ConnectFailed(OxenvError, ConnectionError):
    """Nobody listens there, or the name is not known."""

    code = "CONNECT_FAILED"


class TlsFailed(OxenvError, ConnectionError):
    """There is no safe connection: the certificate or the TLS handshake is refused."""

    code = "TLS_FAILED"


class NotAServer(OxenvError, ConnectionError):
    """What answers there is no environment server, or no MCP server."""

    code = "NOT_A_SERVER"


class VersionMismatch(OxenvError):
    """The server speaks another version of the protocol, or not the one that was demanded."""

    code = "VERSION_MISMATCH"


class ConnectionLost(OxenvError, ConnectionError):
    """The connection was lost before the answer came."""

    code = "CONNECTION_LOST"


class TimedOut(OxenvError, TimeoutError):
    """The client's own deadline passed before the answer came."""

    code = "TIMED_OUT"


class InvalidReply(OxenvError):
    """The answer is not what the protocol has."""

    code = "INVALID_REPLY"


class InvalidArguments(OxenvError, ValueError):
    """The arguments do not fit the tool's schema; nothing was sent."""

    code = "INVALID_ARGUMENTS"


class ToolNotFound(OxenvError, LookupError):
    """No tool has that name."""

    code = "TOOL_NOT_FOUND"


class ToolFailed(OxenvError):
    """The tool ran and says that it failed."""

    code = "TOOL_FAILED"


class Closed(OxenvError):
    """The client was closed."""

    code = "CLOSED"


class EndpointUnavailable(OxenvError, ConnectionError):
    """An endpoint of a multiplexer cannot be reached, and all were demanded."""

    code = "ENDPOINT_UNAVAILABLE"


class FleetUnauthorized(FleetFailure):
    """Fleet does not know the key."""

    code = "FLEET_UNAUTHORIZED"


class FleetInstanceLimit(FleetFailure):
    """The team runs as many instances as it may."""

    code = "FLEET_INSTANCE_LIMIT"


class FleetTeamNotFound(FleetFailure):
    """Fleet does not know the team."""

    code = "FLEET_TEAM_NOT_FOUND"


class FleetEnvironmentForbidden(FleetFailure):
    """The key does not allow that environment."""

    code = "FLEET_ENVIRONMENT_FORBIDDEN"


class FleetForbidden(FleetFailure):
    """The key does not allow that."""

    code = "FLEET_FORBIDDEN"


class FleetRegionUnknown(FleetFailure):
    """Fleet does not serve that region."""

    code = "FLEET_REGION_UNKNOWN"


class FleetEnvironmentUnknown(FleetFailure):
    """Fleet does not know that environment."""

    code = "FLEET_ENVIRONMENT_UNKNOWN"


class FleetVersionUnknown(FleetFailure):
    """Fleet does not know that version of the environment."""

    code = "FLEET_VERSION_UNKNOWN"


class FleetBadRequest(FleetFailure):
    """Fleet refuses the request."""

    code = "FLEET_BAD_REQUEST"


class FleetConflict(FleetFailure):
    """Fleet has that request already, and it cannot be recovered."""

    code = "FLEET_CONFLICT"


class FleetRateLimited(FleetFailure):
    """Fleet is asked too often."""

    code = "FLEET_RATE_LIMITED"


class FleetInstanceFailed(FleetFailure):
    """The instance stopped or failed before it ran."""

    code = "FLEET_INSTANCE_FAILED"


class FleetInstanceGone(FleetFailure):
    """The instance was gone: it expired, or somebody ended it."""

    code = "FLEET_INSTANCE_GONE"


class FleetRunnerRefused(FleetFailure):
    """The instance cannot be told from one that refuses us: its gate answers 404."""

    code = "FLEET_RUNNER_REFUSED"


class FleetError(FleetFailure):
    """Fleet failed otherwise; the message has the status and the answer."""

    code = "FLEET_ERROR"


class ProviderUnavailable(ProviderFailure, ConnectionError):
    """The daemon or the supervisor that starts instances cannot be reached."""

    code = "PROVIDER_UNAVAILABLE"


class ImageNotFound(ProviderFailure, LookupError):
    """There is no such image here, and the pull policy does not allow to fetch it."""

    code = "IMAGE_NOT_FOUND"


class ImageFailed(ProviderFailure):
    """The image could not be fetched or built."""

    code = "IMAGE_FAILED"


class InvalidSpec(ProviderFailure, ValueError):
    """What was asked for cannot be started: a bad folder, name, limit or command."""

    code = "INVALID_SPEC"


class StartFailed(ProviderFailure):
    """The instance could not be started."""

    code = "START_FAILED"


class InstanceExited(ProviderFailure):
    """The instance ended before it was healthy, or while it was used."""

    code = "INSTANCE_EXITED"


class InstanceUnhealthy(ProviderFailure, TimeoutError):
    """The instance runs, and was not healthy in time."""

    code = "INSTANCE_UNHEALTHY"


class InstanceNotFound(ProviderFailure, LookupError):
    """No instance has that name."""

    code = "INSTANCE_NOT_FOUND"


class StopFailed(ProviderFailure):
    """The instance could not be ended, and may still run."""

    code = "STOP_FAILED"


def _classes(base: type[OxenvError]) -> dict[str, type[OxenvError]]:
    found = {base.code: base} if base.code else {}
    for subclass in base.__subclasses__():
        found |= _classes(subclass)
    return found


#: The class of each code.
_CLASSES = _classes(OxenvError)


def _from_native(
    code: str,
    message: str,
    kind: Literal["action", "environment", "timeout", "infrastructure"],
    delivered: Literal["no", "maybe", "yes"],
    retryable: bool,
    retry_after: float | None,
    phase: str | None,
    data: str,
) -> OxenvError:
    """The exception for a failure of the native client."""
    return _CLASSES.get(code, OxenvError)(
        message,
        kind=kind,
        delivered=delivered,
        retryable=retryable,
        retry_after=retry_after,
        phase=phase,
        data=json.loads(data),
    )


def invalid_options(message: str) -> InvalidOptions:
    """What a wrong argument raises before anything is sent."""
    return InvalidOptions(message, kind="action", delivered="no")


def _rebuilt(cls: type[OxenvError], state: dict[str, Any]) -> OxenvError:
    """The exception again, from its pickle."""
    error = cls(state["message"])
    error.__dict__.update(state)
    return error
