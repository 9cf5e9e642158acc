import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from neuros_neurofm.models import MultiModalNeuroFMX, NeuroFMX
from neuros_neurofm.tokenizers import SpikeTokenizer, Tokens

RATES = {"spike": 100.0, "ecog": 200.0, "fmri": 2.0}


def build(**options: Any) -> MultiModalNeuroFMX:
    torch.manual_seed(0)
    settings = {
        "d_model": 16,
        "n_mamba_blocks": 1,
        "n_latents": 8,
        "latent_dim": 12,
        "modalities": ("spike", "ecog", "fmri"),
        "sampling_rates": RATES,
        "window": 2.0,
        "perceiver_depth": 1,
        "popt_depth": 1,
    }
    return MultiModalNeuroFMX(**(settings | options)).eval()


def data(batch: int = 3, seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "spike": torch.poisson(torch.ones(batch, 200, 5), generator=generator),
        "ecog": torch.randn(batch, 400, 3, generator=generator),
        "fmri": torch.randn(batch, 4, 6, generator=generator),
    }


def test_every_output_has_its_shape_and_is_read_by_attribute_and_by_key() -> None:
    out = build(forecast_horizon=4, behavior_dim=3)(data())
    assert out.latents.shape == (3, 8, 12)
    assert out["pooled"].shape == (3, 12)
    assert out["contrastive"].shape == (3, 128)
    assert out.decoder.shape == (3, 8, 3)
    assert {k: tuple(v.shape) for k, v in out["encoder"].items()} == {
        "spike": (3, 200, 5),
        "ecog": (3, 400, 3),
        "fmri": (3, 4, 6),
    }
    assert {k: v.shape[1] for k, v in out.forecast.items()} == {"spike": 4, "ecog": 4, "fmri": 4}
    torch.testing.assert_close(out.times, torch.arange(1, 9, dtype=torch.float64) * 0.25)
    assert list(out.keys()) == list(out)
    assert len(dict(out)) == len(out) == 7


def test_outputs_that_were_not_computed_are_absent() -> None:
    out = build(behavior_dim=0)(data())
    assert out.decoder is None
    assert out.forecast is None
    assert "decoder" not in out
    assert "latents" in out
    with pytest.raises(KeyError, match="no output 'decoder'"):
        out["decoder"]


@pytest.mark.parametrize("keep", [["spike"], ["ecog"], ["fmri"], ["spike", "fmri"]])
def test_any_subset_of_the_modalities_is_a_call(keep: list[str]) -> None:
    out = build()({name: data()[name] for name in keep})
    assert torch.isfinite(out.latents).all()
    assert sorted(out.encoder) == sorted(keep)


@pytest.mark.parametrize("missing", ["spike", "ecog", "fmri"])
def test_a_row_without_a_modality_equals_a_call_without_it(missing: str) -> None:
    model, x = build(forecast_horizon=2), data()
    row_mask = torch.tensor([True, False, True]).view(3, 1, 1)
    x[missing][1] = math.nan
    mixed = model(x, masks={missing: row_mask})
    alone = model({name: v[1:2] for name, v in x.items() if name != missing})
    for name in ("latents", "pooled", "decoder", "contrastive"):
        torch.testing.assert_close(mixed[name][1:2], alone[name], atol=1e-5, rtol=1e-5)
    for name, value in alone.encoder.items():
        torch.testing.assert_close(mixed.encoder[name][1:2], value, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(mixed.forecast[name][1:2], alone.forecast[name])
    complete = model({name: v[:1] for name, v in data().items()})
    torch.testing.assert_close(mixed.latents[:1], complete.latents, atol=1e-5, rtol=1e-5)


def longer(missing: str) -> dict[str, Any]:
    """Inputs of which the one that row 1 lacks lasts 3.2 s, 13 latents instead of 8."""
    x: dict[str, Any] = data()
    n = {name: round(3.2 * rate) for name, rate in RATES.items()}[missing]
    x[missing] = x[missing].repeat(1, 3, 1)[:, :n]
    return x


@pytest.mark.parametrize("kind", ["rate", "times", "tokens"])
@pytest.mark.parametrize("popt_window", [4, 10])
def test_a_row_without_the_longest_modality_ends_where_it_would_alone(
    kind: str, popt_window: int
) -> None:
    model, x = build(forecast_horizon=2, popt_window=popt_window), longer("ecog")
    keep, times = torch.tensor([True, False, True]).view(3, 1, 1), {}
    if kind == "times":
        times = {"ecog": torch.arange(1, x["ecog"].shape[1] + 1) / 200.0}
    masks = {"ecog": keep}
    if kind == "tokens":
        tokens = model.tokenizers["ecog"](x["ecog"])
        x["ecog"], masks = tokens._replace(mask=tokens.mask & keep[..., 0]), {}
    mixed = model(x, masks=masks, times=times)
    alone = model({name: v[1:2] for name, v in x.items() if name != "ecog"})
    assert (mixed.latents.shape[1], alone.latents.shape[1]) == (13, 8)
    for name in ("latents", "decoder"):
        torch.testing.assert_close(mixed[name][1:2, :8], alone[name], atol=1e-5, rtol=1e-5)
    for name in ("pooled", "contrastive"):
        torch.testing.assert_close(mixed[name][1:2], alone[name], atol=1e-5, rtol=1e-5)
    for name, value in alone.encoder.items():
        torch.testing.assert_close(mixed.encoder[name][1:2], value, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(mixed.forecast[name][1:2], alone.forecast[name])
    if kind == "rate":
        complete = model({name: v[:1] for name, v in x.items()})
        for name in ("latents", "pooled"):
            torch.testing.assert_close(mixed[name][:1], complete[name], atol=1e-5, rtol=1e-5)


def test_without_a_window_the_longest_input_of_the_batch_sets_the_step_of_all_rows() -> None:
    model, x = build(window=None), longer("ecog")
    keep = torch.tensor([True, False, True]).view(3, 1, 1)
    mixed = model(x, masks={"ecog": keep})
    alone = model({name: v[1:2] for name, v in x.items() if name != "ecog"})
    torch.testing.assert_close(mixed.times[-1], torch.tensor(3.2, dtype=torch.float64))
    torch.testing.assert_close(alone.times[-1], torch.tensor(2.0, dtype=torch.float64))
    # The same duration in words, and the row is that of a call without the modality.
    same = build(window=3.2)({name: v[1:2] for name, v in x.items() if name != "ecog"})
    torch.testing.assert_close(mixed.latents[1:2], same.latents, atol=1e-5, rtol=1e-5)


def test_a_row_without_any_data_reads_the_whole_grid() -> None:
    model, x = build(), longer("ecog")
    masks = {name: torch.tensor([True, True, False]).view(3, 1, 1) for name in RATES}
    out = model(x, masks=masks)
    torch.testing.assert_close(
        out.pooled, model.popt.aggregate(out.latents[:, -16:]), atol=1e-5, rtol=0
    )


def test_a_row_without_any_data_is_finite() -> None:
    masks = {name: torch.zeros(3, 1, 1, dtype=torch.bool) for name in RATES}
    out = build(forecast_horizon=2)(data(), masks=masks)
    tensors = [out.latents, out.decoder, out.pooled, *out.encoder.values(), *out.forecast.values()]
    assert all(torch.isfinite(t).all() for t in tensors)


def test_rows_do_not_see_each_other() -> None:
    model, x = build(), data()
    one = model({name: v[2:] for name, v in x.items()})
    torch.testing.assert_close(model(x).latents[2:], one.latents, atol=1e-5, rtol=1e-5)


def test_the_order_of_the_modalities_does_not_matter() -> None:
    model, x = build(), data()
    swapped = dict(reversed(x.items()))
    assert torch.equal(model(x).latents, model(swapped).latents)
    assert build(modalities=("fmri", "spike"), sampling_rates=None).modalities == ("spike", "fmri")


@pytest.mark.parametrize(
    ("seconds", "latents"), [(0.5, 8), (2.0, 8), (2.01, 9), (3.0, 12), (5.1, 21)]
)
def test_inputs_longer_than_the_window_get_latents_of_the_same_step(
    seconds: float, latents: int
) -> None:
    x = torch.ones(1, round(seconds * 100), 2)
    out = build()({"spike": x})
    assert out.latents.shape[1] == latents
    assert out.times[0] == 0.25


def test_a_longer_input_begins_with_the_latents_of_the_shorter_one() -> None:
    model, x = build(), data()
    x = {"spike": torch.cat([x["spike"]] * 2, dim=1)}
    long, short = model(x).latents, model({"spike": x["spike"][:, :200]}).latents
    torch.testing.assert_close(long[:, :8], short, atol=1e-5, rtol=1e-5)


def test_without_a_window_the_latents_span_the_input() -> None:
    out = build(window=None)({"spike": torch.ones(1, 160, 2)})
    assert out.times[-1] == pytest.approx(1.6)
    assert out.latents.shape[1] == 8


def test_without_rates_every_modality_spans_the_same_window() -> None:
    model = build(sampling_rates=None, window=None)
    out = model({"spike": torch.ones(1, 40, 2), "ecog": torch.randn(1, 10, 3)})
    assert out.times[-1] == 1.0
    assert out.encoder["ecog"].shape == (1, 10, 3)


def test_times_that_repeat_the_sampling_rate_change_nothing() -> None:
    model, x = build(), {"ecog": data()["ecog"]}
    # A sample of a regular stream is known one interval after its start.
    times = torch.arange(1, 401, dtype=torch.float64) / 200.0
    given = model(x, times={"ecog": times})
    torch.testing.assert_close(given.latents, model(x).latents)
    torch.testing.assert_close(given.encoder["ecog"], model(x).encoder["ecog"])


def test_irregular_times_set_the_duration_and_are_used() -> None:
    model = build(window=None, sampling_rates=None)
    x = {"ecog": torch.randn(1, 6, 2)}
    out = model(x, times={"ecog": torch.tensor([[0.0, 0.1, 0.5, 0.6, 2.0, 4.0]])})
    assert out.times[-1] == 4.0
    lone = model({"ecog": x["ecog"][:, :1]}, times={"ecog": torch.zeros(1, 1)})
    assert torch.isfinite(lone.latents).all()


def test_times_of_padding_do_not_lengthen_the_window() -> None:
    model = build(window=None, sampling_rates=None)
    times = torch.tensor([[0.1, 1.0, 2.0, 99.0], [0.1, 1.5, 98.0, 99.0]])
    mask = torch.tensor([[True, True, True, False], [True, True, False, False]]).unsqueeze(-1)
    x = {"ecog": torch.randn(2, 4, 2)}
    out = model(x, times={"ecog": times}, masks={"ecog": mask})
    assert out.times[-1] == 2.0


def test_a_single_sample_is_a_call() -> None:
    for window in (None, 2.0):
        model = build(window=window, forecast_horizon=1)
        out = model({name: v[:, :1] for name, v in data().items()})
        assert torch.isfinite(out.latents).all()
        assert out.encoder["spike"].shape == (3, 1, 5)


def test_queries_are_answered_by_the_latest_complete_latent() -> None:
    model, x = build(), data()
    on_grid = model(x).decoder
    queries = torch.tensor([0.25, 0.5, 2.0, 0.1, 50.0])
    out = model(x, query_times=queries).decoder
    torch.testing.assert_close(out[:, :3], on_grid[:, [0, 1, 7]])
    before = model(data(seed=2), query_times=queries).decoder
    assert torch.equal(out[:, 3], before[:, 3])
    assert torch.isfinite(out).all()
    per_row = model(x, query_times=queries.expand(3, -1)).decoder
    assert torch.equal(out, per_row)


def test_queries_of_a_two_sided_model_read_the_latent_of_their_step() -> None:
    model, x = build(causal=False), data()
    out = model(x, query_times=torch.tensor([0.25, 2.0, -1.0])).decoder
    torch.testing.assert_close(out[:, :2], model(x).decoder[:, [0, 7]])
    assert torch.isfinite(out).all()


def test_ready_tokens_and_mappings_are_inputs_too() -> None:
    model, x = build(), data()
    tokenizer = model.tokenizers["spike"]
    assert isinstance(tokenizer, SpikeTokenizer)
    ready = model({"spike": tokenizer(x["spike"])})
    torch.testing.assert_close(ready.latents, model({"spike": x["spike"]}).latents)
    assert ready.encoder == {}
    mask = torch.rand(3, 200, 5) > 0.2
    ids = [f"u{i}" for i in range(5)]
    mapped = model({"spike": {"x": x["spike"], "mask": mask, "units": ids}})
    plain = model({"spike": x["spike"]}, masks={"spike": mask}, units={"spike": ids})
    assert torch.equal(mapped.latents, plain.latents)


def test_encode_returns_the_latents_of_forward() -> None:
    model, x = build(), data()
    assert torch.equal(model.encode(x), model(x).latents)


def test_forward_batch_reads_the_keys_of_a_batch() -> None:
    model, x = build(), data()
    mask = {"spike": torch.rand(3, 200, 5) > 0.2, "eeg": torch.ones(3, 1, 1, dtype=torch.bool)}
    queries = torch.rand(3, 4) * 2
    batch = x | {
        "masks": mask,
        "units": {"spike": [f"u{i}" for i in range(5)]},
        "rates": {"spike": 100.0, "eeg": 1.0},
        "behavior_times": queries,
        "eeg": torch.randn(3, 10, 2),
        "species": torch.zeros(3, dtype=torch.long),
    }
    expected = model(x, masks={"spike": mask["spike"]}, units=batch["units"], query_times=queries)
    assert torch.equal(model.forward_batch(batch).decoder, expected.decoder)
    with pytest.raises(ValueError, match=r"sampled at 50\.0 Hz, the model expects 100\.0 Hz"):
        model.forward_batch(batch | {"rates": {"spike": 50.0}})


def test_wrong_calls_are_refused_in_words() -> None:
    model, x = build(), data()
    with pytest.raises(ValueError, match="inputs is empty"):
        model({})
    with pytest.raises(ValueError, match=r"unknown modality \['spikes'\]"):
        model({"spikes": x["spike"]})
    with pytest.raises(ValueError, match=r"built without \['eeg'\]"):
        model({"eeg": x["ecog"]})
    with pytest.raises(ValueError, match="the same number of rows, got"):
        model({"spike": x["spike"], "ecog": x["ecog"][:2]})
    with pytest.raises(ValueError, match=r"masks names \['ecog'\], but inputs holds \['spike'\]"):
        model({"spike": x["spike"]}, masks={"ecog": torch.ones(3, 1, 1, dtype=torch.bool)})
    with pytest.raises(ValueError, match="none of them empty"):
        model({"spike": x["spike"][:, :0]})
    with pytest.raises(ValueError, match="a mapping holds the tensor 'x'"):
        model({"spike": {"counts": x["spike"]}})
    with pytest.raises(TypeError, match="expected a tensor, Tokens or a mapping"):
        model({"spike": {"x": [1.0]}})
    with pytest.raises(ValueError, match=r"query_times must be \(query,\) or \(batch, query\)"):
        model(x, query_times=torch.zeros(2, 4))
    with pytest.raises(ValueError, match="query_times must be finite"):
        model(x, query_times=torch.tensor([math.nan]))
    tokens = model.tokenizers["spike"](x["spike"])
    with pytest.raises(ValueError, match="tokens need values"):
        model({"spike": tokens._replace(mask=tokens.mask[:, 1:])})
    with pytest.raises(ValueError, match="times of tokens must not decrease"):
        model({"spike": tokens._replace(times=tokens.times.flip(-1))})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modalities": ()}, "modalities must be a non-empty sequence"),
        ({"modalities": ("spike", "meg")}, "modalities must be a non-empty sequence"),
        ({"sampling_rates": {"eeg": 1.0}}, "sampling_rates names 'eeg'"),
        ({"patches": {"spike": 0.0}}, r"patches\['spike'\] must be > 0"),
        ({"n_latents": 0}, "n_latents must be >= 1, got 0"),
        ({"behavior_dim": -1}, "behavior_dim must be >= 0, got -1"),
        ({"dropout": 1.0}, r"dropout must be a probability in \[0, 1\), got 1.0"),
        ({"window": 0.0}, "window must be > 0 s, got 0.0"),
        ({"d_model": 15}, "must be a multiple of"),
    ],
)
def test_wrong_configurations_are_refused_in_words(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_modality_dropout_hides_modalities_in_training_and_keeps_one() -> None:
    from neuros_neurofm.models._flow import drop_modalities

    torch.manual_seed(0)
    mask = torch.ones(4_000, 2, dtype=torch.bool)
    mask[:100] = False
    full = Tokens(torch.zeros(4_000, 2, 1), torch.zeros(4_000, 2, dtype=torch.float64), mask)
    other = full._replace(mask=torch.ones_like(mask))
    kept = torch.stack([t.mask.any(-1) for t in drop_modalities([full, other], 0.3)], dim=-1)
    assert kept.any(-1).all()
    assert kept[:100, 1].all()
    # Hidden: 0.3 less the half of 0.09 that is rescued; 6 standard errors of 3900 draws.
    hidden = 1 - kept[100:].float().mean(0)
    torch.testing.assert_close(hidden, torch.full((2,), 0.255), atol=0.042, rtol=0)


def test_modality_dropout_acts_in_training_only() -> None:
    model, x = build(dropout=0.0, modality_dropout=0.9), data()
    model.train()
    assert not torch.equal(model.encode(x), model.encode(x))
    model.eval()
    assert torch.equal(model.encode(x), model.encode(x))


def test_training_draws_from_the_default_generator() -> None:
    model, x = build().train(), data()
    first = [torch.manual_seed(5), model.encode(x)][1]
    second = [torch.manual_seed(5), model.encode(x)][1]
    assert torch.equal(first, second)


def test_frozen_parts_get_no_gradient_and_stay_in_evaluation() -> None:
    model = build(forecast_horizon=2)
    model.freeze("tokenizers", "backbone", "heads.encoder").train()
    assert not model.tokenizers["spike"].core.dropout.training
    assert model.tokenizers["spike"].core.units.training
    assert model.fusion.training
    out = model(data())
    total = out.decoder.sum() + sum(v.sum() for v in out.encoder.values())
    total.backward()
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert all(dict(model.named_parameters())[n].grad is None for n in frozen)
    assert any(n.startswith("heads.encoder") for n in frozen)
    assert not any("units" in n or n.startswith("heads.decoder") for n in frozen)
    n_frozen = sum(p.numel() for n, p in model.named_parameters() if n in frozen)
    n_free = sum(p.numel() for p in model.trainable_parameters())
    assert n_free + n_frozen == model.num_parameters()
    model.unfreeze("all").train()
    assert model.tokenizers["spike"].core.dropout.training
    assert all(p.requires_grad for p in model.parameters())
    model.freeze("heads").unfreeze("heads.decoder")
    assert model.heads["decoder"].out.weight.requires_grad
    assert not model.heads["contrastive"].project[0].weight.requires_grad


def test_parts_cover_every_parameter_once() -> None:
    model = build(forecast_horizon=2)
    model.add_units("spike", ["a", "b"])
    counts = model.num_parameters(by_part=True)
    assert sum(n for part, n in counts.items() if "." not in part) == model.num_parameters()
    assert sum(n for part, n in counts.items() if "." in part) == counts["heads"]
    assert tuple(counts) == model.parts
    with pytest.raises(ValueError, match=r"unknown parts \['head'\]"):
        model.freeze("head")


def test_added_units_change_their_modality_only_and_learn() -> None:
    model, x = build(), data()
    ids = {"spike": [f"u{i}" for i in range(5)]}
    before = model(x, units=ids).latents
    model.add_units("spike", ids["spike"], x["spike"])
    # Starting from the inferred value of the whole recording: near, not equal to the causal one.
    model.add_units("ecog", ["e"], generator=torch.Generator().manual_seed(0))
    out = model(x, units=ids)
    assert not torch.equal(before, out.latents)
    out.encoder["spike"].sum().backward()
    assert model.tokenizers["spike"].units.weight.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="built without 'eeg'"):
        model.add_units("eeg", ["a"])
    with pytest.raises(ValueError, match="ids must be new"):
        model.add_units("spike", ["u1"])


def test_calibration_goes_to_the_tokenizer() -> None:
    model, x = build(), data()
    before = model({"ecog": x["ecog"]}, units={"ecog": ["a", "b", "c"]}).latents
    model.calibrate("ecog", 4 * x["ecog"], units=["a", "b", "c"])
    after = model({"ecog": x["ecog"]}, units={"ecog": ["a", "b", "c"]}).latents
    assert not torch.allclose(before, after, atol=1e-4)
    with pytest.raises(ValueError, match="built without 'emg'"):
        model.calibrate("emg", x["ecog"], units=["a", "b", "c"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inputs_give_float32_outputs(dtype: torch.dtype) -> None:
    x = {name: v.to(dtype) for name, v in data().items()}
    out = build()(x)
    assert out.latents.dtype == torch.float32
    torch.testing.assert_close(
        out.latents, build()({name: v.float() for name, v in x.items()}).latents
    )


def test_bfloat16_autocast_trains_with_finite_gradients() -> None:
    model = build(forecast_horizon=2).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(data())
        loss = out.decoder.float().square().mean() + out.contrastive.square().mean()
        loss = loss + sum(v.square().mean() for v in out.encoder.values())
        loss = loss + sum(v.square().mean() for v in out.forecast.values())
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_two_thousand_channels_are_finite() -> None:
    model = build()
    out = model({"spike": torch.ones(1, 8, 2_000)})
    assert out.encoder["spike"].shape == (1, 8, 2_000)
    assert torch.isfinite(out.encoder["spike"]).all()


def test_every_weight_gets_a_gradient() -> None:
    model = build(forecast_horizon=2, modality_dropout=0.0).train()
    ids = {"spike": list("abcde")}
    model.add_units("spike", ids["spike"])
    out = model(data(), units=ids, query_times=torch.tensor([0.1, 0.6, 1.3]))
    loss = out.decoder.square().mean() + out.contrastive[:, 0].mean()
    loss = loss + sum(v.square().mean() for v in out.encoder.values())
    loss = loss + sum(v.square().mean() for v in out.forecast.values())
    loss.backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None and p.numel()]
    # With all ids known the inference of spikes rests in this call (see id_dropout).
    assert {n.rsplit(".", 2)[0] for n in silent} <= {"tokenizers.spike.core.units.infer"}


def test_the_backbone_may_be_the_first_mamba() -> None:
    from neuros_neurofm.models._options import ssm_version

    first = build(ssm="mamba")
    assert torch.isfinite(first.encode(data())).all()
    assert first.num_parameters() != build().num_parameters()
    with pytest.raises(ValueError, match=r"ssm must be one of .*'fractional'\], got 's4'"):
        ssm_version("s4")


def test_a_deep_copy_is_independent() -> None:
    model, x = build(), data()
    other = copy.deepcopy(model)
    assert torch.equal(model.encode(x), other.encode(x))


def test_short_name_builds_the_same_class() -> None:
    model = NeuroFMX(16, 1, modalities=("spike",))
    assert isinstance(model, MultiModalNeuroFMX)
    assert (model.config["n_mamba_blocks"], model.config["latent_dim"]) == (1, 16)
    assert NeuroFMX(16, 1, modalities=("emg",), latent_dim=8).config["latent_dim"] == 8
    assert "modalities=('spike',)" in repr(model)


# 50 million parameters are built and trained one step.
@pytest.mark.slow
def test_the_defaults_build_and_train_one_step_on_a_cpu() -> None:
    torch.manual_seed(0)
    model = MultiModalNeuroFMX()
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3)
    before = model.heads["decoder"].out.weight.detach().clone()
    out = model({"spike": torch.ones(2, 64, 10), "eeg": torch.randn(2, 64, 8)})
    loss = out.decoder.square().mean() + out.encoder["eeg"].square().mean()
    loss.backward()
    optimiser.step()
    assert torch.isfinite(loss)
    assert not torch.equal(before, model.heads["decoder"].out.weight)
