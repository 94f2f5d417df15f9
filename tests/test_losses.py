import pytest
import reference
import torch
import torch.nn.functional as F

from resup import ConsistencyLoss, CrossWeightedLoss, SymmetricKLLoss
from resup.losses import consistency_loss, cross_weighted_loss, symmetric_kl_loss


def batch(n=6, c=5, dtype=torch.float64):
    a, b = (3 * torch.randn(n, c, dtype=dtype) for _ in "ab")
    return a, b, torch.randint(c, (n,)), torch.rand(n), torch.rand(n)


def listed(*tensors):
    return [t.tolist() for t in tensors]


@pytest.mark.parametrize("c", [2, 7, 100])
def test_equation_7(c):
    a, b, y, wa, wb = batch(c=c)
    got = CrossWeightedLoss()(a, b, y, wa, wb)
    assert got.item() == pytest.approx(reference.cross_weighted(*listed(a, b, y, wa, wb)), rel=1e-9)


@pytest.mark.parametrize("c", [2, 7, 100])
def test_equation_8(c):
    a, b, *_ = batch(c=c)
    assert ConsistencyLoss()(a, b).item() == pytest.approx(reference.consistency(*listed(a, b)))


@pytest.mark.parametrize("c", [2, 7, 100])
def test_symmetric_kl_is_the_sum_of_both_divergences(c):
    a, b, *_ = batch(c=c)
    both = [
        F.kl_div(q.log_softmax(1), p.log_softmax(1), reduction="batchmean", log_target=True)
        for p, q in ((a, b), (b, a))
    ]
    torch.testing.assert_close(SymmetricKLLoss()(a, b), sum(both))
    torch.testing.assert_close(SymmetricKLLoss()(b, a), sum(both))


def test_symmetric_kl_of_saturated_logits_is_finite_with_its_gradient():
    a = torch.tensor([[200.0, 0.0], [5.0, 5.0]], requires_grad=True)
    b = torch.tensor([[0.0, 200.0], [9.0, 9.0]], requires_grad=True)
    loss = SymmetricKLLoss("none")(a, b)
    assert loss.tolist() == [400, 0]
    loss.sum().backward()
    assert torch.isfinite(a.grad).all()
    assert torch.isfinite(b.grad).all()


def test_the_networks_weigh_each_other():
    a, b, y, wa, wb = batch()
    only_b_trusts = cross_weighted_loss(a, b, y, torch.zeros_like(wa), wb)
    torch.testing.assert_close(only_b_trusts, (wb * F.cross_entropy(a, y, reduction="none")).mean())


def test_without_weights_it_is_plain_cross_entropy():
    a, b, y, *_ = batch()
    torch.testing.assert_close(
        cross_weighted_loss(a, b, y), F.cross_entropy(a, y) + F.cross_entropy(b, y)
    )


def test_no_gradient_through_weights():
    a, b, y, wa, wb = batch()
    for t in (a, wa, wb):
        t.requires_grad_()
    cross_weighted_loss(a, b, y, wa, wb).backward()
    assert a.grad is not None
    assert wa.grad is None
    assert wb.grad is None


def test_a_masked_label_of_weight_0_has_no_gradient():
    a, b, y, wa, wb = batch()
    a[0, y[0]], wb[0] = -torch.inf, 0
    a.requires_grad_()
    cross_weighted_loss(a, b, y, wa, wb).backward()
    assert (a.grad[0] == 0).all()
    assert (a.grad[1:] != 0).all()


def test_gradients():
    a, b, y, wa, wb = batch(3, 4)
    a.requires_grad_()
    b.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda a, b: cross_weighted_loss(a, b, y, wa.double(), wb.double()), (a, b)
    )
    assert torch.autograd.gradcheck(consistency_loss, (a, b))
    assert torch.autograd.gradcheck(symmetric_kl_loss, (a, b))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_lower_precision_is_computed_in_float32(dtype):
    a, b, y, wa, wb = batch(dtype=dtype)
    for got, exact in (
        (
            cross_weighted_loss(a, b, y, wa, wb),
            cross_weighted_loss(a.double(), b.double(), y, wa, wb),
        ),
        (consistency_loss(a, b), consistency_loss(a.double(), b.double())),
        (symmetric_kl_loss(a, b), symmetric_kl_loss(a.double(), b.double())),
    ):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double(), exact, rtol=1e-5, atol=1e-6)


def test_autocast_changes_nothing():
    a, b, y, wa, wb = batch(dtype=torch.float32)

    def losses():
        return cross_weighted_loss(a, b, y, wa, wb), consistency_loss(a, b), symmetric_kl_loss(a, b)

    plain = losses()
    with torch.autocast("cpu", torch.bfloat16):
        assert losses() == plain


def test_reductions():
    a, b, y, wa, wb = batch()
    for loss, args in (
        (CrossWeightedLoss, (a, b, y, wa, wb)),
        (ConsistencyLoss, (a, b)),
        (SymmetricKLLoss, (a, b)),
    ):
        each = loss("none")(*args)
        assert each.shape == (6,)
        torch.testing.assert_close(loss("sum")(*args), each.sum())
        torch.testing.assert_close(loss("mean")(*args), each.mean())


def test_an_empty_batch_is_zero_with_a_gradient():
    a = torch.zeros(0, 3, requires_grad=True)
    y = torch.zeros(0, dtype=torch.long)
    loss = (
        cross_weighted_loss(a, a, y)
        + cross_weighted_loss(a, a, y, torch.zeros(0), torch.zeros(0))
        + consistency_loss(a, a)
        + symmetric_kl_loss(a, a)
    )
    assert loss.item() == 0
    loss.backward()
    assert a.grad.shape == (0, 3)


def test_torchscript_free_pickle(tmp_path):
    torch.save(CrossWeightedLoss("sum"), tmp_path / "loss.pt")
    assert torch.load(tmp_path / "loss.pt", weights_only=False).reduction == "sum"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"logits_b": torch.zeros(6, 4)}, ValueError, "logits_a and logits_b must have one shape"),
        (
            {"logits_b": torch.zeros(6, 5, device="meta")},
            ValueError,
            "both networks must be on one device",
        ),
        ({"targets": torch.zeros(6)}, TypeError, "targets must be an integer tensor"),
        ({"targets": [0] * 6}, TypeError, "targets must be an integer tensor .* got list"),
        ({"targets": torch.zeros(6) > 0}, TypeError, "targets must be .* got .*bool"),
        ({"targets": torch.zeros(6) * 1j}, TypeError, "targets must be .* got .*complex64"),
        ({"targets": torch.full((6,), 5)}, ValueError, r"targets must lie in \[0, 5\)"),
        ({"weights_a": None}, ValueError, "both be given or both be left out"),
        (
            {"weights_b": torch.ones(6, 1)},
            ValueError,
            r"weights_b must have shape \(6,\) on cpu, got \(6, 1\)",
        ),
    ],
)
def test_bad_input(change, error, message):
    names = ("logits_a", "logits_b", "targets", "weights_a", "weights_b")
    args = dict(zip(names, batch(dtype=torch.float32), strict=True)) | change
    with pytest.raises(error, match=message):
        cross_weighted_loss(**args)


def test_unknown_reduction():
    with pytest.raises(
        ValueError, match="reduction must be one of 'mean', 'sum', 'none', got 'avg'"
    ):
        ConsistencyLoss("avg")
    with pytest.raises(ValueError, match="reduction must be one of"):
        SymmetricKLLoss("avg")
    a, b, y, *_ = batch()
    for loss, given in (
        (cross_weighted_loss, (a, b, y)),
        (consistency_loss, (a, b)),
        (symmetric_kl_loss, (a, b)),
    ):
        with pytest.raises(ValueError, match="reduction must be one of"):
            loss(*given, reduction="avg")


def test_weights_that_are_no_tensors():
    z, y = torch.zeros(3, 4), torch.zeros(3, dtype=torch.long)
    with pytest.raises(TypeError, match="weights_a must be a Tensor, got float"):
        cross_weighted_loss(z, z, y, 0.5, torch.ones(3))
    with pytest.raises(ValueError, match=r"weights_b must have .* on cpu, got .* on meta"):
        cross_weighted_loss(z, z, y, torch.ones(3), torch.ones(3, device="meta"))


def test_symmetric_kl_of_masked_classes_is_that_of_the_others():
    a, b = torch.randn(2, 5, 3)
    masked = [torch.cat([z, torch.full((5, 1), -torch.inf)], 1).requires_grad_() for z in (a, b)]
    loss = symmetric_kl_loss(*masked)
    torch.testing.assert_close(loss, symmetric_kl_loss(a, b))
    loss.backward()
    assert all(torch.isfinite(z.grad).all() for z in masked)


def test_vmap_over_an_ensemble():
    a, b, y = torch.randn(3, 8, 4), torch.randn(3, 8, 4), torch.randint(4, (3, 8))
    got = torch.func.vmap(cross_weighted_loss)(a, b, y)
    torch.testing.assert_close(
        got, torch.stack([cross_weighted_loss(*each) for each in zip(a, b, y, strict=True)])
    )
