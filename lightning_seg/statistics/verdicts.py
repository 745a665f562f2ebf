"""Differences and how certain they are, in sentences."""

import numpy as np

from lightning_seg.statistics.paired import seeds_needed

USUAL_STD = (0.005, 0.01)  # standard deviation of mIoU between seeds, where it has not been measured


def difference_sentence(
    a: str, b: str, numbers: tuple[float, float, float], certain: bool, score: str, basis: str
) -> str:
    """Say how two groups differ, and whether that is certain.

    Args:
        a: Name of the one.
        b: Name of the other.
        numbers: The score of ``a`` less that of ``b`` in the unit that is shown, and the ends of its interval; NaN if
            they are not known.
        certain: Whether the interval is on one side of 0.
        score: Name of the score.
        basis: From what that is known: seeds, images, corrections.
    """
    value, low, high = numbers
    if not np.isfinite(low):
        return f"{a} and {b} cannot be told apart by {basis}: {value:+.1f} {score}"
    if not certain:
        return f"{a} and {b} are not distinguishable: {value:+.1f} {score}, 95 % CI {low:+.1f} to {high:+.1f}, {basis}"
    word, ends = ("better", (low, high)) if value > 0 else ("worse", (-high, -low))
    return f"{a} is {abs(value):.1f} {score} {word} than {b}, 95 % CI {ends[0]:.1f} to {ends[1]:.1f}, {basis}"


def one_seed_sentence(
    a: str, b: str, numbers: tuple[float, float, float], variance: float, score: str, images: str
) -> str:
    """Say how two groups differ that have too few seeds: on these images, and with how many more could be said.

    Args:
        a: Name of the one.
        b: Name of the other.
        numbers: The score of ``a`` less that of ``b`` in percent, and the ends of its interval over images; NaN if they
            are not known.
        variance: Of the difference over images, of fractions.
        score: Name of the score.
        images: How many test images, and for how many comparisons the interval is corrected, in words.
    """
    value, low, high = numbers
    if not np.isfinite(low):
        return f"{a} against {b}: {value:+.1f} {score}; too few seeds, {images}: too little to say more"
    interval = f"interval over images {low:+.1f} to {high:+.1f}, {images}"
    if low <= 0 <= high:
        return f"{a} and {b} are not distinguishable even on these images: {value:+.1f} {score}, {interval}"
    needed = [seeds_needed(value / 100, variance, std**2) for std in USUAL_STD]
    if needed[0] is None:
        further = "more seeds alone would not settle it, more test images might"
    else:
        most = "more than 100" if needed[1] is None else str(needed[1])
        number = str(needed[0]) if most == str(needed[0]) else f"{needed[0]} to {most}"
        further = f"about {number} seeds each would settle a difference of this size"
    return (
        f"{a} differs from {b} on these images, {value:+.1f} {score}; another seed may change it"
        f" ({interval}; {further})"
    )
