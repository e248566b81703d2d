"""`memmodel accuracy`."""

from memmodel.cli.commands import option, subcommand
from memmodel.cli.options import at_most_one, json_option
from memmodel.cli.output import busy, check_picture, force_option, print_json, save, show, tell


@subcommand(
    "accuracy", "memmodel accuracy", "memmodel accuracy --gpu H100 --quantity time", "memmodel accuracy --markdown"
)
@option("--gpu", metavar="NAME", help="Only GPUs whose name contains this.")
@option("--quantity", metavar="NAME", help="Only quantities whose name contains this: memory, naive, flash, time.")
@option("--ledger", "ledgers", multiple=True, metavar="FILE", help="More records: what `memmodel validate` wrote.")
@option("--by-table", is_flag=True, help="A row for each recorded table, not only for each quantity.")
@option("--markdown", is_flag=True, help="As Markdown: the README's table, with --by-table that of docs/accuracy.md.")
@json_option
@option("--plot", metavar="FILE", help="Draw predicted against measured into FILE.svg or FILE.png.")
@force_option
def command(
    gpu: str | None,
    quantity: str | None,
    ledgers: tuple[str, ...],
    by_table: bool,
    markdown: bool,
    as_json: bool,
    plot: str | None,
    force: bool,
) -> None:
    """Compare today's model with every run on record."""
    from memmodel_validate import accuracy_table as report
    from memmodel_validate.accuracy import accuracy

    at_most_one(markdown=markdown, json=as_json)
    if plot is not None:
        check_picture(plot, force)
    with busy("predicting every run on record"):
        found = accuracy(*ledgers).only(gpu, quantity)
    if plot is not None:
        from memmodel_validate.accuracy_plot import accuracy_pictures

        save(accuracy_pictures(found.comparisons), plot)
    if markdown:
        print(report.markdown(found, by_table))
    elif as_json:
        print_json(report.accuracy_dict(found))
    else:
        show(*report.tables(found, by_table))
        if plot is not None:
            tell(plot)
