"""What the decoder process counts and times."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from app.telemetry import latency_buckets


class DecoderMetrics:
    """One decoder application's metrics, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "tessera_decoder_requests",
            "Decode requests, by the status they were answered with.",
            ("status",),
            registry=registry,
        )
        self.queue_depth = Gauge("tessera_decoder_queue_depth", "Decodes that wait.", registry=registry)
        self.batch_size = Histogram(
            "tessera_decoder_batch_size",
            "Decodes that ran together.",
            registry=registry,
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
        )
        self.beams = Counter("tessera_decoder_beams", "Beams asked for, or candidates to rank.", registry=registry)
        self.stage_seconds = Histogram(
            "tessera_decoder_stage_seconds",
            "Time in one stage of a decode: wait (in the queue), decode (in the engine).",
            ("stage",),
            registry=registry,
            buckets=latency_buckets(),
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
            "Failures: load (a version cannot be loaded), decode (the engine raised), engine_died.",
            ("kind",),
            registry=registry,
        )
        self.loaded = Gauge("tessera_decoder_loaded_versions", "Versions in memory.", registry=registry)
        self.legal_mass = Gauge(
            "tessera_decoder_legal_mass",
            "Probability the model puts on legal codes at a level, as measured by the self-check.",
            ("version", "level"),
            registry=registry,
        )

    def exposition(self) -> bytes:
        """The Prometheus text."""
        return generate_latest(self._registry)
