"""The PNG curve in a run's folder, for where an HTML page does not reach."""

from __future__ import annotations

from pathlib import Path

from matplotlib import font_manager, rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from danlu.ledger.files import atomic_file
from danlu.report.curves import Curve
from danlu.report.words import Language, say

CHINESE_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "Source Han Sans SC",
    "PingFang SC",
    "Microsoft YaHei",
    "SimHei",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
)
"""matplotlib draws boxes for characters that its font lacks; the first of these that is installed has them."""
COLUMNS = 3
COLOURS = ("#2f6fde", "#d9822b")


def chinese_font() -> str | None:
    """The installed font for Chinese labels, or None."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return next((name for name in CHINESE_FONTS if name in installed), None)


def write_plot(curves: list[Curve], path: Path, language: Language) -> None:
    """Draws one panel a curve: loss, held-out loss and the starts of epochs.

    Labels are English where no font for Chinese is installed.
    """
    font = chinese_font()
    families = [font, "DejaVu Sans"] if font else ["DejaVu Sans"]
    with rc_context({"font.family": families}), atomic_file(path, "wb") as handle:
        _figure(curves, language if font else "en").savefig(handle, format="png")


def _figure(curves: list[Curve], language: Language) -> Figure:
    rows = -(-len(curves) // COLUMNS)
    figure = Figure(figsize=(5.2 * min(len(curves), COLUMNS), 3.4 * rows), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    for index, curve in enumerate(curves):
        axes = figure.add_subplot(rows, min(len(curves), COLUMNS), index + 1)
        for column, colour in (("loss", COLOURS[0]), ("held_out_loss", COLOURS[1])):
            points = curve.points(column)
            if points:
                steps, values = zip(*points, strict=True)
                marker = "o" if column == "held_out_loss" or len(points) == 1 else None
                axes.plot(
                    steps, values, color=colour, linewidth=1.3, marker=marker, markersize=3, label=say(column, language)
                )
        for start in curve.epoch_starts():
            axes.axvline(start, color="#999999", linewidth=0.8, linestyle="--")
        axes.set_title(curve.name, loc="left", fontsize=10)
        axes.set_xlabel(say("step", language), fontsize=9)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=8, frameon=False)
    return figure
