"""Bad configurations raise, with the field, the value and what is allowed; defaults fit the machine."""

from typing import Any

import pytest

from hf_latent.training import MaskedDiffusionConfig


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask_schedule": "sqrt"}, r"`mask_schedule` must be one of \('linear', 'cosine'\), got 'sqrt'"),
        ({"loss_weighting": "1/t"}, "`loss_weighting` must be one of .*got '1/t'"),
        ({"loss_normalization": "mean"}, "`loss_normalization` must be one of .*got 'mean'"),
        ({"time_sampling": "sobol"}, "`time_sampling` must be one of .*got 'sobol'"),
        ({"pad_completion_with_eos": "longest"}, "`pad_completion_with_eos` must be one of .*got 'longest'"),
        ({"loss_weighting": "inverse_t", "mask_schedule": "cosine"}, "'linear'` only, got 'cosine'"),
        ({"time_epsilon": 1.0}, r"`time_epsilon` must be in \[0, 1\), got 1.0"),
        ({"time_epsilon": -0.1}, r"`time_epsilon` must be in \[0, 1\), got -0.1"),
        ({"noise_seed": -1}, "`noise_seed` must be in .*got -1"),
        ({"pad_completion_with_eos": "max_length", "max_length": None}, "needs `max_length`, got None"),
        ({"packing": True, "packing_strategy": "wrapped"}, "`packing_strategy` must be 'bfd', got 'wrapped'"),
        ({"packing": True, "max_length": None}, "`packing` needs `max_length`, got None"),
        ({"packing": True, "random_length_share": 0.1}, "`random_length_share` must be 0 with `packing`, got 0.1"),
        ({"packing": True, "attention_annealing_steps": 5}, "`attention_annealing_steps` must be 0 .* got 5"),
        ({"packing": True, "pad_completion_with_eos": "batch"}, "must be 'none' with `packing`, got 'batch'"),
        ({"prompt_dropout": 1.5}, r"`prompt_dropout` must be in \[0, 1\], got 1.5"),
        ({"random_length_share": -0.1}, r"`random_length_share` must be in \[0, 1\], got -0.1"),
        ({"attention_annealing_steps": -1}, "`attention_annealing_steps` must be >= 0, got -1"),
        ({"eval_packing": True}, "`eval_packing` must be False, got True: evaluation"),
        ({"padding_free": True}, "`padding_free` must be False, got True: with bidirectional attention"),
        ({"loss_type": "dft"}, "`loss_type` must be 'nll' .*got 'dft'"),
        ({"label_smoothing_factor": 0.1}, "`label_smoothing_factor` must be 0, got 0.1"),
    ],
)
def test_bad_values_raise(tmp_path: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MaskedDiffusionConfig(str(tmp_path), **arguments)


def test_a_cpu_trains_in_float32_and_does_not_recompute_activations(tmp_path: Any) -> None:
    """trl's defaults are bf16 and gradient checkpointing everywhere: slower and less exact on a CPU."""
    config = MaskedDiffusionConfig(str(tmp_path), use_cpu=True)
    assert (config.bf16, config.activation_checkpointing, config.gradient_checkpointing) == (False, False, False)
    asked = MaskedDiffusionConfig(str(tmp_path), use_cpu=True, bf16=True, activation_checkpointing=True)
    assert (asked.bf16, asked.gradient_checkpointing) == (True, True)


def test_noise_seed_follows_the_seed_unless_it_is_given(tmp_path: Any) -> None:
    assert MaskedDiffusionConfig(str(tmp_path), seed=7).noise_seed == 7
    assert MaskedDiffusionConfig(str(tmp_path), seed=7, noise_seed=0).noise_seed == 0
