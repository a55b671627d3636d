"""The page in a browser: headless Chromium, through Playwright."""

import contextlib
import itertools
import json
import re
import shutil
import threading
import time

import numpy as np
import pytest

import nprnn
from nprnn import serve

playwright = pytest.importorskip("playwright.sync_api")
expect = playwright.expect

VOCABULARY = nprnn.Vocabulary("the <b>quick</b> brown fox & jumps over the lazy dog.\n")
MODEL = nprnn.LanguageModel(len(VOCABULARY), 20, num_layers=2, cell="lstm", rng=0)
for name, array in MODEL.params.items():
    if "weight" in name:
        array *= 4  # strong states, likely and unlikely characters: as after training


@contextlib.contextmanager
def serving(model=MODEL, vocabulary=VOCABULARY, **options):
    with serve.make_server(model, vocabulary, **options) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def server():
    with serving(name="fox/best") as server:
        yield server


@pytest.fixture(scope="module")
def browser():
    installed = shutil.which("chromium") or shutil.which("chromium-browser")
    with playwright.sync_playwright() as tool:
        try:
            browser = tool.chromium.launch(executable_path=installed)
        except playwright.Error as error:
            pytest.skip(f"no Chromium starts here: {str(error).splitlines()[0]}")
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """Return a function that opens the page; in the end, nothing may have gone wrong in it."""
    contexts, faults, addresses = [], [], []

    def open_page(server, width=1280, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda m: faults.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: addresses.append(request.url))
        page.goto(server.url)
        expect(page.locator("#facts")).to_contain_text("parameters")
        return page

    open_page.faults = faults
    yield open_page
    for context in contexts:
        context.close()
    assert faults == []
    assert [a for a in addresses if not a.startswith(("http://127.0.0.1:", "data:"))] == []


@pytest.fixture
def page(open_page, server):
    return open_page(server)


def write(page, prefix="the ", *, length=60, seed=1, speed=7, wait=True):
    page.fill("#prefix", prefix)
    page.fill("#length", str(length))
    page.fill("#seed", str(seed))
    page.locator("#speed").fill(str(speed))
    page.click("#write")
    if wait:
        expect(page.locator("#status")).to_contain_text("Done")


def tokens(page):
    return page.locator("#text .token").all_text_contents()


def expected(prefix, length, model=MODEL, **settings):
    ids = model.generate(VOCABULARY.encode(prefix), **settings)
    return VOCABULARY.decode(list(itertools.islice(ids, length)))


def steps_of(prefix, length, seed, temperature=0.7):
    """Return the lines that the server sends for a text."""
    network = serve.Network(MODEL, VOCABULARY)
    steps = network.write(
        VOCABULARY.encode(prefix), serve.sampler(temperature), np.random.default_rng(seed)
    )
    return [network.line(step) for step in itertools.islice(steps, length)]


def test_it_says_what_the_network_is(page):
    assert page.title() == "fox/best – nprnn"
    size = sum(array.size for array in MODEL.params.values())
    expect(page.locator("h1")).to_have_text("fox/best")
    expect(page.locator("#facts")).to_have_text(
        f"LSTM, 2 layers of 20 units, {size:,} parameters, {len(VOCABULARY)} characters"
    )


def test_it_writes_what_the_network_writes(page):
    write(page, "the <b>", length=300, seed=5)
    text = expected("the <b>", 300, rng=5, temperature=0.7)
    assert "".join(tokens(page)) == text
    assert page.locator("#text").text_content() == "the <b>" + text  # as text, not as markup
    expect(page.locator("#status")).to_have_text("Done: 300 characters, seed 5.")


def test_the_sliders_count(page):
    page.locator("#temperature").fill("1.5")
    page.locator("#top-k").fill("2")
    expect(page.locator("#temperature-value")).to_have_text("1.50")
    expect(page.locator("#top-k-value")).to_have_text("3")
    assert page.get_attribute("#top-k", "aria-valuetext") == "3"
    write(page, seed=2)
    assert "".join(tokens(page)) == expected("the ", 60, rng=2, temperature=1.5, top_k=3)


def test_a_text_appears_bit_by_bit(page):
    write(page, speed=3, length=200, wait=False)  # 40 characters a second
    start, counts = time.monotonic(), []
    while time.monotonic() < start + 1.5:
        counts.append(len(tokens(page)))
    assert counts == sorted(counts)
    assert len(set(counts)) > 10
    assert 20 < counts[-1] < 90
    expect(page.locator("#status")).to_have_text("Writing …")
    assert page.locator("#text.writing").count() == 1


def test_pointing_at_a_character_shows_what_it_was_drawn_from(page):
    write(page)
    for place, step in list(enumerate(steps_of("the ", 60, seed=1)))[:25]:
        page.locator("#text .token").nth(place).hover()
        rows = page.locator("#odds-rows tr")
        assert rows.count() == 10 + (step["rank"] > 10)
        shown = page.locator("#odds-rows td:first-child").all_inner_texts()
        chosen = page.locator("#odds-rows tr.chosen")
        assert chosen.count() == 1
        names = {" ": "space", "\n": "new line"}
        token, given, drawn = step["token"]
        name = names.get(token, token)
        assert chosen.locator("td").first.inner_text() == f"{name} ◂"
        assert [text.removesuffix(" ◂") for text in shown[:10]] == [
            names.get(token, token) for token, _, _ in step["top"]
        ]
        numbers = [text.strip("<% ") for text in chosen.locator("td").all_inner_texts()[2:]]
        np.testing.assert_allclose(np.array(numbers, float), [100 * drawn, 100 * given], atol=0.06)
        widths = page.locator("#odds-rows .bar").evaluate_all(
            "bars => bars.map(b => b.style.width)"
        )
        np.testing.assert_allclose(
            [float(width.rstrip("%")) for width in widths[:10]],
            [100 * drawn for _, _, drawn in step["top"]],
            atol=1e-3,
        )
        expect(page.locator("#odds-caption")).to_contain_text(f"“{name}” was drawn")


def test_a_click_holds_a_character_and_escape_lets_it_go(page):
    write(page)
    page.locator("#text .token").nth(10).click()
    page.locator("h1").hover()
    assert page.locator("#text .chosen").get_attribute("data-place") == "10"
    page.locator("#text .token").nth(20).hover()
    assert page.locator("#text .chosen").get_attribute("data-place") == "20"
    page.locator("h1").hover()
    assert page.locator("#text .chosen").get_attribute("data-place") == "10"
    page.keyboard.press("Escape")
    assert page.locator("#text .chosen").count() == 0


def test_stop_stops(page):
    write(page, speed=2, length=5000, wait=False)
    expect(page.locator("#text .token").nth(5)).to_be_visible()
    page.click("#stop")
    count = len(tokens(page))
    expect(page.locator("#status")).to_have_text(f"Stopped: {count} characters, seed 1.")
    page.wait_for_timeout(300)
    assert len(tokens(page)) == count
    assert page.is_disabled("#stop")
    assert page.is_enabled("#more")


def test_stop_stops_the_server(open_page, monkeypatch):
    class SlowNetwork(serve.Network):
        def read(self, tokens, state):
            time.sleep(0.005)
            return super().read(tokens, state)

    monkeypatch.setattr(serve, "Network", SlowNetwork)
    with serving() as server:
        page = open_page(server)
        write(page, length=5000, wait=False)
        expect(page.locator("#text .token").nth(5)).to_be_visible()
        assert server.line._free == serve.GENERATIONS - 1
        page.click("#stop")
        deadline = time.monotonic() + 5  # the text would take 25 s
        while server.line._free < serve.GENERATIONS:
            assert time.monotonic() < deadline
            page.wait_for_timeout(20)


def test_it_goes_on_from_what_stands_there(page):
    write(page, length=30)
    first = "".join(tokens(page))
    page.click("#more")
    expect(page.locator("#status")).to_have_text("Done: 60 characters, seed 1.")
    rest = expected("the " + first, 30, rng=1, temperature=0.7)
    assert "".join(tokens(page)) == first + rest


def test_a_slider_that_moves_while_it_writes_counts_from_there_on(page):
    write(page, speed=3, length=400, wait=False)
    expect(page.locator("#text .token").nth(5)).to_be_visible()
    with page.expect_request("**/generate") as sent:
        page.locator("#temperature").fill("0")
    order = json.loads(sent.value.post_data)
    assert order["temperature"] == 0
    text = order["prefix"].removeprefix("the ")
    assert expected("the ", 400, rng=1, temperature=0.7).startswith(text)
    expect(page.locator("#text .token").nth(len(text) + 20)).to_be_visible()
    rest = "".join(tokens(page)).removeprefix(text)
    page.click("#stop")
    assert expected("the " + text, 400, temperature=0).startswith(rest)


def test_the_beginning_is_read_as_the_notice_says(page):
    notice = page.locator("#notice")
    write(page, "qüick", length=20)
    expect(notice).to_have_text("The network does not know 1 character of it, which is left out: ü")
    assert "".join(tokens(page)) == expected("qick", 20, rng=1, temperature=0.7)
    write(page, "Q\tu", length=1)
    expect(notice).to_have_text(
        "The network does not know 2 characters of it, which are left out: Q tab"
    )
    write(page, "lazy dog. " * 1000, length=20)
    expect(notice).to_have_text(
        "Only the last 4,000 of 10,000 characters of the beginning are read."
    )
    assert "".join(tokens(page)) == expected("lazy dog. " * 400, 20, rng=1, temperature=0.7)
    write(page, "quick", length=1)
    expect(notice).to_be_hidden()


def test_a_huge_beginning_is_cut_before_the_browser_lays_it_out(page):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.evaluate("text => navigator.clipboard.writeText(text)", "lazy dog.\n" * 1_000_000)
    page.fill("#prefix", "the fox")
    page.keyboard.press("Home")
    page.keyboard.press("Control+V")
    expect(page.locator("#notice")).to_have_text(
        "Of 10,000,000 characters, the last 4,000 are kept: the network reads no more."
    )
    assert page.input_value("#prefix") == "lazy dog.\n" * 400 + "the fox"
    page.fill("#prefix", "lazy dog. " * 2001)  # by whatever way it comes
    assert page.input_value("#prefix") == "lazy dog. " * 400


def pixels(page, layer):
    """Return the colours of a layer's map, (units, 3)."""
    data = (
        page.locator("canvas")
        .nth(layer)
        .evaluate("c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]")
    )
    return np.array(data).reshape(-1, 4)[:20, :3]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_map_shows_the_state(open_page, server, scheme):
    page = open_page(server, scheme=scheme)
    write(page)
    page.locator("#text .token").nth(30).hover()
    read = VOCABULARY.encode("the " + expected("the ", 30, rng=1, temperature=0.7))
    states = MODEL.rnn.layer_outputs(read)[0][:, -1]  # (L, H)
    for layer, hidden in enumerate(states):
        red, _, blue = pixels(page, layer).T
        warmth = red - blue
        order = np.argsort(hidden)
        assert (np.diff(warmth[order]) >= -3).all()  # colder to warmer, but for rounding
        assert warmth[order[0]] < -20
        assert warmth[order[-1]] > 20
    before = pixels(page, 0)
    page.locator("#text .token").nth(31).hover()
    assert (pixels(page, 0) != before).any()


def test_pointing_at_a_unit_tells_its_value_and_a_click_colours_the_text(page):
    write(page)
    page.locator("#text .token").nth(30).click()
    canvas = page.locator("canvas").nth(1)
    box = canvas.bounding_box()
    columns, rows = canvas.evaluate("c => [c.width, c.height]")
    unit = columns + 2  # third in the second row
    position = {"x": box["width"] * 2.5 / columns, "y": box["height"] * 1.5 / rows}
    steps = [
        np.frombuffer(serve.base64.b64decode(step["state"]), np.int8).reshape(2, 20)[1, unit] / 127
        for step in steps_of("the ", 60, seed=1)
    ]
    canvas.hover(position=position)
    value = f"{steps[30]:.2f}".replace("-", "−")
    expect(page.locator("#unit-value")).to_have_text(f"Layer 2, unit {unit + 1}: {value}")
    canvas.click(position=position)
    assert page.input_value("#colour") == "unit"
    assert (page.input_value("#layer"), page.input_value("#unit")) == ("2", str(unit + 1))
    for shade, value in zip(shades_of(page), steps, strict=True):
        found = re.fullmatch(r"rgba\((\d+), \d+, (\d+), ([\d.]+)\)", shade)
        assert (found is None) == (abs(value) < 0.02)
        if found:
            assert (int(found[1]) > int(found[2])) == (value > 0)
            assert float(found[3]) == pytest.approx(abs(value) / 2, abs=0.01)
    page.select_option("#colour", "nothing")
    assert page.locator("#text .token[style*=rgba]").count() == 0


def shades_of(page):
    """Return the colour behind each character, "" for none."""
    return page.locator("#text .token").evaluate_all("t => t.map(e => e.style.backgroundColor)")


def alpha(shade):
    return float(re.search(r"[\d.]+(?=\)$)", shade)[0]) if shade else 0.0


def test_unlikely_characters_stand_out(page):
    write(page, length=300)
    page.select_option("#colour", "surprise")
    shades = [alpha(shade) for shade in shades_of(page)]
    given = [step["token"][1] for step in steps_of("the ", 300, seed=1)]
    np.testing.assert_allclose(shades, np.minimum(1, -np.log2(given) / 10) / 2, atol=0.02)


def test_a_colour_counts_for_what_is_still_to_come(page):
    page.select_option("#colour", "surprise")
    write(page)
    given = [step["token"][1] for step in steps_of("the ", 60, seed=1)]
    shades = [alpha(shade) for shade in shades_of(page)]
    np.testing.assert_allclose(shades, np.minimum(1, -np.log2(given) / 10) / 2, atol=0.02)


def test_night_falls_while_the_page_is_open(page, open_page, server):
    write(page)
    page.emulate_media(color_scheme="dark")
    dark = open_page(server, scheme="dark")
    write(dark)
    np.testing.assert_array_equal(pixels(page, 0), pixels(dark, 0))


def test_everything_goes_with_the_keyboard(page):
    page.focus("#prefix")
    page.keyboard.type("the ")
    for _ in range(4):  # the sliders and the length, to the seed
        page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.type("1")
    page.focus("#speed")
    page.keyboard.press("End")
    page.focus("#prefix")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#status")).to_have_text("Done: 500 characters, seed 1.")
    page.focus("#text")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    assert page.locator("#text .chosen").get_attribute("data-place") == "1"
    token, _, drawn = steps_of("the ", 2, seed=1)[1]["token"]
    expect(page.locator("#spoken")).to_contain_text(token if token.strip() else "space")
    expect(page.locator("#spoken")).to_contain_text(f"drawn with {100 * drawn:.3g}"[:14])
    page.keyboard.press("End")
    assert page.locator("#text .chosen").get_attribute("data-place") == "499"
    page.focus("#speed")
    page.keyboard.press("Home")
    page.focus("#prefix")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#status")).to_have_text("Writing …")
    page.keyboard.press("Escape")
    expect(page.locator("#status")).to_contain_text("Stopped")


def test_the_text_can_be_copied(page):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    assert page.is_disabled("#copy")
    write(page, "dog.\n<b>", length=200)
    page.click("#copy")
    expect(page.locator("#status")).to_have_text("Copied.")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == "dog.\n<b>" + expected("dog.\n<b>", 200, rng=1, temperature=0.7)


def test_without_a_clipboard_the_text_is_selected(page):
    page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(Error('no')); }")
    write(page, length=10)
    page.click("#copy")
    expect(page.locator("#status")).to_contain_text("The text is selected")
    assert "the " in page.evaluate("String(getSelection())")


def test_words_are_joined_by_spaces(open_page):
    words = nprnn.Vocabulary(["to", "be", "or", "not"])
    model = nprnn.LanguageModel(4, 5, rng=0)
    with serving(model, words) as server:
        page = open_page(server)
        write(page, "not", length=10)
        ids = model.generate(words.encode("not"), rng=1, temperature=0.7)
        text = words.decode(list(itertools.islice(ids, 10)))
        assert page.locator("#text").text_content() == f"not {text}"
        write(page, "", length=10)
        assert "".join(tokens(page))[0] != " "
        assert "1 layer of 5 units" in page.inner_text("#facts")
        page.select_option("#colour", "unit")
        assert page.is_hidden("#layer")
        assert page.is_visible("#unit")


def test_a_server_that_has_gone_is_named(open_page):
    with serving() as server:
        page = open_page(server)
        write(page)
    page.click("#write")
    expect(page.locator("#alert")).to_contain_text("The server does not answer any more")
    assert page.is_enabled("#write")
    assert open_page.faults  # Chromium itself notes it
    open_page.faults.clear()


def test_what_the_server_refuses_is_shown(page, open_page):
    page.locator("#length").evaluate("field => { field.removeAttribute('max'); }")
    write(page, length=9999, wait=False)
    expect(page.locator("#alert")).to_have_text("length must be at most 5000, got 9999")
    open_page.faults.clear()


def test_a_field_that_is_out_of_range_is_not_sent(page):
    write(page, length=9999, wait=False)
    expect(page.locator("#status")).to_have_text("Nothing written yet.")


def test_a_network_that_overflows_is_told(open_page):
    model = nprnn.LanguageModel(len(VOCABULARY), 6, rng=0)
    model.params["readout.bias"][3] = np.nan
    with serving(model) as server:
        page = open_page(server)
        write(page, wait=False)
        expect(page.locator("#alert")).to_have_text(
            "The text ends here: the network's numbers are no longer finite."
        )


# How it looks


@pytest.mark.parametrize("width", [320, 400, 700, 900, 1280])
def test_nothing_is_wider_than_the_window(open_page, server, width):
    page = open_page(server, width=width)
    write(page, "x" * 500, length=300)
    page.select_option("#colour", "unit")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    for element in page.locator("button, input, select, textarea, canvas").all():
        if element.is_visible():
            box = element.bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
            assert box["height"] >= 15


def test_everything_has_a_name(page):
    write(page)
    page.select_option("#colour", "unit")
    for role, names in {
        "textbox": ["Beginning"],
        "slider": ["Temperature", "Top-k", "Speed"],
        "spinbutton": ["Length", "Seed", "Layer", "Unit"],
        "combobox": ["Colour the text by"],
        "button": ["Write", "Stop", "Go on", "Copy text"],
        "group": ["Text"],
    }.items():
        assert page.get_by_role(role).count() == len(names)
        for name in names:
            assert page.get_by_role(role, name=name, exact=True).count() == 1
    labels = page.locator("canvas").evaluate_all("c => c.map(e => e.getAttribute('aria-label'))")
    for layer, label in enumerate(labels, start=1):
        pattern = rf"Hidden state of layer {layer}, 20 units, \d+ of them near their limits"
        assert re.fullmatch(pattern, label)
    assert page.get_attribute("html", "lang") == "en"


def luminance(colour):
    """Return a colour's relative luminance, as WCAG 2 defines it."""
    parts = np.array([int(n) for n in re.findall(r"\d+", colour)[:3]]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(open_page, server, scheme):
    page = open_page(server, scheme=scheme)
    write(page, "thé")
    behind = """element => {
        for (let e = element; e; e = e.parentElement) {
            const back = getComputedStyle(e).backgroundColor;
            if (!/, 0\\)$/.test(back)) return back;
        }
    }"""
    background = page.locator("body").evaluate(behind)
    assert (luminance(background) < 0.1) == (scheme == "dark")
    for element in page.locator(
        "h1, h2, p, label, button, input[type=number], select, td, th, #text span"
    ).all():
        if element.is_visible() and element.is_enabled():
            ink = luminance(element.evaluate("e => getComputedStyle(e).color"))
            back = luminance(element.evaluate(behind))
            contrast = (max(ink, back) + 0.05) / (min(ink, back) + 0.05)
            assert contrast >= 4.5, element.inner_text()
