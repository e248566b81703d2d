"""Renderers of results: tables, JSON, pictures and pages, registered here by the type they render."""

from memmodel.base.rendering import register

register(
    {
        "memmodel.base.rendering.Renderable": {
            "text": "memmodel.report.console:text",
            "notebook": "memmodel.report.console:html",
        },
        "memmodel.base.rendering.Drawing": {
            "screen": "memmodel.report.terminal:screen",
            "notebook": "memmodel.report.console:drawing",
            "file": "memmodel.report.console:save",
            "dict": "memmodel.report.json:picture_dict",
        },
        "memmodel.prediction.Report": {
            "screen": "memmodel.report.tables:report_parts",
            "dict": "memmodel.report.json:document",
        },
        "memmodel.prediction.SideBySide": {
            "screen": "memmodel.report.tables:side_by_side_parts",
            "dict": "memmodel.report.json:document",
        },
        "memmodel.gpu_comparison.GpuComparison": {
            "screen": "memmodel.report.gpu_comparison:comparison_parts",
            "notebook": "memmodel.report.console:html",
        },
        "memmodel.prediction.Prediction": {
            "screen": "memmodel.report.tables:prediction_parts",
            "dict": "memmodel.report.json:encoded",
        },
        "memmodel.models.results.ModelReport": {
            "screen": "memmodel.report.model:model_parts",
            "dict": "memmodel.report.json:document",
        },
        "memmodel.models.results.ModelPrediction": {
            "screen": "memmodel.report.model:prediction_parts",
            "dict": "memmodel.report.json:encoded",
        },
        "memmodel.models.fit.FitReport": {
            "screen": "memmodel.report.fit:fit_parts",
            "dict": "memmodel.report.json:document",
        },
        "memmodel.tracer.result.Trace": {
            "screen": "memmodel.report.trace:trace_parts",
            "dict": "memmodel.report.json:document",
        },
        "memmodel.tracer.formulas.closed.Forms": {"latex": "memmodel.report.formulas:latex"},
    }
)
