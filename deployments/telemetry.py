"""Every metric of Medley: its name, unit and labels, in one table.

Prometheus sees them as Ray exports them: `ray_` before the name, `_total` after a counter's. Dashboards, alert rules,
the scrape configuration and docs/metrics.md are generated from this table; see `medley monitoring`.

Labels are few on purpose: a model's id, its task, a status, a phase. Never a request, a client, a prompt or a path.
"""

from dataclasses import dataclass
from enum import StrEnum

from models.specs import Task


class Kind(StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """
    Attributes:
        name: with its unit, as Prometheus asks: base units (seconds, bytes), plural for counts.
        labels: beside those that Ray adds.
        buckets: upper bounds, for histograms.
        tasks: the tasks whose models have it; None is all.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...]
    buckets: tuple[float, ...] = ()
    tasks: frozenset[Task] | None = None

    @property
    def series(self) -> str:
        """The name that Prometheus knows; a histogram has `_bucket`, `_sum` and `_count` after it."""
        return f"ray_{self.name}" + ("_total" if self.kind is Kind.COUNTER else "")


SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5)
ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256)

# Written by the router.
REQUESTS = Metric(
    "medley_requests",
    Kind.COUNTER,
    "Requests answered, by HTTP status; 499 is a client that left before the end of its answer.",
    ("model", "task", "status"),
)
ERRORS = Metric(
    "medley_request_errors",
    Kind.COUNTER,
    "Requests that ended in an error, by the error's code, those that broke after their first byte included.",
    ("model", "task", "code"),
)
DURATION = Metric(
    "medley_request_duration_seconds",
    Kind.HISTOGRAM,
    "From a request's first byte at the router to the last byte of its answer; successful requests only.",
    ("model", "task"),
    SECONDS,
)
FIRST_TOKEN = Metric(
    "medley_time_to_first_token_seconds",
    Kind.HISTOGRAM,
    "From a streamed request's arrival at the router to the first event of its answer.",
    ("model",),
    SECONDS,
    frozenset({Task.CHAT}),
)
OUTPUT_TOKEN = Metric(
    "medley_time_per_output_token_seconds",
    Kind.HISTOGRAM,
    "Time between tokens after the first, the mean over one streamed answer.",
    ("model",),
    TOKEN_SECONDS,
    frozenset({Task.CHAT}),
)
TOKENS = Metric(
    "medley_tokens",
    Kind.COUNTER,
    "Tokens read (direction: prompt) and written (direction: completion).",
    ("model", "task", "direction"),
    tasks=frozenset({Task.CHAT, Task.EMBEDDINGS, Task.IMAGES}),
)
IMAGES = Metric(
    "medley_images",
    Kind.COUNTER,
    "Pictures made, enlarged or painted in another style.",
    ("model", "task"),
    tasks=frozenset({Task.IMAGES, Task.UPSCALING, Task.STYLES}),
)
IN_FLIGHT = Metric(
    "medley_requests_in_flight", Kind.GAUGE, "Requests that are being answered, waiting ones included.", ("model",)
)
STATE = Metric(
    "medley_model_state",
    Kind.GAUGE,
    "1 for the state that a deployed model is in, 0 for the others: ready, scaled_to_zero, loading, failed, draining.",
    ("model", "state"),
)
REPLICAS = Metric("medley_model_replicas", Kind.GAUGE, "Replicas of a model that take requests.", ("model",))

# Written by replicas.
QUEUE_WAIT = Metric(
    "medley_queue_wait_seconds",
    Kind.HISTOGRAM,
    "From the router's call to the start of work in a replica.",
    ("model", "task"),
    SECONDS,
)
BATCH_SIZE = Metric(
    "medley_batch_size",
    Kind.HISTOGRAM,
    "Inputs that a model worked on at once; for images, pictures that shared a denoising step. "
    "vLLM's own series say it for chat.",
    ("model",),
    ITEMS,
    frozenset({Task.EMBEDDINGS, Task.IMAGES}),
)
BUSY = Metric(
    "medley_busy_device_seconds",
    Kind.COUNTER,
    "Seconds in which a replica had work, times the devices it holds (GPUs, or CPUs where it has none).",
    ("model", "device"),
)
COLD_START = Metric(
    "medley_cold_start_seconds",
    Kind.GAUGE,
    "Seconds that the last start of a replica took, by phase: schedule, import, fetch, load, compile, warm_up. "
    "A phase that a backend does not have is absent.",
    ("model", "variant", "phase"),
)

METRICS = (
    REQUESTS,
    ERRORS,
    DURATION,
    FIRST_TOKEN,
    OUTPUT_TOKEN,
    TOKENS,
    IMAGES,
    IN_FLIGHT,
    STATE,
    REPLICAS,
    QUEUE_WAIT,
    BATCH_SIZE,
    BUSY,
    COLD_START,
)
