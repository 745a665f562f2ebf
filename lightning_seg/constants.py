"""The one label of pixels that losses and scores ignore.

Data sets mark void pixels in many ways (255, 11, black). Every data module maps its own mark to
`IGNORE_INDEX` when it reads a mask, and from there losses, metrics, augmentation, pictures and export all
agree without being told. Masks are ``uint8``, so a data set has at most 255 classes.
"""

IGNORE_INDEX = 255
