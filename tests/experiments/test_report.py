"""The report: what it says of results made by hand and of a real run, and how it refuses damage."""

import base64
import csv
import functools
import hashlib
import html.parser
import json
import re
import shutil
import stat

import numpy as np
import pytest
from PIL import Image
from support import handmade_plan, package_samples
from support import handmade_results as handmade
from support.commands import refused

from experiments import report
from experiments.reporting import pictures as report_pictures
from experiments.reporting import promises, sections, tables, tradeoff_chart, watching
from privynet_jax.auditing.audit import Audit, Finding
from privynet_jax.backbone.topology import Topology
from privynet_jax.errors import UserError
from privynet_jax.planning.plan import write_plan
from privynet_jax.platform.files import write_atomically
from privynet_jax.platform.signals import Terminated
from privynet_jax.results.summaries import over_draws
from privynet_jax.results.work_directory import ResultStore
from privynet_jax.selection.secret_draw import Selection, entropy_bits

SEED, CANDIDATES = "c7" * 32, (4, 9, 17, 30, 41, 63)


@pytest.fixture
def run(tiny_run, tmp_path):
    """A copy of a real run that may be written into, and the folder of its data."""
    shutil.copytree(tiny_run.workdir, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def command(run_command, test_data_dir):
    """Runs the command; returns status, output and error."""
    return functools.partial(run_command, report, f"--data_dir={test_data_dir}")


class Outline(html.parser.HTMLParser):
    """The tags of a page with their attributes, and every address in them."""

    def __init__(self, page):
        super().__init__()
        self.tags = []
        self.feed(page)
        self.addresses = [
            (tag, value)
            for tag, attributes in self.tags
            for name, value in attributes.items()
            if name in ("src", "href", "srcset", "data", "action", "poster")
        ]

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def all(self, tag):
        return [attributes for found, attributes in self.tags if found == tag]


# The command, on a real run.


def test_the_page_needs_nothing_else(command, run):
    status, output, error = command(f"--workdir={run}")
    assert (status, error) == (0, "")
    assert "It shows test images" in output
    page = (run / "report.html").read_text(encoding="utf-8")
    outline = Outline(page)
    for tag, address in outline.addresses:
        allowed = ("data:", "#", "https://arxiv.org/") if tag == "a" else ("data:",)
        assert address.startswith(allowed), (tag, address[:60])
    assert not {"iframe", "object", "embed", "form", "noscript"} & {tag for tag, _ in outline.tags}
    data, *scripts = outline.all("script")
    assert data == {"type": "application/json", "id": "told"}
    assert scripts == [{"type": "module"}] * 2
    [policy] = [m["content"] for m in outline.all("meta") if "http-equiv" in m]
    assert policy.startswith("default-src 'none'; img-src data:; ")
    inline = re.findall(r'<script type="module">(.*?)</script>', page, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in inline]
    assert re.search("script-src (.*?);", policy)[1] == " ".join(f"'sha256-{d}'" for d in digests)
    still = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert "@import" not in still
    assert "url(" not in still
    assert len(page) < 5 * 2**20
    images = outline.all("img")
    # A trade-off, three heat maps, and for each of 4 cells two images for each of three ranks.
    assert len(images) == 1 + 3 + 4 * 3 * 2
    assert all(len(image["alt"]) > 10 for image in images)
    ids = [attributes["id"] for _, attributes in outline.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert {a["href"][1:] for a in outline.all("a") if a["href"].startswith("#")} <= set(ids)
    assert len(outline.all("h1")) == 1
    assert len(outline.all("caption")) == len(outline.all("table"))
    assert all(attributes.get("scope") in ("col", "row") for attributes in outline.all("th"))
    pictures = {path.name for path in (run / "report_pictures").iterdir()}
    assert {"tradeoff.png", "heatmap_ssim_random.png", "m02_d003_r00.png"} <= pictures
    assert not list(run.glob(".report*"))
    assert "balanced over classes" in page
    assert "always answering the commonest class" in page
    assert "balanced, %" in page


def test_without_test_images_no_data_are_needed(command, run, tmp_path):
    """And what other commands left is shown."""
    (run / "inference.csv").write_text(
        "attack,num_layers,tpr_at_1_fpr\nmembership <b>,2,0.0123456\nattribute,4,\n"
    )
    arguments = (f"--workdir={run}", "--notest_images", f"--data_dir={tmp_path / 'nowhere'}")
    status, output, error = command(*arguments, f"--out={tmp_path / 'page.html'}")
    assert (status, error) == (0, "")
    assert "test images" not in output
    page = (tmp_path / "page.html").read_text()
    assert len(Outline(page).all("img")) == 4
    assert len(list((tmp_path / "page_pictures").iterdir())) == 4
    assert '<section id="file-inference">' in page
    assert "membership &lt;b&gt;" in page
    assert "0.01235" in page


def test_a_report_replaces_nothing_but_itself(command, run, tmp_path):
    given = (f"--workdir={run}", "--notest_images", f"--out={tmp_path / 'page.html'}")
    (tmp_path / "page_pictures").mkdir()
    (tmp_path / "page_pictures" / "tradeoff.png").write_text("mine")
    refused(command(*given), "page_pictures exists already")
    assert (tmp_path / "page_pictures" / "tradeoff.png").read_text() == "mine"
    shutil.rmtree(tmp_path / "page_pictures")
    (tmp_path / "page.html").write_text("mine")
    refused(command(*given), "page.html exists already, and is no report of this characterisation")
    assert (tmp_path / "page.html").read_text() == "mine"
    (tmp_path / "page.html").unlink()
    assert [command(*given)[0] for _ in range(2)] == [0, 0]
    (tmp_path / "page_pictures" / "tradeoff.png").write_text("mine")
    refused(command(*given), "page_pictures/tradeoff.png is of no report of this characterisation")
    assert (tmp_path / "page_pictures" / "tradeoff.png").read_text() == "mine"


def test_a_report_that_was_killed_is_made_again(command, run, monkeypatch):
    def stopped(path, *given, **named):
        if path.suffix == ".png" and len(list(path.parent.iterdir())) == 2:
            raise Terminated
        write_atomically(path, *given, **named)

    monkeypatch.setattr(report, "write_atomically", stopped)
    given = (f"--workdir={run}", "--notest_images")
    assert command(*given)[0] == 143
    monkeypatch.undo()
    assert command(*given)[0] == 0
    assert len(list((run / "report_pictures").iterdir())) == 4
    with Image.open(run / "report_pictures" / "tradeoff.png") as shown:
        shown.load()
        assert shown.text["Source"].startswith("privynet_jax ")


# Damage ends in one line, and leaves no page.


def test_damage_is_refused(command, run, tmp_path):
    missing = run / "cells" / "m02_d003_r00.json"
    kept = missing.read_bytes()
    missing.unlink()
    refused(command(f"--workdir={run}"), "is not finished")
    missing.write_bytes(kept)
    (run / "risk.csv").write_bytes(b"a,b\n1\n")
    refused(command(f"--workdir={run}"), "risk.csv is damaged")
    (run / "risk.csv").write_text("a,b\n1,2\n")
    (run / "risk.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    refused(command(f"--workdir={run}"), "risk.png is damaged")
    (run / "risk.png").unlink()
    attacks = (run / "attacks.csv").read_bytes()
    (run / "attacks.csv").write_bytes(b"a,b\n1\n")
    with pytest.MonkeyPatch.context() as patch:
        fail = pytest.fail
        patch.setattr(tradeoff_chart, "specification", lambda *_: fail("drew before it read"))
        refused(command(f"--workdir={run}"), "attacks.csv is damaged")
    (run / "attacks.csv").write_bytes(attacks)
    (run / "reference.csv").unlink()
    refused(command(f"--workdir={run}"), "reference.csv is missing or damaged")
    refused(command(f"--workdir={tmp_path}"), "is no work directory")
    refused(command(), "no --workdir is given")
    assert not list(run.glob("*.html"))
    assert not (run / "report_pictures").exists()


def test_other_images_are_refused(command, run, tmp_path):
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "data_fingerprint": "abc"}))
    refused(command(f"--workdir={run}"), "other images now", "--notest_images")
    refused(command(f"--workdir={run}", f"--out={tmp_path}/plan.json"), "must end in .html")
    refused(command(f"--workdir={run}", f"--out={tmp_path}/no/a.html"), "in a folder that exists")
    del config["examples"]
    (run / "config.json").write_text(json.dumps(config))
    refused(command(f"--workdir={run}"), "says nothing usable of examples")


def test_lost_reconstructions_are_refused(command, run):
    path = next((run / "cells").glob("m04*.npz"))
    with np.load(path) as found:
        arrays = {name: value for name, value in found.items() if "examples" not in name}
    np.savez_compressed(path, **arrays)
    refused(command(f"--workdir={run}"), path.name, "lacks the reconstructions")
    assert command(f"--workdir={run}", "--notest_images")[0] == 0


# A characterisation that is running.


def test_a_running_characterisation_is_followed(command, run, monkeypatch):
    held = {p: p.read_bytes() for p in (run / "cells").glob("m04*r01.json")}
    for name in ("reference.csv", "attacks.csv"):  # in the order in which they come
        held[run / name] = (run / name).read_bytes()
    for path in held:
        path.unlink()
    seen = []

    def later(_):
        page = (run / "report.html").read_text(encoding="utf-8")
        seen.append(
            (re.findall("<b>running</b> at .*?: (.*?) cells", page), 'http-equiv="refresh' in page)
        )
        for path in list(held)[:1]:
            path.write_bytes(held.pop(path))

    monkeypatch.setattr(watching.time, "sleep", later)
    status, output, error = command(f"--workdir={run}", "--watch", "--notest_images")
    assert (status, error) == (0, "")
    assert seen == [([f"{n} of 4"], True) for n in (3, 4, 4, 4)]
    assert "1 cells are missing" in output
    assert "All cells are there; the report is written anew" in output
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "<b>running</b>" not in page
    assert 'http-equiv="refresh' not in page
    assert "Without a split" in page
    assert "Each attacker on each cell" in page


def test_what_is_there_and_what_is_not(tmp_path):
    store = ResultStore.open(tmp_path / "run", handmade.settings())
    store.save(handmade.cell(4, 8, 1), {})
    store.save(handmade.cell(2, 8, 0), {})
    present, missing = store.present_results(handmade.settings())
    assert [cell.name for cell in present] == ["m02_d008_r00", "m04_d008_r01"]
    assert missing[:2] == [(2, 8, "random", 1), (2, 16, "random", 0)]
    assert len(missing) == 6


# Plan and audit.


@pytest.mark.parametrize(
    ("stronger", "said"),
    [
        ((), "No stronger attackers than the characterisation's were tried."),
        (
            ("tuned strong", "white box from tuned strong"),
            "Stronger attackers than the characterisation's took part: tuned strong, white box "
            "from tuned strong.",
        ),
    ],
)
def test_an_audit_s_caption_says_who_attacked(tmp_path, stronger, said):
    findings = (Finding("psnr_db", 20.0, 18.0, 19.0, "white box", 7),)
    found = Audit(findings, "photos", {"test": 7}, 3, 2, 10, "pairs", stronger=stronger)
    found.write(tmp_path / "audit.json")
    table = promises.audit_table(tmp_path / "audit.json")[0]
    assert said in table.caption
    assert table.rows[0][-1] == "white box, on 7 images"


def test_a_plan_shows_what_its_very_channels_gave_away():
    rows = promises.plan_table(handmade_plan.plan()).rows
    [psnr, ssim] = [row[1:] for row in rows if "before it was written" in row[0]]
    assert psnr == ("18.5", "by public, on 64 pictures", "20")
    assert ssim == ("0.41", "by public, on 64 pictures", "")


@pytest.fixture
def planned(tmp_path, vgg_weights):
    selection = Selection("both", CANDIDATES, SEED, entropy_bits(6, 3))
    topology = Topology(2, selection.channels(3))
    plan = package_samples.plan(vgg_weights, topology, 32, selection=selection)
    write_plan(tmp_path / "plan.json", plan)
    return plan, tmp_path / "plan.json"


def test_plan_and_audit_are_shown_without_secrets(command, run, planned, tmp_path):
    plan, path = planned
    findings = (Finding("psnr_db", 20.0, 18.0, 21.25), Finding("accuracy", None, 0.5, 0.4375))
    audit = Audit(findings, "folder:/home/somebody/pictures", {"test": 7}, 3, 2, 10, "pairs")
    audit.write(tmp_path / "audit.json")
    given = (f"--workdir={run}", "--notest_images", f"--plan={path}")
    assert command(*given, f"--audit={tmp_path / 'audit.json'}")[0] == 0
    page = (run / "report.html").read_text()
    assert SEED not in page
    assert str(list(plan.topology.channels))[1:-1] not in page
    assert "somebody" not in page
    assert "21.2" in page
    assert "BROKEN" in page
    assert "43.8" in page
    assert "At least one limit was broken." in page
    assert stat.S_IMODE((run / "report.html").stat().st_mode) == 0o600
    refused(command(*given, f"--audit={path}"), "is no audit")
    refused(command(f"--workdir={run}", f"--plan={tmp_path / 'audit.json'}"), "is of version")


# Tables and pictures of results made by hand.


def test_the_best_settings_are_chosen_on_validation():
    cells = [
        handmade.cell(2, 8, accuracy=0.7, attacks=(handmade.attack("residual", 25.0),)),
        handmade.cell(4, 8, accuracy=0.6, attacks=(handmade.attack("residual", 18.0),)),
        handmade.cell(7, 8, accuracy=0.5, attacks=(handmade.attack("residual", 20.0),)),
        handmade.cell(10, 8, accuracy=0.3, attacks=(handmade.attack("residual", 14.0),)),
    ]
    best = sections.best_settings(cells)
    assert [s.cells[0].num_layers for s in best] == [10, 4, 2]


def test_attackers_side_by_side():
    weak, strong = handmade.attack("linear", 10.0), handmade.attack("residual", 20.0)
    cells = [
        handmade.cell(2, 8, 0, attacks=(weak, strong)),
        handmade.cell(2, 8, 1, attacks=(handmade.attack("linear", 23.0), strong)),
        handmade.cell(4, 8, 0, attacks=(strong,)),
    ]
    table = tables.attackers(cells)
    assert table.rows == (
        ("linear", "pairs", "1 of 2", "16.5", "-"),
        ("residual", "pairs", "2 of 3", "20.0", "20.0"),
    )


def test_best_median_and_worst_protected(tmp_path):
    store = ResultStore.open(tmp_path / "run", {})
    originals = np.full((5, 8, 8, 3), 100, np.uint8)
    off = np.array([4, 1, 16, 2, 8], np.uint8)
    cell = handmade.cell(2, 8)
    rebuilt = originals + off[:, None, None, None]
    store.save(cell, {"residual_examples": rebuilt, "linear_examples": originals})
    shown = report_pictures.reconstructions(cell, store, originals)
    # 20 log10(255 / 16) and so on.
    assert [round(pair.psnr_db, 2) for pair in shown.pairs] == [24.05, 36.09, 48.13]
    assert [pair.rebuilt.alt.split(" as")[0] for pair in shown.pairs] == [
        *("Test image 3", "Test image 1", "Test image 2")
    ]
    with pytest.raises(UserError, match="lacks the reconstructions"):
        report_pictures.reconstructions(cell, store, originals[:4])


def test_heat_maps_hold_every_number(monkeypatch):
    cells = [handmade.cell(m, d, accuracy=m / 20 + d / 1000) for m in (2, 4) for d in (8, 32)]
    texts = []
    keep = report_pictures.plots.as_png

    def seen(figure):
        texts.append([text.get_text() for text in figure.axes[0].texts])
        return keep(figure)

    monkeypatch.setattr(report_pictures.plots, "as_png", seen)
    maps = report_pictures.heat_maps(over_draws(cells), "random")
    assert [picture.name for picture in maps] == [
        f"heatmap_{metric}_random.png" for metric in ("accuracy", "psnr_db", "ssim")
    ]
    assert texts[0] == ["11", "13", "21", "23"]
    assert all(picture.png.startswith(b"\x89PNG") for picture in maps)


def test_any_csv_is_a_table(tmp_path):
    path = tmp_path / "knowledge.csv"
    rows = [
        {"layer": "conv1_2", "pairs": n, "psnr_db_mean": n / 7, "channels": "1 2"}
        for n in range(1, 602)
    ]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    table = tables.of_csv(path, "What.")
    assert table.columns == ("layer", "pairs", "PSNR mean, dB")
    assert table.rows[0] == ("conv1_2", "1", "0.1429")
    assert table.numeric == (False, True, True)
    assert table.is_long
    assert len(table.rows) == 500
    assert "first 500 of 601 rows" in table.caption
    path.write_text("cell,rate,rate_low,rate_high,gain_low\nx,0.25,-0.1,0.51239,7\ny,,,,8\n")
    table = tables.of_csv(path, "What.")
    assert table.columns == ("cell", "rate", "gain low")
    assert table.rows == (("x", "0.25 (-0.1, 0.5124)", "7"), ("y", "", "8"))
    assert table.numeric == (False, True, True)
    assert table.caption == "What. Intervals are in brackets."
    for content in (b"", b"a,b\n", b"\xff\xfe\x00", b'a\n"b'):
        path.write_bytes(content)
        with pytest.raises(UserError, match=re.escape(f"{path} is damaged")):
            tables.of_csv(path, "What.")


def test_a_folder_s_path_stays_private():
    assert promises.data_name("folder:/home/somebody/pictures") == "folder:pictures"
    assert sections.settings({"dataset": "folder:a/b"})["dataset"] == "folder:b"
