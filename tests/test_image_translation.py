import image_translation
from cyclegan.translate import translate
from gatys.stylize import stylize as gatys_stylize
from johnson.stylize import stylize


def test_functions_of_the_same_name_have_two():
    assert image_translation.translate is translate
    assert image_translation.stylize is stylize and image_translation.optimize is gatys_stylize
