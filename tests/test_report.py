"""The report: every number in it comes from a result, and the committed PDF is what its sources give."""

import importlib.util
import json
import re
import shutil
import subprocess

import pytest
from conftest import ROOT

REPORT = ROOT / "report"
TEX = (REPORT / "report.tex").read_text()
NUMBERS = REPORT / "figures" / "numbers.tex"
MISSING = [program for program in ("pdflatex", "bibtex", "pdftotext", "pdfinfo") if shutil.which(program) is None]


@pytest.fixture(scope="module")
def make_figures():
    spec = importlib.util.spec_from_file_location("make_figures", REPORT / "make_figures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_macro_is_defined_and_every_number_is_used():
    defined = set(re.findall(r"\\newcommand{\\(\w+)}", NUMBERS.read_text()))
    body = TEX.split(r"\begin{document}")[1]
    latex = {"E", "R", "Bigl", "Bigr", "Phi", "Gamma"}
    assert set(re.findall(r"\\([A-Z][A-Za-z]+)", body)) - latex == defined


def test_no_number_is_typed():
    body = TEX.split(r"\maketitle")[1].split(r"\bibliographystyle")[0]
    words = r"\\texttt{[a-z0-9-]+}|VGG-\d\d|EfficientNet-lite0|relu\d_\d|H200"
    lengths = r"\\(vspace|includegraphics|begin)\*?(\[[^]]*\])?({[^}]*})+|\\setlength{[^}]*}{[^}]*}"
    math = r"\\begin{(equation|align)}.*?\\end{\1}|\$[^$]*\$"
    references = r"\\(ref|cite|label|rows){[^}]*}"
    text = re.sub(f"{math}|{words}|{lengths}|{references}", "", body, flags=re.S)
    assert not re.findall(r".*\d.*", text)


def test_numbers_and_tables_are_those_of_the_results(make_figures, tmp_path):
    make_figures.write_numbers(tmp_path)
    assert (tmp_path / "numbers.tex").read_text() == NUMBERS.read_text()
    for name, rows in make_figures.tables().items():
        written = (REPORT / "figures" / f"{name}.tex").read_text()
        assert written == "".join(" & ".join(row) + r" \\" + "\n" for row in rows), name


def test_facts_are_in_their_sources():
    for name, (value, source) in json.loads((REPORT / "results" / "facts.json").read_text()).items():
        assert value in (ROOT / source).read_text(), name


def test_figures_and_tables_exist_have_captions_and_are_discussed():
    folders = (REPORT / "figures", ROOT / "docs")
    for name in re.findall(r"\\includegraphics(?:\[[^]]*\])?{([^}]+)}", TEX):
        assert [path for folder in folders for path in folder.glob(f"{name}.*")], name
    floats = re.findall(r"\\begin{(figure|table)}(.*?)\\end{\1}", TEX, re.S)
    assert len(floats) >= 8
    for _, content in floats:
        assert content.count(r"\caption{") == 1
        (label,) = re.findall(r"\\label{(\w+:\w+)}", content)
        assert f"\\ref{{{label}}}" in TEX.replace(content, ""), label
    cited = {key for keys in re.findall(r"\\cite{([^}]+)}", TEX) for key in keys.split(",")}
    assert cited == set(re.findall(r"@\w+{(\w+),", (REPORT / "references.bib").read_text()))


@pytest.mark.skipif(bool(MISSING), reason=f"needs {' and '.join(MISSING)}")
def test_the_pdf_is_that_of_the_sources_and_has_at_most_ten_pages(tmp_path):
    shutil.copytree(REPORT, tmp_path / "report")
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    for program in ("pdflatex", "bibtex", "pdflatex", "pdflatex"):
        subprocess.run(
            [program, *(["-interaction=batchmode"] if program == "pdflatex" else []), "report"],
            cwd=tmp_path / "report", check=True, capture_output=True, timeout=100,
        )  # fmt: skip
    assert "undefined" not in (tmp_path / "report" / "report.log").read_text(errors="replace")
    assert read_text(tmp_path / "report" / "report.pdf") == read_text(REPORT / "report.pdf")
    pages = subprocess.run([shutil.which("pdfinfo"), REPORT / "report.pdf"], capture_output=True, text=True).stdout
    assert int(re.search(r"Pages:\s+(\d+)", pages)[1]) <= 10


def read_text(pdf):
    """The text without line breaks and hyphens, which depend on the version of TeX."""
    text = subprocess.run([shutil.which("pdftotext"), pdf, "-"], check=True, capture_output=True, text=True).stdout
    return re.sub(r"[\s\-\u2010]+", "", text)
