"""Keys of any Redis as records that any other Redis can take: plain commands, no dumps of one version's memory.

A key of many elements is several records, one behind the other.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from model_store.errors import TesseraError

Kind = Literal["string", "hash", "list", "set", "zset", "stream"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Element = tuple[bytes, ...]

ELEMENTS_OF_RECORD = 1000
_SIZES = {"hash": "hlen", "list": "llen", "set": "scard", "zset": "zcard", "stream": "xlen"}


@dataclass(frozen=True)
class Record:
    """A key, or a part of one.

    Attributes:
        key: its name without the namespace.
        kind: of its value.
        ttl_ms: what is left of its lifetime; None for one without an end.
        elements: in order. One bytes of a string, list or set; field and value of a hash; member and score of a sorted
            set, the score as text; id, field, value, field, value ... of a stream.
        continued: whether an earlier record has the beginning.
    """

    key: bytes
    kind: Kind
    ttl_ms: int | None
    elements: tuple[Element, ...]
    continued: bool = False


def read_records(redis: Any, prefix: bytes, names: Sequence[bytes]) -> Iterator[Record]:
    """The values of some keys. One that is gone is left out; one that changes meanwhile is as it was at some moment,
    unless it has more than `ELEMENTS_OF_RECORD` elements: then what changes may be old or new.

    Raises:
        TesseraError: a key is of a kind that only a module of Redis knows.
        RedisError: Redis fails.
    """
    pipeline = redis.pipeline(transaction=False)
    for name in names:
        pipeline.type(name)
        pipeline.pttl(name)
    answers = pipeline.execute()
    found = [
        (name, kind.decode(), None if ttl < 0 else max(ttl, 1))
        for name, kind, ttl in zip(names, answers[::2], answers[1::2], strict=True)
        if kind != b"none"
    ]
    for _, kind, _ in found:
        if kind not in KINDS:
            raise TesseraError(f"a key of the namespace is of the type {kind}, which is none of {', '.join(KINDS)}")
    pipeline = redis.pipeline(transaction=False)
    for name, kind, _ in found:
        getattr(pipeline, _SIZES[kind])(name) if kind in _SIZES else pipeline.exists(name)
    sizes = pipeline.execute()
    pipeline = redis.pipeline(transaction=False)
    small = [(one, size) for one, size in zip(found, sizes, strict=True) if size <= ELEMENTS_OF_RECORD]
    for (name, kind, _), _ in small:
        _ask_whole(pipeline, kind, name)
    for ((name, kind, ttl), _), value in zip(small, pipeline.execute(), strict=True):
        if elements := _elements(kind, value):
            yield Record(name.removeprefix(prefix), cast(Kind, kind), ttl, tuple(elements))
    for (name, kind, ttl), size in zip(found, sizes, strict=True):
        if size > ELEMENTS_OF_RECORD:
            for number, elements in enumerate(_parts(redis, kind, name)):
                yield Record(name.removeprefix(prefix), cast(Kind, kind), ttl, tuple(elements), continued=number > 0)


def write_record(pipeline: Any, prefix: bytes, record: Record) -> None:
    """Add the commands that make a key what a record says; a record that is not `continued` replaces what is there."""
    name, elements = prefix + record.key, record.elements
    if not record.continued:
        pipeline.unlink(name)
    match record.kind:
        case "string":
            pipeline.set(name, elements[0][0])
        case "hash":
            pipeline.hset(name, items=[part for element in elements for part in element])
        case "list":
            pipeline.rpush(name, *[element[0] for element in elements])
        case "set":
            pipeline.sadd(name, *[element[0] for element in elements])
        case "zset":
            pipeline.zadd(name, {member: float(score) for member, score in elements})
        case "stream":
            for entry, *fields in elements:
                pipeline.execute_command("XADD", name, entry, *fields)
    if record.ttl_ms is not None:
        pipeline.pexpire(name, record.ttl_ms)


def _ask_whole(pipeline: Any, kind: str, name: bytes) -> None:
    commands: dict[str, Callable[[], object]] = {
        "string": lambda: pipeline.get(name),
        "hash": lambda: pipeline.hgetall(name),
        "list": lambda: pipeline.lrange(name, 0, -1),
        "set": lambda: pipeline.smembers(name),
        "zset": lambda: pipeline.zrange(name, 0, -1, withscores=True),
        "stream": lambda: pipeline.xrange(name),
    }
    commands[kind]()


def _elements(kind: str, value: Any) -> list[Element]:
    """What Redis answers, as elements."""
    if value is None:
        return []
    match kind:
        case "string":
            return [(value,)]
        case "hash":
            return list(value.items())
        case "zset":
            return [(member, repr(float(score)).encode()) for member, score in value]
        case "stream":
            return [(entry, *(part for field in fields.items() for part in field)) for entry, fields in value]
    return [(element,) for element in value]


def _parts(redis: Any, kind: str, name: bytes) -> Iterator[list[Element]]:
    """The elements of a key of many, some at a time."""
    match kind:
        case "hash":
            yield from _groups((field, value) for field, value in redis.hscan_iter(name, count=ELEMENTS_OF_RECORD))
        case "set":
            yield from _groups((member,) for member in redis.sscan_iter(name, count=ELEMENTS_OF_RECORD))
        case "zset":
            found = redis.zscan_iter(name, count=ELEMENTS_OF_RECORD)
            yield from _groups((member, repr(float(score)).encode()) for member, score in found)
        case "list":
            start = 0
            while values := redis.lrange(name, start, start + ELEMENTS_OF_RECORD - 1):
                yield [(value,) for value in values]
                start += ELEMENTS_OF_RECORD
        case "stream":
            first = b"-"
            while entries := redis.xrange(name, first, count=ELEMENTS_OF_RECORD):
                yield _elements("stream", entries)
                # Exclusive, for which Redis before 6.2 has no sign.
                milliseconds, _, number = entries[-1][0].partition(b"-")
                first = b"%s-%d" % (milliseconds, int(number) + 1)


def _groups(elements: Iterator[Element]) -> Iterator[list[Element]]:
    group: list[Element] = []
    for element in elements:
        group.append(element)
        if len(group) == ELEMENTS_OF_RECORD:
            yield group
            group = []
    if group:
        yield group
