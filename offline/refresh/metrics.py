"""What a refresh tells Prometheus while it runs, each kind of run in a registry of its own."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from model_store.errors import TesseraError

_LOOPBACK = "127.0.0.1"


def serve_metrics(registry: CollectorRegistry, port: int) -> None:
    """Answer on this port of the machine itself, for as long as the process lives.

    Raises:
        TesseraError: the port is taken.
    """
    try:
        start_http_server(port, _LOOPBACK, registry)
    except OSError as error:
        raise TesseraError(f"--metrics-port {port}: {error.strerror}") from None


class WatchMetrics:
    """Of `tessera refresh --watch`."""

    def __init__(self, target: float) -> None:
        self.registry = registry = CollectorRegistry()
        self.fresh_share = Gauge(
            "tessera_refresh_fresh_share",
            "Of the answers of the last five minutes to users with a history, the share from a fresh entry; NaN "
            "without any.",
            registry=registry,
        )
        self.fresh_share.set(float("nan"))
        target_share = Gauge("tessera_refresh_target_share", "The share that is aimed at.", registry=registry)
        target_share.set(target)
        self.users = Counter(
            "tessera_refresh_users",
            "Entries written, by what made the user worth a refresh: no_entry, news, short (of items that can still "
            "be shown), age, demand (answers without a fresh entry).",
            ("reason",),
            registry=registry,
        )
        self.waiting = Gauge(
            "tessera_refresh_waiting_users", "Users known to be worth a refresh, after the round.", registry=registry
        )
        self.round_seconds = Histogram(
            "tessera_refresh_round_seconds",
            "Time of one round, the pause after it left out.",
            registry=registry,
            buckets=(0.01, 0.1, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300),
        )
        self.oldest_dirty_seconds = Gauge(
            "tessera_refresh_oldest_dirty_seconds",
            "How long the user who waits longest has had news; 0 when nobody has.",
            registry=registry,
        )
        self.errors = Counter(
            "tessera_refresh_errors",
            "Failures: redis (a round was given up), version (the active one cannot be opened).",
            ("kind",),
            registry=registry,
        )


class FullRefreshMetrics:
    """Of a refresh of all users, or of those of a file."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._listed = Gauge("tessera_refresh_users_listed", "Users to refresh.", registry=registry)
        self._done = Gauge("tessera_refresh_users_done", "Users done, those without an entry too.", registry=registry)
        self._rate = Gauge("tessera_refresh_users_per_second", "Users done by this process.", registry=registry)
        self._coverage = Gauge(
            "tessera_refresh_coverage", "Share of the users done who have an entry now.", registry=registry
        )

    def observe(self, listed: int, written: int, skipped: int, users_per_second: float) -> None:
        """Tell how far it is."""
        self._listed.set(listed)
        self._done.set(written + skipped)
        self._rate.set(users_per_second)
        self._coverage.set(written / (written + skipped) if written + skipped else 0)
