"""A server that answers as the Hugging Face Hub does, as far as its client asks when SAEs are found and fetched."""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class Repository:
    """Commits of files. `tokens` may read it, anybody if there are none; `gated` is said to those who may not."""

    def __init__(self, tokens=(), gated=False):
        self.commits, self.branches, self.tokens, self.gated = {}, {}, tokens, gated

    def commit(self, files, branch="main"):
        """Name -> bytes; returns the commit that the branch then is at."""
        sha = hashlib.sha1(repr(sorted((name, hashlib.sha1(content).digest()) for name, content in files.items()))
                           .encode()).hexdigest()  # fmt: skip
        self.commits[sha], self.branches[branch] = files, sha
        return sha


class Hub(ThreadingHTTPServer):
    """Repositories by name. `asked` lists (method, path, bytes sent); `broken` maps file names to an answer's status.

    `cut` maps a file name to how many bytes of it are sent before the connection is closed, once.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories, self.asked, self.broken, self.cut = {}, [], {}, {}
        self.address = f"http://127.0.0.1:{self.server_port}"

    def sent(self, name):
        """Bytes sent of a file, in all answers."""
        return sum(size for method, path, size in self.asked if method == "GET" and path.endswith(name))

    def __enter__(self):
        self.thread = threading.Thread(target=self.serve_forever)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(/.*)?)?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        repository = self.server.repositories.get((api or file)[1]) if api or file else None
        if repository is None:
            return self._refuse(401, "RepoNotFound")
        if (
            repository.tokens
            and (self.headers.get("Authorization") or "").removeprefix("Bearer ") not in repository.tokens
        ):
            return self._refuse(403 if repository.gated else 401, "GatedRepo" if repository.gated else "RepoNotFound")
        revision = (api[3] if api else file[2]) or "main"
        sha = repository.branches.get(revision, revision)
        files = repository.commits.get(sha)
        if files is None:
            return self._refuse(404, "RevisionNotFound")
        if file:
            return self._file(sha, files, file[3])
        kind = api[2]
        if kind in (None, "revision"):
            found = {"id": api[1], "sha": sha, "private": False, "tags": [], "downloads": 0, "likes": 0}
            return self._json({**found, "siblings": [{"rfilename": name} for name in files]})
        below = (api[4] or "").strip("/")
        names = [name for name in files if not below or name.startswith(f"{below}/")]
        if kind == "paths-info":
            asked = unquote(body.decode())
            names = [name for name in files if name in asked]
        found = [{"type": "file", "path": name, "size": len(files[name]), "oid": _etag(files[name])} for name in names]
        return self._json(found)

    do_HEAD = do_POST = do_GET

    def _file(self, sha, files, name):
        if name in self.server.broken:
            return self._refuse(self.server.broken[name], "broken")
        if name not in files:
            return self._refuse(404, "EntryNotFound", {"X-Repo-Commit": sha})
        content, span = files[name], re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        first = int(span[1]) if span else 0
        last = min(int(span[2]), len(content) - 1) if span and span[2] else len(content) - 1
        self.send_response(206 if span else 200)
        headers = {"ETag": f'"{_etag(content)}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes",
                   "Content-Length": last + 1 - first}  # fmt: skip
        if span:
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        for header, value in headers.items():
            self.send_header(header, str(value))
        self.end_headers()
        if self.command == "HEAD":
            return self._note(0)
        part = content[first : last + 1]
        most = self.server.cut.pop(name, None) if self.command == "GET" else None
        self._note(len(part[:most]))
        self.wfile.write(part[:most])
        if most is not None:
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
        return None

    def _json(self, answer):
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status, code, headers=None):
        named = {"X-Error-Code": code, "X-Error-Message": code, **(headers or {})}
        self._send(status, json.dumps({"error": code}).encode(), {"Content-Type": "application/json", **named})

    def _send(self, status, content, headers):
        self.send_response(status)
        for header, value in {**headers, "Content-Length": len(content)}.items():
            self.send_header(header, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
        self._note(len(content))

    def _note(self, size):
        self.server.asked.append((self.command, urlsplit(self.path).path, size))

    def log_message(self, *_):
        pass


def _etag(content):
    return hashlib.sha1(content).hexdigest()
