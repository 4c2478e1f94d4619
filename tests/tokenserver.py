"""A token server of tests, in a process of its own: signs what docker-registry believes, by the token specification.

Who shows the user's password is given what is asked for; nobody in particular may pull what is `public`, and is given a
token that allows nothing of the rest, as Docker Hub does. A wrong password is a 401.

*Source*: distribution 2.8, docs/spec/auth/token.md and jwt.md; RFC 7515 (RS256, x5c).
"""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOLD: dict[str, Any] = {}


class Handler(BaseHTTPRequestHandler):
    """Answers `GET /token?service=...&scope=repository:NAME:ACTIONS`."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Give a token."""
        query = parse_qs(urlsplit(self.path).query)
        scopes, service = query.get("scope", []), query.get("service", [""])[0]
        authorization = self.headers.get("authorization", "")
        status = 200 if authorization in ("", TOLD["authorization"]) else 401
        with Path(TOLD["log"]).open("a") as log:
            line = {"scope": scopes, "service": service, "authorization": authorization, "status": status}
            log.write(json.dumps(line) + "\n")
        answer = {"token": _token(scopes, service, known=bool(authorization)), "expires_in": TOLD["life"]}
        body = json.dumps(answer if status == 200 else {"details": "wrong password"}).encode()
        self.send_response(status)
        if status == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="tokens"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _token(scopes: list[str], service: str, *, known: bool) -> str:
    access = []
    for scope in scopes:
        kind, name, actions = scope.split(":")
        allowed = actions.split(",") if known else ["pull"] if name in TOLD["public"] else []
        access.append({"type": kind, "name": name, "actions": allowed})
    now = int(time.time())
    claims = {"iss": TOLD["issuer"], "sub": "", "aud": service, "iat": now, "nbf": now - 10, "jti": str(now)}
    claims |= {"exp": now + TOLD["life"], "access": access}
    certificate = base64.b64encode(ssl.PEM_cert_to_DER_cert(Path(TOLD["certificate"]).read_text())).decode()
    header = {"typ": "JWT", "alg": "RS256", "x5c": [certificate]}
    signed = ".".join(_encoded(json.dumps(part).encode()) for part in (header, claims))
    words = ["openssl", "dgst", "-sha256", "-sign", TOLD["key"]]
    signature = subprocess.run(words, input=signed.encode(), capture_output=True, check=True).stdout
    return f"{signed}.{_encoded(signature)}"


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


if __name__ == "__main__":
    TOLD = json.loads(Path(sys.argv[1]).read_text())
    ThreadingHTTPServer(("127.0.0.1", TOLD["port"]), Handler).serve_forever()
