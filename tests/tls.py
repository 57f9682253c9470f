"""Certificates of a test's own, and a Redis behind TLS and a password."""

import asyncio
import os
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.redis_servers import end, free_port, launch, server, wait_until

PASSWORD = "swordfish"


@dataclass(frozen=True)
class Certificates:
    """Files: a CA, and a server on loopback that it vouches for."""

    ca: Path
    certificate: Path
    key: Path


def make_certificates(folder: Path) -> Certificates:
    """A new CA, and a certificate of it for 127.0.0.1."""
    folder.mkdir(exist_ok=True)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca = _named("test CA", "test CA", ca_key.public_key())
    ca = ca.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    ca = ca.add_extension(usage, critical=True)
    ca = ca.add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    leaf = _named("redis", "test CA", key.public_key()).add_extension(names, critical=False)
    leaf = leaf.add_extension(issuer, critical=False)
    pem = serialization.Encoding.PEM
    files = Certificates(folder / "ca.crt", folder / "redis.crt", folder / "redis.key")
    files.ca.write_bytes(ca.sign(ca_key, hashes.SHA256()).public_bytes(pem))
    files.certificate.write_bytes(leaf.sign(ca_key, hashes.SHA256()).public_bytes(pem))
    plain = serialization.NoEncryption()
    files.key.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    return files


def _named(subject: str, issuer: str, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().public_key(key).serial_number(x509.random_serial_number())
    builder = builder.subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
    builder = builder.issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
    return builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=1))


@contextmanager
def tls_server(folder: Path, files: Certificates) -> Iterator[int]:
    """A Redis with TLS and PASSWORD: one on the PATH that can do TLS, else a proxy before the embedded one."""
    for binary in dict.fromkeys(Path(where) / "redis-server" for where in os.get_exec_path()):
        if not os.access(binary, os.X_OK):
            continue
        tls = ("--tls-cert-file", str(files.certificate), "--tls-key-file", str(files.key))
        port = free_port()
        options = ("--tls-port", str(port), *tls, "--tls-ca-cert-file", str(files.ca), "--tls-auth-clients", "no")
        process = launch(binary, folder, 0, *options, "--requirepass", PASSWORD)
        try:
            client = redis.Redis("127.0.0.1", port, password=PASSWORD, ssl=True, ssl_ca_certs=str(files.ca))
            # One built without TLS ends at once.
            wait_until(lambda process=process, client=client: process.poll() is not None or client.ping())
            if process.poll() is None:
                yield port
                return
        finally:
            end(process)
    with tls_through_a_proxy(folder, files) as port:
        yield port


@contextmanager
def tls_through_a_proxy(folder: Path, files: Certificates) -> Iterator[int]:
    """The embedded Redis with PASSWORD, and TLS before it: everywhere."""
    with server(folder) as plain, _tls_before(plain, files) as port:
        redis.Redis(port=plain).config_set("requirepass", PASSWORD)
        yield port


@contextmanager
def _tls_before(plain: int, files: Certificates) -> Iterator[int]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.certificate, files.key)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(1 << 16):
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        sink.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", plain)
        await asyncio.gather(copy(reader, back), copy(there, writer))

    async def listen() -> asyncio.Server:
        return await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)

    try:
        listening = asyncio.run_coroutine_threadsafe(listen(), loop).result()
        yield listening.sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
