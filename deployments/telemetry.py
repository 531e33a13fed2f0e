"""All metrics of Medley in one table: names, units and labels.

Ray exports them with the prefix `ray_`, and counters with the suffix `_total`. Dashboards, alert rules, the scrape
configuration and docs/metrics.md are generated from this table; see `medley monitoring`.

Labels are few on purpose: a model's id, its task, a status, a phase. Never a request, a client, a prompt or a path.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from models.tasks import TASKS, usage
from models.tasks.task import Begins, Task
from models.tasks.usage import AUDIO_SECONDS, Counter


class Kind(StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """
    Attributes:
        name: includes the unit, by Prometheus' conventions: base units (seconds, bytes), plural for counts.
        labels: in addition to those that Ray adds.
        buckets: upper bounds, for histograms.
        tasks: the names of the tasks whose models have it; None stands for all.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...]
    buckets: tuple[float, ...] = ()
    tasks: frozenset[str] | None = None

    @property
    def series(self) -> str:
        """The name in Prometheus. A histogram's series add `_bucket`, `_sum` and `_count`."""
        return f"ray_{self.name}" + ("_total" if self.kind is Kind.COUNTER else "")


def that(has: Callable[[Task[Any]], bool]) -> frozenset[str]:
    """The names of the tasks for which something is true."""
    return frozenset(task.name for task in TASKS if has(task))


SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
FACTORS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 5, 10)
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
    "Requests that ended in an error, by the error's code, those that broke after their first byte included. `client_` "
    "before a code: a limit that the client chose ended it, so it breaks no promise.",
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
    that(lambda task: task.begins is Begins.TOKENS),
)
OUTPUT_TOKEN = Metric(
    "medley_time_per_output_token_seconds",
    Kind.HISTOGRAM,
    "Time between tokens after the first, the mean over one streamed answer.",
    ("model",),
    TOKEN_SECONDS,
    that(lambda task: task.begins is Begins.TOKENS),
)
FIRST_AUDIO = Metric(
    "medley_time_to_first_audio_seconds",
    Kind.HISTOGRAM,
    "From a streamed request's arrival at the router to the first piece of sound of its answer.",
    ("model",),
    SECONDS,
    that(lambda task: task.begins is Begins.AUDIO),
)
REAL_TIME_FACTOR = Metric(
    "medley_real_time_factor",
    Kind.HISTOGRAM,
    "How long a request took, divided by how long its sound lasts.",
    ("model",),
    FACTORS,
    that(lambda task: AUDIO_SECONDS in task.counts),
)


def counter_of(counter: Counter) -> Metric:
    """The metric that sums a counter of the task contracts."""
    tasks = that(lambda task: any(count.counter is counter for count in task.counts))
    labels = ("model", "task", *([counter.label] if counter.label else []))
    return Metric(counter.name, Kind.COUNTER, counter.help, labels, tasks=tasks)


# By counter of the task contracts.
COUNTERS = {count.counter: counter_of(count.counter) for task in TASKS for count in task.counts}
TOKENS = COUNTERS[usage.TOKENS]
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
WANTED = Metric("medley_wanted_replicas", Kind.GAUGE, "Replicas of a model that autoscaling wants.", ("model",))
UNPLACED = Metric(
    "medley_unplaced_replicas", Kind.GAUGE, "Wanted replicas of a model that no node has room for.", ("model",)
)
DEMAND = Metric(
    "medley_demand_replicas",
    Kind.GAUGE,
    "Work that is asked of a model, whether admitted or refused: how many fully used replicas it would take.",
    ("model",),
)

DISCOVERY_AGE = Metric(
    "medley_discovery_age_seconds",
    Kind.GAUGE,
    "Since a router last learnt from Serve what runs; it asks every second.",
    (),
)

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
    that(lambda task: task.batched),
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

ALL = (
    REQUESTS,
    ERRORS,
    DURATION,
    FIRST_TOKEN,
    OUTPUT_TOKEN,
    FIRST_AUDIO,
    REAL_TIME_FACTOR,
    *COUNTERS.values(),
    IN_FLIGHT,
    STATE,
    REPLICAS,
    WANTED,
    UNPLACED,
    DEMAND,
    DISCOVERY_AGE,
    QUEUE_WAIT,
    BATCH_SIZE,
    BUSY,
    COLD_START,
)

# Without metrics that no task has.
METRICS = tuple(metric for metric in ALL if metric.tasks is None or metric.tasks)
