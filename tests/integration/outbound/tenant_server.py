"""A TLS server on loopback that misbehaves as told, with a certificate authority of its own."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True)
class Request:
    """One request as it came over the wire."""

    line: str
    headers: dict[str, str]
    body: bytes
    sni: str | None

    @property
    def path(self) -> str:
        return self.line.split(" ")[1]


@dataclass
class TenantServer:
    """`answers` by path; a path without one gets an empty 200."""

    port: int = 0
    connections: int = 0
    answers: dict[str, bytes | Answer] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    sni: dict[ssl.SSLObject | ssl.SSLSocket, str | None] = field(default_factory=dict)
    _running: dict[asyncio.Task[None], asyncio.StreamWriter] = field(default_factory=dict)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._running[task] = writer
        self.connections += 1
        try:
            await self._answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client hung up, as it should
        finally:
            writer.transport.abort()
            del self._running[task]

    async def aclose(self) -> None:
        for writer in self._running.values():
            writer.transport.abort()
        if self._running:
            await asyncio.wait(list(self._running))

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:-2])
        }
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        sni = self.sni.get(writer.get_extra_info("ssl_object"))
        request = Request(head[0], headers, body, sni)
        self.requests.append(request)
        answer = self.answers.get(request.path, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        if isinstance(answer, bytes):
            writer.write(answer)
        else:
            await answer(writer)
        await writer.drain()
        writer.close()
        await writer.wait_closed()


@dataclass(frozen=True)
class Authority:
    """A certificate authority and where its certificate lies."""

    directory: Path
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def make(cls, directory: Path) -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name("Test authority")
        certificate = (
            _builder(name, name, key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(key, hashes.SHA256())
        )
        (directory / "authority.pem").write_bytes(_pem(certificate))
        return cls(directory, key, certificate)

    def client_context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.directory / "authority.pem"))

    def server_context(self, *names: str, days: int = 1) -> ssl.SSLContext:
        """A context with a certificate for `names` that ends after `days`."""
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
        certificate = (
            _builder(_name(names[0]), self.certificate.subject, key.public_key(), days)
            .add_extension(alternatives, critical=False)
            .sign(self.key, hashes.SHA256())
        )
        path = self.directory / f"{names[0]}-{days}.pem"
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        path.write_bytes(private + _pem(certificate))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context


@asynccontextmanager
async def tenant_server(
    context: ssl.SSLContext | None, host: str = "127.0.0.1"
) -> AsyncIterator[TenantServer]:
    """Serves on `host`, over TLS if there is a context."""
    tenant = TenantServer()
    if context is not None:
        context.sni_callback = lambda connection, name, _: tenant.sni.update({connection: name})
    server = await asyncio.start_server(tenant.serve, host, 0, ssl=context)
    tenant.port = server.sockets[0].getsockname()[1]
    try:
        yield tenant
    finally:
        server.close()
        await tenant.aclose()
        await server.wait_closed()


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int = 1
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=10))
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
