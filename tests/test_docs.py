"""The pages: their code runs, their output is what it prints, their links lead somewhere.

A page's ```python blocks are run in order, in one namespace, in an empty folder; those that need
what is not installed are left out; those of README.md are run by test_readme.py. A ```text block
right after one is what it prints. A block that begins with a comment such as ``# nprnn/scan.py`` is
a quotation: it is not run, and each of its lines must stand in that file.
"""

import re
import shlex
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import nprnn
from nprnn import cli

ROOT = Path(__file__).parents[1]
if not (ROOT / "docs").exists():
    pytest.skip("runs in a checkout", allow_module_level=True)
ALL_PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("[!.]*/*.md"))]
PAGES = [page for page in ALL_PAGES if page != ROOT / "README.md"]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What a block needs beside NumPy, by what stands in it.
EXTRAS = {r"\btorch\b": "torch", r"from nprnn import plot": "matplotlib"}


def name(page):
    return page.relative_to(ROOT).as_posix()


pages = pytest.mark.parametrize("page", PAGES, ids=name)
all_pages = pytest.mark.parametrize("page", ALL_PAGES, ids=name)


def blocks(page):
    """Return the language, the text, and the output that follows, of each block."""
    text = page.read_text("utf-8")
    found = list(BLOCK.finditer(text))
    for block, after in zip(found, [*found[1:], None], strict=False):
        output = None
        if after and after[1] == "text" and not text[block.end() : after.start()].strip():
            output = after[2]
        yield block[1], block[2], output


def quoted_file(code):
    """Return the file that a block quotes, if it does."""
    match = re.match(r"# ([\w/]+\.py)\n", code)
    return ROOT / match[1] if match else None


@pages
def test_code_runs_and_prints_what_the_page_says(page, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace, missing = {"__name__": page.stem}, set()
    for language, code, output in blocks(page):
        if language == "python" and not quoted_file(code):
            needed = {name for sign, name in EXTRAS.items() if re.search(sign, code)}
            missing |= {name for name in needed if find_spec(name) is None}
            if needed & missing:
                continue
            exec(compile(code, str(page), "exec"), namespace)
            printed = capsys.readouterr().out
            if output is not None:
                assert printed.split("\n") == output.split("\n")
    if missing:
        pytest.skip(f"the blocks with {' and '.join(sorted(missing))} were not run")


@pages
def test_quotations_are_in_the_files(page):
    for language, code, _ in blocks(page):
        path = quoted_file(code) if language == "python" else None
        if path:
            known = {line.strip() for line in path.read_text("utf-8").split("\n")}
            for line in code.split("\n")[1:]:
                assert line.strip() in known, f"{path.name} has no line: {line.strip()}"


def anchors(page):
    """Return the anchors of a page's headings, as GitHub makes them."""
    text = BLOCK.sub("", page.read_text("utf-8"))
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links(page):
    """Return the targets of a page's links and images, those in definitions and tags too."""
    text = re.sub(r"`[^`]*`", "code", BLOCK.sub("", page.read_text("utf-8")))
    forms = r"\]\(([^)]*)\)", r"^\[[^\]]+\]: (.*)$", r"(?:src|href)=\"([^\"]*)\""
    return [target for form in forms for target in re.findall(form, text, re.MULTILINE)]


@all_pages
def test_links_lead_somewhere(page):
    for target in links(page):
        path, _, anchor = target.partition("#")
        if urlsplit(target).scheme:
            continue
        file = page.parent / path if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@all_pages
def test_links_elsewhere_are_well_formed(page):
    for target in links(page):
        parts = urlsplit(target)
        if parts.scheme:
            assert parts.scheme == "https", target
            assert re.fullmatch(r"[\w-]+(\.[\w-]+)+", parts.netloc), target
            assert re.fullmatch(r"[!-~]+", target), target


def accepts(arguments):
    """Tell whether the command line takes these arguments; --help and --version end it with 0."""
    try:
        cli._parser().parse_args(arguments)
    except SystemExit as end:
        return end.code == 0
    return True


@all_pages
def test_commands_have_the_options_that_are_named(page):
    text = page.read_text("utf-8")
    lines = [line for block in BLOCK.finditer(text) for line in block[2].split("\n")]
    inline = re.findall(r"`(nprnn [^`]+)`", re.sub(r"\s+", " ", text))
    for line in [*lines, *inline]:
        command = re.split(r"\s{2,}|…|\.\.\.", line)[0]
        if command.startswith("nprnn ") and "]" not in command:
            name_alone = re.fullmatch("nprnn( [a-z]+)+", command)
            assert accepts(shlex.split(command)[1:] + ["--help"] * bool(name_alone)), command


@pages
def test_mathematics_is_closed(page):
    text = BLOCK.sub("", page.read_text("utf-8"))
    text = re.sub(r"`[^`]*`", "", text)
    for paragraph in text.split("\n\n"):
        assert paragraph.count("$") % 2 == 0, paragraph
    for language, code, _ in blocks(page):
        if language == "math":
            assert code.count("{") == code.count("}")
            assert code.count(r"\left") == code.count(r"\right")
    assert page.read_text("utf-8").count("```") % 2 == 0


@pages
def test_mathematics_is_such_as_github_renders(page):
    """GitHub refuses some macros, and reads Markdown in inline formulas before the formula."""
    formulas = [code for language, code, _ in blocks(page) if language == "math"]
    text = re.sub(r"`[^`]*`", "", BLOCK.sub("", page.read_text("utf-8")))
    inline = re.findall(r"\$([^$]*)\$", text)
    for formula in formulas + inline:
        assert not re.search(r"\\(operatorname|mbox|phantom|newcommand|def)\b", formula), formula
    for formula in inline:
        assert not re.search(r"\\[^A-Za-z\s]", formula), f"Markdown takes the backslash: {formula}"
        assert not re.search(r"[)}\]]_|\*", formula), f"Markdown sees emphasis: {formula}"


def test_the_citation_is_of_this_version():
    text = (ROOT / "CITATION.cff").read_text("utf-8")
    assert re.search(r"^version: (.*)$", text, re.MULTILINE)[1] == nprnn.__version__


@all_pages
def test_rows_of_a_table_have_as_many_cells(page):
    text = BLOCK.sub("", page.read_text("utf-8"))
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        rows = [re.split(r"(?<!\\)\|", row) for row in table.splitlines()]
        assert len({len(row) for row in rows}) == 1, rows[0]
        assert all(re.fullmatch(" ?:?-+:? ?", cell) for cell in rows[1][1:-1]), rows[0]
