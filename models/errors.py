"""Every error that Medley returns to clients.

    ServingError                    500
    ├── InvalidRequest              400  invalid_request_error
    │   ├── UnsupportedParameter    400  unsupported_parameter
    │   ├── ContextLengthExceeded   400  context_length_exceeded
    │   ├── InvalidMedia            400  invalid_media
    │   ├── ContentPolicyViolation  400  content_policy_violation
    │   ├── SuspectedRequest        400  suspected_request
    │   ├── ModelNotFound           404  model_not_found
    │   ├── ClientTooSlow           408  request_timeout          retryable
    │   ├── PayloadTooLarge         413  payload_too_large
    │   ├── UnsupportedMediaType    415  unsupported_media_type
    │   ├── WrongHost               421  wrong_host
    │   └── BeyondPromise           422  beyond_promise
    ├── RateLimited                 429  queue_full               retryable, Retry-After
    │   └── TooBusy                 429  too_busy                 retryable, Retry-After
    │       ├── AtCapacity          429  at_capacity              retryable, Retry-After
    │       └── NoRoom              429  no_room                  retryable, Retry-After
    ├── Unavailable                 503
    │   ├── ModelStarting           503  model_starting           retryable, Retry-After
    │   ├── ModelNotDeployed        503  model_not_deployed
    │   ├── ModelDraining           503  model_draining
    │   ├── ModelFailed             503  model_failed
    │   └── ReplicaLost             503  replica_lost             retryable, Retry-After
    ├── DeadlineExceeded            504  deadline_exceeded        retryable
    └── EngineFailed                500  engine_failed
        └── OutOfMemory             507  out_of_memory

`message` tells the client what is wrong and what to do. It never contains the text of another exception.
Arguments are positional all the way up, because an exception that needs keywords does not survive unpickling on the
other side of an actor call.
"""


class ServingError(Exception):
    """An error with a place in OpenAI's error form.

    Args:
        message: one or two sentences for the client.
        param: path of the offending field in the request, such as ``messages[0].role``.
        retry_after: seconds after which a retry makes sense.

    Attributes:
        by_choice: a limit that the client chose ended the request: its own deadline, or how long it waits. Metrics do
            not count that as the server's error.
    """

    status = 500
    type = "server_error"
    code = "internal_error"
    retryable = False
    by_choice = False

    def __init__(self, message: str, param: str | None = None, retry_after: float | None = None):
        super().__init__(message, param, retry_after)
        self.message = message
        self.param = param
        self.retry_after = retry_after


class InvalidRequest(ServingError):
    status = 400
    type = "invalid_request_error"
    code = "invalid_value"


class UnsupportedParameter(InvalidRequest):
    code = "unsupported_parameter"


class ContextLengthExceeded(InvalidRequest):
    code = "context_length_exceeded"


class InvalidMedia(InvalidRequest):
    code = "invalid_media"


class ContentPolicyViolation(InvalidRequest):
    code = "content_policy_violation"


class SuspectedRequest(InvalidRequest):
    """It was seen to stop replicas."""

    code = "suspected_request"


class ModelNotFound(InvalidRequest):
    status = 404
    code = "model_not_found"


class ClientTooSlow(InvalidRequest):
    """Its body came too slowly, or it did not read its answer."""

    status = 408
    code = "request_timeout"
    retryable = True


class PayloadTooLarge(InvalidRequest):
    status = 413
    code = "payload_too_large"


class UnsupportedMediaType(InvalidRequest):
    status = 415
    code = "unsupported_media_type"


class WrongHost(InvalidRequest):
    """Asked for under a name that this server does not have."""

    status = 421
    code = "wrong_host"


class RateLimited(ServingError):
    status = 429
    type = "rate_limit_error"
    code = "queue_full"
    retryable = True


class TooBusy(RateLimited):
    """The answer would certainly come too late.

    Attributes:
        work_s: replica-seconds that it would have taken. rate: that the replica does in a second.
        room_s: seconds until there is room.
        alone: the share of its promise that it takes if nobody else is there.
    """

    code = "too_busy"
    work_s = 0.0
    rate = 1.0
    room_s = 1.0
    alone = 0.0


class AtCapacity(TooBusy):
    """The same, and the most replicas that may run are all busy."""

    code = "at_capacity"


class NoRoom(TooBusy):
    """The same, and for another replica the cluster has no room."""

    code = "no_room"


class BeyondPromise(InvalidRequest):
    """The promise cannot be kept for such a request on this machine, even if it is alone."""

    status = 422
    code = "beyond_promise"


class Unavailable(ServingError):
    status = 503
    type = "service_unavailable_error"
    code = "unavailable"


class ModelStarting(Unavailable):
    code = "model_starting"
    retryable = True


class ModelNotDeployed(Unavailable):
    code = "model_not_deployed"


class ModelDraining(Unavailable):
    code = "model_draining"


class ModelFailed(Unavailable):
    code = "model_failed"


class ReplicaLost(Unavailable):
    code = "replica_lost"
    retryable = True


class DeadlineExceeded(ServingError):
    status = 504
    type = "timeout_error"
    code = "deadline_exceeded"
    retryable = True


class EngineFailed(ServingError):
    code = "engine_failed"


class OutOfMemory(EngineFailed):
    status = 507
    code = "out_of_memory"
