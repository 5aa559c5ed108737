"""What went wrong between here and the Hub, said so that one knows what to do; tokens are never part of it."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from huggingface_hub.errors import GatedRepoError, HFValidationError, OfflineModeIsEnabled, RepositoryNotFoundError

from hf_latent.hub.safety.tokens import redact

T = TypeVar("T")
MAX_LENGTH = 300

_LOGIN = "run `hf auth login`, or set HF_TOKEN to a token with the right to {right}, and do it again"
_AGAIN = "wait, and do it again: files that have arrived are not sent again"


class HubError(OSError):
    """
    A push or pull that the Hub did not take, or that did not get through.

    Args:
        message: what happened, the state of the repository, what to do.
        status: the HTTP status, None where there was no answer.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


def attempt(action: Callable[[], T], describe: Callable[[Exception], Exception]) -> T:
    """
    `action()`, or the exception that `describe` makes of what it raises.

    It is raised on its own, without the original as its context: requests carry tokens, and tracebacks are shared.
    """
    try:
        return action()
    except Exception as error:
        failure = describe(error)
    raise failure


def explain(error: Exception, what: str, *, right: str = "read", known: list[str] | None = None) -> Exception:
    """
    `error` of huggingface_hub as a `HubError`, or as a `ValueError` where an argument was wrong.

    Args:
        what: what was tried and what state that has left, a sentence.
        right: that a token needs for it.
        known: tokens that are in use.
    """
    causes = list(_causes(error))
    if isinstance(error, HubError):
        return error
    if isinstance(error, HFValidationError | ValueError):
        return ValueError(redact(str(error), known))
    if any(isinstance(cause, OfflineModeIsEnabled) for cause in causes):
        return HubError(f"{what} HF_HUB_OFFLINE is set, so nothing was asked of the Hub: unset it.")
    status = next((code for cause in causes if (code := _status(cause)) is not None), None)
    said = redact(" ".join(str(causes[-1] if status is None else error).split())[:MAX_LENGTH], known)
    return HubError(f"{what} {_remedy(status, causes, right)} (The Hub: {said})", status)


def _remedy(status: int | None, causes: list[BaseException], right: str) -> str:
    if any(isinstance(cause, GatedRepoError) for cause in causes):
        return "The repository is gated: ask for access on its page on the Hub, then do it again."
    if status == 401 or any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
        return (
            "The repository does not exist, or the token is missing, wrong, expired or revoked: check the name, or "
            f"{_LOGIN.format(right=right)}."
        )
    if status == 403:
        return f"The token may not {right} here: check the name, or {_LOGIN.format(right=right)}."
    if status == 404:
        return "There is no such revision or file: check `revision`."
    if status in (409, 412):
        return "Somebody else has changed the branch meanwhile: look at what is there, and push again."
    if status == 429:
        return f"Too many requests: {_AGAIN}."
    if status is not None and status >= 500:
        return f"The Hub has a problem of its own: {_AGAIN}."
    if status is not None:
        return f"The Hub does not take it (status {status})."
    return f"The connection was lost: {_AGAIN}."


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, what caused it, and so on."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _status(error: BaseException) -> int | None:
    response: Any = getattr(error, "response", None)
    return getattr(response, "status_code", None)


__all__ = ["HubError", "attempt", "explain"]
