"""The functions of the model that the page runs, and their substitutes in JavaScript."""

from memmodel import cases, closed_forms, prediction, predictor, recorder
from memmodel.attention import case, masks
from memmodel.base import errors, frozen, rendering
from memmodel.base.dtypes import DType, short_name
from memmodel.base.units import bytes_text
from memmodel.events import account, liveness, origin
from memmodel.events.program import Alloc, Free, Launch, Mark, Program, Release, Save
from memmodel.events.work import Work
from memmodel.gpus.gpu import Gpu, Value
from memmodel.gpus.keys import source_text
from memmodel.pictures import frontier, picture, roofline
from memmodel.pictures.describe import pictures_of
from memmodel.pictures.timeline import Timeline, timeline
from memmodel.prediction import Report
from memmodel.sizes import dims
from memmodel.timing import Calibration, intervals, step_interval
from memmodel_kernels.flash import flash_tiles

RUN = {  # by name in the page's scripts: functions, classes, and constants as "module:name"
    **{kind.__name__: kind for kind in (Alloc, Free, Launch, Mark, Program, Release, Save, Work, DType)},
    **{kind.__name__: kind for kind in (Gpu, Value, Report, masks.Mask, frontier.Frontier, frontier.Line)},
    "Wall": frontier.Wall,
    "Look": picture.Look,
    "Point": picture.Mark,
    "at_peak": liveness.at_peak,
    "make_case": case.make_case,
    "mask": masks.mask,
    "short_name": short_name,
    "flash_tiles": flash_tiles,
    "supported": recorder.supported,
    "on_gpu": cases.on_gpu,
    "predict_case": predictor.predict_case,
    "timeline": timeline,
    "roofline": roofline.roofline,
    "frontier": frontier.frontier,
    "timeline_pictures": pictures_of.dispatch(Timeline),
    "roofline_pictures": pictures_of.dispatch(roofline.Roofline),
    "frontier_pictures": pictures_of.dispatch(frontier.Frontier),
    "bytes_text": bytes_text,
    "ROWS": "memmodel.report.rows:ROWS",
}
NATIVE = {  # JavaScript, of programs.js and python.js; base classes that the page does without are empty
    recorder.record: "programRecorded",
    recorder.recorded: "recorded",
    "memmodel.algorithms.ALGORITHMS": "TABLES.algorithms",
    "memmodel.recorder.ALGORITHMS": "TABLES.algorithms",
    closed_forms.largest_size: "noClosedForm",
    dims.Size: "Number",
    dims.ceil_div: "ceilDiv",
    dims.exact_div: "floordiv",
    dims.maximum: "Math.max",
    dims.minimum: "Math.min",
    dims.same: "equal",
    dims.hint: "Number",
    dims.symbolic: "(() => false)",
    errors.unknown: "unknown",
    errors.UsageError: "ValueError",
    source_text: "String",
    origin.names: "namesOf",
    rendering.Drawing: "",
    rendering.Renderable: "",
    frozen.Frozen: "",
    account.account: "nothing",
    prediction.attention_kernels: "nothing",
    "memmodel.predictor._expected": "noTime",
    intervals.kind_of: "nothing",  # the page has no measured rates
    intervals.origin_of: "nothing",
    intervals.factor_of: "nothing",
    step_interval: "nothing",
    Calibration: "Object",
    "memmodel.allocator.segments.Driver.FIRST": "2 ** 40",  # with 2^64 addresses would not be exact
}
