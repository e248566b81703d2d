"""`memmodel gpus`."""

from memmodel.cli.commands import argument, subcommand
from memmodel.cli.options import json_option
from memmodel.cli.output import print_json, show


@subcommand("gpus", "memmodel gpus", 'memmodel gpus "H100 MIG 3g.40gb"', "memmodel predict --gpu-file mine.toml")
@argument("name", required=False)
@json_option
def command(name: str | None, as_json: bool) -> None:
    """List the GPUs known; with a NAME, every value of one and where it comes from.

    A GPU that is not listed is described in a TOML file, for --gpu-file:

    \b
      name = "My GPU"
      compute_capability = "9.0"
      bandwidth_GBps = 4000
      capacity_GiB = 94.5
      tensor_TFLOPS.bf16 = { value = 989, source = "datasheet, dense" }

    With base = "a10" it holds only what differs from that GPU. A value is a number, or a table with its source and
    perhaps a note. Its key ends in its unit: sm_count, boost_clock_MHz, tensor_clock_MHz, bandwidth_GBps or _TBps,
    capacity_GiB, _MiB or _bytes, nvidia_smi_MiB, marketed_GB, context_low_MiB, context_high_MiB, l2_MiB,
    l2_bandwidth_GBps, shared_memory_per_sm_KiB, shared_memory_per_block_KiB, registers_per_sm_KiB,
    exp_per_clock_per_sm, tdp_W, power_limit_W, dollars_per_hour; tensor_TFLOPS and vector_TFLOPS by element type. Only
    a name and a bandwidth are required; without a capacity nothing is said of fitting, without peaks nothing of time.
    """  # noqa: D301 - click keeps the lines of a paragraph that begins with this control character
    from memmodel.gpus import all_gpus, load_gpu

    found = list(all_gpus()) if name is None else [load_gpu(name)]
    if as_json:
        from memmodel.report.json import gpu_values_dict

        print_json({"schema": 1, "gpus": [gpu_values_dict(gpu) for gpu in found]})
    else:
        from memmodel.report.tables import gpu_table, gpu_value_table

        show(gpu_table(found) if name is None else gpu_value_table(found[0]))
