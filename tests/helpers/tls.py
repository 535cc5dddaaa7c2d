"""TLS in front of a Redis that speaks none, with certificates made on the spot."""

from __future__ import annotations

import contextlib
import datetime
import select
import socket
import ssl
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

Key = ec.EllipticCurvePrivateKey


class Authority:
    """A certificate authority of our own; its certificate is at `path`."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self._key: Key = ec.generate_private_key(ec.SECP256R1())
        self.path = folder / f"{name}.pem"
        self.path.write_bytes(self._sign(self._name, self._key, ca=True))

    def certify(self, host: str) -> Path:
        """A file with a key and its certificate for `host`."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
        path = self._folder / f"{host}.pem"
        pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
        private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
        path.write_bytes(private + self._sign(subject, key, ca=False))
        return path

    def _sign(self, subject: x509.Name, key: Key, *, ca: bool) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        hour = datetime.timedelta(hours=1)
        host = str(next(iter(subject)).value)
        usage = x509.KeyUsage(
            digital_signature=not ca,
            key_cert_sign=ca,
            crl_sign=ca,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = (
            x509.CertificateBuilder(self._name, subject, key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - hour)
            .not_valid_after(now + hour)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
            .add_extension(usage, critical=True)
            .add_extension(identifier, critical=False)
            .add_extension(issuer, critical=False)
        )
        signed = builder.sign(self._key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM)


class TlsProxy:
    """Takes encrypted connections on `port` of localhost and passes them on to a unix socket."""

    def __init__(self, behind: str, certificate: Path) -> None:
        self._behind = behind
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._closing = threading.Event()

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closing.set()
        for thread in self._threads:  # the first one adds to them until it ends
            thread.join()
        self._socket.close()

    def _accept(self) -> None:
        while not self._closing.is_set():
            if not select.select([self._socket], [], [], 0.1)[0]:
                continue
            client, _ = self._socket.accept()
            thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        client.settimeout(5)
        with client, contextlib.suppress(OSError):
            encrypted = self._context.wrap_socket(client, server_side=True)
            with encrypted, socket.socket(socket.AF_UNIX) as server:
                server.connect(self._behind)
                self._pump(encrypted, server)

    def _pump(self, encrypted: ssl.SSLSocket, server: socket.socket) -> None:
        """One thread for both ways: OpenSSL allows no two on one connection."""
        other: dict[socket.socket, socket.socket] = {encrypted: server, server: encrypted}
        while not self._closing.is_set():
            readable = [encrypted] if encrypted.pending() else select.select(other, [], [], 0.1)[0]
            for each in readable:
                data = each.recv(1 << 16)
                if not data:
                    return
                other[each].sendall(data)
