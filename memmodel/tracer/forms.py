"""The closed forms of a job, from a run in letters; those of compiled code from its plans at other sizes."""

from memmodel.case import Size
from memmodel.errors import UsageError
from memmodel.program import Alloc, Mark, Program
from memmodel.tracer.job import Job
from memmodel.tracer.letters.closed import Forms, closed_forms
from memmodel.tracer.letters.symbolic import Symbolic, divides_letters, hints, multiples_among, traced_in_letters
from memmodel.tracer.rules.scratch import is_shared_scratch
from memmodel.units import formula_text

_MOST_TIED = 6  # letters tried as multiples of another, where the code does not run in letters of their own
OTHERWISE = "in letters PyTorch allocates otherwise than at these sizes"


def forms_of(job: Job, program: Program) -> tuple[Symbolic | None, Forms | None, str]:
    """The run in letters and its forms; else why there are none."""
    if not job.sizes:
        return None, None, "no size is a letter"
    if job.compiled:
        return _fitted(job, program)
    same = _enough(program)
    repeats = sum(isinstance(e, Mark) and e.phase == "forward" for e in same.events)
    setting = job.setting._replace(iterations=repeats)
    why, second_best = "", None
    for tied in (None, *multiples_among(job.sizes)[:_MOST_TIED]):
        try:
            symbolic = traced_in_letters(setting, hints(job.sizes, job.sizes), tied)
            forms = closed_forms(symbolic, same, job.sizes)
        except UsageError as error:
            why = why or f"the code does not run in letters: {error}"
            continue
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
        [(e.op, e.nbytes, e.dtype, e.site) for e in part if isinstance(e, Alloc)]
        for part in (program.events[starts[-2] : starts[-1]], program.events[starts[-1] :])
    )
    return program._replace(events=program.events[: starts[-1]]) if second == third else program


def _fitted(job: Job, program: Program) -> tuple[Symbolic | None, Forms | None, str]:
    """Forms of compiled code, whose plans are for numbers; else why there are none."""
    from memmodel.tracer.compiled.letters import forms_of as planned_forms

    try:
        symbolic, forms = planned_forms(program, job.sizes, lambda sizes: job.run(job.setting, sizes).program)
    except UsageError as error:
        return None, None, str(error)
    return symbolic, forms, ""


def lettered(program: Program, symbolic: Symbolic | None) -> Program:
    """The program with sizes that show as letters, where the run in letters has the same storages."""
    if symbolic is None:
        return program
    shapes = {
        e.key: tuple(Size(int(n), _letter(formula_text(s))) for n, s in zip(e.shape, w.shape, strict=True))
        for e, w in zip(_of_last_step(program), _of_last_step(symbolic.program), strict=True)
        if len(e.shape) == len(w.shape)
    }
    events = [e._replace(shape=shapes.get(e.key, e.shape)) if isinstance(e, Alloc) else e for e in program.events]
    return Program(events, program.names, program.gradients)


def _of_last_step(program: Program) -> list[Alloc]:
    """The births among the inputs and in the last step."""
    marks = [i for i, e in enumerate(program.events) if isinstance(e, Mark) and e.phase == "forward"]
    events = (*program.events[: marks[0]], *program.events[marks[-1] :])
    return [e for e in events if isinstance(e, Alloc) and not is_shared_scratch(e)]


def _letter(text: str) -> str:
    return text if text.replace("·", "").isalnum() else f"({text})"
