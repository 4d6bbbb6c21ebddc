"""The l2ul operators against PyTorch's own operators, bit for bit: python ops_test.py libl2ul.so [libl2ul_cuda.so]

With the second library, and a GPU, they are compared between the devices too. kernels_test.go runs this where a Python torch of the pinned version is at hand. The expressions below are the
definition of the arithmetic: every operation rounds to float32, and a norm is float32(sqrt(sum of float64 squares)).
The float64 sum alone may run in another order than PyTorch's; that changes the float32 norm about once in 1e8 sums.
"""

import sys
import unittest

import torch
import torch.nn as nn
import torch.nn.functional as F

l2ul = torch.ops.l2ul
NAN, INF = float("nan"), float("inf")


def norm(v):
    return v.double().flatten(1).pow(2).sum(1).sqrt().float().view(-1, *[1] * (v.dim() - 1))


def clampbox(x, d):
    return (x + d).clamp(0, 1) - x


def project(d, eps):
    n = norm(d)
    return d * torch.where(n > 0, eps / n, torch.ones_like(n)).clamp_max(1)


def start_l2(x, u, eps):
    return clampbox(x, clampbox(x, project(u - x, eps)))


def start_linf(x, u, eps):
    return clampbox(x, clampbox(x, (u - x).clamp(-eps, eps)))


def step_l2(d, g, x, alpha, eps):
    return project(clampbox(x, d + alpha * (g * (1 / norm(g).clamp_min(1e-6)))), eps)


def step_linf(d, g, x, alpha, eps):
    return clampbox(x, (d + alpha * g.sign()).clamp(-eps, eps))


def anchor(o):
    r = o.max() - o.min()
    return torch.ones_like(o) if r == 0 else 1 - (o - o.min()) / r


def sgd(p, g, v, a, ref, lr, mu, wd, lam, first):
    if a is not None and lam != 0:
        g = g + (lam * a) * (p - ref)
    d = g + wd * p
    v = d if first else v * mu + d
    return p - lr * v, v


def took(op, d, g, x, alpha, eps):
    """The perturbation after a step of our own; what the network is to see next is compared here."""
    d, following = d.clone(), torch.empty_like(x)
    op(d, following, g, x, alpha, eps)
    assert torch.equal(following.nan_to_num(7), (x + d).nan_to_num(7))
    return d


def contiguous(t):
    return t


def channels_last(t):
    return t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t


def transposed(t):  # dense, but the first dimension is not the outermost
    return t.transpose(0, -1).contiguous().transpose(0, -1)


def gaps(t):
    big = t.new_empty(*t.shape[:-1], 2 * t.shape[-1] + 1)
    return big[..., 1::2].copy_(t)


def shifted(t):  # contiguous, at an address that no vector register likes
    return t.new_empty(t.numel() + 3)[3:].view(t.shape).copy_(t)


LAYOUTS = (contiguous, channels_last, transposed, gaps, shifted)
SHAPES = ((4, 3, 8, 8), (3, 1, 1, 1), (2, 3, 5, 7), (1, 3, 33, 31), (5, 17), (3, 3, 0, 4), (0, 3, 8, 8), (2, 3, 40, 40))


class Case(unittest.TestCase):
    def setUp(self):
        self.g = torch.Generator().manual_seed(7)

    def rand(self, *shape):
        return torch.rand(shape, generator=self.g)

    def randn(self, *shape):
        return torch.randn(shape, generator=self.g)

    def same(self, got, want, msg=""):
        self.assertEqual(got.shape, want.shape, msg)
        self.assertEqual(got.dtype, want.dtype, msg)
        self.assertTrue(torch.equal(got, want) or torch.equal(got.isnan(), want.isnan()) and torch.equal(got.nan_to_num(), want.nan_to_num()), msg)

    def refused(self, pattern, op, *args):
        with self.assertRaisesRegex((RuntimeError, IndexError), pattern):
            op(*args)


class GatherLUT(Case):
    def table(self, c):
        return self.randn(c, 256)

    def test_values(self):
        for shape in ((7, 3, 8, 8), (4, 1, 5, 3), (3, 4, 1, 1), (5, 3, 33, 2), (3, 3, 0, 4)):
            for layout in (contiguous, channels_last, transposed, gaps, shifted, lambda t: t[::2]):
                x = layout(torch.randint(0, 256, shape, generator=self.g, dtype=torch.uint8))
                table = self.table(shape[1])
                i = torch.randint(0, len(x), (11,), generator=self.g)
                want = torch.stack([table[c][x[i][:, c].long()] for c in range(shape[1])], 1)
                self.same(l2ul.gather_lut(x, i, table), want, f"{shape} {layout.__name__}")
                self.same(l2ul.gather_lut(x, torch.stack([i, i], 1)[:, 0], table.t().contiguous().t()), want)
                self.assertEqual(l2ul.gather_lut(x, i[:0], table).shape, (0, *shape[1:]))

    def test_crops(self):
        for shape, padding in (((7, 3, 8, 8), 4), ((4, 1, 5, 3), 1), ((3, 4, 1, 1), 2), ((5, 3, 33, 2), 0), ((2, 6, 3, 2), 7)):
            for layout in (contiguous, channels_last, transposed, gaps):
                x = layout(torch.randint(0, 256, shape, generator=self.g, dtype=torch.uint8))
                table, k = self.table(shape[1]), 40
                i = torch.randint(0, len(x), (k,), generator=self.g)
                crops = torch.cat([torch.randint(0, 2 * padding + 1, (k, 2), generator=self.g), torch.randint(0, 2, (k, 1), generator=self.g)], 1)
                padded = F.pad(x[i], [padding] * 4)
                cut = torch.stack([p[:, t : t + shape[2], l : l + shape[3]].flip(2) if f else p[:, t : t + shape[2], l : l + shape[3]] for p, (t, l, f) in zip(padded, crops.tolist())])
                want = l2ul.gather_lut(cut, torch.arange(k), table)
                self.same(l2ul.gather_lut(x, i, table, crops, padding), want, f"{shape} {layout.__name__}")

    def test_scaling(self):
        x = torch.randint(0, 256, (300, 3, 32, 32), generator=self.g, dtype=torch.uint8)
        table = (torch.arange(256).float() / 255).expand(3, 256)
        i = torch.randperm(300, generator=self.g)
        self.same(l2ul.gather_lut(x, i, table), x[i].float() / 255)

    def test_keeps_memory_format(self):
        x = torch.zeros(4, 3, 6, 6, dtype=torch.uint8)
        i = torch.tensor([0, 3])
        self.assertTrue(l2ul.gather_lut(x, i, self.table(3)).is_contiguous())
        out = l2ul.gather_lut(channels_last(x), i, self.table(3))
        self.assertTrue(out.is_contiguous(memory_format=torch.channels_last))

    def test_refused(self):
        x, i, t = torch.zeros(4, 3, 6, 6, dtype=torch.uint8), torch.tensor([0, 1]), self.table(3)
        self.refused(r"index\[1\] is 4; there are 4 images", l2ul.gather_lut, x, torch.tensor([0, 4]), t)
        self.refused(r"index\[0\] is -1", l2ul.gather_lut, x, torch.tensor([-1]), t)
        self.refused("pixels has dtype Float; it must be Byte", l2ul.gather_lut, x.float(), i, t)
        self.refused("index has dtype Int", l2ul.gather_lut, x, i.int(), t)
        self.refused("table has dtype Double", l2ul.gather_lut, x, i, t.double())
        self.refused(r"pixels has shape \[3, 6, 6\]", l2ul.gather_lut, x[0], i, t)
        self.refused(r"index has shape \[1, 2\]", l2ul.gather_lut, x, i[None], t)
        self.refused(r"table has shape \[1, 256\]; pixels of 3 channels need \[3, 256\]", l2ul.gather_lut, x, i, t[:1])
        self.refused("table has shape", l2ul.gather_lut, x, i, t[:, :255])
        self.refused("padding is 4 without crops", l2ul.gather_lut, x, i, t, None, 4)
        self.refused(r"crops\[0\] is \[3, 0, 0\]; with padding 1 top and left must be in \[0, 2\]", l2ul.gather_lut, x, i[:1], t, torch.tensor([[3, 0, 0]]), 1)


class Attack(Case):
    def batch(self, shape):
        x, u, d, g = self.rand(*shape), self.rand(*shape), self.randn(*shape) * 0.1, self.randn(*shape)
        if x.numel():
            x[0].flatten()[0], g[-1] = 0.0, 0.0  # a pixel on the edge, an image without a gradient
            g[0] *= 1e-9  # one whose gradient is shorter than the floor
        return x, u, d, g

    def test_bits(self):
        for shape in SHAPES:
            for layout in LAYOUTS:
                for other in (contiguous, layout):
                    for alpha, eps in ((0.1, 1.5), (0.1, 0.0), (0.0, 0.3), (2.0, 0.03), (1e-3, 100.0)):
                        x, u, d, g = self.batch(shape)
                        msg = f"{shape} {layout.__name__} {other.__name__} {alpha} {eps}"
                        for name, start, step, op in (("l2", start_l2, step_l2, l2ul.pgd_l2_step_), ("linf", start_linf, step_linf, l2ul.pgd_linf_step_)):
                            self.same(l2ul.pgd_start(layout(x), other(u), eps, name), start(x, u, eps), f"{name} {msg}")
                            delta, following = layout(d.clone()), other(torch.empty_like(d))
                            result = op(delta, following, other(g), layout(x), alpha, eps)
                            self.assertIs(result[0], delta)
                            self.assertIs(result[1], following)
                            self.same(following, x + delta)
                            self.same(delta, step(d, g, x, alpha, eps), f"{name} {msg}")

    def test_trajectory(self):
        """The attack of the specification on a small network, driven by autograd."""
        torch.set_num_threads(1)
        net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()
        with torch.no_grad():
            for p in net.parameters():
                p.copy_(self.rand(*p.shape) * 0.6 - 0.3)
        x, u, target = self.rand(24, 3, 8, 8), self.rand(24, 3, 8, 8), torch.randint(0, 5, (24,), generator=self.g)

        def gradient(d):
            d = d.detach().requires_grad_(True)
            return torch.autograd.grad(-F.cross_entropy(net(x + d), target, reduction="sum"), d)[0]

        for name, start, step, op in (("l2", start_l2, step_l2, l2ul.pgd_l2_step_), ("linf", start_linf, step_linf, l2ul.pgd_linf_step_)):
            eps, alpha = (1.5, 0.1) if name == "l2" else (8 / 255, 2 / 255)
            want, got = start(x, u, eps), l2ul.pgd_start(x, u, eps, name)
            for i in range(100):
                self.same(got, want, f"{name} {i}")
                want, got = step(want, gradient(want), x, alpha, eps), took(op, got, gradient(got), x, alpha, eps)

    def test_edges(self):
        x, d = torch.zeros(2, 3, 2, 2), torch.full((2, 3, 2, 2), 1e-40)  # a norm whose reciprocal is infinite
        self.assertEqual(float(took(l2ul.pgd_l2_step_, d, torch.zeros_like(d), x, 0.0, 0.0).abs().max()), 0.0)
        for bad in (NAN, INF):  # a bad gradient must show, in its own image only
            g = torch.ones(2, 3, 2, 2)
            g[1, 1, 0, 1] = bad
            for op in (l2ul.pgd_l2_step_, l2ul.pgd_linf_step_):
                out = took(op, torch.zeros_like(x), g, x + 0.5, 0.1, 1.0)
                self.assertTrue(out[0].isfinite().all() and out[1].isnan().any())

    def test_threads_and_batching(self):
        x, u, d, g = self.batch((37, 3, 20, 20))
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(took(l2ul.pgd_l2_step_, d, g, x, 0.1, 1.5))
        torch.set_num_threads(1)
        results.append(torch.cat([took(l2ul.pgd_l2_step_, *(t[i : i + 1] for t in (d, g, x)), 0.1, 1.5) for i in range(37)]))
        for r in results[1:]:
            self.same(r, results[0])

    def test_refused(self):
        x, u, d, g = self.batch((2, 3, 4, 4))
        for op in (l2ul.pgd_l2_step_, l2ul.pgd_linf_step_):
            self.refused(r"grad has shape \[2, 48\], delta \[2, 3, 4, 4\]", op, d, u, g.view(2, 48), x, 0.1, 1.0)
            self.refused("x has dtype Double; it must be Float", op, d, u, g, x.double(), 0.1, 1.0)
            self.refused("delta has dtype Half", op, d.half(), u, g, x, 0.1, 1.0)
            self.refused(r"delta has shape \[4\]", op, d[0, 0, 0], u[0, 0, 0], g[0, 0, 0], x[0, 0, 0], 0.1, 1.0)
            self.refused("alpha is nan", op, d, u, g, x, NAN, 1.0)
            self.refused("alpha is -1", op, d, u, g, x, -1.0, 1.0)
            self.refused("eps is inf", op, d, u, g, x, 0.1, INF)
            self.refused("eps is 1e[+]300", op, d, u, g, x, 0.1, 1e300)
            self.refused("several elements in one place", op, d[:1].expand(2, 3, 4, 4), u, g, x, 0.1, 1.0)
            memory = torch.zeros(200)
            self.refused("grad shares memory with delta", op, memory[:96].view(2, 3, 4, 4), u, memory[1:97].view(2, 3, 4, 4), x, 0.1, 1.0)
        self.refused('norm is "l1"', l2ul.pgd_start, x, u, 1.0, "l1")
        self.refused("eps is -1", l2ul.pgd_start, x, u, -1.0, "l2")
        self.refused("start has shape", l2ul.pgd_start, x, u[:1], 1.0, "l2")


class Importance(Case):
    shapes = ((64, 3, 7, 7), (10,), (5, 4, 3, 3), (1,), (0,), (200, 301))

    def test_accumulate(self):
        for layout in LAYOUTS:
            for weight, count in ((1.0, 6), (0.37, 16), (32.0, 1.0), (0.0, 3)):
                omega, grads = [self.rand(*s) for s in self.shapes], [self.randn(*s) for s in self.shapes]
                for op, f in ((l2ul.accumulate_abs_, lambda g: weight * g.abs() / count), (l2ul.accumulate_square_, lambda g: weight * g.pow(2) / count)):
                    got = [layout(o.clone()) for o in omega]
                    op(got, [channels_last(g) for g in grads], weight, count)
                    for o, g, r in zip(omega, grads, got):
                        self.same(r, o + f(g), f"{layout.__name__} {weight} {count}")

    def test_accumulate_refused(self):
        o, g = [torch.zeros(3), torch.zeros(4)], [torch.zeros(3), torch.zeros(4)]
        for op in (l2ul.accumulate_abs_, l2ul.accumulate_square_):
            self.refused("grads has 1 tensors, omega 2", op, o, g[:1], 1.0, 1.0)
            self.refused(r"grads\[1\] has shape \[3\], its omega \[4\]", op, o, [g[0], g[0]], 1.0, 1.0)
            self.refused(r"omega\[1\] has dtype Double", op, [o[0], o[1].double()], g, 1.0, 1.0)
            self.refused("count is 0", op, o, g, 1.0, 0.0)
            self.refused("weight is nan", op, o, g, NAN, 1.0)

    def test_anchor_weights(self):
        for shape in ((64, 3, 7, 7), (10,), (5, 4, 3, 3), (300, 301), (17,)):
            for layout in LAYOUTS:
                o = self.randn(*shape).abs()
                self.same(l2ul.anchor_weights(layout(o)), anchor(o), f"{shape} {layout.__name__}")
        for constant in (torch.full((3, 4), 0.7), torch.tensor([2.0]), torch.tensor(5.0), torch.empty(0, 3)):
            self.same(l2ul.anchor_weights(constant), torch.ones_like(constant))
        for at in (0, 5, 16, 39999):
            o = self.rand(40000)
            o[at] = NAN
            self.assertTrue(l2ul.anchor_weights(o).isnan().all())
        self.refused("omega has dtype Double", l2ul.anchor_weights, torch.zeros(3).double())


class Update(Case):
    shapes = ((64, 3, 7, 7), (10,), (5, 4, 3, 3), (1,), (0,), (200, 301), ())

    def lists(self, n=5):
        return [[self.randn(*s) for s in self.shapes] for _ in range(n)]

    def test_bits(self):
        for layout in LAYOUTS:
            if layout in (transposed, gaps):
                shapes = [s for s in self.shapes if s]
            else:
                shapes = self.shapes
            for lam, anchored in ((1.0, True), (0.3, True), (0.0, True), (1.0, False)):
                for lr, mu, wd in ((1e-3, 0.9, 1e-4), (0.1, 0.0, 0.0), (0.05, 0.99, 5e-4)):
                    p, g, v, a, ref = ([self.randn(*s) for s in shapes] for _ in range(5))
                    got = [layout(t.clone()) for t in p], [contiguous(t.clone()) for t in v]
                    want = [t.clone() for t in p], [t.clone() for t in v]
                    for first in (True, False):
                        finite = l2ul.anchored_sgd_(got[0], [channels_last(t) for t in g], got[1], a if anchored else [], ref if anchored else [], lr, mu, wd, lam, first)
                        self.assertEqual((finite.dtype, finite.dim(), bool(finite)), (torch.bool, 0, True))
                        for i in range(len(p)):
                            want[0][i], want[1][i] = sgd(want[0][i], g[i], want[1][i], a[i] if anchored else None, ref[i], lr, mu, wd, lam, first)
                            msg = f"{layout.__name__} {lam} {anchored} {lr} {first} {i}"
                            self.same(got[0][i], want[0][i], msg)
                            self.same(got[1][i], want[1][i], msg)

    def test_first_ignores_momenta(self):
        p, g, v, a, ref = self.lists()
        q = [t.clone() for t in p]
        l2ul.anchored_sgd_(p, g, [torch.full_like(t, NAN) for t in v], a, ref, 0.1, 0.9, 0.0, 1.0, True)
        l2ul.anchored_sgd_(q, g, v, a, ref, 0.1, 0.9, 0.0, 1.0, True)
        for x, y in zip(p, q):
            self.same(x, y)

    def test_finite(self):
        for bad in (NAN, INF, -INF):
            for at in range(0, 60200, 7001):
                p, g, v, a, ref = self.lists()
                g[5].view(-1)[at] = bad
                self.assertFalse(l2ul.anchored_sgd_(p, g, v, a, ref, 0.1, 0.9, 0.0, 1.0, False))
        p = [torch.tensor([3e38])]
        self.assertTrue(l2ul.anchored_sgd_(p, [torch.zeros(1)], [torch.zeros(1)], [], [], 0.1, 0.9, 0.0, 0.0, True))
        self.assertFalse(l2ul.anchored_sgd_(p, [torch.tensor([-3e38])], [torch.zeros(1)], [], [], 1.0, 0.9, 0.0, 0.0, True))

    def test_threads(self):
        lists, results = self.lists(), []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            p, v = [t.clone() for t in lists[0]], [t.clone() for t in lists[2]]
            l2ul.anchored_sgd_(p, lists[1], v, lists[3], lists[4], 0.1, 0.9, 1e-4, 1.0, False)
            results.append((p + v, l2ul.anchor_penalty(p, lists[4], lists[3])))
        torch.set_num_threads(1)
        for r, penalty in results[1:]:
            self.same(penalty, results[0][1])
            for x, y in zip(r, results[0][0]):
                self.same(x, y)

    def test_penalty(self):
        for layout in (contiguous, channels_last):
            p, ref, a = self.lists(3)
            squares = [(x.double() - y.double()).pow(2) for x, y in zip(p, ref)]
            plain = sum(s.sum() for s in squares)
            weighted = sum((w.double() * s).sum() for w, s in zip(a, squares))
            p = [layout(t) for t in p]
            torch.testing.assert_close(l2ul.anchor_penalty(p, ref, a), torch.stack([0.5 * weighted, plain]), rtol=1e-13, atol=1e-9)
            torch.testing.assert_close(l2ul.anchor_penalty(p, ref, []), torch.stack([0.5 * plain, plain]), rtol=1e-13, atol=0)

    def test_refused(self):
        p, g, v, a, ref = self.lists()
        step = l2ul.anchored_sgd_
        self.refused("grads has 6 tensors, params 7", step, p, g[:-1], v, a, ref, 0.1, 0.9, 0.0, 1.0, True)
        self.refused("momenta has 0 tensors", step, p, g, [], a, ref, 0.1, 0.9, 0.0, 1.0, True)
        self.refused("anchors has 1 tensors", step, p, g, v, a[:1], ref, 0.1, 0.9, 0.0, 1.0, True)
        self.refused("reference has 0 tensors", step, p, g, v, a, [], 0.1, 0.9, 0.0, 1.0, True)
        self.refused(r"params\[0\] has dtype Double", step, [t.double() for t in p], g, v, a, ref, 0.1, 0.9, 0.0, 1.0, True)
        self.refused(r"grads\[1\] has dtype BFloat16", step, p, [g[0], g[1].bfloat16(), *g[2:]], v, a, ref, 0.1, 0.9, 0.0, 1.0, True)
        self.refused(r"anchors\[1\] has shape \[9\], its parameter \[10\]", step, p, g, v, [a[0], a[1][:9], *a[2:]], ref, 0.1, 0.9, 0.0, 1.0, True)
        self.refused(r"momenta\[0\] shares memory with its parameter", step, p, g, p, a, ref, 0.1, 0.9, 0.0, 1.0, True)
        self.refused(r"reference\[0\] shares memory", step, p, g, v, a, p, 0.1, 0.9, 0.0, 1.0, True)
        for k, name in enumerate(("lr", "momentum", "weight_decay", "lam")):
            for bad in (NAN, INF, -0.1):
                numbers = [0.1, 0.9, 0.0, 1.0]
                numbers[k] = bad
                self.refused(f"l2ul::anchored_sgd_: {name} is ", step, p, g, v, a, ref, *numbers, True)
        self.refused("reference has 6 tensors", l2ul.anchor_penalty, p, ref[:-1], a)


class Plan(Case):
    """What plans need beside convolutions; bfloat16 values are computed in float32 and rounded once."""

    dtypes = (torch.float32, torch.bfloat16)

    def maps(self, n, *shape, dtype):
        return [channels_last(self.randn(*shape)).to(dtype) for _ in range(n)]

    def test_finish(self):
        for shape in ((2, 16, 5, 3), (3, 5, 7, 2), (2, 3, 40, 41), (1, 1, 1, 1), (7, 10), (0, 8, 3, 3), (2, 0, 3, 3)):
            for dtype in self.dtypes:
                total, add, gate = self.maps(3, *shape, dtype=dtype)
                bias = self.randn(shape[1])
                for layout in LAYOUTS:
                    for b in (None, bias):
                        for a in (None, add):
                            for relu, g in ((False, None), (True, None), (False, gate)):
                                want = total.float()
                                if b is not None:
                                    want = want + b.view(1, -1, *[1] * (len(shape) - 2))
                                if a is not None:
                                    want = want + a.float()
                                want = want.relu() if relu else want if g is None else torch.ops.aten.threshold_backward(want, g.float(), 0)
                                out = torch.empty_like(total)
                                move = lambda t: t if t is None else layout(t)  # noqa: E731
                                self.assertIs(l2ul.finish_(out, layout(total), b, move(a), move(g), relu), out)
                                self.same(out, want.to(dtype), f"{shape} {dtype} {layout.__name__}")

    def test_pool(self):
        for size, kernel, stride, padding in (((9, 8), 3, 2, 1), ((6, 6), 2, 2, 0), ((5, 7), 3, 1, 1)):
            for dtype in self.dtypes:
                for channels in (11, 16):
                    (x,) = self.maps(1, 3, channels, *size, dtype=dtype)
                    want, index = F.max_pool2d(x, kernel, stride, padding, return_indices=True)
                    out, code = torch.empty_like(want), torch.empty_like(want, dtype=torch.uint8)
                    geometry = [kernel] * 2, [stride] * 2, [padding] * 2
                    l2ul.max_pool_(out, code, x, *geometry)
                    self.same(out, want)
                    grad, gate = self.maps(1, *want.shape, dtype=dtype)[0], self.maps(1, *x.shape, dtype=dtype)[0]
                    back = torch.zeros(3, channels, size[0] * size[1]).scatter_add(2, index.flatten(2), grad.float().flatten(2)).view(x.shape)
                    got = l2ul.max_pool_gradient_(torch.empty_like(x), grad, code, *geometry, gate)
                    # The windows of a place are added in another order.
                    torch.testing.assert_close(got.float(), torch.where(gate > 0, back, 0).to(dtype).float(), rtol=1e-2 if dtype == torch.bfloat16 else 1e-6, atol=1e-6)

    def test_refused(self):
        (x,) = self.maps(1, 2, 16, 6, 6, dtype=torch.float32)
        self.refused("sum has dtype BFloat16; it must be Float", l2ul.finish_, x, x.bfloat16(), None, None, None, False)
        self.refused(r"add has shape \[16\]", l2ul.finish_, x, x.clone(), None, torch.zeros(16), None, False)
        self.refused("out has dtype Half", l2ul.finish_, x.half(), x.half(), None, None, None, False)
        self.refused("channels-last", l2ul.finish_, x.contiguous(), x, None, None, None, False)


class Autograd(Case):
    def test_no_derivative(self):
        x = self.rand(2, 3, 4, 4).requires_grad_(True)
        u, o = self.rand(2, 3, 4, 4), self.rand(5).requires_grad_(True)
        table = self.randn(3, 256).requires_grad_(True)
        for out in (
            l2ul.pgd_start(x, u, 1.0, "l2"),
            *l2ul.pgd_l2_step_(x * 1, u.clone(), u, u, 0.1, 1.0),
            *l2ul.pgd_linf_step_(u.clone(), u.clone(), x, u, 0.1, 1.0),
            l2ul.anchor_weights(o),
            l2ul.anchor_penalty([o], [torch.zeros(5)], []),
            l2ul.gather_lut(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), torch.tensor([0]), table),
        ):
            self.assertTrue(out.requires_grad)
            self.refused("not implemented", out.sum().backward)

    def test_leaf_in_place(self):
        x, u = self.rand(2, 3, 4, 4).requires_grad_(True), self.rand(2, 3, 4, 4)
        self.refused("leaf Variable that requires grad", l2ul.pgd_l2_step_, x, u.clone(), u, u, 0.1, 1.0)

    def test_conv2d_has_one_derivative(self):
        x, w = self.randn(1, 16, 4, 4).contiguous(memory_format=torch.channels_last), self.randn(16, 16, 3, 3)
        x, w = x.requires_grad_(True), w.requires_grad_(True)
        out = l2ul.conv2d(x, w, 0, [1, 1], [1, 1]).square().sum()
        self.refused("no second derivative", lambda: torch.autograd.grad(out, (x, w), create_graph=True))

    def test_lists_refuse_gradients(self):
        w, z = self.rand(5).requires_grad_(True), torch.zeros(5)
        for p in (w, w * 1):
            self.refused("no derivative", l2ul.anchored_sgd_, [p], [z], [z.clone()], [], [], 0.1, 0.9, 0.0, 0.0, True)
            self.refused("no derivative", l2ul.accumulate_abs_, [z], [p], 1.0, 1.0)
            self.refused("no derivative", l2ul.accumulate_square_, [z], [p], 1.0, 1.0)
        with torch.no_grad():
            before = w._version
            l2ul.anchored_sgd_([w], [z], [z.clone()], [], [], 0.1, 0.9, 0.0, 0.0, True)
            self.assertEqual(w._version, before + 1)

    def test_saved_tensor_changed(self):
        """A tensor that backward needs is changed in between: backward must raise."""
        u = self.rand(2, 3, 4, 4)
        z = torch.zeros(2, 3, 4, 4)
        for change in (
            lambda d: l2ul.pgd_l2_step_(d, z.clone(), u, u, 0.1, 1.0),
            lambda d: l2ul.pgd_l2_step_(z.clone(), d, u, u, 0.1, 1.0),
            lambda d: l2ul.pgd_linf_step_(d, z.clone(), u, u, 0.1, 1.0),
            lambda d: l2ul.accumulate_abs_([d], [u], 1.0, 1.0),
            lambda d: l2ul.accumulate_square_([z.clone(), d], [u, u], 1.0, 1.0),
            lambda d: l2ul.anchored_sgd_([d], [u], [z.clone()], [], [], 0.1, 0.9, 0.0, 0.0, True),
            lambda d: l2ul.anchored_sgd_([z.clone()], [u], [d], [], [], 0.1, 0.9, 0.0, 0.0, True),
        ):
            w, d = self.rand(2, 3, 4, 4).requires_grad_(True), self.rand(2, 3, 4, 4)
            out = (w * d).sum()
            change(d)
            self.refused("modified by an inplace operation", out.backward)

    def test_read_arguments_keep_their_version(self):
        p, g, v, a, r = (self.rand(5) for _ in range(5))
        l2ul.anchored_sgd_([p], [g], [v], [a], [r], 0.1, 0.9, 0.0, 1.0, True)
        self.assertEqual([t._version for t in (p, g, v, a, r)], [1, 0, 1, 0, 0])

    def test_inference_mode(self):
        with torch.inference_mode():
            o = torch.zeros(5)
            l2ul.accumulate_abs_([o], [torch.ones(5)], 1.0, 1.0)
            self.same(o, torch.ones(5))


class CUDA(Case):
    """Loading the CUDA half checks that this libtorch has all it needs; the rest wants a GPU."""

    def on_both(self, op, *args):
        moved = [[t.cuda() if isinstance(t, torch.Tensor) else t for t in a] if isinstance(a, list) else a.cuda() if isinstance(a, torch.Tensor) else a for a in args]
        here, there = op(*args), op(*moved)
        for a, b in zip((here, *args), (there, *moved)):
            for x, y in zip(a if isinstance(a, (list, tuple)) else [a], b if isinstance(b, (list, tuple)) else [b]):
                if isinstance(x, torch.Tensor):
                    self.same(y.cpu(), x, str(op))

    @unittest.skipUnless(torch.cuda.is_available(), "no GPU")
    def test_same_bits_as_on_the_cpu(self):
        for n in (16, 64, 224):
            x, u, g = self.rand(5, 3, n, n), self.rand(5, 3, n, n), self.randn(5, 3, n, n)
            for norm in ("l2", "linf"):
                self.on_both(l2ul.pgd_start, x, u, 1.0, norm)
            self.on_both(l2ul.pgd_l2_step_, u - x, torch.zeros_like(x), g, x, 0.1, 1.5)
            self.on_both(l2ul.pgd_linf_step_, u - x, torch.zeros_like(x), g, x, 0.01, 0.03)
            pixels = torch.randint(0, 256, (7, 3, n, n), generator=self.g, dtype=torch.uint8)
            self.on_both(l2ul.gather_lut, pixels, torch.tensor([6, 0, 3]), self.randn(3, 256))
            self.on_both(l2ul.gather_lut, channels_last(pixels), torch.tensor([6, 0, 3]), self.randn(3, 256))
            crops = torch.tensor([[0, 8, 1], [3, 4, 0], [8, 1, 1]])
            self.on_both(l2ul.gather_lut, pixels, torch.tensor([6, 0, 3]), self.randn(3, 256), crops, 4)
            self.on_both(l2ul.gather_lut, channels_last(pixels), torch.tensor([6, 0, 3]), self.randn(3, 256), crops, 4)
            self.on_both(l2ul.anchor_weights, g.abs())
        p, g, v, a, r = ([self.randn(*s) for s in ((64, 3, 7, 7), (10,), (0,), (200, 301))] for _ in range(5))
        self.on_both(l2ul.accumulate_abs_, p, g, 0.37, 16.0)
        self.on_both(l2ul.accumulate_square_, p, g, 0.37, 16.0)
        self.on_both(l2ul.anchored_sgd_, p, g, v, a, r, 0.1, 0.9, 1e-4, 0.3, False)
        for dtype in Plan.dtypes:
            for shape in ((4, 24, 9, 13), (3, 5, 7, 2)):
                total, add, gate = (channels_last(self.randn(*shape)).to(dtype) for _ in range(3))
                self.on_both(l2ul.finish_, total.clone(), total, self.randn(shape[1]), add, None, True)
                self.on_both(l2ul.finish_, total.clone(), total, None, add, gate, False)
                code = torch.empty_like(total, dtype=torch.uint8)
                geometry = [3, 3], [1, 1], [1, 1]
                self.on_both(l2ul.max_pool_, add.clone(), code, total, *geometry)
                self.on_both(l2ul.max_pool_gradient_, add.clone(), total, l2ul.max_pool_(add.clone(), code, total, *geometry)[1], *geometry, gate)
        here, there = (l2ul.anchor_penalty(*([t.to(d) for t in ts] for ts in (p, r, a))) for d in ("cpu", "cuda"))
        torch.testing.assert_close(there.cpu(), here, rtol=1e-13, atol=0)


if __name__ == "__main__":
    while len(sys.argv) > 1 and sys.argv[1].endswith(".so"):
        torch.ops.load_library(sys.argv.pop(1))
    unittest.main()
