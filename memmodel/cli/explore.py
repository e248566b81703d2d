"""`memmodel explore`."""

import click

from memmodel.cli.files import check_output, tell, write
from memmodel.cli.options import examples
from memmodel.errors import UsageError


@click.command("explore", epilog=examples("memmodel explore -o explorer.html"))
@click.option(
    "--output", "-o", metavar="FILE", help="FILE.html; it opens in a browser, needs no network and no server."
)
@click.option("--force", is_flag=True, help="Overwrite the output file.")
def command(output: str | None, force: bool) -> None:
    """Write one interactive page that computes predictions by itself: sliders, timeline, roofline, frontier."""
    if output is None:
        raise UsageError("explore: give the file to write, with -o explorer.html")
    check_output(output, force, (".html",))
    from memmodel.explorer.page import explorer_page

    write(output, explorer_page().encode())
    tell(output)
