"""The page itself: the template filled in, and scripts that the page alone may run.

`experiments.report` says what is in it.
"""

import importlib.resources
from collections.abc import Mapping
from typing import Any

import jinja2
import markupsafe

from experiments.reporting import tradeoff_chart
from privynet_jax.platform.inline_pages import inline_data, inline_script, policy_digest


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
        scripts=[markupsafe.Markup(inline_script(script)) for script in scripts],
        script_digests=[policy_digest(script) for script in scripts],
        told_as_data=markupsafe.Markup(inline_data(content["told"])),
    )
