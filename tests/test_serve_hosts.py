"""Addresses and host names at which a page is served, and the host names that requests may use."""

import contextlib
import http.client
import socket
import threading
from urllib.parse import urlsplit

import pytest

import saematch as sm
from saematch.cli.main import main
from saematch.report import Contents
from saematch.report.serve import Server
from saes import write_model


def ipv6_is_there():
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not ipv6_is_there(), reason="this machine has no IPv6")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    sm.match_layers(sm.load_layers(write_model(folder / "model", layers=(3, 4))), folder / "run")
    return folder / "run"


@contextlib.contextmanager
def serving(run, host):
    with Server(Contents(sm.Chain.load(run), weights=False), host) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def ask(address, **headers):
    """Return the answer of the printed address to a request like that of a browser."""
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
    try:
        connection.request("GET", f"/?{parts.query}", headers={"Host": parts.netloc, **headers})
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("localhost", "localhost"),
        ("127.0.0.5", "127.0.0.5"),
        pytest.param("::1", "[::1]", marks=needs_ipv6),
        pytest.param("[::1]", "[::1]", marks=needs_ipv6),
        pytest.param("0:0:0:0:0:0:0:1", "[0:0:0:0:0:0:0:1]", marks=needs_ipv6),
    ],
)
def test_an_address_of_loopback_is_served_without_a_token(run, host, shown):
    with serving(run, host) as server:
        assert server.address == f"http://{shown}:{server.server_port}/"
        assert ask(server.address) == 200


@pytest.mark.parametrize(
    ("host", "shown"),
    [("0.0.0.0", "127.0.0.1"), *(pytest.param(host, "[::1]", marks=needs_ipv6) for host in ("::", "[::]", "0::0"))],
)
def test_all_addresses_are_served_with_a_token(run, host, shown):
    with serving(run, host) as server:
        assert server.address == f"http://{shown}:{server.server_port}/?token={server.token}"
        assert ask(server.address) == 200
        assert ask(server.address.partition("?")[0]) == 403


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:80", 200),
        ("127.0.0.1", 200),
        ("[::1]", 200),
        ("[::1]:8000", 200),
        ("evil.example", 403),
        ("localhost.evil.example:80", 403),
        ("127.0.0.1.evil.example", 403),
        ("[::1", 403),
        ("[2001:db8::1]:80", 403),
        ("", 403),
        ("::1", 403),
        ("10.0.0.1:80", 403),
    ],
)
def test_names_by_which_loopback_may_be_asked(run, name, status):
    with serving(run, "127.0.0.1") as server:
        assert ask(server.address, Host=name) == status


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("", "an empty host"),
        ("[]", "an empty host"),
        ("no.such.host.invalid", "cannot be served"),
        ("x" * 70 + ".invalid", "cannot be served"),
        ("2001:db8::77", "cannot be served"),
        ("::g", "cannot be served"),
    ],
)
def test_hosts_that_cannot_be_served_are_said_in_a_line(run, host, why, capsys):
    assert main(["serve", str(run), f"--host={host}"]) == 2
    error = capsys.readouterr().err
    assert why in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("port", ["99999", "-1"])
def test_ports_that_are_none_are_said_in_a_line(run, port, capsys):
    for host in ("127.0.0.1", "::1"):
        assert main(["serve", str(run), f"--host={host}", f"--port={port}"]) == 2
        assert capsys.readouterr().err.count("\n") == 1
