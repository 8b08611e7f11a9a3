"""Laws of every sequence model, for all kinds, layers and inputs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kdlib.models.files import load_model, save_model
from kdlib.models.layers import LowPass, Transformer
from kdlib.models.new_items import nearest_items, with_new_items
from kdlib.models.sequence import SequenceModel
from kdlib.store.tables import CONTEXT, USER_CODES

KINDS: list[dict[str, Any]] = [
    {"kind": "lstm", "dim": 8, "hidden": 12, "tied": False},
    {"kind": "lstm", "dim": 8, "layers": 2, "session_flag": True},
    {"kind": "gru", "dim": 8, "hidden": 12},
    {"kind": "transformer", "dim": 8, "heads": 2, "layers": 2, "session_flag": True},
    {"kind": "transformer", "dim": 8, "hidden": 16, "heads": 4, "tied": False},
    {"kind": "transformer", "dim": 8, "heads": 2, "layers": 2, "inputs": ["event_type", "time_gap"]},
    {"kind": "transformer", "dim": 8, "heads": 2, "layers": 2, "block": "bsarec", "inputs": ["event_type"]},
    {"kind": "lstm", "dim": 8, "session_flag": True, "inputs": ["time_gap", "event_type"]},
    {"kind": "gru", "dim": 8, "hidden": 12, "inputs": ["event_type"]},
    {"kind": "transformer", "dim": 8, "codes": {"kind": "residual", "count": 3, "size": 4}},
    {"kind": "gru", "dim": 8, "hidden": 12, "codes": {"kind": "product", "count": 4, "size": 5}},
]


def _model(options: dict[str, Any], **more: Any) -> SequenceModel:
    torch.manual_seed(0)
    if codes := options.get("codes"):
        more["codes_VM"] = torch.randint(0, codes["size"], (30, codes["count"]), dtype=torch.uint8)
    return SequenceModel(num_items=30, max_length=10, dropout=0.1, **options, **more).eval()


def _context(*shape: int) -> Tensor:
    """Random contexts, int8 [*shape, columns]."""
    return torch.stack([torch.randint(0, size, shape) for size in CONTEXT.values()], -1).to(torch.int8)


@pytest.mark.parametrize("options", KINDS, ids=[str(list(o.values())) for o in KINDS])
def test_causal_and_padding_is_harmless(options: dict[str, Any]) -> None:
    """A hidden state depends only on its own and earlier positions, so padding on the right changes nothing."""
    model = _model(options)
    items, context = torch.randint(0, 30, (4, 6)), _context(4, 6)
    longer = torch.cat([items, torch.zeros(4, 3, dtype=torch.int64)], 1)
    padding, lengths = torch.zeros(4, 3, 3, dtype=torch.int8), torch.full((4,), 6)
    padded = model(longer, torch.cat([context, padding], 1), lengths_B=lengths)[:, :6]
    before = model(items, context)
    torch.testing.assert_close(before, padded, rtol=1e-4, atol=1e-6)
    other_item, other_context = items.clone(), context.clone()
    other_item[:, 3] = (other_item[:, 3] + 1) % 30
    other_context[:, 3] = (other_context[:, 3] + 1) % torch.tensor(list(CONTEXT.values()))
    assert not torch.allclose(before[:, 3:], model(other_item, context)[:, 3:])
    for after in (model(other_item, context), model(items, other_context)):
        torch.testing.assert_close(before[:, :3], after[:, :3], rtol=1e-4, atol=1e-6)


def test_positions_are_counted_from_the_end() -> None:
    """The last item of every history gets the same position embedding, for all lengths."""
    model = _model({"kind": "transformer", "dim": 8})
    seen: list[torch.Tensor] = []
    layers = model.layers
    assert isinstance(layers, Transformer)
    layers.positions.register_forward_hook(lambda module, places, out: seen.append(places[0]))
    model(torch.zeros(2, 4, dtype=torch.int64), _context(2, 4), lengths_B=torch.tensor([4, 2]))
    assert seen[0].tolist() == [[3, 2, 1, 0], [1, 0, 0, 0]]


@pytest.mark.parametrize("options", KINDS, ids=[str(list(o.values())) for o in KINDS])
def test_hidden_states_fit_the_head(options: dict[str, Any]) -> None:
    """The hidden states are as wide as the scoring matrix, which has one row an item."""
    model = _model(options)
    matrix, bias = model.head()
    hidden = model(torch.zeros(2, 3, dtype=torch.int64), _context(2, 3))
    assert matrix.shape == (30, hidden.shape[-1])
    assert (bias is None) == options.get("tied", True)


@pytest.mark.parametrize("kind", ["gru", "transformer"])
@pytest.mark.parametrize(
    ("column", "option"),
    [
        ("new_session", {"session_flag": True}),
        ("event_type", {"inputs": ["event_type"]}),
        ("time_gap", {"inputs": ["time_gap"]}),
    ],
)
def test_a_column_of_the_context_matters_only_where_asked(kind: str, column: str, option: dict[str, Any]) -> None:
    """The values of a column give different predictions in a model that reads the column, and equal ones elsewhere."""
    place, values = list(CONTEXT).index(column), CONTEXT[column]
    items, context = torch.randint(0, 30, (1, 4)).repeat(values, 1), torch.zeros(values, 4, 3, dtype=torch.int8)
    context[:, 2, place] = torch.arange(values)
    with_it = _model({"kind": kind, "dim": 8, **option})(items, context)[:, 2]
    assert (torch.cdist(with_it, with_it) + torch.eye(values)).min() > 1e-4
    rest: dict[str, Any] = {"session_flag": True, "inputs": ["event_type", "time_gap"]}
    rest |= (
        {"session_flag": False} if column == "new_session" else {"inputs": [i for i in rest["inputs"] if i != column]}
    )
    without = _model({"kind": kind, "dim": 8, **rest})(items, context)
    torch.testing.assert_close(without, without[:1].expand_as(without))


def test_inputs_leave_a_seed_s_other_weights_as_they_are() -> None:
    """A seeded model with inputs starts from the weights of the model without them, plus those of the inputs."""
    for kind in ("lstm", "transformer"):
        plain = _model({"kind": kind, "dim": 8}).state_dict()
        richer = _model({"kind": kind, "dim": 8, "inputs": ["time_gap", "event_type"]}).state_dict()
        assert list(richer)[: len(plain)] == list(plain)
        assert all(torch.equal(richer[name], value) for name, value in plain.items())
        assert {name: value.shape[0] for name, value in richer.items() if name not in plain} == {
            "context_embeddings.time_gap.weight": 28,
            "context_embeddings.event_type.weight": 4,
        }


def test_the_values_of_a_user_matter_where_the_model_reads_them() -> None:
    """Two users with the same history have different predictions. A model that does not read the column has equal ones."""
    items, context = torch.randint(0, 30, (1, 4)).repeat(2, 1), _context(1, 4).repeat(2, 1, 1)
    values = torch.tensor([[3, 1], [3, 2]], dtype=torch.int8)[:, None].expand(2, 4, 2)
    wide = torch.cat([context, values], -1)
    for user_columns, differs in (({"type": 1}, True), ({"type": 0}, False), ({}, False)):
        hidden = _model({"kind": "gru", "dim": 8}, user_columns=user_columns)(items, wide)
        assert torch.allclose(hidden[0], hidden[1]) != differs


def test_a_value_that_the_context_lacks_is_unknown() -> None:
    """A history of an earlier release, or an own list of items, is read with the code 0."""
    model = _model({"kind": "gru", "dim": 8}, user_columns={"country": 1, "age": 0})
    items, context = torch.randint(0, 30, (3, 4)), _context(3, 4)
    unknown = torch.cat([context, torch.zeros(3, 4, 2, dtype=torch.int8)], -1)
    assert torch.equal(model(items, context), model(items, unknown))
    known = torch.cat([context, torch.ones(3, 4, 2, dtype=torch.int8)], -1)
    assert not torch.allclose(model(items, context), model(items, known))


def test_a_model_without_features_of_users_is_as_it_was() -> None:
    """A feature adds weights after all others of the seed. Without one, wide contexts change no bit of the result."""
    plain = _model({"kind": "transformer", "dim": 8, "session_flag": True, "inputs": ["time_gap"]})
    richer = _model(
        {"kind": "transformer", "dim": 8, "session_flag": True, "inputs": ["time_gap"]}, user_columns={"age": 0}
    )
    assert not [name for name in plain.state_dict() if name.startswith("user_")]
    assert {name: len(value) for name, value in richer.state_dict().items() if name not in plain.state_dict()} == {
        "user_embeddings.0.weight": USER_CODES
    }
    assert all(torch.equal(richer.state_dict()[name], value) for name, value in plain.state_dict().items())
    items, context = torch.randint(0, 30, (3, 4)), _context(3, 4)
    wide = torch.cat([context, torch.ones(3, 4, 1, dtype=torch.int8)], -1)
    assert torch.equal(plain(items, context), plain(items, wide))


@pytest.mark.parametrize("most", [2, 3, 4, 5, 10])
def test_the_low_pass_of_a_last_position_is_that_of_its_window(most: int) -> None:
    """At the last position the filter gives three frequencies of the window, plus the learnt share of the rest.

    Positions before a short history count as 0. A window of few positions has fewer frequencies.
    """
    torch.manual_seed(0)
    low_pass, x = LowPass(4, max_length=most), torch.randn(2, most, 4)
    for length in (most, most // 2):
        window = F.pad(x[:, :length], (0, 0, most - length, 0))
        spectrum = torch.fft.rfft(window, dim=1)
        spectrum[:, 3:] = 0
        smooth = torch.fft.irfft(spectrum, n=most, dim=1)[:, -1]
        for share, want in ((0.0, smooth), (1.0, x[:, length - 1])):
            torch.nn.init.constant_(low_pass.root_share_H, share)
            torch.testing.assert_close(low_pass(x)[:, length - 1], want)


def test_what_a_model_cannot_read_is_an_error() -> None:
    """An unknown input, and a block of a Transformer in a recurrent model, are errors that name them."""
    with pytest.raises(ValueError, match=r"among event_type and time_gap, found \['price'\]"):
        _model({"kind": "gru", "dim": 8, "inputs": ["price"]})
    with pytest.raises(ValueError, match="block bsarec needs kind transformer, found gru"):
        _model({"kind": "gru", "dim": 8, "block": "bsarec"})


def test_text_vectors_move_the_items() -> None:
    """The projected title vectors change the item vectors, and the projection is trained."""
    model = _model({"kind": "gru", "dim": 8}, text_vectors_VE=torch.randn(30, 5))
    assert model.text_projection is not None
    model.item_vectors().sum().backward()
    assert model.text_projection.weight.grad is not None
    assert not torch.allclose(model.item_vectors(), model.item_embedding)


@pytest.mark.parametrize("options", KINDS[-2:], ids=["residual", "product"])
def test_codes_stand_for_an_item_table(options: dict[str, Any]) -> None:
    """A model with codes predicts like a model whose item table holds the composed vectors."""
    model = _model(options)
    plain = _model({**options, "codes": None})
    plain.load_state_dict(
        {name: value for name, value in model.state_dict().items() if "code" not in name}
        | {"item_embedding": model.item_vectors()}
    )
    items, context = torch.randint(0, 30, (3, 6)), _context(3, 6)
    torch.testing.assert_close(model(items, context), plain(items, context))
    torch.testing.assert_close(model(items, context, item_vectors_VD=model.item_vectors()), plain(items, context))
    torch.testing.assert_close(model.head()[0], plain.head()[0])


@pytest.mark.parametrize("options", KINDS[-2:], ids=["residual", "product"])
def test_codes_are_learnt_through_and_rebuilt_from_options(options: dict[str, Any]) -> None:
    """Gradients reach the code tables, which start from given tables. Options and state rebuild the model."""
    count, size = options["codes"]["count"], options["codes"]["size"]
    tables = torch.randn(count, size, 8 if options["codes"]["kind"] == "residual" else 2)
    model = _model(options, code_tables_MSd=tables)
    assert model.code_tables is not None
    assert torch.equal(model.code_tables, tables)
    model.head()[0].square().sum().backward()
    assert model.code_tables.grad is not None
    assert model.code_tables.grad.abs().sum() > 0
    again = SequenceModel(**model.options)
    again.load_state_dict(model.state_dict())
    assert again.get_buffer("codes_VM").dtype == torch.uint8
    torch.testing.assert_close(again.item_vectors(), model.item_vectors())


def test_codes_that_do_not_fit_say_so() -> None:
    """Codes or tables of a wrong shape, a code beyond the tables, an untied head and text vectors are errors."""
    options: dict[str, Any] = {"kind": "gru", "dim": 8, "codes": {"kind": "residual", "count": 3, "size": 4}}
    with pytest.raises(ValueError, match=r"uint8 codes \(30, 3\) and tables \(3, 4, 8\), found.*\(3, 4, 2\)"):
        _model(options, code_tables_MSd=torch.zeros(3, 4, 2))
    with pytest.raises(ValueError, match=r"found torch.uint8 \(29, 3\)"):
        SequenceModel(num_items=30, codes_VM=torch.zeros(29, 3, dtype=torch.uint8), **options)
    with pytest.raises(ValueError, match="below size 4, found 7"):
        SequenceModel(num_items=30, codes_VM=torch.full((30, 3), 7, dtype=torch.uint8), **options)
    with pytest.raises(ValueError, match="exclude tied=False, text vectors and values"):
        _model(options, tied=False)
    with pytest.raises(ValueError, match="exclude tied=False, text vectors and values"):
        _model(options, text_vectors_VE=torch.randn(30, 5))


def test_an_item_without_training_is_its_text_alone_while_the_model_learns() -> None:
    """With text, an item outside training has the projected text as its vector. Its embedding gets no gradient."""
    torch.manual_seed(0)
    trained_V = torch.tensor([True, False, True])
    model = SequenceModel(num_items=3, kind="gru", dim=4, text_vectors_VE=torch.randn(3, 5), trained_V=trained_V)
    assert model.text_projection is not None
    vectors_VD = model.item_vectors()
    torch.testing.assert_close(vectors_VD[1], model.text_projection(model.get_buffer("text_vectors_VE"))[1])
    vectors_VD.square().sum().backward()
    assert model.item_embedding.grad is not None
    assert (model.item_embedding.grad.abs().sum(1) > 0).tolist() == [True, False, True]


def test_an_item_without_training_serves_as_its_neighbours(tmp_path: Path) -> None:
    """In evaluation mode and in the saved model it is the mean of the known items with the nearest titles. Known items stay."""
    torch.manual_seed(0)
    trained_V, titles_VE = torch.arange(60) < 50, torch.randn(60, 5)
    model = SequenceModel(num_items=60, kind="gru", dim=4, text_vectors_VE=titles_VE, trained_V=trained_V)
    assert model.text_projection is not None
    whole_VD = model.item_embedding + model.text_projection(titles_VE)
    expected_VD = with_new_items(whole_VD, nearest_items(trained_V, titles_VE))
    found_VD = model.eval().item_vectors()
    torch.testing.assert_close(found_VD, expected_VD)
    torch.testing.assert_close(found_VD[trained_V], whole_VD[trained_V])
    save_model(tmp_path, model.train(), model.state_dict(), {})
    torch.testing.assert_close(load_model(tmp_path)[0].item_vectors(), expected_VD)


def test_item_dropout_leaves_items_to_their_titles() -> None:
    """In training, a share of the items has only the title's vector and no gradient, other items each time. In evaluation, none."""
    torch.manual_seed(0)
    model = SequenceModel(num_items=400, kind="gru", dim=4, text_vectors_VE=torch.randn(400, 5), item_dropout=0.3)
    assert model.text_projection is not None
    titles_VD = model.text_projection(model.get_buffer("text_vectors_VE")).detach()
    table_VD = model.item_vectors()
    left_V = (table_VD == titles_VD).all(1)
    assert 80 < int(left_V.sum()) < 160
    table_VD.square().sum().backward()
    assert model.item_embedding.grad is not None
    assert torch.equal(model.item_embedding.grad.abs().sum(1) == 0, left_V)
    assert not torch.equal((model.item_vectors() == titles_VD).all(1), left_V)
    torch.testing.assert_close(model.eval().item_vectors(), model.item_embedding + titles_VD)
