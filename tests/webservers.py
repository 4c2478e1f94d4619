"""The other web servers that people have: Apache httpd, lighttpd, Caddy, Python's own.  tests/servers.py has nginx.

Each makes its indexes as it does when they are turned on and nothing more is said.

    with Caddy(tmp_path / "caddy", docroot, tls=pem) as caddy:
        caddy.url + "/some/file"
"""

from __future__ import annotations

import json
import os
import sys

from tests.serving import Server, Words


class Apache(Server):
    """Apache httpd with mod_autoindex's fancy index, in one process."""

    programs = ("apache2", "httpd")

    _MODULE_DIRECTORIES = ("/usr/lib/apache2/modules", "/usr/lib64/httpd/modules", "/usr/lib/httpd/modules")
    _MODULES = ("mpm_event", "unixd", "authz_core", "dir", "autoindex", "mime")

    def configure(self) -> str:
        """Load what is needed, unless it is built in, and keep all that it writes in one directory."""
        modules = next(filter(os.path.isdir, self._MODULE_DIRECTORIES), "no directory of Apache's modules")
        names = [*self._MODULES, "ssl"] if self.tls else self._MODULES
        load = '<IfModule !{0}_module>\nLoadModule {0}_module "{1}/mod_{0}.so"\n</IfModule>'
        lines = [load.format(name, modules) for name in names]
        lines += [f'SSLEngine on\nSSLCertificateFile "{self.tls}"'] if self.tls else []
        return "\n".join(lines) + _APACHE_CONF.format(directory=self.directory, docroot=self.docroot, port=self.port)

    def command(self) -> Words:
        """Run it in one process. It will not be root: it is made somebody else, who may read all the same."""
        words: Words = [self.program(), "-X", "-d", self.directory, "-f", self.configuration]
        if os.geteuid() != 0:
            return words
        rights = ("--inh-caps=+dac_override", "--ambient-caps=+dac_override")
        return ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *rights, *words]


_APACHE_CONF = """
Listen 127.0.0.1:{port}
ServerName localhost
DefaultRuntimeDir "{directory}"
PidFile "{directory}/pid"
ErrorLog /dev/stderr
TypesConfig /dev/null
DocumentRoot "{docroot}"
<Directory "{docroot}">
    Options Indexes
    IndexOptions FancyIndexing
    Require all granted
</Directory>
"""


class Lighttpd(Server):
    """lighttpd with mod_dirlisting. What has no type that it knows, here all but `.img`, gets no ETag and no date."""

    programs = ("lighttpd",)

    def configure(self) -> str:
        """Name what it needs; it loads the modules for indexes and files by itself."""
        tls = f'server.modules = ("mod_openssl")\nssl.engine = "enable"\nssl.pemfile = "{self.tls}"' if self.tls else ""
        return _LIGHTTPD_CONF.format(docroot=self.docroot, port=self.port, tls=tls)

    def command(self) -> Words:
        """Run it in the foreground."""
        return [self.program(), "-D", "-f", self.configuration]


_LIGHTTPD_CONF = """
server.bind = "127.0.0.1"
server.port = {port}
server.document-root = "{docroot}"
dir-listing.activate = "enable"
mimetype.assign = (".img" => "application/octet-stream")
{tls}
"""


class Caddy(Server):
    """Caddy with its file server's index."""

    programs = ("caddy",)

    def configure(self) -> str:
        """Keep it from what it does by itself: administration, certificates, HTTP/3, a configuration kept at home."""
        site: dict[str, object] = {
            "listen": [f"127.0.0.1:{self.port}"],
            "protocols": ["h1", "h2"],
            "automatic_https": {"disable": True},
            "routes": [{"handle": [{"handler": "file_server", "root": str(self.docroot), "browse": {}}]}],
        }
        apps: dict[str, object] = {"http": {"servers": {"site": site}}}
        if self.tls:
            site["tls_connection_policies"] = [{}]
            apps["tls"] = {"certificates": {"load_files": [{"certificate": str(self.tls), "key": str(self.tls)}]}}
        storage = {"module": "file_system", "root": str(self.directory / "storage")}
        return json.dumps({"admin": {"disabled": True, "config": {"persist": False}}, "storage": storage, "apps": apps})

    def environment(self) -> dict[str, str]:
        """Give it a home of its own."""
        return {**super().environment(), "HOME": str(self.directory)}

    def command(self) -> Words:
        """Run it in the foreground."""
        return [self.program(), "run", "--config", self.configuration]


class PythonServer(Server):
    """`python -m http.server`, which knows no ranges; with TLS the same in a few lines, as it has none before 3.14."""

    programs = (sys.executable,)

    def command(self) -> Words:
        """Run it, isolated from our modules."""
        if self.tls:
            return [self.program(), "-I", "-c", _PYTHON_WITH_TLS, str(self.port), self.docroot, self.tls]
        where: Words = ["--bind", "127.0.0.1", "--directory", self.docroot]
        return [self.program(), "-I", "-m", "http.server", *where, str(self.port)]


_PYTHON_WITH_TLS = """
import functools, http.server, ssl, sys
port, docroot, pem = sys.argv[1:]
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=docroot)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(pem)
with http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), handler) as server:
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.serve_forever()
"""
