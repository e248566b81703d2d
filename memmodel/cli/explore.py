"""`memmodel explore`."""

from memmodel.cli.commands import subcommand
from memmodel.cli.output import busy, writes


@subcommand("explore", "memmodel explore -o explorer.html")
@writes("-o explorer.html", (".html",), "FILE.html; it opens in a browser, needs no network and no server.")
def command(kind: str) -> str:
    """Write one interactive page that computes predictions by itself: sliders, timeline, roofline, frontier."""
    from memmodel.explorer.page import explorer_page

    with busy("recording every algorithm on symbols"):
        return explorer_page()
