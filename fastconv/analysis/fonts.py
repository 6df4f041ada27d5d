"""Draws names in any script: with the fonts that this system has, else spelled in letters that can be drawn."""

import logging
import re
import unicodedata
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter, Formatter, FuncFormatter

# What is left of Unicode's name of a letter or sign without these words is its sound.
LETTER = re.compile(r".*\b(?:LETTER|SYLLABLE|VOWEL SIGN|SIGN|LIGATURE)\b(?: SMALL| CAPITAL)? (.+)")
FAMILY = "DejaVu Sans"  # matplotlib's own

# It warns of each family of the system's that lacks a weight, though another weight of it is drawn.
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)


def fit_fonts(figure: Figure) -> None:
    """Give the texts of a figure fonts that have their characters; spell the characters that no font here has."""
    axes = [axis for each in figure.axes for axis in (each.xaxis, each.yaxis)]
    texts = [*figure.findobj(Text), *(label for axis in axes for label in axis.get_ticklabels())]
    missing = {character for text in texts for character in text.get_text()} - _characters(FAMILY)
    missing = {character for character in missing if character.isprintable()}
    if not missing:
        return
    families, covered = _fallbacks(frozenset(missing))
    spelled = {ord(character): _spell(character) for character in missing - covered}
    for text in texts:
        if missing & set(text.get_text()):
            text.set_fontfamily([FAMILY, *families])
            text.set_text(text.get_text().translate(spelled))
    for axis in axes:
        formatter = axis.get_major_formatter()
        if isinstance(formatter, FixedFormatter | FuncFormatter):
            axis.set_tick_params(labelfontfamily=[FAMILY, *families])
            axis.set_major_formatter(FuncFormatter(_spelling(formatter, spelled)))


def _spelling(formatter: Formatter, spelled: dict[int, str]) -> Callable[[Any, Any], str]:
    return lambda value, position: str(formatter(value, position)).translate(spelled)


def _spell(character: str) -> str:
    """A character in Latin letters as its Unicode name gives it, such as ka for a Devanagari letter; else its code."""
    name = unicodedata.name(character, "")
    if unicodedata.category(character) in ("Mn", "Cf", "Me"):
        return ""
    if found := LETTER.fullmatch(name):
        return found[1].lower()
    if name and not re.search(r"[0-9]", name):
        return f":{name.lower()}:"
    return f"U+{ord(character):04X} "


def _fallbacks(missing: frozenset[str]) -> tuple[list[str], set[str]]:
    """Families of this system's fonts that have some of the characters, few of them, and what they have together."""
    families: list[str] = []
    covered: set[str] = set()
    for family in _families():
        if more := (missing - covered) & _characters(family):
            families.append(family)
            covered |= more
        if covered == missing:
            break
    return families, covered


@cache
def _families() -> Iterable[str]:
    """The families of the system's fonts that can be drawn, sans-serif ones first."""
    names = {entry.name for entry in font_manager.fontManager.ttflist if entry.style == "normal"}
    return sorted(names - {FAMILY}, key=lambda name: ("sans" not in name.lower(), name))


@cache
def _characters(family: str) -> frozenset[str]:
    """The characters that a family has; none if its file cannot be read."""
    try:
        path = font_manager.findfont(family, fallback_to_default=False)
        return frozenset(map(chr, FT2Font(path).get_charmap())) | {"\n", "\t"}
    except Exception:  # of FreeType: a bitmap font, a damaged one
        return frozenset()
