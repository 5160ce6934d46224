"""The trade-off as a chart that answers: a Vega-Lite specification, its rows, and what draws it.

`experiments.report` puts the specification and the libraries into its page, and a picture of the
same beside it, for paper and for browsers without scripts. vl-convert has the libraries inside, so
its version says theirs, and nothing is fetched.
"""

import base64
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import vl_convert

from experiments.reporting import plots
from experiments.reporting.deciding import setting_id
from privynet_jax.planning.plan import STATISTICS
from privynet_jax.results.summaries import DrawSummary, Spread

# Privacy loss of whoever is strongest at it, beside that of each attacker.
STRONGEST = "strongest"
_SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
_SHAPES += ("triangle-right", "triangle-left")
_DASHES = {"-": [1, 0], "--": [6, 3], "-.": [7, 3, 2, 3], ":": [2, 3]}
_WIDTH, _HEIGHT = 620, 380
_INK, _SOFT = "#1c1f23", "#5b636d"
_AXES = {"labelColor": _INK, "titleColor": _INK, "labelFontSize": 12, "titleFontSize": 12}
_X = {
    "field": "loss",
    "type": "quantitative",
    "title": "PSNR, dB (left is more private)",
    "scale": {"zero": False, "nice": True},
    "axis": {"tickCount": 8, "labelOverlap": True},
}
_Y = {
    "field": "accuracy",
    "type": "quantitative",
    "title": "accuracy on test images, %",
    "scale": {"zero": False, "nice": True},
}


def rows(summaries: Sequence[DrawSummary]) -> list[dict[str, Any]]:
    """Returns a row per setting as the static picture shows it: all allowed, the mean's loss.

    Of layers, channels and selection the title tells; accuracies are in %, losses in dB, each with
    its least and greatest over draws.
    """
    return [
        {
            **place(summary),
            **ends("accuracy", summary.accuracy, 100),
            **ends("loss", summary.psnr_db, 1),
            **{"state": "allowed", "chosen": False, "shown": False},
        }
        for summary in summaries
    ]


def place(summary: DrawSummary) -> dict[str, Any]:
    """Returns what tells a setting from others."""
    first = summary.cells[0]
    return {
        "id": setting_id(first.num_layers, first.depth, first.selection),
        "layers": f"{first.num_layers}: {first.layer}",
        "channels": first.depth,
        "selection": first.selection,
    }


def ends(name: str, spread: Spread, factor: float) -> dict[str, float]:
    """Returns a spread's mean, least and greatest as columns of a row, rounded."""
    values = {"": spread.mean, "_least": spread.least, "_greatest": spread.greatest}
    return {name + end: round(factor * value, 3) for end, value in values.items()}


def losses(summary: DrawSummary) -> dict[str, dict[str, dict[str, float]]]:
    """Returns statistic -> attacker -> PSNR in dB over test images: mean over draws, and ends."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    names = dict.fromkeys(attack.attacker for cell in summary.cells for attack in cell.attacks)
    for statistic in STATISTICS:
        values = {STRONGEST: [cell.row()[f"psnr_db_{statistic}"] for cell in summary.cells]}
        for name in names:
            own = (a for cell in summary.cells for a in cell.attacks if a.attacker == name)
            values[name] = [getattr(attack.psnr_db, statistic) for attack in own]
        found[statistic] = {who: ends("loss", Spread.of(v), 1) for who, v in values.items()}
    return found


def specification(
    shown: Sequence[Mapping[str, Any]], references: tuple[float, float] | None
) -> dict[str, Any]:
    """Returns the chart in Vega-Lite, of rows and the references' accuracy and PSNR, if any.

    Layers are told apart by shape and dashes besides colours; what is not allowed is hollow.
    """
    layers = list(dict.fromkeys(row["layers"] for row in shown))
    bars = {"mark": {"type": "rule", "opacity": 0.5}}
    lows, highs = ("loss_least", "loss_greatest"), ("accuracy_least", "accuracy_greatest")
    across = {"x": {**_X, "field": lows[0]}, "x2": {"field": lows[1]}, "y": _Y}
    upright = {"x": _X, "y": {**_Y, "field": highs[0]}, "y2": {"field": highs[1]}}
    stroke = _by_layers(layers, [s["color"] for s in _styles(len(layers))])
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "description": "Accuracy against privacy loss of all settings.",
        "width": _WIDTH,
        "height": _HEIGHT,
        "background": "white",
        "padding": {"left": 5, "top": 18, "right": 14, "bottom": 5},
        "data": {"name": "settings", "values": list(shown)},
        "layer": [
            *_reference_lines(references),
            {**bars, "encoding": {**across, "stroke": stroke}},
            {**bars, "encoding": {**upright, "stroke": stroke}},
            _lines(layers, stroke),
            _points(layers, stroke, sorted({row["channels"] for row in shown})),
            _ring("datum.chosen", {"size": 520, "strokeWidth": 2.5, "shape": "circle"}),
            _ring("datum.shown", {"size": 900, "strokeDash": [4, 3], "shape": "square"}),
            _label(),
        ],
        "config": {
            "font": "sans-serif",
            "aria": False,  # the list beside it is for those who do not see it
            "axis": {**_AXES, "gridColor": "#e3e6ea"},
            "legend": {
                **{**_AXES, "orient": "bottom", "columns": 4, "symbolType": "circle"},
                **{"symbolSize": 90, "symbolStrokeColor": _SOFT, "symbolFillColor": _SOFT},
                **{"symbolOpacity": 1, "symbolDash": [1, 0]},
                "layout": {"bottom": {"direction": "vertical", "anchor": "start"}},
            },
            "view": {"stroke": None},
        },
    }


def answering(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the chart as wide as what it is put into."""
    fitted = {"type": "fit-x", "contains": "padding"}
    return {**spec, "width": "container", "autosize": fitted}


def uri(spec: Mapping[str, Any]) -> str:
    """Returns the chart drawn, as an address that holds it whole."""
    svg = vl_convert.vegalite_to_svg(dict(spec)).encode()
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode("ascii")


def png(spec: Mapping[str, Any]) -> bytes:
    """Returns the chart drawn, as the content of a PNG file."""
    return vl_convert.vegalite_to_png(dict(spec), scale=2)


@functools.cache
def libraries() -> str:
    """Returns the JavaScript that draws such charts: Vega, Vega-Lite and Vega-Embed."""
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")


def versions() -> dict[str, str]:
    """Returns the versions of what `libraries` has."""
    return {
        "Vega": vl_convert.get_vega_version(),
        "Vega-Lite": vl_convert.get_vegalite_versions()[-1],
        "Vega-Embed": vl_convert.get_vega_embed_version(),
    }


def _styles(count: int) -> list[dict[str, Any]]:
    styles = plots.layer_styles(count)
    shapes = itertools.islice(itertools.cycle(_SHAPES), count)
    return [
        {
            "color": plots.matplotlib.colors.to_hex(style["color"]),
            "dash": _DASHES[style["linestyle"]],
            "shape": shape,
        }
        for style, shape in zip(styles, shapes, strict=True)
    ]


def _by_layers(layers: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    scale = {"domain": list(layers), "range": list(values)}
    legend = {"title": "local layers"}
    return {"field": "layers", "type": "nominal", "scale": scale, "legend": legend}


def _lines(layers: Sequence[str], stroke: Mapping[str, Any]) -> dict[str, Any]:
    dashes = [style["dash"] for style in _styles(len(layers))]
    return {
        "mark": {"type": "line", "strokeWidth": 1.5, "opacity": 0.6},
        "encoding": {
            **{"x": _X, "y": _Y, "stroke": stroke},
            "strokeDash": _by_layers(layers, dashes),
            "detail": [{"field": "selection"}],
            "order": {"field": "channels"},
        },
    }


def _points(
    layers: Sequence[str], stroke: Mapping[str, Any], depths: Sequence[int]
) -> dict[str, Any]:
    styles = _styles(len(layers))
    colours = [style["color"] for style in styles]
    lit = {"test": "datum.state === 'allowed'", "value": 1}
    dim = {"test": "datum.state === 'refused'", "value": 0.75}
    return {
        "mark": {"type": "point", "strokeWidth": 1.8},
        # Wherever the pointer is, the nearest point is meant: fingers are thick.
        "params": [
            {
                "name": "near",
                "select": {
                    **{"type": "point", "on": "pointerover", "nearest": True},
                    **{"fields": ["id"], "clear": False, "toggle": False},
                },
            }
        ],
        "encoding": {
            **{"x": _X, "y": _Y, "stroke": stroke},
            "fill": _by_layers(layers, colours),
            "shape": _by_layers(layers, [style["shape"] for style in styles]),
            "size": {
                "field": "channels",
                "type": "quantitative",
                "scale": {"type": "sqrt", "zero": False, "range": [50, 190]},
                "legend": {"title": "released channels", "values": list(depths)},
            },
            "fillOpacity": {"condition": lit, "value": 0},
            "opacity": {"condition": [lit, dim], "value": 0.3},
        },
    }


def _ring(test: str, mark: Mapping[str, Any]) -> dict[str, Any]:
    """A mark around the one setting that is chosen, or shown; the others' is not seen."""
    seen = {"condition": {"test": test, "value": 1}, "value": 0}
    return {
        "mark": {"type": "point", "filled": False, "color": _INK, "strokeWidth": 1.5, **mark},
        "encoding": {"x": _X, "y": _Y, "opacity": seen},
    }


def _label() -> dict[str, Any]:
    text = {"type": "text", "dy": -20, "fontSize": 12, "fontWeight": "bold", "text": "plan"}
    return _ring("datum.chosen", text | {"strokeWidth": 0, "filled": True})


def _reference_lines(references: tuple[float, float] | None) -> list[dict[str, Any]]:
    if references is None:
        return []
    no_split, mean_image = references
    rule = {"type": "rule", "color": _SOFT, "strokeWidth": 1.2, "strokeDash": [2, 3]}
    told = {"type": "text", "color": _SOFT, "fontSize": 11, "baseline": "bottom", "align": "right"}
    at_y = {"datum": round(100 * no_split, 3), "type": "quantitative"}
    at_x = {"datum": round(mean_image, 3), "type": "quantitative"}
    up = {"angle": 270, "text": "mean image, no attack", "y": 4, "dy": -3}
    along = {"text": "no split", "x": "width", "dy": -3}
    marks = [
        (rule, {"y": at_y}),
        (rule | {"strokeDash": [6, 3]}, {"x": at_x}),
        (told | along, {"y": at_y}),
        (told | up, {"x": at_x}),
    ]
    once = {"values": [{}]}  # in place of once per setting
    return [{"data": once, "mark": mark, "encoding": at} for mark, at in marks]
