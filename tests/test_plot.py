"""The pictures: what is written on them, what a command leaves behind, any text."""

import html.parser
import re
import sys

import numpy as np
import pytest

import nprnn
from nprnn import cli

CELLS = ["rnn", "gru", "lstm"]
TEXT = 'She said: "Go (now), $5 or $6!"\nHe went 3 times.\n\n' * 60


def test_without_matplotlib_a_sentence_says_what_to_install(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.txt").write_text(TEXT, "utf-8")
    assert cli.run(["train", "book.txt", "--steps", "2", "--hidden-size", "8"]) == 0
    assert cli.run(["plot"]) == 2
    assert "pip install 'nprnn[plot]'" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "book" / "pictures").exists()


class Page(html.parser.HTMLParser):
    """What a page is made of."""

    def __init__(self):
        super().__init__()
        self.tags, self.links, self.passages = [], [], []
        self.inside = False

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]
        self.inside = self.inside or tag == "pre"
        if tag == "pre":
            self.passages.append("")

    def handle_endtag(self, tag):
        self.inside = self.inside and tag != "pre"

    def handle_data(self, data):
        if self.inside:
            self.passages[-1] += data


class TestPage:
    """The coloured text, which needs no Matplotlib."""

    def page(self, text=TEXT, **options):
        from nprnn import plot

        vocabulary = nprnn.Vocabulary(text)
        model = nprnn.LanguageModel(len(vocabulary), 8, rng=0)
        ids = vocabulary.encode(text)
        source = plot.coloured_text(model, ids, vocabulary, **options)
        parsed = Page()
        parsed.feed(source)
        return source, parsed, (model, ids)

    def test_the_text_stands_there_whole_and_nothing_is_referred_to(self):
        text = '<script>alert("&amp;")</script>\n\n' * 40
        source, page, _ = self.page(text, number=3)
        assert page.passages == [text.replace("\n", "↵\n")] * len(page.passages)
        assert 1 <= len(page.passages) <= 3
        assert "script" not in page.tags
        assert page.links == []
        assert "http" not in source

    def test_the_colour_is_that_of_the_value(self):
        source, _, (model, ids) = self.page("abcdefgh\n" * 3, units=[(0, "h", 5)])
        values = nprnn.insight.activations(model, ids)[0]["h"][:, 5]
        assert "layer 0, h[5]" in source
        body = source[source.index("<pre") :]
        spans = re.findall(r'<span class="([np])(\d+)">(.*?)</span>', body, re.DOTALL)
        shades = [
            (int(shade) + 0.5) * (-1 if sign == "n" else 1)
            for sign, shade, text in spans
            for _ in text.replace("↵", "")
        ]
        middle, reach = (values.max() + values.min()) / 2, np.ptp(values) / 2
        np.testing.assert_allclose(shades, (values - middle) / reach * 12, atol=0.5001)

    def test_the_units_shown_are_those_that_were_found(self):
        source, _, (model, ids) = self.page(number=2)
        vocabulary = nprnn.Vocabulary(TEXT)
        units = nprnn.insight.interpretable_units(model, ids, vocabulary)[:2]
        titles = re.findall(r"<h2>(.*?)</h2>", source)
        assert len(titles) == 2
        for unit, title in zip(units, titles, strict=True):
            assert title.startswith(f"layer 0, h[{unit.number}] ")
            assert unit.feature in title
            assert f"{unit.score:.2f}" in title

    @pytest.mark.parametrize("unit", [(1, "h", 0), (0, "c", 0), (0, "h", 8), (0, "h", -1)])
    def test_a_unit_that_is_not_there(self, unit):
        with pytest.raises(ValueError, match="units must"):
            self.page(units=[unit])


class TestPictures:
    """The figures."""

    @pytest.fixture(autouse=True)
    def matplotlib(self):
        pytest.importorskip("matplotlib")

    @pytest.fixture
    def trained(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)

        def train(*options, text=TEXT):
            (tmp_path / "book.txt").write_text(text, "utf-8")
            assert cli.run(["train", "book.txt", "--steps", "4", "--hidden-size", "8",
                             "--quiet", *options]) == 0  # fmt: skip
            return tmp_path / "book"

        return train

    @pytest.mark.parametrize("cell", CELLS)
    @pytest.mark.filterwarnings("error")
    def test_everything_is_drawn(self, trained, capsys, cell):
        folder = trained("--cell", cell, "--num-layers", "2")
        capsys.readouterr()
        assert cli.run(["plot", "--format", "both", "--num-steps", "20"]) == 0
        names = ["training", "recurrent-matrices", "gradient-flow", "activations", "predictions"]
        written = sorted([f"{name}.{kind}" for name in names for kind in ("png", "svg")])
        pictures = folder / "pictures"
        assert sorted(path.name for path in pictures.iterdir()) == sorted([*written, "units.html"])
        said = capsys.readouterr().out.splitlines()
        assert sorted(line.rsplit("/", 1)[-1] for line in said) == sorted([*written, "units.html"])
        for path in pictures.glob("*.png"):
            head = path.read_bytes()[:24]
            assert head[:8] == b"\x89PNG\r\n\x1a\n"
            assert int.from_bytes(head[16:20], "big") >= 800
        for path in pictures.glob("*.svg"):
            assert "<svg" in path.read_text("utf-8")[:1000]

    def test_what_stands_on_the_pictures(self):
        from nprnn import plot

        model = nprnn.LanguageModel(5, 4, cell="lstm", num_layers=2, rng=0)
        flow = nprnn.insight.gradient_flow(model, np.arange(30) % 5)
        above, below, _ = plot.gradient_flow(model, np.arange(30) % 5).axes
        assert [t.get_text() for t in above.get_yticklabels()] == [
            "layer 0, dh", "layer 0, dc", "layer 1, dh", "layer 1, dc",
        ]  # fmt: skip
        written = [text.get_text() for text in above.texts]
        assert written == [f"vanishes, × {10**slope:.3g} a step back" for slope in flow.slopes]
        drawn = below.lines[0].get_ydata()
        np.testing.assert_allclose(drawn, flow.norms[0])
        assert "steps" in below.get_xlabel()
        radii = [s.spectral_radius for s in nprnn.insight.recurrent_spectra(model)]
        legend = [
            text.get_text()
            for axes in plot.spectra(model).axes
            if axes.get_legend() is not None
            for text in axes.get_legend().get_texts()
        ]
        gates = "ifgo" * 2
        assert legend == [
            f"gate {gate}, spectral radius {radius:.2f}"
            for gate, radius in zip(gates, radii, strict=True)
        ]

    def test_curves_show_what_was_recorded(self):
        from nprnn import plot

        records = [nprnn.Record(1, s, 3 / s, 0.5, 10, 0.1, 3.5 / s if s == 4 else None)
                   for s in range(1, 5)]  # fmt: skip
        losses, norms, *_ = plot.training_curves(records).axes
        training, validation = losses.lines
        assert training.get_xdata().tolist() == [1, 2, 3, 4]
        assert training.get_ydata().tolist() == [3, 1.5, 1, 0.75]
        assert (validation.get_xdata().tolist(), validation.get_ydata().tolist()) == ([4], [0.875])
        assert "nats" in losses.get_ylabel()
        assert "norm" in norms.get_ylabel()

    def test_predictions_show_bits(self):
        from nprnn import plot

        vocabulary = nprnn.Vocabulary("abc$ \n")
        model = nprnn.LanguageModel(len(vocabulary), 4, rng=0)
        ids = vocabulary.encode("ab$c a$bc\nab")
        found = nprnn.insight.predictions(model, ids)
        bars, cells, *_ = plot.predictions(model, ids, vocabulary).axes
        heights = [bar.get_height() for bar in bars.patches]
        np.testing.assert_allclose(heights, -np.log2(found.probability))
        came = [label.get_text() for label in cells.get_xticklabels()]
        assert came == ["b", "\\$", "c", "␣", "a", "\\$", "b", "c", "↵", "a", "b"]

    @pytest.mark.filterwarnings("error")
    @pytest.mark.parametrize(
        "text",
        [
            "人之初，性本善。性相近，习相远。苟不教，性乃迁。\n" * 40,
            "مرحبا بالعالم، كيف حالك؟\n" * 60,
            "👩‍🔬 and 🎉 é\u0301 \x1b[2J\n" * 60,
            "aaaa" * 400,
        ],
        ids=["chinese", "arabic", "emoji", "one character"],
    )
    def test_any_text(self, trained, text):
        folder = trained(text=text)
        assert cli.run(["plot", "--num-steps", "10"]) == 0
        assert len(list((folder / "pictures").iterdir())) == 6

    def test_without_its_text_and_with_another(self, trained, tmp_path, capsys):
        folder = trained()
        (tmp_path / "book.txt").unlink()
        capsys.readouterr()
        assert cli.run(["plot", str(folder), "--output", "here"]) == 0
        assert "--text FILE" in capsys.readouterr().err
        assert sorted(path.name for path in (tmp_path / "here").iterdir()) == [
            "recurrent-matrices.png", "training.png",
        ]  # fmt: skip
        (tmp_path / "other.txt").write_text("He went 4 times", "utf-8")
        assert cli.run(["plot", str(folder), "--text", "other.txt"]) == 2
        assert "'4'" in capsys.readouterr().err
        assert cli.run(["plot", str(folder), "--text", "other.txt", "--unknown", "skip"]) == 0
        assert cli.run(["plot", "--text", "other.txt", "--start", "14"]) == 2
        assert "at least 3 characters" in capsys.readouterr().err

    def test_the_state_of_matplotlib_is_left_alone(self):
        import matplotlib

        from nprnn import plot

        before = dict(matplotlib.rcParams)
        plot.spectra(nprnn.LanguageModel(5, 4, rng=0))
        assert dict(matplotlib.rcParams) == before
        assert (
            "matplotlib.pyplot" not in sys.modules
            or not sys.modules["matplotlib.pyplot"].get_fignums()
        )
