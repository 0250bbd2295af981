"""A hot-swap from the Hub: at a revision, and offline from the cache."""

import torch
from models import clips, prompted, tiny_videomae
from peft import PeftModel

from apt_peft import hotswap_adapter


def test_from_the_hub_and_from_its_cache(published, made, offline, tmp_path):
    expected = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        for file, content in made[name].items():
            (tmp_path / name / file).write_bytes(content)
        expected.append(PeftModel.from_pretrained(tiny_videomae(num_labels=2), tmp_path / name)(clips()).logits)
    labels = {index: f"own {index}" for index in range(3)}
    for online in (True, False):
        if not online:
            offline()
        for revision, tokens, logits in (("v1", 3, expected[0]), (None, 4, expected[1])):
            model = prompted(seed=7, model=tiny_videomae(num_labels=2), num_prompt_tokens=tokens, id2label=labels)
            hotswap_adapter(model, "me/adapter", "default", "cpu", revision=revision)
            assert torch.equal(model(clips()).logits, logits)
            assert model.config.id2label[0] == ("first 0" if revision else "second 0")
