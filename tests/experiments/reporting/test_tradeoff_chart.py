"""The chart's rows, and the picture that is drawn of them."""

import base64
import io
import xml.etree.ElementTree as ET

import numpy as np
from PIL import Image
from support import handmade_results as handmade

from experiments.reporting import details, tradeoff_chart
from privynet_jax.results.summaries import over_draws


def summaries():
    weak, strong = handmade.attack("linear", 12.0), handmade.attack("residual", 20.0)
    cells = [
        handmade.cell(2, 8, 0, 0.5, (weak, strong)),
        handmade.cell(2, 8, 1, 0.75, (handmade.attack("linear", 23.0), strong)),
        handmade.cell(4, 16, 0, 0.25, (strong,)),
    ]
    return over_draws(cells)


def test_rows_hold_means_and_ends_over_draws():
    first, second = tradeoff_chart.rows(summaries())
    assert first["id"] == "m02_d008_random"
    assert first["layers"] == "2: conv1_2"
    assert (first["accuracy"], first["accuracy_least"], first["accuracy_greatest"]) == (
        62.5,
        50,
        75,
    )
    # The stronger of the two attackers, draw by draw: 20 and 23.
    assert (first["loss"], first["loss_least"], first["loss_greatest"]) == (21.5, 20, 23)
    assert second["loss_least"] == second["loss_greatest"] == 20


def test_losses_are_of_every_attacker_and_statistic():
    first, second = map(tradeoff_chart.losses, summaries())
    # Of results made by hand, p95 lies 5 dB above the mean.
    assert first["mean"]["linear"]["loss"] == 17.5
    assert first["p95"]["linear"]["loss"] == 22.5
    assert first["p95"]["strongest"]["loss_greatest"] == 28
    assert set(second["mean"]) == {"strongest", "residual"}


def test_the_picture_has_every_point_and_both_references():
    rows = tradeoff_chart.rows(summaries())
    spec = tradeoff_chart.specification(rows, (0.4, 13.0))
    address = tradeoff_chart.uri(spec)
    tree = ET.fromstring(base64.b64decode(address.partition(",")[2]))
    texts = {"".join(e.itertext()) for e in tree.iter("{http://www.w3.org/2000/svg}text")}
    assert {"no split", "mean image, no attack", "2: conv1_2", "4: conv2_2"} <= texts
    none = tradeoff_chart.uri(tradeoff_chart.specification(rows, None))
    assert b"no split" not in base64.b64decode(none.partition(",")[2])
    with Image.open(io.BytesIO(tradeoff_chart.png(spec))) as drawn:
        assert len(np.unique(np.asarray(drawn.convert("L")))) > 20
    assert tradeoff_chart.answering(spec)["width"] == "container"


def test_layers_are_told_apart_without_colours():
    rows = [{**tradeoff_chart.rows(summaries())[0], "layers": str(m)} for m in range(8)]
    spec = tradeoff_chart.specification(rows, None)
    [points] = [e for e in spec["layer"] if "params" in e]
    assert len(set(points["encoding"]["shape"]["scale"]["range"])) == 8


def test_details_tell_who_attacked_and_what_it_costs():
    first, second = details.settings(summaries())
    facts = dict(first["facts"])
    assert first["title"] == "2 layers (conv1_2), 8 channels, random"
    assert facts["Draws of channels"] == "2"
    assert facts["Accuracy"] == "62.5 (50.0-75.0) %"
    assert facts["Released"] == "8.0 KiB per image"
    assert facts["Strongest attacker"] == "linear, knows pairs; residual, knows pairs"
    assert dict(second["facts"])["Strongest attacker"] == "residual, knows pairs"
    cells = [cell for summary in summaries() for cell in summary.cells]
    assert details.attackers(cells) == {"linear": "pairs", "residual": "pairs"}
