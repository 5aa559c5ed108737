"""What `import hf_latent` gives, and what it leaves alone."""

import pytest

import hf_latent


def test_every_public_name_is_there():
    for name in hf_latent.__all__:
        assert getattr(hf_latent, name).__name__ == name


def test_rooms_are_attributes_loaded_on_first_use(run_python):
    """`hf_latent.hub.bundle` works after `import hf_latent` alone, which loads neither plotting nor training."""
    code = (
        "import sys, hf_latent\n"
        "assert not {'matplotlib', 'trl', 'peft', 'datasets'} & set(sys.modules), 'loaded on import'\n"
        "print(hf_latent.hub.bundle.__name__)"
    )
    assert run_python(code) == "bundle\n"


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'bundel'"):
        _ = hf_latent.bundel


@pytest.mark.parametrize(
    "first",
    [
        "import transformers.models.auto, hf_latent",
        "import hf_latent.auto",
        "from hf_latent.modeling.llada.modeling_llada import LladaForMaskedDiffusion",
        "import hf_latent.tasks",
    ],
)
def test_every_road_to_an_auto_class_leads_past_the_registration(run_python, first):
    """The models are registered when they are needed, not by `import hf_latent`, which must not wait for torch."""
    code = (
        "import sys, hf_latent\n"
        f"assert 'torch' not in sys.modules, 'loaded on import'\n{first}\n"
        "from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM\n"
        "for name, auto in (('llada', AutoModel), ('Dream', AutoModelForCausalLM), ('latent_token', AutoModel),\n"
        "                   ('latent_diffusion', AutoModelForSeq2SeqLM)):\n"
        "    print(auto._model_mapping[type(AutoConfig.for_model(name))])"
    )
    if first.startswith("import transformers"):
        code = code.replace("import sys, hf_latent\n", "import sys\n", 1)
    assert run_python(code).count("hf_latent.modeling") >= 4
