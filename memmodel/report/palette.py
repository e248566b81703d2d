"""Colours, hatches and markers of pictures.

Okabe and Ito, "Color Universal Design" (2008): eight colours that are told apart with any colour vision.
"""

ORANGE, SKY, GREEN, YELLOW = "#E69F00", "#56B4E9", "#009E73", "#F0E442"
BLUE, VERMILION, PURPLE, BLACK = "#0072B2", "#D55E00", "#CC79A7", "#000000"
GREY, LIGHT = "#BBBBBB", "#E4E4E4"
SERIES = (ORANGE, SKY, GREEN, YELLOW, BLUE, PURPLE, VERMILION)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", "-.", ":")
