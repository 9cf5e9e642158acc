"""Attributions to the activations at a site, whatever the module gives back."""

import pytest
import torch
from torch import nn

from neuros_mechint.activations import Site
from neuros_mechint.attribution import Attribution


def test_at_a_cut_a_site_gets_what_the_rest_of_the_model_gives_its_input(
    normal, chain, rise
) -> None:
    net, x = chain(nn.Tanh), normal(3, 12)
    start = normal(1, 12, seed=1)
    result = Attribution(net, site="2:in", target=1).attribute(x, start)
    with torch.no_grad():
        ends = [net[:2](value) for value in (start.expand(3, -1), x)]
    rest = Attribution(net[2:], target=1).attribute(ends[1], ends[0]).values
    torch.testing.assert_close(result.values, rest, atol=1e-13, rtol=0.0)
    torch.testing.assert_close(result.values.sum(1), rise(net, x, start, 1), atol=1e-10, rtol=0)
    for site in (net[1], Site("1"), "1"):
        same = Attribution(net, site=site, target=1).attribute(x, start).values
        assert torch.equal(same, result.values)


def test_a_site_with_an_index_moves_that_part_only(normal, chain) -> None:
    net, x = chain(nn.Tanh), normal(3, 12)
    whole = Attribution(net, site="1", target=0).attribute(x)
    part = Attribution(net, site="1[:, 2:5]", target=0).attribute(x)
    assert part.values.shape == (3, 3)
    assert part.delta.abs().max() < 1e-10
    # What the rest of the layer does is that of the input all along the line.
    with torch.no_grad():
        hidden = net[:2](x)
        low = hidden.clone()
        low[:, 2:5] = net[:2](torch.zeros_like(x))[:, 2:5]
        expected = (net[2:](hidden) - net[2:](low))[:, 0]
    torch.testing.assert_close(part.values.sum(1), expected, atol=1e-10, rtol=0.0)
    assert (part.values - whole.values[:, 2:5]).abs().max() > 1e-6


class Recurrent(nn.Module):
    """Kwargs only, tuple outputs, one cell called at every time step, an LSTM with time first."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell = nn.Linear(6, 4)
        self.lstm = nn.LSTM(4, 3)
        self.read = nn.Linear(3, 2)

    def forward(self, *, series):
        state, states = series.new_zeros(len(series), 4), []
        for value in series.unbind(1):
            state = torch.tanh(self.cell(torch.cat([value, state], 1)))
            states.append(state)
        out, _ = self.lstm(torch.stack(states))
        return self.read(out[-1]), "extra"


@pytest.mark.parametrize("site", ["lstm", "lstm:out.0", "lstm:in", "read", "cell@4"])
def test_sites_in_tuples_with_time_first_and_keyword_inputs_are_complete(normal, site: str) -> None:
    model = Recurrent().double().eval()
    x, start = ({"series": normal(3, 5, 2, seed=k)} for k in (0, 1))
    result = Attribution(model, site=site, target=1).attribute(x, start)
    # An LSTM that is seen after its last step or before its first one is a cut of the model.
    if site != "cell@4":
        with torch.no_grad():
            change = (model(**x)[0] - model(**start)[0])[:, 1]
        per_row = result.values.sum((0, 2)) if site.startswith("lstm") else result.values.sum(1)
        torch.testing.assert_close(per_row, change, atol=1e-10, rtol=0.0)
    assert result.delta.abs().max() < 1e-10


def test_all_calls_of_a_site_move_together(normal) -> None:
    model = Recurrent().double().eval()
    x = {"series": normal(3, 5, 2)}
    result = Attribution(model, site="cell", target=0).attribute(x)
    assert isinstance(result.values, tuple)
    assert [tuple(v.shape) for v in result.values] == [(3, 4)] * 5
    with torch.no_grad():
        change = (model(**x)[0] - model(series=torch.zeros_like(x["series"]))[0])[:, 0]
    total = sum(values.sum(1) for values in result.values)
    torch.testing.assert_close(total, change, atol=1e-10, rtol=0.0)


def test_tokens_are_attributed_at_their_embedding(rise) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 5), nn.Tanh()).double()
    x, padding = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.zeros(1, 3, dtype=torch.long)
    result = Attribution(model, site="0", target=3).attribute(x, padding)
    assert result.values.shape == (2, 3, 4)
    torch.testing.assert_close(
        result.values.sum((1, 2)), rise(model, x, padding.expand(2, -1), 3), atol=1e-10, rtol=0.0
    )
