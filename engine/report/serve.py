"""The page of a run on an address of this machine, its data in pieces as they are asked for."""

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

import numpy as np

from saematch.analysis.findings import Columns
from saematch.errors import MatchError
from saematch.report.contents import Contents, packed_columns, packed_labels
from saematch.report.page import head, tail
from saematch.runs.plan import Pair

PIECE = 2**16  # features at a time
_KEPT = 4  # pairs whose columns are held
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # all addresses of the machine, and one to open in a browser


class Server(ThreadingHTTPServer):
    """Serves one run; on another address than loopback, only to whoever has the token.

    `host` is a name, or an address of IPv4 or IPv6, in brackets or without. Attributes: `address`, to be opened in a
    browser. Raises `OSError` if there is no such host or the port is taken, and `MatchError` for an empty host.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, contents: Contents, host: str = "127.0.0.1", port: int = 0) -> None:
        host = host.removeprefix("[").removesuffix("]")
        if not host:
            raise MatchError("an empty host would be every address of this machine; give 0.0.0.0 or :: to mean that")
        # Of a name that has both, the address of IPv4.
        found = min(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM), key=lambda each: each[0] != socket.AF_INET)
        self.address_family, (bound, _, *scope) = found[0], found[4]
        self.token = None if _is_loopback(host) else secrets.token_urlsafe(24)
        self.contents = contents
        self._columns: OrderedDict[Pair, Columns] = OrderedDict()
        self._lock = threading.Lock()  # findings are of one pair at a time
        super().__init__((bound, port, *scope), _Handler)  # type: ignore[arg-type] # IPv6 has four parts
        shown = _WILDCARDS.get(str(bound), host)
        shown = f"[{shown.replace('%', '%25')}]" if ":" in shown else shown
        self.address = f"http://{shown}:{self.server_port}/" + (f"?token={self.token}" if self.token else "")
        self._page = gzip.compress((head() + tail({**contents.summary(), "server": {"piece": PIECE}})).encode(), 6)

    def page(self) -> bytes:
        """The page without data, gzipped."""
        return self._page

    def columns(self, pair: Pair) -> Columns:
        """The columns of a pair; those of the last few that were asked for are kept. Raises `MatchError`."""
        with self._lock:
            if pair not in self._columns:
                self._columns[pair] = self.contents.columns(pair)
                if len(self._columns) > _KEPT:
                    self._columns.popitem(last=False)
            self._columns.move_to_end(pair)
            return self._columns[pair]

    def piece(self, pair: Pair, first: int) -> bytes:
        """Up to `PIECE` features of a pair, from `first` on, packed as on a page that holds all of them."""
        columns = self.columns(pair)
        if not 0 <= first < max(1, len(columns["partner"])):
            raise MatchError(f"pair {pair[0]}-{pair[1]} has no feature {first}")
        return packed_columns({name: values[first : first + PIECE] for name, values in columns.items()}, level=1)

    def path(self, layer: int, feature: int) -> list[dict[str, Any]]:
        """The whole path through a feature, as the page finds it in its own data. Raises `MatchError`."""
        chain = self.contents.chain
        way, way_back = chain.path(layer, feature), []
        before = {chain.way_from(pair[0])[1]: pair for pair in sorted(chain) if len(chain.way_from(pair[0])) > 1}
        at = layer, feature
        while at[0] in before:
            pair = before[at[0]]
            found = np.nonzero(chain[pair].perm.numpy() == at[1])[0]
            if not len(found):
                break
            at = pair[0], int(found[0])
            way_back.append(at)
        if way_back:
            way = chain.path(*way_back[-1])
        labels = {step.layer: self.contents.labels(step.layer) for step in way}
        return [
            {
                "layer": step.layer,
                "feature": step.feature,
                "label": labels[step.layer].get(step.feature),
                "step": {"cost": step.cost} if number else None,
            }
            for number, step in enumerate(way)
        ]


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "saematch", ""
    timeout = 30

    def do_GET(self) -> None:
        """Answer with the page, a piece of data, labels or a path."""
        asked = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(asked.query).items()}
        if self.server.token is None and not _is_loopback(_host_of(self.headers.get("Host", ""))):
            # Some page elsewhere had its name lead here.
            self._fail(HTTPStatus.FORBIDDEN, "ask by the address that saematch serve printed")
        elif self.server.token is not None and not secrets.compare_digest(
            query.get("token", "").encode(), self.server.token.encode()
        ):
            self._fail(HTTPStatus.FORBIDDEN, "the token is missing or wrong: it is in the address that was printed")
        else:
            self._answer(asked.path, query)

    def _answer(self, path: str, query: dict[str, str]) -> None:
        kinds = {"": self._page, "data": self._data, "labels": self._labels, "path": self._path}
        first, *rest = path.strip("/").split("/")
        try:
            kinds[first](rest, query)
        except (KeyError, ValueError):
            self._fail(HTTPStatus.NOT_FOUND, "there is no such thing here")
        except MatchError as error:
            self._fail(HTTPStatus.NOT_FOUND, str(error))

    def _page(self, rest: list[str], _: dict[str, str]) -> None:
        [] = rest
        self._send(HTTPStatus.OK, "text/html; charset=utf-8", self.server.page(), gzipped=True)

    def _data(self, rest: list[str], query: dict[str, str]) -> None:
        source, target = map(_number, rest)
        piece = self.server.piece((source, target), _number(query["first"]))
        self._send(HTTPStatus.OK, "application/octet-stream", piece)

    def _labels(self, rest: list[str], _: dict[str, str]) -> None:
        (layer,) = map(_number, rest)
        self._send(HTTPStatus.OK, "application/octet-stream", packed_labels(self.server.contents.labels(layer)))

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

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not printed: their addresses hold the token."""


def _is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host, by what it is called: names lead anywhere."""
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _host_of(header: str) -> str:
    """The host of a `Host` header, without its port and brackets; "" where it is not one."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


def _number(text: str) -> int:
    """Digits, and not many: a number of a layer or feature. Raises `ValueError`."""
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ValueError(text)
    return int(text)
