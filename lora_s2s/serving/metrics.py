"""What ``/metrics`` reports, in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """The counters of one server; labels take values of this package only, never a client's."""

    def __init__(self) -> None:
        home = self._registry = CollectorRegistry()
        labels = ["path", "status"]
        self._requests = Counter("lora_s2s_requests", "Requests", labels, registry=home)
        self._seconds = Histogram(
            "lora_s2s_request_seconds", "Time of a request", labels[:1], registry=home
        )
        self._tokens = Counter("lora_s2s_tokens", "Tokens", ["model", "kind"], registry=home)
        self._rows = Histogram("lora_s2s_batch_rows", "Batches", buckets=_ROWS, registry=home)
        self._batch_seconds = Histogram("lora_s2s_batch_seconds", "Time of a batch", registry=home)
        self._waiting = Gauge("lora_s2s_waiting", "Rows in the queue", registry=home)

    def follow(self, waiting: Callable[[], float]) -> None:
        """Reports the length of the queue whenever it is asked for."""
        self._waiting.set_function(waiting)

    def request(self, path: str, status: int, seconds: float) -> None:
        """Counts a request."""
        self._requests.labels(path, status).inc()
        self._seconds.labels(path).observe(seconds)

    def batch(self, rows: int, seconds: float) -> None:
        """Counts a batch."""
        self._rows.observe(rows)
        self._batch_seconds.observe(seconds)

    def tokens(self, model: str, read: int, produced: int) -> None:
        """Counts the tokens of an answer."""
        self._tokens.labels(model, "prompt").inc(read)
        self._tokens.labels(model, "completion").inc(produced)

    def text(self) -> bytes:
        """Returns all of them."""
        return generate_latest(self._registry)
