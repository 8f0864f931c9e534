import doctest
import importlib
import re

import pytest
import yaml
from conftest import ROOT
from test_architecture import PUBLIC_MODULES

API = {path.stem: path.read_text() for path in (ROOT / "docs" / "api").glob("*.md")}


def test_the_api_pages_have_every_module_once():
    listed = [module for text in API.values() for module in re.findall(r"^::: (\S+)$", text, re.MULTILINE)]
    assert sorted(listed) == sorted(set(PUBLIC_MODULES) - {"stylekit", "gatys", "johnson", "cyclegan"} - PACKAGES)


PACKAGES = {name for name in PUBLIC_MODULES if (ROOT / name.replace(".", "/")).is_dir()}


def test_every_page_can_be_reached():
    text = re.sub(r"!!python/\S+", "", (ROOT / "mkdocs.yml").read_text())
    pages = re.findall(r"\S+\.md", str(yaml.safe_load(text)["nav"]))
    written = [str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")]
    assert sorted(page.strip("'") for page in pages) == sorted(written)


def test_links_between_names_lead_somewhere():
    names = re.findall(r"\]\[([\w.]+)\]", API["image_translation"])
    assert len(names) > 8
    for name in names:
        module, _, attribute = name.rpartition(".")
        if name not in PUBLIC_MODULES:
            assert hasattr(importlib.import_module(module), attribute), name


@pytest.mark.parametrize("name", PUBLIC_MODULES)
def test_examples_in_docstrings_work(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_examples():
    texts = [(ROOT / f"{name.replace('.', '/')}.py") for name in PUBLIC_MODULES if name not in PACKAGES]
    assert sum(path.read_text().count(">>> ") for path in texts) >= 8
