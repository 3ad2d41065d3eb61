"""Words and objects used by the bundled prompt sets."""

from __future__ import annotations

WORD_LIST = """
    apple baby ball bank bear bell bird boat book bread bridge brush cake camel candle castle cat chair cheese clock
    cloud coat coffee corn cow crown cup dance desk dog door dream dress drum duck eagle earth engine farm finger
    fire fish flag flower forest fox garden gate ghost glass glove goat guitar hammer hand hat honey horse hotel
    house ice island jacket juice jungle key king kite ladder lake lamp leaf lemon lion magic map market milk mirror
    money moon mouse music night ocean owl panda paper pencil piano pizza planet queen rabbit rain river robot
    rocket salt school shark ship shoe silver smile snow soup spoon star stone street summer sun table ticket tiger
    tower train tree turtle violin wagon water whale window winter wolf zebra
"""
#: everyday words of three to six letters, without colours
WORDS = tuple(WORD_LIST.split())
COLOURS = ("red", "green", "blue", "purple", "orange", "black", "yellow")
OBJECT_LIST = """
    bear, bicycle, bird, boat, book, bridge, cactus, camel, candle, car, castle, cat, chair, clock, cow, dog, duck,
    fire truck, fox, frog, giraffe, goat, guitar, hat, helicopter, horse, lamp, lemon, lighthouse, lion, mountain,
    mushroom, panda, piano, pineapple, pizza, rabbit, robot, rocket, sailing ship, sheep, shoe, snowman, sofa,
    sunflower, teapot, tent, tiger, tractor, train, tree, turtle, umbrella, violin, waterfall, windmill, wolf, zebra
"""
#: objects that can be told apart in a picture
OBJECTS = tuple(one.strip() for one in OBJECT_LIST.split(","))
STYLE_LIST = """
    black-and-white photograph, cartoon, charcoal drawing, child's crayon drawing, comic book panel, cubist painting,
    embroidery, graffiti mural, impressionist painting, ink drawing, low-poly 3D render, marble sculpture, mosaic,
    oil painting, origami model, paper collage, pencil sketch, pixel art image, pop art print, stained glass window,
    watercolour painting, woodcut print
"""
#: picture styles
STYLES = tuple(one.strip() for one in STYLE_LIST.split(","))
