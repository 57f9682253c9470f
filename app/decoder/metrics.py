"""What the decoder process counts and times.

Several replicas behind one address keep their numbers in PROMETHEUS_MULTIPROC_DIR, and whichever is asked adds them up;
see `app.telemetry`, where the API's workers do the same.
"""

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from app.telemetry import MULTIPROCESS_VARIABLE, latency_buckets
from model_store.decoders.decode_stats import DecodeStats


class DecoderMetrics:
    """One decoder application's metrics, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._replicas_folder = os.environ.get(MULTIPROCESS_VARIABLE)
        self.requests = Counter(
            "tessera_decoder_requests",
            "Decode requests, by the status they were answered with.",
            ("status",),
            registry=registry,
        )
        self.queue_depth = Gauge(
            "tessera_decoder_queue_depth", "Decodes that wait.", registry=registry, multiprocess_mode="livesum"
        )
        self.batch_size = Histogram(
            "tessera_decoder_batch_size",
            "Decodes that ran together.",
            registry=registry,
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
        )
        self.beams = Counter("tessera_decoder_beams", "Beams asked for, or candidates to rank.", registry=registry)
        self.stage_seconds = Histogram(
            "tessera_decoder_stage_seconds",
            "Time in one stage: wait (in the queue), decode (a batch in the engine), and of that render (prompts to "
            "tokens), prompt (the pass over them), beams (those over beams), candidates (the pass over given "
            "candidates), select (scoring children and choosing among them). Apart from these: rank (a request to a "
            "ranker, waiting included).",
            ("stage",),
            registry=registry,
            buckets=latency_buckets(),
        )
        self.steps = Counter(
            "tessera_decoder_steps",
            "Forward passes of the model, by stage.",
            ("stage",),
            registry=registry,
        )
        self.masked_share = Histogram(
            "tessera_decoder_masked_share",
            "Of the children of a beam search's beams, the share that filters and seen items closed.",
            registry=registry,
            buckets=(0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1),
        )
        self.load_seconds = Histogram(
            "tessera_decoder_load_seconds",
            "Time to load a version, warm-up and self-check included.",
            registry=registry,
            buckets=(0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600),
        )
        self.dropped = Counter(
            "tessera_decoder_dropped",
            "Decodes given up: deadline (too late), client_gone (nobody waits any more).",
            ("reason",),
            registry=registry,
        )
        self.errors = Counter(
            "tessera_decoder_errors",
            "Failures: load (a version cannot be loaded), decode (the engine raised), engine_died (its process ended), "
            "encode and rank (the text encoder or a ranker raised).",
            ("kind",),
            registry=registry,
        )
        self.engine_restarts = Counter(
            "tessera_decoder_engine_restarts",
            "Attempts to start an engine again that had died: ok, failed.",
            ("outcome",),
            registry=registry,
        )
        self.loaded = Gauge(
            "tessera_decoder_loaded_versions", "Versions in memory.", registry=registry, multiprocess_mode="livesum"
        )
        self.ready = Gauge(
            "tessera_decoder_ready",
            "1 when a version is loaded and its engine runs; of several replicas, how many are.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.replica_restarts = Counter(
            "tessera_decoder_replica_restarts", "Replicas started in the place of one that had died.", registry=registry
        )
        self.replica_requests = Counter(
            "tessera_decoder_replica_requests",
            "HTTP requests that each of several replicas was sent, health checks included.",
            ("replica",),
            registry=registry,
        )
        self.legal_mass = Gauge(
            "tessera_decoder_legal_mass",
            "Probability the model puts on legal codes at a level, as measured by the self-check.",
            ("version", "level"),
            registry=registry,
            multiprocess_mode="livemostrecent",
        )

    def observe_decode(self, stats: DecodeStats) -> None:
        """Count what a decoder says of a batch."""
        for stage, seconds in stats.seconds.items():
            self.stage_seconds.labels(stage).observe(seconds)
        for stage, steps in stats.steps.items():
            self.steps.labels(stage).inc(steps)
        for share in stats.masked_shares:
            self.masked_share.observe(share)

    def exposition(self) -> bytes:
        """The Prometheus text, of all replicas where there are several."""
        folder = self._replicas_folder
        return generate_latest(self._registry) if folder is None else exposition_of_replicas(folder)


def exposition_of_replicas(folder: str) -> bytes:
    """The Prometheus text of all replicas that keep their numbers there."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, folder)  # type: ignore[no-untyped-call]
    return generate_latest(registry)
