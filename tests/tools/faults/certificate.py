"""A self-signed certificate for 127.0.0.1 that nobody trusts; its key is useful for nothing else."""

from __future__ import annotations

import functools
import ssl
import tempfile
from pathlib import Path

_PEM = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgn08wpTvte2EL2Q/r
jmURN71j1v/cQlqeiEIRBWNX3BShRANCAATQavtl/W2uYQbzx2ERKGG4ptjh0yEO
1mxdAv7wGJaE7QWavk1xYqxGb33BZMFIoF/x4+fJW1IGCQKiYcoC49Oi
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBkDCCATagAwIBAgIUdEkeN29x57LCQyj0/TLv40C5OaYwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJMTI3LjAuMC4xMCAXDTI2MTEyNDA5NDUwNloYDzIxMjYxMDMx
MDk0NTA2WjAUMRIwEAYDVQQDDAkxMjcuMC4wLjEwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAATQavtl/W2uYQbzx2ERKGG4ptjh0yEO1mxdAv7wGJaE7QWavk1xYqxG
b33BZMFIoF/x4+fJW1IGCQKiYcoC49Oio2QwYjAdBgNVHQ4EFgQU5vz4HFUjfamd
8O1S4Kzc5jyYrtAwHwYDVR0jBBgwFoAU5vz4HFUjfamd8O1S4Kzc5jyYrtAwDwYD
VR0TAQH/BAUwAwEB/zAPBgNVHREECDAGhwR/AAABMAoGCCqGSM49BAMCA0gAMEUC
IDhCjgbMO7UHgl2+saxs3Lxxlx00MXW0oFD7PN5qOWtsAiEA7Zjy0AdnCCxHlVgO
BNtiUTps+LTD9Z9p6Np2sL4cg6k=
-----END CERTIFICATE-----
"""


@functools.cache
def context() -> ssl.SSLContext:
    """The server's context with it."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "certificate.pem"
        path.write_text(_PEM)
        made.load_cert_chain(path)
    return made
