"""`memmodel replay`."""

from memmodel.base.errors import UsageError
from memmodel.cli.commands import BYTES, SIZE, argument, option, subcommand
from memmodel.cli.options import chosen_gpu, json_option
from memmodel.cli.output import busy, print_json, show


@subcommand(
    "replay",
    "memmodel replay snapshot.pickle",
    "memmodel replay snapshot.pickle --alloc-conf expandable_segments:True",
    "memmodel replay snapshot.pickle --gpu A100-40GB",
)
@argument("snapshot", metavar="SNAPSHOT")
@option("--device", type=SIZE, metavar="N", help="Which device of several. [default: the one with events]")
@option("--alloc-conf", metavar="SETTINGS", help="Replay under these, written as in PYTORCH_ALLOC_CONF.")
@option("--torch", metavar="VERSION", default="2.13", help="The PyTorch that reads SETTINGS. [default: 2.13]")
@option("--gpu", metavar="NAME", help="Replay on this GPU: with its capacity, less that of a CUDA context.")
@option("--gpu-file", metavar="FILE", help="A TOML file that describes the GPU.")
@option("--capacity", type=BYTES, metavar="SIZE", help="Replay with this much memory, such as 40GiB.")
@option("--stack", is_flag=True, help="The calls that led to each line of the account.")
@json_option
def command(
    snapshot: str,
    device: int | None,
    alloc_conf: str | None,
    torch: str,
    gpu: str | None,
    gpu_file: str | None,
    capacity: int | None,
    stack: bool,
    as_json: bool,
) -> None:
    """Read a CUDA memory SNAPSHOT: its peak by line of code, and its replay under other settings.

    SNAPSHOT is a file that torch.cuda.memory._dump_snapshot wrote, packed or not. No code in it is run.
    """
    from memmodel.allocator.cublas import parse_torch_version
    from memmodel.snapshot.alloc_conf import parse_alloc_conf
    from memmodel.snapshot.snapshot import read_snapshot
    from memmodel.snapshot.study import study

    conf = None if alloc_conf is None else parse_alloc_conf(alloc_conf, parse_torch_version(torch))
    room = _room(gpu, gpu_file, capacity)
    with busy("reading the snapshot") as say:
        read = read_snapshot(snapshot, device)
        say("replaying")
        found = study(read, conf, room)
    from memmodel.report.snapshot import snapshot_dict, snapshot_parts

    if as_json:
        print_json(snapshot_dict(found))
    else:
        show(*snapshot_parts(found, stack))


def _room(gpu: str | None, gpu_file: str | None, capacity: int | None) -> int | None:
    """The bytes that the allocator can get; None without an option that gives them."""
    if gpu is None and gpu_file is None:
        return capacity
    if capacity is not None:
        raise UsageError(f"--capacity and --gpu {gpu or gpu_file}: give one of them")
    from memmodel.step import room_bytes

    chosen = chosen_gpu(gpu or "", gpu_file, gpu is not None)
    room: int | None = room_bytes(chosen)
    if room is None:
        raise UsageError(f"no capacity is known for {chosen}: give --capacity")
    return room
