"""A store of format 1, as the first code that wrote one left it: what could be read then can be read for ever.

It holds a blob of two blocks and 100 bytes, whose first and last blocks are present, its name, a listing, and bounds of
1 GiB and 1 MiB. Its catalogue is of before versions were counted.
"""

from __future__ import annotations

import base64
import io
import tarfile
from pathlib import Path

_FORMAT_1 = (
    "/Td6WFoAAATm1rRGAgAhARwAAAAQz1jM4n//BQVdACMTxopQH4p+tx0i2WNGPn3BpixupyGxtdmif1UyeALspaZJw2Aca/A7x9OFDwOTx0tz+M1c"
    "FnMlHsLFFNyKZHWANBvdtE5m8nywhSEN59T5EoPsBmbV2419/2K1vFHmaPoIsiHF/nrnuKMjMAJUsSVrU4SY3m98ZTaCNkQpdLdqs6p2C9lkpVjH"
    "oKQy07iqOicjL6sA8FBfWSdVgZmCQRdXsKP+Zxhv9GXr/BJTYbqcjRdNiqoHOd1u7slvxRQr55/zspL2ChCXBmuSHLS36CAeFl1ZN9cE3Oo+90jr"
    "KoRIRRLxpg5TFRIk88nXdupmPvrYPcnKvMmKYguexjOS9J3lIKIHVuTZcNzpgqaqx9Nch22vjZtSRlNH3p+u4rSi3gvVdwLgxiZYHFqLBmbvx07e"
    "KrhrD36+lly31NmxG3CVZ1sQVo12tDPU+Xr+Jf/m30aoXEueaJHkEPm8QGeMCnNe6CbqJDE0nivpcr6dFZ4sDJLdKbMfES2S3YHI5MXD/E2OaypM"
    "yMrcBOaiPZPL33K9GuzaSRxTZyhCvJ5Z3kP+wKOOTsgFvFu2gtP7NpHVvPryn9P8/x2DtCpSDaIuxqdeTWhzVZ0my6KuQdiTc5vVEWvQkaYOmdLe"
    "UkYPm5guCiEmx7O8r2ocMcj1uz5D4nkRJ8XzmR3spFy0ommKz1mxIGtvdyDwZEWuuHXm/N3TYHXfp9CjhC2iX7rqP140IHvZlCNeTj1xbO2lMuSX"
    "KD1nVAl9LaES3tu6L3OKk4XFLlOMUHcERR54CiuVnCRJ8CtBRhlCGHMAJiEMFsbKIar1o1lF8tGODmSgJymRGnoRt+tiE95L7/9Fy6eZB2fsY+9p"
    "F+NZBSL8/5yyJHCOO4l3z3DFcZu6Nt+uCUqiix8+RRDKc2s70z7bR0rIKzadmMy54nWRKuZrTuhSTVfbD9S/wwD37BxZpMgxAsR5FHI1Ku/VjMK+"
    "I3mIKke4wAFE2YI4OKZLXE+Gj53xDuiFYKtP8KZvGlRGGjWH9OC3HaCNLW577r3LFd9+Ah+cMtE7AQp5C5BBOOC35XM/5lnnsdMhhYRNYrtCgXvg"
    "bqnQLTxHOK9uHWPsSuEF/wf/7IminAnUtS42Eb6dE//wTvfqy0fE7tiVLNUnRf092TtHVBWgPOk/CviIzZbdvUPo97hIec3caWGCQvfwADqUJhvc"
    "DbuV5lpfFwfDVgiLDxddGltTEh7x7VMgfaLsOH88K1xFHJFzhT3sB4+/Tq24x22vs6pO6gR5xFszILzyzhzc96BYYwbmOr0fvmB/gXnP+nz+C9mH"
    "7tt8AjzcgPy64NjcSU9f7uvMzL6aVbgR+gj+FZ/zeteeLUBSP9fNJ7NE5lFw49f3hyHXj7tcNf9V7fIzwF8rxN5YDla6uQZbW8VKQ2klRcOOOw59"
    "IsgdfeOLjyN19tGwyLc8bKW5mCy4XFreerguISVnGToYBQqiNxR8+5joy4+8xAQMOCS5+v67iFBBqY4qnkg7ll1tt9XRQIwsOQXkKzOR/g9ApMTm"
    "idft9t4f0ErY3Bqu/6Vu5AAaql1wuLTMIw57Lal1s8/gFbWPDbvcfTtBEE35EvyJdSVU3wF4zcpjG/u9RQuvnljnGYttBrx9R51qRBA6OfvqTh2c"
    "+rB2PD4ILcRoscrJ7X9d7e7CV7KWz8yp8XB7EPr0ZFDYnajIap7BSaD6uBUiCSIktmR9d1fR3QAAAAAA51shCd9eVmMAAaEKgIAKAAZLJq2xxGf7"
    "AgAAAAAEWVo="
)


def format_1(path: Path) -> None:
    """Make the store at a path."""
    path.mkdir(mode=0o700)
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(_FORMAT_1)), mode="r:xz") as archive:
        archive.extractall(path)
