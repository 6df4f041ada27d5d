"""Names in legends: short, with everything in which they differ."""

import itertools
import textwrap
from collections.abc import Sequence

from fastconv.analysis.comparison.groups import Group, varied_settings
from fastconv.analysis.figures import figure_text
from fastconv.runs.collection import as_text

# Characters of a line, and of a value or a name that is longer than some lines.
LINE, LONGEST_VALUE, LONGEST_NAME = 44, 32, 5 * 44


def legend_names(groups: Sequence[Group]) -> list[str]:
    """Name each group by the settings in which they differ, a name on as many lines as it takes."""
    keys = varied_settings(groups)
    columns = [shortened([as_text(group.values[key]) for group in groups], LONGEST_VALUE) for key in keys]
    parts = [f"{key}=" for key in keys]
    names = [", ".join(map("".join, zip(parts, values, strict=True))) for values in zip(*columns, strict=True)]
    return legend_texts(names or ["all runs"] * len(groups))


def legend_texts(names: Sequence[str]) -> list[str]:
    """Names as a legend of a figure shows them: in lines, and shortened only where they are alike."""
    return ["\n".join(figure_text(line, 12 * LINE) for line in textwrap.wrap(name, LINE)) or " "
            for name in shortened(names, LONGEST_NAME)]  # fmt: skip


def shortened(texts: Sequence[str], most: int) -> list[str]:
    """Shorten texts to about `most` characters. Different ones stay different.

    What all of them begin and end with is left out first, then the middle of each; a number tells those apart that
    would be the same.
    """
    different = list(dict.fromkeys(texts))
    if max(map(len, different), default=0) <= most:
        return list(texts)
    begin = _alike(different)
    end = _alike([text[begin:][::-1] for text in different])
    longest = max(map(len, different)) - begin - end
    context = max(0, most - longest - 2) // 2  # characters beside what differs, on each side
    short: dict[str, str] = {}
    for text in different:
        cut_begin, cut_end = max(0, begin - context), len(text) - max(0, end - context)
        part = "…" * (cut_begin > 0) + text[cut_begin:cut_end] + "…" * (cut_end < len(text))
        if len(part) > most:
            part = f"{part[: most // 2]}…{part[len(part) - most // 2 + 1 :]}"
        while part in short.values():
            part += f" ({len(short) + 1})"
        short[text] = part
    return [short[text] for text in texts]


def _alike(texts: Sequence[str]) -> int:
    """The number of characters that several texts have in common at their beginning."""
    together = itertools.takewhile(lambda each: len(set(each)) == 1, zip(*texts, strict=False))
    return sum(1 for _ in together) if len(texts) > 1 else 0
