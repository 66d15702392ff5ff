"""What /metrics shows, in a registry of its own."""

from __future__ import annotations

import time
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from llmtools.engine.engine import Engine

# Seconds; a request takes from one short step to minutes of decoding.
REQUEST_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320)
TOKEN_BUCKETS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10)
# The paths that have a label of their own, so that a client cannot make up labels.
PATHS = ("/v1/models", "/v1/completions", "/v1/chat/completions", "/health", "/metrics")
CLIENT_LEFT = 499


class Metrics:
    """Counters, gauges and histograms of one server; safe in any thread."""

    def __init__(self, engine: Engine) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "llm_requests",
            "HTTP requests by path and status.",
            ("path", "status"),
            registry=registry,
        )
        self.latency = Histogram(
            "llm_request_latency_seconds",
            "From an HTTP request's arrival to the end of its response.",
            ("path",),
            buckets=REQUEST_BUCKETS,
            registry=registry,
        )
        self.first_token = Histogram(
            "llm_time_to_first_token_seconds",
            "From queueing a prompt to its first token.",
            buckets=REQUEST_BUCKETS,
            registry=registry,
        )
        self.token_gap = Histogram(
            "llm_inter_token_latency_seconds",
            "Between two tokens of a request.",
            buckets=TOKEN_BUCKETS,
            registry=registry,
        )
        self.tokens_generated = Counter(
            "llm_tokens_generated", "Tokens sampled.", registry=registry
        )
        self.prompt_tokens = Counter(
            "llm_prompt_tokens", "Tokens of finished prompts.", registry=registry
        )
        self.forward_calls = Counter(
            "llm_forward_calls", "Forward calls of the model.", registry=registry
        )
        self.positions = Counter(
            "llm_positions", "Positions run through the model.", registry=registry
        )
        queue = Gauge(
            "llm_queue_size", "Requests that wait for a place in the batch.", registry=registry
        )
        queue.set_function(lambda: engine.num_waiting)
        running = Gauge("llm_requests_running", "Requests in the batch.", registry=registry)
        running.set_function(lambda: engine.num_running)
        reserved = Gauge(
            "llm_cache_positions", "Cache positions held by requests.", registry=registry
        )
        reserved.set_function(lambda: engine.num_reserved)
        memory = Gauge("llm_gpu_memory_bytes", "GPU memory held by tensors.", registry=registry)
        memory.set_function(_gpu_memory_bytes)

    def text(self) -> bytes:
        """All metrics in Prometheus's text format."""
        return generate_latest(self.registry)


def _gpu_memory_bytes() -> int:
    import torch

    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0


class MetricsMiddleware:
    """Counts and times the HTTP requests of an ASGI application."""

    def __init__(self, app: Any, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in PATHS else "other"
        start_s = time.perf_counter()
        status = CLIENT_LEFT

        async def watched(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            self._metrics.requests.labels(path, str(status)).inc()
            self._metrics.latency.labels(path).observe(time.perf_counter() - start_s)
