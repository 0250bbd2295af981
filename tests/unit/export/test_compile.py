"""torch.compile: one graph, numbers as eager, and what makes it compile anew."""

import shutil
import warnings

import pytest
import torch
from models import clips, prompted, tiny_videomae
from torch._dynamo.testing import CompileCounterWithBackend

from apt_peft import AttentionPromptConfig


@pytest.fixture(autouse=True)
def nothing_compiled():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(model, **settings):
    """The model on a backend that runs graphs as they are, and a count of the graphs."""
    counter = CompileCounterWithBackend("aot_eager")
    return torch.compile(model, backend=counter, fullgraph=True, **settings), counter


def gradients(model, run, **inputs) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = run(**inputs).loss
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.skipif(not shutil.which("g++"), reason="inductor needs a C++ compiler on a CPU")
def test_inductor_forward_and_training_step():
    """The real compiler: C++ from inductor. One graph each way, forward in evaluation and a training step."""
    model = prompted(model=tiny_videomae(num_hidden_layers=1))  # a layer is enough: each kernel is compiled by g++
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # inductor of its own workings
        run = torch.compile(model, fullgraph=True)
        with torch.no_grad():
            torch.testing.assert_close(run(clips()).logits, model(clips()).logits, rtol=1e-5, atol=1e-5)
        model.train()
        inputs = {"pixel_values": clips(), "labels": torch.tensor([0, 2])}
        loss, ours = gradients(model, run, **inputs)
    eager_loss, wanted = gradients(model, model, **inputs)
    assert loss == pytest.approx(eager_loss, abs=1e-5)
    assert ours.keys() == wanted.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    for name, gradient in wanted.items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_a_gate_on_keys_breaks_no_graph():
    model = prompted(key_gate=3).train()
    run, counter = compiled(model)
    inputs = {"pixel_values": clips(), "labels": torch.tensor([0, 2])}
    loss, ours = gradients(model, run, **inputs)
    eager_loss, wanted = gradients(model, model, **inputs)
    assert (counter.frame_count, loss) == (1, pytest.approx(eager_loss, abs=1e-5))
    for name, gradient in wanted.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_dropout_is_drawn_anew_in_each_step():
    model = prompted(prompt_dropout=0.5).train()
    run, counter = compiled(model)
    first, second = run(clips()).logits, run(clips()).logits
    assert (first - second).abs().max() > 1e-3
    assert counter.frame_count == 1


def test_batches_of_other_sizes_need_one_more_graph():
    """The first change of the batch makes it free; only a batch of one clip is a case of its own in torch."""
    model = prompted()
    run, counter = compiled(model)
    graphs = []
    with torch.no_grad():
        for batch in (2, 2, 3, 5, 4, 2, 1, 1, 6):
            torch.testing.assert_close(run(clips(batch)).logits, model(clips(batch)).logits)
            graphs.append(counter.frame_count)
    assert graphs == [1, 1, 2, 2, 2, 2, 3, 3, 3]


def test_evaluation_between_training_steps_compiles_once_each():
    """transformers' loss notes the problem's type in the config at the first step, which would cost another graph."""
    model = prompted(prompt_dropout=0.1)
    model.config.problem_type = "single_label_classification"
    run, counter = compiled(model)
    for _ in range(3):
        model.train()
        run(pixel_values=clips(), labels=torch.tensor([0, 2])).loss.backward()
        model.eval()
        with torch.no_grad():
            run(pixel_values=clips())
    assert counter.frame_count == 2


def test_each_adapter_has_its_graph_and_keeps_it():
    """Switching compiles once for each adapter, and for none; going back costs nothing."""
    model = prompted()
    model.add_adapter("other", AttentionPromptConfig(num_prompt_tokens=7, init_weights=False))
    model.eval()
    run, counter = compiled(model)
    graphs = []
    with torch.no_grad():
        for name in ("default", "other", "default", "other", "default"):
            model.set_adapter(name)
            torch.testing.assert_close(run(clips()).logits, model(clips()).logits)
            graphs.append(counter.frame_count)
        for _ in range(2):
            with model.disable_adapter():
                torch.testing.assert_close(run(clips()).logits, model(clips()).logits)
            graphs.append(counter.frame_count)
        run(clips())
        graphs.append(counter.frame_count)
    assert graphs == [1, 2, 2, 2, 2, 3, 3, 3]


def test_new_numbers_in_the_prompts_need_no_graph():
    model = prompted()
    run, counter = compiled(model)
    with torch.no_grad():
        before = run(clips()).logits
        for name, parameter in model.named_parameters():
            if "attention_prompt_" in name:
                parameter.mul_(2)
        after = run(clips()).logits
        torch.testing.assert_close(after, model(clips()).logits)
    assert (before - after).abs().max() > 1e-3
    assert counter.frame_count == 1
