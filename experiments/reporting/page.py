"""The page itself: the template filled in, and scripts that the page alone may run.

`experiments.report` says what is in it.
"""

import base64
import hashlib
import importlib.resources
import json
from collections.abc import Mapping
from typing import Any

import jinja2
import markupsafe

from experiments.reporting import tradeoff_chart


def rendered(content: Mapping[str, Any]) -> str:
    """Returns the page as HTML; its script reads what is "told" as JSON.

    The policy names the digest of each script: no other one runs in it.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("experiments"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    own = importlib.resources.files("experiments") / "templates" / "report.js"
    scripts = [tradeoff_chart.libraries(), own.read_text(encoding="utf-8")]
    return environment.get_template("report.html").render(
        **content,
        scripts=[markupsafe.Markup(_checked(script)) for script in scripts],
        script_digests=[_digest(script) for script in scripts],
        told_as_data=markupsafe.Markup(_as_data(content["told"])),
    )


def _checked(script: str) -> str:
    """A script that cannot end its own element, or hide what comes after it."""
    if "</script" in script.lower() or "<!--" in script:
        raise ValueError("Expected a script without </script and <!--")
    return script


def _digest(script: str) -> str:
    """As a content security policy names what may run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")


def _as_data(told: Mapping[str, Any]) -> str:
    """JSON within HTML: nothing in it can be taken for a tag."""
    text = json.dumps(told, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
