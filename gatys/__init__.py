"""Neural style transfer (Gatys, Ecker & Bethge 2016): a picture is optimised until VGG sees what it should in it."""
