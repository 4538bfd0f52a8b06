"""A server with the part of the API of the Hugging Face Hub that its client uses to find and fetch SAEs.

As on the Hub, large files are on another host, which needs no token. The storage Xet is not supported.
"""

import hashlib
import json
import re
import struct
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import SO_LINGER, SOL_SOCKET
from threading import Thread
from typing import NamedTuple
from urllib.parse import parse_qs, quote, unquote, urlsplit

PAGE = 5  # names in one answer of a listing


class Asked(NamedTuple):
    """A request, and the number of bytes that were sent in answer."""

    method: str
    path: str
    host: str
    token: str | None
    span: str | None
    sent: int


class Repository:
    """Commits of files. Requests need one of the `tokens`, if there are any.

    Without a token, the repository does not seem to exist; a `gated` one shows everything but the content of files.
    """

    def __init__(self, tokens=(), gated=False):
        self.commits, self.names, self.tokens, self.gated = {}, {}, tokens, gated

    def commit(self, files, name="main"):
        """Commit files, name -> bytes. Return the commit that the branch or tag then points to."""
        hashes = sorted((file, _hash(content)) for file, content in files.items())
        sha = self.names[name] = hashlib.sha1(repr(hashes).encode()).hexdigest()
        self.commits[sha] = files
        return sha


class Hub(ThreadingHTTPServer):
    """Repositories by name, and the requests so far in `asked`.

    `broken`: name of a file -> the status with which the file is refused. `cut`: name of a file -> the number of bytes
    that are sent, once, before the connection ends, or is reset if `resets`. `expired`: tokens that are not valid now.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.address, self.elsewhere = (f"http://{host}:{self.server_port}" for host in ("127.0.0.1", "localhost"))
        self.clear()

    def clear(self):
        """Remove all repositories, requests and faults."""
        self.repositories, self.asked, self.broken, self.cut, self.resets = {}, [], {}, {}, False
        self.expired = set()

    def sent(self, name=""):
        """Return the number of bytes sent of one file, or of all files, in all answers."""
        return sum(each.sent for each in self.asked if "/api/" not in each.path and each.path.endswith(name))

    def __enter__(self):
        self.thread = Thread(target=self.serve_forever)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # it would hold each body back until its head is acknowledged

    def do_GET(self):
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        api = parts[:2] == ["api", "models"]
        repo, rest = "/".join(parts[2:4] if api else parts[:2]), parts[4:] if api else parts[2:]
        repository, (kind, revision, *path) = self.server.repositories.get(repo), [*rest, "", ""]
        name = "/".join(path).rstrip("/")
        token = self._token()
        if token in self.server.expired:
            return self._refuse(401, "", {"X-Error-Message": "Invalid credentials in Authorization header"})
        if repository is None or (not api and kind not in ("resolve", "signed")):
            return self._refuse(404 if token else 401, "RepoNotFound")
        may = kind == "signed" or not repository.tokens or token in repository.tokens
        if not may and not repository.gated:
            return self._refuse(404 if token else 401, "RepoNotFound")
        sha = repository.names.get(revision or "main", revision)
        if sha not in repository.commits:
            return self._refuse(404, "RevisionNotFound")
        files = repository.commits[sha]
        if not api and not may:
            return self._refuse(403 if token else 401, "GatedRepo")
        if not api:
            return self._file(kind, sha, files, repo, name)
        if kind == "tree":
            return self._tree(files, name)
        return self._json({"id": repo, "sha": sha, "siblings": [{"rfilename": each} for each in files]})

    do_HEAD = do_GET

    def _tree(self, files, folder):
        """Return a page of the entries in or below a folder, and the address of the next page."""
        query = {key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()}
        above = f"{folder}/" if folder else ""
        inside = [name.removeprefix(above) for name in files if name.startswith(above)]
        if query.get("recursive", "false").lower() != "true":
            inside = {name.partition("/")[0] for name in inside}
        else:
            inside = {part for name in inside for part in _with_folders(name)}
        found = [
            {"type": "file", "path": name, "oid": _hash(files[name]), "size": len(files[name])}
            if name in files
            else {"type": "directory", "path": name, "oid": _hash(name.encode()), "size": 0}
            for name in sorted(above + each for each in inside)
        ]
        first = int(query.get("cursor", 0))
        more = {}
        if first + PAGE < len(found):
            here = self.server.address + urlsplit(self.path).path
            rest = "&".join(f"{key}={quote(value)}" for key, value in {**query, "cursor": str(first + PAGE)}.items())
            more = {"Link": f'<{here}?{rest}>; rel="next"'}
        self._json(found[first : first + PAGE], more)

    def _file(self, kind, sha, files, repo, name):
        if name in self.server.broken:
            status = self.server.broken[name]
            return self._refuse(status, "EntryNotFound" if status == 404 else "broken")
        if name not in files:
            return self._refuse(404, "EntryNotFound", {"X-Repo-Commit": sha})
        content = files[name]
        headers = {"ETag": f'"{_hash(content)}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        if kind == "resolve" and not name.endswith((".json", ".md")):
            linked = {"X-Linked-ETag": headers["ETag"], "X-Linked-Size": len(content)}
            signed = f"{self.server.elsewhere}/{repo}/signed/{sha}/{quote(name)}"
            return self._send(302, b"", {**headers, **linked, "Location": signed})
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if span is None:
            return self._send(200, content, headers, name)
        first, last = int(span[1]), min(int(span[2] or len(content)), len(content) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        return self._send(206, content[first : last + 1], headers, name)

    def _json(self, answer, headers=()):
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json", **dict(headers)})

    def _refuse(self, status, code, headers=()):
        named = {"X-Error-Code": code, "X-Error-Message": code, **dict(headers)}
        self._send(status, json.dumps({"error": code}).encode(), named)

    def _send(self, status, content, headers, name=None):
        most = self.server.cut.pop(name, None) if self.command == "GET" else None
        body = b"" if self.command == "HEAD" else content[:most]
        self.server.asked.append(
            Asked(
                self.command,
                urlsplit(self.path).path,
                self.headers["Host"].partition(":")[0],
                self._token(),
                self.headers.get("Range"),
                len(body),
            )
        )
        self.send_response(status)
        for header, value in {**headers, "Content-Length": len(content)}.items():
            self.send_header(header, str(value))
        self.end_headers()
        self.wfile.write(body)
        if most is not None:
            self.close_connection = True
            if self.server.resets:
                self.connection.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()

    def _token(self):
        return self.headers.get("Authorization", "").removeprefix("Bearer ") or None

    def log_message(self, *_):
        pass


def _with_folders(name):
    parts = name.split("/")
    return ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]


def _hash(content):
    return hashlib.sha256(content).hexdigest()
