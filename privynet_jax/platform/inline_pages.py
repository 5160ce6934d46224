"""Pages that are one file: what stands in their elements, and how their policy names it.

    policy = f"script-src {policy_digest(script)}"
    page = f"<script>{inline_script(script)}</script>"

No JAX here.
"""

import base64
import hashlib
import json
from typing import Any


def inline_script(script: str) -> str:
    """Returns a script; ValueError: it would end its own element, or hide what comes after it."""
    if "</script" in script.lower() or "<!--" in script:
        raise ValueError("Expected a script without </script and <!--")
    return script


def inline_data(told: Any) -> str:
    """Returns JSON of which nothing can be taken for a tag."""
    text = json.dumps(told, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def policy_digest(text: str) -> str:
    """Returns how a content-security policy names a script or a style that it allows."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"
