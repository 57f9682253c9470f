"""Backup and restore, with a real Redis: what comes back, what is refused, what an interruption leaves."""

import gzip
import hashlib
import io
import json
import tarfile

import pytest
from typer.testing import CliRunner

import tessera
from app import embedded_redis
from model_store.bundle import ModelStore
from model_store.cache_entries import CacheEntry
from model_store.cache_keys import Keys
from model_store.errors import TesseraError
from offline.backup.backup import back_up
from offline.backup.restore import restore
from offline.redis_connection import connect
from tests.app.light_bundle import publish_light_bundle
from tests.cached_entries import put_packed

KEYS, OTHER = Keys("shop"), Keys("copy")
ODD = bytes(range(256))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    yield home
    embedded_redis.stop(home)


@pytest.fixture
def redis(home):
    redis = connect(embedded_redis.ensure_running(home))
    redis.flushall()
    return redis


@pytest.fixture
def store(tmp_path):
    return ModelStore(tmp_path / "store")


@pytest.fixture
def filled(redis):
    """Every type, small and of more elements than one record takes; bytes that are no text; with and without an end."""
    redis.set("shop:active", "v1")
    redis.set(b"shop:" + ODD, ODD, px=10_000_000)
    redis.set("shop:empty", b"")
    redis.rpush("shop:hist:ann", "item-1", "item-2", ODD, "item-1")
    redis.expire("shop:hist:ann", 5000)
    redis.rpush("shop:long-list", *range(2500))
    redis.hset("shop:entries:v1:0", mapping={"ann": ODD, b"\xff": b"x", "": ""})
    redis.hset("shop:long-hash", mapping={f"field-{n}": n for n in range(2500)})
    redis.expire("shop:long-hash", 900)
    redis.sadd("shop:set", "a", ODD)
    redis.sadd("shop:long-set", *range(2500))
    redis.zadd("shop:dirty", {"ann": 1700000000.123456, "bob": float("inf"), "cat": -0.1})
    redis.zadd("shop:long-zset", {f"m{n}": n / 3 for n in range(2500)})
    for number in range(1500):
        redis.xadd("shop:items:log", {"row": number, ODD: ODD}, id=f"{5 + number // 700}-{number + 1}")
    return redis


def contents(redis, keys):
    """Everything in a namespace, and roughly when it ends."""
    prefix = f"{keys.namespace}:".encode()
    read = {
        b"string": redis.get,
        b"list": lambda name: redis.lrange(name, 0, -1),
        b"hash": redis.hgetall,
        b"set": redis.smembers,
        b"zset": lambda name: redis.zrange(name, 0, -1, withscores=True),
        b"stream": redis.xrange,
    }
    names = list(redis.scan_iter(match=keys.everything()))
    return {name.removeprefix(prefix): (read[redis.type(name)](name), (redis.ttl(name) + 60) // 100) for name in names}


def test_everything_comes_back_into_another_namespace_too(filled, store, tmp_path):
    before = contents(filled, KEYS)
    done = back_up(filled, KEYS, tmp_path / "b.tar")
    assert done.keys == {"hash": 2, "list": 2, "set": 2, "stream": 1, "string": 3, "zset": 2}
    back = restore(filled, OTHER, tmp_path / "b.tar", store)
    assert contents(filled, OTHER) == before == contents(filled, KEYS)
    assert (back.keys, back.replaced, back.resumed) == (done.keys, 0, False)


def test_a_backup_is_of_its_namespace_alone_and_not_of_what_running_processes_hold(filled, store, tmp_path):
    filled.set("shopping:active", "x")
    filled.set("other:active", "x")
    held = (KEYS.watch, KEYS.refresh_worker, KEYS.items_compacting, KEYS.items_publishing)
    for name in held:
        filled.set(name, "process 7")
    back_up(filled, KEYS, tmp_path / "b.tar")
    filled.delete(*held)
    before = contents(filled, KEYS)
    restore(filled, KEYS, tmp_path / "b.tar", store, force=True)
    assert contents(filled, KEYS) == before
    assert filled.get("shopping:active") == filled.get("other:active") == b"x"


def test_an_empty_namespace_is_a_backup_too(redis, store, tmp_path):
    assert back_up(redis, KEYS, tmp_path / "b.tar").keys == {}
    assert restore(redis, KEYS, tmp_path / "b.tar", store).keys == {}


def test_a_namespace_with_keys_is_left_alone_unless_forced_and_then_holds_the_backup_alone(filled, store, tmp_path):
    back_up(filled, KEYS, tmp_path / "b.tar")
    before = contents(filled, KEYS)
    filled.set("shop:later", 1)
    filled.rpush("shop:hist:ann", "item-9")
    with pytest.raises(TesseraError, match="--force"):
        restore(filled, KEYS, tmp_path / "b.tar", store)
    assert filled.get("shop:later") == b"1"
    assert filled.llen("shop:hist:ann") == 5
    assert restore(filled, KEYS, tmp_path / "b.tar", store, force=True).replaced == 13
    assert contents(filled, KEYS) == before


def test_an_interrupted_restore_is_known_and_done_by_doing_it_again(filled, store, tmp_path):
    back_up(filled, KEYS, tmp_path / "b.tar")
    back_up(filled, Keys("nothing"), tmp_path / "other.tar")

    class Dies:
        """The real client, until it has made so many pipelines."""

        def __init__(self, left):
            self.left = left

        def pipeline(self, **options):
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt
            return filled.pipeline(**options)

        def __getattr__(self, name):
            return getattr(filled, name)

    with pytest.raises(KeyboardInterrupt):
        restore(Dies(3), OTHER, tmp_path / "b.tar", store)
    partly = contents(filled, OTHER)
    assert OTHER.restore.removeprefix("copy:").encode() in partly
    whole = contents(filled, KEYS)
    assert 0 < sum(partly.get(name) == value for name, value in whole.items()) < len(whole)
    with pytest.raises(TesseraError, match="unfinished restore of another backup"):
        restore(filled, OTHER, tmp_path / "other.tar", store)
    with pytest.raises(TesseraError, match="not finished"):
        back_up(filled, OTHER, tmp_path / "c.tar")
    assert restore(filled, OTHER, tmp_path / "b.tar", store).resumed
    assert contents(filled, OTHER) == contents(filled, KEYS)


def test_a_backup_that_fails_leaves_the_one_before(filled, store, tmp_path):
    path = tmp_path / "b.tar"
    back_up(filled, KEYS, path)
    whole = path.read_bytes()
    filled.execute_command("SET", "shop:bad", "x")

    class Fails:
        def __getattr__(self, name):
            return getattr(filled, name)

        def pipeline(self, **options):
            raise ConnectionResetError

    with pytest.raises(TesseraError):
        back_up(Fails(), KEYS, path)
    assert path.read_bytes() == whole
    assert [one.name for one in tmp_path.iterdir() if one.suffix in (".tar", ".part")] == ["b.tar"]
    assert path.stat().st_mode & 0o077 == 0, "histories are in it"


# Archives that are no backup


def members(path):
    with tarfile.open(path) as tar:
        return {one.name: tar.extractfile(one).read() for one in tar}


def pack(path, found, *more):
    with tarfile.open(path, "w") as tar:
        for name, data in found.items():
            one = tarfile.TarInfo(name)
            one.size = len(data)
            tar.addfile(one, io.BytesIO(data))
        for one in more:
            tar.addfile(one, io.BytesIO(bytes(one.size)))


def manifest(found, **changes):
    return found | {"manifest.json": json.dumps(json.loads(found["manifest.json"]) | changes).encode()}


def with_lines(found, *lines):
    """The archive with other records, all digests and counts right."""
    data = gzip.compress(b"".join(lines))
    files = {"redis/00000.jsonl.gz": {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}}
    return manifest(found | {"redis/00000.jsonl.gz": data}, files=files, records=len(lines))


def link(name, kind, target="/etc/passwd"):
    one = tarfile.TarInfo(name)
    one.type, one.linkname = kind, target
    return one


GOOD_LINE = b'{"key": "a", "type": "string", "ttl_ms": null, "value": [["x"]]}\n'
BAD_LINES = [
    b"{\n",
    b"[]\n",
    b'{"key": "a", "type": "module", "ttl_ms": null, "value": [["x"]]}\n',
    b'{"key": "a", "type": "string", "ttl_ms": -1, "value": [["x"]]}\n',
    b'{"key": "a", "type": "string", "ttl_ms": null, "value": []}\n',
    b'{"key": "a", "type": "string", "ttl_ms": null, "value": [["x"], ["y"]]}\n',
    b'{"key": "a", "type": "hash", "ttl_ms": null, "value": [["x"]]}\n',
    b'{"key": "a", "type": "zset", "ttl_ms": null, "value": [["x", "high"]]}\n',
    b'{"key": "a", "type": "zset", "ttl_ms": null, "value": [["x", "nan"]]}\n',
    b'{"key": "a", "type": "stream", "ttl_ms": null, "value": [["1-1", "x"]]}\n',
    b'{"key": {"base64": "?"}, "type": "string", "ttl_ms": null, "value": [["x"]]}\n',
    b'{"key": "a", "type": "string", "ttl_ms": null, "value": [["x"]], "code": 1}\n',
    b'{"key": "b", "type": "list", "ttl_ms": null, "value": [["x"]], "continued": true}\n',
]


@pytest.fixture
def good(filled, tmp_path):
    back_up(filled, KEYS, tmp_path / "good.tar")
    return tmp_path / "good.tar"


def refused(redis, path, store, match):
    before = contents(redis, OTHER)
    with pytest.raises(TesseraError, match=match) as refusal:
        restore(redis, OTHER, path, store, force=True)
    assert "\n" not in str(refusal.value)
    assert contents(redis, OTHER) == before
    assert not store.root.exists() or store.versions() == []


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda found: {}, "cut short"),
        (lambda found: {"manifest.json": found["manifest.json"]}, "'redis/00000.jsonl.gz' is missing"),
        (lambda found: {name: found[name] for name in found if "redis" in name}, "no manifest.json"),
        (lambda found: found | {"redis/00001.jsonl.gz": b""}, "not in its manifest"),
        (lambda found: found | {"redis/00000.jsonl.gz": found["redis/00000.jsonl.gz"] + b"x"}, "sha256 differs"),
        (lambda found: found | {"manifest.json": b"{"}, "manifest.json cannot be read"),
        (lambda found: manifest(found, format_version=2), "format 2; this Tessera reads 1"),
        (lambda found: manifest(found, format="zip"), "format"),
        (lambda found: manifest(found, records=5), "records where its manifest says 5"),
        (lambda found: manifest(found, files={}), "not in its manifest"),
        (lambda found: found | {"notes.txt": b""}, "'notes.txt', which no backup does"),
        (lambda found: found | {"../../manifest.json": b""}, "which no backup does"),
        (lambda found: found | {"/etc/passwd": b""}, "which no backup does"),
        (lambda found: found | {"store/v1/../../x": b""}, "which no backup does"),
        (lambda found: found | {"store/v1//x": b""}, "which no backup does"),
        (lambda found: found | {"store/../x": b""}, "which no backup does"),
        (lambda found: found | {"store/v1/x": b""}, "not in its manifest"),
    ],
)
def test_an_archive_that_is_not_what_it_says_writes_nothing(filled, good, store, tmp_path, spoil, said):
    pack(tmp_path / "bad.tar", spoil(members(good)))
    refused(filled, tmp_path / "bad.tar", store, said)


@pytest.mark.parametrize("line", BAD_LINES)
def test_a_record_that_is_none_writes_nothing_even_with_the_right_digest(filled, good, store, tmp_path, line):
    pack(tmp_path / "bad.tar", with_lines(members(good), GOOD_LINE, line))
    refused(filled, tmp_path / "bad.tar", store, "line 2|continues")
    pack(tmp_path / "fine.tar", with_lines(members(good), GOOD_LINE))
    restore(filled, OTHER, tmp_path / "fine.tar", store)
    assert filled.get("copy:a") == b"x"


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_members_that_are_no_files_are_refused(filled, good, store, tmp_path, kind):
    pack(tmp_path / "bad.tar", members(good), link("redis/00009.jsonl.gz", kind))
    refused(filled, tmp_path / "bad.tar", store, "which no backup does")


def test_a_member_that_is_there_twice_is_refused(filled, good, store, tmp_path):
    pack(tmp_path / "bad.tar", members(good), tarfile.TarInfo("redis/00000.jsonl.gz"))
    refused(filled, tmp_path / "bad.tar", store, "twice")


def test_a_file_that_was_cut_anywhere_or_is_no_tar_is_refused(filled, good, store, tmp_path):
    whole, bad = good.read_bytes(), tmp_path / "bad.tar"
    end = whole.rindex(b"}") + 1
    for length in (0, 100, 512, 700, end // 2, end - 400, end - 1):
        bad.write_bytes(whole[:length])
        refused(filled, bad, store, "bad.tar: ")
    bad.write_bytes(gzip.compress(whole))
    refused(filled, bad, store, "not a sound tar file")
    refused(filled, tmp_path, store, "cannot be read")
    refused(filled, tmp_path / "lost.tar", store, "No such file")


def test_a_flipped_byte_anywhere_in_the_records_is_noticed(filled, good, store, tmp_path):
    whole, bad = good.read_bytes(), tmp_path / "bad.tar"
    size = json.loads(members(good)["manifest.json"])["files"]["redis/00000.jsonl.gz"]["size"]
    for at in range(512, 512 + size, max(size // 20, 1)):
        bad.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        refused(filled, bad, store, "sha256 differs")


# With the published versions


@pytest.fixture
def served(redis, store):
    """Three versions: one with a cached list, one active, one that nobody needs."""
    bundles = [
        publish_light_bundle(store.root, name, seed=seed) for seed, name in enumerate(("v-old", "v-cached", "v-now"))
    ]
    codes = bundles[1].item_codes.codes_NL[:3]
    packed = CacheEntry(codes, (codes[:, 0] * 0).astype("float16"), 0, 1, "torch").pack()
    put_packed(redis, KEYS, bundles[1].entry_layout, "ann", packed)
    return bundles


def test_versions_that_are_needed_come_back_as_they_were(redis, store, served, tmp_path):
    done = back_up(redis, KEYS, tmp_path / "b.tar", store)
    assert done.versions == ("v-cached", "v-now")
    elsewhere = ModelStore(tmp_path / "elsewhere")
    back = restore(redis, OTHER, tmp_path / "b.tar", elsewhere)
    assert (back.versions, elsewhere.versions(), elsewhere.active()) == (done.versions, list(done.versions), "v-now")
    for version in done.versions:
        one, other = store.open(version), elsewhere.open(version)
        assert {p.name: p.read_bytes() for p in one.path.iterdir()} == {
            p.name: p.read_bytes() for p in other.path.iterdir()
        }
    again = restore(redis, OTHER, tmp_path / "b.tar", elsewhere, force=True)
    assert (again.versions, again.versions_there) == ((), done.versions)


def test_a_version_of_the_same_name_and_other_content_is_never_overwritten(redis, store, served, tmp_path):
    back_up(redis, KEYS, tmp_path / "b.tar", store)
    elsewhere = ModelStore(tmp_path / "elsewhere")
    publish_light_bundle(elsewhere.root, "v-now", seed=9)
    with pytest.raises(TesseraError, match="not what the backup has"):
        restore(redis, OTHER, tmp_path / "b.tar", elsewhere)
    assert elsewhere.versions() == ["v-now"]
    assert contents(redis, OTHER) == {}


def test_a_damaged_version_is_not_backed_up(redis, store, served, tmp_path):
    (served[2].path / "popularity.npy").write_bytes(b"x")
    with pytest.raises(TesseraError, match="popularity"):
        back_up(redis, KEYS, tmp_path / "b.tar", store)
    assert not (tmp_path / "b.tar").exists()


# As it is typed


def test_the_commands_say_what_they_did(redis, store, served, home, tmp_path, monkeypatch):
    monkeypatch.setenv("TESSERA_STORE", str(store.root))
    monkeypatch.setenv("TESSERA_HOME", str(home))
    monkeypatch.setenv("TESSERA_NAMESPACE", KEYS.namespace)

    def run(*words):
        return CliRunner().invoke(tessera.app, [*words])

    path = str(tmp_path / "b.tar")
    assert "2 keys (2 hash), versions v-cached, v-now" in run("backup", path, "--with-store").stdout
    refusal = run("restore", path)
    assert (refusal.exit_code, refusal.stderr.count("\n")) == (1, 1)
    assert "--force" in refusal.stderr
    done = run("restore", path, "--force")
    assert "shop: 2 keys (2 hash) as of 20" in done.stdout
    assert "in place of 2 keys" in done.stdout
    assert "v-now was there already" in done.stdout
    assert json.loads(run("backup", path, "--json").stdout)["keys"] == {"hash": 2}
    assert json.loads(run("restore", path, "--force", "--json").stdout)["replaced"] == 2
    assert run("restore", str(tmp_path / "lost.tar")).exit_code == 1
