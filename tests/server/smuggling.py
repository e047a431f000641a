"""Requests whose framing means one thing to one server and another to the next: what smuggling lives on."""

CODINGS = ["chunked", "Chunked", " chunked", "chunked ", "\tchunked", "xchunked", "chunked, identity", "identity, chunked", "chunked\x0b", "\"chunked\"", "chunked;q=1", "x"]
LENGTHS = ["-1", "+1", "0x10", "1 1", "1,1", "1.0", "", "1e3", "18446744073709551616", "9223372036854775808", "99999999999999999999999999", "١", " ", "1;", "NaN",
           "4294967297"]
CHUNKS = {"a size of 2^64": b"10000000000000000\r\n{}", "a size of -1": b"-1\r\n{}", "no hexadecimal": b"xyz\r\n{}", "no size": b"\r\n{}", "a size of 0x5": b"0x5\r\n{}",
          "more than it says": b"1\r\n{}\r\n0\r\n\r\n"}


def bad_heads(host):
    """The end of a POST's head, and its body: each must be refused."""
    shapes = {f"Transfer-Encoding {value!r}": f"Transfer-Encoding: {value}\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" for value in CODINGS}
    return shapes | {
        "two lengths": "Content-Length: 0\r\nContent-Length: 5\r\n\r\n",
        "two equal lengths": "Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
        "length list": "Content-Length: 2, 2\r\n\r\n{}",
        "two codings": "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        "folded": "X-A: b\r\n Content-Length: 5\r\n\r\n",
        "folded coding": "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
        "space before the colon": "Content-Length : 2\r\n\r\n{}",
        "tab before the colon": "Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n",
        "bare LF": "Content-Length: 0\nX: y\r\n\r\n",
        "bare CR": "X: y\rContent-Length: 5\r\n\r\n",
        "NUL": "X: y\0z\r\nContent-Length: 0\r\n\r\n",
        "no colon": "Content-Length\r\n\r\n",
        "no name": ": 5\r\n\r\n",
        "space first": " Content-Length: 0\r\n\r\n",
        "two hosts": f"Host: {host}\r\nContent-Length: 0\r\n\r\n",
        "a host with a path": "Host: a/b\r\nContent-Length: 0\r\n\r\n",
    }


def bad_requests(host):
    """Whole ones."""
    return {
        "LF alone": f"GET /health/live HTTP/1.1\nHost: {host}\n\n".encode(),
        "two spaces": f"GET  /health/live HTTP/1.1\r\nHost: {host}\r\n\r\n".encode(),
        "no host": b"GET /health/live HTTP/1.1\r\n\r\n",
        "GET with a body": f"GET /health/live HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5\r\n\r\nhello".encode(),
        "chunked in 1.0": f"POST /api/v1/jobs HTTP/1.0\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".encode(),
    }
