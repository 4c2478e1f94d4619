"""Keeps httpx from loading its own command line client, which nobody here runs; to be imported before httpx.

It does so whenever click, rich and pygments are there, as they are for our own commands: 45 of the 115 ms of processor
time that `import httpx` took, at the start of each mount. Where they are missing it does without, and so it does here.

*Source*: httpx 0.28, `__init__.py`; None in sys.modules makes an import fail (importlib's reference, "sys.modules").
"""

from __future__ import annotations

import sys

sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type] # typeshed does not know of None
