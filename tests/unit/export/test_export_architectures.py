"""Every architecture of the table: compiled in one graph, exported, and as ONNX; where one fails, the reason fails alike."""

import pytest
import torch
from architectures import AVAILABLE
from exports import CHECKS, IMPLEMENTATION, REASONS, subject, trace


@pytest.mark.filterwarnings("ignore")  # torch and onnxscript of their own workings
@pytest.mark.parametrize("ability", CHECKS)
@pytest.mark.parametrize("name", AVAILABLE)
def test_ability(name, ability, record_property):
    if (name, ability) not in REASONS:
        CHECKS[ability](name)
        return
    record_property("reason", REASONS[name, ability].text)  # for docs/compatibility.md
    # the bare backbone fails, too; when it does not any more, the reason is to be struck out
    with pytest.raises(Exception, match=REASONS[name, ability].error):
        CHECKS[ability](name, bare=True)


@pytest.mark.parametrize("name", IMPLEMENTATION)
def test_why_another_implementation_is_taken(name):
    """By sdpa, the bare backbone adds a boolean mask to its bias when it is traced; where not, the row is to be struck out."""
    program = trace(name, subject(name, implementation="sdpa", bare=True))
    attention = next(node for node in program.graph.nodes if "scaled_dot_product" in str(node.target))
    mask = attention.args[3]
    assert "add" in str(mask.target)
    assert torch.bool in {given.meta["val"].dtype for given in mask.args}
