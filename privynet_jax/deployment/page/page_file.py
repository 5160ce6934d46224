"""The package as one HTML file, which any browser runs, from the disk or from any web server.

    page = page_of(settings, local_nn, cloud_nn, cache_dir)

All is in it: the networks, ONNX Runtime for WebAssembly, which comes from npm, and the scripts of
`static/`. Its policy allows those very scripts alone, none of which sends anything, and refuses
fetches, forms, frames and foreign images besides: what is chosen there leaves as a file that a
person saves. It makes releases by their format and not by this
library's code; tests hold the two together. No JAX here.
"""

import base64
import dataclasses
import gzip
import string
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from privynet_jax.deployment.device.local_package import Settings
from privynet_jax.errors import UserError
from privynet_jax.images.pixels.reading import Reading
from privynet_jax.mechanisms.on_device import NONE
from privynet_jax.platform.fetching import PinnedNpm, fetch_members
from privynet_jax.platform.inline_pages import inline_data, inline_script, policy_digest

PAGE = "page.html"
_RUNTIME = PinnedNpm("onnxruntime-web", "1.30.0")
_PROGRAM, _WASM = "dist/ort.wasm.bundle.min.mjs", "dist/ort-wasm-simd-threaded.wasm"
_MEMBERS = {
    _PROGRAM: "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    _WASM: "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
# What the page's scripts use of the module, by the names that it exports them under.
_USED = ("InferenceSession", "Tensor", "env")
_SCRIPTS = ("pixels.js", "release.js", "networks.js", "classifier.js", "page.js")
# Of the settings, what the page needs.
_TOLD = ("image_size", "shape", "class_ids", "plan_id", "release_seed", "trial")


@dataclasses.dataclass(frozen=True, eq=False)
class Attacker:
    """What a page shows of one attacker; with it, a page releases nothing.

    Attributes:
        network: of `attacker_graph`.
        psnr_db: its mean over test images that it never saw.
        pairs: how many pictures it learnt from, with what is released of them.
    """

    network: bytes
    psnr_db: float
    pairs: int


def fetch_runtime(cache_dir: Path) -> tuple[Path, Path]:
    """Returns ONNX Runtime's module and WebAssembly, fetched once; UserError: they cannot be."""
    module, wasm = fetch_members(_RUNTIME, _MEMBERS, cache_dir)
    return module, wasm


def check_possible(mechanism: str, reading: Reading) -> None:
    """Raises UserError where a page cannot do what a plan's mechanism does, or read as it does."""
    if reading.sixteen_bit_max or reading.dicom_window:
        raise UserError(
            "the plan's pictures have more than 8 bits a channel, which browsers do not read as "
            "the program does; leave --page out"
        )
    if mechanism != NONE:
        raise UserError(
            f"the plan has the mechanism {mechanism}, which the program adds and a page cannot; "
            "leave --page out"
        )


def page_of(
    settings: Settings,
    local_nn: bytes,
    cloud_nn: bytes,
    cache_dir: Path,
    attacker: Attacker | None = None,
) -> bytes:
    """Returns the page.

    Args:
        settings: of the package that it is part of; their `files` are not looked at.
        local_nn: the package's network, ONNX.
        cloud_nn: what runs classifiers, ONNX.
        cache_dir: where ONNX Runtime for browsers is kept, 14 MiB.
        attacker: shows what it rebuilds beside each picture.

    Raises:
        UserError: a mechanism that no page has, or ONNX Runtime cannot be fetched.
    """
    check_possible(settings.mechanism, settings.reading)
    program, wasm = fetch_runtime(cache_dir)
    module = _as_global(program.read_text(encoding="utf-8"))
    style, scripts = _static("page.css"), "\n".join(map(_static, _SCRIPTS))
    told = {name: getattr(settings, name) for name in _TOLD} | {"fit": settings.reading.fit}
    networks = {"local_nn": local_nn, "cloud_nn": cloud_nn, "runtime": wasm.read_bytes()}
    if attacker is not None:
        told["attacker"] = {"psnr_db": attacker.psnr_db, "pairs": attacker.pairs}
        networks["attacker"] = attacker.network
    parts = [
        _part("settings", inline_data(told), "application/json"),
        *(
            _part(name, base64.b64encode(gzip.compress(data, mtime=0)).decode())
            for name, data in networks.items()
        ),
        f"<script>{inline_script(scripts)}</script>",
        f'<script type="module">{inline_script(module)}</script>',
    ]
    height, width, depth = settings.shape
    filled = {
        "policy": _policy(style, scripts, module),
        "style": style,
        "numbers": f"{height * width * depth:,}",
        "about": f"Computed by {_RUNTIME.name} {_RUNTIME.version}, which is in this page.",
        "parts": "\n".join(parts),
    }
    return string.Template(_static("page.html")).substitute(filled).encode()


def _policy(style: str, *scripts: str) -> str:
    """What the browser may do: run these scripts, WebAssembly, and show what it has."""
    rules: Mapping[str, str] = {
        "default-src": "'none'",
        "script-src": f"{' '.join(map(policy_digest, scripts))} 'wasm-unsafe-eval'",
        "style-src": policy_digest(style),
        "img-src": "data:",
        "connect-src": "'none'",
        "form-action": "'none'",
        "base-uri": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _as_global(module: str) -> str:
    """The module without its exports, which inline modules cannot have; `ort` has what is used."""
    code, _, exports = module.partition("export{")
    own = dict(pair.split(" as ")[::-1] for pair in exports.partition("}")[0].split(","))
    given = ",".join(f"{name}:{own[name]}" for name in _USED)
    return f"{code}globalThis.ort={{{given}}};"


def _part(name: str, text: str, kind: str = "application/gzip") -> str:
    return f'<script id="{name}" type="{kind}">{text}</script>'


def _static(name: str) -> str:
    folder: Any = resources.files("privynet_jax.deployment.page") / "static"
    return (folder / name).read_text(encoding="utf-8")
