"""Serve the page of a run on a local address. The page asks for data in pieces, as it needs them."""

from __future__ import annotations

import gzip
import ipaddress
import json
import secrets
import socket
import threading
from collections import OrderedDict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from typing_extensions import override

from saematch.analysis.findings import Columns
from saematch.errors import MatchError
from saematch.options import Side
from saematch.report.contents import Contents, pack_columns, pack_labels
from saematch.report.page import RUN
from saematch.runs.plan import Pair, pair_name
from saematch.storage.jsonfile import finite_or_none

_PIECE = 2**16  # features per request
_KEPT_PAIRS = 4  # pairs of layers whose columns stay in memory
# Hosts that mean all addresses of the machine, and an address of each that a browser can open.
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class Server(ThreadingHTTPServer):
    """An HTTP server for the page of one run.

    On a loopback address, which only this machine can reach, everybody is served. On any other address, requests need
    the token that is part of `address`.

    Args:
        contents: what the page shows.
        host: a name, or an IPv4 or IPv6 address, with or without brackets.
        port: the port; 0 for any free one.

    Attributes:
        address: the URL to open in a browser.
        token: the token that requests need; None on a loopback address.

    Raises:
        OSError: if there is no such host, or the port is taken.
        MatchError: if the host is empty.

    Examples:
        >>> import saematch as sm
        >>> from saematch.report import Contents, Server
        >>> chain = sm.match_layers(sm.load_layers("sample"), pairs=[(8, 9)])
        >>> with Server(Contents(chain)) as server:  # server.serve_forever() answers until it is interrupted
        ...     print(server.address)
        http://127.0.0.1:.../
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, contents: Contents, host: str = "127.0.0.1", port: int = 0) -> None:
        host = host.removeprefix("[").removesuffix("]")
        if not host:
            raise MatchError(
                "an empty host would mean every address of this machine; give 0.0.0.0 or :: if that is what you want"
            )
        # If a name has addresses of both kinds, the IPv4 address is served.
        infos = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        self.address_family, _, _, _, (bound, _, *scope) = min(infos, key=lambda info: info[0] != socket.AF_INET)
        self.token = None if _is_loopback(host) else secrets.token_urlsafe(24)
        self.contents = contents
        self._columns: OrderedDict[Pair, Columns] = OrderedDict()
        self._lock = threading.Lock()  # contents serve one pair of layers at a time
        super().__init__((bound, port, *scope), _Handler)  # type: ignore[arg-type] # an IPv6 address has four parts
        shown = _WILDCARDS.get(str(bound), host)
        shown = f"[{shown.replace('%', '%25')}]" if ":" in shown else shown
        self.address = f"http://{shown}:{self.server_port}/" + (f"?token={self.token}" if self.token else "")
        page = RUN.head() + RUN.tail({**contents.summary(), "server": {"piece": _PIECE}})
        self._page = gzip.compress(page.encode(), 6)

    def __repr__(self) -> str:
        return f"Server({self.contents!r}, port={self.server_port})"

    def page(self) -> bytes:
        """Return the page without its data, gzipped."""
        return self._page

    def columns(self, pair: Pair) -> Columns:
        """Return the columns of a pair of layers. The columns of the last few pairs are kept. Raises `MatchError`."""
        with self._lock:
            if pair not in self._columns:
                self._columns[pair] = self.contents.columns(pair)
                if len(self._columns) > _KEPT_PAIRS:
                    self._columns.popitem(last=False)
            self._columns.move_to_end(pair)
            return self._columns[pair]

    def piece(self, pair: Pair, first: int) -> bytes:
        """Return the columns of a piece of the features of a pair, from feature `first` on, see `pack_columns`.

        Raises:
            MatchError: if the run has no such pair, or the pair no such feature.
        """
        columns = self.columns(pair)
        if not 0 <= first < max(1, len(columns["partner"])):
            raise MatchError(f"pair {pair_name(pair)} has no feature {first}")
        return pack_columns({name: values[first : first + _PIECE] for name, values in columns.items()}, level=1)

    def path(self, layer: int, feature: int) -> list[dict[str, Any]]:
        """Return the whole path through a feature, backwards and forwards, as the page itself finds it in a file.

        Raises:
            MatchError: if the run has no such layer or feature.
        """
        return [
            {
                "set": int(Side.SOURCE),
                "layer": self.contents.chain.names.number(step.layer),
                "feature": step.feature,
                "label": step.label,
                "step": {"cost": step.cost, "cosine": finite_or_none(step.cosine)} if number else None,
            }
            for number, step in enumerate(self.contents.chain.path(layer, feature))
        ]


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "saematch", ""
    timeout = 30

    def do_GET(self) -> None:
        """Answer with the page, a piece of data, labels or a path."""
        url = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        if self.server.token is None and not _is_loopback(_host_of(self.headers.get("Host", ""))):
            # A page from elsewhere may have let its own name resolve to this machine (DNS rebinding).
            self._fail(HTTPStatus.FORBIDDEN, "use the address that saematch serve printed")
        elif self.server.token is not None and not secrets.compare_digest(
            query.get("token", "").encode(), self.server.token.encode()
        ):
            self._fail(
                HTTPStatus.FORBIDDEN, "the token is missing or wrong: it is part of the address that was printed"
            )
        else:
            self._answer(url.path, query)

    def _answer(self, path: str, query: dict[str, str]) -> None:
        answers = {"": self._page, "data": self._data, "labels": self._labels, "path": self._path}
        first, *rest = path.strip("/").split("/")
        try:
            answers[first](rest, query)
        except (KeyError, ValueError):
            self._fail(HTTPStatus.NOT_FOUND, "there is nothing at this address")
        except MatchError as error:
            self._fail(HTTPStatus.NOT_FOUND, str(error))

    def _page(self, rest: list[str], _: dict[str, str]) -> None:
        if rest:
            raise ValueError(rest)
        self._send(HTTPStatus.OK, "text/html; charset=utf-8", self.server.page(), gzipped=True)

    def _data(self, rest: list[str], query: dict[str, str]) -> None:
        source, target = map(_number, rest)
        piece = self.server.piece((source, target), _number(query["first"]))
        self._send(HTTPStatus.OK, "application/octet-stream", piece)

    def _labels(self, rest: list[str], _: dict[str, str]) -> None:
        number, layer = map(_number, rest)
        self._send(
            HTTPStatus.OK, "application/octet-stream", pack_labels(self.server.contents.labels(layer, Side(number)))
        )

    def _path(self, rest: list[str], _: dict[str, str]) -> None:
        layer, feature = map(_number, rest)
        self._send(HTTPStatus.OK, "application/json", json.dumps(self.server.path(layer, feature)).encode())

    def _fail(self, status: HTTPStatus, reason: str) -> None:
        self._send(status, "text/plain; charset=utf-8", f"{reason}\n".encode())

    def _send(self, status: HTTPStatus, kind: str, content: bytes, gzipped: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        if gzipped:
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        self.wfile.write(content)

    @override
    def log_message(self, format: str, *args: Any) -> None:
        pass  # the addresses of requests hold the token, so they are not printed


def _is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a host. No name counts but "localhost": names can lead anywhere."""
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _host_of(header: str) -> str:
    """Return the host in a `Host` header, without port and brackets; "" if the header is malformed."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


def _number(text: str) -> int:
    """Return the number of a layer or feature. Raises `ValueError` for anything but a few ASCII digits."""
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ValueError(text)
    return int(text)
