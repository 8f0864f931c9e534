import subprocess
import sys

import pytest
from conftest import ROOT

import image_translation
from cyclegan.translate import translate
from gatys.stylize import stylize as gatys_stylize
from johnson.stylize import stylize


def test_every_public_name_can_be_imported():
    assert dir(image_translation) == image_translation.__all__ and len(image_translation.__all__) > 8
    assert all(getattr(image_translation, name) is not None for name in image_translation.__all__)


def test_functions_of_the_same_name_have_two():
    assert image_translation.translate is translate
    assert image_translation.stylize is stylize and image_translation.optimize is gatys_stylize


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="no attribute 'paint'"):
        image_translation.paint  # noqa: B018


def test_the_name_alone_loads_nothing_heavy():
    program = "import sys, image_translation; print({'torch', 'numpy', 'PIL'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert found.stdout == "set()\n"
