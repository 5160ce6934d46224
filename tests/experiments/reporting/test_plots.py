"""Pictures of results made by hand: that they are drawn, of which size, and what they show."""

import io
import itertools
import warnings

import numpy as np
import pytest
from matplotlib import pyplot as plt
from PIL import Image
from support import handmade_results as handmade

from experiments.reporting import plots
from privynet_jax.errors import UserError
from privynet_jax.results.work_directory import ResultStore

REFERENCES = [
    {"reference": "no_split", "accuracy": 0.6, "psnr_db_mean": ""},
    {"reference": "mean_image", "accuracy": "", "psnr_db_mean": 11.0},
]


@pytest.fixture(autouse=True)
def complaints_are_errors():
    """Matplotlib only warns when a layout does not fit or a letter has no glyph."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    assert not plt.get_fignums(), "a figure was left open"


@pytest.fixture
def figures(monkeypatch):
    """The figures that were saved, for a look at what they say."""
    saved = []
    close = plt.close

    def keep(figure):
        saved.append(figure)
        close(figure)

    monkeypatch.setattr(plt, "close", keep)
    return saved


def images(count):
    return np.random.default_rng(count).integers(0, 256, (count, 16, 16, 3), np.uint8)


def filled_store(folder, layers, depths, draws, examples):
    """A work directory whose residual attacker is off by 8 of 255 in every pixel."""
    store = ResultStore.open(folder / "run", {})
    originals = images(examples) // 2
    results = []
    shapes = itertools.product(enumerate(layers), enumerate(depths), range(draws))
    for (i, num_layers), (j, depth), draw in shapes:
        psnr_db = 30 - 3 * i + 2 * j + draw / 2
        attacks = (handmade.attack("linear", 10.0), handmade.attack("residual", psnr_db))
        accuracy = 0.5 + 0.03 * (j - i) + 0.01 * draw
        results.append(handmade.cell(num_layers, depth, draw, accuracy, attacks))
        arrays = {"linear_examples": originals * 0, "residual_examples": originals + 8}
        store.save(results[-1], arrays)
    store.write_csv("reference.csv", REFERENCES)
    return results, store, originals


def size_of(store, name):
    """Width and height in pixels of a picture, after decoding it."""
    data = (store.workdir / name).read_bytes()
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.format == "PNG"
        pixels = np.asarray(picture.convert("L"))
    assert pixels.min() < 64, "nothing is drawn"
    # A margin of white around everything: nothing is cut off at an edge.
    for edge in (pixels[:4], pixels[-4:], pixels[:, :4], pixels[:, -4:]):
        assert (edge == 255).all()
    return pixels.shape[1], pixels.shape[0]


@pytest.mark.parametrize(
    ("layers", "depths", "draws"),
    [
        ((2, 4), (8, 32), 2),
        ((4,), (1,), 1),
        ((1, 2, 4, 6, 7, 10), (4, 8, 16, 32, 64), 5),
        (tuple(range(8, 14)), tuple(2**i for i in range(10)), 1),
    ],
    ids=["quickstart", "one cell", "paper", "wide"],
)
def test_tradeoff(tmp_path, layers, depths, draws, figures):
    results, store, _ = filled_store(tmp_path, layers, depths, draws, examples=1)
    plots.save_tradeoff(results, store)
    width, height = size_of(store, "tradeoff.png")
    assert 1000 < width < 1400
    assert 650 < height < 1000
    [figure] = figures
    [axes] = figure.axes
    legend = axes.get_legend()
    # Nothing of the legend lies outside the picture or on the points.
    inside = legend.get_window_extent()
    assert inside.y0 >= 0
    assert inside.y1 <= figure.bbox.height
    assert inside.x0 > axes.get_window_extent().x1
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels[: len(layers)] == [f"{m}: {handmade.cell(m).layer}" for m in layers]
    assert labels[len(layers) : -2] == [
        "1 channel" if depth == 1 else f"{depth} channels" for depth in depths
    ]
    assert [label.split(":")[0] for label in labels[-2:]] == ["no split", "no attack"]


def test_the_points_of_the_tradeoff(tmp_path, figures):
    results, store, _ = filled_store(tmp_path, (2, 4), (8, 32), 2, examples=1)
    plots.save_tradeoff(results, store)
    [axes] = figures[0].axes
    points = [bars.lines[0].get_xydata()[0].tolist() for bars in axes.containers]
    # Means over the two draws of dB and per cent as `filled_store` makes them.
    expected = [(30.25, 50.5), (32.25, 53.5), (27.25, 47.5), (29.25, 50.5)]
    np.testing.assert_allclose(points, expected)
    horizontal, vertical = (bars.get_segments()[0] for bars in axes.containers[0].lines[2])
    np.testing.assert_allclose(horizontal, [[30.0, 50.5], [30.5, 50.5]])
    np.testing.assert_allclose(vertical, [[30.25, 50.0], [30.25, 51.0]])
    sizes = [bars.lines[0].get_markersize() for bars in axes.containers]
    assert sizes[0] == sizes[2] < sizes[1] == sizes[3]


def test_draws_that_agree(tmp_path):
    # The mean of three times 0.1 is rounded to more than 0.1, which would make a bar negative.
    _, store, _ = filled_store(tmp_path, (2,), (8,), 1, examples=1)
    results = [handmade.cell(draw=draw, accuracy=0.1) for draw in range(3)]
    plots.save_tradeoff(results, store)
    size_of(store, "tradeoff.png")


@pytest.mark.parametrize("content", [b"", b"reference,accuracy\nno_split,0.5\n", b"\xff\xfe\n"])
def test_damaged_references(tmp_path, content):
    results, store, _ = filled_store(tmp_path, (2,), (8,), 1, examples=1)
    path = store.workdir / "reference.csv"
    path.write_bytes(content)
    with pytest.raises(UserError) as raised:
        plots.save_tradeoff(results, store)
    assert f"{path} is missing or damaged; delete it" in str(raised.value)


@pytest.mark.parametrize(("rows", "columns"), [(2, 3), (1, 1), (15, 10), (1, 12), (9, 1), (0, 4)])
def test_reconstructions(tmp_path, rows, columns):
    results, store, originals = filled_store(tmp_path, (7,), (8,), max(rows, 1), columns)
    names = [result.name for result in results][:rows]
    plots.save_reconstructions(results, store, originals, names)
    width, height = size_of(store, "reconstructions.png")
    # An image is 0.82 inches of 150 dots wide; beside them are titles, above them a heading,
    # which is what decides the width of a narrow picture.
    side = 0.82 * plots.DPI
    assert columns * side < width < max(columns * 1.1 * side, 900) + 1.9 * plots.DPI
    assert (rows + 1) * side < height < (rows + 1) * 1.25 * side + 0.6 * plots.DPI


def test_what_reconstructions_say(tmp_path, figures):
    results, store, originals = filled_store(tmp_path, (2, 4), (8, 32), 2, examples=3)
    names = ["m04_d032_r01", "m02_d008_r00", "m13_d001_r00"]  # the last one is not finished
    plots.save_reconstructions(results, store, originals, names)
    texts = [[text.get_text() for text in axes.texts] for axes in figures[0].axes]
    shown = [np.asarray(axes.images[0].get_array()) for axes in figures[0].axes]
    assert len(shown) == 9
    np.testing.assert_array_equal(shown[:3], originals)
    np.testing.assert_array_equal(shown[3:6], originals + 8)
    assert "originals" in texts[0]
    # `filled_store` gave the last depth of the second layer 30 - 3 + 2 + 0.5 dB at draw 1.
    assert "4: conv2_2, 32 channels\ndraw 1, 29.5 dB on average" in texts[3]
    assert "2: conv1_2, 8 channels\ndraw 0, 30.0 dB on average" in texts[6]
    # Off by 8 of 255 everywhere: 20 log10(255 / 8) = 30.07 dB.
    assert [text[0] for text in texts[3:]] == ["30.1"] * 6


def test_the_same_names_give_the_same_file(tmp_path):
    results, store, originals = filled_store(tmp_path, (2,), (8,), 1, examples=2)
    files = []
    for _ in range(2):
        plots.save_reconstructions(results, store, originals, ["m02_d008_r00"])
        files.append((store.workdir / "reconstructions.png").read_bytes())
    assert files[0] == files[1]
    assert not [path for path in store.workdir.iterdir() if path.name.startswith(".")]


def test_layers_are_told_apart_without_their_colours(tmp_path, figures):
    results, store, _ = filled_store(tmp_path, (2, 4, 7, 10), (8, 32), 2, examples=1)
    plots.save_tradeoff(results, store)
    [axes] = figures[0].axes
    lines = [line for line in axes.lines if len(line.get_xdata()) == 2 and line.get_alpha()]
    assert len({line.get_linestyle() for line in lines}) == 4
    assert [text.get_text() for text in axes.texts] == ["2", "4", "7", "10"]
    assert len({style["linestyle"] for style in plots.layer_styles(3)}) == 3
