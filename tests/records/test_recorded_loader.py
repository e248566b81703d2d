import lzma
from pathlib import Path

import pytest

from memmodel.base.errors import UsageError
from memmodel_evidence import records, traces


@pytest.mark.parametrize(
    "line",
    ["malloc,0x0,512,0,", "segment,0x0,512,0,medium", "block,0x0,512,0,", "alloc,zero,512,0,"],
)
def test_a_wrong_trace_is_named_by_file_and_line(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "traces").mkdir()
    text = f"record,address,size,stream,detail\n{line}\n"
    (tmp_path / "traces" / "odd.csv.xz").write_bytes(lzma.compress(text.encode()))
    monkeypatch.setattr(traces, "DATA", tmp_path)
    with pytest.raises(UsageError, match=r"odd\.csv\.xz, line 2: "):
        traces.load_trace("odd")


def test_every_record_says_where_it_is_from() -> None:
    for source in records.everything().sources.values():
        provenance = source.provenance
        if provenance.get("repo"):
            assert provenance["path"]
            assert len(provenance["commit"]) == 40, source.name
        elif source.name not in ("seed-eager", "seed-compiled", "gtx1080"):  # handed out, and found, without one
            assert provenance.get("citation") or provenance.get("own run"), source.name
    for trace in traces.traces().values():
        assert trace.path.endswith(".pickle")
        assert len(trace.commit) == 40, trace.trace
