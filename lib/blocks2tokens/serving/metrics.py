"""Metrics: what the server has done, in the text format that Prometheus reads.

    # TYPE b2t_requests_total counter
    b2t_requests_total{path="/v1/completions",status="200"} 12
    # TYPE b2t_request_duration_seconds histogram
    b2t_request_duration_seconds_bucket{le="0.3"} 3           answers that took 0.3 seconds or less
    b2t_request_duration_seconds_bucket{le="+Inf"} 12         all of them

All is counted in the event loop, so there are no locks. Source: Prometheus, "Exposition formats".
"""

from collections import Counter
from collections.abc import Mapping

BOUNDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)  # seconds


class Histogram:
    """How many of some times were at most so long."""

    def __init__(self):
        self.counts, self.n, self.sum = [0] * len(BOUNDS), 0, 0.0

    def add(self, seconds: float) -> None:
        """Count one time."""
        self.n, self.sum = self.n + 1, self.sum + seconds
        for i, bound in enumerate(BOUNDS):
            self.counts[i] += seconds <= bound

    @property
    def mean(self) -> float:
        """Return the mean in seconds, 0 before there is any."""
        return self.sum / max(1, self.n)

    def lines(self, name: str) -> list[str]:
        """Return the lines of this histogram under a name."""
        buckets = [*zip(BOUNDS, self.counts, strict=True), ("+Inf", self.n)]
        lines = [f'{name}_bucket{{le="{bound}"}} {count}' for bound, count in buckets]
        return [*lines, f"{name}_sum {self.sum:.6f}", f"{name}_count {self.n}"]


class Metrics:
    """What has been counted since the server began."""

    def __init__(self):
        self.requests: Counter[tuple[str, int]] = Counter()  # by path and status
        self.prompt_tokens = self.completion_tokens = self.cancelled = 0
        self.to_first, self.duration = Histogram(), Histogram()

    def text(self, gauges: Mapping[str, int]) -> str:
        """Return all as text; `gauges` is what is so just now, {name: value}."""
        by_kind = [
            f'b2t_requests_total{{path="{path}",status="{status}"}} {n}'
            for (path, status), n in sorted(self.requests.items())
        ]
        lines = ["# TYPE b2t_requests_total counter", *by_kind]
        for name in ("prompt_tokens", "completion_tokens", "cancelled"):
            full = f"b2t_{name}_total"
            lines += [f"# TYPE {full} counter", f"{full} {getattr(self, name)}"]
        for name, value in gauges.items():
            lines += [f"# TYPE b2t_{name} gauge", f"b2t_{name} {value}"]
        for name, histogram in (("time_to_first_token", self.to_first), ("request_duration", self.duration)):
            full = f"b2t_{name}_seconds"
            lines += [f"# TYPE {full} histogram", *histogram.lines(full)]
        return "\n".join(lines) + "\n"
