"""Every error of the product, in one tree; the class knows its HTTP status and its OpenAI `type` and `code`.

PalateError
├── ConfigurationError            start-up: the configuration or the installation cannot work
├── ModelUnavailable              start-up: the model cannot be fetched, verified or accepted
├── InvalidRequest         400
│   ├── ContextLengthExceeded 400
│   └── RequestTooLarge    413
├── AuthenticationFailed   401
├── PermissionDenied       403
├── NotFound               404
│   └── ModelNotFound      404
├── MethodNotAllowed       405
├── Conflict               409
├── Gone                   410
├── Overloaded             429    with Retry-After
├── RateLimited            429    with Retry-After
│   └── QuotaExceeded      429    with Retry-After
├── StorageUnavailable     503    with Retry-After
├── PersonalizationUnavailable 503
├── EngineUnavailable      503    with Retry-After
│   └── GenerationFailed   500    a generation that had begun broke off
└── DeadlineExceeded       504
"""

from __future__ import annotations

from typing import Any


class PalateError(Exception):
    """An error with a message for a person and a shape for OpenAI clients."""

    status = 500
    type = "server_error"
    code: str | None = None
    retry_after_s: int | None = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or type(self).code

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.param, self.code)

    def body(self) -> dict[str, Any]:
        """Render OpenAI's error object."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


def _rebuild(cls: type[PalateError], message: str, param: str | None, code: str | None) -> PalateError:
    return cls(message, param=param, code=code)


class ConfigurationError(PalateError):
    """The configuration or the installation cannot work as it is."""

    code = "configuration_error"


class ModelUnavailable(PalateError):
    """The model cannot be fetched, verified or accepted."""

    code = "model_unavailable"


class InvalidRequest(PalateError):
    """The request is malformed or asks for something out of bounds."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_value"


class ContextLengthExceeded(InvalidRequest):
    """The prompt does not fit into the model's context."""

    code = "context_length_exceeded"

    @classmethod
    def of(cls, num_prompt_tokens: int, max_model_len: int, param: str) -> ContextLengthExceeded:
        """Name both numbers, as OpenAI does."""
        return cls(
            f"This model's maximum context length is {max_model_len} tokens, "
            f"but the prompt has {num_prompt_tokens} tokens. Shorten it and leave room for the answer.",
            param=param,
        )


class RequestTooLarge(InvalidRequest):
    """The body is larger than the server accepts."""

    status = 413
    code = "request_too_large"


class AuthenticationFailed(PalateError):
    """The API key is missing or wrong."""

    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


class PermissionDenied(PalateError):
    """The API key is valid, but not for this."""

    status = 403
    type = "invalid_request_error"
    code = "insufficient_scope"


class NotFound(PalateError):
    """There is nothing at this address."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class ModelNotFound(NotFound):
    """The named model is not served here."""

    code = "model_not_found"


class MethodNotAllowed(PalateError):
    """The address exists, with another method."""

    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"


class Conflict(PalateError):
    """Somebody else changed the same thing at the same time, or an id is taken."""

    status = 409
    type = "invalid_request_error"
    code = "conflict"


class Gone(PalateError):
    """It was here, and its time is over."""

    status = 410
    type = "invalid_request_error"
    code = "completion_expired"


class Overloaded(PalateError):
    """The queue is full; the caller should come back."""

    status = 429
    type = "rate_limit_error"
    code = "queue_full"
    retry_after_s: int | None = 1


class RateLimited(PalateError):
    """The key or the person is over a limit for the moment; `retry_after_s` is set where it is raised."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class QuotaExceeded(RateLimited):
    """The day's tokens of the key or the person are used up."""

    code = "insufficient_quota"


class StorageUnavailable(PalateError):
    """The store of people and feedback does not answer; nothing was acknowledged."""

    status = 503
    code = "store_unavailable"
    retry_after_s: int | None = 2


class PersonalizationUnavailable(PalateError):
    """Nothing was learned yet that fits the served model, so feedback on it means nothing."""

    status = 503
    code = "personalization_unavailable"


class EngineUnavailable(PalateError):
    """No engine can answer at present."""

    status = 503
    code = "engine_unavailable"
    retry_after_s: int | None = 5


class DeadlineExceeded(PalateError):
    """The request took longer than the server allows."""

    status = 504
    code = "deadline_exceeded"


class GenerationFailed(EngineUnavailable):
    """A generation that had begun broke off."""

    status = 500
    code = "generation_failed"
    retry_after_s = None


def restore(kind: str, message: str, param: str | None, code: str | None) -> PalateError:
    """Make an error again from its class name, as it crosses processes; an unknown name becomes PalateError."""
    classes = {PalateError.__name__: PalateError}
    pending = [PalateError]
    while pending:
        for cls in pending.pop().__subclasses__():
            classes[cls.__name__] = cls
            pending.append(cls)
    return classes.get(kind, PalateError)(message, param=param, code=code)
