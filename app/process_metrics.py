"""What Prometheus is told of the processes that answer."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_LAG_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)


class ProcessGauges:
    """The metrics; with several workers sums over those that live, where the help says nothing else."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def of_all(name: str, help_text: str, labels: tuple[str, ...] = ()) -> Gauge:
            return Gauge(name, help_text, labels, registry=registry, multiprocess_mode="livesum")

        self.workers = of_all("tessera_workers", "Processes that answer.")
        self.memory = of_all(
            "tessera_process_resident_bytes", "Resident memory; pages that workers share count for each of them."
        )
        self.files = of_all("tessera_process_open_fds", "Open file descriptors.")
        self.cpu_seconds = Counter("tessera_process_cpu_seconds", "Processor time.", registry=registry)
        self.started = Gauge(
            "tessera_process_start_time_seconds",
            "When the newest worker was started, Unix seconds.",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.lag_seconds = Histogram(
            "tessera_event_loop_lag_seconds",
            "How much later than wanted the event loop woke, seen twice a second.",
            registry=registry,
            buckets=_LAG_BUCKETS_S,
        )
        self.cache_max_age_seconds = Gauge(
            "tessera_cache_max_age_seconds",
            "Age from which an entry is stale: TESSERA_CACHE_MAX_AGE_S.",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.redis_connections = of_all("tessera_redis_connections", "Connections to Redis: used, idle.", ("state",))
        self.breaker_open = of_all(
            "tessera_breaker_open", "Workers that leave a failing part alone for now: redis, decoder.", ("part",)
        )
        self.served = of_all(
            "tessera_served_model_info", "Workers that serve a version; 0 after a switch.", ("model_version",)
        )
