"""The closed forms of a job, from a run in letters; those of compiled code from its plans at other sizes."""

from memmodel.base.errors import UsageError
from memmodel.base.units import formula_text
from memmodel.events.liveness import last_step
from memmodel.events.program import Mark, Program
from memmodel.sizes.dims import Size
from memmodel.tracer.alike import Alike
from memmodel.tracer.formulas.closed import Forms, closed_forms
from memmodel.tracer.formulas.symbolic import (
    Symbolic,
    divides_letters,
    hints,
    multiples_among,
    traced_in_letters,
)
from memmodel.tracer.job import Job, Steady
from memmodel.tracer.watch.alike import AlikeLayers

_MOST_TIED = 6  # letters tried as multiples of another, where the code does not run in letters of their own
OTHERWISE = "in letters PyTorch allocates otherwise than at these sizes"


_Forms = tuple[Symbolic | None, Forms | None, str]


def forms_of(job: Job, steady: Steady) -> tuple[Symbolic | None, Forms | None, str, Alike | None]:
    """The run in letters and its forms, else why there are none; and the alike layers of which it ran few."""
    if not job.sizes:
        return None, None, "no size is a letter", None
    if job.compiled:
        return *_fitted(job, steady.traced.program), None
    job.say("tracing in letters")
    alike = steady.alike
    if alike is not None:
        symbolic, forms, why = _in_letters(job, alike.few.program, alike.layers)
        if forms is not None and forms.holds_for(alike.whole.program, job.sizes):
            return symbolic, forms, why, alike
    return *_in_letters(job, steady.traced.program), None


def _in_letters(job: Job, program: Program, layers: AlikeLayers | None = None) -> _Forms:
    """The run in letters with few of these layers, and its forms for a model of all; or why there are none."""
    same = _enough(program)
    # As many steps as the run on numbers, whose events are to be the same.
    repeats = sum(isinstance(e, Mark) and e.phase == "forward" for e in same.events)
    setting = job.setting._replace(iterations=repeats, layers=layers or job.setting.layers)
    why, second_best = "", None
    for tied in (None, *multiples_among(job.sizes)[:_MOST_TIED]):
        try:
            symbolic = traced_in_letters(setting, hints(job.sizes, job.sizes), tied)
            forms = closed_forms(symbolic, same, job.sizes, layers and layers.number)
        except UsageError as error:
            why = why or f"the code does not run in letters: {error}"
            continue
        # Forms for sizes of which one divides another read better with the one as a multiple of the other.
        if forms.checked and not divides_letters(forms.conditions):
            return symbolic, forms, ""
        if forms.checked:
            second_best = second_best or (symbolic, forms, "")
        why = why or OTHERWISE
    return second_best or (None, None, why)


def _enough(program: Program) -> Program:
    """Without the third step where the second was the same."""
    starts = [i for i, e in enumerate(program.events) if isinstance(e, Mark) and e.phase == "forward"]
    if len(starts) < 3:
        return program
    second, third = (
        [(birth.op, birth.nbytes, birth.dtype, birth.site) for birth in program._replace(events=part).births()]
        for part in (program.events[starts[-2] : starts[-1]], program.events[starts[-1] :])
    )
    return program._replace(events=program.events[: starts[-1]]) if second == third else program


def _fitted(job: Job, program: Program) -> _Forms:
    """Forms of compiled code, whose plans are for numbers; else why there are none."""
    from memmodel.tracer.compiled.formulas import forms_of as planned_forms

    try:
        symbolic, forms = planned_forms(program, job.sizes, lambda sizes: job.run(job.setting, sizes).program)
    except UsageError as error:
        return None, None, str(error)
    return symbolic, forms, ""


def lettered(program: Program, symbolic: Symbolic | None, alike: Alike | None = None) -> Program:
    """The program with sizes that show as letters, where the run in letters has the same storages.

    `alike`: the runs that the program is extrapolated from, where the run in letters has few of its layers.
    """
    if symbolic is None:
        return program
    run = program if alike is None else alike.few.program
    ours, theirs = (list(last_step(x).without_shared_scratch().births()) for x in (run, symbolic.program))
    shapes = {
        birth.key: tuple(Size(int(n), _letter(formula_text(s))) for n, s in zip(birth.shape, same.shape, strict=True))
        for birth, same in zip(ours, theirs, strict=True)
        if len(birth.shape) == len(same.shape)
    }
    return program.reshaped(shapes) if alike is None else alike.reshaped(shapes)


def _letter(text: str) -> str:
    return text if text.replace("·", "").isalnum() else f"({text})"
