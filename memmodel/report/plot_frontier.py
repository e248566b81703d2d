"""Frontiers, drawn: lines of the longest sequence that fits, or a map of what one algorithm takes."""

from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.patches import Rectangle

from memmodel.pictures.frontier import Frontier, HeatMap
from memmodel.report.palette import BLACK, DASHES, MARKERS, SERIES
from memmodel.report.scales import nothing_fits, sequence_label
from memmodel.units import bytes_text


def draw_frontier(ax: Axes, shown: Frontier) -> None:
    """A line for each algorithm (its marker and colour) and GPU (its dashes)."""
    algorithms = list(dict.fromkeys(line.title for line in shown.lines))
    gpus = list(dict.fromkeys(line.gpu for line in shown.lines))
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    for line in shown.lines:
        walls = [wall for wall in line.walls if wall.largest]
        look = algorithms.index(line.title)
        hollow = gpus.index(line.gpu) % 2
        ax.plot(
            [wall.size for wall in walls],
            [wall.largest for wall in walls],
            color=SERIES[look % len(SERIES)],
            marker=MARKERS[look % len(MARKERS)],
            markeredgecolor=BLACK,
            markerfacecolor="white" if hollow else SERIES[look % len(SERIES)],
            markersize=max(9 - 2 * gpus.index(line.gpu), 3),  # lines that nearly meet: one marker inside the other
            linestyle=DASHES[gpus.index(line.gpu) % len(DASHES)],
            label=f"{line.title}, {line.gpu}" + nothing_fits(line, shown.against),
        )
    sizes = [wall.size for wall in shown.lines[0].walls]
    ax.set_xticks(sizes, [f"{size}" for size in sizes])
    ax.set_xlim(sizes[0] / 1.25, sizes[-1] * 1.25)
    ax.minorticks_off()
    if any(wall.largest for line in shown.lines for wall in line.walls):
        _sequences(ax)
    else:
        ax.set_yticks([])
    ax.grid(True, color="#DDDDDD", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.set_xlabel(shown.against)
    ax.set_ylabel("longest sequence that fits")
    ax.set_title(f"Out of memory above each line\n{shown.case}")
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(0.0, -0.12), ncols=2, fontsize=8)


def _sequences(ax: Axes) -> None:
    low, high = ax.get_ylim()
    powers = [1 << power for power in range(32) if low <= 1 << power <= high]
    powers = powers[:: 1 + len(powers) // 12]
    ax.set_yticks(powers, [sequence_label(power) for power in powers])


def draw_heat_map(ax: Axes, shown: HeatMap) -> None:
    """A cell for each pair of sizes: its share of the capacity, or hatched where it does not fit; the wall between."""
    columns = {size: i for i, size in enumerate(shown.sizes)}
    rows = {seq: i for i, seq in enumerate(shown.seqs)}
    shares = [[0.0] * len(columns) for _ in rows]
    for cell in shown.cells:
        shares[rows[cell.seq]][columns[cell.size]] = max(cell.reserved_peak_bytes / shown.capacity_bytes, 1e-4)
    image = ax.imshow(
        [[min(share, 1.0) for share in row] for row in shares],
        origin="lower",
        aspect="auto",
        cmap="cividis",
        norm=LogNorm(0.002, 1.0),
    )
    for cell in shown.cells:
        _cell(ax, columns[cell.size], rows[cell.seq], cell.reserved_peak_bytes / shown.capacity_bytes, cell.fits)
    ax.set_xticks(range(len(columns)), [f"{size}" for size in shown.sizes])
    ax.set_yticks(range(len(rows)), [f"{seq:,}" for seq in shown.seqs])
    ax.set_xlabel(shown.against)
    ax.set_ylabel("sequence")
    ax.set_title(f"{shown.title} on {shown.gpu}\n{shown.case}; hatched: does not fit")
    bar = ax.figure.colorbar(image, ax=ax, ticks=[0.01, 0.1, 1.0])
    bar.ax.set_yticklabels(["1 %", "10 %", "100 %"])
    bar.ax.minorticks_off()
    bar.set_label(f"reserved, of {bytes_text(shown.capacity_bytes)}")


def _cell(ax: Axes, column: int, row: int, share: float, fits: bool) -> None:
    """What a cell says: its share, or a hatch."""
    if not fits:
        look = {"facecolor": "#F4F4F4", "edgecolor": "#777777", "hatch": "xxx", "linewidth": 0.0}
        ax.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, **look))  # type: ignore[arg-type]
        return
    words = "<1 %" if share < 0.005 else f"{100 * share:.0f} %"
    ax.text(column, row, words, ha="center", va="center", fontsize=8, color="white" if share < 0.06 else BLACK)
